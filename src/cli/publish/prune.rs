//! `podling publish --prune`: the node's index goes along, and what it no longer lists ends.
//!
//! Owns: what of the command line chooses, and what is shown. Not: what is listed (`crate::controller::prune`).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::controller::next::Retained;
use crate::controller::prune::{self, IndexVerdict, Known, Plan, Standing};
use crate::controller::publish::Order;
use crate::controller::session::Session;
use crate::manifest::{FieldValidation, Object, parse};
use crate::mqtt::controller::{self as documents, Message, SecretKey};
use crate::mqtt::intent::time_text;
use crate::mqtt::link::Link;
use crate::mqtt::topic::{Inbound, Scope, Topics};
use crate::spec::PodKey;

use super::super::args::PublishFormat;
use super::super::{Out, complain};
use super::{Exit, Publishing};

/// What stands at the broker before anything is published.
pub(super) struct Pruning {
    node: String,
    epoch: u64,
    revision: u64,
    standing: Option<Standing>,
    documents: BTreeMap<PodKey, Retained>,
}

/// The signed index, and what it means.
pub(super) struct Index {
    pub(super) message: Message,
    plan: Plan,
}

impl Index {
    /// It stands at the broker already.
    pub(super) fn is_unchanged(&self) -> bool {
        self.plan.unchanged
    }
}

impl Pruning {
    /// # Errors
    /// Another controller is at work, or the broker has lost what the node knows.
    pub(super) fn new(of: &Publishing<'_>, session: &Session<Link>) -> anyhow::Result<Self> {
        let tree = &of.controller.tree;
        let node = of.args.node.clone().unwrap_or_default();
        let topics = Topics::new(tree.root(), tree.tenant(), &node)?;
        let public = of.key.as_ref().map(SecretKey::public);
        let standing = session.documents.get(&topics.index());
        let standing = standing.and_then(|m| Standing::read(m, &node, public.as_ref()));
        let mut documents = BTreeMap::new();
        for (topic, message) in &session.documents {
            let Some(Inbound::Pod { scope: Scope::Node, key }) = topics.read(topic) else {
                continue;
            };
            let Some(retained) = Retained::read(message, public.as_ref()) else { continue };
            let intent = &retained.intent;
            let is_its = intent.node.as_deref() == Some(&*node)
                && (&*intent.namespace, &*intent.name) == (&*key.namespace, &*key.name);
            if is_its && retained.is_ours {
                documents.insert(key, retained);
            }
        }
        let said = session.fleet.nodes.get(&node).and_then(|view| view.status.as_ref());
        let said = said.map(|status| status.trust.epoch).filter(|epoch| *epoch > 0);
        let stands = standing.as_ref().map(|standing| standing.index.epoch);
        let epoch = of.args.epoch.or(said).or(stands).unwrap_or(1);
        let mut pruning = Self { node, epoch, revision: 0, standing, documents };
        let known = pruning.known(of, session);
        pruning.revision = prune::next_revision(&known, of.args.force_conflicts)?;
        Ok(pruning)
    }

    fn known<'k>(&'k self, of: &'k Publishing<'_>, session: &'k Session<Link>) -> Known<'k> {
        let view = session.fleet.nodes.get(&self.node);
        let pods = view.into_iter().flat_map(|view| &view.pods);
        Known {
            tenant: of.controller.tree.tenant(),
            node: &self.node,
            epoch: self.epoch,
            standing: self.standing.as_ref(),
            status: view.and_then(|view| view.status.as_deref()),
            pods: pods.map(|(key, status)| (key.clone(), &**status)).collect(),
            documents: self.documents.iter().map(|(key, read)| (key.clone(), read)).collect(),
        }
    }

    /// The revision from which on a pod is listed; `None`: it is already.
    pub(super) fn index_revision(&self, pod: &PodKey, standing: Option<&Retained>) -> Option<u64> {
        let is_listed = self.standing.as_ref().is_some_and(|s| s.lists(pod, self.epoch));
        let is_indexed = standing.is_some_and(|retained| retained.intent.index_revision > 0);
        (!(is_listed && is_indexed)).then_some(self.revision)
    }

    /// The index that goes with these documents.
    pub(super) fn index(
        self,
        of: &Publishing<'_>,
        session: &Session<Link>,
        orders: &[Order],
    ) -> anyhow::Result<Index> {
        let version = |order: &Order| order.version.generation;
        let wanted: Vec<_> =
            orders.iter().map(|o| (o.pod.clone(), version(o), o.message.digest)).collect();
        let is_chosen = |pod: &PodKey| {
            let is_in = of.args.namespace.as_deref().is_none_or(|own| *own == *pod.namespace);
            is_in
                && match &of.pruned {
                    None => true,
                    // Of what does not stand at the broker any more nothing is known.
                    Some(chosen) => self
                        .documents
                        .get(pod)
                        .is_some_and(|read| chosen.matches_labels(Some(&labels(read)))),
                }
        };
        let now = time_text(of.clock.now().wall_ms());
        let known = self.known(of, session);
        let plan = prune::plan(&known, self.revision, &wanted, &is_chosen, &now);
        for pod in &plan.left {
            complain(&format!(
                "Warning: pod {pod} is not in the files, and no index lists it: it is left alone (publish --delete {} ends it)",
                pod.name
            ));
        }
        if let Some(standing) = self.standing.as_ref().filter(|_| plan.unchanged) {
            let topic = Topics::new(of.controller.tree.root(), known.tenant, &self.node)?.index();
            let payload = session.documents.get(&topic).map(|bytes| bytes.to_vec());
            let payload = payload.unwrap_or_default();
            let message = Message { topic, payload, retain: true, digest: standing.digest };
            return Ok(Index { message, plan });
        }
        let keys: Vec<&SecretKey> = of.key.iter().collect();
        let message = documents::index(&of.controller.tree, &plan.index, &keys)?;
        Ok(Index { message, plan })
    }
}

/// The labels of the Pod in a document.
fn labels(read: &Retained) -> BTreeMap<String, String> {
    let Some(manifest) = &read.intent.manifest else { return BTreeMap::new() };
    let parsed = parse(manifest.text().as_bytes(), FieldValidation::Strict);
    let mut pods = parsed.documents.into_iter().filter_map(|document| {
        if let Object::Pod(pod) = document.object { Some(pod) } else { None }
    });
    pods.next().and_then(|pod| pod.metadata.labels).unwrap_or_default()
}

impl Index {
    pub(super) fn published(&self) -> String {
        let Plan { index, pruned, .. } = &self.plan;
        let how = if self.plan.unchanged { "unchanged" } else { "published" };
        format!(
            "index {} {how} to {}: lists {}, prunes {}",
            index.revision,
            index.node,
            index.pods.len(),
            pruned.len()
        )
    }

    pub(super) fn dry_run(&self, format: PublishFormat, out: &mut Out) -> anyhow::Result<()> {
        let pruned: Vec<String> = self.plan.pruned.iter().map(ToString::to_string).collect();
        match format {
            PublishFormat::Text => {
                let (topic, size) = (&self.message.topic, self.message.payload.len());
                complain(&format!("{topic} ({size} bytes, retained):"));
                out.bytes(&self.message.payload)?;
                out.line("")?;
                for pod in pruned {
                    complain(&format!("pod {pod} would be pruned"));
                }
                Ok(())
            }
            PublishFormat::Json => {
                let envelope: Value = serde_json::from_slice(&self.message.payload)?;
                let shown = json!({
                    "topic": self.message.topic,
                    "retain": true,
                    "digest": self.message.digest.to_string(),
                    "index": self.plan.index,
                    "pruned": pruned,
                    "envelope": envelope,
                });
                out.line(&serde_json::to_string_pretty(&shown)?)
            }
        }
    }

    /// Waits for the node's word, if anybody waits, and takes what has ended out of the broker.
    pub(super) async fn see_through(
        &self,
        of: &Publishing<'_>,
        session: &mut Session<Link>,
        out: &mut Out,
    ) -> anyhow::Result<Exit> {
        if !of.args.wait {
            return Ok(Exit::Done);
        }
        let until = session.now().plus(of.timeout);
        let verdict = prune::wait(session, &self.plan, &self.message, until).await?;
        let (node, revision) = (&self.plan.index.node, self.plan.index.revision);
        let exit = match &verdict {
            IndexVerdict::Accepted { ending: 0 } => {
                prune::clear(session, &self.plan).await?;
                if of.args.output == PublishFormat::Text {
                    for pod in &self.plan.pruned {
                        out.line(&format!("{node}: pod/{} pruned", pod.name))?;
                    }
                }
                return Ok(Exit::Done);
            }
            IndexVerdict::Refused(refused) => {
                let (reason, message) = (refused.reason.as_str(), &refused.message);
                complain(&format!("error: {node} refuses index {revision}: {reason}: {message}"));
                Exit::Refused
            }
            IndexVerdict::Overtaken => {
                complain(&format!(
                    "error: {node} has a newer index than {revision}: another controller is at work"
                ));
                Exit::Conflict
            }
            IndexVerdict::Accepted { ending } => {
                complain(&format!("error: {node}: timed out waiting for {ending} pods to end"));
                Exit::TimedOut
            }
            IndexVerdict::Waiting => {
                complain(&format!(
                    "error: {node}: timed out waiting for its word on index {revision}"
                ));
                Exit::TimedOut
            }
        };
        Ok(exit)
    }
}
