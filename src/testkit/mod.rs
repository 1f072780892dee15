//! What tests need and the program does not.
//!
//! Owns: builders of pods, and the simulator that runs a pod core under a virtual clock with scripted guests. Compiled
//! only for tests.

#[path = "../../tests/it/registry.rs"]
#[allow(dead_code, reason = "shared with tests that need more of it")]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
pub mod registry;

pub mod node;
pub mod pods;
pub mod ports;
pub mod sim;
