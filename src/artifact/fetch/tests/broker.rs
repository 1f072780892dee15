//! The broker as a source: a link with a publisher behind it, in one piece.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;

use crate::artifact::broker::{BlockChannel, NotNow};
use crate::artifact::request::BlockRequest;
use crate::artifact::serve;

use super::*;

/// A link to a publisher that has one thing and answers at once; some messages get lost.
#[derive(Debug)]
struct Link {
    bytes: Vec<u8>,
    blocks: OnceLock<Blocks>,
    up: AtomicBool,
    /// Every so many messages, one is lost; 0: none is.
    loses: usize,
    sent: AtomicUsize,
    packet: usize,
    requests: Mutex<Vec<BlockRequest>>,
}

impl Link {
    /// A link that is up, known to the node.
    fn to(node: &Node, bytes: &[u8], loses: usize) -> Arc<Self> {
        let link = Arc::new(Self {
            bytes: bytes.to_vec(),
            blocks: OnceLock::new(),
            up: AtomicBool::new(true),
            loses,
            sent: AtomicUsize::new(0),
            packet: 256 * 1024,
            requests: Mutex::default(),
        });
        let blocks = Blocks::new(Arc::clone(&link) as Arc<dyn BlockChannel>);
        link.blocks.set(blocks.clone()).unwrap();
        blocks.connected(true);
        node.fetcher.set_blocks(blocks);
        link
    }

    fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::SeqCst);
        self.blocks.get().unwrap().connected(up);
    }

    fn asked(&self) -> Vec<BlockRequest> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

impl BlockChannel for Link {
    fn ask(&self, request: &BlockRequest) -> Result<(), NotNow> {
        if !self.up.load(Ordering::SeqCst) {
            return Err(NotNow);
        }
        self.requests.lock().unwrap().push(*request);
        if request.digest != digest_of(&self.bytes) {
            return Ok(());
        }
        let mut read = |offset: u64, into: &mut [u8]| {
            let start = usize::try_from(offset).unwrap();
            into.copy_from_slice(&self.bytes[start..start + into.len()]);
            Ok(())
        };
        for message in serve::answer(request, self.bytes.len() as u64, &mut read) {
            let nth = self.sent.fetch_add(1, Ordering::SeqCst);
            if self.loses == 0 || nth % self.loses != 3 {
                self.blocks.get().unwrap().deliver(Bytes::from(message.unwrap()));
            }
        }
        Ok(())
    }

    fn packet_bytes_max(&self) -> usize {
        self.packet
    }
}

#[tokio::test(start_paused = true)]
async fn an_artifact_comes_block_by_block() {
    let (node, bytes) = (Node::new(), module(1, 3_000_000));
    let link = Link::to(&node, &bytes, 0);
    came(node.fetch(&bytes, &["mqtt:"]).await, &bytes);
    assert_eq!(link.sent.load(Ordering::SeqCst), bytes.len().div_ceil(32 * 1024));
    assert!(link.blocks.get().unwrap().inboxes_open() == 0);
}

#[tokio::test(start_paused = true)]
async fn lost_blocks_are_asked_for_again() {
    let (node, bytes) = (Node::new(), module(1, 1_000_000));
    let link = Link::to(&node, &bytes, 7);
    let (outcome, heard) = node.fetch_hearing(&bytes, &["mqtt:"]).await;
    came(outcome, &bytes);
    assert!(link.sent.load(Ordering::SeqCst) > bytes.len().div_ceil(32 * 1024));
    assert!(heard.len() > 2 && heard.is_sorted_by_key(|progress| progress.bytes));
}

#[tokio::test]
async fn a_broker_that_is_away_is_waited_for_if_nobody_else_can_be_asked() {
    let (node, bytes) = (Node::new(), module(1, 1_000_000));
    let link = Link::to(&node, &bytes, 0);
    link.set_up(false);
    let sources = ["mqtt:"];
    let mut fetch = Box::pin(node.fetch(&bytes, &sources));
    tokio::select! {
        outcome = &mut fetch => panic!("{outcome:?}"),
        () = tokio::task::yield_now() => {}
    }
    assert_eq!(link.asked(), []);
    link.set_up(true);
    came(fetch.await, &bytes);
}

#[tokio::test]
async fn what_came_over_the_broker_is_gone_on_with_over_https_and_the_other_way_round() {
    let (registry, node, bytes) = (Registry::start().await, Node::new(), module(1, 3_000_000));
    let file = registry.put_file("/web.wasm", &bytes);
    let link = Link::to(&node, &bytes, 0);
    registry.plan([Fault::CutAfter(1_500_001), Fault::Status(404, "")]);
    came(node.fetch(&bytes, &[&file, "mqtt:"]).await, &bytes);
    assert_eq!(link.asked()[0].offset, 1_500_001);
}

#[tokio::test]
async fn a_publisher_that_has_it_not_is_given_up_for_the_next_place() {
    let registry = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = ImageStore::open(&dir.path().join("images")).unwrap();
    let times = (Duration::from_millis(5), Duration::from_millis(50), SLICE);
    let (settings, keyring) = (ArtifactSettings::default(), Keyring::default());
    let clock = Clock::start();
    let fetcher = Fetcher::with_times(Arc::new(store), settings, keyring, clock, times);
    let node = Node { _dir: dir, fetcher };
    let bytes = module(1, 3_000_000);
    let file = registry.put_file("/web.wasm", &bytes);
    Link::to(&node, b"something else", 0);
    came(node.fetch(&bytes, &["mqtt:", &file]).await, &bytes);
    let other = module(2, 5000);
    let said = node.fetch(&other, &["mqtt:"]).await.unwrap_err().to_string();
    assert!(said.contains("the broker's publisher sent nothing new for 0 s"), "{said}");
}
