//! Bounds of a module that answers HTTP (`wasi:http`).

use std::time::Duration;

/// Bounds of a module that answers HTTP. The first four have annotations (`docs/manifest.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Requests under way at once, each with an instance; at least one. One more waits for a moment, then gets 503.
    pub concurrency: usize,
    /// From the request's head to the response's; then 504.
    pub request_timeout: Duration,
    /// Longest body of a request, bytes; a longer one gets 413. Bodies are streamed: this bounds what a handler is sent,
    /// not what the host holds.
    pub body_bytes_max: u64,
    /// Requests that one instance answers, one after the other, before it is replaced; at least one.
    pub requests_per_instance: u32,
    /// Time for a request's head, from the moment the connection waits for one: how long an idle connection is kept, and how
    /// long a slow client is listened to.
    pub head_timeout: Duration,
    /// Time that a client may let pass between two parts of a request's body, or take nothing of a response.
    pub client_patience: Duration,
}

impl Default for HttpLimits {
    /// 64 at once: an instance of a small module has 1 to 2 MiB, and gateways have hundreds. A minute is what proxies wait (nginx,
    /// kube's ingress). 64 MiB: firmware and pictures pass, disks do not.
    fn default() -> Self {
        Self {
            concurrency: 64,
            request_timeout: Duration::from_secs(60),
            body_bytes_max: 64 << 20,
            requests_per_instance: 1,
            head_timeout: Duration::from_secs(30),
            client_patience: Duration::from_secs(60),
        }
    }
}
