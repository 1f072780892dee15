//! Which fields of a pod, a Service and a NetworkPolicy do what. One row per field that Kubernetes 1.36 knows.
//!
//! Owns: the table, refusing and warning from it, and its rendering in `docs/manifest.md`. Not: the
//! values of the fields that are supported (`lower`). A test walks every field that `k8s-openapi`
//! can read, so that a field without a row does not pass.
//!
//! A field may be: supported; *kept* (accepted and shown, for it has its effect elsewhere or by
//! itself); *inert* (it can mean nothing here: accepted with one warning, unless the value is one
//! that holds anyway); or *refused* (ignoring it would change what the pod means). A field that is
//! absent, or has Kubernetes' zero value (`false`, `0`, `""`, `[]`, `{}`), is none of these.

mod network;
mod tables;

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use super::lower::Sink;
use super::path::Path;
pub use network::{NETWORK_POLICY, SERVICE};
pub use tables::POD;

/// One field of one of Kubernetes' structures.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// As the manifest spells it.
    pub field: &'static str,
    pub support: Support,
}

/// What becomes of a field.
#[derive(Debug, PartialEq, Eq)]
pub enum Support {
    /// It does what it does in Kubernetes, or what the note says.
    Yes(&'static str),
    /// A structure, or a list of them, with rows of its own.
    In(&'static [Row]),
    /// Accepted and shown; why that is all.
    Kept(&'static str),
    /// Accepted with a warning: why it has no effect. The values of `quiet` (as JSON) hold anyway
    /// and need none.
    Inert { quiet: &'static [&'static str], why: &'static str },
    /// An error: why, and what to do. The values of `quiet` (as JSON) are fine.
    Refused { quiet: &'static [&'static str], why: &'static str },
}

/// What an annotation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One container of a pod: `WORD.podling.dev/CONTAINER`.
    Container,
    /// A pod: `podling.dev/WORD`.
    Pod,
    /// A pod, or the pods that a NetworkPolicy selects: `podling.dev/WORD`.
    PodOrPolicy,
}

/// An annotation of ours.
#[derive(Debug)]
pub struct AnnotationRow {
    pub word: &'static str,
    pub scope: Scope,
    pub values: &'static [&'static str],
    pub note: &'static str,
}

impl AnnotationRow {
    /// `stop-signal.podling.dev/CONTAINER`, `podling.dev/egress-names`
    #[must_use]
    pub fn form(&self) -> String {
        match self.scope {
            Scope::Container => format!("{}.podling.dev/CONTAINER", self.word),
            Scope::Pod | Scope::PodOrPolicy => format!("podling.dev/{}", self.word),
        }
    }
}

/// All annotations that podling reads; any other under `podling.dev` is an error.
pub const ANNOTATIONS: &[AnnotationRow] = &[
    AnnotationRow {
        word: "stop-signal",
        scope: Scope::Container,
        values: &["lifecycle", "stdin"],
        note: "How the module hears that it should stop. `lifecycle` (the default): it imports `podling:pod/lifecycle`; a module that does not, or has \
               not asked, ends at once with 143, as a program does that leaves SIGTERM to its default. `stdin`: its standard input stays open and ends \
               at the stop. Either way it has its grace period, and ends with 137 when that runs out.",
    },
    AnnotationRow {
        word: "on-memory-limit",
        scope: Scope::Container,
        values: &["kill", "fail"],
        note: "What happens at `limits.memory`. `kill` (the default): the module ends, `OOMKilled`, 137. `fail`: `memory.grow` answers -1 and the \
               module goes on with what it has.",
    },
    AnnotationRow {
        word: "http-concurrency",
        scope: Scope::Container,
        values: &["64"],
        note: "For a module that answers HTTP (`wasi:http`): requests answered at once. One more waits for up to a second, then gets 503.",
    },
    AnnotationRow {
        word: "http-timeout",
        scope: Scope::Container,
        values: &["60"],
        note: "For a module that answers HTTP: seconds until a response must begin; then 504, and its instance is gone.",
    },
    AnnotationRow {
        word: "http-body-limit",
        scope: Scope::Container,
        values: &["64Mi"],
        note: "For a module that answers HTTP: the longest body of a request; a longer one gets 413. Bodies are streamed, so this is no matter of memory.",
    },
    AnnotationRow {
        word: "http-reuse",
        scope: Scope::Container,
        values: &["1", "128"],
        note: "For a module that answers HTTP: requests that one instance answers before it is replaced. With 1 (the default for WASI 0.2) no request finds \
               what another left; more saves the making of an instance. A handler of WASI 0.3 has 128 where nothing is said.",
    },
    AnnotationRow {
        word: "http-instance-concurrency",
        scope: Scope::Container,
        values: &["16"],
        note: "For a module that answers HTTP with WASI 0.3: requests that one instance answers at the same time, where it answers several at all. They \
               share its memory, and a trap in one ends them all. With 1 each instance has one at a time, as those of WASI 0.2 always have.",
    },
    AnnotationRow {
        word: "log-rate",
        scope: Scope::Container,
        values: &["256Ki"],
        note: "Log kept of the module, bytes a second over time, and four seconds' worth (64Ki at least) at once; 1Ki or more. What is more is dropped, \
               counted (`podling_container_log_dropped_lines_total`, `…_bytes_total`), and a line in the log says how much. The module never waits.",
    },
    AnnotationRow {
        word: "egress-names",
        scope: Scope::PodOrPolicy,
        values: &["NAME[:PORT[-END]][/udp]", "*.NAME…"],
        note: "Names outside that the pod may look up and reach, separated by commas: `api.example.com:443,*.ntp.org:123/udp`. `*.` stands for every \
               name below. Without a port all ports are meant, with one TCP unless `/udp` follows. On a NetworkPolicy: for the pods it selects. See \
               docs/network.md.",
    },
    AnnotationRow {
        word: "host-loopback",
        scope: Scope::Pod,
        values: &["tcp/PORT", "udp/PORT"],
        note: "Ports of the host's own loopback that the pod may reach, separated by commas: `tcp/5432,udp/53`. It finds them at \
               `host.podling.internal` (169.254.1.1). Nothing else of the host is ever reached, whatever policy allows. From the API and MQTT only ports \
               of the node's own list (`network.hostLoopbackAllowList`, docs/configuration.md).",
    },
    AnnotationRow {
        word: "network-audit",
        scope: Scope::PodOrPolicy,
        values: &["true", "false"],
        note: "`true`: what policy would deny the pod is let through and written down; `podling net POD --audit` prints the NetworkPolicy that allows \
               exactly what was used. On a NetworkPolicy: for the pods it selects. For finding a policy, not for running without one.",
    },
];

/// Refuses and warns, field by field, of what the manifest sets.
pub(super) fn check(object: &impl Serialize, rows: &'static [Row], sink: &mut impl Sink) {
    // Absent fields do not serialise, so this is exactly what was set.
    let Ok(Value::Object(object)) = serde_json::to_value(object) else { return };
    for (field, value) in &object {
        field_of(rows, field, value, &Path::root(field), sink);
    }
}

fn field_of(
    rows: &'static [Row],
    field: &str,
    value: &Value,
    path: &Path<'_>,
    sink: &mut impl Sink,
) {
    if is_zero(value) {
        return;
    }
    let Some(row) = rows.iter().find(|row| row.field == field) else {
        return sink.refuse(path, "this version of podling does not know the field");
    };
    match &row.support {
        Support::Yes(_) | Support::Kept(_) => {}
        Support::In(rows) => fields_of(rows, value, path, sink),
        Support::Inert { quiet, why } => {
            if !is_one_of(value, quiet) {
                sink.warn(path, why);
            }
        }
        Support::Refused { quiet, why } => {
            if !is_one_of(value, quiet) {
                sink.refuse(path, why);
            }
        }
    }
}

fn fields_of(rows: &'static [Row], value: &Value, path: &Path<'_>, sink: &mut impl Sink) {
    if let Value::Array(items) = value {
        for (index, item) in items.iter().enumerate() {
            fields_of(rows, item, &path.index(index), sink);
        }
    }
    if let Value::Object(object) = value {
        for (field, value) in object {
            field_of(rows, field, value, &path.field(field), sink);
        }
    }
}

fn is_one_of(value: &Value, quiet: &[&str]) -> bool {
    quiet.iter().any(|text| serde_json::from_str::<Value>(text).is_ok_and(|quiet| quiet == *value))
}

/// Kubernetes tells an absent field and its zero value apart only where a pointer matters; for what
/// is not supported it never does.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(value) => value.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(object) => object.is_empty(),
    }
}

/// The table of a kind as Markdown; `docs/manifest.md` holds exactly this.
#[must_use]
pub fn markdown(rows: &'static [Row]) -> String {
    let mut text = String::new();
    text.push_str("| Field | | What it does here |\n|---|---|---|\n");
    // Metadata is the same for every kind, and printed with the pod's.
    let mut seen = if rows == POD { Vec::new() } else { vec![tables::METADATA] };
    render(rows, rows, "", &mut seen, &mut text);
    text
}

/// The annotations as Markdown; `docs/manifest.md` holds exactly this.
#[must_use]
pub fn annotations_markdown() -> String {
    let mut text = String::from("| Annotation | Values | What it does |\n|---|---|---|\n");
    for row in ANNOTATIONS {
        let values: Vec<String> = row.values.iter().map(|value| format!("`{value}`")).collect();
        let _ = writeln!(text, "| `{}` | {} | {} |", row.form(), values.join(", "), row.note);
    }
    text
}

fn render(
    table: &'static [Row],
    rows: &'static [Row],
    prefix: &str,
    seen: &mut Vec<&'static [Row]>,
    text: &mut String,
) {
    for row in rows {
        let path = if prefix.is_empty() {
            row.field.to_owned()
        } else {
            format!("{prefix}.{}", row.field)
        };
        let (word, note) = match &row.support {
            Support::Yes(note) => ("yes", (*note).to_owned()),
            Support::Kept(note) => ("kept", (*note).to_owned()),
            Support::Inert { quiet, why } => ("inert", with_quiet(why, quiet, "No warning for")),
            Support::Refused { quiet, why } => ("refused", with_quiet(why, quiet, "Accepted:")),
            Support::In(inner) => {
                // The same structure occurs in several places; its rows stand where it comes first.
                // Told by its rows, never by its address: a constant may have several of those,
                // differently in each build.
                if seen.contains(inner) {
                    let note = format!("as in {}", first_place(table, inner));
                    let _ = writeln!(text, "| `{path}` | | {note} |");
                } else {
                    seen.push(inner);
                    render(table, inner, &path, seen, text);
                }
                continue;
            }
        };
        let _ = writeln!(text, "| `{path}` | {word} | {note} |");
    }
}

fn with_quiet(why: &str, quiet: &[&str], lead: &str) -> String {
    if quiet.is_empty() {
        return why.to_owned();
    }
    let values: Vec<String> = quiet.iter().map(|value| format!("`{value}`")).collect();
    format!("{why}. {lead} {}", values.join(", "))
}

/// The path at which a structure's rows are printed.
fn first_place(table: &'static [Row], wanted: &'static [Row]) -> String {
    fn search(rows: &'static [Row], prefix: &str, wanted: &'static [Row]) -> Option<String> {
        rows.iter().find_map(|row| {
            let Support::In(inner) = &row.support else { return None };
            let path = if prefix.is_empty() {
                row.field.to_owned()
            } else {
                format!("{prefix}.{}", row.field)
            };
            if *inner == wanted { Some(path) } else { search(inner, &path, wanted) }
        })
    }
    if wanted == tables::METADATA {
        return "a pod's `metadata`".to_owned();
    }
    search(table, "", wanted).map(|path| format!("`{path}`")).unwrap_or_default()
}

#[cfg(test)]
mod tests;
