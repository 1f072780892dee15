//! Bounds of a module that answers HTTP (`wasi:http`).

use std::time::Duration;

/// Bounds of a module that answers HTTP. The first five have annotations (`docs/manifest.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Requests under way at once, each with an instance; at least one. One more waits for a moment, then gets 503.
    pub concurrency: usize,
    /// From the request's head to the response's; then 504.
    pub request_timeout: Duration,
    /// Longest body of a request, bytes; a longer one gets 413. Bodies are streamed: this bounds what a handler is sent,
    /// not what the host holds.
    pub body_bytes_max: u64,
    /// Requests that one instance answers before it is replaced; at least one. `None`: as its interface has it, one for WASI 0.2, and many for 0.3.
    pub requests_per_instance: Option<u32>,
    /// Requests that one instance of WASI 0.3 answers at the same time, where it answers several at all; at least one.
    pub requests_at_once: usize,
    /// Time for a request's head, from the moment the connection waits for one: how long an idle connection is kept, and how
    /// long a slow client is listened to.
    pub head_timeout: Duration,
    /// Time that a client may let pass between two parts of a request's body, or take nothing of a response.
    pub client_patience: Duration,
    /// Time that a handler may go on after its response is with the client, or after the client has gone.
    pub afterwards: Duration,
    /// Time that an instance is kept for the next request.
    pub idle_time: Duration,
}

impl Default for HttpLimits {
    /// 64 at once: an instance of a small module has 1 to 2 MiB, and gateways have hundreds. A minute is what proxies wait (nginx,
    /// kube's ingress). 64 MiB: firmware and pictures pass, disks do not. 16 in an instance: what wasmtime's own server has. Ten seconds: a client that asks
    /// now and then finds an instance, and what is at rest has no memory.
    fn default() -> Self {
        Self {
            concurrency: 64,
            request_timeout: Duration::from_secs(60),
            body_bytes_max: 64 << 20,
            requests_per_instance: None,
            requests_at_once: 16,
            head_timeout: Duration::from_secs(30),
            client_patience: Duration::from_secs(60),
            afterwards: Duration::from_secs(60),
            idle_time: Duration::from_secs(10),
        }
    }
}
