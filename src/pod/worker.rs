//! Keeps one pod in the state its spec asks for: one task for each pod UID.
//!
//! Owns: the pod's [`PodState`] (nobody else changes it), its timers, and the loop around both. Not: deciding *whether* the pod
//! should exist (`reconciler`), what to do next (`lifecycle`), nor doing it (`hands`).
//!
//! ```text
//!  StopOrder, Redefinition (one slot each) ─┐
//!  reports (bounded) ───────────────────────┼─► event ─► PodState::step ─► status to the board, actions to the hands, timers armed
//!  timers ──────────────────────────────────┘
//! ```
//!
//! A worker that was told to stop never starts anything again, and does not end before everything it started is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tracing::{debug, error, info};

use crate::lifecycle::{Action, Event, PodState, PodStatus, Restored, StopReason};
use crate::limits::POD_EVENTS_MAX;
use crate::pod::context::NodeContext;
use crate::pod::exec::ExecAsk;
use crate::pod::hands::{Hands, Report};
use crate::pod::logs::PodLogs;
use crate::pod::published::PublishedPod;
use crate::pod::timers::Timers;
use crate::spec::{PodKey, PodUid, Redefinition};

/// How long a pod whose worker panicked is left alone before it is started anew.
const AFTER_PANIC: Duration = Duration::from_secs(10);

/// Commands that wait for a pod's worker, which takes each in microseconds.
const ASKS_MAX: usize = 4;

/// An order to end the pod. A later one may shorten the grace and never takes the order back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopOrder {
    pub grace: Option<Duration>,
    pub why: StopReason,
}

/// The front of a worker's task.
#[derive(Debug)]
pub struct WorkerHandle {
    pub key: PodKey,
    pub uid: PodUid,
    pub logs: Arc<PodLogs>,
    pub published: Arc<PublishedPod>,
    order: watch::Sender<Option<StopOrder>>,
    definition: watch::Sender<Option<Redefinition>>,
    refresh: Arc<Notify>,
    keep_volumes: Arc<AtomicBool>,
    asks: mpsc::Sender<ExecAsk>,
}

impl WorkerHandle {
    /// Where to ask for a command to be run in the pod.
    #[must_use]
    pub fn asks(&self) -> mpsc::Sender<ExecAsk> {
        self.asks.clone()
    }

    /// Whether the files of a pod that ends stay for its successor. Holds until its last run is over.
    pub fn keep_volumes(&self, keep: bool) {
        self.keep_volumes.store(keep, Ordering::Release);
    }

    /// Tells the pod that a ConfigMap or Secret of its namespace changed: its volumes are brought up to date.
    pub fn refresh(&self) {
        self.refresh.notify_one();
    }

    /// Tells the pod that it is defined anew. Of several in a row, the newest.
    pub fn redefine(&self, to: Redefinition) {
        self.definition.send_replace(Some(to));
    }

    /// Tells the pod to end. May be repeated; grace only shrinks.
    pub fn stop(&self, grace: Option<Duration>, why: StopReason) {
        self.order.send_if_modified(|order| {
            let new = match order.as_ref() {
                None => StopOrder { grace, why },
                Some(old) => {
                    StopOrder { grace: shorter(old.grace, grace), why: weightier(&old.why, why) }
                }
            };
            let changed = order.as_ref() != Some(&new);
            *order = Some(new);
            changed
        });
    }

    /// Whether it was told to, for good: an evicted pod stays, to be looked at.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        let order = self.order.borrow();
        let why = order.as_ref().map(|order| &order.why);
        why.is_some_and(|why| !matches!(why, StopReason::Evicted { .. }))
    }

    /// Whether it is on its way out, for whatever reason.
    #[must_use]
    pub fn is_going(&self) -> bool {
        self.order.borrow().is_some()
    }
}

/// The shorter of two graces, where none means the pod's own.
fn shorter(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

/// A deletion is the last word; the end of the daemon outranks a wish for room.
fn weightier(old: &StopReason, new: StopReason) -> StopReason {
    let weight = |why: &StopReason| match why {
        StopReason::Evicted { .. } => 0,
        StopReason::Shutdown => 1,
        StopReason::Deleted => 2,
    };
    if weight(&new) > weight(old) { new } else { old.clone() }
}

/// Told when a worker has finished and nothing of its pod is left.
pub type Finished = mpsc::Sender<PodUid>;

#[derive(Debug)]
pub struct Worker {
    state: PodState,
    node: Arc<NodeContext>,
    published: Arc<PublishedPod>,
    hands: Hands,
    timers: Timers,
    reports: mpsc::Receiver<Report>,
    order: watch::Receiver<Option<StopOrder>>,
    definition: watch::Receiver<Option<Redefinition>>,
    refresh: Arc<Notify>,
    asks: mpsc::Receiver<ExecAsk>,
    shown: Option<PodStatus>,
}

impl Worker {
    /// Starts the task of a pod.
    #[must_use]
    pub fn spawn(
        node: &Arc<NodeContext>,
        published: Arc<PublishedPod>,
        restored: Option<Restored>,
        finished: Finished,
    ) -> WorkerHandle {
        let pod = Arc::clone(published.pod());
        let logs = PodLogs::new();
        let (order, orders) = watch::channel(None);
        let (definition, definitions) = watch::channel(None);
        let refresh = Arc::new(Notify::new());
        let keep_volumes = Arc::new(AtomicBool::new(false));
        let (ask, asks) = mpsc::channel(ASKS_MAX);
        let handle = WorkerHandle {
            key: pod.key.clone(),
            uid: pod.uid.clone(),
            logs: Arc::clone(&logs),
            published: Arc::clone(&published),
            order,
            definition,
            refresh: Arc::clone(&refresh),
            keep_volumes: Arc::clone(&keep_volumes),
            asks: ask,
        };
        let (reporter, reports) = mpsc::channel(POD_EVENTS_MAX);
        let (state, actions) = PodState::new(Arc::clone(&pod), restored, node.clock.now());
        let mut worker = Self {
            state,
            node: Arc::clone(node),
            published,
            hands: Hands::new(Arc::clone(node), Arc::clone(&pod), logs, reporter, keep_volumes),
            timers: Timers::default(),
            reports,
            order: orders,
            definition: definitions,
            refresh,
            asks,
            shown: None,
        };
        // Before anyone can ask: what is known of its past is shown with it.
        worker.show();
        tokio::spawn(async move {
            info!(pod = %pod.key, uid = %pod.uid, source = %pod.source, "pod starts");
            // Private state is contained: a panic here ends this pod, not the node.
            if let Err(panic) = tokio::spawn(worker.run(actions)).await {
                error!(pod = %pod.key, error = %panic, "worker failed; the pod is started anew");
                tokio::time::sleep(AFTER_PANIC).await;
            }
            debug!(pod = %pod.key, uid = %pod.uid, "worker ends");
            drop(finished.send(pod.uid.clone()).await);
        });
        handle
    }

    async fn run(mut self, actions: Vec<Action>) {
        self.perform(actions);
        while !self.state.is_finished() {
            let event = self.next_event().await;
            let now = self.node.clock.now();
            let actions = self.state.step(now, event);
            self.hands.follow(self.state.pod());
            self.perform(actions);
        }
    }

    /// The next thing that happened. Orders from above come before noise from below.
    async fn next_event(&mut self) -> Event {
        loop {
            let now = self.node.clock.now();
            if let Some(timer) = self.timers.pop(now) {
                return Event::TimerFired { timer };
            }
            let due = self.timers.next_due().map(|at| self.node.clock.instant(at));
            let timer = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            // Each arm is cancel-safe: a watch keeps its value, a channel its messages, a timer stays armed.
            tokio::select! {
                biased;
                Ok(()) = self.order.changed() => {
                    if let Some(order) = self.order.borrow_and_update().clone() {
                        match order.why {
                            StopReason::Shutdown => self.hands.keep_volumes(),
                            StopReason::Deleted => self.hands.begin_end(),
                            StopReason::Evicted { .. } => {}
                        }
                        return Event::Stop { grace: order.grace, why: order.why };
                    }
                }
                Ok(()) = self.definition.changed() => {
                    if let Some(to) = self.definition.borrow_and_update().clone() {
                        return Event::Redefined { to };
                    }
                }
                Some(report) = self.reports.recv() => {
                    if let Some(event) = self.hands.take(report) {
                        return event;
                    }
                }
                () = self.refresh.notified() => self.hands.refresh_volumes(),
                Some(ask) = self.asks.recv() => self.hands.exec(ask),
                () = timer => {}
            }
        }
    }

    fn show(&mut self) {
        let status = self.state.status();
        if self.shown.as_ref() != Some(&status) {
            self.published.set_status(self.state.pod(), &status);
            self.shown = Some(status);
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        // The status goes out before anything new is begun, so that no one sees the effect before the cause.
        self.show();
        if self.state.is_terminal_phase() {
            self.hands.release_ports();
        }
        for action in actions {
            if let Action::ArmTimer { timer, at } = action {
                self.timers.arm(timer, at);
            } else if action == Action::Persist {
                self.hands.persist(&self.state.restored());
            } else {
                self.hands.perform(action);
            }
        }
    }
}
