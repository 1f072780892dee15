//! Looks at the machine's memory and tells the node when it gets short.
//!
//! Owns: reading `meminfo` and `pressure/memory`, and how often. Not: what it means (`admission::Pressure`), who goes (`reconciler`).
//!
//! A calm machine is looked at every ten seconds, as the kubelet does; one that is not, every second, for on 128 MB a module fills the
//! rest faster than that. What a module without a memory limit can take between two looks is bounded by what was available at the first:
//! the runtime is told so at each. Reading the two files takes microseconds and wakes nobody else.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admission::{Level, Pressure, Sample, Thresholds};
use crate::daemon::node_object::NodeObject;
use crate::pod::NodeContext;
use crate::reconciler::NodeHandle;

const CALM_EVERY: Duration = Duration::from_secs(10);
const TIGHT_EVERY: Duration = Duration::from_secs(1);

/// What a pod that was told to go gets before the next one is: its second of grace, and its memory coming back.
const AFTER_EVICTION: Duration = Duration::from_secs(3);

/// Where to look, and for whom.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) proc_dir: PathBuf,
    pub(super) node: Arc<NodeContext>,
    pub(super) handle: NodeHandle,
    pub(super) object: Arc<NodeObject>,
}

impl Watch {
    /// Looks until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let Some(first) = sample(&self.proc_dir) else {
            let file = self.proc_dir.join("meminfo");
            warn!(file = %file.display(), "cannot be read: no pod is evicted when memory gets short");
            return;
        };
        let thresholds = Thresholds::for_machine(first.total_bytes);
        let mut pressure = Pressure::new(thresholds, self.node.clock.now());
        loop {
            let before = pressure.level();
            let seen = sample(&self.proc_dir);
            let level = match seen {
                Some(seen) => {
                    let most = self.node.node.allocatable.memory_bytes;
                    self.node.runtime.bound_unlimited(most, pressure.room_bytes(seen));
                    pressure.observe(self.node.clock.now(), seen)
                }
                None => before,
            };
            if level != before {
                self.announce(level, seen.unwrap_or_default());
            }
            let available = seen.unwrap_or_default().available_bytes;
            if level != before || level == Level::Short {
                self.handle.pressure(level, pressure.threshold_bytes(), available).await;
            }
            let pause = match level {
                Level::Calm => CALM_EVERY,
                Level::Tight => TIGHT_EVERY,
                Level::Short => AFTER_EVICTION,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn announce(&self, level: Level, seen: Sample) {
        let available_mib = seen.available_bytes >> 20;
        match level {
            Level::Calm => info!(available_mib, "memory is sufficient again"),
            Level::Tight => {
                warn!(available_mib, "memory is tight: nothing new is compiled or fetched");
            }
            Level::Short => warn!(available_mib, "memory is short: pods are evicted"),
        }
        self.node.runtime.hold_compiles(level > Level::Calm);
        self.node.fetcher.hold(level > Level::Calm);
        self.object.set_level(level);
    }
}

/// One look; `None` if there is no `meminfo` to read.
fn sample(proc_dir: &Path) -> Option<Sample> {
    let meminfo = fs::read_to_string(proc_dir.join("meminfo")).ok()?;
    let stalls = fs::read_to_string(proc_dir.join("pressure/memory")).ok();
    Some(Sample {
        total_bytes: kibibytes(&meminfo, "MemTotal:")?,
        available_bytes: kibibytes(&meminfo, "MemAvailable:")?,
        stalls: stalls.as_deref().and_then(stall_shares),
    })
}

/// A row of the kernel's `meminfo`, bytes.
pub(super) fn kibibytes(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// `some avg10` and `full avg10` of the kernel's pressure file, hundredths of a percent.
fn stall_shares(text: &str) -> Option<(u32, u32)> {
    let share = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let value = line.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?;
        let (whole, fraction) = value.split_once('.').unwrap_or((value, "0"));
        let hundredths = format!("{fraction:0<2}").get(..2)?.parse::<u32>().ok()?;
        whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(hundredths)
    };
    Some((share("some ")?, share("full ")?))
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const PRESSURE: &str = "some avg10=12.34 avg60=0.00 avg300=0.00 total=100\n\
                            full avg10=5.60 avg60=0.00 avg300=0.00 total=50\n";

    #[test]
    fn the_kernels_files_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(sample(dir.path()), None);
        let meminfo = "MemTotal:         125000 kB\nMemFree: 1 kB\nMemAvailable:      25000 kB\n";
        fs::write(dir.path().join("meminfo"), meminfo).unwrap();
        let seen = sample(dir.path()).unwrap();
        assert_eq!((seen.total_bytes, seen.available_bytes), (128_000_000, 25_600_000));
        assert_eq!(seen.stalls, None, "a kernel without PSI");
        fs::create_dir(dir.path().join("pressure")).unwrap();
        fs::write(dir.path().join("pressure/memory"), PRESSURE).unwrap();
        assert_eq!(sample(dir.path()).unwrap().stalls, Some((1234, 560)));
    }

    #[test]
    fn what_is_no_share_is_none() {
        for text in ["", "some avg10=x\nfull avg10=1.00", "some avg10=1.00", "full avg10=1.00"] {
            assert_eq!(stall_shares(text), None, "{text}");
        }
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let seen = sample(Path::new("/proc")).unwrap();
        assert!(seen.total_bytes >= seen.available_bytes);
    }
}
