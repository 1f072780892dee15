//! TCP inside a pod.
//!
//! ```text
//! socket     what a guest holds: a state machine over the rest
//! listener   a port that answers, with its backlog
//! handshake  a connect that waits for room in a backlog
//! conn       two ends, and how they close
//! halves     reading and writing at an end
//! pipe       the bytes of one direction
//! options    what a socket remembers (socket_options: the calls)
//! ```
//! Owns: the way of a connect, from address to listener. Who may call: adapters, through
//! [`crate::net`]'s re-exports.

pub(crate) mod conn;
pub(crate) mod halves;
pub(crate) mod handshake;
pub(crate) mod listener;
pub(crate) mod options;
pub(crate) mod pipe;
pub(crate) mod socket;
pub(crate) mod socket_options;

use std::net::SocketAddr;
use std::sync::Arc;

use super::addr::{self, Family, Protocol};
use super::egress::{Ask, Route};
use super::lease::{self, Lease};
use super::port::Claim;
use super::registry::Ticket;
use super::{Net, PodNet};
use conn::EndSeed;
use handshake::{ConnectError, Connecting};
use options::BufferSizes;

/// Opens a connection to `to`, from `local` if the socket is bound. Looks for the listener before
/// it takes a port, so that a refused connect costs none.
pub(crate) fn connect(
    ticket: Ticket,
    local: Option<Arc<Lease>>,
    family: Family,
    to: SocketAddr,
    sizes: BufferSizes,
) -> Result<Connecting, ConnectError> {
    if !addr::is_connectable(to, family) {
        return Err(ConnectError::InvalidAddress(to));
    }
    let member = Arc::clone(ticket.member());
    let net = &member.net;
    let target = target(net, &member.name, to).inspect_err(|_| member.counters.denied.add(1))?;
    let Some(listener) = lease::listener_at(target.as_ref().map_or(net, |pod| &pod.0), to) else {
        member.counters.connects_refused.add(1);
        return Err(ConnectError::Refused(to));
    };
    let source = net.addresses.source_towards(to.ip());
    let lease = match local {
        Some(lease) => lease,
        None => {
            let claim = Claim { ip: source, port: 0, dual: false };
            Lease::take(net, Protocol::Tcp, claim).map_err(|_| ConnectError::NoPort)?
        }
    };
    let bound = lease.address();
    let ip = if bound.ip().is_unspecified() { source } else { bound.ip() };
    let seed = EndSeed {
        address: SocketAddr::new(ip, bound.port()),
        send_size: sizes.send,
        receive_size: sizes.receive,
        lease: Some(lease),
        ticket: Some(ticket),
        member: Arc::clone(&member),
    };
    let connecting = listener.admit(to, seed).inspect_err(|_| {
        member.counters.connects_refused.add(1);
    })?;
    member.counters.connects.add(1);
    Ok(connecting)
}

/// The network that answers for `to`: `None` is the pod's own.
fn target(net: &Net, member: &str, to: SocketAddr) -> Result<Option<PodNet>, ConnectError> {
    if net.addresses.is_local(to.ip()) {
        return Ok(None);
    }
    match net.egress.route(&Ask { member, protocol: Protocol::Tcp, to }) {
        Route::Pod(pod) => Ok(Some(pod)),
        Route::Denied => Err(ConnectError::Denied(to)),
        Route::Unreachable => Err(ConnectError::Unreachable(to)),
    }
}
