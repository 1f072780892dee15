//! Pods over MQTT: the task that carries out what the protocol decides.
//!
//! Owns: driving [`Protocol`](crate::mqtt::protocol::Protocol) with what happens (connection, disk, node, artifacts, time) and doing what it answers; when to connect
//! again. Not: any decision about pods (`crate::mqtt::protocol`), the connection itself (`crate::mqtt::link`), running pods
//! (behind [`Node`]).
//!
//! ```text
//!  Transport ─ events ─┐                        ┌─► publish, subscribe, connect
//!  Store ── written ───┼─► Protocol::step ─► ───┼─► Store (durable, and only then acknowledged)
//!  Node, board ────────┤   (pure)               ├─► Node: admit, apply, remove, one after the other
//!  Artifacts, timers ──┘                        └─► Artifacts, commands
//! ```
//!
//! No pod waits for this task, and this task waits for nobody: what takes time is done beside it and comes back as an input.
//! Everything that waits is bounded: by pods and records (one write, one order, one transfer each), by the protocol (commands), and by
//! `outbox`.

mod commands;
mod outbox;
mod records;
mod reports;
mod task;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::board::Board;
use crate::image::Digest;
use crate::mqtt::cause::Refusal;
use crate::mqtt::intent::{Delta, Release};
use crate::mqtt::protocol::{Admission, FetchFailure};
use crate::pod::logs::PodLogs;
use crate::spec::{ContainerName, PodKey};

pub use records::{restored, write};
pub use task::{LinkState, MqttSource, Parts};

/// On a pod's object: SHA-256 of the intent that it is made of. Tells which of two intents a status speaks of.
pub const INTENT_ANNOTATION: &str = "podling.dev/intent-digest";

/// What this source asks of the node.
#[async_trait]
pub trait Node: Send + Sync + 'static {
    fn board(&self) -> &Board;

    /// Can this run here? Changes nothing.
    async fn admit(&self, release: Arc<Release>) -> Result<Admission, Refusal>;

    /// Runs it, in place of what has its name.
    async fn apply(&self, release: Arc<Release>, recreate: bool) -> Result<(), Refusal>;

    /// Ends the pod of that name.
    async fn withdraw(&self, key: PodKey);

    /// Ends a pod's modules and starts them again.
    async fn restart(&self, key: PodKey) -> Result<(), Refusal>;

    /// What a pod's modules have written; `None` if there is no such pod.
    fn logs(&self, key: &PodKey) -> Option<Arc<PodLogs>>;

    /// Runs a command beside a module, in its pod; its exit code, and what it printed.
    async fn exec(
        &self,
        key: PodKey,
        container: Option<ContainerName>,
        command: Vec<String>,
    ) -> Result<(i32, String), Refusal>;

    /// Waits until a name, or room for one more pod, may have come free.
    async fn name_came_free(&self);
}

/// An artifact that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
    pub sources: Vec<String>,
    /// Smaller ways to it, for whoever has the module that they begin with.
    pub deltas: Vec<Delta>,
}

/// Gets artifacts into the image store.
#[async_trait]
pub trait Artifacts: Send + Sync + 'static {
    /// Gets one, and says now and then how many bytes of it are there. Dropping it ends the transfer; what is there is kept.
    async fn fetch(
        &self,
        wanted: Wanted,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), FetchFailure>;

    /// A block that came over the broker; its topic's last level is the transfer.
    fn block(&self, transfer: &str, block: Bytes);

    /// The next message that a transfer over the broker wants said, to the node's `get` topic.
    async fn request(&self) -> Bytes;

    /// Whether the broker can be asked at the moment.
    fn connected(&self, connected: bool);

    /// What must stay in the image store.
    fn pin(&self, digests: std::collections::BTreeSet<Digest>);
}

/// Artifacts that are on the node already, and no others.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoArtifacts;

#[async_trait]
impl Artifacts for NoArtifacts {
    async fn fetch(
        &self,
        wanted: Wanted,
        _: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), FetchFailure> {
        Err(FetchFailure {
            reason: "NotFound".to_owned(),
            message: format!(
                "{} is not on this node, and this node fetches nothing",
                wanted.digest
            ),
            transient: false,
        })
    }

    fn block(&self, _: &str, _: Bytes) {}

    async fn request(&self) -> Bytes {
        std::future::pending().await
    }

    fn connected(&self, _: bool) {}

    fn pin(&self, _: std::collections::BTreeSet<Digest>) {}
}
