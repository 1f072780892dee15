//! `podling key trust`: a root changes whom the nodes of a tenant trust.
//!
//! Owns: completing and signing the document, publishing it, and waiting for the nodes' word. Not: its rules (`mqtt::trust`). Several
//! roots sign one after the other: each takes the envelope that the one before has printed.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::clock::Clock;
use crate::controller::session::{Session, SessionError, Step};
use crate::mqtt::controller::{self as documents, Message, SecretKey};
use crate::mqtt::envelope::{Envelope, PayloadType};
use crate::mqtt::intent::{API_VERSION, time_text};
use crate::mqtt::link::Link;
use crate::mqtt::trust::TrustDocument;

use super::super::args::TrustArgs;
use super::super::controller::{Controller, read_key};
use super::super::{Out, complain, duration, show_error};

/// The broker cannot be reached: as `publish` and `fleet` say it.
const NOT_CONNECTED: u8 = 4;

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
    let until = session.now().plus(duration::parse(&args.timeout)?);
    loop {
        let waiting = waiting(&session, &message, document.version);
        if waiting.is_empty() || session.now() >= until {
            break;
        }
        match session.step(until).await {
            Ok(Step::Time) => break,
            Ok(_) => {}
            Err(lost) => {
                complain(&format!("{}; trying again", crate::error::Chain(&lost)));
                session.come_back(until, lost).await?;
                if !session.documents.contains_key(&message.topic) {
                    session.publish(&message).await?;
                }
            }
        }
    }
    session.leave().await;
    verdict(&session, &message, document.version, out)
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
    // What nodes say is not signed, and a root's word is for all of them.
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

/// Nodes that are there and have not answered.
fn waiting<'s>(session: &'s Session<Link>, message: &Message, version: u64) -> Vec<&'s str> {
    let nodes = session.fleet.nodes.iter().filter(|(_, view)| view.is_online());
    let silent = nodes.filter(|(_, view)| {
        view.status.as_ref().is_none_or(|status| {
            let refused = status.refused.as_ref().is_some_and(|r| r.digest == message.digest);
            status.trust.version < version && !refused
        })
    });
    silent.map(|(node, _)| node.as_str()).collect()
}

fn verdict(
    session: &Session<Link>,
    message: &Message,
    version: u64,
    out: &mut Out,
) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for (node, view) in &session.fleet.nodes {
        let status = view.status.as_deref();
        let refused = status.and_then(|status| status.refused.as_ref());
        if let Some(refused) = refused.filter(|refused| refused.digest == message.digest) {
            complain(&format!(
                "error: {node} refuses it: {}: {}",
                refused.reason.as_str(),
                refused.message
            ));
            code = ExitCode::from(3);
        } else if status.is_some_and(|status| status.trust.version >= version) {
            out.line(&format!("{node}: trust document {version} is in force"))?;
        } else if view.is_online() {
            complain(&format!("error: {node} has not answered in time"));
            code = ExitCode::from(124);
        } else {
            out.line(&format!("{node}: offline; it takes the document when it is back"))?;
        }
    }
    Ok(code)
}
