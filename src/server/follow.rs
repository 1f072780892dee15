//! `?watch=true`: the changes of a list, one JSON line each, for as long as the client listens.
//!
//! ```text
//!  (ADDED… of the present state, if no version was given)  ──►  ADDED | MODIFIED | DELETED …  ──►  end: timeout, shutdown
//!        └── sendInitialEvents: a marked BOOKMARK                  └── BOOKMARK each minute           └── ERROR 410: too slow
//! ```
//!
//! The body is made only as fast as the client reads it. A client that stops reading costs one batch; when the board's history
//! has moved past it, it is told so (410) and the stream ends.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use crate::board::{Kind, Object, Watch, WatchEvent};

use super::request::{Form, Params, Target};
use super::status::ApiError;
use super::table::{self, IncludeObject, TableOptions};
use super::wire::{self, PartialObject, WatchLine};
use super::{App, read};

/// Events put into one piece of the body: some tens of kilobytes.
const BATCH: usize = 16;

/// How often a client that asked for bookmarks gets one (kube-apiserver: about a minute).
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// How long a watch lasts when the client does not say (kube-apiserver: 30 to 60 minutes).
const TIMEOUT: Duration = Duration::from_secs(3600);

struct Follow {
    app: Arc<App>,
    watch: Watch,
    kind: Kind,
    form: Form,
    include: IncludeObject,
    /// The next table carries the column definitions.
    columns: bool,
    bookmarks: bool,
    /// A bookmark that marks the end of the initial state is owed.
    initial_mark: bool,
    next_bookmark: Instant,
    deadline: Instant,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

/// Starts a watch.
pub(super) fn serve(
    app: &Arc<App>,
    target: &Target,
    params: &Params,
    form: Form,
) -> Result<Response<Body>, ApiError> {
    let mut watched = target.clone();
    let mut query = params.query(&watched)?;
    if let Some(name) = watched.name.take() {
        // `GET …/pods/NAME?watch=true` is the same as a field selector on the name.
        read::find(app, target)?;
        query.fields = query.fields.and_name(&name);
    }
    let board = app.backend.board();
    let initial = params.get("sendInitialEvents").map(|value| value == "true");
    let since = match (params.resource_version()?, initial) {
        (_, Some(true)) => None,
        (None, Some(false)) => Some(board.version()),
        (since, _) => since,
    };
    let timeout = params.integer("timeoutSeconds")?.filter(|seconds| *seconds > 0);
    let timeout = timeout.map_or(TIMEOUT, |seconds| Duration::from_secs(seconds.unsigned_abs()));
    let permit = Arc::clone(&app.streams).try_acquire_owned().map_err(|_| {
        ApiError::too_many_requests("too many watches and followed logs, please try again later")
    })?;
    let now = Instant::now();
    let follow = Follow {
        app: Arc::clone(app),
        watch: board.watch(query, since).map_err(ApiError::expired)?,
        kind: watched.kind,
        form,
        include: params.include_object()?,
        columns: true,
        bookmarks: params.flag("allowWatchBookmarks"),
        initial_mark: initial == Some(true),
        next_bookmark: now + BOOKMARK_EVERY,
        deadline: now + timeout.min(TIMEOUT),
        ended: false,
        _permit: permit,
    };
    let pieces = stream::unfold(follow, |mut follow| async move {
        let piece = follow.next().await?;
        Some((Ok::<_, std::convert::Infallible>(piece), follow))
    });
    let kind = HeaderValue::from_static("application/json");
    Ok(wire::bytes_response(StatusCode::OK, kind, Body::from_stream(pieces)))
}

impl Follow {
    /// The next piece of the body; `None` ends it.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.ended || self.app.stop.is_cancelled() {
                return None;
            }
            match self.watch.next_batch(BATCH) {
                Err(expired) => {
                    self.ended = true;
                    return Some(self.line("ERROR", &ApiError::expired(expired).to_status()));
                }
                Ok(events) if !events.is_empty() => return Some(self.lines(&events)),
                Ok(_) => {}
            }
            if std::mem::take(&mut self.initial_mark) {
                return Some(self.bookmark(true));
            }
            let wake_at =
                if self.bookmarks { self.deadline.min(self.next_bookmark) } else { self.deadline };
            let stop = self.app.stop.clone();
            let waited = tokio::select! {
                () = stop.cancelled() => return None, // cancel safe
                waited = timeout_at(wake_at, self.watch.changed()) => waited, // cancel safe
            };
            if waited.is_err() {
                let now = Instant::now();
                if now >= self.deadline {
                    return None;
                }
                self.next_bookmark = now + BOOKMARK_EVERY;
                return Some(self.bookmark(false));
            }
        }
    }

    fn lines(&mut self, events: &[WatchEvent]) -> Bytes {
        let mut out = Vec::new();
        for event in events {
            let word = event.event.as_str();
            match self.form {
                Form::Object => write_line(&mut out, word, &event.object),
                Form::Metadata => write_line(&mut out, word, &PartialObject::new(&event.object)),
                Form::Table { beta } => {
                    let columns = std::mem::take(&mut self.columns);
                    let options =
                        TableOptions { include: self.include, beta, now_ms: self.app.now_ms() };
                    write_line(&mut out, word, &table_of(&event.object, columns, options));
                }
            }
        }
        out.into()
    }

    fn bookmark(&self, initial: bool) -> Bytes {
        let version = self.watch.version().to_string();
        let mut metadata = json!({"resourceVersion": version, "creationTimestamp": null});
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Object => {
                json!({"kind": self.kind.as_str(), "apiVersion": self.kind.api_version(), "metadata": metadata})
            }
            Form::Metadata => json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            }),
            Form::Table { beta } => json!({
                "kind": "Table",
                "apiVersion": if beta { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" },
                "metadata": {"resourceVersion": version},
                "columnDefinitions": null,
                "rows": [],
            }),
        };
        self.line("BOOKMARK", &object)
    }

    fn line(&self, word: &str, object: &impl Serialize) -> Bytes {
        let mut out = Vec::new();
        write_line(&mut out, word, object);
        out.into()
    }
}

fn table_of(object: &Object, columns: bool, options: TableOptions) -> wire::Table {
    let version = object.metadata().resource_version.as_deref();
    let version = version.and_then(|version| version.parse().ok());
    table::table(object.kind(), std::slice::from_ref(object), version, columns, options)
}

/// Our own types serialise into memory without fail; should one not, its line is left out rather than cut short.
fn write_line(out: &mut Vec<u8>, word: &str, object: &impl Serialize) {
    match serde_json::to_vec(&WatchLine { event: word, object }) {
        Ok(line) => {
            out.extend(line);
            out.push(b'\n');
        }
        Err(error) => tracing::error!(%error, "a watch event could not be serialised"),
    }
}
