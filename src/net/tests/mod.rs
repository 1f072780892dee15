//! The network as a whole: members, limits, and random histories against a naive model.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod egress;
mod faults;
mod kit;
mod member;
mod model;

pub(super) use kit::*;
