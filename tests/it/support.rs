//! A node of one's own for a test: the real daemon in a temporary folder, and the command line to talk to it.

#![allow(unreachable_pub, reason = "shared by the files of this binary")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take on a slow and busy machine. A test that waits so long has failed.
pub const DEADLINE: Duration = Duration::from_secs(240);

/// How long a program that has ended may take to be heard to its end.
const LAST_WORDS: Duration = Duration::from_secs(20);

/// The program under test: the one that was built with the tests, or `PODLING_TEST_BINARY` (a release build, say).
pub fn podling() -> Command {
    let ours = || env!("CARGO_BIN_EXE_podling").into();
    let mut command = Command::new(std::env::var_os("PODLING_TEST_BINARY").unwrap_or_else(ours));
    // No setting of this machine's user may leak in.
    command.env_remove("PODLING_SOCKET").env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// A built guest.
pub fn guest(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("wasm-examples/built");
    path.join(format!("{name}.wasm"))
}

/// An example manifest.
pub fn manifest(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests");
    let text = std::fs::read_to_string(dir.join(name)).unwrap();
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("wasm-examples/built");
    text.replace("file:../wasm-examples/built", &format!("file:{}", built.display()))
}

/// A port that nobody has now, and that nobody is given by chance before the test uses it: below those that the kernel hands
/// out (32768), and never the same twice in this process.
pub fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(std::process::id() * 61));
    let offered = || 10_000 + u16::try_from(NEXT.fetch_add(1, Ordering::Relaxed) % 19_000).unwrap();
    let free = |port: &u16| {
        let here = (Ipv4Addr::UNSPECIFIED, *port);
        TcpListener::bind(here).is_ok() && UdpSocket::bind(here).is_ok()
    };
    std::iter::repeat_with(offered).take(1000).find(free).unwrap()
}

/// Waits until `condition` gives something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < DEADLINE {
        if let Some(found) = condition() {
            return found;
        }
        // Between two looks; what is waited for is the condition.
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("waited {DEADLINE:?} for {what}");
}

/// One HTTP GET; the status and the body, or `None` if there was no proper answer.
pub fn http_get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = vec![];
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let body = answer.split_once("\r\n\r\n")?.1.to_owned();
    Some((status, body))
}

/// The body of a GET on a Unix socket; `None` until somebody answers.
pub fn http_get_socket(socket: &Path, path: &str) -> Option<String> {
    let mut stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: podling\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some(body.to_owned())
}

/// A running program whose output is collected.
pub struct Running {
    pub child: Child,
    output: Arc<Mutex<String>>,
    /// Its streams that have not ended: what a program says last comes after its end.
    streams: Arc<AtomicUsize>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        let streams = Arc::new(AtomicUsize::new(2));
        collect(child.stdout.take().unwrap(), Arc::clone(&output), Arc::clone(&streams));
        collect(child.stderr.take().unwrap(), Arc::clone(&output), Arc::clone(&streams));
        Self { child, output, streams }
    }

    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Waits for a text in its output.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        let start = Instant::now();
        while !self.output().contains(text) {
            let ended = self.child.try_wait().unwrap().filter(|_| self.has_said_all());
            let late = start.elapsed() > DEADLINE;
            assert!(
                !late && (ended.is_none() || self.output().contains(text)),
                "no {text:?} (ended: {ended:?}) in:\n{}",
                self.output()
            );
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end, and for what it said last, and returns the exit code.
    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        let child = &mut self.child;
        let status = wait_for("the program to end", || child.try_wait().unwrap());
        let end = Instant::now();
        // A child that it has left behind may keep its streams open for good.
        while !self.has_said_all() && end.elapsed() < LAST_WORDS {
            std::thread::sleep(Duration::from_millis(5));
        }
        status.code().unwrap_or(-1)
    }

    fn has_said_all(&self) -> bool {
        self.streams.load(Ordering::SeqCst) == 0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- output of the program ----\n{}", self.output());
        }
    }
}

fn collect(
    mut from: impl Read + Send + 'static,
    into: Arc<Mutex<String>>,
    streams: Arc<AtomicUsize>,
) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        streams.fetch_sub(1, Ordering::SeqCst);
    });
}

/// What the kernel of a machine with memory to spare says.
pub const PLENTY: &str = "MemTotal: 1000000 kB\nMemAvailable: 900000 kB\n";

/// A node with everything in a temporary folder. The cache of compiled code is shared by all tests: it is keyed by content.
pub struct Node {
    dir: TempDir,
    daemon: Option<Running>,
    /// For the daemon's environment.
    pub env: Vec<(&'static str, String)>,
}

impl Node {
    /// Starts a daemon and waits until it answers.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// The same with a configuration file; `DIR` in it stands for the node's folder.
    pub fn start_with(configuration: &str) -> Self {
        let mut node = Self::prepare(configuration);
        node.boot();
        node
    }

    /// The same, not started yet.
    pub fn prepare(configuration: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("manifests")).unwrap();
        let mut text = configuration.to_owned();
        if !text.contains("procDir:") {
            // Others may leave this machine little memory: that is for the tests of it, and no reason to evict the pods of all.
            std::fs::create_dir(dir.path().join("proc")).unwrap();
            std::fs::write(dir.path().join("proc/meminfo"), PLENTY).unwrap();
            text.insert_str(0, "procDir: DIR/proc\n");
        }
        let text = text.replace("DIR", dir.path().to_str().unwrap());
        std::fs::write(dir.path().join("podling.yaml"), text).unwrap();
        Self { dir, daemon: None, env: vec![] }
    }

    /// Starts the daemon (again) and waits until it answers.
    #[track_caller]
    pub fn boot(&mut self) {
        self.spawn();
        wait_for("the daemon to answer", || {
            let daemon = self.daemon.as_mut().unwrap();
            let ended = daemon.child.try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended:\n{}", daemon.output());
            self.cli(&["get", "nodes"]).status.success().then_some(())
        });
    }

    /// Starts the daemon (again).
    pub fn spawn(&mut self) {
        let mut command = podling();
        command.arg("daemon").arg("--state-dir").arg(self.path("state"));
        command.arg("--cache-dir").arg(cache_dir()).arg("--socket").arg(self.socket());
        command.arg("--manifests").arg(self.path("manifests")).args(["--node-name", "gw-test"]);
        if self.path("podling.yaml").exists() {
            command.arg("--config").arg(self.path("podling.yaml"));
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        self.daemon = Some(Running::start(&mut command));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("podling.sock")
    }

    pub fn daemon(&mut self) -> &mut Running {
        self.daemon.as_mut().unwrap()
    }

    pub fn output(&self) -> String {
        self.daemon.as_ref().unwrap().output()
    }

    /// Ends the daemon as a power cut would.
    pub fn power_cut(&mut self) {
        self.daemon().signal(rustix::process::Signal::KILL);
        self.daemon().child.wait().unwrap();
    }

    /// Ends the daemon as its service manager would; returns its exit code.
    pub fn terminate(&mut self) -> i32 {
        self.daemon().signal(rustix::process::Signal::TERM);
        self.daemon().exit_code()
    }

    /// Puts a file into the watched folder in one step.
    pub fn put_manifest(&self, name: &str, text: &str) {
        let hidden = self.path("manifests").join(format!(".{name}.new"));
        std::fs::write(&hidden, text).unwrap();
        std::fs::rename(&hidden, self.path("manifests").join(name)).unwrap();
    }

    pub fn remove_manifest(&self, name: &str) {
        std::fs::remove_file(self.path("manifests").join(name)).unwrap();
    }

    /// Runs the command line against this node.
    pub fn cli(&self, args: &[&str]) -> Output {
        let mut command = podling();
        command.env("PODLING_SOCKET", self.socket()).args(args);
        command.output().unwrap()
    }

    /// The same; it must succeed. Returns what it printed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.cli(args);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "podling {args:?}: {:?}\n{out}{err}", output.status);
        out
    }

    /// The same; it must fail with exit code 1. Returns its complaint.
    #[track_caller]
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.cli(args);
        let err = text(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(1),
            "podling {args:?}: {}{err}",
            text(&output.stdout)
        );
        err
    }

    /// Applies a manifest through the API.
    #[track_caller]
    pub fn apply(&self, text: &str) -> String {
        let path = self.path("apply.yaml");
        std::fs::write(&path, text).unwrap();
        self.ok(&["apply", "-f", path.to_str().unwrap()])
    }

    /// Loads a guest into the image store of the daemon.
    #[track_caller]
    pub fn load(&self, guest_name: &str) {
        let (file, name) = (guest(guest_name), format!("{guest_name}:test"));
        let state = self.path("state");
        self.ok(&[
            "image",
            "load",
            file.to_str().unwrap(),
            "--name",
            &name,
            "--state-dir",
            state.to_str().unwrap(),
        ]);
    }

    /// The pod as the API shows it.
    pub fn pod(&self, name: &str) -> Option<Value> {
        let output = self.cli(&["get", "pod", name, "-o", "json"]);
        serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())
    }

    /// Waits until the pod is as wanted.
    #[track_caller]
    pub fn wait_pod(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            last = self.pod(name);
            if let Some(pod) = last.as_ref().filter(|pod| is(pod)) {
                return pod.clone();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("pod {name} never became {what}; last: {last:#?}\n{}", self.output());
    }

    #[track_caller]
    pub fn wait_ready(&self, name: &str) -> Value {
        self.wait_pod(name, "Ready", is_ready)
    }

    #[track_caller]
    pub fn wait_gone(&self, name: &str) {
        wait_for(&format!("pod {name} to be gone"), || self.pod(name).is_none().then_some(()));
    }
}

pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions
        .is_some_and(|list| list.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

/// The status of one container, of whatever kind.
pub fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["initContainerStatuses", "containerStatuses"];
    let all = lists.iter().filter_map(|list| pod["status"][list].as_array()).flatten();
    let found = all.into_iter().find(|status| status["name"] == name);
    found.unwrap_or(&Value::Null)
}

pub fn restarts(pod: &Value, name: &str) -> i64 {
    container(pod, name)["restartCount"].as_i64().unwrap_or(-1)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn cache_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache")
}

/// A program that a test talks to, or `None` after a printed reason. Under CI nothing may be skipped.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    dirs.extend(["/usr/sbin".into(), "/sbin".into()]);
    let found = dirs.into_iter().map(|dir| dir.join(name)).find(|file| file.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{name} is not installed, and under CI nothing is skipped"
        );
        eprintln!("skipped: {name} is not installed");
    }
    found
}
