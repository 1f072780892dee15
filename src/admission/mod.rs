//! Which pods fit on this node, and which must go when it runs short.
//!
//! Owns: what a pod asks for ([`Demand`]), whether that is there ([`admit`]), who goes first under pressure ([`rank`]), and how short
//! the node is ([`Pressure`]). Pure: capacities, samples and time are arguments. Is not: reading `/proc` (`daemon`), ending a pod
//! (`lifecycle`), nor limits of a single module (`runtime`).
//!
//! ```text
//!  pod ─► Demand ─► admit(among those that run, capacity) ─► Ok | Rejection (OutOfcpu, OutOfmemory, OutOfpods)
//!  samples of memory ─► Pressure::observe ─► Calm | Tight: nothing new is compiled or fetched | Short: evict one
//!  usage of each pod ─► rank ─► the victim, with Kubernetes' words
//! ```
//! Rules: `kubelet/lifecycle/predicate.go`, `kubelet/eviction`; `docs/limits.md` lists what differs.

mod evict;
mod fit;
mod ports;
mod pressure;

pub use evict::{Candidate, Consumer, Victim, rank};
pub use fit::{Capacity, Demand, Rejection, admit};
pub use ports::admit_ports;
pub use pressure::{Level, Pressure, Sample, Thresholds};
