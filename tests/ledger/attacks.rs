//! What is tried against the account: at least one attack for each interface that a module may import. `docs/limits.md` has the table by
//! interface, and a test (`runtime::linkers`) sees to it that it names every interface, and here every attack that it names.

#![allow(unreachable_pub, reason = "a test's own module")]

use podling::spec::OnMemoryLimit;

use super::texts;

/// One module that makes the host hold what it can.
#[derive(Debug)]
pub struct Attack {
    pub name: &'static str,
    pub module: Module,
    pub on_memory_limit: OnMemoryLimit,
    pub outcome: Outcome,
}

/// Where its code comes from.
#[derive(Clone, Copy, Debug)]
pub enum Module {
    /// A guest, with these arguments.
    Guest(&'static str, &'static [&'static str]),
    /// WebAssembly text.
    Text(fn() -> String),
}

/// How an attack is to end.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// `OOMKilled`, 137.
    Killed,
    /// A trap whose message says so.
    Trapped(&'static str),
    /// One or the other: what it gets within a millisecond is counted after it, and a bound on its number may come first.
    KilledOrTrapped(&'static str),
    /// It says `held: …` with these words.
    Held(&'static str),
    /// One or the other.
    HeldOrKilled,
    /// It goes on.
    GoesOn,
}

use Module::{Guest, Text};
use OnMemoryLimit::{Fail, Kill};
use Outcome::{GoesOn, Held, HeldOrKilled, Killed, KilledOrTrapped, Trapped};

type Args = &'static [&'static str];

const fn guest(name: &'static str, of: &'static str, args: Args, outcome: Outcome) -> Attack {
    Attack { name, module: Guest(of, args), on_memory_limit: Kill, outcome }
}

const fn hostile(name: &'static str, args: Args, outcome: Outcome) -> Attack {
    guest(name, "hostile", args, outcome)
}

const fn p3(name: &'static str, args: Args, outcome: Outcome) -> Attack {
    guest(name, "hostile-p3", args, outcome)
}

const fn files3(name: &'static str, args: Args, outcome: Outcome) -> Attack {
    guest(name, "hostile-files-p3", args, outcome)
}

const fn http3(name: &'static str, args: Args, outcome: Outcome) -> Attack {
    guest(name, "hostile-http-p3", args, outcome)
}

const fn text(name: &'static str, text: fn() -> String, outcome: Outcome) -> Attack {
    Attack { name, module: Text(text), on_memory_limit: Kill, outcome }
}

/// The same, but told where there is no memory.
const fn goes_on(attack: Attack) -> Attack {
    Attack { on_memory_limit: Fail, ..attack }
}

/// All of them.
pub const ATTACKS: &[Attack] = &[
    // wasi:random
    hostile("random", &["random"], Trapped("exceeds limit")),
    hostile("insecure", &["insecure"], Trapped("exceeds limit")),
    hostile("torrent", &["torrent"], GoesOn),
    p3("random-3", &["random"], GoesOn),
    p3("insecure-3", &["insecure"], GoesOn),
    // wasi:io
    hostile("list-8000", &["list", "8000"], GoesOn),
    hostile("list", &["list"], Killed),
    hostile("write", &["write", "5000000"], GoesOn),
    hostile("line", &["line"], GoesOn),
    // wasi:clocks
    hostile("timers", &["timers"], GoesOn),
    hostile("pollables", &["pollables"], KilledOrTrapped("resource table")),
    text("tasks", texts::tasks, KilledOrTrapped("handle limit")),
    p3("tasks-3", &["tasks"], KilledOrTrapped("handle limit")),
    // wasi:cli
    hostile("arguments", &["arguments"], GoesOn),
    p3("arguments-3", &["arguments"], GoesOn),
    hostile("printers", &["printers"], KilledOrTrapped("resource table")),
    p3("printers-3", &["printers"], KilledOrTrapped("handle limit")),
    p3("stdin-3", &["stdin"], KilledOrTrapped("handle limit")),
    // wasi:filesystem
    hostile("open", &["open"], Held("files, then")),
    hostile("read", &["read"], GoesOn),
    hostile("paths", &["paths"], GoesOn),
    hostile("folders", &["folders"], KilledOrTrapped("resource table")),
    hostile("directory", &["directory", "20000"], Held("20000 entries listed")),
    hostile("listings", &["listings", "20000"], Held("100 lists")),
    files3("open-3", &["open"], Held("InsufficientMemory")),
    files3("paths-3", &["paths"], GoesOn),
    files3("folders-3", &["folders"], KilledOrTrapped("resource table")),
    files3("listings-3", &["listings"], Killed),
    goes_on(files3("listings-3-fail", &["listings"], Held("InsufficientMemory"))),
    files3("readers-3", &["readers"], KilledOrTrapped("handle limit")),
    files3("writers-3", &["writers"], KilledOrTrapped("handle limit")),
    // wasi:sockets
    hostile("sockets", &["sockets"], Held("1024 sockets")),
    hostile("ports", &["ports"], Held("1024 ports")),
    hostile("datagrams", &["datagrams"], GoesOn),
    hostile("stream", &["stream"], HeldOrKilled),
    goes_on(hostile("stream-fail", &["stream"], Held(""))),
    hostile("names", &["names"], GoesOn),
    p3("sockets-3", &["sockets"], Held("1024 of them")),
    p3("datagrams-3", &["datagrams"], GoesOn),
    p3("receivers-3", &["receivers"], KilledOrTrapped("handle limit")),
    p3("stream-3", &["stream"], HeldOrKilled),
    p3("names-3", &["names", "20000"], Held("calls")),
    // wasi:http
    hostile("fields", &["fields", "20"], Killed),
    guest("requests", "hostile-http", &["requests"], Killed),
    guest("bodies", "hostile-http", &["bodies"], Killed),
    http3("fields-3", &["fields"], Killed),
    http3("requests-3", &["requests"], Killed),
    http3("sends-3", &["sends"], HeldOrKilled),
    // podling:pod/lifecycle
    text("subscriptions-to-stop", texts::subscriptions_to_stop, KilledOrTrapped("resource table")),
    // wasi_snapshot_preview1
    guest("listing-1", "files-p1", &["list", "/full"], GoesOn),
    text("places-1", texts::places_small, GoesOn),
    text("subscriptions-1", texts::subscriptions_small, GoesOn),
    text("waits-1", texts::waits, Killed),
    text("datagram-1", texts::datagram, GoesOn),
    text("path-1", texts::long_path, GoesOn),
    text("random-1", texts::random, GoesOn),
    // What components make of themselves, and the memory.
    p3("streams-3", &["streams"], KilledOrTrapped("handle limit")),
    hostile("memory", &["memory"], Killed),
    text("memory-tables", texts::tables, Killed),
];
