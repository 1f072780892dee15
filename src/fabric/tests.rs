#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

//! Pods with real networks in one fabric.

mod kit;
mod outward;
mod pods;
mod services;
