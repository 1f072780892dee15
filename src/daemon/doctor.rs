//! What was found on this machine, what is chosen from it, and why: the report of `podling doctor`.
//!
//! Owns: the probes of a whole machine, and the findings, a pure function of them. Not: the choices themselves (`runtime::engine`,
//! `admission`), which this only tells of, nor printing (`cli`).
//!
//! Nothing is written and no daemon is needed, so it can be asked on a board where the daemon does not start.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::admission::Thresholds;
use crate::daemon::config::Config;
use crate::daemon::pressure;
use crate::runtime::{Backend, EngineSettings, Machine, PoolPlan};

/// Below this many open files a node of a hundred pods may run out: each volume, socket and module file takes one.
const FILES_FEW: u64 = 1024;

/// What a pod of two small modules takes of the host's heap, KiB (`cargo bench --bench node`, hundred pods: 128), rounded up.
const POD_HEAP_KIB: usize = 160;

/// Pages that each module of it touches at least: two of its memory, two of its stack.
const MODULE_PAGES: usize = 4;

/// Addresses that the daemon takes without any module: program, threads, heap.
const DAEMON_ADDRESSES: u64 = 200 << 20;

/// Free space below which downloads and records soon fail, bytes.
const DISK_LOW: u64 = 32 << 20;

/// Fewer modules at once than this are worth a word; more than that are as good as unlimited.
const MODULES_FEW: u64 = 100;
const MODULES_MANY: u64 = 4096;

/// How a finding is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, with something less or slower than elsewhere.
    Note,
    /// Does not work, or will soon not.
    Problem,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem => "PROBLEM",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub what: &'static str,
    pub level: Level,
    /// What is there.
    pub found: String,
    /// What follows from it: the choice that was made, or what to do.
    pub hence: String,
}

/// What the findings are made from.
#[derive(Clone, Debug)]
pub struct Facts {
    pub machine: Machine,
    pub kernel: String,
    pub page_bytes: usize,
    /// Bytes that the kernel still promises (`CommitLimit` less `Committed_AS`); counts under strict overcommit.
    pub promised_left: Option<u64>,
    pub open_files_max: Option<u64>,
    /// Free bytes where the node's state lies; `None`: that place cannot be looked at.
    pub state: (PathBuf, Option<u64>),
    /// Where secrets and `medium: Memory` lie; `None`: there is no memory file system.
    pub memory_dir: Option<PathBuf>,
    /// Whether the kernel tells of stalls.
    pub psi: bool,
    pub guest_threads: Option<usize>,
}

impl Facts {
    /// Looks at the machine we are on.
    #[must_use]
    pub fn probe(config: &Config, memory_dir: Option<PathBuf>) -> Self {
        let uname = rustix::system::uname();
        let state = config.state_dir.clone();
        Self {
            machine: Machine::probe(),
            kernel: uname.release().to_string_lossy().into_owned(),
            page_bytes: rustix::param::page_size(),
            promised_left: promised_left(&config.proc_dir),
            open_files_max: rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum,
            state: (state.clone(), free_bytes(&state)),
            memory_dir,
            psi: fs::metadata(config.proc_dir.join("pressure/memory")).is_ok(),
            guest_threads: config.guest_threads,
        }
    }
}

fn promised_left(proc_dir: &Path) -> Option<u64> {
    let meminfo = fs::read_to_string(proc_dir.join("meminfo")).ok()?;
    let of = |key| pressure::kibibytes(&meminfo, key);
    Some(of("CommitLimit:")?.saturating_sub(of("Committed_AS:")?))
}

/// Free space for us on the file system that `path`, or the nearest folder above it that exists, lies on.
fn free_bytes(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|folder| folder.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// The findings, in the order of reading.
#[must_use]
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let compiler = cfg!(feature = "compiler");
    vec![
        machine(facts),
        memories(&facts.machine),
        instances(&facts.machine),
        costs(facts),
        code(&facts.machine, compiler),
        threads(facts),
        stalls(facts),
        files(facts),
        state(facts),
        secrets(facts),
    ]
}

fn machine(facts: &Facts) -> Finding {
    let Facts { machine, kernel, page_bytes, .. } = facts;
    let small = machine.ram_bytes < 64 << 20;
    Finding {
        what: "machine",
        level: if small { Level::Note } else { Level::Ok },
        found: format!("{machine}, pages of {} KiB, Linux {kernel}", page_bytes >> 10),
        hence: if small {
            "little memory: compile elsewhere and ship compiled modules".to_owned()
        } else {
            "enough for pods".to_owned()
        },
    }
}

fn memories(machine: &Machine) -> Finding {
    let settings = EngineSettings::choose(machine, Backend::Auto);
    let why = if settings.is_roomy() {
        "4 GiB of addresses for each memory: no bounds checks"
    } else if machine.address_space_limit.is_some() {
        "ulimit -v is set: small reservations and explicit bounds checks, up to 20 % slower"
    } else if machine.strict_overcommit {
        "overcommit is off: small reservations and explicit bounds checks, up to 20 % slower"
    } else if machine.address_bits < 47 {
        "few address bits: small reservations and explicit bounds checks, up to 20 % slower"
    } else {
        "little memory: small reservations and explicit bounds checks, up to 20 % slower"
    };
    let full = settings.is_roomy();
    let found = match (machine.address_space_limit, machine.strict_overcommit) {
        (Some(limit), _) => format!("ulimit -v {} MiB", limit >> 20),
        (None, true) => "vm.overcommit_memory=2".to_owned(),
        (None, false) => format!("{}-bit addresses, no limit", machine.address_bits),
    };
    Finding {
        what: "linear memories",
        level: if full { Level::Ok } else { Level::Note },
        found,
        hence: format!(
            "{} MiB reserved each and {} KiB of guard, made when a module starts; {why}",
            settings.reservation >> 20,
            settings.guard >> 10
        ),
    }
}

/// Where the instances come from that HTTP handlers have for each request.
fn instances(machine: &Machine) -> Finding {
    let settings = EngineSettings::choose(machine, Backend::Auto);
    let plan = PoolPlan::choose(machine, &settings);
    Finding {
        what: "instances",
        // Nothing fails without a pool, and the line before has told what the machine lacks.
        level: Level::Ok,
        found: "one for each request of a handler of wasi:http 0.2".to_owned(),
        hence: match plan {
            Ok(plan) => plan.to_string(),
            Err(why) => format!("made on demand, which takes longer: {why}"),
        },
    }
}

/// What each module takes that the machine may be short of: addresses, promised memory, pages.
fn costs(facts: &Facts) -> Finding {
    let Facts { machine, page_bytes, promised_left, .. } = facts;
    let settings = EngineSettings::choose(machine, Backend::Auto);
    let stack = settings.run_stack_bytes() as u64;
    let addresses = settings.reservation + 2 * settings.guard + stack;
    let all = 1_u64.checked_shl(machine.address_bits).unwrap_or(u64::MAX);
    let room = machine.address_space_limit.unwrap_or(all).saturating_sub(DAEMON_ADDRESSES);
    let by_addresses = room / addresses;
    // Under strict overcommit the kernel counts a stack as used before it is.
    let by_promise = promised_left.filter(|_| machine.strict_overcommit).map(|left| left / stack);
    let modules = by_promise.unwrap_or(u64::MAX).min(by_addresses);
    let page_kib = page_bytes >> 10;
    let pod_kib = POD_HEAP_KIB + 2 * MODULE_PAGES * page_kib;
    let few = modules < MODULES_FEW;
    let for_what = if by_promise.is_some_and(|n| n < by_addresses) {
        "the memory that the kernel still promises (CommitLimit) is enough"
    } else {
        "addresses are enough"
    };
    Finding {
        what: "modules' cost",
        level: if few || page_kib > 4 { Level::Note } else { Level::Ok },
        found: format!(
            "a pod of two small modules: about {pod_kib} KiB beside their memories, in pages of {page_kib} KiB"
        ),
        hence: format!(
            "{} MiB of addresses for each module, {} of them its stack: {for_what} for {}",
            addresses >> 20,
            stack >> 20,
            if modules < MODULES_MANY {
                format!("about {modules} modules")
            } else {
                "any number".to_owned()
            }
        ),
    }
}

fn code(machine: &Machine, compiler: bool) -> Finding {
    let settings = EngineSettings::choose(machine, Backend::Auto);
    let how = if settings.is_pulley() { "interpreted (Pulley)" } else { "native (Cranelift)" };
    let (level, hence) = match (compiler, settings.is_pulley()) {
        (true, false) => (Level::Ok, "modules are compiled here, once, by a child of low priority"),
        (true, true) => (
            Level::Note,
            "no code generator for this processor: computing is 10 to 45 times slower, input and output is not",
        ),
        (false, _) => {
            (Level::Note, "this build has no compiler: only modules compiled ahead of time run")
        }
    };
    Finding {
        what: "modules' code",
        level,
        found: format!("{how} for {}", settings.target),
        hence: hence.to_owned(),
    }
}

fn threads(facts: &Facts) -> Finding {
    let cores = facts.machine.cores;
    let (level, hence) = match facts.guest_threads {
        Some(n) => (Level::Ok, format!("guestThreads of the configuration: {n}")),
        None => (Level::Ok, format!("{} threads run modules", cores.max(2))),
    };
    Finding { what: "threads", level, found: format!("{cores} cores"), hence }
}

fn stalls(facts: &Facts) -> Finding {
    let threshold = Thresholds::for_machine(facts.machine.ram_bytes).available_bytes >> 20;
    let (level, found) = if facts.psi {
        (Level::Ok, "the kernel tells of stalls (PSI)")
    } else {
        (Level::Note, "no PSI: only MemAvailable is looked at")
    };
    Finding {
        what: "memory pressure",
        level,
        found: found.to_owned(),
        hence: format!("pods are evicted below {threshold} MiB available"),
    }
}

fn files(facts: &Facts) -> Finding {
    let (level, found) = match facts.open_files_max {
        Some(n) if n < FILES_FEW => (Level::Problem, n.to_string()),
        Some(n) => (Level::Ok, n.to_string()),
        None => (Level::Ok, "no limit".to_owned()),
    };
    let hence = if level == Level::Problem {
        "raise the hard limit (LimitNOFILE= of the service): pods will fail to start"
    } else {
        "raised to this at start"
    };
    Finding { what: "open files", level, found, hence: hence.to_owned() }
}

fn state(facts: &Facts) -> Finding {
    let (path, free) = &facts.state;
    let (level, found, hence) = match free {
        None => {
            (Level::Problem, "cannot be looked at".to_owned(), "nothing would survive a restart")
        }
        Some(free) if *free < DISK_LOW => (
            Level::Problem,
            format!("{} MiB free", free >> 20),
            "make room: changes and downloads will be refused",
        ),
        Some(free) => {
            (Level::Ok, format!("{} MiB free", free >> 20), "records and modules are kept here")
        }
    };
    Finding {
        what: "state",
        level,
        found: format!("{}: {found}", path.display()),
        hence: hence.to_owned(),
    }
}

fn secrets(facts: &Facts) -> Finding {
    match &facts.memory_dir {
        Some(dir) => Finding {
            what: "memory volumes",
            level: Level::Ok,
            found: dir.display().to_string(),
            hence: "secrets and `medium: Memory` never touch flash".to_owned(),
        },
        None => Finding {
            what: "memory volumes",
            level: Level::Note,
            found: "no memory file system that is ours".to_owned(),
            hence: "secrets and `medium: Memory` lie on disk, in private folders; set XDG_RUNTIME_DIR or RuntimeDirectory=".to_owned(),
        },
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn board() -> Facts {
        Facts {
            machine: Machine {
                ram_bytes: 8 << 30,
                address_bits: 47,
                address_space_limit: None,
                strict_overcommit: false,
                cores: 4,
            },
            kernel: "6.1.0".into(),
            page_bytes: 4096,
            promised_left: Some(4 << 30),
            open_files_max: Some(65536),
            state: ("/var/lib/podling".into(), Some(900 << 20)),
            memory_dir: Some("/run/podling".into()),
            psi: true,
            guest_threads: None,
        }
    }

    fn find(facts: &Facts, what: &str) -> Finding {
        let mut all = examine(facts).into_iter();
        all.find(|finding| finding.what == what).expect("each thing is always told")
    }

    #[test]
    fn a_roomy_machine_has_nothing_to_complain_of() {
        let worst = examine(&board()).iter().map(|f| (f.level, f.what)).max();
        let expected = if cfg!(feature = "compiler") { Level::Ok } else { Level::Note };
        assert_eq!(worst.map(|(level, _)| level), Some(expected), "{worst:?}");
    }

    #[test]
    fn each_small_board_is_told_what_it_costs() {
        let base = board().machine;
        let rows = [
            (Machine { address_space_limit: Some(512 << 20), ..base }, "ulimit -v is set", "4 MiB"),
            (Machine { strict_overcommit: true, ..base }, "overcommit is off", "64 MiB"),
            (Machine { address_bits: 39, ..base }, "few address bits", "64 MiB"),
            (Machine { ram_bytes: 256 << 20, ..base }, "little memory", "64 MiB"),
            (
                Machine { address_bits: 32, ram_bytes: 128 << 20, ..base },
                "few address bits",
                "10 MiB",
            ),
        ];
        for (machine, why, reserved) in rows {
            let finding = find(&Facts { machine, ..board() }, "linear memories");
            assert_eq!(finding.level, Level::Note, "{finding:?}");
            assert!(
                finding.hence.contains(why) && finding.hence.starts_with(reserved),
                "{finding:?}"
            );
            let instances = find(&Facts { machine, ..board() }, "instances");
            assert!(instances.hence.starts_with("made on demand"), "{instances:?}");
        }
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_roomy_machine_is_told_what_its_pool_keeps() {
        let finding = find(&board(), "instances");
        let pool =
            finding.hence.starts_with("a pool of 128 slots") && finding.hence.contains("KiB stay");
        let interpreter = EngineSettings::choose(&board().machine, Backend::Auto).is_pulley();
        assert!(pool || interpreter, "{finding:?}");
    }

    #[test]
    fn what_each_module_costs_is_told_for_every_kind_of_machine() {
        let base = board().machine;
        let strict = Machine { strict_overcommit: true, ram_bytes: 192 << 20, ..base };
        let rows = [
            (board(), Level::Ok, "about 192 KiB", "for any number"),
            (Facts { page_bytes: 16 << 10, ..board() }, Level::Note, "about 288 KiB", "any number"),
            (
                Facts { page_bytes: 64 << 10, ..board() },
                Level::Note,
                "pages of 64 KiB",
                "any number",
            ),
            (
                Facts {
                    machine: Machine { address_space_limit: Some(512 << 20), ..base },
                    ..board()
                },
                Level::Note,
                "about 192 KiB",
                "1 of them its stack: addresses are enough for about 60 modules",
            ),
            (
                Facts { machine: Machine { address_bits: 39, ..base }, ..board() },
                Level::Ok,
                "about 192 KiB",
                "65 MiB of addresses for each module",
            ),
            (
                Facts { machine: strict, promised_left: Some(60 << 20), ..board() },
                Level::Note,
                "about 192 KiB",
                "the memory that the kernel still promises (CommitLimit) is enough for about 60",
            ),
            // Promises do not count where the kernel breaks them.
            (
                Facts { promised_left: Some(0), ..board() },
                Level::Ok,
                "about 192 KiB",
                "for any number",
            ),
            (
                Facts {
                    machine: Machine { address_bits: 32, ram_bytes: 128 << 20, ..base },
                    ..board()
                },
                Level::Ok,
                "about 192 KiB",
                "addresses are enough for about 350 modules",
            ),
        ];
        for (facts, level, found, hence) in rows {
            let finding = find(&facts, "modules' cost");
            assert_eq!(finding.level, level, "{finding:?}");
            let told = (&finding.found, &finding.hence);
            assert!(told.0.contains(found) && told.1.contains(hence), "{hence}: {finding:?}");
        }
    }

    #[test]
    fn what_will_fail_is_a_problem() {
        let few = Facts { open_files_max: Some(256), ..board() };
        assert_eq!(find(&few, "open files").level, Level::Problem);
        let full = Facts { state: ("/var".into(), Some(1 << 20)), ..board() };
        assert_eq!(find(&full, "state").level, Level::Problem);
        let lost = Facts { state: ("/var".into(), None), ..board() };
        assert_eq!(find(&lost, "state").level, Level::Problem);
    }

    #[test]
    fn what_is_missing_is_noted() {
        assert_eq!(find(&Facts { psi: false, ..board() }, "memory pressure").level, Level::Note);
        assert_eq!(
            find(&Facts { memory_dir: None, ..board() }, "memory volumes").level,
            Level::Note
        );
    }
}
