//! **podling** runs Kubernetes-shaped Pods whose containers are WebAssembly modules, all inside one process, on an
//! embedded Linux gateway. This library is the whole program; `main.rs` only calls [`cli`].
//!
//! In the order data takes:
//!
//! ```text
//!  folder ─┐                        ┌─► board ─► server (Kubernetes REST) ◄─ cli
//!  API    ─┼─► manifest ─► reconciler ─► store
//!  play   ─┘                        └─► pod (worker, hands) ◄─► lifecycle (pure)
//!                                          ├─► image, volume, net
//!                                          └─► runtime ─► wasi ─► net
//! ```
//!
//! Decisions are made in pure places only: `manifest` (what is valid), `reconciler::{desired, plan}` (which pods), `lifecycle` (what a
//! pod does next), `net` (what a socket answers). Everything else carries things out. `ARCHITECTURE.md` has the map and
//! the invariants; `tests/layering.rs` keeps who may know whom.

// Values first: what everything else speaks.
pub mod clock;
pub mod error;
pub mod limits;
pub mod spec;

// The pure cores.
pub mod admission;
pub mod lifecycle;
pub mod manifest;
pub mod net;

// What is kept, and how it comes here.
pub mod artifact;
pub mod image;
pub mod secret;
pub mod store;
pub mod volume;

// What runs modules.
pub mod runtime;
pub mod wasi;

// The shell, inside out.
pub mod board;
pub mod fabric;
pub mod outside;
pub mod pod;
pub mod reconciler;
pub mod source;

// Pods from afar.
pub mod mqtt;

// The edges.
pub mod cli;
pub mod controller;
pub mod daemon;
pub mod play;
pub mod server;

// What a fuzzer calls.
#[doc(hidden)]
pub mod fuzzing;

#[cfg(test)]
pub mod testkit;
