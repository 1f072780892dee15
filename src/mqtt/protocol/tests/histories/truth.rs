//! What readers end with, compared with what is: computed from the disk and the runtime, not by the code under test.

use std::fmt::Write as _;
use std::time::Duration;

use super::world::{World, node_key};
use crate::mqtt::envelope::{Envelope, PayloadType, digest};
use crate::mqtt::intent::Release;
use crate::mqtt::protocol::RecordName;
use crate::mqtt::record::NodeRecord;
use crate::mqtt::signature::Proof;
use crate::mqtt::status::{NodeStatus, Online, PodStatus, Stage};
use crate::mqtt::topic::{Inbound, Scope};
use crate::mqtt::version::Version;
use crate::spec::PodKey;

impl World {
    pub(super) fn readers_have_the_truth(&self) {
        self.every_word_is_the_nodes();
        self.birth_stands();
        for key in Self::pod_names() {
            self.pod_is_told(&key);
        }
        self.node_is_told();
        self.every_document_is_answered();
    }

    /// A reader who knows the node's key believes all that stands at the broker in its name.
    fn every_word_is_the_nodes(&self) {
        let (tree, key) = (self.config.topics.tree(), node_key().public());
        for (topic, payload) in &self.retained {
            if tree.read_outbound(topic).is_some() {
                assert_eq!(
                    Proof::of(tree.below_root(topic), payload),
                    Proof::Signed(key),
                    "{topic}"
                );
            }
        }
    }

    fn birth_stands(&self) {
        let online: Online =
            serde_json::from_slice(&self.retained[&self.config.topics.online()]).unwrap();
        assert!(online.online, "readers think that the node is gone");
        assert_eq!(online.boot, self.config.boot);
    }

    fn told(&self, key: &PodKey) -> Option<PodStatus> {
        let topic = self.config.topics.pod_status(key).unwrap();
        self.retained.get(&topic).map(|payload| serde_json::from_slice(payload).unwrap())
    }

    fn pod_is_told(&self, key: &PodKey) {
        let record = self.record(key).unwrap_or_default();
        let Some(status) = self.told(key) else {
            assert!(record.lines.is_empty(), "{key} is on disk, and readers do not know of it");
            assert!(!self.runs.contains_key(key), "{key} runs, and readers do not know of it");
            return;
        };
        for (scope, line) in &record.lines {
            let told = status.documents.iter().find(|d| d.scope == *scope);
            let accepted = told.and_then(|d| d.accepted.clone());
            let accepted = accepted.unwrap_or_else(|| panic!("{key}: {scope} is not acknowledged"));
            assert_eq!(accepted.revision, line.revision, "{key}: {scope}");
            assert_eq!(accepted.deleted, line.release.is_none(), "{key}: {scope}");
        }
        let told = status.documents.iter().filter(|d| d.accepted.is_some()).count();
        assert_eq!(told, record.lines.len(), "{key}: more is acknowledged than is on disk");
        let runs = self.runs.get(key).map(|(_, r)| (r.scope.clone(), r.revision.clone()));
        let refused = status.conditions.iter().any(|c| c.kind == "Applied" && c.status == "False");
        let active = status.active.clone().map(|a| (a.scope, a.revision));
        if refused {
            assert_eq!(active, None, "{key}");
        } else {
            assert_eq!(active, runs, "{key}: what runs");
            let report = self.reports.get(key);
            let phase = report.map_or("Absent", |r| r.phase.as_str());
            assert_eq!(status.phase, phase, "{key}");
            assert_eq!(status.ready, report.is_some_and(|r| r.ready), "{key}");
        }
        self.rollout_is_told(key, &status);
    }

    fn rollout_is_told(&self, key: &PodKey, status: &PodStatus) {
        let on_disk = self.attempts_and_stage(key);
        let Some(told) = &status.rollout else {
            assert_eq!(on_disk, None, "{key}: readers do not know of the rollout");
            return;
        };
        let (attempts, ended) = on_disk.unwrap_or_else(|| panic!("{key}: no rollout on disk"));
        assert_eq!(told.attempts, attempts, "{key}");
        match ended {
            Some(stage) => assert_eq!(told.stage, stage, "{key}"),
            None => assert!(!told.stage.is_terminal(), "{key}: {:?}", told.stage),
        }
        // A leading document runs, unless it was taken back or is held.
        if told.stage == Stage::Committed {
            let active = status.active.as_ref().map(|a| &a.revision);
            let refused = status.conditions.iter().any(|c| c.kind == "Applied");
            assert!(
                refused || active == Some(&told.target.revision),
                "{key}: good, and not active"
            );
        }
    }

    fn node_is_told(&self) {
        let status: NodeStatus =
            serde_json::from_slice(&self.retained[&self.config.topics.node_status()]).unwrap();
        let mut lines: Vec<String> = vec![];
        for key in Self::pod_names() {
            for (scope, line) in self.record(&key).unwrap_or_default().lines {
                if line.release.is_some() {
                    let Version { epoch, generation } = line.revision.version;
                    let mut text = String::new();
                    let digest = line.revision.digest;
                    writeln!(text, "{scope} {key} {epoch} {generation} {digest}").unwrap();
                    lines.push(text);
                }
            }
        }
        lines.sort();
        assert_eq!(status.desired.documents, lines.len());
        let all = digest(lines.concat().as_bytes()).to_string();
        assert_eq!(status.desired.documents_digest, all);
        let node = NodeRecord::from_json(&self.disk[&RecordName::Node]).unwrap();
        let revision = node.index.map_or(0, |mark| mark.version.generation);
        assert_eq!(status.desired.revision, revision);
        assert!(status.trust.version <= self.trusted);
        assert_eq!(status.pods.ready, self.reports.values().filter(|r| r.ready).count());
    }

    /// Whoever looks up what stands at the broker finds the node's word on it.
    fn every_document_is_answered(&self) {
        for (topic, payload) in &self.retained {
            let Some(Inbound::Pod { scope, key }) = self.config.topics.read(topic) else {
                continue;
            };
            let Ok(envelope) = Envelope::open(payload, PayloadType::Intent) else { continue };
            if !self.authentic_digest(envelope.digest()) {
                continue;
            }
            let release = Release::read(&envelope.payload, "").unwrap();
            let status = self.told(&key).unwrap_or_else(|| panic!("{key}: no answer"));
            let document = status.documents.iter().find(|d| d.scope == scope);
            let document = document.unwrap_or_else(|| panic!("{key}: no word on {scope}"));
            let refused = document.refused.as_ref().is_some_and(|r| r.digest == envelope.digest());
            let accepted = document.accepted.as_ref().is_some_and(|a| {
                a.revision == release.revision || a.revision.version > release.revision.version
            });
            assert!(refused || accepted, "{key}: {} is not answered", release.revision.version);
        }
        self.groups_follow_the_node();
    }

    fn groups_follow_the_node(&self) {
        for (key, (_, release)) in &self.runs {
            let record = self.record(key).unwrap();
            let own = record.lines.get(&Scope::Node).is_some_and(|line| line.release.is_some());
            let back = record
                .rollout
                .is_some_and(|r| r.outcome.is_some_and(|ended| ended.stage == Stage::RolledBack));
            assert!(
                !own || back || release.scope == Scope::Node,
                "{key}: a group overrides the node"
            );
        }
    }

    /// Idle, nothing is written, and only the heartbeat is said.
    pub(super) fn rests(&mut self) {
        // Deadlines that still run may end.
        self.wait(Duration::from_secs(8 * 24 * 3600));
        self.settle();
        let (writes, sent) = (self.persisted, self.published);
        self.wait(Duration::from_secs(3600));
        assert_eq!(self.persisted, writes, "an idle node writes");
        assert!(self.published - sent <= 4, "an idle node talks");
        assert_eq!(self.in_flight(), 0);
    }
}
