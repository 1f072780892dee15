//! TCP inside a pod.
//!
//! ```text
//! socket     what a guest holds: a state machine over the rest
//! listener   a port that answers, with its backlog
//! handshake  a connect that waits, for room in a backlog or for the outside
//! outbound   the far end of a connect to the outside
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
pub(crate) mod outbound;
pub(crate) mod pipe;
pub(crate) mod socket;
pub(crate) mod socket_options;

use std::net::SocketAddr;
use std::sync::Arc;

use super::addr::{self, Family, Protocol};
use super::egress::Ask;
use super::lease::{self, Lease};
use super::member::MemberState;
use super::port::Claim;
use super::registry::Ticket;
use super::way::Way;
use conn::EndSeed;
use handshake::{ConnectError, Connecting, Handshake};
use options::{BufferSizes, TcpOptions};
use outbound::OutboundCall;

/// Opens a connection to `to`, from `local` if the socket is bound. Looks for the listener before
/// it takes a port, so that a refused connect costs none.
pub(crate) fn connect(
    ticket: Ticket,
    local: Option<Arc<Lease>>,
    family: Family,
    to: SocketAddr,
    sizes: BufferSizes,
) -> Result<Connecting, ConnectError> {
    let member = Arc::clone(ticket.member());
    let begun = begin(ticket, local, family, to, sizes);
    if let Err(error) = &begun {
        member.counters.count_failure(*error);
    }
    begun
}

fn begin(
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
    let bound = local.as_ref().map(|lease| lease.address());
    let from = net.addresses.source(bound, to).ok_or(ConnectError::InvalidAddress(to))?;
    let way = net.way(&member.name, Protocol::Tcp, from, to);
    let listener = match &way {
        Way::Here => lease::listener_at(net, to),
        Way::Pod { net, to } => lease::listener_at(&net.0, *to),
        Way::Outside => None,
        Way::Denied => return Err(ConnectError::Denied(to)),
        Way::Unreachable => return Err(ConnectError::Unreachable(to)),
    };
    if listener.is_none() && !matches!(way, Way::Outside) {
        return Err(ConnectError::Refused(to));
    }
    let lease = match local {
        Some(lease) => lease,
        None => {
            let claim = Claim { ip: from.ip(), port: 0, dual: false };
            Lease::take(net, Protocol::Tcp, claim).map_err(|_| ConnectError::NoPort)?
        }
    };
    let seed = EndSeed {
        address: SocketAddr::new(from.ip(), lease.address().port()),
        send_size: sizes.send,
        receive_size: sizes.receive,
        lease: Some(lease),
        ticket: Some(ticket),
        member: Arc::clone(&member),
    };
    let connecting = match listener {
        Some(listener) => listener.admit(to, way.address(to), seed)?,
        None => call_outside(&member, to, seed),
    };
    member.counters.connects.add(1);
    Ok(connecting)
}

/// Opens a connection to a listener of this pod for a client elsewhere, whose address the listener
/// sees. Takes no port.
pub(crate) fn connect_for(
    ticket: Ticket,
    client: SocketAddr,
    to: SocketAddr,
) -> Result<Connecting, ConnectError> {
    let member = Arc::clone(ticket.member());
    let same_family = Family::of(client.ip()) == Family::of(to.ip());
    if !same_family || !member.net.addresses.is_local(to.ip()) {
        return Err(ConnectError::InvalidAddress(to));
    }
    let sizes = TcpOptions::default().sizes;
    let seed = EndSeed {
        address: client,
        send_size: sizes.send,
        receive_size: sizes.receive,
        lease: None,
        ticket: Some(ticket),
        member: Arc::clone(&member),
    };
    let listener = lease::listener_at(&member.net, to).ok_or(ConnectError::Refused(to));
    let connecting = listener.and_then(|listener| listener.admit(to, to, seed));
    match &connecting {
        Ok(_) => member.counters.connects.add(1),
        Err(error) => member.counters.count_failure(*error),
    }
    connecting
}

/// Hands the connect over to whoever carries traffic to the outside.
fn call_outside(member: &MemberState, to: SocketAddr, seed: EndSeed) -> Connecting {
    let from = seed.address;
    let handshake = Arc::new(Handshake::new(None, to, seed));
    handshake.attach();
    let ask = Ask { member: &member.name, protocol: Protocol::Tcp, from, to };
    member.net.egress.connect(&ask, OutboundCall::new(Arc::clone(&handshake)));
    Connecting::waiting(handshake)
}
