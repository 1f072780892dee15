//! Two controllers, a root, and somebody who would like to be one.

use crate::mqtt::controller::{self, Message, SecretKey};
use crate::mqtt::intent::{Artifact, Manifest, PodIntent, RolloutPolicy, time_text};
use crate::mqtt::kit;
use crate::mqtt::protocol::Publish;
use crate::spec::PodKey;
use bytes::Bytes;

use super::world::{PODS, World, pick};

const MODULES: [&str; 2] = ["one", "two"];

pub(super) fn controllers() -> [SecretKey; 2] {
    [kit::controller_key(), kit::secret(2)]
}

impl World {
    pub(super) fn publish(&mut self, message: &Message) {
        let payload = Bytes::from(message.payload.clone());
        self.at_broker(Publish { topic: message.topic.clone(), payload, retain: true });
    }

    pub(super) fn next_ms(&mut self) -> String {
        self.signed_ms += 1000;
        time_text(self.signed_ms)
    }

    pub(super) fn publish_intent(&mut self, who: u8, pod: u8, how: u8) {
        let (who, pod) = (who % 2, pod % 3);
        let generation = self.generations.entry((who, pod)).or_default();
        *generation += 1 + u64::from(how % 3 == 2);
        let mut intent = kit::intent(PODS[usize::from(pod)], *generation);
        intent.manifest = Some(Manifest::Text(format!("by {who}, {generation}")));
        intent.issued_at = self.next_ms();
        if how & 4 != 0 {
            let module = MODULES[usize::from(how >> 3) % 2];
            intent.artifacts.push(Artifact {
                image: "app".to_owned(),
                digest: crate::mqtt::envelope::digest(module.as_bytes()),
                size: 100,
                media_type: String::new(),
                sources: vec![["mqtt:", "https://files.example/m"][usize::from(who)].to_owned()],
                deltas: vec![],
            });
        }
        if how & 16 != 0 {
            intent.index_revision = self.revisions[usize::from(who)] + 1;
        }
        if how & 32 != 0 {
            intent = kit::for_group(["line-a", "all"][usize::from(how >> 6) % 2], intent);
            intent.index_revision = 0;
        }
        self.sign(who, intent);
    }

    pub(super) fn sign(&mut self, who: u8, intent: PodIntent) {
        let key = &controllers()[usize::from(who)];
        let message = controller::intent(&kit::tree(), &intent, &[key]).unwrap();
        self.authentic.insert(message.digest);
        if intent.deleted {
            self.deletable.insert(PodKey::new(&intent.namespace, &intent.name));
        }
        self.publish(&message);
        self.issued.push((message, intent));
    }

    pub(super) fn last_of(&self, who: u8, pod: u8) -> Option<PodIntent> {
        let name = PODS[usize::from(pod)];
        let by = format!("by {who}");
        let is = |i: &PodIntent| {
            let text = i.manifest.as_ref().map(|m| m.text().into_owned()).unwrap_or_default();
            i.name == name && text.starts_with(&by)
        };
        self.issued.iter().rev().map(|(_, intent)| intent).find(|i| is(i)).cloned()
    }

    pub(super) fn publish_tombstone(&mut self, who: u8, pod: u8) {
        let (who, pod) = (who % 2, pod % 3);
        let Some(last) = self.last_of(who, pod) else { return };
        let generation = self.generations.entry((who, pod)).or_default();
        *generation += 1;
        let generation = *generation;
        let at = self.next_ms();
        let mut gone = controller::tombstone(&last, &at);
        gone.generation = generation;
        self.sign(who, gone);
    }

    pub(super) fn publish_conflict(&mut self, who: u8, pod: u8) {
        let (who, pod) = (who % 2, pod % 3);
        if let Some(mut intent) = self.last_of(who, pod) {
            intent.rollout = RolloutPolicy { min_ready_seconds: Some(3), ..intent.rollout };
            self.sign(who, intent);
        }
    }

    pub(super) fn publish_index(&mut self, who: u8, mask: u8) {
        let who = who % 2;
        self.revisions[usize::from(who)] += 1;
        let revision = self.revisions[usize::from(who)];
        let mut listed: Vec<Message> = vec![];
        for (at, name) in PODS.iter().enumerate() {
            let of_pod = |(_, i): &&(Message, PodIntent)| i.name == *name && i.node.is_some();
            let newest = self.issued.iter().rev().find(of_pod);
            match newest {
                Some((message, intent)) if mask >> at & 1 == 1 && !intent.deleted => {
                    listed.push(message.clone());
                }
                _ => {
                    self.deletable.insert(kit::pod_key(name));
                }
            }
        }
        let listed: Vec<&Message> = listed.iter().collect();
        let index = kit::index(revision, &listed);
        self.publish(&index);
    }

    pub(super) fn replay(&mut self, n: u8) {
        if let Some(at) = pick(n, self.issued.len()) {
            let message = self.issued[at].0.clone();
            self.publish(&message);
        }
    }

    pub(super) fn forge(&mut self, which: u8, how: u8) {
        let Some(at) = pick(which, self.issued.len()) else { return };
        let (message, intent) = self.issued[at].clone();
        let stranger = kit::secret(200);
        let newer = PodIntent { generation: 1_000_000, ..intent };
        let payload = match how % 6 {
            0 => message.payload[..message.payload.len() / 2].to_vec(),
            1 => controller::intent(&kit::tree(), &newer, &[&stranger]).unwrap().payload,
            2 => controller::intent(&kit::tree(), &newer, &[]).unwrap().payload,
            3 => {
                let mut forged = message.payload.clone();
                let at = usize::from(how) * 7 % forged.len();
                forged[at] ^= 1;
                forged
            }
            4 => {
                // The signature of another document.
                let text = controller::intent(&kit::tree(), &newer, &[&stranger]).unwrap().payload;
                let text = String::from_utf8(text).unwrap();
                text.replace(&stranger.id(), &kit::controller_key().id()).into_bytes()
            }
            _ => vec![how; usize::from(which)],
        };
        let topic = message.topic;
        self.at_broker(Publish { topic, payload: payload.into(), retain: true });
    }

    pub(super) fn publish_trust(&mut self, how: u8) {
        let [a, b] = controllers();
        let root = kit::root_key();
        self.trusted += 1;
        let mut keys = vec![(&root, "root"), (&a, "intent")];
        if how.is_multiple_of(2) {
            keys.push((&b, "intent"));
        }
        let document = kit::trust_document(self.trusted, 1, &keys, vec![], &[&root]);
        self.publish(&document);
    }
}
