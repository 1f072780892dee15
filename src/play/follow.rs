//! Prints every module's output as it comes, with the module's name before each line.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::label;
use super::screen::Screen;
use crate::board::logs::{LogCursor, LogSource};
use crate::pod::logs::{LogRing, PodLogs};
use crate::reconciler::NodeHandle;
use crate::spec::{ContainerName, Pod};

/// Bytes taken from a ring at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// How often a pod that has not begun is looked for.
const POLL: std::time::Duration = std::time::Duration::from_millis(20);

/// Follows every container of the pods until `done`, and then to the end of what is there.
pub(super) fn all(
    node: &NodeHandle,
    pods: &[Arc<Pod>],
    screen: &Screen,
    done: &CancellationToken,
) -> TaskTracker {
    let tasks = TaskTracker::new();
    for pod in pods {
        for container in pod.all_containers() {
            let (node, pod, screen) = (node.clone(), Arc::clone(pod), screen.clone());
            let (name, done) = (container.name.clone(), done.clone());
            tasks.spawn(async move { follow(&node, &pod, &name, &screen, &done).await });
        }
    }
    tasks.close();
    tasks
}

async fn follow(
    node: &NodeHandle,
    pod: &Pod,
    container: &ContainerName,
    screen: &Screen,
    done: &CancellationToken,
) {
    let logs = loop {
        match node.logs(&pod.key) {
            Some(logs) => break logs,
            None if done.is_cancelled() => return,
            None => tokio::time::sleep(POLL).await,
        }
    };
    let prefix = format!("[{}/{container}]", label(&pod.key));
    let mut begun = logs.changed();
    let mut last = None;
    loop {
        begun.mark_unchanged();
        match next(&logs, container, last.as_ref()) {
            Some(ring) => {
                print(&ring, &prefix, screen, done).await;
                last = Some(ring);
            }
            None if done.is_cancelled() => return,
            None => wait(&mut begun, done).await,
        }
    }
}

/// The run that has begun since. Not told by its number: a start that failed is tried again under the same one.
fn next(
    logs: &PodLogs,
    container: &ContainerName,
    last: Option<&Arc<LogRing>>,
) -> Option<Arc<LogRing>> {
    let ring = logs.get(container, false)?;
    last.is_none_or(|last| !Arc::ptr_eq(last, &ring)).then_some(ring)
}

/// Prints one run's output to its end.
async fn print(ring: &LogRing, prefix: &str, screen: &Screen, done: &CancellationToken) {
    let mut changed = ring.changed();
    let mut cursor = LogCursor::START;
    loop {
        changed.mark_unchanged();
        let chunk = ring.read(cursor, CHUNK_BYTES);
        if chunk.dropped > 0 {
            screen.line(&format!("{prefix} … {} lines were dropped", chunk.dropped));
        }
        for line in &chunk.lines {
            screen.line(&format!("{prefix} {}", String::from_utf8_lossy(&line.bytes)));
        }
        cursor = chunk.next;
        if chunk.ended || (done.is_cancelled() && chunk.lines.is_empty()) {
            return;
        }
        if chunk.lines.is_empty() {
            wait(&mut changed, done).await;
        }
    }
}

/// Waits for news, or for the end.
async fn wait(news: &mut watch::Receiver<u64>, done: &CancellationToken) {
    tokio::select! {
        // An error means that the writer is gone: there will be no more news, only the end.
        changed = news.changed() => if changed.is_err() { done.cancelled().await },
        () = done.cancelled() => {}
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::clock::Clock;
    use crate::limits::LOG_BYTES_PER_SECOND;

    #[test]
    fn a_start_that_is_tried_again_is_followed_and_none_is_followed_twice() {
        let (logs, name) = (PodLogs::new(), ContainerName::new("c"));
        let mut last = None;
        for attempt in [0, 0, 1] {
            assert!(next(&logs, &name, last.as_ref()).is_none());
            let ring = logs.begin(&name, attempt, Clock::start(), LOG_BYTES_PER_SECOND);
            let found = next(&logs, &name, last.as_ref());
            assert!(found.as_ref().is_some_and(|found| Arc::ptr_eq(found, &ring)), "{attempt}");
            last = found;
        }
    }
}
