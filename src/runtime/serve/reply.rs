//! Bodies both ways: what a handler is sent, what a client is sent.
//!
//! Owns: the bounds on a request's body, the answers that the host gives by itself, and that a response whose handler failed half-way is
//! broken off and not completed.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use tokio::time::{Sleep, sleep};
use wasmtime_wasi_http::{Error, WasiBody};

use super::HttpLimits;
use super::cork::Corked;
use super::crew::{Asker, Crew};
use super::delivery::{Delivery, Way};
use super::works::Ended;

/// What a handler reads.
pub(super) struct RequestBody {
    incoming: Incoming,
    left: u64,
    limit: u64,
    patience: Duration,
    pause: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    /// A body as these limits allow it.
    pub(super) fn new(incoming: Incoming, limits: &HttpLimits) -> Self {
        let (limit, patience) = (limits.body_bytes_max, limits.client_patience);
        Self { incoming, left: limit, limit, patience, pause: None }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            let patience = self.patience;
            let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(patience)));
            ready!(pause.as_mut().poll(cx));
            return Poll::Ready(Some(Err(Error::ConnectionReadTimeout)));
        };
        self.pause = None;
        let frame = match frame {
            None => return Poll::Ready(None),
            Some(Err(_)) => return Poll::Ready(Some(Err(Error::ConnectionTerminated))),
            Some(Ok(frame)) => frame,
        };
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Poll::Ready(Some(Ok(frame)))
            }
            None => Poll::Ready(Some(Err(Error::HttpRequestBodySize(Some(self.limit))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// What a handler, the body of its response, and whoever asked tell each other.
#[derive(Debug)]
pub(super) struct Link {
    /// The handler failed: what it has not sent will never come.
    pub(super) failed: AtomicBool,
    pub(super) way: Way,
    /// Parts of the response may be held back.
    is_corked: AtomicBool,
    asked: Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    asker: Asker,
    /// Who answers, where that is an instance that has others to answer. Not for ever: it knows of this link.
    crew: Weak<Crew>,
    /// Where parts of the response are held.
    cork: Option<Weak<Corked>>,
    /// How the handler ended, if that is not said otherwise.
    ended: Option<Ended>,
}

impl Link {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            failed: AtomicBool::new(false),
            way: Way::default(),
            is_corked: AtomicBool::new(false),
            asked: Mutex::default(),
        })
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An instance begins with the request. Returns whether anybody still waits for it.
    pub(super) fn taken_by(&self, crew: &Arc<Crew>) -> Asker {
        let mut asked = self.asked();
        asked.crew = Arc::downgrade(crew);
        asked.asker
    }

    /// Parts of the response are held in `cork` from now on, which is told of its handler's turns.
    fn corks(&self, cork: &Arc<Corked>) {
        let mut asked = self.asked();
        let crew = asked.crew.upgrade();
        asked.cork = crew.is_some().then(|| Arc::downgrade(cork));
        drop(asked);
        self.is_corked.store(true, Ordering::SeqCst);
        cork.begins(crew);
    }

    /// Its handler has had a turn; `goes_on`: and has more to do.
    pub(super) fn turn_ended(&self, goes_on: bool) {
        if !self.is_corked.load(Ordering::SeqCst) {
            return;
        }
        let cork = self.asked().cork.as_ref().and_then(Weak::upgrade);
        if let Some(cork) = cork {
            cork.turn_ended(goes_on);
        }
    }

    /// Whoever asked leaves without the answer.
    pub(super) fn leave(&self, asker: Asker) {
        let mut asked = self.asked();
        asked.asker = asker;
        let crew = asked.crew.upgrade();
        drop(asked);
        if let Some(crew) = crew {
            crew.left(self, asker);
        }
        // The time begins that a handler has after its response.
        self.way.set(Delivery::BrokenOff);
    }

    /// The handler ends, and has not told its answer, or not the whole of it.
    pub(super) fn breaks(&self, ended: Ended) {
        self.asked().ended = Some(ended);
        self.failed.store(true, Ordering::Release);
    }

    pub(super) fn ended(&self) -> Option<Ended> {
        self.asked().ended
    }
}

/// What a client reads.
pub(super) enum Reply {
    /// From the handler.
    Handler { body: WasiBody, link: Arc<Link>, cork: Arc<Corked>, complete: bool },
    /// From us.
    Text(Option<&'static str>),
}

impl Reply {
    /// From a handler. What is written of it waits a little for its end.
    pub(super) fn of_handler(body: WasiBody, link: Arc<Link>, cork: Arc<Corked>) -> Self {
        let complete = body.is_end_stream();
        if !complete {
            link.corks(&cork);
        }
        Self::Handler { body, link, cork, complete }
    }

    pub(super) fn is_of_handler(&self) -> bool {
        matches!(self, Self::Handler { .. })
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.get_mut() {
            Self::Text(text) => Poll::Ready(
                text.take().map(|text| Ok(Frame::data(Bytes::from_static(text.as_bytes())))),
            ),
            Self::Handler { body, link, complete, .. } => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                if frame.is_none() && !*complete && link.failed.load(Ordering::Acquire) {
                    // Its end is the store's, not the handler's.
                    return Poll::Ready(Some(Err(Error::HttpResponseIncomplete)));
                }
                *complete |= frame.is_none();
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Handler { body, complete, .. } => *complete || body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => SizeHint::with_exact(text.map_or(0, |text| text.len() as u64)),
            Self::Handler { body, .. } => body.size_hint(),
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Self::Handler { body, link, cork, complete } = self {
            link.is_corked.store(false, Ordering::SeqCst);
            cork.ends();
            let complete = *complete || body.is_end_stream();
            let end = if complete { Delivery::Complete } else { Delivery::BrokenOff };
            link.way.set(end);
        }
    }
}

/// An answer of the host's own.
pub(super) fn refusal(status: StatusCode, text: &'static str) -> Response<Reply> {
    let mut response = Response::new(Reply::Text(Some(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
