//! Resident memory of this process, and what it is made of.

use std::collections::BTreeMap;

use anyhow::Context as _;

use super::report::{Cell, Table};

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Linear memories: their initial images, and the rest of their reservations.
    Linear,
    /// Stacks of guests, and of threads.
    Stacks,
    /// The allocator's.
    Heap,
    /// Programs, compiled modules, libraries.
    Files,
    Other,
}

impl Kind {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Linear, "linear memories"),
        (Self::Stacks, "stacks"),
        (Self::Heap, "host's heap"),
        (Self::Files, "files mapped"),
        (Self::Other, "other"),
    ];
}

/// One look at `/proc/self/smaps`; bytes of resident memory, proportional where it is shared.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pss: u64,
    rss: u64,
    kinds: BTreeMap<Kind, u64>,
}

/// Virtual size of one guest's stack, with wasmtime's guard page apart.
const GUEST_STACK: u64 = 2 << 20;

/// A linear memory lies in a reservation of gigabytes; nothing else of ours does.
const RESERVATION_MIN: u64 = 32 << 20;

/// glibc's arenas reserve this much and are aligned to it.
const ARENA: u64 = 64 << 20;

impl Memory {
    /// # Errors
    /// If the kernel does not tell.
    pub fn now() -> anyhow::Result<Self> {
        let rollup =
            std::fs::read_to_string("/proc/self/smaps_rollup").context("read smaps_rollup")?;
        let of = |name: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(kib).with_context(|| format!("no {name} in smaps_rollup"))
        };
        let (pss, rss) = (of("Pss:")?, of("Rss:")?);
        let smaps = std::fs::read_to_string("/proc/self/smaps").context("read smaps")?;
        Ok(Self { pss, rss, kinds: by_kind(&smaps) })
    }
}

impl Memory {
    /// The allocator's part and all of it, bytes.
    #[must_use]
    pub fn heap_and_all(&self) -> (u64, u64) {
        (self.kinds.get(&Kind::Heap).copied().unwrap_or(0), self.pss)
    }

    /// All of it, where it is shared in proportion.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "kibibytes of one machine")]
    pub fn pss_kib(&self) -> f64 {
        self.pss as f64 / 1024.0
    }

    /// Without linear memories.
    fn beyond(&self) -> u64 {
        self.pss.saturating_sub(self.kinds.get(&Kind::Linear).copied().unwrap_or(0))
    }
}

/// What each of `pods` pods has added beyond its linear memories, and by kind, KiB.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "kibibytes of one machine")]
pub fn kib_each(before: &Memory, after: &Memory, pods: usize) -> (f64, Vec<(&'static str, f64)>) {
    let each = |before: u64, after: u64| (after as f64 - before as f64) / 1024.0 / pods as f64;
    let of = |memory: &Memory, kind| memory.kinds.get(&kind).copied().unwrap_or(0);
    let kind = |(kind, name): (Kind, &'static str)| (name, each(of(before, kind), of(after, kind)));
    (each(before.beyond(), after.beyond()), Kind::ALL.map(kind).to_vec())
}

fn kib(rest: &str) -> Option<u64> {
    rest.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// One mapping of smaps.
struct Mapping {
    start: u64,
    end: u64,
    accessible: bool,
    path: String,
    pss: u64,
}

fn by_kind(smaps: &str) -> BTreeMap<Kind, u64> {
    let mut mappings: Vec<Mapping> = vec![];
    for line in smaps.lines() {
        if let Some(mapping) = header(line) {
            mappings.push(mapping);
        } else if let (Some(pss), Some(last)) = (line.strip_prefix("Pss:"), mappings.last_mut()) {
            last.pss = kib(pss).unwrap_or(0);
        }
    }
    let mut sums = BTreeMap::new();
    for (at, mapping) in mappings.iter().enumerate() {
        *sums.entry(kind_of(mapping, &mappings[at + 1..])).or_default() += mapping.pss;
    }
    sums
}

fn header(line: &str) -> Option<Mapping> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    let accessible = words.next()?.starts_with('r');
    let path = words.skip(3).collect::<Vec<_>>().join(" ");
    Some(Mapping { start, end, accessible, path, pss: 0 })
}

/// Told from name, size and what lies behind: the kernel keeps no better record.
fn kind_of(mapping: &Mapping, behind: &[Mapping]) -> Kind {
    if mapping.path.contains("wasm-memory-image") {
        return Kind::Linear;
    }
    if mapping.path == "[heap]" {
        return Kind::Heap;
    }
    if mapping.path.starts_with("[stack") {
        return Kind::Stacks;
    }
    if mapping.path.starts_with('/') {
        return Kind::Files;
    }
    if !mapping.accessible || !mapping.path.is_empty() {
        return Kind::Other;
    }
    let size = mapping.end - mapping.start;
    // Parts of one linear memory follow each other without a hole, and end in its unused reservation.
    let mut end = mapping.end;
    for next in behind {
        if next.start != end || next.path.starts_with('[') {
            break;
        }
        end = next.end;
        let reserved = next.end - next.start;
        if !next.accessible && reserved > ARENA {
            return Kind::Linear;
        }
        if !next.accessible {
            break;
        }
    }
    let arena = mapping.start.is_multiple_of(ARENA) && size < ARENA;
    if !arena && (size == GUEST_STACK || size + 4096 == GUEST_STACK) {
        return Kind::Stacks;
    }
    if size < RESERVATION_MIN || arena { Kind::Heap } else { Kind::Other }
}

/// What `pods` pods of two modules have added.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "kibibytes of one machine")]
pub fn table(before: &Memory, after: &Memory, pods: usize) -> Table {
    let mut table = Table::new(
        format!("Resident memory with {pods} idle pods of two modules (KiB)"),
        &["", "before", "after", "a pod", "goal"],
    );
    let mut row = |what: &str, before: u64, after: u64, goal: &str| {
        let kib = |bytes: u64| bytes as f64 / 1024.0;
        table.row(vec![
            what.into(),
            Cell::Number(kib(before), 0),
            Cell::Number(kib(after), 0),
            Cell::Number((kib(after) - kib(before)) / pods as f64, 1),
            goal.into(),
        ]);
    };
    let of = |memory: &Memory, kind| memory.kinds.get(&kind).copied().unwrap_or(0);
    row("PSS", before.pss, after.pss, "");
    row("PSS beyond linear memories", before.beyond(), after.beyond(), "≤ 1024 a pod");
    for (kind, name) in Kind::ALL {
        row(&format!("  of PSS: {name}"), of(before, kind), of(after, kind), "");
    }
    row("RSS", before.rss, after.rss, "");
    table
}
