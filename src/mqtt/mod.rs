//! Pods over MQTT: topics, signed documents, trust, and the protocol's core.
//!
//! Owns: everything that `docs/mqtt.md` specifies, as pure functions and one sans-I/O machine. Not: sockets, TLS, the broker
//! (`transport`, `link`), nor running pods.
//!
//! ```text
//!  broker ─► link ─► Protocol::step(now, Input) ─► Output ─► link, store, reconciler, artifacts
//!                        │
//!                        ├─ topic       which topics there are
//!                        ├─ envelope    DSSE, Ed25519 over exact bytes
//!                        ├─ trust       whose word counts
//!                        ├─ intent, index, command     what they say
//!                        ├─ version     which of two is newer
//!                        ├─ record      what is kept
//!                        ├─ status      what the node answers
//!                        └─ signature   … and that it was the node
//!  controller (podling publish, fleet, key) ─► the same modules, from the other side
//! ```

pub mod cause;
pub mod command;
pub mod controller;
pub mod envelope;
pub mod index;
pub mod intent;
pub mod link;
pub mod protocol;
pub mod record;
pub mod signature;
pub mod status;
pub mod tls;
pub mod topic;
pub mod transport;
pub mod trust;
pub mod version;

#[cfg(test)]
pub(crate) mod kit;
#[cfg(test)]
mod manual;
