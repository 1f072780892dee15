//! The Unix socket: made safely, served within bounds, gone at the end.
//!
//! Owns: the socket file (mode 0660, its folder 0750; a stale one is replaced, a live one never), the connections. Not: what is said on them.
//! Any stream of bytes can be served ([`serve_connection`]): tests and a later TCP listener use the same road.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{App, handle};

/// Connections at one time. `kubectl` uses one or two each; a connection costs some tens of kilobytes. One more waits in the
/// kernel's queue until another ends.
pub const CONNECTIONS_MAX: usize = 128;

/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long requests in progress may take after the server was told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after `accept` failed for want of file descriptors, so that the failure does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Longest path of a Unix socket: `sun_path` without the zero byte (unix(7)).
const PATH_BYTES_MAX: usize = 107;

/// The socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot create the folder {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("another daemon already serves {}", path.display())]
    InUse { path: PathBuf },
    #[error("{} is there and is no socket", path.display())]
    NotASocket { path: PathBuf },
    #[error("cannot remove the stale socket {}", path.display())]
    Stale { path: PathBuf, source: io::Error },
    #[error(
        "{} has {} bytes, and a Unix socket's path may have {PATH_BYTES_MAX}: choose a shorter one (--socket)",
        path.display(),
        path.as_os_str().len()
    )]
    TooLong { path: PathBuf },
    #[error("cannot listen on {}", path.display())]
    Listen { path: PathBuf, source: io::Error },
}

/// A listening socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Whoever comes next replaces a stale file anyway.
        let _ = fs::remove_file(&self.path);
    }
}

/// Listens on a path.
///
/// # Errors
/// [`BindError`]; in particular if another daemon answers there.
pub fn bind(path: &Path) -> Result<Listener, BindError> {
    let own = || path.to_owned();
    if path.as_os_str().len() > PATH_BYTES_MAX {
        return Err(BindError::TooLong { path: own() });
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(folder);
        made.map_err(|source| BindError::Folder { path: folder.to_owned(), source })?;
    }
    clear(path)?;
    let socket =
        UnixListener::bind(path).map_err(|source| BindError::Listen { path: own(), source })?;
    let listener = Listener { socket, path: own() };
    // Until this line the mode is what the umask left; the folder keeps others out meanwhile.
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))
        .map_err(|source| BindError::Listen { path: own(), source })?;
    Ok(listener)
}

/// Removes a socket file that nobody answers on.
fn clear(path: &Path) -> Result<(), BindError> {
    let own = || path.to_owned();
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(BindError::Stale { path: own(), source }),
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket { path: own() });
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|source| BindError::Stale { path: own(), source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(BindError::InUse { path: own() }),
        // A full queue (EAGAIN) or a refused permission: somebody is there.
        Err(_) => Err(BindError::InUse { path: own() }),
    }
}

/// Serves until `stop` is cancelled, then lets requests in progress end.
pub async fn serve(listener: Listener, app: Arc<App>, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break, // cancel safe
            accepted = accept(&listener, &slots) => accepted, // cancel safe: nothing is accepted without a slot
        };
        match accepted {
            Ok((stream, slot)) => {
                let (app, stop) = (Arc::clone(&app), stop.clone());
                tasks.spawn(async move {
                    serve_connection(stream, app, stop).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the API");
                let pause = tokio::time::timeout(ACCEPT_PAUSE, stop.cancelled());
                if pause.await.is_ok() {
                    break;
                }
            }
        }
    }
    drop(listener);
    tasks.close();
    // What is not done by then is cut off; every write was durable before it was answered.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, tasks.wait()).await;
}

async fn accept(
    listener: &Listener,
    slots: &Arc<Semaphore>,
) -> io::Result<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.socket.accept().await?;
    Ok((stream, slot))
}

/// Serves HTTP/1.1 on one connection until either side ends it.
pub async fn serve_connection<S>(stream: S, app: Arc<App>, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let app = Arc::clone(&app);
        async move { Ok::<_, std::convert::Infallible>(handle(app, request.map(Body::new)).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // A client that goes away in the middle is its own affair.
        tracing::debug!(%error, "a connection to the API ended early");
    }
}
