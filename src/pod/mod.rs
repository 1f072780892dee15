//! The hands of the core: one worker for each pod, and what it needs to carry out the core's actions.
//!
//! Owns: performing `lifecycle`'s actions on the real runtime, network, volumes and images, and reporting back what
//! happened. Not: deciding (that is `lifecycle`), nor whether a pod should exist (`reconciler`).
//!
//! ```text
//!   reconciler ──orders──► worker ──actions──► hands ──► sandbox (net, volumes, host ports)
//!                            ▲  │                 ├────► run (environment, mounts, runtime)
//!                            │  └─► published     ├────► prober, hooks
//!                            └──────reports───────┘
//! ```
//!
//! Who may call: `reconciler` starts workers, `server` and `play` read logs.

pub mod context;
pub mod environment;
pub mod exec;
pub mod hands;
pub mod holds;
pub mod host_port;
pub mod http_probe;
pub mod images;
pub mod logs;
pub mod net_io;
pub mod networks;
pub mod node_ports;
pub mod objects;
pub mod prober;
pub mod published;
pub mod run;
pub mod sandbox;
pub mod space;
pub mod timers;
pub mod usage;
pub mod worker;

#[cfg(test)]
mod tests;

pub use context::{Keeper, NodeContext, NodeFacts};
pub use published::PublishedPod;
pub use worker::{Worker, WorkerHandle};
