//! When the service manager is told that the daemon is up: once the pods that were there at its start run.
//!
//! Owns: when a pod counts as started. Not: the message itself (`notify`). No network is waited for: a pod that cannot start for want of
//! an image says so in its status, and holds nobody up.

use std::time::Duration;

use k8s_openapi::api::core::v1 as corev1;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::board::{Board, Kind, Object, Query};
use crate::daemon::notify;

/// Longest wait for pods that neither run nor say why not (a volume that hangs). Well below the 90 s that systemd gives a start.
const PATIENCE: Duration = Duration::from_secs(30);

/// Says `READY=1` once every pod that is there now has been started, or cannot be.
pub(super) async fn tell(board: Board, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => return,
        () = all_started(&board) => {}
        () = tokio::time::sleep(PATIENCE) => warn!("pods that were to be restored do not run yet"),
    }
    notify::ready();
}

async fn all_started(board: &Board) {
    // From here on, so that no change is missed between a look and the wait. It begins with what is there.
    let Ok(mut watch) = board.watch(Query::all(Kind::Pod), Some(board.version())) else { return };
    let is_starting = |object: &Object| object.as_pod().is_some_and(|pod| is_starting(pod));
    while board.list(&Query::all(Kind::Pod)).items.iter().any(is_starting) {
        watch.changed().await;
        // Only that something has changed counts. One that fell behind has news as well.
        drop(watch.next_batch(usize::MAX));
    }
}

/// Whether nothing of it has run yet, and nothing says that it cannot.
fn is_starting(pod: &corev1::Pod) -> bool {
    let Some(status) = &pod.status else { return true };
    if status.phase.as_deref().is_some_and(|phase| phase != "Pending") {
        return false;
    }
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let mut states = lists.into_iter().flatten().flatten().map(|container| &container.state);
    states.all(|state| {
        let Some(state) = state else { return true };
        let reason = state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref());
        let early = ["ContainerCreating", "PodInitializing", "Compiling"];
        let is_early = reason.is_none_or(|reason| early.contains(&reason));
        state.running.is_none() && state.terminated.is_none() && is_early
    })
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn pod(status: &str) -> corev1::Pod {
        serde_json::from_str(&format!("{{\"status\": {status}}}")).unwrap()
    }

    fn containers(phase: &str, states: &[&str]) -> corev1::Pod {
        let one = |state: &&str| {
            format!(
                "{{\"name\":\"c\",\"ready\":false,\"restartCount\":0,\"image\":\"\",\"imageID\":\"\",\"state\":{state}}}"
            )
        };
        let all = states.iter().map(one).collect::<Vec<_>>().join(",");
        pod(&format!("{{\"phase\":\"{phase}\",\"containerStatuses\":[{all}]}}"))
    }

    #[test]
    fn a_pod_has_started_when_something_of_it_ran_or_says_why_it_cannot() {
        let creating = r#"{"waiting":{"reason":"ContainerCreating"}}"#;
        let initializing = r#"{"waiting":{"reason":"PodInitializing"}}"#;
        let no_image = r#"{"waiting":{"reason":"ErrImageNeverPull"}}"#;
        let running = r#"{"running":{}}"#;
        assert!(is_starting(&corev1::Pod::default()));
        assert!(is_starting(&containers("Pending", &[])));
        let compiling = r#"{"waiting":{"reason":"Compiling"}}"#;
        assert!(is_starting(&containers("Pending", &[creating, initializing, compiling])));
        assert!(!is_starting(&containers("Pending", &[creating, running])));
        assert!(!is_starting(&containers("Pending", &[creating, no_image])));
        assert!(!is_starting(&containers("Running", &[running])));
        assert!(!is_starting(&containers("Failed", &[creating])), "it was not let in");
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_the_pods_and_not_for_ever() {
        let board = Board::new(1, crate::clock::Timestamp::simulated(Duration::ZERO));
        all_started(&board).await;
        let mut starting = containers("Pending", &[]);
        starting.metadata.name = Some("a".into());
        starting.metadata.namespace = Some("default".into());
        board.upsert_pod(starting.clone());
        let waiting = tokio::time::timeout(Duration::from_secs(1), all_started(&board)).await;
        assert!(waiting.is_err());
        let mut running = containers("Running", &[]);
        running.metadata = starting.metadata.clone();
        let (_, ()) = tokio::join!(all_started(&board), async {
            board.upsert_pod(running);
        });
        board.upsert_pod(starting);
        let start = tokio::time::Instant::now();
        tell(board, CancellationToken::new()).await;
        assert_eq!(start.elapsed(), PATIENCE);
    }
}
