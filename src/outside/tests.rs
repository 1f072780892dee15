//! The way out, with a module's side that is a test, and the outside on loopback.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod kit;
mod lookups;
mod tcp;
mod udp;
