//! Every way here, against servers and a broker that misbehave.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::testkit::registry;

mod broker;
#[cfg(feature = "compiler")]
mod delta;
mod http;

use std::sync::Mutex;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::clock::Clock;

use super::*;

use registry::{Door, Fault, Registry, USER};

/// A module with one custom section of `size` bytes.
fn module(fill: u8, size: u32) -> Vec<u8> {
    let mut bytes = b"\0asm\x01\0\0\0\0".to_vec();
    // A length in five groups of seven bits, as long as it could be.
    bytes.extend([0, 7, 14, 21].map(|shift| (size >> shift).to_le_bytes()[0] | 0x80));
    bytes.push((size >> 28).to_le_bytes()[0]);
    bytes.extend((0..size).map(|at| (at / 251).to_le_bytes()[0] ^ fill));
    bytes
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::new(Sha256::digest(bytes).into())
}

/// A node without pods.
struct Node {
    _dir: TempDir,
    fetcher: Fetcher,
}

const QUICK: (Duration, Duration, Duration) =
    (Duration::from_millis(5), Duration::from_secs(20), SLICE);

impl Node {
    fn new() -> Self {
        Self::with(ArtifactSettings::default(), Keyring::default())
    }

    fn with(settings: ArtifactSettings, keyring: Keyring) -> Self {
        Self::with_times(settings, keyring, QUICK)
    }

    fn with_times(
        settings: ArtifactSettings,
        keyring: Keyring,
        times: (Duration, Duration, Duration),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = ImageStore::open(&dir.path().join("images")).unwrap();
        let store = Arc::new(store);
        let fetcher = Fetcher::with_times(store, settings, keyring, Clock::start(), times);
        Self { _dir: dir, fetcher }
    }

    async fn fetch(&self, bytes: &[u8], sources: &[&str]) -> Result<Fetched, FetchError> {
        self.fetch_hearing(bytes, sources).await.0
    }

    /// The outcome, and all progress that was heard.
    async fn fetch_hearing(
        &self,
        bytes: &[u8],
        sources: &[&str],
    ) -> (Result<Fetched, FetchError>, Vec<Progress>) {
        let heard = Mutex::new(Vec::new());
        let hear = |progress: &Progress| heard.lock().unwrap().push(progress.clone());
        let fetched = self.fetcher.fetch(want(bytes, sources), &hear);
        let limit = Duration::from_secs(120);
        let outcome = tokio::time::timeout(limit, fetched).await.expect("it ends");
        (outcome, heard.into_inner().unwrap())
    }

    /// Bytes of the part that a broken transfer left.
    fn left(&self, bytes: &[u8]) -> u64 {
        let (digest, content) = (digest_of(bytes), Content::Module);
        match self.fetcher.store().begin(Expected { digest, content, bytes_max: 1 << 30 }).unwrap()
        {
            Begun::Part(part) => std::fs::metadata(part.path()).map_or(0, |meta| meta.len()),
            other @ (Begun::Here(_) | Begun::Busy) => panic!("{other:?}"),
        }
    }
}

fn want(bytes: &[u8], sources: &[&str]) -> Want {
    let sources = sources.iter().map(|text| Source::parse(text).unwrap()).collect();
    Want::module(digest_of(bytes), bytes.len() as u64, sources)
}

#[track_caller]
fn came(outcome: Result<Fetched, FetchError>, bytes: &[u8]) {
    let fetched = outcome.unwrap();
    assert_eq!((fetched.digest, fetched.new), (digest_of(bytes), true));
    assert!(std::fs::read(&fetched.path).unwrap() == bytes);
}

#[tokio::test]
async fn places_are_tried_in_turn_and_all_are_named_when_none_has_it() {
    let (registry, node, bytes) = (Registry::start().await, Node::new(), module(1, 5000));
    let nowhere = "https://localhost:1/web.wasm";
    let unknown = format!("oci://{}/acme/web", registry.host());
    let error = node.fetch(&bytes, &[nowhere, &unknown, "mqtt:"]).await.unwrap_err();
    let said = error.to_string();
    assert!(
        said.starts_with(&format!("cannot fetch {}: cannot reach {nowhere}", digest_of(&bytes)))
    );
    assert!(said.contains(&registry.host()), "{said}");
    assert!(said.contains("does not know it: repository name not known to registry"), "{said}");
    assert!(said.ends_with("; there is no broker to ask"), "{said}");
    assert!(!error.is_unreachable());
    let file = registry.put_file("/web.wasm", &bytes);
    came(node.fetch(&bytes, &[nowhere, &unknown, &file]).await, &bytes);
    // It is here now: no place is asked.
    registry.log();
    let again = node.fetch(&bytes, &[&file]).await.unwrap();
    assert_eq!((again.new, registry.log()), (false, Vec::new()));
}

#[tokio::test]
async fn a_small_artifact_may_come_with_the_question() {
    let (node, bytes) = (Node::new(), module(1, 5000));
    let right = Source::Inline(bytes.clone().into()).into();
    let wrong: String = Source::Inline(module(2, 5000).into()).into();
    let error = node.fetch(&bytes, &[&wrong]).await.unwrap_err();
    assert_eq!(error.reason(), "DigestMismatch", "{error}");
    let sources: [String; 2] = [wrong, right];
    came(node.fetch(&bytes, &sources.each_ref().map(String::as_str)).await, &bytes);
}

#[tokio::test]
async fn what_came_from_one_place_is_gone_on_with_at_the_next() {
    let (registry, node, bytes) = (Registry::start().await, Node::new(), module(1, 900_000));
    let one = registry.put_file("/one.wasm", &bytes);
    let two = registry.put_file("/two.wasm", &bytes);
    registry.plan([Fault::CutAfter(300_000), Fault::Status(404, "moved away"), Fault::None]);
    came(node.fetch(&bytes, &[&one, &two]).await, &bytes);
    assert_eq!(
        registry.log(),
        ["GET /one.wasm", "GET /one.wasm bytes=300000-", "GET /two.wasm bytes=300000-"]
    );
}

#[tokio::test]
async fn wrong_content_never_becomes_visible_and_the_next_place_begins_anew() {
    let (registry, node, bytes) = (Registry::start().await, Node::new(), module(1, 900_000));
    let one = registry.put_file("/one.wasm", &bytes);
    let two = registry.put_file("/two.wasm", &bytes);
    for fault in [Fault::Flip(500_000), Fault::Page] {
        registry.plan([fault]);
        came(node.fetch(&bytes, &[&one, &two]).await, &bytes);
        // A page is told by its size; a flipped bit, by the digest.
        assert_eq!(registry.log(), ["GET /one.wasm", "GET /two.wasm"]);
        let image = crate::image::parse_reference(&digest_of(&bytes).to_string(), None).unwrap();
        node.fetcher.store().rm(&image).unwrap();
    }
    registry.plan([Fault::Flip(500_000), Fault::Flip(1000)]);
    let error = node.fetch(&bytes, &[&one, &two]).await.unwrap_err();
    assert_eq!((error.reason(), node.left(&bytes)), ("DigestMismatch", 0), "{error}");
}

#[tokio::test]
async fn a_damaged_beginning_costs_one_more_attempt_at_the_same_place() {
    let (registry, node, bytes) = (Registry::start().await, Node::new(), module(1, 2_500_000));
    let one = registry.put_file("/one.wasm", &bytes);
    registry.plan([Fault::CutAfter(2_200_000), Fault::Status(404, "")]);
    node.fetch(&bytes, &[&one]).await.unwrap_err();
    assert_eq!(node.left(&bytes), 2_200_000);
    registry.log();
    let part = {
        let (digest, content) = (digest_of(&bytes), Content::Module);
        let expected = Expected { digest, content, bytes_max: 1 << 30 };
        let Begun::Part(part) = node.fetcher.store().begin(expected).unwrap() else { panic!() };
        part.path().to_owned()
    };
    let mut rotten = std::fs::read(&part).unwrap();
    rotten[700_000] ^= 1;
    std::fs::write(&part, rotten).unwrap();
    came(node.fetch(&bytes, &[&one]).await, &bytes);
    assert_eq!(registry.log(), ["GET /one.wasm bytes=2097152-", "GET /one.wasm"]);
}

#[tokio::test]
async fn two_who_want_the_same_share_one_transfer() {
    let (registry, node, bytes) = (Registry::start().await, Node::new(), module(1, 900_000));
    let file = registry.put_file("/web.wasm", &bytes);
    let sources = [file.as_str()];
    let (one, two, three) = tokio::join!(
        node.fetch_hearing(&bytes, &sources),
        node.fetch_hearing(&bytes, &sources),
        node.fetch(&bytes, &["https://localhost:1/web.wasm"]),
    );
    for outcome in [one.0, two.0, three] {
        came(outcome, &bytes);
    }
    assert_eq!(registry.log(), ["GET /web.wasm"]);
    for heard in [one.1, two.1] {
        assert!(heard.is_sorted_by_key(|progress| progress.bytes), "{heard:?}");
        let last = heard.last().unwrap();
        assert_eq!((last.total, last.source.as_str()), (Some(bytes.len() as u64), file.as_str()));
    }
}

#[tokio::test]
async fn one_whose_places_are_others_tries_them_when_the_shared_transfer_fails() {
    let (registry, node, bytes) = (Registry::start().await, Node::new(), module(1, 5000));
    let file = registry.put_file("/web.wasm", &bytes);
    let missing = format!("oci://{}/acme/web", registry.host());
    let (wrong, right) = ([missing.as_str()], [file.as_str()]);
    let (one, two) = tokio::join!(node.fetch(&bytes, &wrong), node.fetch(&bytes, &right));
    assert!(one.is_err() || one.is_ok_and(|fetched| fetched.digest == digest_of(&bytes)));
    came(two, &bytes);
}

#[tokio::test]
async fn a_transfer_ends_with_the_last_who_waits_and_is_gone_on_with_later() {
    let (registry, node, bytes) = (Registry::start().await, Node::new(), module(1, 3_000_000));
    let file = registry.put_file("/web.wasm", &bytes);
    registry.plan([Fault::HangAfter(2_500_000)]);
    let (heard, mut hear) = tokio::sync::mpsc::channel(1000);
    let tell = move |progress: &Progress| heard.try_send(progress.bytes).unwrap();
    {
        let sources = [file.as_str()];
        let fetch = node.fetcher.fetch(want(&bytes, &sources), &tell);
        let other = node.fetcher.fetch(want(&bytes, &sources), &tell);
        let mut fetch = Box::pin(fetch);
        {
            let mut other = Box::pin(other);
            tokio::select! {
                _ = &mut fetch => panic!("it hangs"),
                _ = &mut other => panic!("it hangs"),
                () = async { while hear.recv().await.unwrap() < 2_100_000 {} } => {}
            }
        }
        // One is gone; for the other it goes on.
        tokio::select! {
            _ = &mut fetch => panic!("it hangs"),
            () = async { while hear.recv().await.unwrap() < 2_400_000 {} } => {}
        }
    }
    // Nobody waits any more. The part is free as soon as the task has noticed.
    registry.log();
    came(node.fetch(&bytes, &[&file]).await, &bytes);
    assert_eq!(registry.log(), ["GET /web.wasm bytes=2097152-"]);
}

/// Waits until that is told.
async fn told(
    hear: &mut tokio::sync::mpsc::Receiver<Progress>,
    is_it: impl Fn(&Progress) -> bool,
) -> Progress {
    let heard = async {
        loop {
            let now = hear.recv().await.unwrap();
            if is_it(&now) {
                return now;
            }
        }
    };
    in_time(heard).await
}

/// What takes so long never happens.
async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.unwrap()
}

#[tokio::test]
async fn while_the_node_is_short_of_memory_nothing_is_asked_for_and_what_is_here_is_found() {
    let (registry, node) = (Registry::start().await, Node::new());
    let (here, new) = (module(1, 5000), module(2, 5000));
    let files = [registry.put_file("/here.wasm", &here), registry.put_file("/new.wasm", &new)];
    came(node.fetch(&here, &[&files[0]]).await, &here);
    registry.log();
    node.fetcher.hold(true);
    assert!(!node.fetch(&here, &[&files[0]]).await.unwrap().new);
    let (heard, mut hear) = tokio::sync::mpsc::channel(1000);
    let tell = move |now: &Progress| heard.try_send(now.clone()).unwrap();
    let sources = [files[1].as_str()];
    let mut fetch = Box::pin(node.fetcher.fetch(want(&new, &sources), &tell));
    tokio::select! {
        _ = &mut fetch => panic!("it is held"),
        now = told(&mut hear, |now| now.held) => assert_eq!(now.source, HELD),
    }
    assert_eq!(registry.log(), Vec::<String>::new());
    registry.plan([Fault::HangAfter(2_000)]);
    node.fetcher.hold(false);
    tokio::select! {
        _ = &mut fetch => panic!("it hangs"),
        now = told(&mut hear, |now| now.bytes == 2_000) => {
            assert_eq!((now.held, now.source), (false, files[1].clone()));
        }
    }
    drop(fetch);
    came(node.fetch(&new, &[&files[1]]).await, &new);
    assert!(!registry.log().is_empty());
}

#[tokio::test]
async fn those_who_may_not_begin_hold_up_nobody_who_wants_what_is_here() {
    let (registry, node) = (Registry::start().await, Node::new());
    let here = module(0, 5000);
    let file = registry.put_file("/here.wasm", &here);
    came(node.fetch(&here, &[&file]).await, &here);
    node.fetcher.hold(true);
    let mut held = tokio::task::JoinSet::new();
    let (tell, mut hear) = tokio::sync::mpsc::channel(1000);
    for fill in 1..=5 {
        let (bytes, fetcher, tell) = (module(fill, 5000), node.fetcher.clone(), tell.clone());
        let file = registry.put_file(&format!("/{fill}.wasm"), &bytes);
        held.spawn(async move {
            let told = |now: &Progress| {
                if now.held {
                    tell.try_send(()).unwrap();
                }
            };
            came(fetcher.fetch(want(&bytes, &[&file]), &told).await, &bytes);
        });
    }
    for _ in 1..=5 {
        in_time(hear.recv()).await.unwrap();
    }
    let found = in_time(node.fetch(&here, &[&file])).await;
    assert!(!found.unwrap().new);
    assert_eq!(registry.log(), ["GET /here.wasm"]);
    node.fetcher.hold(false);
    while let Some(came) = in_time(held.join_next()).await {
        came.unwrap();
    }
}

#[tokio::test]
async fn what_is_too_large_for_this_node_is_not_begun() {
    let registry = Registry::start().await;
    let settings = ArtifactSettings { max_bytes: Some(4000), ..ArtifactSettings::default() };
    let (node, bytes) = (Node::with(settings, Keyring::default()), module(1, 5000));
    let file = registry.put_file("/web.wasm", &bytes);
    let error = node.fetch(&bytes, &[&file]).await.unwrap_err();
    assert_eq!((error.reason(), registry.log()), ("ArtifactTooLarge", Vec::new()));
    // Neither where the size is only told by the server.
    let unknown = Want { size: None, ..want(&bytes, &[&file]) };
    let error = node.fetcher.fetch(unknown, &|_| {}).await.unwrap_err();
    assert_eq!(error.reason(), "ArtifactTooLarge");
}

#[tokio::test]
async fn servers_that_hang_hold_up_no_other_and_are_gone_on_with() {
    let registry = Registry::start().await;
    let times = (QUICK.0, QUICK.1, Duration::from_millis(200));
    let node = Node::with_times(ArtifactSettings::default(), Keyring::default(), times);
    registry.plan([300_000; 3].map(Fault::HangAfter));
    let mut hanging = tokio::task::JoinSet::new();
    let (tell, mut hear) = tokio::sync::mpsc::channel(64);
    for fill in 1..=3 {
        let tell = tell.clone();
        let (bytes, fetcher) = (module(fill, 900_000), node.fetcher.clone());
        let file = registry.put_file(&format!("/{fill}.wasm"), &bytes);
        hanging.spawn(async move {
            let told = |progress: &Progress| {
                if progress.bytes == 300_000 {
                    let _ = tell.try_send(());
                }
            };
            came(fetcher.fetch(want(&bytes, &[&file]), &told).await, &bytes);
        });
    }
    for _ in 1..=3 {
        hear.recv().await;
    }
    let bytes = module(4, 5000);
    came(node.fetch(&bytes, &[&registry.put_file("/4.wasm", &bytes)]).await, &bytes);
    // The one that made way has its turn again; the others go on hanging, for nobody waits.
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, hanging.join_next()).await.unwrap().unwrap().unwrap();
    assert!(registry.log().iter().any(|line| line.contains("bytes=")), "it goes on, not anew");
}
