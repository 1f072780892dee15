//! Every bound in the program that is not local to one file, each with the reason for its number.

/// Largest manifest file, bytes. Kubernetes reads static pods up to 10 MB; the API server refuses bodies above 3 MiB.
/// A 100 MB file must cost its refusal only.
pub const MANIFEST_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// Documents in one manifest file. A file is a handful of objects; a thousand is a mistake or an attack.
pub const MANIFEST_DOCUMENTS_MAX: usize = 512;

/// Longest termination message of one container, bytes (Kubernetes: `MaxContainerTerminationMessageLength`).
pub const TERMINATION_MESSAGE_BYTES_MAX: usize = 4096;

/// Bytes of log kept in memory for one run of one container. Logs never touch flash; the last pages are what a person
/// at 3 a.m. reads, and 100 containers must fit beside everything else in 128 MB.
pub const LOG_RING_BYTES_MAX: usize = 128 * 1024;

/// Longest single log line, bytes; a longer one is cut into partial lines as the CRI does (16 KiB).
pub const LOG_LINE_BYTES_MAX: usize = 16 * 1024;

/// Log of one run, bytes a second, over time, and at once: what is more is dropped, and a line says how much. A module that prints without
/// end would push everything worth reading out of its ring within milliseconds, and keep whoever follows it busy. An annotation sets it
/// (`log-rate`).
pub const LOG_BYTES_PER_SECOND: u64 = 256 * 1024;

/// Log of one run at once: so many seconds' worth, and never less than some lines.
pub const LOG_BURST_SECONDS: u64 = 4;
pub const LOG_BURST_BYTES_MIN: u64 = 64 * 1024;

/// Events of one pod waiting for its worker. Each instance, probe and timer has at most one in flight; 64 is several
/// times a large pod's worth, and a sender that finds it full waits.
pub const POD_EVENTS_MAX: usize = 64;

/// Kubernetes Events kept, over all pods. An event is under a kilobyte; Kubernetes keeps an hour's worth.
pub const EVENTS_MAX: usize = 1024;

/// Pods on one node (Kubernetes' own default is 110; gateways are small but modules are cheap).
pub const PODS_MAX: usize = 1024;

/// ConfigMaps, Secrets, Services and NetworkPolicies on one node, together: as many as pods. Each of the first two may have a
/// mebibyte, and all are in memory.
pub const DATA_OBJECTS_MAX: usize = 1024;

/// What an entry of a folder counts beside its content, towards the limit of a volume, bytes: an inode and a name, which cost a flash some
/// hundred bytes each.
pub const ENTRY_BYTES: u64 = 1024;

/// No program of ours is run this long after it was made, milliseconds: what says that it is later still (a file's time, a signature) was made
/// by a clock that is wrong. Believed, it would make every right clock look late, and every certificate expired.
pub const PROGRAM_LIFE_MS: i64 = 20 * 365 * 24 * 3_600_000;
