//! The real binary, end to end: what a person who runs a gateway would see.
//!
//! One integration binary, so that it is linked once. Each file is a theme, each test a sentence. Nothing here sleeps: waits are
//! for conditions, with a deadline.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::disallowed_methods,
    reason = "outside the program: polls other processes, renames its own files"
)]

mod api;
mod bad_input;
mod between;
#[cfg(feature = "compiler")]
mod compile;
mod core_files;
mod crashes;
#[cfg(feature = "demo")]
mod demo;
mod egress;
mod fabric;
mod fleet;
mod folder;
mod forward;
mod http;
mod http_wire;
mod images;
mod key_trust;
mod kill9;
mod kubectl;
mod mqtt;
mod old_broker;
mod play;
mod publish;
mod publish_mqtt;
mod publish_ways;
#[allow(dead_code, reason = "shared with the library's own tests")]
mod registry;
mod restart;
mod room;
mod settings;
mod signed;
#[cfg(feature = "compiler")]
mod slow_compile;
mod space;
mod support;
