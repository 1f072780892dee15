//! HTTP to the daemon over its Unix socket.
//!
//! Owns: connecting (with an error that says what to do), requests, `Status` errors, warnings, line streams. One connection for each request:
//! on a local socket that costs nothing, and nothing is left over when the command ends.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::board::Kind;

/// Largest answer that is read as a whole: a thousand pods with all they carry.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Longest line of a watch.
const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long the daemon may take to begin an answer: longer than a slow flash needs to make a write durable.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Where a daemon listens that the system has started.
const SYSTEM_SOCKET: &str = crate::daemon::config::SYSTEM_SOCKET;

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("cannot connect to {}: {}", path.display(), advice(other.as_deref()))]
    Connect {
        path: PathBuf,
        /// Where a daemon's socket is, if not there.
        other: Option<PathBuf>,
        source: io::Error,
    },
    #[error("may not connect to {}: its owner and group may; ask for the group, or for root", path.display())]
    Denied { path: PathBuf, source: io::Error },
    #[error("the connection to the daemon broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the daemon did not answer within {} seconds", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    #[error("the daemon's answer makes no sense")]
    Nonsense(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Shown as `kubectl` shows it.
    #[error("{}", refusal(status))]
    Refused { status: Box<Status> },
}

impl ClientError {
    /// Whether the object does not exist.
    #[must_use]
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status } if status.reason.as_deref() == Some("NotFound"))
    }
}

/// What to do where no daemon answers.
fn advice(other: Option<&Path>) -> String {
    match other {
        Some(other) => format!(
            "a daemon's socket is at {other}: name it with --socket {other} (its owner and group may use it)",
            other = other.display()
        ),
        None => "is the daemon running? Start it with `podling daemon`, or name its socket with --socket".to_owned(),
    }
}

/// The sentence that kubectl makes of a `Status` (`cmd/util/helpers.go`).
fn refusal(status: &Status) -> String {
    let message = status.message.as_deref().unwrap_or("the server refused without a reason");
    match (status.reason.as_deref(), &status.details) {
        (Some("Invalid"), Some(details)) => {
            let kind = details.kind.as_deref().unwrap_or_default();
            let name = details.name.as_deref().unwrap_or_default();
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let mut causes: Vec<String> = Vec::new();
            for cause in details.causes.iter().flatten() {
                let sentence = match text(&cause.field) {
                    field if field.is_empty() => text(&cause.message),
                    field => format!("{field}: {}", text(&cause.message)),
                };
                if !causes.contains(&sentence) {
                    causes.push(sentence);
                }
            }
            let start = format!("The {kind} \"{name}\" is invalid");
            match causes.as_slice() {
                [] => format!("{start}: {message}"),
                [one] => format!("{start}: {one}"),
                _ => format!("{start}: \n* {}", causes.join("\n* ")),
            }
        }
        (Some(reason), _) if !reason.is_empty() => {
            format!("Error from server ({reason}): {message}")
        }
        _ => format!("Error from server: {message}"),
    }
}

/// A daemon's address.
#[derive(Clone, Debug)]
pub(super) struct Client {
    socket: PathBuf,
}

/// What to send beside the path.
#[derive(Clone, Debug, Default)]
pub(super) struct Ask<'a> {
    pub(super) accept: Option<&'a str>,
    pub(super) content_type: Option<&'a str>,
    pub(super) body: Bytes,
}

impl Client {
    #[must_use]
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// GET of a JSON document.
    ///
    /// # Errors
    /// [`ClientError`]
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(Method::GET, path, Ask::default()).await
    }

    /// Any request whose answer is a JSON document.
    ///
    /// # Errors
    /// [`ClientError`]
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        send: Ask<'_>,
    ) -> Result<T, ClientError> {
        let answer = self.open(method, path, send).await?;
        let bytes = whole(answer.into_body()).await?;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Nonsense(error.into()))
    }

    /// Any request; the body of its answer is still to be read. Refusals are errors.
    ///
    /// # Errors
    /// [`ClientError`]
    pub(super) async fn open(
        &self,
        method: Method,
        path: &str,
        send: Ask<'_>,
    ) -> Result<Response<Incoming>, ClientError> {
        let request = Request::builder().method(method).uri(path);
        let request = match send.content_type {
            Some(kind) => request.header(header::CONTENT_TYPE, kind),
            None => request,
        };
        let request = request.header(header::ACCEPT, send.accept.unwrap_or("application/json"));
        self.ask(request, send.body).await
    }

    /// POST that turns the connection into one for `protocol`.
    ///
    /// # Errors
    /// [`ClientError`]
    pub(super) async fn upgrade(
        &self,
        path: &str,
        protocol: &str,
    ) -> Result<Upgraded, ClientError> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, protocol);
        let answer = self.ask(request, Bytes::new()).await?;
        hyper::upgrade::on(answer).await.map_err(|error| ClientError::Broken(error.into()))
    }

    async fn ask(
        &self,
        request: hyper::http::request::Builder,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = connect(&self.socket).await?;
        let broken = |error: hyper::Error| ClientError::Broken(error.into());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with the answer's body, or with this program.
        tokio::spawn(connection.with_upgrades());
        let request = request
            .header(header::HOST, "podling")
            .header(header::USER_AGENT, concat!("podling/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(|error| ClientError::Nonsense(error.into()))?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request));
        let answer = answer.await.map_err(|_| ClientError::Timeout)?.map_err(broken)?;
        show_warnings(&answer);
        let code = answer.status();
        if code.is_success() || code == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(answer);
        }
        Err(refused(code, &whole(answer.into_body()).await?))
    }
}

/// The answer of a refusal, which is a `Status` from our daemon but need not be one.
fn refused(code: StatusCode, body: &[u8]) -> ClientError {
    let status = serde_json::from_slice::<Status>(body).unwrap_or_else(|_| Status {
        code: Some(i32::from(code.as_u16())),
        message: Some(format!("{code}: {}", String::from_utf8_lossy(body).trim())),
        ..Status::default()
    });
    ClientError::Refused { status: Box::new(status) }
}

async fn connect(socket: &Path) -> Result<UnixStream, ClientError> {
    UnixStream::connect(socket).await.map_err(|source| {
        let path = socket.to_owned();
        if source.kind() == io::ErrorKind::PermissionDenied {
            ClientError::Denied { path, source }
        } else {
            // Whoever logs in as another user than the daemon's looks in another place.
            let missing = source.kind() == io::ErrorKind::NotFound;
            let other = Path::new(SYSTEM_SOCKET);
            let other = (missing && other != socket && other.exists()).then(|| other.to_owned());
            ClientError::Connect { path, other, source }
        }
    })
}

async fn whole(body: Incoming) -> Result<Bytes, ClientError> {
    match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(ClientError::Broken(error)),
    }
}

/// `Warning: 299 - "text"` becomes `Warning: text` on stderr, as from kubectl.
fn show_warnings(answer: &Response<Incoming>) {
    for value in answer.headers().get_all(header::WARNING) {
        let Ok(value) = value.to_str() else { continue };
        if let Some(text) = warning_text(value) {
            super::complain(&format!("Warning: {text}"));
        }
    }
}

pub(super) fn warning_text(value: &str) -> Option<String> {
    let quoted = value.split_once('"')?.1;
    let mut text = String::new();
    let mut escaped = false;
    for c in quoted.chars() {
        match c {
            _ if escaped => {
                text.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => break,
            _ => text.push(c),
        }
    }
    Some(text)
}

/// The lines of an answer, as they come.
#[derive(Debug)]
pub(super) struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    #[must_use]
    pub(super) fn new(answer: Response<Incoming>) -> Self {
        Self { body: answer.into_body(), buffer: BytesMut::new() }
    }

    /// The next line with its line feed; a last one may lack it. `None` at the end.
    ///
    /// # Errors
    /// [`ClientError`] if the connection breaks.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        let mut searched = 0;
        loop {
            let found = self.buffer[searched..].iter().position(|byte| *byte == b'\n');
            if let Some(end) = found {
                return Ok(Some(self.buffer.split_to(searched + end + 1).freeze()));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(ClientError::Nonsense("a line without end".into()));
            }
            searched = self.buffer.len();
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Err(ClientError::Broken(error.into())),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Ok(Some(self.buffer.split().freeze())),
            }
        }
    }
}

/// A path made of segments and a query, each part escaped.
#[derive(Clone, Debug)]
pub(super) struct PathBuilder(String);

impl PathBuilder {
    /// `/api/v1`, then these segments.
    #[must_use]
    pub(super) fn new(segments: &[&str]) -> Self {
        Self::of(Kind::Pod, segments)
    }

    /// The path of a kind's API group, then these segments.
    #[must_use]
    pub(super) fn of(kind: Kind, segments: &[&str]) -> Self {
        let mut path = match kind.group() {
            "" => String::from("/api/v1"),
            _ => format!("/apis/{}", kind.api_version()),
        };
        for segment in segments {
            path.push('/');
            escape(&mut path, segment);
        }
        Self(path)
    }

    /// With one more query parameter.
    #[must_use]
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(name);
        self.0.push('=');
        escape(&mut self.0, value);
        self
    }

    /// With it if there is one.
    #[must_use]
    pub(super) fn with_some(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    #[must_use]
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

fn escape(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}
