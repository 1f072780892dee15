//! Performs the core's actions, each in a task of its own, and reports what happened.
//!
//! Owns: the pod's sandbox, its active runs, and the tasks around them. Not: deciding anything; an action that cannot be
//! performed is reported as the failure it is, and the core decides.
//!
//! Reports come over one bounded channel. Things that the worker must hold (a sandbox, a control of a run) come before
//! the event that tells of them, so when the core answers, they are there.

mod asked;
mod events;
mod live;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::image::{Pin, PullFailure, ResolvedImage};
use crate::lifecycle::{
    Action, Event, HookKind, PodEvent, ProbeOutcome, Restored, RunId, StopReason,
};
use crate::pod::context::NodeContext;
use crate::pod::holds::Holds;
use crate::pod::images;
use crate::pod::logs::PodLogs;
use crate::pod::run::{Ingredients, StartFailure};
use crate::pod::sandbox::{self, Sandbox};
use crate::runtime::RunControl;
use crate::spec::{Container, ContainerName, Exit, Pod, ProbeKind};
use crate::volume::space::Excess;

/// Serials of exec instances begin here, far from any attempt's number: both name private folders of a container.
const FIRST_EXEC_SERIAL: u32 = 1 << 31;

/// What a pod gets whose volumes are over their limit (the kubelet's `immediateEvictionGracePeriodSeconds`).
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// What a task reports.
#[derive(Debug)]
pub enum Report {
    Event(Event),
    /// The sandbox stands; keep it.
    Sandbox(Box<Sandbox>),
    /// Something that the pod's author should know.
    Note(PodEvent),
    /// The image of a coming run.
    Resolved(RunId, ResolvedImage),
    /// A run is under way; this controls it.
    Running(RunId, RunControl),
    /// The pod's volumes hold more than they may.
    Excess(Excess),
}

#[derive(Debug)]
struct ActiveRun {
    run: RunId,
    ingredients: Ingredients,
    /// Its probes and hooks need the module's file, also when its container is to run another image from then on.
    _module: Pin,
    /// Absent until the instance runs.
    control: Option<RunControl>,
    /// Ends a start that has not come to an instance yet.
    abort: CancellationToken,
    /// Cancelled when the run is over: its probes and hooks end with it.
    over: CancellationToken,
}

impl Drop for ActiveRun {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

/// See the header. One per worker.
#[derive(Debug)]
pub struct Hands {
    node: Arc<NodeContext>,
    pod: Arc<Pod>,
    logs: Arc<PodLogs>,
    reports: mpsc::Sender<Report>,
    sandbox: Option<Arc<Sandbox>>,
    images: BTreeMap<ContainerName, (RunId, ResolvedImage)>,
    /// Ends the search for an image that has not been found yet.
    searches: BTreeMap<ContainerName, CancellationToken>,
    runs: BTreeMap<ContainerName, ActiveRun>,
    next_exec_serial: u32,
    /// A ConfigMap or Secret changed while the volumes were being set up.
    volumes_are_stale: bool,
    /// The daemon ends and the pod does not, or it is replaced by itself: its files stay.
    keep_volumes: Arc<AtomicBool>,
    /// Cancelled with the worker: nobody waits for an image any more.
    gone: CancellationToken,
}

impl Hands {
    #[must_use]
    pub fn new(
        node: Arc<NodeContext>,
        pod: Arc<Pod>,
        logs: Arc<PodLogs>,
        reports: mpsc::Sender<Report>,
        keep_volumes: Arc<AtomicBool>,
    ) -> Self {
        Self {
            node,
            pod,
            logs,
            reports,
            sandbox: None,
            images: BTreeMap::new(),
            searches: BTreeMap::new(),
            runs: BTreeMap::new(),
            next_exec_serial: FIRST_EXEC_SERIAL,
            volumes_are_stale: false,
            keep_volumes,
            gone: CancellationToken::new(),
        }
    }

    /// The pod is defined as this from now on.
    pub fn follow(&mut self, pod: &Arc<Pod>) {
        if !Arc::ptr_eq(&self.pod, pod) {
            self.pod = Arc::clone(pod);
        }
    }

    /// The pod only pauses with its daemon: tearing down leaves its files.
    pub fn keep_volumes(&mut self) {
        self.keep_volumes.store(true, Ordering::Release);
    }

    /// The pod is told to end. Where another form of it follows, new clients of its ports wait for that one.
    pub fn begin_end(&self) {
        if let Some(sandbox) = &self.sandbox
            && self.keep_volumes.load(Ordering::Acquire)
        {
            sandbox.leave_clients();
        }
    }

    /// The pod has come to its end and keeps only its files: others may publish its ports now. Unless it is replaced by another form
    /// of itself, which goes on with them.
    pub fn release_ports(&self) {
        let comes_back = self.keep_volumes.load(Ordering::Acquire);
        if let Some(sandbox) = self.sandbox.as_ref().filter(|_| !comes_back) {
            sandbox.release_ports();
        }
    }

    /// Brings configMap, secret and projected volumes up to date: now, or when they are there.
    pub fn refresh_volumes(&mut self) {
        self.volumes_are_stale = self.sandbox.is_none();
        if let Some(sandbox) = &self.sandbox {
            tokio::spawn(sandbox::refresh_volumes(Arc::clone(sandbox)));
        }
    }

    /// Takes in a report; returns the event it carries, if any.
    pub fn take(&mut self, report: Report) -> Option<Event> {
        match report {
            Report::Event(event) => {
                if let Event::StartFailed { run, .. } = &event {
                    self.logs.abandon(&run.container, run.attempt);
                }
                if let Event::Exited { run, .. } | Event::StartFailed { run, .. } = &event {
                    let oom = matches!(event, Event::Exited { exit: Exit::OutOfMemory { .. }, .. });
                    self.forget(run, oom);
                }
                if let Event::Prepared { run, .. } | Event::PrepareFailed { run, .. } = &event {
                    self.searches.remove(&run.container);
                }
                Some(event)
            }
            Report::Sandbox(sandbox) => {
                let pod_ip = sandbox.ip();
                for warning in &sandbox.volumes().warnings {
                    let message = warning.clone();
                    let reason = "VolumeWarning";
                    self.record(&PodEvent { warning: true, reason, message, container: None });
                }
                self.node.usage.pod_is_here(&self.pod.key, &self.pod.uid, sandbox.account());
                self.watch_space(&sandbox);
                self.sandbox = Some(Arc::new(*sandbox));
                if self.volumes_are_stale {
                    self.refresh_volumes();
                }
                Some(Event::SandboxReady { pod_ip })
            }
            Report::Note(event) => {
                self.record(&event);
                None
            }
            Report::Excess(excess) => {
                let (reason, message) = ("Evicted", excess.to_string());
                let note = message.clone();
                self.record(&PodEvent { warning: true, reason, message: note, container: None });
                let why = StopReason::Evicted { reason, message };
                Some(Event::Stop { grace: Some(EVICTION_GRACE), why })
            }
            Report::Resolved(run, image) => {
                self.images.insert(run.container.clone(), (run, image));
                None
            }
            Report::Running(run, control) => {
                let (usage, uid, now) = (&self.node.usage, &self.pod.uid, self.node.clock.now());
                let dropped = self.logs.dropped(&run.container);
                let image = self.container(&run).map(|it| it.image.text().to_owned());
                let (of, image) = (&run.container, image.unwrap_or_default());
                usage.run_began(uid, of, image, control.clone(), dropped, now);
                if let Some(active) = self.active(&run) {
                    active.control = Some(control);
                }
                Some(Event::Started { run })
            }
        }
    }

    /// Performs everything but timers and persistence, which are the worker's own.
    pub fn perform(&mut self, action: Action) {
        match action {
            Action::SetUpSandbox => self.set_up_sandbox(),
            Action::Prepare { run } => self.prepare(run),
            Action::AbandonPrepare { run } => {
                if let Some(search) = self.searches.get(&run.container) {
                    search.cancel();
                }
            }
            Action::Start { run } => self.start(run),
            Action::Probe { run, kind } => self.probe(run, kind),
            Action::RunHook { run, hook, within } => self.hook(run, hook, within),
            Action::AskToStop { run } => self.end(&run, RunControl::ask_to_stop),
            Action::Kill { run } => self.end(&run, RunControl::kill),
            Action::TearDownSandbox => self.tear_down_sandbox(),
            Action::Record(event) => self.record(&event),
            Action::ArmTimer { .. } | Action::Persist => {}
        }
    }

    /// Writes down the facts that survive the daemon.
    pub fn persist(&self, facts: &Restored) {
        self.node.keeper.keep(&self.pod.uid, facts);
    }

    fn active(&mut self, run: &RunId) -> Option<&mut ActiveRun> {
        self.runs.get_mut(&run.container).filter(|active| &active.run == run)
    }

    fn forget(&mut self, run: &RunId, oom: bool) {
        if self.active(run).is_some() {
            self.node.usage.run_ended(&self.pod.uid, &run.container, oom);
            self.runs.remove(&run.container);
        }
    }

    fn container(&self, run: &RunId) -> Option<Container> {
        self.pod.container(&run.container).cloned()
    }

    fn set_up_sandbox(&self) {
        let (node, pod) = (Arc::clone(&self.node), Arc::clone(&self.pod));
        self.spawn(async move {
            match Sandbox::set_up(node, pod).await {
                Ok(sandbox) => Report::Sandbox(Box::new(sandbox)),
                Err(error) => {
                    let (reason, message) = (error.reason(), error.message());
                    Report::Event(Event::SandboxFailed { reason, message })
                }
            }
        });
    }

    fn watch_space(&self, sandbox: &Sandbox) {
        let (excess, reports) = (sandbox.excess(), self.reports.clone());
        tokio::spawn(async move {
            if let Some(excess) = excess.await {
                // The worker is gone only when nobody is interested any more.
                drop(reports.send(Report::Excess(excess)).await);
            }
        });
    }

    fn tear_down_sandbox(&mut self) {
        let sandbox = self.sandbox.take();
        self.node.usage.pod_is_gone(&self.pod.uid);
        let (node, pod) = (Arc::clone(&self.node), Arc::clone(&self.pod));
        let keep = self.keep_volumes.load(Ordering::Acquire);
        self.spawn(async move {
            match sandbox {
                Some(sandbox) => sandbox.tear_down(keep).await,
                // A pod that had ended before the daemon came up has no sandbox now, but may have volumes.
                None if keep => {}
                None => sandbox::remove_volumes(&node, &pod).await,
            }
            Report::Event(Event::SandboxGone)
        });
    }

    fn prepare(&mut self, run: RunId) {
        let Some(container) = self.container(&run) else { return };
        let (node, pod) = (Arc::clone(&self.node), Arc::clone(&self.pod));
        let reports = self.reports.clone();
        let name = container.name.clone();
        let search = CancellationToken::new();
        self.searches.insert(name.clone(), search.clone());
        self.spawn_until(self.gone.clone(), async move {
            let pulling = async {
                let told = reports.send(Report::Event(Event::Pulling { run: run.clone() })).await;
                drop(told);
            };
            let holds = Holds::default();
            let held = |held| holds.set(held);
            let found = Box::pin(images::obtain(&node, &pod, &container, pulling, &held));
            let found = search.run_until_cancelled(holds.telling(&run, &reports, found));
            let obtained = match found.await {
                Some(Ok(obtained)) => obtained,
                Some(Err(PullFailure { reason, message })) => {
                    return Report::Event(Event::PrepareFailed { run, reason, message });
                }
                None => {
                    let (reason, message) = ("ErrImagePull", "no longer wanted".to_owned());
                    return Report::Event(Event::PrepareFailed { run, reason, message });
                }
            };
            for images::Warning { reason, message } in obtained.warnings {
                let container = Some(name.clone());
                let event = PodEvent { warning: true, reason, message, container };
                drop(reports.send(Report::Note(event)).await);
            }
            let (image, present) = (obtained.image, obtained.present);
            let image_id = image.image_id.clone();
            // The image first, then the event that tells of it.
            drop(reports.send(Report::Resolved(run.clone(), image)).await);
            Report::Event(Event::Prepared { run, image_id, present })
        });
    }

    fn start(&mut self, run: RunId) {
        let Some(container) = self.container(&run) else { return };
        let image = self.images.remove(&run.container).filter(|(of, _)| of == &run);
        let (Some(sandbox), Some((_, image))) = (self.sandbox.clone(), image) else {
            let failure = StartFailure::broken(&"start without sandbox or image");
            let StartFailure { reason, message } = failure;
            self.spawn(async move { Report::Event(Event::StartFailed { run, reason, message }) });
            return;
        };
        let (node, pod) = (Arc::clone(&self.node), Arc::clone(&self.pod));
        let ingredients = Ingredients { node, pod, sandbox, image };
        let abort = CancellationToken::new();
        let rate = container.log_bytes_per_second;
        let ring = self.logs.begin(&run.container, run.attempt, self.node.clock, rate);
        ring.pay_from(ingredients.sandbox.account());
        let active = ActiveRun {
            run: run.clone(),
            ingredients: ingredients.clone(),
            _module: self.node.images.pins().hold([ingredients.image.digest]),
            control: None,
            abort: abort.clone(),
            over: CancellationToken::new(),
        };
        self.runs.insert(run.container.clone(), active);
        let reports = self.reports.clone();
        tokio::spawn(live::live(ingredients, container, run, ring, abort, reports));
    }

    fn probe(&mut self, run: RunId, kind: ProbeKind) {
        let Some((target, over)) = self.target(&run) else { return };
        self.spawn_until(over, async move {
            let outcome = match target.container.probe(kind) {
                Some(probe) => target.probe(probe).await,
                None => ProbeOutcome::Error("the container has no such probe".into()),
            };
            Report::Event(Event::ProbeDone { run, kind, outcome })
        });
    }

    fn hook(&mut self, run: RunId, hook: HookKind, within: Duration) {
        let Some((target, over)) = self.target(&run) else { return };
        self.spawn_until(over, async move {
            let hooks = &target.container.hooks;
            let todo = match hook {
                HookKind::PostStart => hooks.post_start.clone(),
                HookKind::PreStop => hooks.pre_stop.clone(),
            };
            let result = match todo {
                Some(todo) => target.hook(&todo, within).await,
                None => Ok(()),
            };
            Report::Event(Event::HookDone { run, hook, result })
        });
    }

    fn end(&mut self, run: &RunId, how: impl Fn(&RunControl)) {
        let Some(active) = self.active(run) else { return };
        match &active.control {
            Some(control) => how(control),
            None => active.abort.cancel(),
        }
    }

    /// Runs a task that ends in a report.
    fn spawn(&self, work: impl Future<Output = Report> + Send + 'static) {
        self.spawn_until(CancellationToken::new(), work);
    }

    /// The same; dropped without a report when `over` says that nobody will heed it.
    fn spawn_until(
        &self,
        over: CancellationToken,
        work: impl Future<Output = Report> + Send + 'static,
    ) {
        let reports = self.reports.clone();
        tokio::spawn(async move {
            if let Some(report) = over.run_until_cancelled(work).await {
                // The worker is gone only when nobody is interested any more.
                drop(reports.send(report).await);
            }
        });
    }
}

impl Drop for Hands {
    /// A worker that goes in disorder must not leave modules running.
    fn drop(&mut self) {
        self.gone.cancel();
        self.node.usage.pod_is_gone(&self.pod.uid);
        for active in self.runs.values() {
            active.abort.cancel();
            if let Some(control) = &active.control {
                control.kill();
            }
        }
    }
}
