//! What can go wrong between a module's bytes and its run.
//!
//! One enum per operation: starting the runtime, preparing a module, starting a run. Messages are for the operator who
//! reads a pod's status; the path of a file in our own cache means nothing to him, the name of an import does.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::wasi::p1::PreopenError;

/// The runtime cannot start on this machine.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeStartError {
    /// wasmtime refuses these settings here.
    #[error("set up the engine ({settings})")]
    Engine {
        settings: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No threads for guests.
    #[error("start the guests' threads")]
    Threads {
        #[source]
        source: io::Error,
    },
    /// The cache of compiled code cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// The cache of compiled code cannot be used or written.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Somebody else's, or open to others: code from it would run as ours.
    #[error(
        "the cache directory {} must be a directory of this user with no access for others (0700): {why}",
        path.display()
    )]
    NotPrivate { path: PathBuf, why: String },
    /// The file system refuses.
    #[error("{deed} in the cache of compiled modules ({})", path.display())]
    Io {
        deed: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A module could not be made ready to run.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Its file cannot be read.
    #[error("read the module")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file holds something else than it should.
    #[error("the module's file has changed: its SHA-256 is {found}, not {expected}")]
    DigestMismatch { expected: String, found: String },
    #[error("the module has {bytes} bytes; at most {limit} are accepted")]
    TooBig { bytes: u64, limit: u64 },
    #[error("not a WebAssembly module: it begins with {begins}")]
    NotWasm { begins: String },
    /// It ends in the middle.
    #[error("the WebAssembly module is cut off: {message}")]
    Truncated { message: String },
    #[error("not a valid WebAssembly module: {message}")]
    Invalid { message: String },
    /// Each is `INTERFACE` or `MODULE::NAME`.
    #[error("{}", missing(imports))]
    MissingImports { imports: Vec<String> },
    /// The name is ours, the type is not.
    #[error("the module's imports do not fit: {message}")]
    Incompatible { message: String },
    #[error("not a command: {message}")]
    NotACommand { message: String },
    /// A build without the compiler, and no compiled code for this engine in the cache.
    #[error(
        "this build has no compiler, and no compiled form of the module is in its cache (module {digest}, engine {mark})"
    )]
    NoCompiler { digest: String, mark: String },
    /// Its code is too much for the compiler, at this size.
    #[error(
        "compiling took more than {} s of CPU time, which is all that a module of its size is given: build a smaller one, or several; this one \
         is not tried again for an hour",
        limit.as_secs()
    )]
    CompilerCpu { limit: Duration },
    /// It had CPU time left, and none was to be had.
    #[error(
        "compiling was not done after {} s by the clock, in which it may take a fifth of that in CPU time: the machine is busy with other work; \
         it is tried again",
        limit.as_secs()
    )]
    CompilerClock { limit: Duration },
    #[error(
        "compiling needs more than {} MiB of memory, which is all that it is given: build a module with less code or fewer instances; this one is \
         not tried again for an hour",
        limit >> 20
    )]
    CompilerMemory { limit: u64 },
    #[error(
        "the compiler was killed (SIGKILL), as the kernel does when the machine has no memory left: the module has {} MiB, and \
         compiling takes some thirty times that",
        (module + (1 << 20) - 1) >> 20
    )]
    CompilerKilled { module: u64 },
    /// The compile child failed in another way; `message` is the end of what it said.
    #[error("the compiler failed ({status}): {message}")]
    ChildFailed { status: String, message: String },
    /// It could not even be started.
    #[error("start the compiler ({command})")]
    Spawn {
        command: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("too many modules wait to be compiled ({waiting}); try again later")]
    Busy { waiting: usize },
    /// A bug of ours.
    #[error("the runtime failed while it prepared the module: {message}")]
    Internal { message: String },
}

impl PrepareError {
    /// Whether the module itself is to blame, so that trying again with the same bytes cannot help.
    #[must_use]
    pub fn is_modules_fault(&self) -> bool {
        match self {
            Self::TooBig { .. }
            | Self::NotWasm { .. }
            | Self::Truncated { .. }
            | Self::Invalid { .. }
            | Self::MissingImports { .. }
            | Self::Incompatible { .. }
            | Self::NotACommand { .. } => true,
            Self::Read { .. }
            | Self::DigestMismatch { .. }
            | Self::NoCompiler { .. }
            | Self::CompilerCpu { .. }
            | Self::CompilerClock { .. }
            | Self::CompilerMemory { .. }
            | Self::CompilerKilled { .. }
            | Self::ChildFailed { .. }
            | Self::Spawn { .. }
            | Self::Cache(_)
            | Self::Busy { .. }
            | Self::Internal { .. } => false,
        }
    }
}

impl PrepareError {
    /// Whether it is as good as certain that trying again on this machine ends in the same way, after as long a time.
    #[must_use]
    pub fn is_beyond_this_machine(&self) -> bool {
        matches!(self, Self::CompilerCpu { .. } | Self::CompilerMemory { .. })
    }
}

/// `imports A and B, which podling does not offer`.
fn missing(imports: &[String]) -> String {
    /// Names shown; a module may import thousands.
    const SHOWN: usize = 12;
    let mut text = String::from("imports ");
    for (n, import) in imports.iter().take(SHOWN).enumerate() {
        let last = n + 1 == imports.len();
        text.push_str(match n {
            0 => "",
            _ if last => " and ",
            _ => ", ",
        });
        text.push('`');
        text.push_str(import);
        text.push('`');
    }
    if imports.len() > SHOWN {
        text.push_str(&format!(" and {} more", imports.len() - SHOWN));
    }
    text.push_str(", which podling does not offer");
    text
}

/// A run could not be started. The module is not to blame.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A mounted directory cannot be opened.
    #[error("open the volume mounted at {guest}")]
    Mount {
        guest: String,
        #[source]
        source: io::Error,
    },
    #[error("the runtime is shutting down")]
    ShuttingDown,
    #[error("{limit} modules run already")]
    TooMany { limit: usize },
    /// A declared port that the module is to be given a listening socket on.
    #[error("listen on the declared port {port} for the module")]
    Listen {
        port: u16,
        #[source]
        source: PreopenError,
    },
    /// A handler that nobody could reach.
    #[error(
        "the module answers HTTP (wasi:http) and has no port to answer on: give its container a TCP containerPort"
    )]
    NoPort,
    /// `exec` into a handler.
    #[error("the module answers HTTP (wasi:http) and has no command to run; probe it with httpGet")]
    NotACommand,
    /// A bug of ours.
    #[error("the runtime failed to start the module: {message}")]
    Internal { message: String },
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn missing_imports_are_listed_as_a_person_would() {
        let text = |names: &[&str]| {
            let imports = names.iter().map(|&name| name.to_owned()).collect();
            PrepareError::MissingImports { imports }.to_string()
        };
        assert_eq!(
            text(&["env::frobnicate"]),
            "imports `env::frobnicate`, which podling does not offer"
        );
        assert_eq!(
            text(&["a", "b", "c"]),
            "imports `a`, `b` and `c`, which podling does not offer"
        );
        let many: Vec<_> = (0..40).map(|n| format!("i{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(text(&many).ends_with("`i11` and 28 more, which podling does not offer"));
    }
}
