//! `pods/NAME/log`: what a module printed, as text, to the end or for as long as it runs.
//!
//! Owns: the options and their refusals (KUBELET.md 18), which container is meant, tail and since, timestamps. Not: the lines, which come
//! from a [`LogSource`]'s ring. A follower that is slower than the module misses lines; it never makes the ring wait or grow.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode};
use bytes::Bytes;
use futures_util::stream;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::board::Object;
use crate::board::logs::{LogCursor, LogLine, LogSource};
use crate::limits::LOG_RING_BYTES_MAX;
use crate::spec::PodKey;

use super::App;
use super::backend::{FieldCause, LogError};
use super::request::{Params, Target};
use super::status::ApiError;
use super::{read, wire};

/// Text read from the ring in one go while following.
const PIECE_BYTES: usize = 32 * 1024;

/// How a log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogOptions {
    container: Option<String>,
    follow: bool,
    previous: bool,
    timestamps: bool,
    since_ns: Option<i64>,
    tail: Option<usize>,
    limit: Option<usize>,
}

impl LogOptions {
    pub(super) fn parse(params: &Params, pod: &str, now_ms: i64) -> Result<Self, ApiError> {
        let mut causes = Vec::new();
        let mut wrong = |field: &str, reason: &str, message: String| {
            let (field, reason) = (field.to_owned(), reason.to_owned());
            causes.push(FieldCause { field, reason, message });
        };
        let mut at_least =
            |field: &str, minimum: i64, rule: &str| -> Result<Option<i64>, ApiError> {
                let value = params.integer(field)?;
                if let Some(value) = value.filter(|value| *value < minimum) {
                    let message = format!("Invalid value: {value}: must be greater than {rule}");
                    wrong(field, "FieldValueInvalid", message);
                }
                Ok(value)
            };
        let limit = at_least("limitBytes", 1, "0")?;
        let tail = at_least("tailLines", 0, "or equal to 0")?;
        let seconds = at_least("sinceSeconds", 1, "0")?;
        let time = params.text("sinceTime").map(parse_time).transpose()?;
        if seconds.is_some() && time.is_some() {
            let message =
                "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified";
            wrong("", "FieldValueForbidden", message.to_owned());
        }
        if params.text("stream").is_some() {
            wrong("stream", "FieldValueForbidden", "Forbidden: may not be specified".to_owned());
        }
        if !causes.is_empty() {
            return Err(ApiError::invalid_options("PodLogOptions", pod, &causes));
        }
        let back = |seconds: i64| {
            now_ms.saturating_sub(seconds.saturating_mul(1000)).saturating_mul(1_000_000)
        };
        let count = |value: i64| usize::try_from(value).unwrap_or(usize::MAX);
        Ok(Self {
            container: params.text("container").map(str::to_owned),
            follow: params.flag("follow"),
            previous: params.flag("previous"),
            timestamps: params.flag("timestamps"),
            since_ns: seconds.map(back).or(time),
            tail: tail.map(count),
            limit: limit.map(count),
        })
    }
}

fn parse_time(text: &str) -> Result<i64, ApiError> {
    let time: jiff::Timestamp = text.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "invalid value for sinceTime: {text:?} is not an RFC 3339 time"
        ))
    })?;
    Ok(i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX))
}

/// Answers with a log.
pub(super) fn serve(
    app: &Arc<App>,
    target: &Target,
    params: &Params,
) -> Result<Response<Body>, ApiError> {
    let object = read::find(app, target)?;
    let Object::Pod(pod) = &object else { return Err(ApiError::no_such_path()) };
    let name = object.name();
    let options = LogOptions::parse(params, name, app.now_ms())?;
    let container = choose_container(pod, options.container.as_deref())?;
    let key = PodKey::new(object.namespace(), name);
    let source = app
        .backend
        .logs(&key, &container, options.previous)
        .map_err(|error| refusal(pod, &container, &error))?;
    let permit = if options.follow {
        Some(Arc::clone(&app.streams).try_acquire_owned().map_err(|_| {
            ApiError::too_many_requests(
                "too many watches and followed logs, please try again later",
            )
        })?)
    } else {
        None
    };
    let reader = Reader::new(Arc::clone(app), source, options, permit);
    let pieces = stream::unfold(reader, |mut reader| async move {
        let piece = reader.next().await?;
        Some((Ok::<_, Infallible>(piece), reader))
    });
    let kind = HeaderValue::from_static("text/plain");
    Ok(wire::bytes_response(StatusCode::OK, kind, Body::from_stream(pieces)))
}

/// The container that is meant: the one named, or the only one (`registry/core/pod/strategy.go`, `LogLocation`).
fn choose_container(pod: &Pod, asked: Option<&str>) -> Result<String, ApiError> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let names = |list: &[k8s_openapi::api::core::v1::Container]| -> Vec<String> {
        list.iter().map(|container| container.name.clone()).collect()
    };
    let regular = names(&spec.containers);
    let init = names(spec.init_containers.as_deref().unwrap_or_default());
    let ephemeral: Vec<String> =
        spec.ephemeral_containers.iter().flatten().map(|c| c.name.clone()).collect();
    if let Some(asked) = asked {
        let known = regular.iter().chain(&init).chain(&ephemeral).any(|known| known == asked);
        return if known {
            Ok(asked.to_owned())
        } else {
            Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}")))
        };
    }
    if let [only] = regular.as_slice() {
        return Ok(only.clone());
    }
    let mut message = format!(
        "a container name must be specified for pod {name}, choose one of: [{}]",
        regular.join(" ")
    );
    for (what, list) in [("init", init), ("debug", ephemeral)] {
        if !list.is_empty() {
            message.push_str(&format!(" or one of the {what} containers: [{}]", list.join(" ")));
        }
    }
    Err(ApiError::bad_request(message))
}

/// The kubelet's sentence for a log that is not there.
fn refusal(pod: &Pod, container: &str, error: &LogError) -> ApiError {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    ApiError::bad_request(match error {
        LogError::NoPod => return ApiError::not_found(crate::board::Kind::Pod, name),
        LogError::NoPrevious => {
            format!("previous terminated container \"{container}\" in pod \"{name}\" not found")
        }
        LogError::NotAvailable => match status_of(pod, container) {
            Some(status) if is_terminated(status) => {
                format!("container \"{container}\" in pod \"{name}\" is terminated")
            }
            _ => format!("container \"{container}\" in pod \"{name}\" is not available"),
        },
        LogError::Waiting => {
            let waiting = status_of(pod, container)
                .and_then(|status| status.state.as_ref())
                .and_then(|state| state.waiting.as_ref())
                .and_then(|waiting| waiting.reason.as_deref());
            let why = match waiting {
                None | Some("") => " - no logs yet".to_owned(),
                Some("ErrImagePull") => ": image can't be pulled".to_owned(),
                Some("ImagePullBackOff") => ": trying and failing to pull image".to_owned(),
                Some(reason) => format!(": {reason}"),
            };
            format!("container \"{container}\" in pod \"{name}\" is waiting to start{why}")
        }
    })
}

fn status_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    lists.into_iter().flatten().flatten().find(|status| status.name == container)
}

fn is_terminated(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.terminated.is_some())
}

struct Reader {
    app: Arc<App>,
    source: Arc<dyn LogSource>,
    changed: watch::Receiver<u64>,
    cursor: LogCursor,
    options: LogOptions,
    /// What was there at the beginning has been read.
    caught_up: bool,
    at_line_start: bool,
    ended: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Reader {
    fn new(
        app: Arc<App>,
        source: Arc<dyn LogSource>,
        options: LogOptions,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let changed = source.changed();
        Self {
            app,
            source,
            changed,
            cursor: LogCursor::START,
            options,
            caught_up: false,
            at_line_start: true,
            ended: false,
            _permit: permit,
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        if !self.caught_up {
            self.caught_up = true;
            let text = self.backlog();
            if !text.is_empty() {
                return Some(text);
            }
        }
        let mut sender_gone = false;
        while self.options.follow && !self.ended {
            self.changed.mark_unchanged();
            let chunk = self.source.read(self.cursor, PIECE_BYTES);
            self.cursor = chunk.next;
            self.ended = chunk.ended || sender_gone;
            if chunk.dropped > 0 {
                tracing::debug!(
                    lines = chunk.dropped,
                    "a log reader was too slow and missed lines"
                );
            }
            let text = self.render(&chunk.lines);
            if !text.is_empty() {
                return Some(text);
            }
            if chunk.lines.is_empty() && !self.ended {
                let stop = self.app.stop.clone();
                tokio::select! {
                    () = stop.cancelled() => return None, // cancel safe
                    changed = self.changed.changed() => sender_gone = changed.is_err(), // cancel safe
                }
            }
        }
        None
    }

    /// What has been printed so far, as far as it is wanted. Tail first, then since, as the kubelet's reader does.
    fn backlog(&mut self) -> Bytes {
        let mut lines = Vec::new();
        let mut bytes = 0;
        // A module that prints faster than we read must not keep us here: twice the ring is more than everything.
        while bytes <= 2 * LOG_RING_BYTES_MAX {
            let chunk = self.source.read(self.cursor, LOG_RING_BYTES_MAX);
            self.cursor = chunk.next;
            self.ended = chunk.ended;
            if chunk.lines.is_empty() {
                break;
            }
            bytes += chunk.lines.iter().map(|line| line.bytes.len() + 1).sum::<usize>();
            lines.extend(chunk.lines);
            if self.ended {
                break;
            }
        }
        let from = self.options.tail.map_or(0, |tail| tail_start(&lines, tail));
        self.render(&lines[from..])
    }

    fn render(&mut self, lines: &[LogLine]) -> Bytes {
        let mut out = Vec::new();
        for line in lines {
            if self.options.since_ns.is_some_and(|since| line.time_ns < since) {
                continue;
            }
            if self.options.timestamps && self.at_line_start {
                out.extend(rfc3339_nano(line.time_ns).bytes());
                out.push(b' ');
            }
            out.extend(&line.bytes);
            if !line.partial {
                out.push(b'\n');
            }
            self.at_line_start = !line.partial;
        }
        if let Some(left) = &mut self.options.limit {
            out.truncate(*left);
            *left -= out.len();
            self.ended |= *left == 0;
        }
        out.into()
    }
}

/// Index of the first of the last `count` whole lines.
fn tail_start(lines: &[LogLine], count: usize) -> usize {
    let mut seen = 0;
    for (at, line) in lines.iter().enumerate().rev() {
        // A line ends here, or the text breaks off here.
        if !line.partial || at + 1 == lines.len() {
            seen += 1;
            if seen > count {
                return at + 1;
            }
        }
    }
    0
}

/// Nine digits always: columns of a log stay aligned (the kubelet's `RFC3339NanoFixed`).
fn rfc3339_nano(time_ns: i64) -> String {
    let seconds = time_ns.div_euclid(1_000_000_000);
    let nanos = time_ns.rem_euclid(1_000_000_000);
    let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{}.{nanos:09}Z", time.to_string().trim_end_matches('Z'))
}
