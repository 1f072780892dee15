//! Sessions and commands against a broker that does what it is told, in virtual time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod command;
mod script;
mod seeing;
mod session;
mod signed;
