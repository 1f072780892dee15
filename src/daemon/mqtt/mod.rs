//! MQTT in the daemon: what was accepted comes back first, without network; then the source begins.
//!
//! Owns: reading trust anchors, the start and end of the source, how its state is shown. Not: the source itself
//! (`source::mqtt`), nor the settings' form ([`settings`]).
//!
//! ```text
//!  restore   store's records ─► Protocol::new ─► Persist, Apply … done at once, before anything runs
//!  start     MqttSource (link, fetcher) beside the node; LinkState ─► node condition MqttConnected
//! ```
//!
//! Where the source cannot start (no trust key, an anchor that cannot be read) it stays unconnected and says why; the pods that it
//! accepted earlier run all the same.

mod artifacts;
mod crashes;
mod metrics;
mod settings;

use std::collections::{BTreeSet, VecDeque};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::daemon::config::Config;
use crate::daemon::node_object::{NO_STATUS_KEY, NodeObject, STATUS_SIGNED};
use crate::daemon::status_key::StatusKey;
use crate::error::chain;
use crate::image::Digest;
use crate::mqtt::link::{Link, LinkStats};
use crate::mqtt::protocol::{self, Input, Instance, Output, Protocol};
use crate::mqtt::status::{Capabilities, Condition};
use crate::mqtt::trust::{ANCHOR_BYTES_MAX, AnchorFile, Mode, Trust, TrustError};
use crate::pod::NodeContext;
use crate::reconciler::{NodeHandle, NodeTask};
use crate::source::mqtt::{LinkState, MqttSource, Parts, restored, write};
use crate::spec::PodKey;
use crate::store::{Store, StoredMqtt};

pub use settings::{MqttConfig, MqttError, MqttFile};

use artifacts::Hands;

/// Largest number of files in a folder of trust anchors.
const ANCHOR_FILES_MAX: usize = 64;

/// What came back of the MQTT source at boot.
#[derive(Debug)]
pub(super) enum Remote {
    /// No `mqtt:` section. Whether pods of an earlier configuration are on disk.
    Absent {
        has_records: bool,
    },
    Here(Box<Restored>),
}

/// The protocol, and what it wants done.
#[derive(Debug)]
pub(super) struct Restored {
    config: MqttConfig,
    protocol: Protocol,
    outputs: Vec<Output>,
    inputs: Vec<Input>,
    applied: Vec<(PodKey, Instance, Digest)>,
    /// Why it must not connect.
    off: Option<String>,
    /// With which public key its word is signed, or why it is not.
    signed: Result<String, String>,
    crashes: crashes::Watch,
}

impl Remote {
    /// Reads what is configured and what was kept, and hands every accepted pod to the node's task, which does not run yet.
    pub(super) fn restore(
        config: &Config,
        task: &mut NodeTask,
        node: &Arc<NodeContext>,
        store: &Arc<Store>,
        mut records: Vec<StoredMqtt>,
    ) -> Self {
        let Some(mqtt) = config.mqtt.clone() else {
            let has_records = !records.is_empty();
            if has_records {
                warn!(
                    "pods that were accepted over MQTT stay on disk and do not run: the configuration \
                     has no section mqtt"
                );
            }
            return Self::Absent { has_records };
        };
        let crashes = crashes::Watch::begin(store, &mut records);
        let (trust, mut off) = trust(&mqtt);
        let status_key = StatusKey::at_start(&config.node_key_file);
        let signed = status_key.as_ref().map(StatusKey::public_text).map_err(Clone::clone);
        let mut config = protocol_config(&mqtt, config, node, trust, crashes.is_safe_mode());
        config.signer = status_key.ok().map(|key| key.signer());
        let present = node.images.contents().unwrap_or_else(|error| {
            warn!(cause = %chain(&error), "the image store cannot be read");
            BTreeSet::new()
        });
        let now = node.clock.now();
        let (mut protocol, all) = Protocol::new(now, config, restored(records, present));
        let (mut outputs, mut inputs, mut applied) = (vec![], vec![], vec![]);
        if let Err(why) = &signed {
            // Readers who know no key of this node believe it, and should know.
            let unsigned = Condition::new(STATUS_SIGNED, false, NO_STATUS_KEY, why.as_str());
            inputs.push(Input::NodeConditions(vec![unsigned]));
        }
        let mut todo = VecDeque::from(all);
        while let Some(output) = todo.pop_front() {
            match output {
                Output::Apply { instance, release, recreate } => {
                    applied.push((release.key.clone(), instance, release.revision.digest));
                    if let Err(refusal) = task.apply_release(&release, recreate) {
                        warn!(pod = %release.key, "a pod that was accepted does not run: {refusal}");
                        inputs.push(Input::NotApplied { instance, refusal });
                    }
                }
                Output::Remove { key, instance: _ } => {
                    applied.retain(|(pod, ..)| *pod != key);
                    task.withdraw(&key);
                }
                // A try is counted before it begins; and it begins before anybody can ask what is here.
                Output::Persist { ticket, record, content } => {
                    let result = write(store, &record, content.as_deref());
                    todo.extend(protocol.step(now, Input::Persisted { ticket, result }));
                }
                later @ (Output::Connect { .. }
                | Output::Subscribe { .. }
                | Output::Publish(_)
                | Output::Disconnect
                | Output::Admit { .. }
                | Output::Fetch { .. }
                | Output::CancelFetch { .. }
                | Output::Run { .. }
                | Output::Abort { .. }
                | Output::Event { .. }
                | Output::WakeAt(_)) => outputs.push(later),
            }
        }
        if !applied.is_empty() {
            info!(pods = applied.len(), "pods that were accepted over MQTT are back");
        }
        if let Some(why) = &off {
            // Once more where it is looked for first.
            tracing::error!("{why}");
        } else if let Err(why) = mqtt.link_with_password() {
            tracing::error!("MQTT does not start: {why}");
            off = Some(format!("MQTT does not start: {why}"));
        }
        let config = mqtt;
        let restored =
            Restored { config, protocol, outputs, inputs, applied, off, signed, crashes };
        Self::Here(Box::new(restored))
    }

    /// Whether it is known which pods there are: what belongs to no pod may go only then.
    pub(super) fn knows_its_pods(&self) -> bool {
        !matches!(self, Self::Absent { has_records: true })
    }

    /// What must stay in the image store.
    pub(super) fn pinned(&self) -> BTreeSet<Digest> {
        match self {
            Self::Absent { .. } => BTreeSet::new(),
            Self::Here(restored) => restored.protocol.pinned(),
        }
    }

    /// Begins.
    pub(super) fn start(
        self,
        handle: &NodeHandle,
        store: &Arc<Store>,
        node: &Arc<NodeContext>,
        object: &Arc<NodeObject>,
        stop: &CancellationToken,
    ) -> Running {
        let Self::Here(restored) = self else { return Running::default() };
        let Restored { config: mqtt, protocol, outputs, inputs, applied, off, signed, crashes } =
            *restored;
        object.set_signed(signed.as_deref().map_err(String::as_str));
        let crashes = Some(tokio::spawn(crashes.run(Arc::clone(store), stop.clone())));
        let link = mqtt.link_with_password().unwrap_or_else(|_| mqtt.link.clone());
        // The configuration has been checked.
        let link = match Link::new(link, node.clock) {
            Ok(link) => link,
            Err(error) => {
                object.set_mqtt(false, "Misconfigured", &error.to_string());
                return Running { crashes, ..Running::default() };
            }
        };
        let stats = link.stats();
        let parts = Parts {
            protocol,
            outputs,
            inputs,
            transport: link,
            node: Arc::new(handle.clone()),
            artifacts: Arc::new(Hands::new(node.fetcher.clone())),
            store: Arc::clone(store),
            clock: node.clock,
            topics: mqtt.topics.clone(),
            broker: mqtt.brokers(),
            will_delay: mqtt.will_delay,
            off,
        };
        let (mut source, state) = MqttSource::new(parts);
        for (key, instance, intent) in applied {
            source.was_applied(key, instance, intent);
        }
        tokio::spawn(show(state, Arc::clone(object)));
        let task = tokio::spawn(source.run(stop.clone()));
        Running { task: Some(task), crashes, stats: Some(stats) }
    }
}

/// The source at work.
#[derive(Debug, Default)]
pub(super) struct Running {
    task: Option<JoinHandle<()>>,
    /// Takes back that this start was counted; the daemon must not have ended before that.
    crashes: Option<JoinHandle<()>>,
    stats: Option<Arc<LinkStats>>,
}

impl Running {
    /// Adds the link's counters.
    pub(super) fn register(&self, registry: &mut Registry) {
        if let Some(stats) = &self.stats {
            registry.register_collector(Box::new(metrics::Link(Arc::clone(stats))));
        }
    }

    /// Waits until it has said goodbye, a few seconds at most.
    pub(super) async fn ended(&mut self) {
        for task in [self.task.take(), self.crashes.take()].into_iter().flatten() {
            if let Err(error) = task.await {
                warn!(%error, "the MQTT source failed internally");
            }
        }
    }
}

/// Whom to trust; and why the source must not connect, if it must not.
fn trust(mqtt: &MqttConfig) -> (Trust, Option<String>) {
    let made = read_anchors(&mqtt.anchors).and_then(|anchors| {
        Trust::new(mqtt.trust, &anchors).map_err(|error| match error {
            TrustError::NoKey => format!("{error}. Looked for one in: {}", places(&mqtt.anchors)),
            TrustError::Anchor(_) => chain(&error),
        })
    });
    match made {
        Ok(trust) => {
            if mqtt.trust == Mode::Off {
                warn!("MQTT: trust is off: this node runs whatever the broker delivers");
            }
            (trust, None)
        }
        // Nothing connects. What was accepted under the earlier anchors goes on, and what they had stopped stays so.
        Err(why) => (Trust::closed(), Some(why)),
    }
}

/// Where anchors were looked for, for people.
fn places(paths: &[PathBuf]) -> String {
    let shown = paths.iter().map(|path| {
        let what = if path.exists() { "" } else { " (not there)" };
        format!("{}{what}", path.display())
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Reads all trust anchors.
fn read_anchors(paths: &[PathBuf]) -> Result<Vec<AnchorFile>, String> {
    let mut files = vec![];
    for path in paths {
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() => files.extend(yaml_files(path)?),
            Ok(_) => files.push(path.clone()),
            // A folder that a package has not made yet holds no keys.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(unreadable(path, &error)),
        }
    }
    files.into_iter().map(read_anchor).collect()
}

fn unreadable(path: &Path, error: &std::io::Error) -> String {
    format!("MQTT does not start: cannot read trust anchor {}: {error}", path.display())
}

fn yaml_files(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = vec![];
    for entry in std::fs::read_dir(dir).map_err(|e| unreadable(dir, &e))? {
        let path = entry.map_err(|e| unreadable(dir, &e))?.path();
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        let is_yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
        if is_yaml && !hidden {
            files.push(path);
        }
    }
    if files.len() > ANCHOR_FILES_MAX {
        let dir = dir.display();
        return Err(format!(
            "MQTT does not start: {dir} holds more than {ANCHOR_FILES_MAX} trust anchors"
        ));
    }
    files.sort();
    Ok(files)
}

fn read_anchor(path: PathBuf) -> Result<AnchorFile, String> {
    let meta = std::fs::metadata(&path).map_err(|e| unreadable(&path, &e))?;
    let us = rustix::process::geteuid().as_raw();
    let shown = path.display();
    if meta.mode() & 0o022 != 0 || (meta.uid() != 0 && meta.uid() != us) {
        return Err(format!(
            "MQTT does not start: trust anchor {shown} could be changed by others: it must belong to root or to this user, \
             and only its owner may write to it (chmod 644)"
        ));
    }
    if meta.len() > ANCHOR_BYTES_MAX as u64 {
        return Err(format!("MQTT does not start: trust anchor {shown} is too large"));
    }
    let text = std::fs::read(&path).map_err(|e| unreadable(&path, &e))?;
    Ok(AnchorFile { path, text })
}

fn protocol_config(
    mqtt: &MqttConfig,
    config: &Config,
    node: &NodeContext,
    trust: Trust,
    safe_mode: bool,
) -> protocol::Config {
    let features = ["wasip1", "wasip2", "wasip3", "http"].map(str::to_owned).to_vec();
    let sources = ["oci", "https", "http", "data", "mqtt"].map(str::to_owned).to_vec();
    protocol::Config {
        topics: mqtt.topics.clone(),
        groups: mqtt.groups.clone(),
        labels: config.node_labels.clone(),
        trust,
        verbs: mqtt.verbs.clone(),
        capabilities: Capabilities {
            sources,
            features,
            architecture: std::env::consts::ARCH.to_owned(),
            compiler: cfg!(feature = "compiler"),
            recipient: node.secrets.as_ref().map(|secrets| secrets.recipient().to_string()),
            ..Capabilities::default()
        },
        signer: None,
        boot: uuid::Uuid::new_v4().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        built_ms: built_ms(),
        safe_mode,
        timing: protocol::Timing::default(),
    }
}

/// When this program's file was made: no clock may be earlier.
fn built_ms() -> i64 {
    std::fs::metadata("/proc/self/exe").map_or(0, |meta| meta.mtime().saturating_mul(1000))
}

/// Shows the link's state as a condition of the node, until the source ends.
async fn show(mut state: watch::Receiver<LinkState>, object: Arc<NodeObject>) {
    loop {
        match &*state.borrow_and_update() {
            LinkState::Off { why } => object.set_mqtt(false, "NotStarted", why),
            LinkState::Idle => object.set_mqtt(false, "Connecting", "not connected yet"),
            LinkState::Connected { broker, limits } => {
                let message = format!("connected to {broker} ({})", limits.version);
                object.set_mqtt(true, "Connected", &message);
            }
            LinkState::Down { why, .. } => object.set_mqtt(false, "NotConnected", why),
            LinkState::Duplicate => {
                let message =
                    "another client connects under this node's name; trying every five minutes";
                object.set_mqtt(false, "DuplicateIdentity", message);
            }
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}
