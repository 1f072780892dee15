//! The attacks, and what becomes of each. `docs/limits.md` has the same table for people; a test compares the two.

#![allow(
    unreachable_pub,
    dead_code,
    reason = "shared by a test and a bench, each of which uses its part"
)]

use super::texts;

/// One module that means harm.
#[derive(Debug)]
pub struct Attack {
    pub name: &'static str,
    pub module: Module,
    pub outcome: Outcome,
}

/// Where its code comes from.
#[derive(Clone, Copy, Debug)]
pub enum Module {
    /// The guest `hostile`, with these arguments.
    Hostile(&'static [&'static str]),
    /// Another guest.
    Guest(&'static str, &'static [&'static str]),
    /// WebAssembly text.
    Text(fn() -> String),
    /// The guest `handler`, asked for this path as often as there are threads, and once more.
    Handler(&'static str),
}

/// How an attack ends.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// By itself or by its host: reason, exit code, and what is in the message or the log.
    Ends { reason: &'static str, code: i64, says: &'static str },
    /// It never runs: the reason it waits for, and what is in the message.
    Refused { reason: &'static str, says: &'static str },
    /// It goes on within its limits until it is deleted; its log says so.
    Held { says: &'static str },
    /// Its pod is evicted; what is in the pod's message.
    Evicted { says: &'static str },
}

use Module::{Guest, Handler, Hostile, Text};
use Outcome::{Ends, Evicted, Held, Refused};

const OOM: Outcome =
    Ends { reason: "OOMKilled", code: 137, says: "memory limit is 50331648 bytes" };

/// What runs at the same time: four each, for two cores.
pub const WAVES: &[&[Attack]] = &[
    &[
        Attack { name: "spin", module: Hostile(&["spin"]), outcome: Held { says: "begins" } },
        Attack { name: "spin-start", module: Guest("spinstart", &[]), outcome: Held { says: "" } },
        Attack { name: "spin-realloc", module: Text(texts::realloc), outcome: Held { says: "" } },
        Attack { name: "fill", module: Hostile(&["fill"]), outcome: Held { says: "begins" } },
    ],
    &[
        Attack {
            name: "spin-return",
            module: Text(texts::post_return),
            outcome: Held { says: "" },
        },
        Attack { name: "spin-drop", module: Text(texts::destructor), outcome: Held { says: "" } },
        Attack { name: "timers", module: Hostile(&["timers"]), outcome: Held { says: "begins" } },
        Attack { name: "grow", module: Text(texts::growing), outcome: Held { says: "" } },
    ],
    &[
        Attack { name: "memory", module: Hostile(&["memory"]), outcome: OOM },
        Attack { name: "tables", module: Text(texts::tables), outcome: OOM },
        Attack {
            name: "recursion",
            module: Hostile(&["recursion"]),
            outcome: Ends { reason: "Trapped", code: 134, says: "call stack exhausted" },
        },
        Attack {
            name: "trap-drop",
            module: Text(texts::trapping_destructor),
            outcome: Ends { reason: "Trapped", code: 134, says: "unreachable" },
        },
    ],
    &[
        Attack {
            name: "instances",
            module: Text(texts::instances),
            outcome: Ends { reason: "Trapped", code: 134, says: "instance count too high" },
        },
        Attack {
            name: "memories",
            module: Text(texts::memories),
            outcome: Ends { reason: "Trapped", code: 134, says: "memory count too high" },
        },
        Attack {
            name: "tasks",
            module: Text(texts::tasks),
            outcome: Ends { reason: "Trapped", code: 134, says: "handle limit" },
        },
        Attack {
            name: "random",
            module: Hostile(&["random"]),
            outcome: Ends { reason: "Trapped", code: 134, says: "exceeds limit" },
        },
    ],
    &[
        Attack { name: "sockets", module: Hostile(&["sockets"]), outcome: Held { says: "held:" } },
        Attack { name: "ports", module: Hostile(&["ports"]), outcome: Held { says: "held:" } },
        Attack { name: "open", module: Hostile(&["open"]), outcome: Held { says: "files, then" } },
        Attack {
            name: "pollables",
            module: Hostile(&["pollables"]),
            outcome: Ends { reason: "Trapped", code: 134, says: "resource table" },
        },
    ],
    &[
        Attack {
            name: "datagrams",
            module: Hostile(&["datagrams"]),
            outcome: Held { says: "begins" },
        },
        Attack { name: "stream", module: Hostile(&["stream"]), outcome: Held { says: "held:" } },
        Attack {
            name: "connections",
            module: Hostile(&["connections", "50"]),
            outcome: Held { says: "begins" },
        },
        Attack { name: "names", module: Hostile(&["names"]), outcome: Held { says: "begins" } },
    ],
    &[
        Attack { name: "logs", module: Hostile(&["logs"]), outcome: Held { says: "" } },
        Attack { name: "line", module: Hostile(&["line"]), outcome: Held { says: "" } },
        Attack { name: "torrent", module: Hostile(&["torrent"]), outcome: Held { says: "" } },
        Attack {
            name: "arguments",
            module: Hostile(&["arguments"]),
            outcome: Held { says: "begins" },
        },
    ],
    &[
        Attack { name: "read", module: Hostile(&["read"]), outcome: Held { says: "read " } },
        Attack {
            name: "list",
            module: Hostile(&["list"]),
            outcome: Ends { reason: "Trapped", code: 134, says: "handle limit" },
        },
        Attack {
            name: "write",
            module: Hostile(&["write", "30000000"]),
            outcome: Ends { reason: "Trapped", code: 134, says: "too much data" },
        },
        Attack {
            name: "fields",
            module: Hostile(&["fields"]),
            outcome: Ends { reason: "Trapped", code: 134, says: "exceeds limit" },
        },
    ],
    &[
        Attack {
            name: "directory",
            module: Hostile(&["directory", "100000"]),
            outcome: Held { says: "held:" },
        },
        Attack {
            name: "deep",
            module: Hostile(&["deep", "3000"]),
            outcome: Evicted { says: "data" },
        },
        Attack {
            name: "disk",
            module: Hostile(&["disk", "4096"]),
            outcome: Held { says: "full after" },
        },
        Attack {
            name: "escape",
            module: Guest("files", &["escape", "/data"]),
            outcome: Ends { reason: "Completed", code: 0, says: "attempts held" },
        },
    ],
    &[
        Attack { name: "handler", module: Handler("/spin"), outcome: Held { says: "" } },
        Attack { name: "places", module: Text(texts::places), outcome: Held { says: "" } },
        Attack {
            name: "listings",
            module: Hostile(&["listings", "100000"]),
            outcome: Held { says: "held: 100 lists" },
        },
        Attack {
            name: "subscriptions",
            module: Text(texts::subscriptions),
            outcome: Held { says: "" },
        },
    ],
];

/// What lasts until the compiler's bounds stop it: as long as a minute where the machine is busy. Let loose by name, and by the bench.
pub const SLOW: &[Attack] = &[Attack {
    name: "nested-instances",
    module: Text(texts::bomb),
    outcome: Refused { reason: "CreateContainerError", says: "compiling" },
}];

impl Attack {
    pub fn image(&self) -> String {
        match self.module {
            Hostile(_) => "hostile:test".to_owned(),
            Guest(name, _) => format!("{name}:test"),
            Text(_) => format!("{}:text", self.name),
            Handler(_) => "handler:test".to_owned(),
        }
    }

    pub fn args(&self) -> &'static [&'static str] {
        match self.module {
            Hostile(args) | Guest(_, args) => args,
            Text(_) | Handler(_) => &[],
        }
    }
}
