//! The fuzzer for every day: the corpus of the repository, and inputs that grow from it, the same in every run.
//!
//! `PODLING_FUZZ_ROUNDS` (2,000 by default) inputs are made for each target, by the generator that `PODLING_FUZZ_SEED` (1 by
//! default) begins. An input whose trace is new joins the ones that others grow from. One that fails is written to the
//! temporary folder, and its place is told: put it into the corpus, so that it is tried for ever.
//!
//! `PODLING_UPDATE_CORPUS=1 cargo test fuzzing` writes the seeds below into the corpus.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use crate::artifact::block::{Block, Body};
use crate::mqtt::command::{Arguments, Verb};
use crate::mqtt::kit;
use crate::mqtt::protocol::{Config, Publish};
use crate::store::record::{Label, seal};

use super::*;

/// Longest input that is grown. What is longer shows nothing that this does not, and takes long.
const INPUT_BYTES_MAX: usize = 4096;

/// Inputs that others grow from.
const POOL_MAX: usize = 2000;

/// Words that open doors: a mutation that writes letters alone rarely finds them.
const WORDS: &[&str] = &[
    "apiVersion: v1\n",
    "kind: Pod\n",
    "Secret",
    "metadata:",
    "{name: a}",
    "spec:",
    "containers:",
    "- name: ",
    "image: ",
    "---\n",
    "<<: *a",
    "&a ",
    "0644",
    "1e999",
    "null",
    "true",
    "~",
    "\"\"",
    "[]",
    "{}",
    ": ",
    "\n",
    "\t",
    "\u{feff}",
    "podling.dev/encryption: age",
    "sha256:",
    "@",
    "oci://",
    "https://",
    "mqtt:",
    "data:;base64,",
    "pods/v1/acme/n/gw-17/",
    "/pod/default/web",
    "/cmd/logs/1",
    "+",
    "#",
    "$SYS",
    "\"payload\":",
    "\"signatures\":[]",
    ",\"signature\":\"",
    "acme/s/gw-17/node\n",
    "\"deleted\":true",
    "18446744073709551615",
    "-1",
    "\\u0000",
    "podling-record 1 ",
    "pblk\u{1}",
    "pdlt\u{1}",
    "library/",
    "localhost:5000/",
];

/// SplitMix64: small, good enough, the same everywhere.
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let number = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        number ^ (number >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).unwrap();
        usize::try_from(self.throw() % end).unwrap()
    }

    fn byte(&mut self) -> u8 {
        const ODD: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'"', b'{'];
        if self.below(2) == 0 { ODD[self.below(ODD.len())] } else { self.throw().to_le_bytes()[0] }
    }

    /// A range of at most `length_max` bytes.
    fn range(&mut self, bytes: &[u8], length_max: usize) -> std::ops::Range<usize> {
        let start = self.below(bytes.len() + 1);
        let length = self.below(length_max.min(bytes.len() - start) + 1);
        start..start + length
    }

    /// A child of one input, or of two.
    fn grow(&mut self, one: &[u8], other: &[u8]) -> Vec<u8> {
        let mut child = one.to_vec();
        for _ in 0..=self.below(4) {
            self.change(&mut child, other);
        }
        child.truncate(INPUT_BYTES_MAX);
        child
    }

    fn change(&mut self, child: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(child.len() + 1);
        match self.below(8) {
            0 => {
                let bit = self.below(8);
                if let Some(byte) = child.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            1 => {
                let byte = self.byte();
                if let Some(old) = child.get_mut(at) {
                    *old = byte;
                }
            }
            2 => child.insert(at, self.byte()),
            3 => drop(child.drain(self.range(&child.clone(), 40))),
            4 => {
                let copied = child[self.range(child, 60)].to_vec();
                child.splice(at..at, copied);
            }
            5 => {
                let taken = other[self.range(other, 200)].to_vec();
                let replaced = self.range(child, 200);
                child.splice(replaced, taken);
            }
            6 => {
                let word = WORDS[self.below(WORDS.len())].bytes();
                child.splice(at..at, word);
            }
            _ => child.truncate(at),
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

fn corpus_dir(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// The corpus of a target, in the order of its names.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(corpus_dir(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let read = |path: &PathBuf| {
        (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())
    };
    files.iter().map(read).collect()
}

#[track_caller]
fn try_input(name: &str, target: Target, input: &[u8], what: &str) -> Trace {
    catch_unwind(AssertUnwindSafe(|| target(input))).unwrap_or_else(|_| {
        let file = std::env::temp_dir().join(format!("podling-fuzz-{name}-{}", std::process::id()));
        fs::write(&file, input).unwrap();
        panic!("target {name} failed on {what}; the input is in {}", file.display())
    })
}

fn fuzz(name: &str) {
    let target = TARGETS.iter().find(|(own, _)| *own == name).unwrap().1;
    let mut seen = BTreeSet::new();
    let mut pool = Vec::new();
    for (file, input) in corpus(name) {
        seen.insert(try_input(name, target, &input, &file));
        pool.push(input);
    }
    assert!(!pool.is_empty(), "{name} has a corpus");
    let (rounds, seed) = (setting("PODLING_FUZZ_ROUNDS", 2000), setting("PODLING_FUZZ_SEED", 1));
    let mut dice = Dice(seed);
    for round in 0..rounds {
        let (one, other) = (dice.below(pool.len()), dice.below(pool.len()));
        let child = dice.grow(&pool[one], &pool[other]);
        let what = format!("input {round} of seed {seed}");
        if seen.insert(try_input(name, target, &child, &what)) && pool.len() < POOL_MAX {
            pool.push(child);
        }
    }
    println!("{name}: {rounds} inputs from seed {seed}, {} traces", seen.len());
}

#[test]
fn manifests_take_anything() {
    fuzz("manifest");
}

#[test]
fn envelopes_and_their_payloads_take_anything() {
    fuzz("envelope");
}

#[test]
fn what_nodes_say_takes_anything() {
    fuzz("said");
}

#[test]
fn topics_take_anything() {
    fuzz("topic");
}

#[test]
fn blocks_take_anything() {
    fuzz("block");
}

#[test]
fn records_take_anything() {
    fuzz("record");
}

#[test]
fn differences_take_anything() {
    fuzz("delta");
}

#[test]
fn references_take_anything() {
    fuzz("reference");
}

#[test]
fn every_target_has_its_file_for_cargo_fuzz() {
    let fuzz = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let listed = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        let path = format!("fuzz_targets/{name}.rs");
        assert!(listed.contains(&format!("path = \"{path}\"")), "{name}");
        let text = fs::read_to_string(fuzz.join(path)).unwrap();
        assert!(text.contains(&format!("fuzzing::{name}(")), "{name}");
    }
}

/// What a node says that signs, each behind a line with its topic.
fn said() -> Vec<(String, Vec<u8>)> {
    let signer = Some(SecretKey::from_seed(&SIGNED_WITH).signer());
    let mut lab = kit::Lab::with(Config { signer, ..kit::config() });
    lab.connect();
    lab.send(&kit::intent("web", 1));
    lab.make_good("web");
    let ask = kit::command(Verb::Ping, "c1", lab.conn(), Arguments::default());
    lab.publish(&controller::command(&kit::tree(), &ask, &[&kit::controller_key()]).unwrap());
    lab.settle();
    let line = |said: &Publish| {
        let topic = kit::tree().below_root(&said.topic).to_owned();
        let line = [topic.as_bytes(), b"\n", &said.payload].concat();
        (topic, line)
    };
    lab.sent.iter().map(line).collect()
}

/// Inputs to begin with, as the program itself writes them.
fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let pod = b"apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - name: c\n    image: web:1\n".to_vec();
    let secret = b"apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\n  annotations: {podling.dev/encryption: age}\nstringData: {p: \"age-encryption.org/v1\"}\n".to_vec();
    let signed = kit::signed(&kit::with_artifact("web:1", kit::intent("web", 3)));
    let opened = Envelope::open(&signed.payload, PayloadType::Intent).unwrap();
    let index = kit::index(2, &[&signed]);
    let said = said();
    let word =
        |ending: &str| said.iter().find(|(topic, _)| topic.ends_with(ending)).unwrap().1.clone();
    let message = |offset, body| {
        let message = Block { transfer: 7, offset, total: 5000, body }.encode();
        let length = u16::try_from(message.len()).unwrap().to_be_bytes();
        [&length[..], &message].concat()
    };
    let data = [7; 1024];
    let two = [message(1024, Body::Data(&data)), message(0, Body::Data(&data))].concat();
    let label = Label {
        generation: 3,
        kind: "Pod".to_owned(),
        namespace: "default".to_owned(),
        name: "web".to_owned(),
        source: None,
    };
    let mut labelled = serde_json::to_vec(&label).unwrap();
    labelled.extend(b"\n{\"kind\":\"Pod\"}");
    let manifest = br#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.wasm.config.v0+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[{"mediaType":"application/wasm","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}]}"#;
    vec![
        ("manifest", "pod.yaml", pod),
        ("manifest", "secret.yaml", secret),
        ("manifest", "pod.json", br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"w"}]}}"#.to_vec()),
        ("envelope", "intent.json", signed.payload.clone()),
        ("envelope", "intent-payload.json", opened.payload),
        ("envelope", "index.json", index.payload),
        ("envelope", "tombstone.json", kit::signed(&kit::tombstone("web", 4)).payload),
        ("said", "online", word("/online")),
        ("said", "node", word("/node")),
        ("said", "pod", word("/pod/default/web")),
        ("said", "reply", word("/res/c1")),
        ("said", "unsigned", b"acme/s/gw-17/res/c1\n{\"apiVersion\":\"podling.dev/v1\",\"kind\":\"Reply\",\"id\":\"c1\",\"verb\":\"ping\",\"piece\":0,\"more\":true}".to_vec()),
        ("topic", "pod", b"pods/v1 acme gw-17\npods/v1/acme/n/gw-17/pod/default/web".to_vec()),
        ("topic", "group", b"\npods/v1/acme/g/line-a/pod/default/web".to_vec()),
        ("topic", "command", b"\npods/v1/acme/n/gw-17/cmd/logs/0b1c".to_vec()),
        ("topic", "block", b"\npods/v1/acme/n/gw-17/blob/4021".to_vec()),
        ("topic", "status", b"\npods/v1/acme/s/gw-17/pod/default/web".to_vec()),
        ("topic", "online", b"\npods/v1/acme/s/gw-17/online".to_vec()),
        ("block", "two", two),
        ("block", "refusal", message(0, Body::Refused("gone"))),
        ("block", "request.json", br#"{"xfer":7,"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","offset":0,"block":1024,"count":2}"#.to_vec()),
        ("record", "sealed", seal(&label, b"{}")),
        ("record", "label", labelled),
        ("delta", "small", b"pdlt\x01\xac\x02\x90\x03\xac\x02\x64\x03\x01\x02\x03\xc5\x01\x00\x64".iter().copied().chain([9; 100]).chain([0]).collect()),
        ("reference", "manifest.json", manifest.to_vec()),
        ("reference", "keys.json", br#"{"auths":{"ghcr.io/acme":{"auth":"YW5hOmdlaGVpbQ=="}}}"#.to_vec()),
        ("reference", "oci", b"oci://ghcr.io/acme/web".to_vec()),
        ("reference", "https", b"https://cdn.example/web.wasm?x=1".to_vec()),
        ("reference", "image", b"localhost:5000/acme/web:1@sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a".to_vec()),
    ]
}

#[test]
fn the_corpus_holds_what_the_program_writes() {
    let update = std::env::var_os("PODLING_UPDATE_CORPUS").is_some();
    for (target, name, seed) in seeds() {
        let file = corpus_dir(target).join(name);
        if update {
            fs::create_dir_all(corpus_dir(target)).unwrap();
            fs::write(&file, &seed).unwrap();
        }
        assert!(file.exists(), "{} is missing: PODLING_UPDATE_CORPUS=1", file.display());
    }
}
