//! What `publish` shows: lines that stay the same in a pipe, a bar on a terminal, JSON for programs.
//!
//! Lines and JSON go to standard output; the bar and complaints to standard error.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::controller::bundle::Bundle;
use crate::controller::offer::Sent;
use crate::controller::publish::{News, Order, Outcome};
use crate::image::Digest;
use crate::mqtt::cause::{Cause, Reason};
use crate::mqtt::controller::{NodeView, Verdict};
use crate::mqtt::envelope::{Envelope, PayloadType};
use crate::mqtt::signature::Standing;
use crate::mqtt::status::{RefusedStatus, RolloutStatus, Stage};

use super::super::args::PublishFormat;
use super::super::known::does_not_sign;
use super::super::{Out, complain};

/// Bars at a time: what a terminal has room for. Of more nodes the lines are told all the same.
const BARS_MAX: usize = 16;

/// `pod/web`
fn name(order: &Order) -> String {
    format!("pod/{}", order.pod.name)
}

/// Prints the signed documents and publishes nothing.
pub(super) fn dry_run(
    orders: &[Order],
    format: PublishFormat,
    out: &mut Out,
) -> anyhow::Result<()> {
    for order in orders {
        let message = &order.message;
        match format {
            PublishFormat::Text => {
                complain(&format!(
                    "{} ({} bytes, retained):",
                    message.topic,
                    message.payload.len()
                ));
                out.bytes(&message.payload)?;
                out.line("")?;
            }
            PublishFormat::Json => {
                let envelope: Value = serde_json::from_slice(&message.payload)?;
                let opened = Envelope::open(&message.payload, PayloadType::Intent)?;
                let intent: Value = serde_json::from_slice(&opened.payload)?;
                let shown = json!({
                    "topic": message.topic,
                    "retain": message.retain,
                    "digest": message.digest.to_string(),
                    "unchanged": order.unchanged,
                    "intent": intent,
                    "envelope": envelope,
                });
                out.line(&serde_json::to_string_pretty(&shown)?)?;
            }
        }
    }
    Ok(())
}

/// What is shown while it happens.
pub(super) struct Screen<'o> {
    out: &'o mut Out,
    format: PublishFormat,
    bars: Bars,
    /// What each content is called.
    names: BTreeMap<Digest, String>,
    /// Nodes whose transfer of a content was told.
    fetching: BTreeSet<(String, Digest)>,
    /// The last stage told of a node and document.
    stages: BTreeMap<(String, String), String>,
    failed: Option<anyhow::Error>,
}

impl<'o> Screen<'o> {
    pub(super) fn new(
        format: PublishFormat,
        names: BTreeMap<Digest, String>,
        out: &'o mut Out,
    ) -> Self {
        let drawn = format == PublishFormat::Text && std::io::stderr().is_terminal();
        Self {
            out,
            format,
            bars: Bars::new(drawn),
            names,
            fetching: BTreeSet::new(),
            stages: BTreeMap::new(),
            failed: None,
        }
    }

    /// What there is to know of the node before anything is published.
    pub(super) fn node(&mut self, node: &str, view: Option<&NodeView>) {
        if view.and_then(NodeView::own_standing) == Some(Standing::Unsigned) {
            complain(&does_not_sign(node));
        }
        match view {
            None => complain(&format!(
                "Warning: the broker knows no node {node} yet: it takes the pod when it first connects (podling fleet get nodes lists \
                 those that are known)"
            )),
            Some(view) if !view.is_online() => {
                complain(&format!("Warning: {node} is offline: it takes the pod when it is back"));
            }
            Some(_) => {}
        }
    }

    pub(super) fn tell(&mut self, news: News<'_>) {
        match news {
            News::Published(order) => {
                let (version, digest) = (order.version, order.message.digest);
                let how = if order.unchanged { "unchanged" } else { "published" };
                let to = match &order.node {
                    Some(node) => node.clone(),
                    None => order.scope.to_string(),
                };
                self.line(&format!("{} {how} to {to}: {version}, {digest}", name(order)));
            }
            News::Verdict { node, order, verdict } => self.verdict(node, order, verdict),
            News::Sent(sent) => self.sent(sent),
            News::Lost(error) => {
                self.complain(&format!("{}; trying again", crate::error::Chain(error)));
            }
            News::Back => self.complain("connected again"),
            News::Overwritten { order, by, version } => self.complain(&format!(
                "Warning: another controller ({by}) has published {} after us ({version}): the node keeps whichever it accepted first; \
                 agree on one controller",
                name(order)
            )),
            News::Complaint(text) => self.complain(&format!("Warning: {text}")),
        }
    }

    fn verdict(&mut self, node: &str, order: &Order, verdict: &Verdict) {
        let text = match verdict {
            Verdict::Waiting => return self.bars.say(node, "waiting".to_owned()),
            Verdict::Progressing(rollout) => {
                let stage = progress(rollout);
                self.bars.say(node, format!("{}: {stage}", name(order)));
                stage
            }
            // Told at the end, with everything that belongs to it.
            Verdict::Refused(_) => return,
            Verdict::Ended(rollout) => ended(rollout),
            Verdict::Inactive(why) => format!("accepted, and another document leads: {why}"),
            Verdict::Overtaken(by) => format!("overtaken by {by}"),
            Verdict::Ending => "ending".to_owned(),
            Verdict::Gone => "gone".to_owned(),
        };
        let key = (node.to_owned(), name(order));
        if verdict.is_final() {
            self.bars.end(node);
        }
        if self.stages.get(&key) != Some(&text) {
            self.line(&format!("{node}: {}: {text}", name(order)));
            self.stages.insert(key, text);
        }
    }

    fn sent(&mut self, sent: &Sent) {
        let what = self.names.get(&sent.digest).cloned().unwrap_or_default();
        self.bars.fill(sent, &what);
        if self.fetching.insert((sent.node.clone(), sent.digest)) {
            self.line(&format!("{}: fetches {what} from here ({} bytes)", sent.node, sent.total));
        }
    }

    pub(super) fn line(&mut self, line: &str) {
        if self.format == PublishFormat::Json || self.failed.is_some() {
            return;
        }
        let out = &mut *self.out;
        let written = self.bars.all.suspend(|| out.line(line).and_then(|()| out.flush()));
        self.failed = written.err();
    }

    fn complain(&self, text: &str) {
        self.bars.all.suspend(|| complain(text));
    }

    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        self.bars.clear();
        self.failed.map_or(Ok(()), Err)
    }
}

/// A bar for each node that is waited for.
struct Bars {
    all: MultiProgress,
    each: BTreeMap<String, ProgressBar>,
}

impl Bars {
    fn new(drawn: bool) -> Self {
        let target =
            if drawn { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { all: MultiProgress::with_draw_target(target), each: BTreeMap::new() }
    }

    fn of(&mut self, node: &str) -> Option<&ProgressBar> {
        if !self.each.contains_key(node) {
            if self.each.len() >= BARS_MAX {
                return None;
            }
            let bar = self.all.add(ProgressBar::new_spinner().with_prefix(node.to_owned()));
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}: {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            self.each.insert(node.to_owned(), bar);
        }
        self.each.get(node)
    }

    fn say(&mut self, node: &str, text: String) {
        if let Some(bar) = self.of(node) {
            bar.set_message(text);
        }
    }

    fn fill(&mut self, sent: &Sent, what: &str) {
        let Some(bar) = self.of(&sent.node) else { return };
        if bar.length() != Some(sent.total) {
            bar.set_length(sent.total);
            let template = "{prefix}: {msg} {bytes} of {total_bytes} {wide_bar}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
        }
        bar.set_message(what.to_owned());
        bar.set_position(sent.bytes);
    }

    /// Nothing is waited for any more from this node.
    fn end(&mut self, node: &str) {
        if let Some(bar) = self.each.remove(node) {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
    }

    fn clear(&mut self) {
        while let Some((_, bar)) = self.each.pop_first() {
            bar.finish_and_clear();
        }
    }
}

/// The stage, and what holds it up or takes its time.
fn progress(rollout: &RolloutStatus) -> String {
    let stage = rollout.stage.as_str();
    if rollout.message.is_empty() {
        stage.to_owned()
    } else {
        format!("{stage}: {}", rollout.message)
    }
}

fn ended(rollout: &RolloutStatus) -> String {
    let reason = if rollout.reason.is_empty() {
        String::new()
    } else {
        format!(": {}: {}", rollout.reason, rollout.message)
    };
    if rollout.stage == Stage::Committed {
        return "Ready".to_owned();
    }
    format!("{}{reason}", rollout.stage.as_str())
}

/// The last word, one for each node and pod.
pub(super) fn results(
    orders: &[Order],
    outcomes: &[Outcome],
    bundles: &[Option<&Bundle>],
    waited: bool,
    format: PublishFormat,
    out: &mut Out,
) -> anyhow::Result<()> {
    if format == PublishFormat::Json {
        let results: Vec<Value> = if outcomes.is_empty() {
            orders.iter().map(published).collect()
        } else {
            let each = outcomes.iter().map(|o| result(&orders[o.order], o, bundles[o.order]));
            each.collect()
        };
        return out.line(&serde_json::to_string_pretty(&json!({ "results": results }))?);
    }
    for (index, order) in orders.iter().enumerate().filter(|_| waited) {
        if order.node.is_none() && outcomes.iter().all(|outcome| outcome.order != index) {
            complain(&format!(
                "Warning: {} is for {}, and no node that is known is in it (and has the labels): nobody was waited for",
                name(order),
                order.scope
            ));
        }
    }
    for outcome in outcomes {
        let (order, node) = (&orders[outcome.order], &outcome.node);
        match &outcome.verdict {
            Verdict::Refused(refused) => refusal(node, order, refused, bundles[outcome.order]),
            Verdict::Waiting | Verdict::Progressing(_) | Verdict::Ending if outcome.online => {
                let last = if let Verdict::Progressing(rollout) = &outcome.verdict {
                    progress(rollout)
                } else if outcome.verdict == Verdict::Ending {
                    "ending".to_owned()
                } else {
                    "no answer".to_owned()
                };
                complain(&format!("error: {node}: {}: timed out waiting ({last})", name(order)));
            }
            Verdict::Waiting | Verdict::Progressing(_) | Verdict::Ending => complain(&format!(
                "error: {node}: {}: timed out waiting: the node is offline; the broker keeps the document for it",
                name(order)
            )),
            // Told when it happened.
            Verdict::Ended(_) | Verdict::Inactive(_) | Verdict::Overtaken(_) | Verdict::Gone => {}
        }
    }
    Ok(())
}

fn refusal(node: &str, order: &Order, refused: &RefusedStatus, bundle: Option<&Bundle>) {
    let reason = refused.reason.as_str();
    let of = name(order);
    if refused.errors.is_empty() {
        complain(&format!("error: {node} refuses {of}: {reason}: {}", refused.message));
    } else {
        complain(&format!("error: {node} refuses {of}: {reason}"));
    }
    for cause in &refused.errors {
        let place = place(cause, bundle).map(|place| format!("{place}: ")).unwrap_or_default();
        let field =
            if cause.field.is_empty() { String::new() } else { format!("{}: ", cause.field) };
        complain(&format!("  {place}{field}{}", cause.message));
    }
    if let Some(hint) = hint(refused.reason) {
        complain(hint);
    }
}

fn place(cause: &Cause, bundle: Option<&Bundle>) -> Option<String> {
    let is_pods = ["spec", "metadata"].iter().any(|root| cause.field.starts_with(root));
    bundle.filter(|_| is_pods)?.place(&cause.field)
}

/// What a person does about a refusal that is not the manifest's fault.
fn hint(reason: Reason) -> Option<&'static str> {
    if matches!(reason, Reason::GenerationConflict | Reason::Stale) {
        Some(
            "another controller has published this pod in the meantime: look at it (podling fleet get pods -o wide), then publish again",
        )
    } else if matches!(reason, Reason::UntrustedKey | Reason::NotSigned | Reason::NotAllowed) {
        Some(
            "the node does not trust the signing key for this: see its trust anchor (podling key anchor prints an entry for a key)",
        )
    } else if reason == Reason::SourceConflict {
        Some(
            "the node has a pod of that name from its folder or its API: delete it there, or choose another name",
        )
    } else {
        None
    }
}

fn published(order: &Order) -> Value {
    json!({
        "node": order.node,
        "scope": order.scope.to_string(),
        "namespace": &*order.pod.namespace,
        "name": &*order.pod.name,
        "epoch": order.version.epoch,
        "generation": order.version.generation,
        "digest": order.message.digest.to_string(),
        "unchanged": order.unchanged,
        "outcome": "Published",
    })
}

fn result(order: &Order, outcome: &Outcome, bundle: Option<&Bundle>) -> Value {
    let mut shown = published(order);
    let (mut stage, mut reason, mut message, mut errors) = (None, None, None, vec![]);
    let word = match &outcome.verdict {
        Verdict::Waiting => "Waiting",
        Verdict::Progressing(_) => "Progressing",
        Verdict::Ending => "Ending",
        Verdict::Gone => "Gone",
        Verdict::Inactive(why) => {
            reason = Some(why.clone());
            "Inactive"
        }
        Verdict::Overtaken(by) => {
            message = Some(by.to_string());
            "Overtaken"
        }
        Verdict::Ended(rollout) if rollout.stage == Stage::Committed => "Ready",
        Verdict::Ended(rollout) => rollout.stage.as_str(),
        Verdict::Refused(refused) => {
            reason = Some(refused.reason.as_str().to_owned());
            message = Some(refused.message.clone());
            errors = refused
                .errors
                .iter()
                .map(|cause| {
                    json!({"field": cause.field, "message": cause.message, "reason": cause.reason, "place": place(cause, bundle)})
                })
                .collect();
            "Refused"
        }
    };
    if let Verdict::Ended(rollout) | Verdict::Progressing(rollout) = &outcome.verdict {
        stage = Some(rollout.stage.as_str());
        reason = Some(rollout.reason.clone()).filter(|text| !text.is_empty());
        message = Some(rollout.message.clone()).filter(|text| !text.is_empty());
    }
    shown["node"] = outcome.node.clone().into();
    shown["outcome"] = word.into();
    shown["online"] = outcome.online.into();
    shown["signature"] = outcome.standing.map(Standing::as_str).into();
    for (field, value) in
        [("stage", stage.map(str::to_owned)), ("reason", reason), ("message", message)]
    {
        if let Some(value) = value {
            shown[field] = value.into();
        }
    }
    if !errors.is_empty() {
        shown["errors"] = errors.into();
    }
    shown
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn each_node_has_a_bar_until_its_last_word_and_a_large_group_has_few() {
        let mut bars = Bars::new(false);
        let sent = |node: &str, bytes| Sent {
            node: node.to_owned(),
            digest: Digest::new([1; 32]),
            bytes,
            total: 100,
        };
        bars.say("a", "waiting".to_owned());
        bars.fill(&sent("b", 30), "web.wasm");
        bars.fill(&sent("a", 70), "web.wasm");
        let at = |bars: &Bars, node: &str| bars.each.get(node).map(ProgressBar::position);
        assert_eq!((at(&bars, "a"), at(&bars, "b")), (Some(70), Some(30)));
        bars.end("a");
        assert_eq!((at(&bars, "a"), at(&bars, "b")), (None, Some(30)));
        for n in 0..100 {
            bars.say(&format!("n{n}"), "waiting".to_owned());
        }
        assert_eq!(bars.each.len(), BARS_MAX);
        bars.clear();
        assert!(bars.each.is_empty());
    }
}
