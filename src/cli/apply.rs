//! `podling apply`: what files say becomes what the node has.
//!
//! As `kubectl apply` on the client's side: each object remembers in an annotation what was applied last, so that what a file no longer says is
//! removed, and what others have added stays. Applying the same file again changes nothing.

use std::process::ExitCode;

use hyper::Method;
use serde_json::{Value, json};

use crate::server::patch::three_way;

use super::args::{ApplyArgs, DryRun};
use super::client::{Ask, Client, ClientError, PathBuilder};
use super::manifests::{self, Depth, Wanted};
use super::{Out, kinds, show_error};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const MANAGER: &str = "podling-client-side-apply";

pub(super) async fn run(
    client: &Client,
    args: &ApplyArgs,
    out: &mut Out,
) -> anyhow::Result<ExitCode> {
    let all = manifests::read(&args.files, args.target.namespace.as_deref(), Depth::Whole)?;
    let mut code = ExitCode::SUCCESS;
    for wanted in all {
        match apply(client, &wanted, args.dry_run).await {
            Ok(done) => {
                let how = if args.dry_run == DryRun::Server { " (server dry run)" } else { "" };
                out.line(&format!("{}/{} {done}{how}", kinds::shown(wanted.kind), wanted.name))?;
                out.flush()?;
            }
            Err(error @ ClientError::Refused { .. }) => {
                show_error(&error.into());
                code = ExitCode::FAILURE;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(code)
}

async fn apply(
    client: &Client,
    wanted: &Wanted,
    dry_run: DryRun,
) -> Result<&'static str, ClientError> {
    let collection = kinds::collection(wanted.kind, Some(&wanted.namespace));
    let mut segments = collection.clone();
    segments.push(&wanted.name);
    let path = |segments: &[&str]| {
        let path = PathBuilder::of(wanted.kind, segments)
            .with("fieldManager", MANAGER)
            .with("fieldValidation", "Strict");
        path.with_some("dryRun", (dry_run == DryRun::Server).then_some("All"))
    };
    let desired = annotated(&wanted.json);
    let current = match client.get::<Value>(PathBuilder::of(wanted.kind, &segments).as_str()).await
    {
        Ok(current) => current,
        Err(error) if error.is_not_found() => {
            let send = body("application/json", &desired);
            client.json::<Value>(Method::POST, path(&collection).as_str(), send).await?;
            return Ok("created");
        }
        Err(error) => return Err(error),
    };
    let last = current["metadata"]["annotations"][LAST_APPLIED].as_str();
    let last: Option<Value> = last.and_then(|text| serde_json::from_str(text).ok());
    let patch = three_way(last.as_ref(), &desired);
    let send = body("application/strategic-merge-patch+json", &patch);
    let after: Value = client.json(Method::PATCH, path(&segments).as_str(), send).await?;
    let unchanged = if dry_run == DryRun::Server {
        without_version(&after) == without_version(&current)
    } else {
        after["metadata"]["resourceVersion"] == current["metadata"]["resourceVersion"]
    };
    Ok(if unchanged { "unchanged" } else { "configured" })
}

fn body<'a>(kind: &'a str, json: &Value) -> Ask<'a> {
    Ask { content_type: Some(kind), body: json.to_string().into(), ..Ask::default() }
}

fn without_version(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("resourceVersion");
        meta.remove("generation");
    }
    object
}

/// The object with itself in its annotation, as compact JSON with a line feed, like kubectl's.
fn annotated(object: &Value) -> Value {
    let mut bare = object.clone();
    if !bare["metadata"]["annotations"].is_object() {
        bare["metadata"]["annotations"] = json!({});
    }
    if let Some(annotations) = bare["metadata"]["annotations"].as_object_mut() {
        annotations.remove(LAST_APPLIED);
    }
    let text = format!("{bare}\n");
    bare["metadata"]["annotations"][LAST_APPLIED] = Value::String(text);
    bare
}
