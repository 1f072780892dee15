//! `podling compile`: the process that turns one module into native code.
//!
//! Owns: what happens in that process. It lowers its own priority and bounds its own memory before it reads a byte, checks that
//! it was given the module it was meant to, and says in its exit status whether the module or the machine is to blame.
//! Is not: for people; its arguments are a private matter between two copies of this program.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
use sha2::{Digest as _, Sha256};

use super::EngineSettings;
use super::cache::hex;

/// A tenth of the weight of whoever else wants the core: a neighbour hardly notices, and a pod whose module is to be compiled beside one that
/// spins waits ten times as long. At the lowest priority (19) it would be seventy times, until the clock's bound ends it.
const NICE: i32 = 10;

/// What one child is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) settings: EngineSettings,
    /// What the module's bytes must hash to.
    pub(crate) sha256: String,
    /// Address space it may use, bytes.
    pub(crate) memory: u64,
    /// CPU time it may use, in whole seconds.
    pub(crate) cpu: Duration,
    pub(crate) input: PathBuf,
    pub(crate) output: PathBuf,
}

impl Task {
    pub(crate) fn to_args(&self) -> [OsString; 6] {
        [
            self.settings.to_line().into(),
            self.sha256.clone().into(),
            self.memory.to_string().into(),
            self.cpu.as_secs().to_string().into(),
            self.input.clone().into(),
            self.output.clone().into(),
        ]
    }

    fn from_args(args: &[OsString]) -> Option<Self> {
        let [settings, sha256, memory, cpu, input, output] = args else { return None };
        Some(Self {
            settings: EngineSettings::parse(settings.to_str()?)?,
            sha256: sha256.to_str()?.to_owned(),
            memory: memory.to_str()?.parse().ok()?,
            cpu: Duration::from_secs(cpu.to_str()?.parse().ok()?),
            input: input.into(),
            output: output.into(),
        })
    }
}

/// Why there is no compiled module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Invalid(String),
    Truncated(String),
    /// The file's own digest, which is not the one asked for.
    Digest(String),
    /// Not the module's fault.
    Machine(String),
}

impl Failure {
    pub(crate) const INVALID: i32 = 10;
    const TRUNCATED: i32 = 11;
    const DIGEST: i32 = 12;
    pub(crate) const MACHINE: i32 = 13;

    fn code(&self) -> (i32, &str) {
        match self {
            Self::Invalid(text) => (Self::INVALID, text),
            Self::Truncated(text) => (Self::TRUNCATED, text),
            Self::Digest(text) => (Self::DIGEST, text),
            Self::Machine(text) => (Self::MACHINE, text),
        }
    }

    pub(crate) fn from_code(code: i32, words: &str) -> Option<Self> {
        let words = words.to_owned();
        match code {
            Self::INVALID => Some(Self::Invalid(words)),
            Self::TRUNCATED => Some(Self::Truncated(words)),
            Self::DIGEST => Some(Self::Digest(words)),
            Self::MACHINE => Some(Self::Machine(words)),
            _ => None,
        }
    }
}

/// The whole of `podling compile ARGS…`: returns the process's exit status.
#[must_use]
pub fn compile_child(args: &[OsString]) -> ExitCode {
    let Some(task) = Task::from_args(args) else {
        eprintln!("`compile` is for podling itself; it takes no arguments of yours");
        return ExitCode::from(2);
    };
    end_with_parent();
    restrain(&task);
    match compile(&task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (code, words) = failure.code();
            eprintln!("{words}");
            ExitCode::from(u8::try_from(code).unwrap_or(1))
        }
    }
}

/// The daemon holds our standard input open for as long as it lives and wants us.
fn end_with_parent() {
    let watch = || {
        let mut byte = [0];
        // Anything but an interruption means that nobody is there any more.
        while std::io::stdin()
            .read(&mut byte)
            .is_err_and(|error| error.kind() == std::io::ErrorKind::Interrupted)
        {}
        #[allow(clippy::disallowed_methods, reason = "main is busy compiling for nobody")]
        std::process::exit(1);
    };
    // Without the watch we merely end a little later.
    let _ = std::thread::Builder::new().stack_size(64 << 10).spawn(watch);
}

/// Makes this process one that waits for others, and the first to be killed. What cannot be set is not worth failing for.
fn restrain(task: &Task) {
    let _ = setpriority_process(None, NICE);
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    let bound = |resource, to: u64| {
        let hard = getrlimit(resource).maximum;
        let to = hard.map_or(to, |hard| hard.min(to));
        let _ = setrlimit(resource, Rlimit { current: Some(to), maximum: Some(to) });
    };
    bound(Resource::As, task.memory);
    bound(Resource::Core, 0);
    // At the lower bound comes a signal that says what it was; the upper one would only kill.
    let cpu = task.cpu.as_secs();
    bound(Resource::Cpu, cpu.saturating_add(2));
    let maximum = getrlimit(Resource::Cpu).maximum;
    let _ = setrlimit(Resource::Cpu, Rlimit { current: Some(cpu), maximum });
}

/// Compiles, in whichever process this is.
pub(crate) fn compile(task: &Task) -> Result<(), Failure> {
    let machine =
        |deed: &str, error: &dyn std::fmt::Display| Failure::Machine(format!("{deed}: {error}"));
    let bytes = fs::read(&task.input).map_err(|error| machine("read the module", &error))?;
    let found = hex(&Sha256::digest(&bytes));
    if found != task.sha256 {
        return Err(Failure::Digest(found));
    }
    let code = generate(&task.settings, &bytes)?;
    fs::write(&task.output, code).map_err(|error| machine("write the compiled module", &error))
}

#[cfg(feature = "compiler")]
fn generate(settings: &EngineSettings, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    let engine = settings
        .compiler()
        .map_err(|error| Failure::Machine(format!("set up the engine: {error:#}")))?;
    // The fifth byte tells them apart: core modules are version 1, components have a layer.
    let component = bytes.get(4..8).is_some_and(|version| version != [1, 0, 0, 0]);
    let code = if component {
        engine.precompile_component(bytes)
    } else {
        engine.precompile_module(bytes)
    };
    code.map_err(|error| {
        let text = format!("{error:#}");
        // What the parser says when the bytes end before a module, or a section of a component, does.
        let cut = ["unexpected end", "is out of bounds (bound"];
        if cut.iter().any(|words| text.contains(words)) {
            Failure::Truncated(text)
        } else {
            Failure::Invalid(text)
        }
    })
}

#[cfg(not(feature = "compiler"))]
fn generate(_settings: &EngineSettings, _bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    Err(Failure::Machine("this build has no compiler".to_owned()))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_task_survives_the_command_line() {
        let task = Task {
            settings: EngineSettings {
                target: "pulley64".into(),
                reservation: 1,
                guard: 2,
                growth: 3,
                fuel: true,
                tasks: false,
            },
            sha256: "ab".into(),
            memory: 5,
            cpu: Duration::from_secs(60),
            input: "/in put".into(),
            output: "-out".into(),
        };
        assert_eq!(Task::from_args(&task.to_args()), Some(task.clone()));
        assert_eq!(Task::from_args(&task.to_args()[1..]), None);
        assert_eq!(Task::from_args(&[]), None);
    }

    #[test]
    fn failures_survive_the_exit_status() {
        for failure in [
            Failure::Invalid("a".into()),
            Failure::Truncated("b".into()),
            Failure::Digest("c".into()),
            Failure::Machine("d".into()),
        ] {
            let (code, words) = failure.code();
            assert_eq!(Failure::from_code(code, words), Some(failure.clone()));
        }
        assert_eq!(Failure::from_code(101, "panicked"), None);
    }
}
