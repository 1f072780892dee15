//! Whole runs of real guests, in this process. `lab.rs` is the equipment; each other file is about one promise.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod busy;
mod deadline;
mod exits;
mod http;
mod http3;
mod http3_shared;
mod http_limits;
mod https;
mod lab;
mod limits;
mod network;
mod network_p3;
mod pace;
mod pool;
mod prepare;
mod preview1;
mod space;
mod stacks;
mod stop;
mod streams;
