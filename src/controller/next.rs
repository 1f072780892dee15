//! Which document comes next: its epoch, generation and uid, or that there is nothing to change.
//!
//! Owns: that decision, and noticing that somebody else is at work. Not: how what is known was read (`session`). Pure.
//!
//! What is known is what the broker retains (the last document, and who signed it) and what nodes say they accepted. A broker that
//! has lost everything costs nothing: the nodes' marks are enough. Two people who publish at the same moment read the same and
//! choose the same number; the node takes the first and refuses the second (`GenerationConflict`), who is told.

use std::collections::BTreeMap;

use bytes::Bytes;
use ed25519_dalek::VerifyingKey;
use thiserror::Error;

use crate::image::Digest;
use crate::mqtt::envelope::{Envelope, PayloadType, key_id};
use crate::mqtt::intent::{API_VERSION, PodIntent, RolloutPolicy};
use crate::mqtt::status::{AcceptedStatus, PodStatus};
use crate::mqtt::topic::Scope;
use crate::mqtt::version::Version;
use crate::spec::PodKey;

/// As far as the word of nodes alone may lead, which nobody has signed: half of all generations. Or whoever can write a status could use up
/// the others.
const CLAIM_MAX: u64 = crate::mqtt::version::NUMBER_MAX / 2;

/// The document that stands at the broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Retained {
    pub intent: PodIntent,
    pub digest: Digest,
    /// The message, as it stands there.
    pub message: Bytes,
    /// Ids of the keys that it names.
    pub keys: Vec<String>,
    /// It carries a good signature of our key; or, without a key, no signature at all.
    pub is_ours: bool,
}

impl Retained {
    /// Reads what stands in a pod's topic. `None`: nothing that a node would understand.
    #[must_use]
    pub fn read(message: &Bytes, our_key: Option<&VerifyingKey>) -> Option<Self> {
        let envelope = Envelope::open(message, PayloadType::Intent).ok()?;
        let intent: PodIntent = serde_json::from_slice(&envelope.payload).ok()?;
        let is_ours = match our_key {
            Some(key) => envelope.is_signed_by(&key_id(key), key),
            None => envelope.signatures.is_empty(),
        };
        let keys = envelope.signatures.iter().map(|signature| signature.keyid.clone()).collect();
        Some(Self { digest: envelope.digest(), intent, message: message.clone(), keys, is_ours })
    }

    /// Whether it is about the same pod of the same node or group. What stands in a topic need not belong there: the broker can put
    /// another node's document into it, with a good signature of ours.
    fn is_about(&self, draft: &PodIntent) -> bool {
        let of = |intent: &PodIntent| {
            let PodIntent { tenant, node, group, namespace, name, .. } = intent.clone();
            (tenant, node, group, namespace, name)
        };
        of(&self.intent) == of(draft)
    }

    fn version(&self) -> Version {
        Version { epoch: self.intent.epoch, generation: self.intent.generation }
    }

    fn signers(&self) -> String {
        match &self.keys[..] {
            [] => "nobody".to_owned(),
            keys => format!("key {}", keys.join(", ")),
        }
    }
}

/// What is known of a pod in one scope.
#[derive(Debug, Default)]
pub struct Known<'a> {
    pub retained: Option<&'a Retained>,
    /// What nodes say of it.
    pub statuses: Vec<&'a PodStatus>,
    /// The epoch that the nodes' trust is in.
    pub epoch: Option<u64>,
}

/// What the person asks for beside the pod itself.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    pub epoch: Option<u64>,
    pub generation: Option<u64>,
    /// Publish over another controller's document, and with a generation below what nodes claim: what they say is not signed.
    pub take_over: bool,
    /// A new incarnation: the pod's volumes begin anew.
    pub recreate: bool,
    /// A new generation although nothing has changed.
    pub again: bool,
    /// The index' revision that lists the pod from now on; `None`: whatever was so far.
    pub index_revision: Option<u64>,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// What is retained says the same already.
    Unchanged(Retained),
    New(PodIntent),
}

/// Why nothing can come next.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Conflict {
    #[error(
        "pod {pod} is published by another controller: {version} stands at the broker, signed by {signers}, issued at {issued_at}. \
         Agree on one, or take it over with --force-conflicts"
    )]
    Foreign { pod: PodKey, version: Version, signers: String, issued_at: String },
    #[error(
        "pod {pod}: generation {asked} is not above {known}, which is {known_by}: leave out --generation, give a higher one, or say \
         --force-conflicts if that is not true"
    )]
    NotAbove { pod: PodKey, asked: u64, known: Version, known_by: &'static str },
    #[error(
        "pod {pod}: a node says that it has accepted {claimed}, and no document of ours at the broker confirms it; what nodes say is not \
         signed. If it is true, say so with --generation and a higher one; if not, with --generation, a lower one and --force-conflicts"
    )]
    Unbelievable { pod: PodKey, claimed: Version },
    #[error(
        "pod {0} is neither at the broker nor on a node that has said so: there is nothing to delete"
    )]
    Nothing(PodKey),
    #[error(
        "pod {0} has used up its generations; publish it under another name, or in the next epoch"
    )]
    UsedUp(PodKey),
}

/// The newest document of a scope that nodes have accepted.
fn accepted<'a>(known: &Known<'a>, scope: &Scope) -> Option<&'a AcceptedStatus> {
    let documents = known.statuses.iter().flat_map(|status| &status.documents);
    let of_scope = documents.filter(|document| document.scope == *scope);
    of_scope.filter_map(|d| d.accepted.as_ref()).max_by_key(|accepted| accepted.revision.version)
}

/// Completes a draft, whose numbers, uid and time mean nothing yet. `uid`, `issued_at`: for a new one.
///
/// # Errors
/// Somebody else is at work, or there is nothing to do it to.
pub fn next(
    draft: PodIntent,
    scope: &Scope,
    known: &Known<'_>,
    choice: &Choice,
    uid: &str,
    issued_at: &str,
) -> Result<Next, Conflict> {
    let pod = PodKey::new(&draft.namespace, &draft.name);
    let accepted = accepted(known, scope);
    let standing = known.retained.filter(|retained| retained.is_about(&draft));
    if let Some(foreign) = standing.filter(|retained| !retained.is_ours && !choice.take_over) {
        let (version, signers) = (foreign.version(), foreign.signers());
        let issued_at = foreign.intent.issued_at.clone();
        return Err(Conflict::Foreign { pod, version, signers, issued_at });
    }
    let retained = standing.map(Retained::version);
    let mark = accepted.map(|accepted| accepted.revision.version);
    let newest = [retained, mark].into_iter().flatten().max();
    let epoch = choice.epoch.or(known.epoch).or(newest.map(|v| v.epoch)).unwrap_or(1).max(1);
    let in_epoch = |version: Option<Version>| version.filter(|version| version.epoch == epoch);
    let (retained, mark) = (in_epoch(retained), in_epoch(mark));
    let highest = retained.max(mark);
    if let Some(old) = standing
        && retained >= mark
        && is_same(&old.intent, &draft)
        && old.is_ours
        && retained.is_some()
        && choice.generation.is_none()
        && !choice.again
        && !choice.recreate
        && choice.index_revision.is_none()
    {
        return Ok(Next::Unchanged(old.clone()));
    }
    let known_uid = match (standing, accepted) {
        (Some(old), _) if retained >= mark => (!old.intent.deleted).then_some(&old.intent.uid),
        (_, Some(accepted)) => (!accepted.deleted).then_some(&accepted.revision.uid),
        (Some(old), None) => (!old.intent.deleted).then_some(&old.intent.uid),
        (None, None) => None,
    };
    if draft.deleted && standing.is_none() && accepted.is_none() {
        return Err(Conflict::Nothing(pod));
    }
    let claimed = mark.filter(|mark| mark.generation > CLAIM_MAX && retained < Some(*mark));
    if let (Some(claimed), None) = (claimed, choice.generation) {
        return Err(Conflict::Unbelievable { pod, claimed });
    }
    let after = highest.map_or(0, |version| version.generation);
    let generation = match choice.generation {
        Some(asked) if asked <= after && !choice.take_over => {
            let known_by =
                if mark >= retained { "what a node has accepted" } else { "what the broker holds" };
            let known = Version { epoch, generation: after };
            return Err(Conflict::NotAbove { pod, asked, known, known_by });
        }
        Some(asked) => asked,
        None => after.saturating_add(1),
    };
    if generation > crate::mqtt::version::NUMBER_MAX {
        return Err(Conflict::UsedUp(pod));
    }
    let kept = known_uid.filter(|_| !choice.recreate).map_or(uid, String::as_str).to_owned();
    let index_revision = choice.index_revision;
    let index_revision =
        index_revision.unwrap_or_else(|| standing.map_or(0, |old| old.intent.index_revision));
    let issued_at = issued_at.to_owned();
    Ok(Next::New(PodIntent { epoch, generation, uid: kept, issued_at, index_revision, ..draft }))
}

/// Whether two documents want the same. What is sealed is never the same twice.
fn is_same(a: &PodIntent, b: &PodIntent) -> bool {
    let bare = |intent: &PodIntent| PodIntent {
        epoch: 0,
        generation: 0,
        index_revision: 0,
        uid: String::new(),
        issued_at: String::new(),
        ..intent.clone()
    };
    a.secrets.is_empty() && b.secrets.is_empty() && bare(a) == bare(b)
}

/// A document about a pod with everything yet to be filled in. A tombstone, as it stands.
#[must_use]
pub fn draft(tenant: &str, node: &str, scope: &Scope, pod: &PodKey) -> PodIntent {
    let (node, group) = match scope {
        Scope::Node => (Some(node.to_owned()), None),
        Scope::Group(group) => (None, Some(group.to_string())),
    };
    PodIntent {
        api_version: API_VERSION.to_owned(),
        kind: "PodIntent".to_owned(),
        tenant: tenant.to_owned(),
        node,
        group,
        namespace: pod.namespace.to_string(),
        name: pod.name.to_string(),
        epoch: 0,
        generation: 0,
        uid: String::new(),
        issued_at: String::new(),
        index_revision: 0,
        deleted: true,
        node_selector: BTreeMap::new(),
        rollout: RolloutPolicy::default(),
        artifacts: vec![],
        secrets: vec![],
        manifest: None,
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::mqtt::controller::{self, SecretKey};
    use crate::mqtt::kit;
    use crate::mqtt::status::DocumentStatus;
    use crate::mqtt::version::Revision;

    const NOW: &str = "2026-11-21T07:00:00Z";

    fn retained(intent: &PodIntent, by: &SecretKey, ours: &SecretKey) -> Retained {
        let message = controller::intent(&kit::tree(), intent, &[by]).unwrap();
        Retained::read(&message.payload.into(), Some(&ours.public())).unwrap()
    }

    fn ours() -> SecretKey {
        SecretKey::from_seed(&[5; 32])
    }

    fn status(generation: u64, deleted: bool) -> PodStatus {
        let version = Version { epoch: 1, generation };
        let revision = Revision { version, digest: Digest::new([1; 32]), uid: "of-node".into() };
        let accepted = Some(AcceptedStatus { revision, deleted, inactive: None });
        let document = DocumentStatus { scope: Scope::Node, accepted, refused: None };
        PodStatus { documents: vec![document], ..PodStatus::default() }
    }

    fn plan(
        draft: &PodIntent,
        retained: Option<&Retained>,
        status: Option<&PodStatus>,
        choice: &Choice,
    ) -> Result<Next, Conflict> {
        let known = Known { retained, statuses: status.into_iter().collect(), epoch: None };
        next(draft.clone(), &Scope::Node, &known, choice, "fresh", NOW)
    }

    #[track_caller]
    fn new(planned: Result<Next, Conflict>) -> PodIntent {
        match planned.unwrap() {
            Next::New(intent) => intent,
            Next::Unchanged(old) => panic!("unchanged: {:?}", old.intent),
        }
    }

    #[test]
    fn the_next_generation_is_above_all_that_is_known() {
        let draft = kit::intent("web", 1);
        let none = Choice::default();
        let first = new(plan(&draft, None, None, &none));
        assert_eq!((first.epoch, first.generation, &*first.uid), (1, 1, "fresh"));
        assert_eq!(first.issued_at, NOW);
        let old = PodIntent { manifest: None, deleted: true, ..kit::intent("web", 4) };
        let old = retained(&PodIntent { uid: "u4".into(), ..old }, &ours(), &ours());
        // A deleted pod comes back as another one.
        let again = new(plan(&draft, Some(&old), None, &none));
        assert_eq!((again.generation, &*again.uid), (5, "fresh"));
        // The broker has lost it; the node knows.
        let known = new(plan(&draft, None, Some(&status(9, false)), &none));
        assert_eq!((known.generation, &*known.uid), (10, "of-node"));
        let newer = new(plan(&draft, Some(&old), Some(&status(9, false)), &none));
        assert_eq!((newer.generation, &*newer.uid), (10, "of-node"));
        let recreate = Choice { recreate: true, ..Choice::default() };
        assert_eq!(&*new(plan(&draft, None, Some(&status(9, false)), &recreate)).uid, "fresh");
        // Another epoch begins anew.
        let epoch = Choice { epoch: Some(2), ..Choice::default() };
        let moved = new(plan(&draft, None, Some(&status(9, false)), &epoch));
        assert_eq!((moved.epoch, moved.generation), (2, 1));
    }

    #[test]
    fn what_is_there_already_is_not_published_again() {
        let draft = PodIntent { generation: 1, ..kit::intent("web", 6) };
        let old = retained(&kit::intent("web", 6), &ours(), &ours());
        let unchanged = plan(&draft, Some(&old), Some(&status(6, false)), &Choice::default());
        assert_eq!(unchanged.unwrap(), Next::Unchanged(old.clone()));
        let again = Choice { again: true, ..Choice::default() };
        assert_eq!(new(plan(&draft, Some(&old), None, &again)).generation, 7);
        // The node is further than the broker: what stands there would be refused.
        let behind = plan(&draft, Some(&old), Some(&status(8, false)), &Choice::default());
        assert_eq!(new(behind).generation, 9);
    }

    #[test]
    fn another_controllers_document_is_not_overwritten_unasked() {
        let draft = kit::intent("web", 1);
        let theirs = SecretKey::from_seed(&[6; 32]);
        let old = retained(&kit::intent("web", 6), &theirs, &ours());
        assert!(!old.is_ours);
        let refused = plan(&draft, Some(&old), None, &Choice::default()).unwrap_err();
        let said = refused.to_string();
        assert!(said.contains(&theirs.id()) && said.contains("generation 6 of epoch 1"), "{said}");
        let force = Choice { take_over: true, ..Choice::default() };
        assert_eq!(new(plan(&draft, Some(&old), None, &force)).generation, 7);
        // Who only writes our key's id is not us.
        let mut forged = serde_json::from_slice::<serde_json::Value>(&old.message).unwrap();
        forged["signatures"][0]["keyid"] = ours().id().into();
        let forged = Bytes::from(forged.to_string());
        assert!(!Retained::read(&forged, Some(&ours().public())).unwrap().is_ours);
    }

    #[test]
    fn whoever_can_write_a_status_cannot_use_up_the_generations() {
        let draft = kit::intent("web", 1);
        let none = Choice::default();
        let old = retained(&kit::intent("web", 6), &ours(), &ours());
        for claimed in [CLAIM_MAX + 1, crate::mqtt::version::NUMBER_MAX - 1, u64::MAX] {
            for retained in [None, Some(&old)] {
                let refused = plan(&draft, retained, Some(&status(claimed, false)), &none);
                assert!(matches!(refused, Err(Conflict::Unbelievable { .. })), "{refused:?}");
            }
            // A person knows better.
            let force = Choice { generation: Some(7), take_over: true, ..Choice::default() };
            let planned = plan(&draft, Some(&old), Some(&status(claimed, false)), &force);
            assert_eq!(new(planned).generation, 7);
        }
        let far = new(plan(&draft, Some(&old), Some(&status(CLAIM_MAX, false)), &none));
        assert_eq!(far.generation, CLAIM_MAX + 1, "what can be is believed");
        // What we have signed ourselves counts in any case.
        let ours_far = retained(&kit::intent("web", CLAIM_MAX + 9), &ours(), &ours());
        let status = status(CLAIM_MAX + 9, false);
        let next =
            new(plan(&draft, Some(&ours_far), Some(&status), &Choice { again: true, ..none }));
        assert_eq!(next.generation, CLAIM_MAX + 10);
    }

    #[test]
    fn another_nodes_document_in_the_topic_says_nothing_of_this_pod() {
        // Signed by us, copied by the broker.
        let copied = PodIntent {
            node: Some("gw-18".into()),
            uid: "gw-18s".into(),
            ..kit::intent("web", 40)
        };
        let copied = retained(&copied, &ours(), &ours());
        let first = new(plan(&kit::intent("web", 1), Some(&copied), None, &Choice::default()));
        assert_eq!(
            (first.generation, &*first.uid, first.node.as_deref()),
            (1, "fresh", Some(kit::NODE))
        );
        let gone = super::draft("acme", kit::NODE, &Scope::Node, &kit::pod_key("web"));
        let nothing = plan(&gone, Some(&copied), None, &Choice::default());
        assert!(matches!(nothing, Err(Conflict::Nothing(_))), "{nothing:?}");
    }

    #[test]
    fn a_pod_that_joins_an_index_is_published_anew_and_one_that_is_in_it_is_not() {
        let draft = PodIntent { generation: 1, ..kit::intent("web", 6) };
        let old = PodIntent { index_revision: 3, ..kit::intent("web", 6) };
        let old = retained(&old, &ours(), &ours());
        let same = plan(&draft, Some(&old), None, &Choice::default());
        assert!(matches!(same, Ok(Next::Unchanged(_))), "{same:?}");
        let joins = Choice { index_revision: Some(9), ..Choice::default() };
        let joined = new(plan(&draft, Some(&old), None, &joins));
        assert_eq!((joined.generation, joined.index_revision), (7, 9));
    }

    #[test]
    fn a_generation_that_somebody_chose_must_be_new() {
        let draft = kit::intent("web", 1);
        let choose = |generation| Choice { generation: Some(generation), ..Choice::default() };
        let stale = plan(&draft, None, Some(&status(9, false)), &choose(9)).unwrap_err();
        assert!(stale.to_string().contains("what a node has accepted"), "{stale}");
        assert_eq!(new(plan(&draft, None, Some(&status(9, false)), &choose(40))).generation, 40);
        // One node of a group that lies must not keep the others from their pods.
        let lie = status(crate::mqtt::version::NUMBER_MAX, false);
        let stuck = plan(&draft, None, Some(&lie), &Choice::default()).unwrap_err();
        assert!(matches!(stuck, Conflict::Unbelievable { .. }), "{stuck}");
        let over = Choice { take_over: true, ..choose(10) };
        assert_eq!(new(plan(&draft, None, Some(&lie), &over)).generation, 10);
    }

    #[test]
    fn only_what_is_known_can_be_deleted() {
        let pod = kit::pod_key("web");
        let draft = super::draft("acme", kit::NODE, &Scope::Node, &pod);
        let nothing = plan(&draft, None, None, &Choice::default()).unwrap_err();
        assert_eq!(nothing, Conflict::Nothing(pod));
        let gone = new(plan(&draft, None, Some(&status(9, false)), &Choice::default()));
        assert_eq!((gone.generation, gone.deleted, &*gone.uid), (10, true, "of-node"));
    }
}
