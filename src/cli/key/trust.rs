//! `podling key trust`: a root changes whom the nodes of a tenant trust.
//!
//! Owns: completing and signing the document, publishing it, and waiting for the nodes' word. Not: its rules (`mqtt::trust`). Several
//! roots sign one after the other: each takes the envelope that the one before has printed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::clock::Clock;
use crate::controller::session::{Session, SessionError, Step};
use crate::image::Digest;
use crate::mqtt::controller::{self as documents, Message, NodeView, SecretKey};
use crate::mqtt::envelope::{Envelope, PayloadType};
use crate::mqtt::intent::{API_VERSION, time_text};
use crate::mqtt::link::Link;
use crate::mqtt::trust::TrustDocument;

use super::super::args::TrustArgs;
use super::super::controller::{Controller, read_key};
use super::super::{Out, complain, duration, show_error};

/// As `publish` and `fleet` have them: a node refuses, the broker cannot be reached, a node does not answer.
const REFUSED: u8 = 3;
const NOT_CONNECTED: u8 = 4;
const NO_ANSWER: u8 = 124;

pub(super) fn run(args: &TrustArgs, out: &mut Out) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(publish(args, out)) {
        Err(error) if error.downcast_ref::<SessionError>().is_some() => {
            out.flush()?;
            show_error(&error);
            Ok(ExitCode::from(NOT_CONNECTED))
        }
        other => other,
    }
}

async fn publish(args: &TrustArgs, out: &mut Out) -> anyhow::Result<ExitCode> {
    let controller = Controller::of(&args.broker)?;
    let text = super::read(&args.file)?;
    let keys = args.root.iter().map(|path| read_key(path)).collect::<Result<Vec<_>, _>>()?;
    let mut session = controller.session()?;
    session.connect().await?;
    let below = format!("{}/{}", controller.tree.root(), controller.tree.tenant());
    let filters =
        [controller.tree.trust(), format!("{below}/s/+/online"), format!("{below}/s/+/node")];
    session.listen(filters.to_vec()).await?;
    session.settle().await?;
    controller.remember(&mut session);
    let envelope = signed(&args.file, &text, &keys, &session)?;
    let document: TrustDocument = serde_json::from_slice(&envelope.payload)?;
    if args.dry_run {
        out.bytes(&envelope.to_json())?;
        out.line("")?;
        return Ok(ExitCode::SUCCESS);
    }
    let message = documents::trust_message(&controller.tree, &envelope)
        .context("the trust document cannot be published")?;
    session.publish(&message).await?;
    out.line(&format!("trust document {} published: {}", document.version, message.digest))?;
    out.flush()?;
    let within = duration::parse(&args.timeout)?;
    let mut waiting = Waiting { message, version: document.version, within, told: BTreeMap::new() };
    let done = waiting.wait(&mut session, out).await;
    session.leave().await;
    for complaint in &session.complaints {
        complain(&format!("Warning: {complaint}"));
    }
    let code = waiting.rest(&session, out)?;
    // What was heard is told whatever became of the connection.
    done.map(|()| code)
}

/// The document with what may be left out, signed; or one that is signed already, with more signatures.
fn signed(
    file: &Path,
    text: &str,
    keys: &[SecretKey],
    session: &Session<Link>,
) -> anyhow::Result<Envelope> {
    let shown = file.display();
    let mut document: Value =
        serde_yaml::from_str(text).with_context(|| format!("{shown} is no YAML"))?;
    let keys: Vec<&SecretKey> = keys.iter().collect();
    if document.get("payloadType").is_some() {
        let mut envelope = Envelope::open(text.as_bytes(), PayloadType::Trust)
            .with_context(|| format!("{shown} is no signed trust document"))?;
        let ours = documents::sign(PayloadType::Trust, envelope.payload.clone(), &keys);
        for signature in ours.signatures {
            if envelope.signatures.iter().all(|known| known.keyid != signature.keyid) {
                envelope.signatures.push(signature);
            }
        }
        return Ok(envelope);
    }
    let fields = document.as_object_mut().with_context(|| format!("{shown} is no mapping"))?;
    let now = time_text(Clock::start().now().wall_ms());
    let next = known_version(session) + 1;
    let epoch = standing(session).map_or(1, |document| document.epoch);
    let said = said_epoch(session);
    // What a node says is its own word, and a root's is for all of them.
    ensure!(
        said <= epoch || fields.contains_key("epoch"),
        "a node says that it is in epoch {said}, and the trust document at the broker {}: write the epoch that is meant into {shown}",
        if standing(session).is_some() {
            format!("has epoch {epoch}")
        } else {
            "is missing".to_owned()
        }
    );
    let defaults: [(&str, Value); 7] = [
        ("apiVersion", API_VERSION.into()),
        ("kind", "TrustDocument".into()),
        ("tenant", session.tree().tenant().into()),
        ("version", next.into()),
        ("epoch", epoch.into()),
        ("issuedAt", now.into()),
        ("threshold", 1.into()),
    ];
    for (field, value) in defaults {
        fields.entry(field).or_insert(value);
    }
    let document: TrustDocument = serde_json::from_value(document)
        .with_context(|| format!("{shown} is no trust document"))?;
    ensure!(
        document.version >= next,
        "version {} of {shown} is not above {}, which is known already: leave it out",
        document.version,
        next - 1
    );
    Ok(documents::sign(PayloadType::Trust, serde_json::to_vec(&document)?, &keys))
}

/// The document that stands at the broker.
fn standing(session: &Session<Link>) -> Option<TrustDocument> {
    let message = session.documents.get(&session.tree().trust())?;
    let envelope = Envelope::open(message, PayloadType::Trust).ok()?;
    serde_json::from_slice(&envelope.payload).ok()
}

/// The newest version that the broker holds or a node has.
fn known_version(session: &Session<Link>) -> u64 {
    let nodes = session.fleet.nodes.values().filter_map(|view| view.status.as_ref());
    let nodes = nodes.map(|status| status.trust.version);
    nodes.chain(standing(session).map(|document| document.version)).max().unwrap_or(0)
}

/// The highest epoch that a node claims to be in.
fn said_epoch(session: &Session<Link>) -> u64 {
    let nodes = session.fleet.nodes.values().filter_map(|view| view.status.as_ref());
    nodes.map(|status| status.trust.epoch).max().unwrap_or(1)
}

/// What a node makes of the document.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    InForce,
    Refused(String),
    /// It is there, and has not answered.
    Silent,
    Offline,
}

impl Word {
    fn of(view: &NodeView, digest: Digest, version: u64) -> Self {
        let status = view.status.as_deref();
        let refused = status.and_then(|status| status.refused.as_ref());
        if let Some(refused) = refused.filter(|refused| refused.digest == digest) {
            return Self::Refused(format!("{}: {}", refused.reason.as_str(), refused.message));
        }
        if status.is_some_and(|status| status.trust.version >= version) {
            return Self::InForce;
        }
        if view.is_online() { Self::Silent } else { Self::Offline }
    }
}

/// Waiting for the nodes that are there: each is told of when it answers, and those that do not by name.
struct Waiting {
    message: Message,
    version: u64,
    within: Duration,
    told: BTreeMap<String, Word>,
}

impl Waiting {
    async fn wait(&mut self, session: &mut Session<Link>, out: &mut Out) -> anyhow::Result<()> {
        let until = session.now().plus(self.within);
        loop {
            let silent = self.tell(session, out)?;
            if silent == 0 || session.now() >= until {
                return Ok(());
            }
            match session.step(until).await {
                Ok(Step::Time) => return Ok(()),
                Ok(_) => {}
                Err(lost) => {
                    complain(&format!("{}; trying again", crate::error::Chain(&lost)));
                    session.come_back(until, lost).await?;
                    if !session.documents.contains_key(&self.message.topic) {
                        session.publish(&self.message).await?;
                    }
                }
            }
        }
    }

    fn words(&self, session: &Session<Link>) -> BTreeMap<String, Word> {
        let nodes = session.fleet.nodes.iter();
        let word = |view: &NodeView| Word::of(view, self.message.digest, self.version);
        nodes.map(|(node, view)| (node.clone(), word(view))).collect()
    }

    /// Tells of answers that are new; how many nodes are still silent.
    fn tell(&mut self, session: &Session<Link>, out: &mut Out) -> anyhow::Result<usize> {
        let words = self.words(session);
        for (node, word) in &words {
            if self.told.get(node) == Some(word) {
                continue;
            }
            match word {
                Word::InForce => {
                    out.line(&format!("{node}: trust document {} is in force", self.version))?;
                }
                Word::Refused(why) => complain(&format!("error: {node} refuses it: {why}")),
                Word::Silent | Word::Offline => continue,
            }
            self.told.insert(node.clone(), word.clone());
        }
        out.flush()?;
        Ok(words.values().filter(|word| **word == Word::Silent).count())
    }

    /// Names everybody else; the exit code is that of the worst: refused before not answered.
    fn rest(&mut self, session: &Session<Link>, out: &mut Out) -> anyhow::Result<ExitCode> {
        self.tell(session, out)?;
        let words = self.words(session);
        for (node, word) in &words {
            match word {
                Word::InForce | Word::Refused(_) => {}
                Word::Silent => complain(&format!(
                    "error: {node} has not answered within {:?}, and the broker says that it is there: it takes the document when it can \
                     (podling fleet ping {node})",
                    self.within
                )),
                Word::Offline => {
                    out.line(&format!("{node}: offline; it takes the document when it is back"))?;
                }
            }
        }
        let any = |is: fn(&Word) -> bool| words.values().any(is);
        Ok(if any(|word| matches!(word, Word::Refused(_))) {
            ExitCode::from(REFUSED)
        } else if any(|word| *word == Word::Silent) {
            ExitCode::from(NO_ANSWER)
        } else {
            ExitCode::SUCCESS
        })
    }
}
