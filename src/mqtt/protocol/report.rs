//! What the statuses say: the core's state as the wire's documents.
//!
//! Owns: putting them together. Not: when they are published (`outbox`). Acceptance is told only of what is on disk.

use std::fmt::Write as _;

use super::io::PodReport;
use super::pods::{inactive, leading};
use super::rollout::scoped;
use super::{Pod, Protocol};
use crate::limits::PODS_MAX;
use crate::mqtt::cause::cut;
use crate::mqtt::envelope::{ENVELOPE_BYTES_MAX, digest};
use crate::mqtt::intent::{API_VERSION, time_text};
use crate::mqtt::record::{Line, PodRecord};
use crate::mqtt::signature::Signer;
use crate::mqtt::status::{
    AcceptedStatus, Condition, DesiredStatus, DocumentStatus, NodeStatus, PROTOCOL, PodCounts,
    PodStatus, Stage, Stamp, TrustStatus,
};
use crate::mqtt::topic::Scope;
use crate::mqtt::trust::Mode;
use crate::mqtt::version::Version;
use crate::spec::PodKey;

/// Waiting reason of a container whose module is being compiled (`lifecycle::texts`).
const COMPILING: &str = "Compiling";

/// A status before it is stamped.
pub(super) enum Document {
    Pod(Box<PodStatus>),
    Node(Box<NodeStatus>),
}

pub(super) struct Spoken {
    document: Document,
    /// Everything in it that does not change by itself.
    pub(super) lasting: Vec<u8>,
}

impl Spoken {
    fn pod(status: PodStatus) -> Self {
        let mut lasting = status.clone();
        if let Some(rollout) = &mut lasting.rollout {
            rollout.deadline_ms = None;
        }
        Self { lasting: json(&lasting), document: Document::Pod(Box::new(status)) }
    }

    fn node(status: NodeStatus) -> Self {
        Self { lasting: json(&status), document: Document::Node(Box::new(status)) }
    }

    pub(super) fn stamped(self, stamp: Stamp) -> Vec<u8> {
        match self.document {
            Document::Pod(mut status) => {
                status.stamp = stamp;
                json(&*status)
            }
            Document::Node(mut status) => {
                status.stamp = stamp;
                json(&*status)
            }
        }
    }
}

fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("statuses have string keys only")
}

/// Which container waits for its module to be compiled: what takes longest on a small machine, and looks like a hang unless it is said.
pub(super) fn compiling(report: &PodReport) -> Option<String> {
    let it = report.containers.iter().find(|container| container.reason == COMPILING)?;
    Some(cut(format!("{}: {}", it.name, it.message)))
}

impl Protocol {
    pub(super) fn stamp(&self) -> Stamp {
        Stamp {
            boot: self.config.boot.clone(),
            conn: self.connection.conn(),
            seq: self.seq,
            uptime_ms: self.clocks.uptime_ms(self.now),
            time: self.clocks.wall_ms(self.now).map(time_text),
            time_synced: self.clocks.synced,
        }
    }

    pub(super) fn pod_status(&self, key: &PodKey, pod: &Pod) -> Spoken {
        let report = pod.applied.as_ref().map(|applied| &applied.report);
        let mut rollout = pod.way.as_ref().map(|way| way.status(pod, self.now));
        if let (Some(status), Some(way)) = (&mut rollout, &pod.way)
            && way.stage == Stage::Fetching
        {
            let (bytes, total) = self.transfers.progress(&way.target);
            (status.bytes, status.total) = (Some(bytes), Some(total));
            status.message = self.transfers.trouble(key).unwrap_or_default().to_owned();
        } else if let (Some(status), Some(report)) = (&mut rollout, report)
            && status.stage == Stage::Starting
        {
            status.message = compiling(report).unwrap_or_default();
        }
        let lead = leading(pod.record.stored(), &self.config);
        let warnings = lead.and_then(|release| pod.warnings.get(&release.scope));
        Spoken::pod(PodStatus {
            api_version: API_VERSION.to_owned(),
            kind: "PodStatus".to_owned(),
            tenant: self.config.topics.tenant().to_owned(),
            node: self.config.topics.node().to_owned(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            stamp: Stamp::default(),
            documents: self.documents(pod),
            active: pod
                .applied
                .as_ref()
                .filter(|a| a.refusal.is_none())
                .map(|a| scoped(&a.release)),
            last_good: pod.record.stored().good.as_ref().map(|good| scoped(good)),
            rollout,
            previous: pod.previous.clone(),
            phase: report.map_or("Absent", |report| report.phase.as_str()).to_owned(),
            ready: report.is_some_and(|report| report.ready),
            conditions: self.pod_conditions(pod),
            containers: report.map(|report| report.containers.clone()).unwrap_or_default(),
            warnings: warnings.cloned().unwrap_or_default(),
        })
    }

    /// The verdicts, the leading scope's first.
    fn documents(&self, pod: &Pod) -> Vec<DocumentStatus> {
        let stored = pod.record.stored();
        let groups = self.config.groups.iter().map(|group| Scope::Group(group.clone()));
        let mut scopes: Vec<Scope> = std::iter::once(Scope::Node).chain(groups).collect();
        let others = stored.lines.keys().filter(|scope| !scopes.contains(scope));
        let others: Vec<Scope> = others.cloned().collect();
        scopes.extend(others);
        let lead = leading(stored, &self.config).map(|release| release.scope.clone());
        scopes.sort_by_key(|scope| Some(scope) != lead.as_ref());
        let verdict = |scope: Scope| {
            let line = stored.lines.get(&scope);
            let accepted = line.map(|line| self.accepted(stored, &scope, line));
            let refused = pod.refused.get(&scope).cloned();
            (accepted.is_some() || refused.is_some()).then_some(DocumentStatus {
                scope,
                accepted,
                refused,
            })
        };
        scopes.into_iter().filter_map(verdict).collect()
    }

    fn accepted(&self, stored: &PodRecord, scope: &Scope, line: &Line) -> AcceptedStatus {
        let inactive =
            line.release.as_ref().and_then(|_| inactive(stored, scope, line, &self.config));
        AcceptedStatus {
            revision: line.revision.clone(),
            deleted: line.release.is_none(),
            inactive: inactive.map(str::to_owned),
        }
    }

    fn pod_conditions(&self, pod: &Pod) -> Vec<Condition> {
        let mut conditions = vec![];
        let refused = pod.refused.values().next();
        conditions.push(match refused {
            Some(refused) => {
                Condition::new("Accepted", false, refused.reason.as_str(), refused.message.as_str())
            }
            None => Condition::new("Accepted", true, "Accepted", ""),
        });
        if let Some(why) = pod.record.failure() {
            conditions.push(Condition::new("Durable", false, "StorageFailed", why));
        }
        let unsigned = |line: &Line| line.release.is_some() && line.keyid.is_empty();
        if pod.record.stored().lines.values().any(unsigned) {
            let message = "accepted without a signature that counts";
            conditions.push(Condition::new("Verified", false, "NotSigned", message));
        }
        if let Some(applied) = &pod.applied {
            if let Some(refusal) = &applied.refusal {
                let (reason, message) = (refusal.reason.as_str(), refusal.message.as_str());
                conditions.push(Condition::new("Applied", false, reason, message));
            }
            conditions.extend(applied.report.conditions.iter().cloned());
        }
        conditions
    }

    pub(super) fn node_status(&self) -> Spoken {
        let mut capabilities = self.config.capabilities.clone();
        capabilities.verbs = self.config.verbs.iter().copied().collect();
        capabilities.status_key = self.config.signer.as_ref().map(Signer::public_text);
        (capabilities.envelope_bytes_max, capabilities.pods_max) = (ENVELOPE_BYTES_MAX, PODS_MAX);
        let trust = &self.config.trust;
        Spoken::node(NodeStatus {
            api_version: API_VERSION.to_owned(),
            kind: "NodeStatus".to_owned(),
            tenant: self.config.topics.tenant().to_owned(),
            node: self.config.topics.node().to_owned(),
            stamp: Stamp::default(),
            version: self.config.version.clone(),
            protocol: PROTOCOL,
            labels: self.config.labels.clone(),
            groups: self.config.groups.iter().map(ToString::to_string).collect(),
            capabilities,
            trust: TrustStatus {
                mode: trust.mode(),
                version: trust.version(),
                epoch: trust.epoch(),
                keys: trust.keys().keys().iter().map(|key| key.id.clone()).collect(),
            },
            desired: self.desired_status(),
            pods: self.counts(),
            conditions: self.conditions(),
            refused: self.refused_node.clone(),
        })
    }

    fn desired_status(&self) -> DesiredStatus {
        let mark = self.node.stored().index;
        let version = mark.map_or_else(Version::default, |mark| mark.version);
        let mut lines = vec![];
        for (key, pod) in &self.pods {
            for (scope, line) in &pod.record.stored().lines {
                if line.release.is_some() {
                    lines.push(document_line(scope, key, line));
                }
            }
        }
        lines.sort();
        DesiredStatus {
            epoch: version.epoch,
            revision: version.generation,
            digest: mark.map(|mark| mark.digest.to_string()),
            documents: lines.len(),
            documents_digest: digest(lines.concat().as_bytes()).to_string(),
        }
    }

    fn counts(&self) -> PodCounts {
        let mut counts = PodCounts::default();
        for pod in self.pods.values() {
            let Some(way) = &pod.way else { continue };
            let report = pod.applied.as_ref().map(|applied| &applied.report);
            counts.total += 1;
            counts.ready += usize::from(report.is_some_and(|report| report.ready));
            counts.failed += usize::from(matches!(way.stage, Stage::Failed | Stage::RolledBack));
            counts.progressing += usize::from(!way.stage.is_terminal());
        }
        counts
    }

    fn conditions(&self) -> Vec<Condition> {
        let mut conditions = vec![self.synced_condition()];
        conditions.extend(self.connection.conditions());
        match self.config.trust.mode() {
            Mode::Require => {}
            mode @ (Mode::Warn | Mode::Off) => {
                let mode = if mode == Mode::Warn { "only warned about" } else { "not looked at" };
                let message = format!("signatures are {mode} on this node");
                conditions.push(Condition::new("SignaturesRequired", false, "Configured", message));
            }
        }
        if self.config.safe_mode {
            let message = "the daemon had died several times: pods that were being tried are held";
            conditions.push(Condition::new("SafeMode", true, "SuspectedBootLoop", message));
        }
        for why in self.node.failure().into_iter().chain(self.trust.failure()) {
            conditions.push(Condition::new("Durable", false, "StorageFailed", why));
        }
        conditions.extend(self.others.iter().cloned());
        conditions
    }
}

/// One accepted document, as `documentsDigest` has it.
pub(in crate::mqtt) fn document_line(scope: &Scope, key: &PodKey, line: &Line) -> String {
    let mut text = String::new();
    let Version { epoch, generation } = line.revision.version;
    writeln!(text, "{scope} {key} {epoch} {generation} {}", line.revision.digest)
        .expect("a String takes any text");
    text
}
