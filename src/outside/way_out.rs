//! A pod's way out, as the fabric asks for it.
//!
//! Owns: translating between the two shapes. Decides nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::{Asked, Gateway, PodOutside};
use crate::fabric::{Answers, Finding, Outside};
use crate::net::{OutboundCall, SendError, UdpReply};

/// See the header.
#[derive(Debug)]
pub struct WayOut {
    gateway: Gateway,
    pod: Arc<PodOutside>,
}

impl Gateway {
    /// The way out of this pod.
    #[must_use]
    pub fn way_out(&self, pod: &Arc<PodOutside>) -> Arc<WayOut> {
        Arc::new(WayOut { gateway: self.clone(), pod: Arc::clone(pod) })
    }
}

impl Outside for WayOut {
    fn connect(&self, to: SocketAddr, call: OutboundCall) {
        self.gateway.connect(&self.pod, to, call);
    }

    fn send(
        &self,
        from: SocketAddr,
        to: SocketAddr,
        data: Bytes,
        reply: &UdpReply,
    ) -> Result<(), SendError> {
        self.gateway.send(&self.pod, from, to, &data, reply)
    }

    fn lookup(&self, name: &str) -> Finding {
        match self.gateway.lookup(&self.pod, name) {
            Asked::Now(found) => Box::pin(std::future::ready(found.map(answers))),
            Asked::Later(finding) => Box::pin(async { finding.await.map(answers) }),
        }
    }
}

fn answers(found: super::names::Found) -> Answers {
    Answers { addresses: found.addresses, ttl: found.ttl }
}
