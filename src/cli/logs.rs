//! `podling logs`: what modules have written.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use hyper::Method;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;

use super::args::LogsArgs;
use super::client::{Ask, Client, ClientError, Lines, PathBuilder};
use super::{Out, complain, duration, show_error};

/// The container that `logs` means when none is named (kubectl reads the same annotation).
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Lines of several containers waiting to be printed: a reader that is slow makes the connections wait.
const LINES_WAITING_MAX: usize = 64;

pub(super) async fn run(
    client: &Client,
    args: &LogsArgs,
    out: &mut Out,
) -> anyhow::Result<ExitCode> {
    let pod_name = match args.pod.split_once('/') {
        Some(("pod" | "pods" | "po", name)) => name,
        Some((kind, _)) => anyhow::bail!("cannot get the logs of a {kind}: name a pod"),
        None => &args.pod,
    };
    let namespace = args.target.namespace();
    let segments = ["namespaces", namespace, "pods", pod_name];
    let pod: Pod = client.get(PathBuilder::new(&segments).as_str()).await?;
    let asked = args.container.as_ref().or(args.container_word.as_ref());
    ensure!(
        !(args.all_containers && asked.is_some()),
        "--all-containers=true should not be specified with container name {}",
        asked.map(String::as_str).unwrap_or_default()
    );
    let containers = match asked {
        Some(name) => {
            let known = all_containers(&pod).contains(name);
            ensure!(known, "container {name} is not valid for pod {pod_name}");
            vec![name.clone()]
        }
        None if args.all_containers => all_containers(&pod),
        None => vec![default_container(&pod)?],
    };
    let base = log_path(args, &[segments.as_slice(), &["log"]].concat())?;
    let sources: Vec<Source> = containers
        .iter()
        .map(|container| Source {
            path: base.clone().with("container", container),
            prefix: args.prefix.then(|| format!("[pod/{pod_name}/{container}] ")),
        })
        .collect();
    if args.follow && sources.len() > 1 {
        return together(client, sources, out).await;
    }
    let mut code = ExitCode::SUCCESS;
    for source in sources {
        match copy(client, &source, out).await {
            Ok(()) => {}
            // One container of several may have no log; the others have.
            Err(error) if args.all_containers && error.downcast_ref::<ClientError>().is_some() => {
                out.flush()?;
                show_error(&error);
                code = ExitCode::FAILURE;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(code)
}

/// One container's log.
#[derive(Clone, Debug)]
struct Source {
    path: PathBuilder,
    prefix: Option<String>,
}

fn log_path(args: &LogsArgs, segments: &[&str]) -> anyhow::Result<PathBuilder> {
    let mut path = PathBuilder::new(segments);
    for (name, set) in
        [("follow", args.follow), ("previous", args.previous), ("timestamps", args.timestamps)]
    {
        path = path.with_some(name, set.then_some("true"));
    }
    // A negative tail means all of it, as in kubectl.
    if let Some(lines) = args.tail.filter(|lines| *lines >= 0) {
        path = path.with("tailLines", &lines.to_string());
    }
    if let Some(since) = &args.since {
        let seconds = duration::parse(since)?.as_secs_f64().ceil();
        path = path.with("sinceSeconds", &format!("{seconds:.0}"));
    }
    if let Some(bytes) = args.limit_bytes {
        path = path.with("limitBytes", &bytes.to_string());
    }
    Ok(path.with_some("sinceTime", args.since_time.as_deref()))
}

pub(super) fn all_containers(pod: &Pod) -> Vec<String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let init = spec.init_containers.into_iter().flatten().map(|container| container.name);
    let regular = spec.containers.into_iter().map(|container| container.name);
    let ephemeral = spec.ephemeral_containers.into_iter().flatten().map(|container| container.name);
    init.chain(regular).chain(ephemeral).collect()
}

/// The annotated container, or the first; says so where there were others to choose from.
fn default_container(pod: &Pod) -> anyhow::Result<String> {
    let spec = pod.spec.as_ref().context("the pod has no spec")?;
    let annotated = pod.metadata.annotations.as_ref().and_then(|all| all.get(DEFAULT_CONTAINER));
    let exists = |name: &&String| all_containers(pod).contains(name);
    if let Some(name) = annotated.filter(exists) {
        return Ok(name.clone());
    }
    let first = spec.containers.first().context("the pod has no container")?.name.clone();
    let regular = spec.containers.iter().map(|container| container.name.clone());
    let init = spec.init_containers.iter().flatten().map(|c| format!("{} (init)", c.name));
    let ephemeral =
        spec.ephemeral_containers.iter().flatten().map(|c| format!("{} (ephem)", c.name));
    let all: Vec<String> = regular.chain(ephemeral).chain(init).collect();
    if all.len() > 1 {
        complain(&format!("Defaulted container \"{first}\" out of: {}", all.join(", ")));
    }
    Ok(first)
}

/// Copies a log as it comes.
async fn copy(client: &Client, source: &Source, out: &mut Out) -> anyhow::Result<()> {
    let mut lines = open(client, source).await?;
    while let Some(line) = lines.next().await? {
        print(out, source, &line)?;
    }
    out.flush()
}

/// Copies several logs at once, line by line.
async fn together(
    client: &Client,
    sources: Vec<Source>,
    out: &mut Out,
) -> anyhow::Result<ExitCode> {
    let (sender, mut lines) = mpsc::channel(LINES_WAITING_MAX);
    for source in sources {
        let (client, sender) = (client.clone(), sender.clone());
        tokio::spawn(async move {
            let mut reader = match open(&client, &source).await {
                Ok(reader) => reader,
                Err(error) => return drop(sender.send((source, Err(error))).await),
            };
            while let Some(line) = reader.next().await.transpose() {
                let over = line.is_err();
                // Nobody listens any more: the command is ending.
                if sender.send((source.clone(), line)).await.is_err() || over {
                    return;
                }
            }
        });
    }
    drop(sender);
    let mut code = ExitCode::SUCCESS;
    while let Some((source, line)) = lines.recv().await {
        match line {
            Ok(line) => print(out, &source, &line)?,
            Err(error) => {
                out.flush()?;
                show_error(&error.into());
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

async fn open(client: &Client, source: &Source) -> Result<Lines, ClientError> {
    client.open(Method::GET, source.path.as_str(), Ask::default()).await.map(Lines::new)
}

fn print(out: &mut Out, source: &Source, line: &Bytes) -> anyhow::Result<()> {
    if let Some(prefix) = &source.prefix {
        out.text(prefix)?;
    }
    out.bytes(line)?;
    out.flush()
}
