//! Modules through the broker itself, block by block: resumed after a power cut, once for all who want the same, as a difference.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use podling::artifact::{BlockRequest, serve};
use podling::image::Digest;
use podling::mqtt::envelope::digest;
use podling::mqtt::intent::Artifact;

use super::rig::{Intent, NODE, Rig};
use crate::support::{guest, wait_for};

/// After so many bytes what came is synced.
const SYNCED: u64 = 1 << 20;

/// A module that does what `counter` does and is as large as wanted: Wasm lets anybody add sections that mean nothing.
fn module(size: usize, seed: u8) -> Vec<u8> {
    let mut bytes = std::fs::read(guest("counter")).unwrap();
    let mut state = u32::from(seed);
    let padding = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    let mut section = vec![7];
    section.extend(b"padding");
    section.extend(padding.take(size));
    bytes.push(0);
    let mut length = section.len();
    while length >= 0x80 {
        bytes.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap());
    bytes.extend(section);
    bytes
}

fn artifact(image: &str, bytes: &[u8]) -> Artifact {
    Artifact {
        image: image.to_owned(),
        digest: digest(bytes),
        size: bytes.len() as u64,
        media_type: String::new(),
        sources: vec!["mqtt:".to_owned()],
        deltas: vec![],
    }
}

/// An intent whose one module is this.
fn intent(rig: &Rig, pod: &str, bytes: &[u8]) -> Intent {
    let mut intent = rig.intent(pod, "");
    intent.intent.artifacts = vec![artifact("counter:v1", bytes)];
    intent
}

/// Whoever has the modules and is asked for them.
#[derive(Default)]
struct Publisher {
    contents: BTreeMap<Digest, Vec<u8>>,
    /// Blocks that are given before it falls silent.
    left: AtomicU64,
    asked: Mutex<Vec<BlockRequest>>,
    bytes: AtomicU64,
}

impl Publisher {
    fn new(contents: &[&[u8]], blocks: u64) -> Arc<Self> {
        let contents = contents.iter().map(|bytes| (digest(bytes), bytes.to_vec())).collect();
        Arc::new(Self { contents, left: AtomicU64::new(blocks), ..Self::default() })
    }

    fn asked(&self) -> Vec<BlockRequest> {
        self.asked.lock().unwrap().clone()
    }

    fn answer(&self, rig: &Rig, request: &BlockRequest) {
        self.asked.lock().unwrap().push(*request);
        let Some(content) = self.contents.get(&request.digest) else { return };
        let mut read = |offset: u64, into: &mut [u8]| {
            let start = usize::try_from(offset).unwrap();
            into.copy_from_slice(&content[start..start + into.len()]);
            Ok(())
        };
        for block in serve::answer(request, content.len() as u64, &mut read) {
            let took = self
                .left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if took.is_err() {
                return;
            }
            let block = block.unwrap();
            self.bytes.fetch_add(block.len() as u64, Ordering::SeqCst);
            rig.publish_block(request.transfer, &block);
        }
    }
}

/// Answers what the node asks for while `work` goes on.
fn offering<T>(rig: &Rig, publisher: &Publisher, work: impl FnOnce() -> T) -> T {
    let mut listener = rig.follow(&format!("pods/v1/acme/s/{NODE}/get"));
    let lines = BufReader::new(listener.stdout.take().unwrap()).lines();
    let listener = Mutex::new(listener);
    let hang_up = || {
        let mut listener = listener.lock().unwrap();
        let _ = listener.kill();
        let _ = listener.wait();
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for line in lines.map_while(Result::ok) {
                publisher.answer(rig, &BlockRequest::parse(line.as_bytes()).unwrap());
            }
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        hang_up();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn a_module_comes_through_the_broker_once_for_two_pods_and_is_gone_on_with_after_a_power_cut() {
    let Some(rig) = Rig::start() else { return };
    let mut node = rig.node();
    let bytes = module(1_500_000, 1);
    // Blocks of 32 KiB: more than a MiB, after which what came is synced and counts after a power cut.
    let publisher = Publisher::new(&[&bytes], 44);
    offering(&rig, &publisher, || {
        let both = [intent(&rig, "one", &bytes), intent(&rig, "two", &bytes)];
        for intent in &both {
            rig.send(&rig.sign(intent));
        }
        wait_for("the first blocks to be given", || {
            (publisher.left.load(Ordering::SeqCst) == 0).then_some(())
        });
        rig.wait_status("two", "fetching", |s| s["rollout"]["stage"] == "Fetching");
        wait_for("what came to be on the disk", || {
            let parts = node.path("state/images");
            let length = |entry: std::fs::DirEntry| entry.metadata().map_or(0, |meta| meta.len());
            walk(&parts)
                .into_iter()
                .map(length)
                .find(|length| (SYNCED + 1..1_500_000).contains(length))
        });
        let first: BTreeSet<u32> = publisher.asked().iter().map(|r| r.transfer).collect();
        assert_eq!(first.len(), 1, "one transfer for both");
        node.power_cut();
        let before = publisher.asked().len();
        publisher.left.store(u64::MAX, Ordering::SeqCst);
        node.boot();
        for name in ["one", "two"] {
            rig.wait_status(name, "committed", |s| s["rollout"]["stage"] == "Committed");
            node.wait_ready(name);
        }
        let after = publisher.asked().split_off(before);
        assert!(after[0].offset >= SYNCED, "{:?}", after[0]);
        let second: BTreeSet<u32> = after.iter().map(|r| r.transfer).collect();
        assert_eq!(second.len(), 1);
        assert!(first.is_disjoint(&second), "late blocks of the first life are told apart");
    });
}

fn walk(dir: &std::path::Path) -> Vec<std::fs::DirEntry> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().map_while(Result::ok);
    entries
        .flat_map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { vec![entry] })
        .collect()
}

#[test]
fn what_the_node_has_no_room_for_is_not_asked_for() {
    let Some(rig) = Rig::start() else { return };
    let settings = rig.node_configuration("artifacts: {maxBytes: 100000}\n");
    let node = crate::support::Node::start_with(&settings);
    let bytes = module(1000, 2);
    let publisher = Publisher::new(&[&bytes], u64::MAX);
    offering(&rig, &publisher, || {
        let mut huge = intent(&rig, "web", &bytes);
        huge.intent.artifacts[0].size = 100_001;
        rig.send(&rig.sign(&huge));
        let status = rig.wait_status("web", "failed", |s| s["rollout"]["stage"] == "Failed");
        assert_eq!(status["rollout"]["reason"], "FetchFailed", "{status}");
        assert!(publisher.asked().is_empty(), "not one block");
        // The next generation is right, and comes.
        rig.deliver(&intent(&rig, "web", &bytes));
        node.wait_ready("web");
    });
}

// What runs only modules that were compiled elsewhere makes no differences either.
#[cfg(feature = "compiler")]
#[test]
fn a_new_version_comes_as_a_difference_from_the_one_that_is_here() {
    use podling::artifact::delta;
    use podling::mqtt::intent::Delta;

    let Some(rig) = Rig::start() else { return };
    let node = rig.node();
    let old = module(300_000, 3);
    let mut new = old.clone();
    let middle = new.len() / 2;
    new[middle..middle + 5].copy_from_slice(b"other");
    let patch = delta::make(&old, &new).unwrap();
    assert!(patch.len() < new.len() / 20, "{}", patch.len());
    let publisher = Publisher::new(&[&old, &new, &patch], u64::MAX);
    offering(&rig, &publisher, || {
        rig.deliver(&intent(&rig, "web", &old));
        let before = (publisher.asked().len(), publisher.bytes.load(Ordering::SeqCst));
        let mut next = intent(&rig, "web", &new);
        next.intent.artifacts[0].deltas = vec![Delta {
            base: digest(&old),
            format: delta::FORMAT.to_owned(),
            digest: digest(&patch),
            size: patch.len() as u64,
            sources: vec!["mqtt:".to_owned()],
        }];
        rig.deliver(&next);
        node.wait_ready("web");
        let asked: BTreeSet<Digest> =
            publisher.asked()[before.0..].iter().map(|request| request.digest).collect();
        assert_eq!(asked, [digest(&patch)].into(), "the whole was not asked for");
        let bytes = publisher.bytes.load(Ordering::SeqCst) - before.1;
        assert!(bytes < new.len() as u64 / 10, "{bytes}");
    });
}
