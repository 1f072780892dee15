#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod commands;
mod layout;
mod page;
