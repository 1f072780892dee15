//! `podling delete`: gracefully by default, and not done before it is gone.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, ensure};
use hyper::Method;
use serde_json::{Value, json};

use crate::board::Kind;

use super::args::{DeleteArgs, Select};
use super::client::{Ask, Client, ClientError, Lines, PathBuilder};
use super::get::{explain_selector, listing, nothing_found};
use super::manifests::Depth;
use super::{Out, complain, duration, kinds, manifests, show_error};

/// One object to delete.
#[derive(Clone, Debug)]
struct Doomed {
    kind: Kind,
    namespace: String,
    name: String,
}

impl Doomed {
    fn path(&self) -> PathBuilder {
        let mut segments = kinds::collection(self.kind, Some(&self.namespace));
        segments.push(&self.name);
        PathBuilder::of(self.kind, &segments)
    }
}

pub(super) async fn run(
    client: &Client,
    args: &DeleteArgs,
    out: &mut Out,
) -> anyhow::Result<ExitCode> {
    let grace = grace(args)?;
    let timeout = args.timeout.as_deref().map(duration::parse).transpose()?;
    let doomed = doomed(client, args).await?;
    let force = args.force;
    if force && grace == Some(0) {
        complain(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. \
             The resource may continue to run on the cluster indefinitely.",
        );
    }
    let mut code = ExitCode::SUCCESS;
    let mut ending = Vec::new();
    for one in doomed {
        match delete(client, &one, grace).await {
            Ok(answer) => {
                let how = if force { "force deleted" } else { "deleted" };
                out.line(&format!("{} \"{}\" {how}", kinds::shown(one.kind), one.name))?;
                out.flush()?;
                ending.push((one, uid_of(&answer)));
            }
            Err(error) if error.is_not_found() && args.ignore_not_found => {}
            Err(error @ ClientError::Refused { .. }) => {
                show_error(&error.into());
                code = ExitCode::FAILURE;
            }
            Err(error) => return Err(error.into()),
        }
    }
    if args.wait && !force {
        let waited = wait_all(client, &ending);
        match timeout {
            None => waited.await?,
            Some(limit) => match tokio::time::timeout(limit, waited).await {
                Ok(waited) => waited?,
                Err(_) => bail!("timed out waiting for the condition"),
            },
        }
    }
    Ok(code)
}

/// Seconds of grace. As in kubectl, zero needs `--force`: without it one second is meant, and the end is waited for.
fn grace(args: &DeleteArgs) -> anyhow::Result<Option<i64>> {
    let asked = args.grace_period.filter(|seconds| *seconds >= 0);
    ensure!(
        !(args.force && asked.is_some_and(|seconds| seconds > 0)),
        "--force and --grace-period greater than 0 cannot be specified together"
    );
    Ok(match asked {
        _ if args.now => Some(1),
        None if args.force => Some(0),
        Some(0) if !args.force => Some(1),
        asked => asked,
    })
}

async fn doomed(client: &Client, args: &DeleteArgs) -> anyhow::Result<Vec<Doomed>> {
    let Some(word) = &args.kind else {
        let wanted = manifests::read(&args.files, args.target.namespace.as_deref(), Depth::Names)?;
        let doomed =
            |w: manifests::Wanted| Doomed { kind: w.kind, namespace: w.namespace, name: w.name };
        return Ok(wanted.into_iter().map(doomed).collect());
    };
    let (kind, names) = kinds::kind_and_names(word, &args.names)?;
    let namespace = args.target.namespace().to_owned();
    let selecting = args.all || args.selector.is_some();
    ensure!(!selecting || names.is_empty(), "name cannot be provided when a selector is specified");
    if !selecting {
        ensure!(!names.is_empty(), "resource(s) were provided, but no name was specified");
        let doomed = |name| Doomed { kind, namespace: namespace.clone(), name };
        return Ok(names.into_iter().map(doomed).collect());
    }
    let select = Select { selector: args.selector.clone(), ..Select::default() };
    let found = client.get::<Value>(listing(kind, &namespace, &select).as_str()).await;
    let found = found.map_err(|error| explain_selector(error, kind, &select))?;
    let doomed: Vec<Doomed> = found["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|item| item["metadata"]["name"].as_str())
        .map(|name| Doomed { kind, namespace: namespace.clone(), name: name.to_owned() })
        .collect();
    if doomed.is_empty() {
        complain(&nothing_found(kind, &namespace, &select));
    }
    Ok(doomed)
}

async fn delete(client: &Client, one: &Doomed, grace: Option<i64>) -> Result<Value, ClientError> {
    let mut options = json!({
        "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background",
    });
    if let Some(seconds) = grace {
        options["gracePeriodSeconds"] = json!(seconds);
    }
    let body = options.to_string().into();
    let send = Ask { content_type: Some("application/json"), body, ..Ask::default() };
    client.json(Method::DELETE, one.path().as_str(), send).await
}

/// The UID of what was deleted, from the object or from the `Status` that stands for it.
fn uid_of(answer: &Value) -> Option<String> {
    let uid = answer["metadata"]["uid"].as_str().or(answer["details"]["uid"].as_str());
    uid.map(str::to_owned)
}

async fn wait_all(client: &Client, ending: &[(Doomed, Option<String>)]) -> anyhow::Result<()> {
    for (one, uid) in ending {
        wait(client, one, uid.as_deref()).await?;
    }
    Ok(())
}

/// Returns when the object is gone, or another stands in its place.
async fn wait(client: &Client, one: &Doomed, uid: Option<&str>) -> anyhow::Result<()> {
    loop {
        let version = match client.get::<Value>(one.path().as_str()).await {
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error.into()),
            Ok(object) if uid_of(&object).as_deref() != uid => return Ok(()),
            Ok(object) => object["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned(),
        };
        let path = PathBuilder::of(one.kind, &kinds::collection(one.kind, Some(&one.namespace)))
            .with("watch", "true")
            .with("resourceVersion", &version)
            .with("fieldSelector", &format!("metadata.name={}", one.name));
        let mut lines = match client.open(Method::GET, path.as_str(), Ask::default()).await {
            Ok(answer) => Lines::new(answer),
            // The version has fallen out of the history already: look again.
            Err(ClientError::Refused { status }) if status.code == Some(410) => {
                tokio::time::timeout(Duration::from_millis(100), std::future::pending::<()>())
                    .await
                    .ok();
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        while let Some(line) = lines.next().await? {
            let event: Value = serde_json::from_slice(&line)?;
            if event["type"] == "DELETED" || event["type"] == "ERROR" {
                break;
            }
        }
    }
}
