//! The node's index: which pods it is to list next, and what ends because it no longer does.
//!
//! Owns: that decision, the index' verdict, seeing it through. Not: the index' form (`mqtt::index`), nor the pods' own documents
//! (`next`). `plan` is pure.
//!
//! ```text
//!  standing index ─┐                            listed: what is published now, what stays
//!  node's statuses ┼─► plan ─► next revision ───┤
//!  documents       ┘    ▲                       └ not listed: pruned
//!             which are chosen, by label
//! ```
//!
//! Only what an index lists can be pruned: a pod that was published without one is left alone and named. What the node has that the standing
//! index does not know of is listed too, so that nothing ends for want of knowledge; and where the node knows a newer index than the
//! broker, nothing is planned at all.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ed25519_dalek::VerifyingKey;
use thiserror::Error;

use super::next::Retained;
use super::session::{Session, SessionError, Step};
use crate::clock::Timestamp;
use crate::image::Digest;
use crate::mqtt::controller::Message;
use crate::mqtt::envelope::{Envelope, PayloadType, key_id};
use crate::mqtt::index::{Listed, NodeIndex};
use crate::mqtt::intent::API_VERSION;
use crate::mqtt::status::{NodeStatus, PodStatus, RefusedStatus};
use crate::mqtt::topic::Scope;
use crate::mqtt::transport::Transport;
use crate::spec::PodKey;

/// The index that stands at the broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub index: NodeIndex,
    pub digest: Digest,
    pub is_ours: bool,
    pub keys: Vec<String>,
}

impl Standing {
    /// Reads what stands in the topic of a node's index. `None`: nothing that this node would understand.
    #[must_use]
    pub fn read(message: &Bytes, node: &str, our_key: Option<&VerifyingKey>) -> Option<Self> {
        let envelope = Envelope::open(message, PayloadType::Index).ok()?;
        let index: NodeIndex = serde_json::from_slice(&envelope.payload).ok()?;
        if index.node != node {
            return None;
        }
        let is_ours = match our_key {
            Some(key) => envelope.is_signed_by(&key_id(key), key),
            None => envelope.signatures.is_empty(),
        };
        let keys = envelope.signatures.iter().map(|signature| signature.keyid.clone()).collect();
        Some(Self { digest: envelope.digest(), index, is_ours, keys })
    }

    /// Whether it lists a pod, in that epoch.
    #[must_use]
    pub fn lists(&self, pod: &PodKey, epoch: u64) -> bool {
        let is_it =
            |listed: &Listed| listed.namespace == *pod.namespace && listed.name == *pod.name;
        self.index.epoch == epoch && self.index.pods.iter().any(is_it)
    }
}

/// What is known of a node's pods.
#[derive(Debug)]
pub struct Known<'a> {
    pub tenant: &'a str,
    pub node: &'a str,
    pub epoch: u64,
    pub standing: Option<&'a Standing>,
    pub status: Option<&'a NodeStatus>,
    /// What the node says of its pods.
    pub pods: BTreeMap<PodKey, &'a PodStatus>,
    /// What stands at the broker, and is ours.
    pub documents: BTreeMap<PodKey, &'a Retained>,
}

/// Why there is no next index.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IndexConflict {
    #[error(
        "the index of node {node} is another controller's ({signers}): agree on one, or take it over with --force-conflicts"
    )]
    Foreign { node: String, signers: String },
    #[error(
        "node {node} has index {known}, and the broker holds {}: what it lists is not known, and pods might end that nobody means. Where the \
         index is lost for good, --force-conflicts lists every pod that the node has told of",
        standing.map_or("none".to_owned(), |revision| format!("revision {revision}"))
    )]
    Lost { node: String, known: u64, standing: Option<u64> },
}

/// The revision that comes next.
///
/// # Errors
/// Somebody else is at work, or the broker has lost what the node knows.
pub fn next_revision(known: &Known<'_>, take_over: bool) -> Result<u64, IndexConflict> {
    let node = || known.node.to_owned();
    if let Some(foreign) = known.standing.filter(|standing| !standing.is_ours && !take_over) {
        let signers =
            if foreign.keys.is_empty() { "nobody's".to_owned() } else { foreign.keys.join(", ") };
        return Err(IndexConflict::Foreign { node: node(), signers });
    }
    let standing = known.standing.filter(|standing| standing.index.epoch == known.epoch);
    let accepted = known.status.map(|status| &status.desired);
    let accepted = accepted.filter(|index| index.epoch == known.epoch && index.revision > 0);
    let (here, there) = (standing.map(|s| s.index.revision), accepted.map(|index| index.revision));
    if let Some(accepted) = accepted {
        let digest = standing.map(|standing| standing.digest.to_string());
        let is_behind = here < there || (here == there && digest != accepted.digest);
        if is_behind && !take_over {
            let known = accepted.revision;
            return Err(IndexConflict::Lost { node: node(), known, standing: here });
        }
    }
    Ok(here.max(there).unwrap_or(0).saturating_add(1))
}

/// The next index, and what it means.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub index: NodeIndex,
    pub pruned: BTreeSet<PodKey>,
    /// Chosen, and not listed by any index: left alone.
    pub left: BTreeSet<PodKey>,
    /// The index that stands says the same, and is this one.
    pub unchanged: bool,
}

/// Decides what is listed. `wanted`: what is published now; `is_chosen`: what may end, of the rest.
#[must_use]
pub fn plan(
    known: &Known<'_>,
    revision: u64,
    wanted: &[(PodKey, u64, Digest)],
    is_chosen: &dyn Fn(&PodKey) -> bool,
    issued_at: &str,
) -> Plan {
    let mut pods: BTreeMap<PodKey, (u64, Digest)> = BTreeMap::new();
    let mut pruned = BTreeSet::new();
    let is_wanted = |key: &PodKey| wanted.iter().any(|(pod, ..)| pod == key);
    let document = |key: &PodKey| known.documents.get(key).map(|document| &document.intent);
    let is_deleted = |key: &PodKey| document(key).is_some_and(|intent| intent.deleted);
    // An index says nothing of it, even if it lists it.
    let is_beside = |key: &PodKey| document(key).is_some_and(|intent| intent.index_revision == 0);
    let standing = known.standing.filter(|standing| standing.index.epoch == known.epoch);
    for listed in standing.into_iter().flat_map(|standing| &standing.index.pods) {
        let key = PodKey::new(&listed.namespace, &listed.name);
        if is_wanted(&key) || is_deleted(&key) || is_beside(&key) {
            continue;
        }
        if is_chosen(&key) {
            pruned.insert(key);
        } else {
            pods.insert(key, (listed.generation, listed.digest));
        }
    }
    // What the node has, and what was published since under the same index.
    let accepted = known.pods.iter().filter_map(|(key, status)| {
        let document = status.documents.iter().find(|document| document.scope == Scope::Node)?;
        let accepted = document.accepted.as_ref().filter(|accepted| !accepted.deleted)?;
        let version = accepted.revision.version;
        (version.epoch == known.epoch)
            .then(|| (key.clone(), version.generation, accepted.revision.digest))
    });
    let documents = known.documents.iter().filter(|(_, document)| {
        document.intent.epoch == known.epoch && document.intent.index_revision > 0
    });
    let documents =
        documents.map(|(key, document)| (key.clone(), document.intent.generation, document.digest));
    for (key, generation, digest) in accepted.chain(documents) {
        let is_out = pruned.contains(&key) || is_wanted(&key) || is_deleted(&key);
        let is_out = is_out || is_beside(&key);
        let is_newer = pods.get(&key).is_none_or(|(known, _)| *known < generation);
        if !is_out && is_newer {
            pods.insert(key, (generation, digest));
        }
    }
    for (key, generation, digest) in wanted {
        pods.insert(key.clone(), (*generation, *digest));
    }
    let unlisted = known.documents.iter().filter(|(key, document)| {
        is_beside(key) && !document.intent.deleted && !is_wanted(key) && is_chosen(key)
    });
    let left = unlisted.map(|(key, _)| key.clone()).collect();
    let listed = pods.into_iter().map(|(key, (generation, digest))| Listed {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        generation,
        digest,
    });
    let pods: Vec<Listed> = listed.collect();
    if let Some(standing) = standing.filter(|s| s.is_ours && s.index.pods == pods) {
        return Plan { index: standing.index.clone(), pruned, left, unchanged: true };
    }
    let index = NodeIndex {
        api_version: API_VERSION.to_owned(),
        kind: "NodeIndex".to_owned(),
        tenant: known.tenant.to_owned(),
        node: known.node.to_owned(),
        epoch: known.epoch,
        revision,
        issued_at: issued_at.to_owned(),
        pods,
    };
    Plan { index, pruned, left, unchanged: false }
}

/// What a node says of an index.
#[derive(Clone, Debug, PartialEq)]
pub enum IndexVerdict {
    Waiting,
    Refused(RefusedStatus),
    /// It is on the node's disk; these pods have not ended yet.
    Accepted {
        ending: usize,
    },
    /// A newer one is.
    Overtaken,
}

impl IndexVerdict {
    /// Whether waiting any longer is of no use.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Waiting => false,
            Self::Accepted { ending } => *ending == 0,
            Self::Refused(_) | Self::Overtaken => true,
        }
    }
}

/// Reads the verdict out of what the node says.
fn verdict<T: Transport>(session: &Session<T>, plan: &Plan, digest: Digest) -> IndexVerdict {
    let Some(view) = session.fleet.nodes.get(&plan.index.node) else {
        return IndexVerdict::Waiting;
    };
    let Some(status) = &view.status else { return IndexVerdict::Waiting };
    if let Some(refused) = status.refused.as_ref().filter(|refused| refused.digest == digest) {
        return IndexVerdict::Refused(refused.clone());
    }
    let desired = &status.desired;
    let ours = (plan.index.epoch, plan.index.revision);
    if desired.digest.as_deref() == Some(&*digest.to_string()) {
        let runs = |key: &&PodKey| view.pods.get(key).is_some_and(|pod| pod.active.is_some());
        return IndexVerdict::Accepted { ending: plan.pruned.iter().filter(runs).count() };
    }
    if (desired.epoch, desired.revision) > ours {
        IndexVerdict::Overtaken
    } else {
        IndexVerdict::Waiting
    }
}

/// Waits for the node's last word on an index that was published; what it is when the time is over.
///
/// # Errors
/// The connection breaks and does not come back before.
pub async fn wait<T: Transport>(
    session: &mut Session<T>,
    plan: &Plan,
    message: &Message,
    until: Timestamp,
) -> Result<IndexVerdict, SessionError> {
    loop {
        let found = verdict(session, plan, message.digest);
        if found.is_final() || session.now() >= until {
            return Ok(found);
        }
        match session.step(until).await {
            Ok(Step::Time) => return Ok(verdict(session, plan, message.digest)),
            Ok(_) => {}
            Err(lost) => {
                session.come_back(until, lost).await?;
                if !session.documents.contains_key(&message.topic) {
                    session.publish(message).await?;
                }
            }
        }
    }
}

/// Takes what is pruned out of the broker, where nobody needs it any more.
///
/// # Errors
/// The broker refuses it, or the connection breaks.
pub async fn clear<T: Transport>(
    session: &mut Session<T>,
    plan: &Plan,
) -> Result<(), SessionError> {
    for pod in &plan.pruned {
        let Ok(topic) = session.tree().pod(&Scope::Node, &plan.index.node, pod) else { continue };
        if session.documents.contains_key(&topic) {
            let digest = Digest::new([0; 32]);
            let nothing = Message { topic, payload: vec![], retain: true, digest };
            session.publish(&nothing).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::mqtt::controller::{self, SecretKey};
    use crate::mqtt::intent::PodIntent;
    use crate::mqtt::kit;
    use crate::mqtt::status::DesiredStatus;
    use crate::mqtt::version::Version;

    const NOW: &str = "2026-11-21T07:00:00Z";

    struct World {
        standing: Option<Standing>,
        status: Option<NodeStatus>,
        documents: BTreeMap<PodKey, Retained>,
        pods: BTreeMap<PodKey, PodStatus>,
    }

    impl World {
        /// Pods of an index, each with its generation; and others that stand beside it.
        fn new(listed: &[(&str, u64)], unlisted: &[(&str, u64)]) -> Self {
            let key = SecretKey::from_seed(&[5; 32]);
            let document = |name: &str, generation: u64, index_revision: u64| {
                let intent = PodIntent { index_revision, ..kit::intent(name, generation) };
                let message = controller::intent(&kit::tree(), &intent, &[&key]).unwrap();
                let read = Retained::read(&message.payload.into(), Some(&key.public())).unwrap();
                (kit::pod_key(name), read)
            };
            let listed: Vec<_> = listed.iter().map(|(name, n)| document(name, *n, 1)).collect();
            let pods = listed.iter().map(|(key, read)| Listed {
                namespace: key.namespace.to_string(),
                name: key.name.to_string(),
                generation: read.intent.generation,
                digest: read.digest,
            });
            let index = NodeIndex {
                api_version: API_VERSION.into(),
                kind: "NodeIndex".into(),
                tenant: kit::TENANT.into(),
                node: kit::NODE.into(),
                epoch: 1,
                revision: 4,
                issued_at: NOW.into(),
                pods: pods.collect(),
            };
            let message = controller::index(&kit::tree(), &index, &[&key]).unwrap();
            let read = Standing::read(&message.payload.into(), kit::NODE, Some(&key.public()));
            let digest = Some(message.digest.to_string());
            let desired =
                DesiredStatus { epoch: 1, revision: 4, digest, ..DesiredStatus::default() };
            let others = unlisted.iter().map(|(name, n)| document(name, *n, 0));
            Self {
                standing: read,
                status: Some(NodeStatus { desired, ..NodeStatus::default() }),
                documents: listed.into_iter().chain(others).collect(),
                pods: BTreeMap::new(),
            }
        }

        fn known(&self) -> Known<'_> {
            Known {
                tenant: kit::TENANT,
                node: kit::NODE,
                epoch: 1,
                standing: self.standing.as_ref(),
                status: self.status.as_ref(),
                pods: self.pods.iter().map(|(key, status)| (key.clone(), status)).collect(),
                documents: self.documents.iter().map(|(key, read)| (key.clone(), read)).collect(),
            }
        }
    }

    fn names(keys: &BTreeSet<PodKey>) -> Vec<&str> {
        keys.iter().map(|key| &*key.name).collect()
    }

    fn listed(plan: &Plan) -> Vec<(&str, u64)> {
        plan.index.pods.iter().map(|listed| (&*listed.name, listed.generation)).collect()
    }

    #[test]
    fn what_is_chosen_and_not_wanted_is_pruned_and_all_else_stays() {
        let world = World::new(&[("a", 1), ("b", 2), ("c", 3)], &[("by-hand", 7)]);
        let known = world.known();
        let revision = next_revision(&known, false).unwrap();
        let wanted = [(kit::pod_key("a"), 9, Digest::new([9; 32]))];
        let all = plan(&known, revision, &wanted, &|_| true, NOW);
        assert_eq!((listed(&all), names(&all.pruned)), (vec![("a", 9)], vec!["b", "c"]));
        assert_eq!((names(&all.left), all.index.revision), (vec!["by-hand"], 5));
        let some = plan(&known, revision, &wanted, &|key| &*key.name == "b", NOW);
        assert_eq!((listed(&some), names(&some.pruned)), (vec![("a", 9), ("c", 3)], vec!["b"]));
        assert!(some.left.is_empty() && !some.unchanged);
        // The same again is the index that stands.
        let listed = |name: &str| world.documents[&kit::pod_key(name)].digest;
        let same = [(kit::pod_key("a"), 1, listed("a")), (kit::pod_key("b"), 2, listed("b"))];
        let same = plan(&known, revision, &same, &|_| false, NOW);
        assert_eq!((same.unchanged, same.index.revision), (true, 4));
    }

    #[test]
    fn what_the_node_has_and_the_index_does_not_know_is_listed_and_never_ends() {
        let mut world = World::new(&[("a", 1)], &[]);
        let mut status = PodStatus::default();
        let read = world.documents[&kit::pod_key("a")].clone();
        let version = Version { epoch: 1, generation: 6 };
        let revision =
            crate::mqtt::version::Revision { version, digest: read.digest, uid: "u".into() };
        let accepted =
            Some(crate::mqtt::status::AcceptedStatus { revision, deleted: false, inactive: None });
        let document =
            crate::mqtt::status::DocumentStatus { scope: Scope::Node, accepted, refused: None };
        status.documents.push(document);
        world.pods.insert(kit::pod_key("unheard-of"), status.clone());
        // A newer generation of what is listed counts.
        world.pods.insert(kit::pod_key("a"), status);
        let planned = plan(&world.known(), 5, &[], &|key| &*key.name == "unheard-of", NOW);
        assert_eq!(listed(&planned), [("a", 6), ("unheard-of", 6)]);
        assert!(planned.pruned.is_empty());
    }

    #[test]
    fn a_broker_that_lost_the_index_or_has_an_older_one_stops_it() {
        let mut world = World::new(&[("a", 1), ("b", 2)], &[]);
        let standing = world.standing.take();
        let lost = next_revision(&world.known(), false).unwrap_err();
        assert!(lost.to_string().contains("index 4, and the broker holds none"), "{lost}");
        assert_eq!(next_revision(&world.known(), true), Ok(5));
        world.standing = standing;
        world.status.as_mut().unwrap().desired.digest = Some("sha256:other".into());
        assert!(next_revision(&world.known(), false).is_err(), "the same number, another index");
        world.status.as_mut().unwrap().desired.revision = 3;
        assert_eq!(next_revision(&world.known(), false), Ok(5), "the node has yet to take it");
        // Another epoch begins anew.
        assert_eq!(next_revision(&Known { epoch: 2, ..world.known() }, false), Ok(1));
    }

    #[test]
    fn another_controllers_index_and_another_nodes_are_told_from_ours() {
        let mut world = World::new(&[("a", 1)], &[]);
        let standing = world.standing.as_mut().unwrap();
        standing.is_ours = false;
        let foreign = next_revision(&world.known(), false).unwrap_err();
        assert!(matches!(foreign, IndexConflict::Foreign { .. }), "{foreign}");
        let key = SecretKey::from_seed(&[5; 32]);
        let index = NodeIndex { node: "gw-18".into(), ..world.standing.unwrap().index };
        let message = controller::index(&kit::tree(), &index, &[&key]).unwrap();
        assert_eq!(Standing::read(&message.payload.into(), kit::NODE, Some(&key.public())), None);
    }

    #[test]
    fn a_pod_that_has_its_tombstone_is_neither_listed_nor_pruned() {
        let mut world = World::new(&[("a", 1), ("b", 2)], &[]);
        world.documents.get_mut(&kit::pod_key("b")).unwrap().intent.deleted = true;
        let planned = plan(&world.known(), 5, &[], &|_| false, NOW);
        assert_eq!((listed(&planned), planned.pruned.len()), (vec![("a", 1)], 0));
    }
}
