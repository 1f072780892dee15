//! What tests need and the program does not.
//!
//! Owns: builders of pods, and the simulator that runs a pod core under a virtual clock with scripted guests. Compiled
//! only for tests.

pub mod node;
pub mod pods;
pub mod sim;
