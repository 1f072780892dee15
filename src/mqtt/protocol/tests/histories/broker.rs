//! The broker and the link to it: what they keep, lose, repeat and put in another order.

use bytes::Bytes;

use super::world::{World, pick};
use crate::mqtt::kit;
use crate::mqtt::protocol::{Input, Publish};
use crate::mqtt::status::PodStatus;
use crate::mqtt::topic::Outbound;

/// A message on its way to the node.
#[derive(Clone, Debug)]
pub(super) struct Down {
    topic: String,
    payload: Bytes,
    retained: bool,
}

impl World {
    pub(super) fn connect(&mut self) {
        if let Some((_, will)) = self.offered.take() {
            self.connected = true;
            self.will = Some(will);
            self.input(Input::Connected);
        } else if !self.connected && !self.dialling {
            (self.dialling, self.dialled_at) = (true, self.now);
            self.input(Input::Dial);
        }
    }

    pub(super) fn subscribe(&mut self, filters: &[String]) {
        if !self.connected {
            return;
        }
        let results = filters.iter().map(|f| (f.clone(), Ok(()))).collect();
        for (topic, payload) in &self.retained {
            if self.config.topics.read(topic).is_some() {
                let (topic, payload) = (topic.clone(), payload.clone());
                self.down.push(Down { topic, payload, retained: true });
            }
        }
        self.input(Input::Subscribed { results });
    }

    pub(super) fn cut(&mut self, arrive: usize) {
        if self.lose_connection(arrive) {
            self.input(Input::Disconnected { why: "cut".to_owned(), taken_over: false });
        }
    }

    pub(super) fn lose_connection(&mut self, arrive: usize) -> bool {
        let had = self.connected;
        if had {
            self.arrive(arrive);
            self.wills.extend(self.will.take());
        }
        self.connected = false;
        self.up.clear();
        self.down.clear();
        had
    }

    pub(super) fn will_fires(&mut self) {
        if !self.wills.is_empty() {
            let will = self.wills.remove(0);
            self.at_broker(will);
        }
    }

    /// The node publishes: what it acknowledges must be on disk.
    pub(super) fn published(&mut self, publish: Publish) {
        self.published += 1;
        assert!(self.connected, "published without a connection: {publish:?}");
        let tree = kit::tree();
        if let Some((_, Outbound::Pod { key })) = tree.read_outbound(&publish.topic)
            && !publish.payload.is_empty()
        {
            let status: PodStatus = serde_json::from_slice(&publish.payload).unwrap();
            for document in status.documents {
                let Some(accepted) = document.accepted else { continue };
                let found = self.record(&key).and_then(|r| r.lines.get(&document.scope).cloned());
                let line = found.unwrap_or_else(|| panic!("{key}: acknowledged, and not on disk"));
                assert_eq!(line.revision, accepted.revision, "{key}: the ack is not what is kept");
                let id = (line.revision.version, line.revision.digest);
                let before = self.acknowledged.insert((key.clone(), document.scope), id);
                assert!(before.is_none_or(|b| b.0 <= id.0), "{key}: the ack goes back");
            }
        }
        self.up.push(publish);
    }

    pub(super) fn arrive(&mut self, count: usize) {
        let count = count.min(self.up.len());
        let arrived: Vec<Publish> = self.up.drain(..count).collect();
        for publish in arrived {
            self.at_broker(publish);
        }
    }

    pub(super) fn at_broker(&mut self, publish: Publish) {
        let Publish { topic, payload, retain } = publish;
        if retain && payload.is_empty() {
            self.retained.remove(&topic);
        } else if retain {
            self.retained.insert(topic.clone(), payload.clone());
        }
        if self.connected && self.config.topics.read(&topic).is_some() {
            self.down.push(Down { topic, payload, retained: false });
        }
    }

    pub(super) fn deliver(&mut self, n: u8, once: bool) {
        let Some(at) = pick(n, self.down.len()) else { return };
        let Down { topic, payload, retained } =
            if once { self.down.remove(at) } else { self.down[at].clone() };
        self.input(Input::Message { topic, payload, retained });
    }

    pub(super) fn withdraw(&mut self, n: u8) {
        let Some(at) = pick(n, self.retained.len()) else { return };
        let topic = self.retained.keys().nth(at).unwrap().clone();
        // Readers get nothing from a broker that loses what the node has said: only the next connection mends that.
        if !topic.contains("/s/") {
            self.at_broker(Publish { topic, payload: Bytes::new(), retain: true });
        }
    }
}
