//! The process that compiles: what binds it, and that it is bound before it has read a byte of the module.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use super::support::{podling, wait_for};

/// What it is told to keep to: no machine that runs these tests allows less.
const MEMORY: u64 = 900 << 20;
const CPU: u64 = 77;

/// `podling compile`, as the daemon calls it; the module comes from `input`.
struct Compile {
    child: Child,
    _dir: tempfile::TempDir,
    input: PathBuf,
}

impl Compile {
    /// `fifo`: the module is still to be written.
    fn start(fifo: bool, module: &[u8], memory: u64, cpu: u64) -> Self {
        use sha2::{Digest as _, Sha256};
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("module");
        if fifo {
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, &input, kind, mode, 0).unwrap();
        } else {
            std::fs::write(&input, module).unwrap();
        }
        let machine = podling::runtime::Machine::probe();
        let backend = podling::runtime::Backend::Auto;
        let settings = podling::runtime::EngineSettings::choose(&machine, backend).to_line();
        let digest: String = Sha256::digest(module).iter().map(|b| format!("{b:02x}")).collect();
        let mut command = podling();
        command.arg("compile").args([&settings, &digest, &memory.to_string(), &cpu.to_string()]);
        command.arg(&input).arg(dir.path().join("out"));
        // It ends when the daemon does, which it notices by its standard input.
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        Self { child: command.spawn().unwrap(), _dir: dir, input }
    }

    fn proc(&self, file: &str) -> String {
        let path = Path::new("/proc").join(self.child.id().to_string()).join(file);
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// Waits for its end; its status and last words.
    fn end(mut self) -> (std::process::ExitStatus, String) {
        let _alive = self.child.stdin.take();
        let mut words = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
        (self.child.wait().unwrap(), words)
    }
}

/// Soft and hard limit of `/proc/PID/limits`.
fn limits(text: &str, name: &str) -> Option<(String, String)> {
    let row = text.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = row.split_whitespace().map(str::to_owned);
    Some((words.next()?, words.next()?))
}

#[test]
fn it_is_bound_before_it_reads_and_the_last_to_be_served_and_the_first_to_be_killed() {
    let child = Compile::start(true, b"\0asm\x01\0\0\0", MEMORY, CPU);
    // The last thing it does before it opens its input.
    let bound = || limits(&child.proc("limits"), "Max cpu time").filter(|(soft, _)| soft == "77");
    let (_, hard) = wait_for("the bound of its CPU time", bound);
    assert_eq!(hard, "79");
    let text = child.proc("limits");
    let memory = limits(&text, "Max address space").unwrap();
    assert_eq!(memory, (MEMORY.to_string(), MEMORY.to_string()));
    assert_eq!(limits(&text, "Max core file size").unwrap().0, "0");
    assert_eq!(child.proc("oom_score_adj").trim(), "1000");
    // After the name, in brackets: state, parent, group, …, priority, and the 17th is how nice it is.
    let stat = child.proc("stat");
    let nice = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(16));
    assert_eq!(nice, Some("10"), "{stat}");
    // It works all the same; what it is given is not what it was promised.
    let input = child.input.clone();
    let writer = std::thread::spawn(move || std::fs::write(input, b"\0asm\x01\0\0\0more"));
    let (status, words) = child.end();
    writer.join().unwrap().unwrap();
    assert_eq!(status.code(), Some(12), "another digest: {words}");
}

#[test]
fn it_ends_with_its_daemon() {
    let mut child = Compile::start(true, b"", MEMORY, CPU);
    drop(child.child.stdin.take());
    let ended = wait_for("its end", || child.child.try_wait().unwrap());
    assert_eq!(ended.code(), Some(1));
}

/// A module whose code takes any compiler long: one function after the other of nothing but arithmetic.
fn large() -> Vec<u8> {
    let sums = "(local.set 0 (i32.mul (i32.add (local.get 0) (local.get 1)) (i32.const 7)))\
                (local.set 1 (i32.rotl (local.get 1) (local.get 0)))"
        .repeat(500);
    let function = format!("(func (param i32 i32) (result i32) {sums} (local.get 0))");
    wat::parse_str(format!("(module {})", function.repeat(150))).unwrap()
}

#[test]
fn its_end_says_which_bound_it_met() {
    use std::os::unix::process::ExitStatusExt as _;
    let module = large();
    let (status, words) = Compile::start(false, &module, MEMORY, 1).end();
    let signal = rustix::process::Signal::XCPU.as_raw();
    // A machine that compiles all of it in a second has no end to show.
    if !status.success() {
        assert_eq!(status.signal(), Some(signal), "{status} {words}");
    }
    // Less than the program itself takes.
    let (status, words) = Compile::start(false, &module, 1 << 20, CPU).end();
    // The last: the allocator had taken its addresses before, but there are none for a thread's stack.
    let starved = [
        "memory allocation of",
        "out of memory",
        "Cannot allocate memory",
        "Resource temporarily unavailable",
    ];
    assert!(
        !status.success() && starved.iter().any(|said| words.contains(said)),
        "{status}: {words}"
    );
}
