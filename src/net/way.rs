//! The way to an address: inside the pod, into another one, outside, or nowhere.
//!
//! Owns: asking [`super::Egress`], and distrusting its answer where a mistake would be a hole.
//! Is not: a policy.

use std::net::SocketAddr;

use super::addr::Protocol;
use super::egress::{Ask, Route};
use super::{Net, PodNet};

/// See the header.
#[derive(Debug)]
pub(crate) enum Way {
    /// This pod's own address.
    Here,
    /// A pod's, at the address it has there.
    Pod {
        net: PodNet,
        to: SocketAddr,
    },
    Outside,
    Denied,
    Refused,
    Unreachable,
}

impl Way {
    /// The address as the other side has it, where `asked` was named.
    pub(crate) fn address(&self, asked: SocketAddr) -> SocketAddr {
        match self {
            Way::Pod { to, .. } => *to,
            Way::Here | Way::Outside | Way::Denied | Way::Refused | Way::Unreachable => asked,
        }
    }
}

impl Net {
    /// The way from `from` to `to`, for `member`.
    pub(crate) fn way(
        &self,
        member: &str,
        protocol: Protocol,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Way {
        if self.addresses.is_local(to.ip()) {
            return Way::Here;
        }
        match self.egress.route(&Ask { member, protocol, from, to }) {
            // A pod's loopback is nobody else's business, whatever a table of routes says.
            Route::Pod { net, to } if net.0.addresses.is_pods(to.ip()) => Way::Pod { net, to },
            Route::Pod { .. } | Route::Unreachable => Way::Unreachable,
            Route::Outside => Way::Outside,
            Route::Denied => Way::Denied,
            Route::Refused => Way::Refused,
        }
    }
}
