//! The core against a node in miniature (`kit::Lab`), sentence by sentence; `histories` drives it at random.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accepting;
mod commands;
mod connecting;
mod deleting;
mod histories;
mod hostile;
mod rolling;
mod signing;
mod storing;
mod trusting;
