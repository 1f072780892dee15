//! One run's life in the daemon: a task from its start to the report of its end.
//!
//! Owns: that there is exactly one such report, whatever panics. Is not: the run (`pod::run`, `runtime`).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Report;
use crate::lifecycle::{Event, RunId};
use crate::pod::logs::{LogRing, RunLog};
use crate::pod::run::{Begun, Ingredients, StartFailure};
use crate::runtime::LogSink;
use crate::spec::{Container, Exit};

/// The life of one run: start, wait, clear up. Reports `Running` and then exactly one `Exited`, or one `StartFailed`.
pub(super) async fn live(
    ingredients: Ingredients,
    container: Container,
    run: RunId,
    ring: Arc<LogRing>,
    abort: CancellationToken,
    reports: mpsc::Sender<Report>,
) {
    let sink: Arc<dyn LogSink> = Arc::new(RunLog(Arc::clone(&ring)));
    let start =
        AssertUnwindSafe(ingredients.start(&container, &run, sink, &reports)).catch_unwind();
    let started = match abort.run_until_cancelled(Box::pin(start)).await {
        Some(Ok(started)) => started,
        Some(Err(_panic)) => Err(StartFailure::broken(&"starting the module panicked")),
        None => Err(StartFailure {
            reason: "RunContainerError",
            message: "stopped before it had started".to_owned(),
        }),
    };
    let report = match started {
        Err(StartFailure { reason, message }) => {
            ring.finish();
            Event::StartFailed { run, reason, message }
        }
        Ok(Begun { handle, folders }) => {
            let running = Report::Running(run.clone(), handle.control.clone());
            if reports.send(running).await.is_err() {
                // The worker has gone meanwhile: nobody could ever stop this run.
                handle.control.kill();
            }
            let exit = AssertUnwindSafe(handle.exit).catch_unwind().await;
            let exit = exit.unwrap_or_else(|_panic| Exit::Lost {
                message: "the runtime failed while the module ran".to_owned(),
            });
            ring.finish();
            let message = ingredients.finish(&container, folders, &exit, &ring).await;
            Event::Exited { run, exit, message }
        }
    };
    drop(reports.send(Report::Event(report)).await);
}
