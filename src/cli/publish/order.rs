//! From what is wanted to signed documents: numbers, images, secrets.
//!
//! Owns: what of the command line goes into a document. Not: which numbers come next (`crate::controller::next`), nor sending.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};

use crate::controller::bundle::Bundle;
use crate::controller::images::Module;
use crate::controller::next::{Choice, Known, Next, Retained, draft, next};
use crate::controller::publish::Order;
use crate::controller::session::Session;
use crate::mqtt::controller::{self as documents, Message, NodeView, SecretKey};
use crate::mqtt::intent::{Manifest, PodIntent, RolloutPolicy, SealedSecret, time_text};
use crate::mqtt::link::Link;
use crate::mqtt::signature::Standing;
use crate::mqtt::status::PodStatus;
use crate::mqtt::topic::Scope;
use crate::mqtt::version::Version;
use crate::secret::{self, Recipient};
use crate::spec::PodKey;

use super::super::{complain, duration};
use super::{Publishing, Wanted, prune};

/// Largest intent that is published without being told to: what the smallest of the hosted brokers takes.
const INTENT_BYTES_MAX: usize = 64 * 1024;

impl Publishing<'_> {
    /// Signed documents for everything that is wanted.
    pub(super) fn orders(
        &self,
        wanted: &[Wanted],
        session: Option<&Session<Link>>,
        pruning: Option<&prune::Pruning>,
    ) -> anyhow::Result<Vec<Order>> {
        let recipient = self.recipient(wanted, session)?;
        let order = |wanted| self.order(wanted, session, recipient.as_ref(), pruning);
        wanted.iter().map(order).collect()
    }

    fn order(
        &self,
        wanted: &Wanted,
        session: Option<&Session<Link>>,
        recipient: Option<&Recipient>,
        pruning: Option<&prune::Pruning>,
    ) -> anyhow::Result<Order> {
        let (tree, pod) = (&self.controller.tree, &wanted.pod);
        let node = self.args.node.as_deref().unwrap_or_default();
        let mut draft = draft(tree.tenant(), node, &self.scope, pod);
        if let Some(bundle) = &wanted.bundle {
            self.fill(&mut draft, bundle, &wanted.modules, recipient)?;
        }
        let topic = tree.pod(&self.scope, node, pod)?;
        let public = self.key.as_ref().map(SecretKey::public);
        let standing = session.and_then(|session| session.documents.get(&topic));
        let retained = standing.and_then(|message| Retained::read(message, public.as_ref()));
        let known = known(session, retained.as_ref(), &self.scope, node, pod);
        if let (Some(epoch), Some(old), None) = (known.epoch, &retained, self.args.epoch)
            && old.is_ours
            && epoch > old.intent.epoch
        {
            complain(&format!(
                "Warning: pod {pod} is signed for epoch {epoch}, which the broker says nodes are in; it stood in epoch {}. If no root has raised \
                 it, stop here (--epoch)",
                old.intent.epoch
            ));
        }
        let choice = Choice {
            epoch: self.args.epoch,
            generation: self.args.generation,
            take_over: self.args.force_conflicts,
            recreate: self.args.recreate,
            again: self.args.again,
            index_revision: pruning.and_then(|p| p.index_revision(pod, retained.as_ref())),
        };
        let now = time_text(self.clock.now().wall_ms());
        let uid = uuid::Uuid::new_v4().to_string();
        let (message, version, unchanged) =
            match next(draft, &self.scope, &known, &choice, &uid, &now)? {
                Next::Unchanged(old) => {
                    let (epoch, generation) = (old.intent.epoch, old.intent.generation);
                    let (payload, digest) = (old.message.to_vec(), old.digest);
                    let message = Message { topic, payload, retain: true, digest };
                    (message, Version { epoch, generation }, true)
                }
                Next::New(intent) => {
                    let keys: Vec<&SecretKey> = self.key.iter().collect();
                    let message = documents::intent(tree, &intent, &keys)
                        .with_context(|| format!("pod {pod} cannot be published"))?;
                    let (epoch, generation) = (intent.epoch, intent.generation);
                    (message, Version { epoch, generation }, false)
                }
            };
        let size = message.payload.len();
        ensure!(
            size <= INTENT_BYTES_MAX || self.args.allow_large,
            "pod {pod}: the document has {size} bytes; some hosted brokers take no more than {INTENT_BYTES_MAX} \
             (--allow-large publishes it all the same)"
        );
        let (node, selector) = (self.args.node.clone(), self.selector.clone());
        let scope = self.scope.clone();
        Ok(Order { pod: pod.clone(), scope, node, selector, message, version, unchanged })
    }

    /// Completes a draft with what the pod is.
    fn fill(
        &self,
        draft: &mut PodIntent,
        bundle: &Bundle,
        modules: &[Module],
        recipient: Option<&Recipient>,
    ) -> anyhow::Result<()> {
        let renamed: BTreeMap<String, String> = modules
            .iter()
            .filter(|module| module.text != module.artifact.image)
            .map(|module| (module.text.clone(), module.artifact.image.clone()))
            .collect();
        draft.deleted = false;
        draft.manifest = Some(Manifest::Text(bundle.manifest(&renamed)));
        let mut artifacts = vec![];
        for module in modules {
            // Two files may hold the same.
            if !artifacts.contains(&module.artifact) {
                artifacts.push(module.artifact.clone());
            }
        }
        draft.artifacts = artifacts;
        draft.node_selector = self.selector.clone();
        draft.rollout = self.rollout()?;
        for secret in &bundle.secrets {
            let name = secret.metadata.name.clone().unwrap_or_default();
            let recipient = recipient.with_context(|| format!("secret {name}: sealed to whom?"))?;
            let json = secret::Zeroizing::new(serde_json::to_vec(secret)?);
            let sealed =
                secret::encrypt(recipient, &json).with_context(|| format!("secret {name}"))?;
            draft.secrets.push(SealedSecret { name, sealed });
        }
        Ok(())
    }

    fn rollout(&self) -> anyhow::Result<RolloutPolicy> {
        let seconds = |text: &Option<String>| {
            text.as_deref().map(|text| duration::parse(text).map(|d| d.as_secs())).transpose()
        };
        Ok(RolloutPolicy {
            fetch_deadline_seconds: seconds(&self.args.fetch_deadline)?,
            progress_deadline_seconds: seconds(&self.args.progress_deadline)?,
            min_ready_seconds: seconds(&self.args.min_ready)?,
        })
    }

    /// To whom secrets are encrypted, if there are any in clear.
    fn recipient(
        &self,
        wanted: &[Wanted],
        session: Option<&Session<Link>>,
    ) -> anyhow::Result<Option<Recipient>> {
        let bundles = wanted.iter().filter_map(|wanted| wanted.bundle.as_ref());
        if bundles.flat_map(|bundle| &bundle.secrets).next().is_none() {
            return Ok(None);
        }
        let Some(node) = &self.args.node else {
            bail!("Secrets cannot be sent to a group: each node has a key of its own (--node)");
        };
        let pinned = self.args.recipient.as_ref().or(self.controller.recipients.get(node));
        if let Some(pinned) = pinned {
            return Ok(Some(pinned.parse()?));
        }
        let view = session.and_then(|session| session.fleet.nodes.get(node));
        let status = view.and_then(|view| view.status.as_ref());
        let said = status.and_then(|status| status.capabilities.recipient.clone());
        let said = said.with_context(|| {
            format!(
                "node {node} has not said to whom its secrets are encrypted: name it with --recipient (podling key node prints it there)"
            )
        })?;
        if view.and_then(NodeView::own_standing) == Some(Standing::Verified) {
            return Ok(Some(said.parse()?));
        }
        complain(&format!(
            "Warning: secrets are encrypted to {said}, as the broker says that {node} says; to rely on nobody, write it under \
             recipients in {} or use --recipient",
            self.controller.origin
        ));
        Ok(Some(said.parse()?))
    }
}

/// What is known of a pod.
fn known<'s>(
    session: Option<&'s Session<Link>>,
    retained: Option<&'s Retained>,
    scope: &Scope,
    node: &str,
    pod: &PodKey,
) -> Known<'s> {
    let Some(session) = session else { return Known::default() };
    let is_meant = |name: &str| *scope != Scope::Node || name == node;
    let views = session.fleet.nodes.iter().filter(|(name, _)| is_meant(name));
    let (mut statuses, mut epoch): (Vec<&PodStatus>, Option<u64>) = (vec![], None);
    for (_, view) in views {
        statuses.extend(view.pods.get(pod).map(|status| &**status));
        let theirs = view.status.as_ref().map(|status| status.trust.epoch);
        epoch = epoch.max(theirs.filter(|epoch| *epoch > 0));
    }
    Known { retained, statuses, epoch }
}
