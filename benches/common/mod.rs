//! What the benches share: the guests, the runtime under test, the peer, and how results are shown.
//!
//! Rules of all of them: both sides run the same module in the same process; runs of both alternate, so that a busy machine is as
//! busy for one as for the other; a figure is the median of its rounds; nothing here fails because a figure is bad, since a
//! machine that is busy proves nothing.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "a module of several programs, each of which uses its part"
)]

pub mod guests;
pub mod host_only;
pub mod memory;
pub mod peer;
pub mod report;
pub mod stats;

/// What the command line asks for; `cargo bench` adds `--bench`, which says nothing.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// One JSON document instead of tables.
    pub json: bool,
    /// A tenth of the work: does it run at all?
    pub quick: bool,
    /// `network` only: a minute of connections instead of the rest.
    pub minute: bool,
    /// `network` only: no peer, and only the case whose arguments begin with this word, for a profiler to look at.
    pub only: Option<&'static str>,
}

impl Options {
    #[must_use]
    pub fn from_args() -> Self {
        let has = |name: &str| std::env::args().skip(1).any(|argument| argument == name);
        let only = std::env::args().skip_while(|argument| argument != "--only").nth(1);
        Self {
            json: has("--json"),
            quick: has("--quick"),
            minute: has("--minute"),
            only: only.map(|word| &*word.leak()),
        }
    }

    /// How many rounds of a measurement.
    #[must_use]
    pub fn rounds(self, usual: usize) -> usize {
        if self.quick { 1 } else { usual }
    }
}
