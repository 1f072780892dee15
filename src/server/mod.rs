//! The local API: Kubernetes' own REST for core/v1, on a Unix socket.
//!
//! Owns: HTTP, from the socket to the `Status` of a refusal: paths, queries, bodies, tables, watches, log streams. Not: objects (the
//! [`board`](crate::board) has them), their meaning ([`manifest`](crate::manifest) reads, defaults and validates them), nor pods (the
//! [`Backend`] owns every change). `KUBELET.md` 22 is the law for what `kubectl` needs.
//!
//! ```text
//!  socket ─► listen ─► handle ─► request (pure) ─┬─► read ─────► Board ─► wire / table (pure) ─► response
//!                                                ├─► follow ───► Watch ─► one JSON line per change
//!                                                ├─► logs ─────► Backend::logs ─► text
//!                                                └─► write ────► manifest ─► Backend ─► object | Status
//! ```
//!
//! Limits: [`BODY_BYTES_MAX`], [`STREAMS_MAX`], `listen::CONNECTIONS_MAX`; a stream holds one batch, never a queue.

mod access;
pub mod age;
pub mod backend;
mod decode;
mod discovery;
mod follow;
mod handle;
pub mod listen;
mod logs;
mod metrics;
pub mod network;
pub mod network_audit;
mod openapi;
pub mod patch;
mod portforward;
mod protobuf;
mod read;
mod request;
pub mod status;
pub mod table;
pub mod usage;
pub mod wire;
mod write;

#[cfg(test)]
pub(crate) mod tests;

use std::path::Path;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

pub use backend::Backend;
pub use discovery::VersionInfo;
pub use handle::handle;

/// Largest request body, bytes: kube-apiserver's own limit (3 MiB).
pub const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Watches and followed logs at one time. Each costs a task, a connection and one batch of lines; a few dozen terminals and
/// dashboards are plenty for one node.
pub const STREAMS_MAX: usize = 64;

/// What every request is answered from.
#[derive(Debug)]
pub struct App {
    backend: Arc<dyn Backend>,
    clock: Clock,
    version: VersionInfo,
    streams: Arc<Semaphore>,
    forwards: Arc<Semaphore>,
    stop: CancellationToken,
}

impl App {
    /// The API over this backend. When `stop` is cancelled, streams end; requests in progress are still answered.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>, clock: Clock, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            backend,
            clock,
            version: VersionInfo::default(),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            forwards: Arc::new(Semaphore::new(portforward::SESSIONS_MAX)),
            stop,
        })
    }

    fn now_ms(&self) -> i64 {
        self.clock.now().wall_ms()
    }
}

/// Serves the API on a Unix socket until `stop` is cancelled.
///
/// # Errors
/// [`listen::BindError`] if the socket could not be made. Nothing that happens later is an error.
pub async fn serve_unix(
    path: &Path,
    backend: Arc<dyn Backend>,
    clock: Clock,
    stop: CancellationToken,
) -> Result<(), listen::BindError> {
    let listener = listen::bind(path)?;
    let app = App::new(backend, clock, stop.clone());
    listen::serve(listener, app, stop).await;
    Ok(())
}
