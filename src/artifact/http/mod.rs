//! HTTP(S) as artifacts need it: bounded answers, and files that are gone on with where they broke off.
//!
//! Owns: the client with its TLS, what may be asked without TLS, redirects, ranges and repetitions. Not: what a registry's
//! answers mean (`registry`), nor who has credentials (`access`).
//!
//! ```text
//!  download   GET Range: bytes=N-  ─► 206  the rest                         breaks off: again from where it is, as long as
//!                                  ─► 200  all of it: N bytes are skipped   something came; else after 1, 2, 4 … seconds,
//!                                  ─► 416  begun anew, once                 a few times
//! ```
//!
//! TLS is rustls with ring; authorities are the system's and the configuration's. A redirect never leads from TLS to none.
//! The client is made when it is first needed: a gateway that fetches over its broker never holds the system's authorities
//! in memory.

mod access;
mod tls;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE,
    RETRY_AFTER,
};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Response, StatusCode, Url};

use super::failure::{Said, SourceError};
use super::intake::Intake;
use super::settings::{ArtifactSettings, is_loopback};
use super::source::{host_of, shown};

pub(super) use access::Access;
pub use tls::SetupError;

/// Time to a connection, TLS included. A mobile link needs some seconds for the first packet alone.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(30);

/// Time without one byte after which a connection is dead.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Time for a small question and its answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);

/// Longest body that is read to be quoted in an error, bytes.
const COMPLAINT_BYTES_MAX: usize = 4096;

const REDIRECTS_MAX: usize = 5;

/// Attempts in a row that bring nothing, before a place is given up. More would only delay the next place, and whoever asked
/// asks again, with a back-off of his own.
const ATTEMPTS_MAX: u32 = 4;

/// Longest wait that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// See the header. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Http(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Arc<ArtifactSettings>,
    /// For everybody else, through the environment's proxy if it names one; and for this machine itself.
    clients: [OnceLock<Client>; 2],
    /// Unit of the waits between attempts.
    retry: Duration,
}

/// A small answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Http {
    #[must_use]
    pub(super) fn new(settings: Arc<ArtifactSettings>, retry: Duration) -> Self {
        Self(Arc::new(Inner { settings, clients: Default::default(), retry }))
    }

    #[must_use]
    pub(super) fn settings(&self) -> &ArtifactSettings {
        &self.0.settings
    }

    /// Whether a URL may be asked at all.
    pub(super) fn check(&self, url: &Url) -> Result<(), SourceError> {
        let host = host_of(url);
        if url.scheme() != "https" && !self.0.settings.allows_plain(&host) {
            return Err(SourceError::Plain(host));
        }
        Ok(())
    }

    /// Asks for something small. Any status is an answer; a body longer than `bytes_max` is none.
    pub(super) async fn ask(
        &self,
        url: &Url,
        accept: &str,
        access: &mut Access,
        bytes_max: usize,
    ) -> Result<Answer, SourceError> {
        let place = shown(url);
        let asking = async {
            let response = self.send(url, accept, None, access).await?;
            let (status, headers) = (response.status(), response.headers().clone());
            let body = read_at_most(response, &place, bytes_max).await?;
            let body = body.ok_or_else(|| SourceError::Protocol {
                place: place.clone(),
                what: format!("its answer is longer than {bytes_max} bytes"),
            })?;
            Ok(Answer { status, headers, body })
        };
        match tokio::time::timeout(ANSWER_TIME_MAX, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(SourceError::Status {
                place,
                status: StatusCode::REQUEST_TIMEOUT.as_u16(),
                said: Said::new("no answer in time"),
            }),
        }
    }

    /// Brings what is missing of a file.
    pub(super) async fn download(
        &self,
        url: &Url,
        access: &mut Access,
        intake: &mut Intake,
    ) -> Result<(), SourceError> {
        let mut in_vain = 0;
        let mut may_begin_anew = true;
        loop {
            let before = intake.length();
            let error = match self.attempt(url, access, intake).await {
                Ok(()) => return Ok(()),
                Err(Attempted::Anew) if may_begin_anew => {
                    may_begin_anew = false;
                    intake.begin_anew();
                    continue;
                }
                Err(Attempted::Anew) => {
                    return Err(SourceError::Protocol {
                        place: shown(url),
                        what: "it refuses to send the file from its start".to_owned(),
                    });
                }
                Err(Attempted::Failed(error, wait)) if error.is_transient() => (error, wait),
                Err(Attempted::Failed(error, _)) => return Err(error),
            };
            in_vain = if intake.length() > before { 1 } else { in_vain + 1 };
            let (error, wait) = error;
            if in_vain >= ATTEMPTS_MAX {
                return Err(error);
            }
            let doubled = self.0.retry.saturating_mul(1 << (in_vain - 1));
            let wait = wait.unwrap_or(doubled).min(RETRY_AFTER_MAX);
            tracing::debug!(source = shown(url), %error, ?wait, "the download broke off");
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(
        &self,
        url: &Url,
        access: &mut Access,
        intake: &mut Intake,
    ) -> Result<(), Attempted> {
        let (place, from) = (shown(url), intake.length());
        let range = (from > 0).then_some(from);
        let mut response = self.send(url, "*/*", range, access).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && access.challenged(self, response.headers()).await?
        {
            response = self.send(url, "*/*", range, access).await?;
        }
        let skip = match response.status() {
            StatusCode::OK => from,
            StatusCode::PARTIAL_CONTENT if range.is_some() => 0,
            StatusCode::RANGE_NOT_SATISFIABLE if range.is_some() => return Err(Attempted::Anew),
            _ => {
                let wait = retry_after(response.headers());
                return Err(Attempted::Failed(complaint(response, &place).await, wait));
            }
        };
        let size = if skip > 0 || range.is_none() {
            response.content_length()
        } else {
            let range = content_range(response.headers());
            let (start, size) = range.ok_or_else(|| SourceError::Protocol {
                place: place.clone(),
                what: "a part of a file came without its range".to_owned(),
            })?;
            if start != from {
                let what =
                    format!("bytes from {start} came, where those from {from} were asked for");
                return Err(SourceError::Protocol { place, what }.into());
            }
            size
        };
        self.settle_size(&place, size, intake).await?;
        self.stream(response, &place, skip, intake).await?;
        match intake.total() {
            Some(expected) if intake.length() < expected => {
                let found = intake.length();
                Err(SourceError::Short { place, expected, found }.into())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Compares, or learns, the size of the whole.
    async fn settle_size(
        &self,
        place: &str,
        size: Option<u64>,
        intake: &mut Intake,
    ) -> Result<(), SourceError> {
        match (intake.total(), size) {
            (Some(expected), Some(found)) if expected != found => {
                Err(SourceError::Size { place: place.to_owned(), expected, found })
            }
            (None, Some(found)) => Ok(intake.admit(found).await?),
            (None, None) => Err(SourceError::Protocol {
                place: place.to_owned(),
                what: "it does not tell the size of the file".to_owned(),
            }),
            (Some(_), _) => Ok(()),
        }
    }

    async fn stream(
        &self,
        response: Response,
        place: &str,
        mut skip: u64,
        intake: &mut Intake,
    ) -> Result<(), SourceError> {
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(cause) => {
                    // What came is worth keeping.
                    intake.flush().await?;
                    let cause = cause.without_url();
                    return Err(SourceError::Broken { place: place.to_owned(), cause });
                }
            };
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= skipped as u64;
            intake.put(&chunk[skipped..]).await?;
        }
        Ok(intake.flush().await?)
    }

    async fn send(
        &self,
        url: &Url,
        accept: &str,
        from: Option<u64>,
        access: &Access,
    ) -> Result<Response, SourceError> {
        self.check(url)?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Ok(accept) = HeaderValue::from_str(accept) {
            headers.insert(ACCEPT, accept);
        }
        if let Some(from) = from {
            headers.insert(
                RANGE,
                HeaderValue::from_str(&format!("bytes={from}-")).map_err(|_| {
                    SourceError::Protocol { place: shown(url), what: "no range".to_owned() }
                })?,
            );
        }
        if let Some(authorization) = access.header() {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let sent = self.client(url)?.get(url.clone()).headers(headers).send().await;
        sent.map_err(|cause| SourceError::Unreachable {
            place: shown(url),
            cause: cause.without_url(),
        })
    }

    fn client(&self, url: &Url) -> Result<&Client, SetupError> {
        let local = is_loopback(&host_of(url));
        let slot = &self.0.clients[usize::from(local)];
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let settings = Arc::clone(&self.0.settings);
        let redirects = Policy::custom(move |attempt| redirect(&settings, attempt));
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls::client_config(&self.0.settings)?)
            .user_agent(concat!("podling/", env!("CARGO_PKG_VERSION")))
            .redirect(redirects)
            .referer(false)
            .connect_timeout(CONNECT_TIME_MAX)
            .read_timeout(SILENCE_MAX)
            // One transfer uses one connection at a time; an idle one costs memory and keeps a radio awake.
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(Duration::from_secs(10));
        if local {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(SetupError::Client)?;
        Ok(slot.get_or_init(|| client))
    }
}

/// What became of an attempt.
enum Attempted {
    /// The server has no such range: what is here is longer than the file.
    Anew,
    /// With the wait that the server asks for.
    Failed(SourceError, Option<Duration>),
}

impl<E: Into<SourceError>> From<E> for Attempted {
    fn from(error: E) -> Self {
        Self::Failed(error.into(), None)
    }
}

fn redirect(settings: &ArtifactSettings, attempt: Attempt<'_>) -> reqwest::redirect::Action {
    if attempt.previous().len() > REDIRECTS_MAX {
        return attempt.error("too many redirects");
    }
    let is_plain = attempt.url().scheme() != "https";
    let was_plain = attempt.previous().last().is_some_and(|from| from.scheme() != "https");
    if is_plain && !(was_plain && settings.allows_plain(&host_of(attempt.url()))) {
        return attempt.error("a redirect leads away from TLS");
    }
    attempt.follow()
}

/// The error in an answer that is none.
async fn complaint(response: Response, place: &str) -> SourceError {
    let (status, place) = (response.status(), place.to_owned());
    let is_text = response
        .headers()
        .get(reqwest::header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("text/plain") || kind.contains("json"));
    let body = read_at_most(response, &place, COMPLAINT_BYTES_MAX).await.ok().flatten();
    let body = body.filter(|_| is_text).unwrap_or_default();
    refusal(place, status, &body)
}

/// The error for a status, with the words of its body.
pub(super) fn refusal(place: String, status: StatusCode, body: &[u8]) -> SourceError {
    let said = said_in(body);
    let status = status.as_u16();
    match status {
        404 | 410 => SourceError::NotFound { place, said },
        401 | 403 | 407 => SourceError::Denied { place, status, said },
        _ => SourceError::Status { place, status, said },
    }
}

/// A registry's own words (`errors[].message`), or the text.
fn said_in(body: &[u8]) -> Said {
    let text = String::from_utf8_lossy(body);
    let json = serde_json::from_slice::<serde_json::Value>(body).ok();
    let of_registry = json.as_ref().and_then(|json| {
        let first = json.get("errors")?.get(0)?;
        first.get("message").or_else(|| first.get("code"))?.as_str()
    });
    let of_tokens = json.as_ref().and_then(|json| {
        ["error_description", "message", "error", "details"]
            .iter()
            .find_map(|field| json.get(field)?.as_str())
    });
    match (of_registry.or(of_tokens), &json) {
        (Some(words), _) => Said::new(words),
        (None, Some(_)) => Said::default(),
        (None, None) => Said::new(text.lines().next().unwrap_or_default()),
    }
}

/// The body, if it is not longer than that.
async fn read_at_most(
    response: Response,
    place: &str,
    bytes_max: usize,
) -> Result<Option<Bytes>, SourceError> {
    let mut body = response.bytes_stream();
    let mut read = Vec::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|cause| SourceError::Broken {
            place: place.to_owned(),
            cause: cause.without_url(),
        })?;
        if read.len() + chunk.len() > bytes_max {
            return Ok(None);
        }
        read.extend_from_slice(&chunk);
    }
    Ok(Some(read.into()))
}

/// Start and size in `Content-Range: bytes 5-9/10`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _end) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, size.trim().parse().ok()))
}

/// A wait in seconds; a date is not looked at, since a gateway's clock may not know the year.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
