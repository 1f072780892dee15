//! What the protocol wants done: each output begins something, and what takes time comes back as an input.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::core::v1::ObjectReference;
use tracing::{debug, info, warn};

use super::{MqttSource, Subscribing};
use crate::board::EventDraft;
use crate::mqtt::command::Task;
use crate::mqtt::intent::Release;
use crate::mqtt::protocol::{Input, Instance, Output, Publish, RecordName, Ticket};
use crate::mqtt::transport::{Transport, Will};
use crate::source::mqtt::{Artifacts, Node, Wanted, commands, records};
use crate::spec::PodKey;

/// Filters in one SUBSCRIBE: the smallest limit among the brokers that are used (AWS IoT).
const FILTERS_MAX: usize = 8;

/// What was queued may take this long before we leave.
const LEAVE: Duration = Duration::from_secs(2);

/// An order under way: what came of it, and whose pod it changed.
pub(super) type Ordering = Pin<Box<dyn Future<Output = (Option<Input>, Option<PodKey>)> + Send>>;

/// Something that the node's own task does, one after the other.
#[derive(Debug)]
pub(super) enum Order {
    Admit { ticket: Ticket, release: Arc<Release> },
    Apply { instance: Instance, release: Arc<Release>, recreate: bool },
    Remove { key: PodKey },
}

impl Order {
    /// The name whose pod it changes.
    fn changes(&self) -> Option<&PodKey> {
        match self {
            Self::Admit { .. } => None,
            Self::Apply { release, .. } => Some(&release.key),
            Self::Remove { key } => Some(key),
        }
    }

    /// Whether one that has not begun is needless now. Of several that change one name, the last holds; and of a scope's documents the protocol
    /// waits for the last alone, so that whoever may sign cannot fill the memory with those before it.
    fn replaces(&self, waiting: &Self) -> bool {
        if let (Self::Admit { release, .. }, Self::Admit { release: before, .. }) = (self, waiting)
        {
            return before.key == release.key && before.scope == release.scope;
        }
        self.changes().is_some() && self.changes() == waiting.changes()
    }
}

impl<T: Transport, N: Node, A: Artifacts> MqttSource<T, N, A> {
    pub(super) fn perform(&mut self, output: Output) {
        match output {
            Output::Connect { conn, will } => {
                debug!(conn, broker = self.broker, "connecting");
                let Publish { topic, payload, .. } = will;
                self.outbox.clear();
                let delay = self.will_delay;
                self.transport.connect(Some(Will { topic, payload, delay }));
            }
            Output::Subscribe { filters } => {
                let chunks = filters.chunks(FILTERS_MAX).map(<[String]>::to_vec);
                self.subscribing =
                    Subscribing { to_send: chunks.collect(), ..Subscribing::default() };
            }
            Output::Publish(publish) => self.outbox.push(publish),
            Output::Disconnect => self.leaving = Some(self.clock.now().plus(LEAVE)),
            Output::Persist { ticket, record, content } => self.persist(ticket, record, content),
            Output::Admit { ticket, release } => self.order(Order::Admit { ticket, release }),
            Output::Apply { instance, release, recreate } => {
                let intent = release.revision.digest;
                self.applied.insert(release.key.clone(), instance, intent);
                self.order(Order::Apply { instance, release, recreate });
            }
            Output::Remove { key, instance: _ } => {
                self.applied.remove(&key);
                self.order(Order::Remove { key });
            }
            Output::Fetch { digest, size, media_type, sources, deltas } => {
                self.fetch(Wanted { digest, size, media_type, sources, deltas });
            }
            Output::CancelFetch { digest } => {
                if let Some(transfer) = self.fetches.remove(&digest) {
                    transfer.abort();
                }
            }
            Output::Run { id, task } => self.command(id, task),
            Output::Abort { id } => {
                if let Some(command) = self.commands.remove(&id) {
                    command.abort();
                }
            }
            Output::Event { pod, warning, reason, message } => {
                self.event(pod.as_ref(), warning, reason, message);
            }
            Output::WakeAt(at) => self.wake_at = at,
        }
    }

    fn persist(&mut self, ticket: Ticket, record: RecordName, content: Option<Bytes>) {
        let (store, writes) = (Arc::clone(&self.store), Arc::clone(&self.writes));
        let out = self.inputs.0.clone();
        self.jobs.spawn(async move {
            // It is never closed.
            let _turn = writes.acquire().await;
            let write = move || records::write(&store, &record, content.as_deref());
            let written = tokio::task::spawn_blocking(write).await;
            let result = written.unwrap_or_else(|error| Err(error.to_string()));
            drop(out.send(Input::Persisted { ticket, result }).await);
        });
    }

    fn order(&mut self, order: Order) {
        self.orders.retain(|waiting| !order.replaces(waiting));
        self.orders.push_back(order);
    }

    pub(super) fn next_order(&mut self) {
        if self.ordering.is_some() {
            return;
        }
        let Some(order) = self.orders.pop_front() else { return };
        let node = Arc::clone(&self.node);
        self.ordering = Some(Box::pin(async move {
            match order {
                Order::Admit { ticket, release } => {
                    let result = node.admit(release).await;
                    (Some(Input::Admitted { ticket, result }), None)
                }
                Order::Apply { instance, release, recreate } => {
                    let key = release.key.clone();
                    let applied = node.apply(release, recreate).await;
                    let refused = |refusal| Input::NotApplied { instance, refusal };
                    (applied.err().map(refused), Some(key))
                }
                Order::Remove { key } => {
                    node.withdraw(key).await;
                    (None, None)
                }
            }
        }));
    }

    fn fetch(&mut self, wanted: Wanted) {
        let (artifacts, out) = (Arc::clone(&self.artifacts), self.inputs.0.clone());
        let digest = wanted.digest;
        let handle = self.jobs.spawn(async move {
            let tell = out.clone();
            let progress = move |bytes| {
                // Where there is no room, the next one says more.
                let _ = tell.try_send(Input::Progress { digest, bytes });
            };
            let result = artifacts.fetch(wanted, &progress).await;
            drop(out.send(Input::Fetched { digest, result }).await);
        });
        if let Some(before) = self.fetches.insert(digest, handle) {
            before.abort();
        }
    }

    fn command(&mut self, id: String, task: Task) {
        let (node, out) = (Arc::clone(&self.node), self.inputs.0.clone());
        let (name, now_ms) = (self.topics.node().to_owned(), self.clock.now().wall_ms());
        let run = commands::run(node, name, now_ms, id.clone(), task, out);
        let handle = self.jobs.spawn(run);
        self.commands.insert(id, handle);
    }

    fn event(&self, pod: Option<&PodKey>, warning: bool, reason: &'static str, message: String) {
        let board = self.node.board();
        let node = self.topics.node();
        let involved = match pod {
            Some(key) => {
                let uid = board.pod(key).and_then(|pod| pod.metadata.uid.clone());
                ObjectReference {
                    kind: Some("Pod".into()),
                    namespace: Some(key.namespace.to_string()),
                    name: Some(key.name.to_string()),
                    uid,
                    ..ObjectReference::default()
                }
            }
            None => ObjectReference {
                kind: Some("Node".into()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let about = pod.map(ToString::to_string).unwrap_or_default();
        if warning {
            warn!(pod = about, reason, "{message}");
        } else {
            info!(pod = about, reason, "{message}");
        }
        let draft = EventDraft {
            involved,
            warning,
            reason: reason.into(),
            message,
            component: "podling-mqtt".into(),
            host: node.to_owned(),
        };
        board.record(&draft, self.clock.now());
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::mqtt::intent::PodIntent;
    use crate::mqtt::kit;

    fn admit(intent: &PodIntent) -> Order {
        let payload = serde_json::to_vec(intent).unwrap();
        let release = Release::read(&payload, "k").unwrap();
        Order::Admit { ticket: Ticket(1), release: Arc::new(release) }
    }

    #[test]
    fn a_scopes_newer_document_is_looked_at_instead_of_the_one_before() {
        let first = admit(&kit::intent("a", 1));
        let removal = Order::Remove { key: kit::pod_key("a") };
        assert!(admit(&kit::intent("a", 2)).replaces(&first));
        assert!(removal.replaces(&Order::Remove { key: kit::pod_key("a") }));
        for other in [admit(&kit::intent("b", 2)), admit(&kit::for_group("g", kit::intent("a", 2)))]
        {
            assert!(!other.replaces(&first), "{other:?}");
        }
        // What was accepted is carried out whatever else comes to be judged.
        assert!(!first.replaces(&removal) && !removal.replaces(&first));
    }
}
