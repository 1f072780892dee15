//! Which pods exist, and keeping that durable.
//!
//! Owns: the merged desire of all sources, its record on disk, the workers. Not: what happens inside a pod (`lifecycle`, `pod`),
//! nor the wire (`server`, `manifest`).
//!
//! ```text
//!  folder ─┐                ┌─ store (durable before acknowledged, before acted upon)
//!  API    ─┼─► intake ─► NodeTask ─► desired ─► plan ─► workers
//!  play   ─┘                └─ board (what readers see)
//! ```
//!
//! One task owns all of it ([`NodeTask`]); everyone else holds a [`NodeHandle`], whose methods are the whole protocol.

pub mod desired;
mod endpoints;
mod files;
pub mod form;
pub mod handle;
pub mod intake;
pub mod plan;
pub mod records;
mod remote;
mod restore;
mod room;
mod services;
pub mod task;
mod writes;

pub use handle::{NodeHandle, Refusal};
pub use intake::{Offer, Offered};
pub use task::NodeTask;
