//! From a message to an accepted document, or a refusal that says why.
//!
//! Owns: the order of the checks, cheapest and least trusting first. Not: what follows from an accepted document (`rollout`).
//!
//! ```text
//!  bytes ─ size ─ envelope ─ known already? ─ signature ─ form ─ target ─ epoch, version ─ index ─ room ─► Admit ─► record
//!                              └ say so again                                                            (tombstones at once)
//! ```

use std::sync::Arc;

use super::io::{Admission, Output, Ticket};
use super::outbox::Subject;
use super::pods::{Incoming, align, committed};
use super::quota::Room;
use super::{INTENT_BYTES_MAX, Pod, Protocol, STRANGERS_MAX};
use crate::image::Digest;
use crate::limits::PODS_MAX;
use crate::mqtt::cause::{Reason, Refusal};
use crate::mqtt::envelope::{Envelope, PayloadType, digest};
use crate::mqtt::intent::Release;
use crate::mqtt::record::Line;
use crate::mqtt::status::RefusedStatus;
use crate::mqtt::topic::{Inbound, Scope};
use crate::mqtt::trust::{Role, Signer};
use crate::mqtt::version::{Order, Version, compare};
use crate::spec::PodKey;

impl Protocol {
    pub(super) fn message(&mut self, topic: &str, payload: &[u8], retained: bool) {
        if self.connection.is_stopped() {
            return;
        }
        let topics = self.config.topics.clone();
        match topics.read(topic) {
            Some(Inbound::Trust) => self.trust_message(payload),
            Some(Inbound::Index) => self.index_message(payload),
            Some(Inbound::Pod { scope, key }) => self.pod_message(scope, &key, payload),
            Some(Inbound::Command { verb, id }) => {
                self.command_message(verb, id, payload, retained)
            }
            Some(Inbound::Online) => self.own_online(payload),
            // Blocks have their own way; the rest is not for us, whatever the access list let through.
            Some(Inbound::Block { .. }) | None => {}
        }
    }

    fn pod_message(&mut self, scope: Scope, key: &PodKey, payload: &[u8]) {
        if let Scope::Group(group) = &scope
            && !self.config.groups.contains(group)
        {
            return;
        }
        if payload.is_empty() {
            // The publisher has withdrawn the message. That deletes nothing.
            if let Some(pod) = self.pods.get_mut(key) {
                pod.seen.remove(&scope);
                self.outbox.soon(Subject::Node);
            }
            return;
        }
        let envelope = match Envelope::open(payload, PayloadType::Intent) {
            Ok(envelope) => envelope,
            Err(error) => {
                return self.refuse(key, scope, digest(payload), None, error.into());
            }
        };
        let digest = envelope.digest();
        if self.is_known(key, &scope, digest) {
            return;
        }
        match self.judge(&envelope, &scope, key) {
            Ok(release) => self.take_or_hold(Arc::new(release)),
            Err((version, refusal)) => self.refuse(key, scope, digest, version, refusal),
        }
    }

    /// The very document that was accepted, or is about to be: nothing is to do but to say so again.
    fn is_known(&mut self, key: &PodKey, scope: &Scope, digest: Digest) -> bool {
        let conn = self.connection.conn();
        let Some(pod) = self.pods.get_mut(key) else { return false };
        if let Some(incoming) = pod.incoming.get_mut(scope)
            && incoming.release.revision.digest == digest
        {
            // It is the last that came, again.
            incoming.next = None;
            return true;
        }
        if pod.record.want.lines.get(scope).is_none_or(|l| l.revision.digest != digest) {
            return false;
        }
        let news = pod.seen.insert(scope.clone(), conn) != Some(conn);
        pod.refused.remove(scope);
        self.outbox.force(Subject::Pod(key.clone()));
        if news {
            self.outbox.soon(Subject::Node);
        }
        true
    }

    /// Everything that can be said without the manifest's rules.
    fn judge(
        &mut self,
        envelope: &Envelope,
        scope: &Scope,
        key: &PodKey,
    ) -> Result<Release, (Option<Version>, Refusal)> {
        let tenant = self.config.topics.tenant();
        let signer = self
            .config
            .trust
            .verify(envelope, Role::Intent, tenant, Some(&key.namespace))
            .map_err(|refusal| (None, refusal))?;
        let release = Release::read(&envelope.payload, signer.keyid()).map_err(|r| (None, r))?;
        let version = release.revision.version;
        self.judge_release(&release, scope, key).map_err(|refusal| (Some(version), refusal))?;
        if let Signer::Key(_) = signer {
            self.clocks.raise(release.issued_ms);
        }
        Ok(release)
    }

    fn judge_release(&self, release: &Release, scope: &Scope, key: &PodKey) -> Result<(), Refusal> {
        let wrong = |message: String| Err(Refusal::new(Reason::WrongTarget, message));
        let (topics, intent) = (&self.config.topics, &release.intent);
        if intent.tenant != topics.tenant() {
            return wrong(format!("it is for tenant {}", intent.tenant));
        }
        if intent.node.as_deref().is_some_and(|node| node != topics.node()) {
            return wrong(format!("it is for node {}", intent.node.as_deref().unwrap_or_default()));
        }
        if release.scope != *scope || release.key != *key {
            let (scope, key) = (&release.scope, &release.key);
            return wrong(format!(
                "it is about pod {key} of scope {scope}, and came under another topic"
            ));
        }
        let pod = self.pods.get(key);
        let line = pod.and_then(|pod| pod.record.want.lines.get(scope));
        self.config.trust.check_epoch(release.revision.version.epoch)?;
        self.judge_version(release, line)?;
        self.judge_by_index(release)?;
        self.judge_room(release, pod)
    }

    fn judge_version(&self, release: &Release, line: Option<&Line>) -> Result<(), Refusal> {
        let Some(line) = line else { return self.judge_by_floor(release) };
        let held = line.revision.version;
        let mark = Some((held, line.revision.digest));
        let deleted = if line.release.is_none() { ", and the pod deleted since" } else { "" };
        match compare(mark, release.revision.version, release.revision.digest) {
            Order::Newer => Ok(()),
            Order::Stale | Order::Same => {
                Err(Refusal::new(Reason::Stale, format!("{held} was accepted{deleted}")))
            }
            Order::Conflict => Err(Refusal::new(
                Reason::GenerationConflict,
                format!("another document of {held} was accepted{deleted}"),
            )),
        }
    }

    fn judge_room(&self, release: &Release, pod: Option<&Pod>) -> Result<(), Refusal> {
        if release.intent.deleted {
            return Ok(());
        }
        let counts = |pod: &Pod| !pod.record.want.is_deleted() || !pod.incoming.is_empty();
        let others = self.pods.values().filter(|pod| counts(pod)).count();
        if !pod.is_some_and(counts) && others >= PODS_MAX {
            let message = format!("the node takes at most {PODS_MAX} pods over MQTT");
            return Err(Refusal::new(Reason::TooManyPods, message));
        }
        let bytes: usize = self.pods.values().map(Pod::bytes).sum();
        if bytes + release.payload.len() > INTENT_BYTES_MAX {
            let message = format!("all documents together may have {INTENT_BYTES_MAX} bytes");
            return Err(Refusal::new(Reason::TooLarge, message));
        }
        Ok(())
    }

    /// A document that is right as far as we can see. While one that is as new or newer is being looked at, nothing can be said of it: that
    /// one may be refused, and this one is what stands at the broker then.
    fn take_or_hold(&mut self, release: Arc<Release>) {
        let pod = self.pods.get_mut(&release.key);
        if let Some(incoming) = pod.and_then(|pod| pod.incoming.get_mut(&release.scope))
            && release.revision.version <= incoming.release.revision.version
        {
            incoming.next = Some(release);
            return;
        }
        self.take(release);
    }

    fn take(&mut self, release: Arc<Release>) {
        if release.intent.deleted {
            return self.accept(release, Admission::default());
        }
        let ticket = self.ticket();
        let incoming = Incoming { ticket, release: Arc::clone(&release), next: None };
        let pod = self.pods.entry(release.key.clone()).or_insert_with(Pod::stranger);
        pod.incoming.insert(release.scope.clone(), incoming);
        self.put(Output::Admit { ticket, release });
    }

    pub(super) fn admitted(&mut self, ticket: Ticket, result: Result<Admission, Refusal>) {
        let asked = |(key, pod): (&PodKey, &Pod)| {
            let (scope, _) = pod.incoming.iter().find(|(_, i)| i.ticket == ticket)?;
            Some((key.clone(), scope.clone()))
        };
        let Some((key, scope)) = self.pods.iter().find_map(asked) else { return };
        let Some(incoming) = self.pods.get_mut(&key).and_then(|p| p.incoming.remove(&scope)) else {
            return;
        };
        let Incoming { release, next, .. } = incoming;
        // Things may have changed while the manifest was looked at.
        let still = result.and_then(|admission| {
            let line = self.pods.get(&key).and_then(|pod| pod.record.want.lines.get(&scope));
            self.judge_version(&release, line)?;
            self.config.trust.check_epoch(release.revision.version.epoch)?;
            let (trust, tenant) = (&self.config.trust, self.config.topics.tenant());
            trust.check_key(&release.keyid, Role::Intent, tenant, &release.key.namespace)?;
            self.judge_by_index(&release)?;
            Ok(admission)
        });
        match still {
            Ok(admission) => self.accept(release, admission),
            Err(refusal) => {
                self.refuse_release(&release, refusal);
            }
        }
        let Some(next) = next else { return };
        match self.judge_release(&next, &scope, &key) {
            Ok(()) => self.take_or_hold(next),
            Err(refusal) => self.refuse_release(&next, refusal),
        }
    }

    fn refuse_release(&mut self, release: &Release, refusal: Refusal) {
        let (digest, version) = (release.revision.digest, release.revision.version);
        self.refuse(&release.key, release.scope.clone(), digest, Some(version), refusal);
    }

    /// The document is the newest of its line from now on; it is acknowledged and acted upon once that is on disk.
    fn accept(&mut self, release: Arc<Release>, admission: Admission) {
        let (key, scope) = (release.key.clone(), release.scope.clone());
        let conn = self.connection.conn();
        self.transfers.present(admission.present);
        let pod = self.pods.entry(key.clone()).or_insert_with(Pod::stranger);
        pod.refused.remove(&scope);
        pod.incoming.remove(&scope);
        pod.seen.insert(scope.clone(), conn);
        pod.warnings.insert(scope.clone(), admission.warnings);
        let before = committed(&pod.record.want);
        pod.record.want.lines.insert(scope, Line::of(Arc::clone(&release)));
        align(&mut pod.record.want, before, &self.config);
        self.count_first_try(&key, &release);
        self.changed(&key);
    }

    /// With everything at hand, the first try is counted in the very write that accepts.
    fn count_first_try(&mut self, key: &PodKey, release: &Arc<Release>) {
        if !self.transfers.missing(release).is_empty() {
            return;
        }
        let Some(pod) = self.pods.get_mut(key) else { return };
        if let Some(rollout) = &mut pod.record.want.rollout
            && (&rollout.scope, &rollout.revision) == (&release.scope, &release.revision)
            && rollout.attempts == 0
        {
            rollout.attempts = 1;
            pod.tried = Some((release.scope.clone(), release.revision.clone()));
        }
    }

    /// A pod's lines have changed.
    pub(super) fn changed(&mut self, key: &PodKey) {
        self.outbox.soon(Subject::Pod(key.clone()));
        self.outbox.soon(Subject::Node);
        self.converge(key);
    }

    fn refuse(
        &mut self,
        key: &PodKey,
        scope: Scope,
        digest: Digest,
        version: Option<Version>,
        refusal: Refusal,
    ) {
        if !self.pods.contains_key(key) && self.strangers.take(self.now) != Room::Yes {
            // Not even remembered: a new name each time would have a status published each time.
            return self.tell_refusal(Some(key), refusal.reason.as_str(), refusal.message);
        }
        let text = match refusal.causes.as_slice() {
            [] | [_] => refusal.message.clone(),
            causes => {
                let each = |c: &crate::mqtt::cause::Cause| format!("{}: {}", c.field, c.message);
                causes.iter().map(each).collect::<Vec<_>>().join("; ")
            }
        };
        let status = RefusedStatus {
            version,
            digest,
            reason: refusal.reason,
            message: refusal.message,
            errors: refusal.causes,
        };
        let pod = self.pods.entry(key.clone()).or_insert_with(Pod::stranger);
        let news = pod.refused.get(&scope) != Some(&status);
        pod.refused.insert(scope, status);
        if news {
            self.tell_refusal(Some(key), refusal.reason.as_str(), text);
        }
        self.outbox.force(Subject::Pod(key.clone()));
        self.bound_strangers(key);
    }

    /// Names of which nothing was ever accepted are shown, but not without end.
    fn bound_strangers(&mut self, newest: &PodKey) {
        let strange = |(key, pod): (&PodKey, &Pod)| pod.is_stranger() && key != newest;
        let strangers: Vec<PodKey> =
            self.pods.iter().filter(|(k, p)| strange((k, p))).map(|(k, _)| k.clone()).collect();
        if strangers.len() >= STRANGERS_MAX
            && let Some(first) = strangers.into_iter().next()
        {
            self.pods.remove(&first);
            self.outbox.clear(&first);
        }
    }

    /// What another source had may be free, or there may be room for one more: documents that were refused for it are at the broker still.
    pub(super) fn reconsider(&mut self) {
        let may_pass = |refused: &RefusedStatus| {
            matches!(refused.reason, Reason::SourceConflict | Reason::TooManyPods)
                // For want of room: an envelope that is too large is not looked into.
                || refused.reason == Reason::TooLarge && refused.version.is_some()
        };
        if self.pods.values().any(|pod| pod.refused.values().any(may_pass)) {
            self.resync();
        }
        for pod in self.pods.values_mut() {
            if pod.applied.as_ref().is_some_and(|applied| applied.refusal.is_some()) {
                pod.applied = None;
            }
        }
        self.every_pod();
    }
}
