//! Folders with walls, as guests of either kind meet them.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::super::cputime::thread_ns;
use super::super::strand;
use super::super::{CompileMode, Grant, PodAccount, Room, Runtime, RuntimeConfig};
use super::lab::{Paper, Trial, eventually, over};
use crate::clock::Clock;
use crate::spec::Exit;
use crate::volume::space;

/// A folder with so many KiB of room.
struct Folder {
    dir: tempfile::TempDir,
    room: Arc<dyn Room>,
}

impl Folder {
    fn new(kib: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let open = std::fs::File::open(dir.path()).unwrap().into();
        let room = space::Room::of_run(&open, kib << 10, Clock::start()).unwrap();
        Self { dir, room: Arc::new(crate::pod::space::Room(room)) }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// How a program sees a write that the wall stopped. WASI says `insufficient-space` either way; the C library of WASI 0.2 keeps nothing
/// of a stream's error but that there was one (EIO).
fn full(image: &str) -> &'static str {
    if image == "files" { "error Uncategorized" } else { "error StorageFull" }
}

/// Runs `files` with the folders mounted at `/a`, `/b`.
async fn files(image: &str, folders: &[&Folder], operations: &str) -> (Exit, Arc<Paper>) {
    let words: Vec<&str> = operations.split_whitespace().collect();
    let mut trial = Trial::of(image, &words).await;
    for (folder, guest) in folders.iter().zip(["/a", "/b"]) {
        trial = trial.mount(folder.path(), guest, false);
        trial.run.mounts.last_mut().unwrap().room = Some(Arc::clone(&folder.room));
    }
    trial.finish().await
}

#[tokio::test]
async fn components_of_0_3_meet_the_same_walls() {
    const FULL: &str = "error insufficient-space";
    for (operations, outcome) in [
        ("fill /a/f 60000", "ok"),
        ("fill /a/f 70000", FULL),
        ("fill /a/f 200000", FULL),
        ("fill /a/f 40000 then append /a/f 10000 then append /a/f 20000", FULL),
        ("resize /a/f 60000 then resize /a/g 10000", FULL),
        ("resize /a/f 60000 then resize /a/f 10 then fill /a/g 50000", "ok"),
        ("fill /a/f 60000 then mkdir /a/d", FULL),
        ("fill /a/f 60000 then symlink f /a/l", FULL),
        ("fill /a/f 60000 then link /a/f /a/g then link /a/f /a/h then list /a", "ok"),
        ("fill /a/f 60000 then delete /a/f then fill /a/g 60000", "ok"),
        ("hold /a/f 50000 then fill /a/g 50000", FULL),
        ("fill /a/f 10 then rename /a/f /b/f", "error cross-device"),
        ("fill /a/f 10 then link /a/f /b/f", "error cross-device"),
        ("fill /a/f 50000 then fill /a/g 10 then rename /a/g /a/f then fill /a/h 50000", "ok"),
    ] {
        let folders = [&Folder::new(64), &Folder::new(64)];
        let (exit, paper) = files("files-p3", &folders, operations).await;
        let text = paper.stdout();
        let last = text.lines().rfind(|line| !line.contains("[flushed]")).unwrap_or_default();
        assert!(last.starts_with(outcome), "{operations}: {exit:?}: {text}");
    }
}

const IMAGES: [&str; 2] = ["files", "files-p1"];

#[tokio::test]
async fn every_way_to_take_space_ends_at_the_wall() {
    for image in IMAGES {
        for (operations, outcome) in [
            ("fill /a/f 60000", "ok filled"),
            ("fill /a/f 70000", full(image)),
            ("fill /a/f 60000 then append /a/f x then append /a/g x", full(image)),
            ("fill /a/f 60000 then mkdir /a/d", "error StorageFull mkdir"),
            ("fill /a/f 60000 then symlink f /a/l", "error StorageFull symlink"),
            ("fill /a/f 50000 then fill /a/f 60000", "ok filled /a/f with 60000"),
            ("fill /a/f 60000 then delete /a/f then fill /a/g 60000", "ok filled /a/g"),
            (
                "fill /a/f 50000 then write /a/g x then rename /a/g /a/f then fill /a/h 50000",
                "ok filled /a/h",
            ),
        ] {
            let (_, paper) = files(image, &[&Folder::new(64)], operations).await;
            let text = paper.stdout();
            let last = text.lines().rfind(|line| !line.contains("[flushed]")).unwrap_or_default();
            assert!(last.starts_with(outcome), "{image}: {operations}: {text}");
        }
    }
}

/// Something there is no use in opening, and what a module is told of it.
#[tokio::test]
async fn what_is_neither_a_file_nor_a_folder_is_not_opened_and_nobody_waits() {
    let dir = tempfile::tempdir().unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let (cwd, fifo) = (rustix::fs::CWD, dir.path().join("fifo"));
    rustix::fs::mknodat(cwd, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    std::os::unix::fs::symlink("fifo", dir.path().join("link")).unwrap();
    let said = |image: &str, operation: &str| {
        let words: Vec<&str> = operation.split_whitespace().collect();
        let (image, words, path) = (image.to_owned(), words.join(" "), dir.path().to_owned());
        async move {
            let words: Vec<&str> = words.split(' ').collect();
            let trial = Trial::of(&image, &words).await;
            let trial = trial.mount(&path, "/a", false).mount(Path::new("/dev"), "/dev", true);
            let (exit, paper) = trial.finish().await;
            (exit, paper.stdout())
        }
    };
    for image in IMAGES {
        for operation in [
            "read /a/fifo",
            "append /a/fifo x",
            "write /a/fifo x",
            "read /a/link",
            "read /a/socket",
            "touch /a/fifo",
            "touch /a/link",
            "read /dev/null",
        ] {
            let (exit, text) = said(image, operation).await;
            assert_eq!(exit, Exit::Code(1), "{image}: {operation}: {text}");
            // `no-such-device` (ENXIO), for which the standard library has no word.
            assert!(text.starts_with("error Uncategorized"), "{image}: {operation}: {text}");
        }
        let (_, text) = said(image, "stat /a/fifo then list /a").await;
        assert!(text.starts_with("ok other 0\nok fifo link socket"), "{image}: {text}");
    }
    for operation in
        ["open /a/fifo", "open /a/link", "open /a/socket", "touch /a/fifo", "open /dev/null"]
    {
        let (_, text) = said("files-p3", operation).await;
        assert!(text.starts_with("error no-such-device"), "{operation}: {text}");
    }
    let (_, text) = said("files-p3", "list /a").await;
    assert!(text.starts_with("fifo link socket\nok"), "{text}");
}

/// Its disk does not answer.
#[derive(Debug)]
struct Stuck {
    place: std::path::PathBuf,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Room for Stuck {
    fn place(&self) -> &Path {
        &self.place
    }

    fn take(&self, _: u64) -> Grant {
        Grant::Unsure
    }

    fn take_measured(&self, _: u64) -> bool {
        let open = self.gate.0.lock().unwrap();
        *self.gate.1.wait_while(open, |open| !*open).unwrap()
    }

    fn freed(&self) {}

    fn opened(&self, _: &Arc<std::fs::File>) {}

    fn cost(&self, size: u64) -> u64 {
        size
    }
}

/// Twenty runs of a module wait for a server that does not answer: four threads hang, and all others start and work on.
#[tokio::test]
async fn a_module_whose_server_hangs_waits_alone() {
    let cache = tempfile::tempdir().unwrap();
    let mut config = RuntimeConfig::new(cache.path().join("cache"));
    config.compile = CompileMode::InProcess;
    config.guest_threads = Some(2);
    // Whatever the temporary folder is on asks somebody else, for this runtime.
    config.network_file_systems = vec![kind_of(cache.path())];
    let runtime = Runtime::new(config).unwrap();
    let file = super::lab::module(super::lab::guest_path("files"));
    let artifact = runtime.prepare(file, false).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let room = || {
        let (place, gate) = (dir.path().to_owned(), Arc::clone(&gate));
        Arc::new(Stuck { place, gate }) as Arc<dyn Room>
    };
    let pod = PodAccount::unlimited();
    let mut stuck = Vec::new();
    for n in 0..20 {
        let trial = Trial::new(artifact.clone(), &["write", &format!("/a/{n}"), "x"]);
        let mut trial = trial.mount(dir.path(), "/a", false);
        trial.run.mounts[0].room = Some(room());
        trial.run.pod = pod.clone();
        let runtime = runtime.clone();
        // The fifth waits for its folder to be opened: as a module does that is started again.
        stuck
            .push(tokio::spawn(async move { over(runtime.start(trial.run).await.unwrap()).await }));
    }
    // Another pod, on the same kind of file system; and one without any.
    for mounted in [true, false] {
        let other = tempfile::tempdir().unwrap();
        let words: &[&str] = if mounted { &["write", "/a/f", "x"] } else { &["stat", "/"] };
        let trial = Trial::new(artifact.clone(), words);
        let trial = if mounted { trial.mount(other.path(), "/a", false) } else { trial };
        let handle = runtime.start(trial.run).await.unwrap();
        assert!(matches!(over(handle).await, Exit::Code(_)));
        assert_eq!(other.path().join("f").exists(), mounted);
    }
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    for run in stuck {
        assert_eq!(run.await.unwrap(), Exit::Code(0));
    }
}

/// What the host does for a module on threads of the module's own, whoever asked for it.
#[tokio::test]
async fn work_on_a_modules_own_threads_is_its_time() {
    const WORK: Duration = Duration::from_millis(30);
    fn compute() {
        let end = thread_ns() + u64::try_from(WORK.as_nanos()).unwrap();
        while thread_ns() < end {
            std::hint::black_box(());
        }
    }
    let cache = tempfile::tempdir().unwrap();
    let mut config = RuntimeConfig::new(cache.path().join("cache"));
    config.compile = CompileMode::InProcess;
    config.network_file_systems = vec![kind_of(cache.path())];
    let runtime = Runtime::new(config).unwrap();
    let sleeper = cache.path().join("sleeper.wasm");
    std::fs::write(&sleeper, wat::parse_str(super::stacks::at_rest(1)).unwrap()).unwrap();
    let artifact = runtime.prepare(super::lab::module(sleeper), false).await.unwrap();
    let trial = Trial::new(artifact, &[]).mount(cache.path(), "/a", false);
    let handle = runtime.start(trial.run).await.unwrap();
    let run = Arc::clone(&handle.control.0);
    assert!(run.files.is_some());
    let used = || handle.control.usage().cpu_time;
    strand::spawn(&run, async {
        tokio::task::spawn_blocking(compute).await.unwrap();
    });
    eventually("its time is counted", || used() >= WORK).await;
    handle.control.kill();
    assert_eq!(over(handle).await, Exit::Killed);
}

/// The kind of file system that a folder is on.
fn kind_of(dir: &Path) -> String {
    let open = std::fs::File::open(dir).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&open);
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).unwrap().trim();
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.split(' ').next() == Some(id)).unwrap();
    line.split(" - ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_file_stays_in_the_folder_that_pays_for_it() {
    for image in IMAGES {
        let folders = [&Folder::new(64), &Folder::new(64)];
        let (_, paper) =
            files(image, &folders, "write /a/f x then rename /a/f /b/f then rename /a/f /a/g")
                .await;
        let text = paper.stdout();
        assert!(text.contains("error CrossesDevices rename /a/f /b/f"), "{image}: {text}");
        assert!(text.contains("ok renamed /a/f to /a/g"), "{image}: {text}");
    }
}

#[tokio::test]
async fn many_small_files_end_at_the_wall_too() {
    for image in IMAGES {
        let folder = Folder::new(64);
        let operations: Vec<String> = (0..20).map(|n| format!("write /a/{n} x")).collect();
        let (exit, paper) = files(image, &[&folder], &operations.join(" then ")).await;
        assert_eq!(exit, Exit::Code(1));
        let made = paper.stdout().matches("ok wrote").count();
        assert_eq!(made, 12, "{image}: a block and a name each: {}", paper.stdout());
    }
}
