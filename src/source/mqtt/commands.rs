//! Carrying out commands: logs, restart, describe, exec. Answers go back to the protocol, which numbers and bounds them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;

use super::Node;
use crate::board::logs::{LogCursor, LogSource};
use crate::board::{Board, Kind, Object, ObjectKey, Query};
use crate::mqtt::cause::{Reason, Refusal};
use crate::mqtt::command::{Outcome, PIECE_BYTES_MAX, Task};
use crate::mqtt::protocol::Input;
use crate::spec::{ContainerName, PodKey};

/// Events told with a description.
const EVENTS_MAX: usize = 50;

/// Runs one command to its end.
pub(super) async fn run<N: Node>(
    node: Arc<N>,
    node_name: String,
    now_ms: i64,
    id: String,
    task: Task,
    out: mpsc::Sender<Input>,
) {
    let answers = Answers { id: id.clone(), out: out.clone() };
    let done = match task {
        Task::Logs { pod, container, previous, tail_lines, since, bytes_max } => {
            let from = From { container, previous, tail_lines, since, bytes_max };
            logs(&*node, &pod, from, now_ms, &answers).await
        }
        Task::Restart { pod } => node.restart(pod).await.map(|()| Outcome::done()),
        Task::Describe { pod } => describe(node.board(), pod.as_ref(), &node_name, &answers).await,
        Task::Exec { pod, container, command, bytes_max } => {
            exec(&*node, pod, container, command, bytes_max, &answers).await
        }
        // The protocol has done what there was to do.
        Task::Resync | Task::Ping => Ok(Outcome::done()),
    };
    let outcome = done.unwrap_or_else(Outcome::refused);
    // A source that is gone needs no answer.
    drop(out.send(Input::Answered { id, outcome }).await);
}

/// Where the parts of an answer go.
struct Answers {
    id: String,
    out: mpsc::Sender<Input>,
}

impl Answers {
    async fn send(&self, content: Bytes) {
        for piece in content.chunks(PIECE_BYTES_MAX) {
            let content = content.slice_ref(piece);
            drop(self.out.send(Input::Answer { id: self.id.clone(), content }).await);
        }
    }
}

struct From {
    container: Option<ContainerName>,
    previous: bool,
    tail_lines: Option<u64>,
    since: Option<Duration>,
    bytes_max: usize,
}

fn not_found(what: impl Into<String>) -> Refusal {
    Refusal::new(Reason::NotFound, what)
}

async fn logs<N: Node>(
    node: &N,
    pod: &PodKey,
    from: From,
    now_ms: i64,
    answers: &Answers,
) -> Result<Outcome, Refusal> {
    let container = match from.container {
        Some(container) => container,
        None => only_container(node.board(), pod)?,
    };
    let logs = node.logs(pod).ok_or_else(|| not_found(format!("there is no pod {pod}")))?;
    let ring = logs.get(&container, from.previous).ok_or_else(|| {
        let run = if from.previous { "an earlier run" } else { "a run" };
        not_found(format!("pod {pod} has no log of {run} of container {container}"))
    })?;
    let start = from.tail_lines.map_or(LogCursor::START, |lines| ring.tail(lines));
    let not_before = from.since.map(|since| {
        let ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        now_ms.saturating_sub(ms).saturating_mul(1_000_000)
    });
    let (mut cursor, mut room) = (start, from.bytes_max);
    let mut outcome = Outcome::done();
    loop {
        let chunk = ring.read(cursor, PIECE_BYTES_MAX);
        if chunk.lines.is_empty() {
            return Ok(outcome);
        }
        let mut text = vec![];
        let young = |line: &&crate::board::logs::LogLine| {
            not_before.is_none_or(|from| line.time_ns >= from)
        };
        for line in chunk.lines.iter().filter(young) {
            text.extend_from_slice(&line.bytes);
            if !line.partial {
                text.push(b'\n');
            }
        }
        outcome.truncated = text.len() > room;
        text.truncate(room);
        room -= text.len();
        answers.send(text.into()).await;
        if outcome.truncated {
            return Ok(outcome);
        }
        cursor = chunk.next;
    }
}

/// The container that is meant where none is named.
fn only_container(board: &Board, key: &PodKey) -> Result<ContainerName, Refusal> {
    let pod = board.pod(key).ok_or_else(|| not_found(format!("there is no pod {key}")))?;
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    match containers {
        [only] => Ok(ContainerName::new(&only.name)),
        several => {
            let names: Vec<&str> = several.iter().map(|c| c.name.as_str()).collect();
            let message = format!("pod {key} has several containers: {}", names.join(", "));
            Err(Refusal::new(Reason::Invalid, message))
        }
    }
}

/// The object and what happened to it, as JSON.
async fn describe(
    board: &Board,
    pod: Option<&PodKey>,
    node_name: &str,
    answers: &Answers,
) -> Result<Outcome, Refusal> {
    let key = match pod {
        Some(key) => ObjectKey::new(Kind::Pod, &key.namespace, &key.name),
        None => ObjectKey::new(Kind::Node, "", node_name),
    };
    let object = board.get(&key).ok_or_else(|| {
        not_found(format!("there is no {} {}", key.kind.as_str().to_lowercase(), key.name))
    })?;
    let is_its = |event: &k8s_openapi::api::core::v1::Event| {
        let of = &event.involved_object;
        of.kind.as_deref() == Some(key.kind.as_str())
            && of.name.as_deref() == Some(&key.name)
            && (pod.is_none() || of.namespace.as_deref() == Some(&key.namespace))
    };
    let mut events: Vec<_> = board
        .list(&Query::all(Kind::Event))
        .items
        .into_iter()
        .filter_map(|object| if let Object::Event(event) = object { Some(event) } else { None })
        .filter(|event| is_its(event))
        .collect();
    events.sort_by_key(|event| event.last_timestamp.clone());
    let newest = events.split_off(events.len().saturating_sub(EVENTS_MAX));
    let events: Vec<_> = newest.iter().map(|event| &**event).collect();
    let text = if let Object::Pod(pod) = &object {
        json!({"object": &**pod, "events": events})
    } else if let Object::Node(node) = &object {
        json!({"object": &**node, "events": events})
    } else {
        json!({"events": events})
    };
    answers.send(text.to_string().into()).await;
    Ok(Outcome::done())
}

async fn exec<N: Node>(
    node: &N,
    pod: PodKey,
    container: Option<ContainerName>,
    command: Vec<String>,
    bytes_max: usize,
    answers: &Answers,
) -> Result<Outcome, Refusal> {
    let (code, mut output) = node.exec(pod, container, command).await?;
    let mut outcome = Outcome::done();
    outcome.exit_code = Some(code);
    if output.len() > bytes_max {
        output.truncate(output.floor_char_boundary(bytes_max));
        outcome.truncated = true;
    }
    answers.send(output.into()).await;
    Ok(outcome)
}
