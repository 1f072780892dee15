//! A second instance of a module with another argv: exec probes, hooks, and commands that somebody asked for.
//!
//! It shares the pod's network and the container's volumes, environment and limits, not its memory. Its output is kept,
//! bounded, for the probe's message.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::pod::run::{Begun, Ingredients, StartFailure};
use crate::runtime::{LogSink, RunControl, Stream};
use crate::spec::{Container, ContainerName, Exit};

/// Output kept of one exec (`pkg/probe/exec` `maxReadLength`).
const OUTPUT_BYTES_MAX: usize = 10 * 1024;

/// How an exec ended, and what it printed on both outputs.
#[derive(Debug)]
pub struct ExecResult {
    pub exit: Exit,
    pub output: String,
}

/// A command to run beside a module. Dropping the other end of `reply` kills it.
#[derive(Debug)]
pub struct ExecAsk {
    /// Absent: the pod's only one.
    pub container: Option<ContainerName>,
    pub command: Vec<String>,
    pub reply: oneshot::Sender<Result<ExecResult, ExecRefused>>,
}

/// Why a command was not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecRefused {
    #[error("the pod has several containers; name one of {}", .0.join(", "))]
    WhichContainer(Vec<String>),
    #[error("container {0} does not run")]
    NotRunning(String),
    #[error("{0}")]
    Failed(String),
}

/// An instance under way. Dropped (the caller has lost interest: a timeout), it is ended, and its folders go when it is gone.
struct Instance(Option<Begun>);

impl Drop for Instance {
    fn drop(&mut self) {
        let Some(Begun { handle, folders }) = self.0.take() else { return };
        handle.control.kill();
        // Without a runtime the daemon ends, and everything with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _exit = handle.exit.await;
                let _message = folders.clear().await;
            });
        }
    }
}

/// Runs `command` in a new instance and waits for its end. Dropping the future kills it.
///
/// # Errors
/// If the instance could not be started: says nothing about what it would have answered.
///
/// # Cancel safety
/// Safe: dropping it kills the instance, and its private folders go when it has ended.
pub async fn exec(
    ingredients: &Ingredients,
    container: &Container,
    serial: u32,
    command: &[String],
    charge_to: RunControl,
) -> Result<ExecResult, StartFailure> {
    let output = Arc::new(Output::default());
    let sink: Arc<dyn LogSink> = Arc::<Output>::clone(&output);
    let begun = ingredients.exec(container, serial, command, sink, charge_to).await?;
    let mut instance = Instance(Some(begun));
    let exit = match &mut instance.0 {
        Some(begun) => (&mut begun.handle.exit).await,
        None => return Err(StartFailure::broken(&"an instance was gone before its end")),
    };
    if let Some(Begun { folders, .. }) = instance.0.take() {
        // The instance has no termination message of its own; only its folders have to go.
        let _message = folders.clear().await;
    }
    let bytes = output.0.lock().unwrap_or_else(PoisonError::into_inner);
    let output = String::from_utf8_lossy(&bytes).into_owned();
    Ok(ExecResult { exit, output })
}

#[derive(Debug, Default)]
struct Output(Mutex<Vec<u8>>);

impl LogSink for Output {
    fn write(&self, _stream: Stream, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = OUTPUT_BYTES_MAX - kept.len();
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn flush(&self) {}
}
