//! The little networking that several example guests share.
//!
//! Owns: waiting on many sockets at once ([`poll`]), a single-threaded HTTP/1.1 server ([`serve`]) and a one-shot
//! HTTP client ([`get`]). Not: TLS, request bodies, HTTP/2; the examples need none of them.
//!
//! Limits stand beside what they bound, in `server.rs` and `client.rs`.

mod client;
pub mod poll;
mod server;

pub use client::{Url, get};
pub use server::{Body, Reply, Request, serve};

/// A number from the environment; `fallback` where it is absent. A value that is no number is said and passed over.
#[must_use]
pub fn number_from_env(name: &str, fallback: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| {
            eprintln!("{name}={text:?} is not a whole number; using {fallback}");
            fallback
        }),
        Err(_) => fallback,
    }
}
