//! What the modules of this node use: the book that metrics, `top` and the choice of a victim are read from.
//!
//! Owns: who runs now, and the sums of runs that are over, so that counters never fall while a pod lives. Not: measuring (`runtime`
//! does, per run) nor showing. Written by a pod's hands at the start and end of a run; read by the API. Nothing here samples on a timer:
//! a rate is measured between two questions, and an idle node stays idle.
//!
//! Limits: one entry for each container of each pod with a sandbox.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::logs::Dropped;
use crate::clock::Timestamp;
use crate::runtime::{HttpUsage, MemoryKinds, PodAccount, RunControl, Usage};
use crate::spec::{ContainerName, PodKey, PodUid};

/// Two questions that come closer than this get the same rate: a shorter window says little.
const WINDOW_MIN: Duration = Duration::from_secs(1);

/// What one container uses, over all its runs since its pod has been here.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerUsage {
    pub name: ContainerName,
    /// What its manifest calls its module.
    pub image: String,
    /// It runs now.
    pub running: bool,
    /// When its run began, or the last one.
    pub started: Option<Timestamp>,
    /// Sums over its runs; memory is that of the run there is now.
    pub total: Usage,
    /// The same of its requests, if it is a module that answers HTTP.
    pub http: Option<HttpUsage>,
    /// Runs that ended for want of memory, `OOMKilled`.
    pub oom_kills: u64,
    /// What was dropped of its log, because it was more than it may print.
    pub log_dropped_lines: u64,
    pub log_dropped_bytes: u64,
    /// Billionths of a core, over the window.
    pub cpu_nanocores: u64,
    /// What the rate was measured over.
    pub window: Duration,
}

/// What one pod uses.
#[derive(Clone, Debug, PartialEq)]
pub struct PodUsage {
    pub key: PodKey,
    pub uid: PodUid,
    /// Bytes that all its modules hold, and the most they ever held at once.
    pub memory_bytes: u64,
    pub memory_peak_bytes: u64,
    /// CPU time of all its modules, and of the host for it.
    pub cpu_time: Duration,
    /// In the order of their names.
    pub containers: Vec<ContainerUsage>,
}

/// See the header. One per node.
#[derive(Debug, Default)]
pub struct UsageBook {
    pods: Mutex<BTreeMap<PodUid, PodEntry>>,
}

#[derive(Debug)]
struct PodEntry {
    key: PodKey,
    account: PodAccount,
    containers: BTreeMap<ContainerName, ContainerEntry>,
}

#[derive(Debug, Default)]
struct ContainerEntry {
    image: String,
    oom_kills: u64,
    now: Option<RunControl>,
    started: Option<Timestamp>,
    /// Runs that are over.
    before: Usage,
    http_before: HttpUsage,
    /// Over all its runs.
    dropped: Arc<Dropped>,
    rate: Rate,
}

/// CPU time at the last question, and the rate that was answered.
#[derive(Debug, Default)]
struct Rate {
    last: Option<(Timestamp, Duration)>,
    nanocores: u64,
    window: Duration,
}

impl UsageBook {
    /// A pod has an account.
    pub fn pod_is_here(&self, key: &PodKey, uid: &PodUid, account: &PodAccount) {
        let (key, account) = (key.clone(), account.clone());
        let entry = PodEntry { key, account, containers: BTreeMap::new() };
        self.lock().insert(uid.clone(), entry);
    }

    /// Nothing of it is left.
    pub fn pod_is_gone(&self, uid: &PodUid) {
        self.lock().remove(uid);
    }

    /// A run of a container begins.
    pub fn run_began(
        &self,
        uid: &PodUid,
        container: &ContainerName,
        image: String,
        run: RunControl,
        dropped: Arc<Dropped>,
        now: Timestamp,
    ) {
        if let Some(pod) = self.lock().get_mut(uid) {
            let entry = pod.containers.entry(container.clone()).or_default();
            entry.settle();
            entry.image = image;
            entry.rate.last = Some((now, entry.before.cpu_time));
            entry.now = Some(run);
            entry.started = Some(now);
            entry.dropped = dropped;
        }
    }

    /// It is over; `oom` says that it ended for want of memory.
    pub fn run_ended(&self, uid: &PodUid, container: &ContainerName, oom: bool) {
        if let Some(pod) = self.lock().get_mut(uid)
            && let Some(entry) = pod.containers.get_mut(container)
        {
            entry.settle();
            entry.oom_kills += u64::from(oom);
        }
    }

    /// Everything, in the order of the pods' names.
    #[must_use]
    pub fn read(&self, now: Timestamp) -> Vec<PodUsage> {
        let mut pods = self.lock();
        let mut all: Vec<PodUsage> = pods.iter_mut().map(|(uid, pod)| pod.read(uid, now)).collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<PodUid, PodEntry>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PodEntry {
    fn read(&mut self, uid: &PodUid, now: Timestamp) -> PodUsage {
        let read = |(name, entry): (&ContainerName, &mut ContainerEntry)| entry.read(name, now);
        PodUsage {
            key: self.key.clone(),
            uid: uid.clone(),
            memory_bytes: self.account.memory_bytes(),
            memory_peak_bytes: self.account.memory_peak_bytes(),
            cpu_time: self.account.cpu_time(),
            containers: self.containers.iter_mut().map(read).collect(),
        }
    }
}

impl ContainerEntry {
    /// What ran until now belongs to the past.
    fn settle(&mut self) {
        if let Some(run) = self.now.take() {
            self.before = sum(self.before, run.usage());
            self.before.memory_bytes = 0;
            self.before.memory = MemoryKinds::default();
            self.http_before = HttpUsage { under_way: 0, ..run.http().after(self.http_before) };
        }
    }

    fn read(&mut self, name: &ContainerName, now: Timestamp) -> ContainerUsage {
        let run = self.now.as_ref().map(RunControl::usage);
        let total = sum(self.before, run.unwrap_or_default());
        self.rate.ask(now, total.cpu_time);
        let http = self.now.as_ref().map(RunControl::http).unwrap_or_default();
        let http = http.after(self.http_before);
        ContainerUsage {
            name: name.clone(),
            image: self.image.clone(),
            running: self.now.is_some(),
            started: self.started,
            total,
            http: http.is_of_server().then_some(http),
            oom_kills: self.oom_kills,
            log_dropped_lines: self.dropped.lines(),
            log_dropped_bytes: self.dropped.bytes(),
            cpu_nanocores: self.rate.nanocores,
            window: self.rate.window,
        }
    }
}

impl Rate {
    fn ask(&mut self, now: Timestamp, cpu_time: Duration) {
        let Some((then, before)) = self.last else {
            self.last = Some((now, cpu_time));
            return;
        };
        let window = now.since(then);
        if window < WINDOW_MIN {
            return;
        }
        let used = cpu_time.saturating_sub(before).as_nanos();
        let nanocores = used.saturating_mul(1_000_000_000) / window.as_nanos().max(1);
        self.nanocores = u64::try_from(nanocores).unwrap_or(u64::MAX);
        self.window = window;
        self.last = Some((now, cpu_time));
    }
}

/// Counters add up, peaks do not; what is held is the later one's.
fn sum(before: Usage, now: Usage) -> Usage {
    let fuel_used = match (before.fuel_used, now.fuel_used) {
        (None, None) => None,
        (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
    };
    Usage {
        cpu_time: before.cpu_time.saturating_add(now.cpu_time),
        throttled: before.throttled.saturating_add(now.throttled),
        cpu_limit_millis: now.cpu_limit_millis.or(before.cpu_limit_millis),
        memory_bytes: now.memory_bytes,
        memory: now.memory,
        memory_peak_bytes: before.memory_peak_bytes.max(now.memory_peak_bytes),
        memory_refused: before.memory_refused.saturating_add(now.memory_refused),
        memory_limit_bytes: now.memory_limit_bytes.or(before.memory_limit_bytes),
        fuel_used,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::simulated(Duration::from_millis(ms))
    }

    #[test]
    fn a_rate_is_measured_between_two_questions() {
        let mut rate = Rate { last: Some((at(0), Duration::ZERO)), ..Rate::default() };
        rate.ask(at(2000), Duration::from_millis(500));
        assert_eq!((rate.nanocores, rate.window), (250_000_000, Duration::from_secs(2)));
        rate.ask(at(2500), Duration::from_millis(900));
        assert_eq!(rate.nanocores, 250_000_000, "too soon: the same answer");
        rate.ask(at(4000), Duration::from_millis(2500));
        assert_eq!(rate.nanocores, 1_000_000_000);
    }

    #[test]
    fn counters_do_not_fall_when_a_run_ends() {
        let run = |cpu_ms: u64, held: u64, peak: u64, fuel: Option<u64>| Usage {
            cpu_time: Duration::from_millis(cpu_ms),
            throttled: Duration::from_millis(1),
            cpu_limit_millis: Some(200),
            memory_bytes: held,
            memory: MemoryKinds { linear: held, ..MemoryKinds::default() },
            memory_peak_bytes: peak,
            memory_refused: 2,
            memory_limit_bytes: Some(64),
            fuel_used: fuel,
        };
        let both = sum(run(10, 5, 50, None), run(20, 7, 30, Some(3)));
        assert_eq!(both.cpu_time, Duration::from_millis(30));
        assert_eq!(both.throttled, Duration::from_millis(2));
        assert_eq!(both.cpu_limit_millis, Some(200));
        assert_eq!((both.memory_refused, both.memory_limit_bytes), (4, Some(64)));
        assert_eq!((both.memory_bytes, both.memory_peak_bytes, both.fuel_used), (7, 50, Some(3)));
    }
}
