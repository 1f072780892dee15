//! What a fuzzer calls: one function for each kind of bytes that come from outside.
//!
//! Owns: the properties. A target panics when one of them does not hold; nothing else may. Not: making inputs (`fuzz/` under
//! cargo-fuzz, with coverage; `tests` beside this file, deterministic, in every `cargo test`). Not for programs.
//!
//! | Target | Bytes | Holds |
//! |---|---|---|
//! | [`manifest`] | a file of manifests | every text is answered; what was accepted reads back from its own JSON as the same |
//! | [`envelope`] | a signed document, and each payload that it may carry | what opens reads back from its own JSON as the same |
//! | [`said`] | what a node says, with its topic | what verifies is what its signer writes, byte for byte, there only; readers read the same without |
//! | [`topic`] | a topic | what was understood spells the same topic again |
//! | [`block`] | messages of a transfer, and its requests | what decodes encodes to the same bytes; a machine takes anything |
//! | [`record`] | a file of the store | what opens is what sealing the same gives |
//! | [`delta`] | a difference between modules | never more than was announced, never out of the base |
//! | [`reference`] | sources, image names, a registry's manifest, credentials | what was understood spells itself again |
//!
//! Bytes behind a checksum are tried twice: as they are, and with a checksum that is right.
//!
//! Each returns a [`Trace`]: inputs with a trace that was not seen before are worth keeping. It is a poor man's coverage,
//! for where there is no other.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::time::Duration;

use bytes::Bytes;

use crate::artifact::block::{self, HEADER_BYTES};
use crate::artifact::keyring::Keyring;
use crate::artifact::manifest::choose;
use crate::artifact::pull::{Errand, Input, Output, Pull};
use crate::artifact::{BlockRequest, Source as ArtifactSource, delta as difference};
use crate::clock::Timestamp;
use crate::image::{Digest, parse_reference};
use crate::manifest::{FieldValidation, Object, parse, validate};
use crate::mqtt::command::Command;
use crate::mqtt::controller::{self, SecretKey};
use crate::mqtt::envelope::{Envelope, PayloadType};
use crate::mqtt::index::Index;
use crate::mqtt::intent::Release;
use crate::mqtt::record::{NodeRecord, PodRecord, TrustRecord};
use crate::mqtt::signature::{Proof, SIGNATURE_BYTES};
use crate::mqtt::topic::{Inbound, Outbound, Topics, Tree};
use crate::mqtt::trust::Document;
use crate::spec::{PodKey, Source};
use crate::store::record as stored;

/// What an input led to, in short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Trace(u64);

/// A target.
pub type Target = fn(&[u8]) -> Trace;

/// All of them, by the name of their corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("manifest", manifest),
    ("envelope", envelope),
    ("said", said),
    ("topic", topic),
    ("block", block),
    ("record", record),
    ("delta", delta),
    ("reference", reference),
];

/// Gathers what happened. Of texts only the letters count: numbers and quoted names make no new path.
#[derive(Default)]
struct Path(DefaultHasher);

impl Path {
    fn note(&mut self, what: impl Hash) {
        what.hash(&mut self.0);
    }

    fn say(&mut self, text: &impl std::fmt::Display) {
        let text = text.to_string();
        for part in text.split(['"', '`', '\'']).step_by(2) {
            for word in part.split(|c: char| !c.is_ascii_alphabetic()) {
                word.hash(&mut self.0);
            }
        }
    }

    fn end(self) -> Trace {
        Trace(self.0.finish())
    }
}

/// See the table.
pub fn manifest(data: &[u8]) -> Trace {
    let mut path = Path::default();
    for validation in [FieldValidation::Strict, FieldValidation::Warn] {
        let parsed = parse(data, validation);
        for fault in parsed.errors.iter().chain(&parsed.warnings) {
            path.say(fault);
        }
        for document in parsed.documents.iter().chain(&parsed.rejected) {
            path.note(document.object.kind());
            for source in [Source::Api, Source::Folder("/etc/podling/manifests/a.yaml".into())] {
                match validate(&document.object, &source) {
                    Ok(warnings) => warnings.iter().for_each(|warning| path.say(&warning.message)),
                    Err(errors) => errors.iter().for_each(|error| path.say(error)),
                }
            }
        }
        if parsed.errors.is_empty() && parsed.warnings.is_empty() {
            parsed.documents.iter().for_each(|document| reads_back(&document.object));
        }
    }
    path.end()
}

fn reads_back(object: &Object) {
    let json = match object {
        Object::Pod(pod) => serde_json::to_vec(pod),
        Object::ConfigMap(map) => serde_json::to_vec(map),
        Object::Secret(secret) => serde_json::to_vec(secret),
        Object::Service(service) => serde_json::to_vec(service),
        Object::NetworkPolicy(policy) => serde_json::to_vec(policy),
    };
    let json = json.expect("an object has a JSON form");
    let again = parse(&json, FieldValidation::Strict);
    let text = String::from_utf8_lossy(&json);
    assert!(again.errors.is_empty(), "{:?} in {text}", again.errors);
    assert_eq!(again.documents.len(), 1, "{text}");
    assert!(again.documents[0].object == *object, "another object: {text}");
}

/// See the table.
pub fn envelope(data: &[u8]) -> Trace {
    let mut path = Path::default();
    for kind in KINDS {
        match Envelope::open(data, kind) {
            Ok(envelope) => {
                path.note((kind.as_str(), envelope.signatures.len()));
                let again = Envelope::open(&envelope.to_json(), kind).expect("its own JSON opens");
                assert_eq!(again, envelope);
                payload(&envelope.payload, &mut path);
                say(&mut path, Document::read(&envelope).map(drop));
            }
            Err(error) => path.say(&error),
        }
    }
    payload(data, &mut path);
    path.end()
}

const KINDS: [PayloadType; 4] =
    [PayloadType::Intent, PayloadType::Index, PayloadType::Trust, PayloadType::Command];

/// What an envelope may hold, and what of it is kept.
fn payload(data: &[u8], path: &mut Path) {
    say(path, Index::read(data).map(drop));
    say(path, Command::read(data).map(drop));
    say(path, NodeRecord::from_json(data).map(drop));
    say(path, TrustRecord::from_json(data).map(drop));
    say(path, PodRecord::from_json(data, &PodKey::new("default", "web")).map(drop));
    match Release::read(data, "key") {
        Ok(release) => {
            assert_eq!(release.payload.as_bytes(), data, "the exact bytes are kept");
            let again = Release::read(release.payload.as_bytes(), "key").expect("it reads again");
            assert_eq!((again.key, again.revision), (release.key, release.revision));
        }
        Err(refusal) => path.say(&refusal),
    }
}

fn say<E: std::fmt::Display>(path: &mut Path, outcome: Result<(), E>) {
    match outcome {
        Ok(()) => path.note(true),
        Err(error) => path.say(&error),
    }
}

/// The seed of the only key that inputs are signed with.
const SIGNED_WITH: [u8; 32] = [7; 32];

/// See the table. The first line is the topic, from the tenant on; the rest is the message.
pub fn said(data: &[u8]) -> Trace {
    let mut path = Path::default();
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let topic = String::from_utf8_lossy(&data[..at]).into_owned();
    let message = data.get(at + 1..).unwrap_or_default();
    let key = SecretKey::from_seed(&SIGNED_WITH);
    let tree = Tree::new("pods/v1", "acme").expect("these are levels");
    let read = |message: &[u8]| controller::read(&tree, &format!("pods/v1/{topic}"), message);
    let plain = read(message);
    path.note(plain.as_ref().map(|(_, said)| std::mem::discriminant(said)));
    match Proof::of(&topic, message) {
        Proof::Signed(by) => {
            assert_eq!(by, key.public(), "nobody else has signed anything");
            let mut said = message[..message.len() - SIGNATURE_BYTES].to_vec();
            said.push(b'}');
            assert!(
                key.signer().sign(&topic, said.clone()) == message,
                "another spelling verifies"
            );
            assert_eq!(read(&said), plain, "readers read the same without");
            path.note("signed");
        }
        Proof::Broken => path.note("broken"),
        Proof::Unsigned => path.note("unsigned"),
    }
    if message.ends_with(b"}") {
        let signed = key.signer().sign(&topic, message.to_vec());
        assert_eq!(Proof::of(&topic, &signed), Proof::Signed(key.public()));
        assert_eq!(Proof::of(&format!("{topic}x"), &signed), Proof::Broken);
        if plain.is_some() {
            assert_eq!(
                read(&signed),
                plain,
                "readers who know nothing of signatures read the same"
            );
        }
    }
    path.end()
}

/// See the table. The first line configures the tree (`ROOT TENANT NODE`), if it can; the rest is the topic.
pub fn topic(data: &[u8]) -> Trace {
    let mut path = Path::default();
    let text = String::from_utf8_lossy(data);
    let (head, rest) = text.split_once('\n').unwrap_or(("", &text));
    let words: Vec<&str> = head.split(' ').collect();
    let custom = match words.as_slice() {
        [root, tenant, node] => Topics::new(root, tenant, node).ok(),
        _ => None,
    };
    let usual = || Topics::new("pods/v1", "acme", "gw-17").expect("these are levels");
    let topics = custom.unwrap_or_else(usual);
    let spelt = match topics.read(rest) {
        None => None,
        Some(Inbound::Trust) => Some(topics.tree().trust()),
        Some(Inbound::Index) => Some(topics.index()),
        Some(Inbound::Pod { scope, key }) => topics.pod(&scope, &key).ok(),
        Some(Inbound::Command { verb, id }) => topics.command(verb, id).ok(),
        Some(Inbound::Block { transfer }) => topics.block(transfer).ok(),
        Some(Inbound::Online) => Some(topics.online()),
    };
    path.note(spelt.is_some());
    if topics.read(rest).is_some() {
        assert_eq!(spelt.as_deref(), Some(rest), "what was understood is spelt the same");
    }
    if let Some((node, outbound)) = topics.tree().read_outbound(rest) {
        let (root, tenant) = (topics.tree().root(), topics.tenant());
        let theirs = Topics::new(root, tenant, node).expect("it was a level of a topic");
        let spelt = match &outbound {
            Outbound::Online => theirs.online(),
            Outbound::Node => theirs.node_status(),
            Outbound::Pod { key } => theirs.pod_status(key).expect("it was a topic"),
            Outbound::Reply { id } => theirs.reply(id).expect("it was a topic"),
            Outbound::Get => theirs.get(),
        };
        assert_eq!(spelt, rest);
        path.note(std::mem::discriminant(&outbound));
    }
    path.note(rest.matches('/').count());
    path.end()
}

/// See the table. Messages one after the other, each with two bytes of length before it.
pub fn block(data: &[u8]) -> Trace {
    let mut path = Path::default();
    let digest = Digest::new([7; 32]);
    let patience = Duration::from_secs(60);
    let errand = Errand { transfer: 7, digest, total: 5000, have: 0, block: 1024, patience };
    let mut now = Timestamp::simulated(Duration::ZERO);
    let mut pull = Pull::new(errand, now);
    let mut written = 0;
    let mut step = |pull: &mut Pull, now, input| {
        let is_tick = matches!(input, Input::Tick);
        for output in pull.step(now, input) {
            match output {
                Output::Ask(request) => {
                    let again = BlockRequest::parse(&request.to_json());
                    assert_eq!(again.expect("our own request"), request);
                }
                Output::Write(bytes) => written += bytes.len() as u64,
                // A block may come after the time to look has come; a look that leads to the next at once would spin.
                Output::WakeAt(at) => assert!(at > now || !is_tick),
                Output::Complete => assert_eq!(written, errand.total),
                Output::GiveUp => {}
            }
        }
        assert_eq!(pull.written(), written);
    };
    step(&mut pull, now, Input::Connected);
    let mut rest = data;
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(tail.len());
        let (message, tail) = tail.split_at(length);
        rest = tail;
        now = now.plus(Duration::from_millis(length as u64 * 7));
        for message in [message.to_vec(), resealed_block(message)] {
            match block::decode(&message) {
                Ok(decoded) => {
                    path.note(std::mem::discriminant(&decoded.body));
                    // Two bytes that readers skip are written as zeros.
                    if message[6..8] == [0, 0] {
                        assert_eq!(decoded.encode(), message, "it encodes to the same bytes");
                    }
                }
                Err(fault) => path.say(&fault),
            }
            step(&mut pull, now, Input::Message(Bytes::from(message)));
        }
        step(&mut pull, now, Input::Tick);
    }
    say(&mut path, BlockRequest::parse(data).map(drop));
    path.note((pull.written(), pull.tally().repeats > 0, pull.tally().foreign > 0));
    path.end()
}

/// The same with a right checksum and zeros where nothing is read, if it is long enough to have either.
fn resealed_block(message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    if message.len() >= HEADER_BYTES {
        message[6..8].fill(0);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&message[..12]), &message[16..]);
        message[12..16].copy_from_slice(&crc.to_be_bytes());
    }
    message
}

/// See the table.
pub fn record(data: &[u8]) -> Trace {
    let mut path = Path::default();
    match stored::open(data) {
        Ok((label, payload)) => {
            // A newer podling may write the same otherwise; what it says must survive being written by this one.
            let sealed = stored::seal(&label, payload);
            assert_eq!(stored::open(&sealed), Ok((label, payload)));
        }
        Err(fault) => path.say(&fault),
    }
    // The same behind a checksum that is right: the first line is the label.
    if let Some(at) = data.iter().position(|byte| *byte == b'\n') {
        let (label, payload) = (&data[..at], &data[at + 1..]);
        match serde_json::from_slice::<stored::Label>(label) {
            Ok(label) => {
                let sealed = stored::seal(&label, payload);
                assert_eq!(stored::open(&sealed), Ok((label, payload)));
                path.note("sealed");
            }
            Err(error) => path.say(&error),
        }
    }
    path.end()
}

/// See the table. The patch is for a base of 300 bytes.
pub fn delta(data: &[u8]) -> Trace {
    const SIZE: u64 = 400;
    let base: Vec<u8> = (0..300_u16).map(|n| n.to_le_bytes()[0]).collect();
    let mut read = |offset: u64, into: &mut [u8]| {
        let start = usize::try_from(offset).expect("it lies in the base");
        into.copy_from_slice(&base[start..start + into.len()]);
        Ok(())
    };
    let mut made = 0;
    let mut out = |piece: &[u8]| {
        made += piece.len() as u64;
        assert!(made <= SIZE, "no more than was announced");
        Ok::<(), difference::PatchFault>(())
    };
    let mut path = Path::default();
    match difference::apply(data, (base.len() as u64, &mut read), SIZE, &mut out) {
        Ok(()) => assert_eq!(made, SIZE),
        Err(fault) => path.say(&fault),
    }
    path.note(made / 50);
    path.end()
}

/// See the table.
pub fn reference(data: &[u8]) -> Trace {
    let mut path = Path::default();
    match choose(data) {
        Ok(choice) => path.note(choice),
        Err(why) => path.say(&why),
    }
    match Keyring::parse(data) {
        Ok(_) => path.note("keys"),
        Err(error) => path.say(&error),
    }
    let Ok(text) = std::str::from_utf8(data) else { return path.end() };
    match ArtifactSource::parse(text) {
        Ok(source) => {
            let spelt = String::from(source.clone());
            assert_eq!(ArtifactSource::parse(&spelt), Ok(source), "{spelt}");
            path.note("source");
        }
        Err(error) => path.say(&error),
    }
    match parse_reference(text, None) {
        Ok(image) => {
            assert_eq!(image.text(), text);
            assert_eq!(parse_reference(image.text(), None), Ok(image.clone()));
            path.note(std::mem::discriminant(&image));
            if let Some(remote) = crate::artifact::Remote::of(&image) {
                path.note(remote.repository.endpoint().1.matches('/').count());
            }
        }
        Err(error) => path.say(&error),
    }
    path.end()
}

#[cfg(test)]
mod tests;
