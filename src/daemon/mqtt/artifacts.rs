//! The MQTT source's door to the fetcher, and the fetcher's to the broker.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;

use crate::artifact::{
    BlockChannel, BlockRequest, Blocks, Delta, FetchError, Fetcher, InvalidSource, NotNow, Source,
    Want, delta,
};
use crate::error::chain;
use crate::image::{Digest, Pin};
use crate::mqtt::link::MESSAGE_BYTES_MAX;
use crate::mqtt::protocol::FetchFailure;
use crate::source::mqtt::{Artifacts, Wanted};

/// Requests for blocks that wait for the link. Each transfer has one at a time, and what is lost is asked again.
const REQUESTS_MAX: usize = 16;

/// Requests on their way to the broker.
#[derive(Debug, Default)]
struct Requests {
    waiting: Mutex<VecDeque<Bytes>>,
    some: Notify,
}

impl BlockChannel for Requests {
    fn ask(&self, request: &BlockRequest) -> Result<(), NotNow> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= REQUESTS_MAX {
            return Err(NotNow);
        }
        waiting.push_back(request.to_json().into());
        drop(waiting);
        self.some.notify_one();
        Ok(())
    }

    fn packet_bytes_max(&self) -> usize {
        MESSAGE_BYTES_MAX
    }
}

/// See the header.
#[derive(Debug)]
pub(super) struct Hands {
    fetcher: Fetcher,
    blocks: Blocks,
    requests: Arc<Requests>,
    pin: Mutex<Option<Pin>>,
}

impl Hands {
    pub(super) fn new(fetcher: Fetcher) -> Self {
        let requests = Arc::new(Requests::default());
        let blocks = Blocks::new(Arc::<Requests>::clone(&requests));
        fetcher.set_blocks(blocks.clone());
        Self { fetcher, blocks, requests, pin: Mutex::default() }
    }
}

fn sources(texts: &[String]) -> Result<Vec<Source>, FetchFailure> {
    let invalid = |error: InvalidSource| FetchFailure {
        reason: "InvalidSource".to_owned(),
        message: chain(&error),
        transient: false,
    };
    texts.iter().map(|text| Source::parse(text).map_err(invalid)).collect()
}

fn failed(error: &FetchError) -> FetchFailure {
    FetchFailure {
        reason: error.reason().to_owned(),
        message: chain(error),
        transient: error.may_pass(),
    }
}

#[async_trait]
impl Artifacts for Hands {
    async fn fetch(
        &self,
        wanted: Wanted,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), FetchFailure> {
        let mut want = Want::module(wanted.digest, wanted.size, sources(&wanted.sources)?);
        for way in wanted.deltas.iter().filter(|way| way.format == delta::FORMAT) {
            let sources = sources(&way.sources)?;
            want.deltas.push(Delta { base: way.base, digest: way.digest, size: way.size, sources });
        }
        let fetched = self.fetcher.fetch(want, &|now| progress(now.bytes)).await;
        fetched.map(drop).map_err(|error| failed(&error))
    }

    fn block(&self, _: &str, block: Bytes) {
        self.blocks.deliver(block);
    }

    async fn request(&self) -> Bytes {
        loop {
            let next =
                self.requests.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match next {
                Some(request) => return request,
                None => self.requests.some.notified().await,
            }
        }
    }

    fn connected(&self, connected: bool) {
        if !connected {
            // Nobody is there to answer them; who still wants something asks again.
            self.requests.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        self.blocks.connected(connected);
    }

    fn pin(&self, digests: BTreeSet<Digest>) {
        let pin = self.fetcher.store().pins().hold(digests);
        // The new one holds before the old one lets go.
        *self.pin.lock().unwrap_or_else(PoisonError::into_inner) = Some(pin);
    }
}
