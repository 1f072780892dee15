//! Where desired pods come from, as complete snapshots.
//!
//! Owns: reading the sources. Not: understanding manifests (`manifest`), nor deciding which source wins
//! (`reconciler::desired`). The local API is no source of snapshots: it asks the reconciler directly.

pub mod folder;
pub mod mqtt;
