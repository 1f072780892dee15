//! The daemon under measurement, seen from outside: its counters, its pods, its processor time.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use crate::rig::metrics;
use crate::support::{Node, http_get_socket, is_ready};

/// Questions of which the cost of one is taken: enough for the kernel's tick of 10 ms not to matter.
const ASKED: u32 = 100;

/// What the node has spent so far. Bytes on the wire are those below TLS.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Costs {
    pub(crate) wire_in: i64,
    pub(crate) wire_out: i64,
    pub(crate) flash: i64,
    pub(crate) fsyncs: i64,
    pub(crate) cpu: Duration,
}

impl Costs {
    /// One question, which costs the node itself something: with hundreds of pods, milliseconds ([`Costs::of_asking`]).
    pub(crate) fn of(node: &mut Node) -> Self {
        let all = metrics(node);
        let number = |name: &str| {
            let found = all.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
            found.unwrap_or_else(|| panic!("no {name} in {all}"))
        };
        Self {
            wire_in: number("podling_mqtt_bytes_total{direction=\"in\"}"),
            wire_out: number("podling_mqtt_bytes_total{direction=\"out\"}"),
            flash: number("podling_store_written_bytes_total"),
            fsyncs: number("podling_store_fsync_total"),
            cpu: cpu(node.daemon().child.id()),
        }
    }

    /// The processor time that one question takes of a node that does nothing else.
    pub(crate) fn of_asking(node: &mut Node) -> Duration {
        let before = cpu(node.daemon().child.id());
        for _ in 0..ASKED {
            metrics(node);
        }
        cpu(node.daemon().child.id()).saturating_sub(before) / ASKED
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            wire_in: self.wire_in - before.wire_in,
            wire_out: self.wire_out - before.wire_out,
            flash: self.flash - before.flash,
            fsyncs: self.fsyncs - before.fsyncs,
            cpu: self.cpu.saturating_sub(before.cpu),
        }
    }

    pub(crate) fn wire(self) -> i64 {
        self.wire_in + self.wire_out
    }
}

/// Processor time of a process, user's and kernel's, to the kernel's tick of 10 ms.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold anything, and ends with the last parenthesis; the 14th and 15th field of all.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Every pod of the node; `None` while nobody answers.
pub(crate) fn pods(socket: &Path) -> Option<Vec<Value>> {
    let body = http_get_socket(socket, "/api/v1/pods")?;
    // An answer in pieces has their lengths between them; nothing else has braces.
    let (from, to) = (body.find('{')?, body.rfind('}')?);
    let mut list: Value = serde_json::from_str(body.get(from..=to)?).ok()?;
    Some(std::mem::take(list["items"].as_array_mut()?))
}

/// Waits until so many pods are ready, all of them; when they were seen to be.
pub(crate) fn all_ready(socket: &Path, count: usize) -> anyhow::Result<Instant> {
    let deadline = crate::deadline();
    while Instant::now() < deadline {
        if pods(socket).is_some_and(|pods| pods.len() == count && pods.iter().all(is_ready)) {
            return Ok(Instant::now());
        }
        // Between two looks: the figure's grain.
        std::thread::sleep(Duration::from_millis(5));
    }
    anyhow::bail!("{count} pods are not ready")
}

/// A watch of one pod: each form of it as the API tells it, with the time.
pub(crate) struct Watch(BufReader<UnixStream>);

impl Watch {
    pub(crate) fn begin(socket: &Path, pod: &str) -> anyhow::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(crate::PATIENCE))?;
        let path = "/api/v1/namespaces/default/pods?watch=true&fieldSelector=metadata.name%3D";
        write!(stream, "GET {path}{pod} HTTP/1.0\r\nHost: podling\r\n\r\n")?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Reads on until the pod of that generation is ready.
    pub(crate) fn ready(&mut self, generation: u64) -> anyhow::Result<Instant> {
        let mut line = String::new();
        let deadline = crate::deadline();
        loop {
            anyhow::ensure!(Instant::now() < deadline, "generation {generation} is not ready");
            line.clear();
            let read = self.0.read_line(&mut line).context("the watch fell silent")?;
            anyhow::ensure!(read > 0, "the watch ended");
            let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
            let pod = &event["object"];
            let leaves =
                event["type"] == "DELETED" || !pod["metadata"]["deletionTimestamp"].is_null();
            if !leaves && pod["metadata"]["generation"] == generation && is_ready(pod) {
                return Ok(Instant::now());
            }
        }
    }
}
