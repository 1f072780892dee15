//! Threads for file work that asks another machine: a few for each module that has such a folder, and its own.
//!
//! Owns: which folders those are, and a module's threads for them, over all its runs: a server that has stopped answering holds a thread
//! in the kernel, beyond the end of the run. Is not: file work on disks of this machine, which is done on the guest's own thread.
//!
//! ```text
//!  all folders local ──► the guest's thread; opening them: the shared threads (start.rs)
//!  one asks others   ──► all file work of the module, and opening its folders: its own ≤ 4 threads, a queue behind them
//! ```
//! So whoever waits for a dead server waits alone. What these threads compute (the kernel's copying for the most part) is the module's own CPU
//! time: their clocks are read at each of its turns and at its end, so whatever else counts work leaves theirs alone. Limits: [`THREADS_MAX`] and one that drives timers, for each such module.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use super::cputime::ThreadClock;

/// Calls of one module that ask another machine at the same time; more wait for these. As many as hide the way to a server and back, few
/// enough that a hundred modules with a dead server do no harm.
const THREADS_MAX: usize = 4;

/// How long such a thread waits for more work.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// File systems whose files are another machine's, or another process's, as `/proc/self/mountinfo` calls them; `fuse` stands for all its
/// kinds (`fuse.sshfs`).
const KINDS: [&str; 16] = [
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse", "fuseblk", "gfs2", "lustre", "ncpfs",
    "nfs", "nfs4", "ocfs2", "smb3", "virtiofs",
];

/// For each folder, whether its file system asks somebody else. Asks nobody itself: `statfs` of a folder whose server is dead would not
/// return. What is unknown counts as local. `more` are kinds beside the known ones.
pub(crate) fn ask_others<'a>(
    dirs: impl Iterator<Item = BorrowedFd<'a>>,
    more: &[String],
) -> Vec<bool> {
    let mut table: Option<BTreeMap<u64, String>> = None;
    dirs.map(|dir| {
        let table = table.get_or_insert_with(|| {
            let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
            kinds(&String::from_utf8_lossy(&text))
        });
        let kind = mount_id(dir).and_then(|id| table.get(&id));
        kind.is_some_and(|kind| asks(kind, more))
    })
    .collect()
}

fn asks(kind: &str, more: &[String]) -> bool {
    let family = kind.split_once('.').map_or(kind, |(family, _)| family);
    KINDS.contains(&kind) || family == "fuse" || more.iter().any(|other| other == kind)
}

/// Kinds of file system by the number of their mount (proc_pid_mountinfo(5)).
fn kinds(table: &str) -> BTreeMap<u64, String> {
    let line = |line: &str| {
        let id = line.split(' ').next()?.parse().ok()?;
        let kind = line.split(' ').skip_while(|field| *field != "-").nth(1)?;
        Some((id, kind.to_owned()))
    };
    table.lines().filter_map(line).collect()
}

fn mount_id(dir: BorrowedFd<'_>) -> Option<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", dir.as_raw_fd())).ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    line.trim().parse().ok()
}

/// The threads of a pod's modules, by the names of their runs.
#[derive(Debug, Default)]
pub(crate) struct PodFileThreads(Mutex<HashMap<String, Arc<FileThreads>>>);

impl PodFileThreads {
    /// Those of one module, made if there are none.
    ///
    /// # Errors
    /// The machine has no threads left.
    pub(crate) fn of(&self, name: &str) -> io::Result<Arc<FileThreads>> {
        let mut modules = lock(&self.0);
        if let Some(threads) = modules.get(name) {
            return Ok(Arc::clone(threads));
        }
        let threads = Arc::new(FileThreads::new()?);
        modules.insert(name.to_owned(), Arc::clone(&threads));
        Ok(threads)
    }
}

/// One module's.
#[derive(Debug)]
pub(crate) struct FileThreads {
    handle: Handle,
    runtime: Mutex<Option<Runtime>>,
    clocks: Arc<Clocks>,
}

/// What the threads have computed.
#[derive(Debug, Default)]
struct Clocks {
    /// Each thread's clock, and how far it has been counted.
    list: Mutex<Vec<(ThreadClock, u64)>>,
    /// Of threads that have ended, nanoseconds not counted yet.
    rest: AtomicU64,
}

thread_local! {
    /// This thread's clock is read.
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

/// Whether what this thread computes is counted by its clock.
pub(crate) fn is_counted_here() -> bool {
    COUNTED.get()
}

impl Clocks {
    fn thread_starts(&self) {
        let clock = ThreadClock::mine();
        COUNTED.set(true);
        lock(&self.list).push((clock, clock.ns().unwrap_or(0)));
    }

    fn thread_ends(&self) {
        let clock = ThreadClock::mine();
        let mut list = lock(&self.list);
        if let Some(at) = list.iter().position(|(known, _)| *known == clock) {
            let (_, counted) = list.swap_remove(at);
            let left = clock.ns().unwrap_or(counted).saturating_sub(counted);
            self.rest.fetch_add(left, Ordering::Relaxed);
        }
    }

    fn take(&self) -> u64 {
        let mut sum = self.rest.swap(0, Ordering::Relaxed);
        for (clock, counted) in &mut *lock(&self.list) {
            let now = clock.ns().unwrap_or(*counted);
            sum += now.saturating_sub(*counted);
            *counted = now;
        }
        sum
    }
}

impl FileThreads {
    fn new() -> io::Result<Self> {
        let clocks = Arc::<Clocks>::default();
        let (starting, ending) = (Arc::clone(&clocks), Arc::clone(&clocks));
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_start(move || starting.thread_starts())
            .on_thread_stop(move || ending.thread_ends())
            .max_blocking_threads(THREADS_MAX)
            .thread_keep_alive(KEEP_ALIVE)
            .thread_name("guest-files")
            .enable_all()
            .build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Mutex::new(Some(runtime)), clocks })
    }

    /// CPU time of all its threads since the last call, nanoseconds.
    pub(crate) fn take_cpu_ns(&self) -> u64 {
        self.clocks.take()
    }
}

impl Drop for FileThreads {
    fn drop(&mut self) {
        // Not waited for: some may hang. They end when the kernel lets them go.
        if let Some(runtime) = lock(&self.runtime).take() {
            runtime.shutdown_background();
        }
    }
}

/// Does `work` so that what it leaves to blocking threads is done by these; `None`: by the shared ones.
pub(crate) async fn within<F: Future>(threads: Option<Arc<FileThreads>>, work: F) -> F::Output {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(move |cx| {
        let _entered = threads.as_ref().map(|threads| threads.handle.enter());
        work.as_mut().poll(cx)
    })
    .await
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::os::fd::AsFd as _;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_file_system_is_known_by_its_kind_and_nobody_is_asked() {
        let table = kinds(
            "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n\
             40 35 0:50 / /srv rw shared:3 propagate_from:2 - nfs4 server:/ rw\n\
             41 35 0:51 / /home/\\040x rw - fuse.sshfs a@b:/ rw\ngarbage\n",
        );
        assert_eq!(table.len(), 3);
        let asks = |id: u64, more: &[String]| super::asks(&table[&id], more);
        assert!(!asks(36, &[]) && asks(40, &[]) && asks(41, &[]));
        assert!(asks(36, &["ext3".to_owned()]));
        let here = std::fs::File::open("/proc/self").unwrap();
        assert_eq!(ask_others(std::iter::once(here.as_fd()), &[]), [false]);
        assert_eq!(ask_others(std::iter::once(here.as_fd()), &["proc".to_owned()]), [true]);
    }

    /// Dropping this opens it.
    struct Gate(Arc<(Mutex<bool>, std::sync::Condvar)>);

    impl Gate {
        fn new() -> Self {
            Self(Arc::default())
        }

        fn wait(&self) -> impl FnOnce() + Send + 'static {
            let gate = Arc::clone(&self.0);
            move || {
                let closed = gate.0.lock().unwrap();
                drop(gate.1.wait_while(closed, |open| !*open).unwrap());
            }
        }
    }

    impl Drop for Gate {
        fn drop(&mut self) {
            *self.0.0.lock().unwrap() = true;
            self.0.1.notify_all();
        }
    }

    #[tokio::test]
    async fn a_module_that_hangs_has_its_own_threads_hang_over_all_its_runs() {
        let gate = Gate::new();
        let (bad, good) = (PodFileThreads::default(), PodFileThreads::default());
        let hanging = Arc::new(AtomicUsize::new(0));
        for _ in 0..50 {
            // Each a run of its own.
            let (wait, count) = (gate.wait(), Arc::clone(&hanging));
            let threads = bad.of("ns/bad/main").unwrap();
            within(Some(threads), async move {
                // Nobody waits for it: it hangs.
                drop(tokio::task::spawn_blocking(move || {
                    count.fetch_add(1, Ordering::SeqCst);
                    wait();
                }));
            })
            .await;
        }
        let works = async {
            for threads in [good.of("ns/good/main"), bad.of("ns/bad/sidecar")] {
                let work = async { tokio::task::spawn_blocking(|| 7).await.unwrap() };
                assert_eq!(within(Some(threads.unwrap()), work).await, 7);
            }
            assert_eq!(tokio::task::spawn_blocking(|| 7).await.unwrap(), 7);
        };
        tokio::time::timeout(Duration::from_secs(60), works).await.unwrap();
        assert!(hanging.load(Ordering::SeqCst) <= THREADS_MAX);
    }
}
