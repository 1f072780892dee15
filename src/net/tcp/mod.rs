//! TCP inside a pod.
//!
//! ```text
//! socket     what a guest holds: a state machine over the rest
//! listener   a port that answers, with its backlog
//! handshake  a connect that waits, for room in a backlog or for the outside
//! outbound   the far end of a connect to the outside
//! parked     connects that wait for somebody to listen
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
pub(crate) mod parked;
pub(crate) mod pipe;
pub(crate) mod socket;
pub(crate) mod socket_options;

use std::net::SocketAddr;
use std::sync::Arc;

use super::Net;
use super::addr::{self, Family, Protocol};
use super::egress::Ask;
use super::faults::{Faults, NoRoom};
use super::lease::{self, Lease};
use super::lock;
use super::member::MemberState;
use super::port::Claim;
use super::registry::Ticket;
use super::way::Way;
use conn::{EndSeed, SideSeed};
use handshake::{ConnectError, Connecting, Handshake};
use listener::ListenerCore;
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
    let begun = begin(ticket, local, family, addr::plain(to), sizes);
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
    let way = match net.way(&member.name, Protocol::Tcp, from, to) {
        Way::Denied => return Err(ConnectError::Denied(to)),
        Way::Refused => return Err(ConnectError::Refused(to)),
        Way::Unreachable => return Err(ConnectError::Unreachable(to)),
        way @ (Way::Here | Way::Pod { .. } | Way::Outside) => way,
    };
    let listener = listener(net, &way, to);
    if listener.is_none() && !matches!(way, Way::Outside) && net.faults.is_none() {
        return Err(ConnectError::Refused(to));
    }
    let lease = match local {
        Some(lease) => lease,
        None => {
            let claim = Claim { ip: from.ip(), port: 0, dual: false };
            Lease::take(net, Protocol::Tcp, claim).map_err(|_| ConnectError::NoPort)?
        }
    };
    let address = SocketAddr::new(from.ip(), lease.address().port());
    let side = SideSeed { member: Arc::clone(&member), address, sizes };
    let seed = EndSeed { side, lease: Some(lease), ticket };
    let connecting = match (&net.faults, listener, &way) {
        (None, Some(listener), _) => listener.admit(to, way.address(to), seed)?,
        (None, None, Way::Outside) => call_outside(&member, to, seed),
        (None, None, _) => return Err(ConnectError::Refused(to)),
        (Some(faults), ..) => arrive_by(faults, &member, way, to, seed),
    };
    member.counters.connects.add(1);
    Ok(connecting)
}

/// Opens a connection to a listener of this pod, now or later, for a client elsewhere, whose address
/// the listener sees. Without one it comes from this pod.
pub(crate) fn connect_patiently(
    ticket: Ticket,
    client: Option<SocketAddr>,
    to: SocketAddr,
) -> Result<Connecting, ConnectError> {
    let (member, to) = (Arc::clone(ticket.member()), addr::plain(to));
    let handshake = patient(ticket, client, to);
    let handshake = handshake.inspect_err(|error| member.counters.count_failure(*error))?;
    member.counters.connects.add(1);
    handshake.attach();
    // First in line, then the look: a listener that starts in between finds it there.
    let nobody = handshake.park();
    debug_assert!(nobody.is_none(), "nobody has asked for the outcome yet");
    if let Some(listener) = lease::listener_at(&member.net, to) {
        listener.take_parked(to);
    }
    Ok(Connecting::waiting(handshake))
}

fn patient(
    ticket: Ticket,
    client: Option<SocketAddr>,
    to: SocketAddr,
) -> Result<Arc<Handshake>, ConnectError> {
    let member = Arc::clone(ticket.member());
    let net = &member.net;
    let same_family = client.is_none_or(|client| Family::of(client.ip()) == Family::of(to.ip()));
    let fits = addr::is_connectable(to, Family::of(to.ip()));
    if !same_family || !fits || !net.addresses.is_local(to.ip()) {
        return Err(ConnectError::InvalidAddress(to));
    }
    let (address, lease) = match client {
        Some(client) => (client, None),
        None => {
            let ip = net.addresses.source_towards(to.ip());
            let lease = Lease::take(net, Protocol::Tcp, Claim { ip, port: 0, dual: false });
            let lease = lease.map_err(|_| ConnectError::NoPort)?;
            (lease.address(), Some(lease))
        }
    };
    let sizes = TcpOptions::default().sizes;
    let side = SideSeed { member: Arc::clone(&member), address, sizes };
    let serial = lock(&net.parked).next_serial();
    Ok(Arc::new(Handshake::patient(to, EndSeed { side, lease, ticket }, serial)))
}

/// The listener at the end of the way, if it ends inside.
fn listener(net: &Net, way: &Way, to: SocketAddr) -> Option<Arc<ListenerCore>> {
    match way {
        Way::Here => lease::listener_at(net, to),
        Way::Pod { net, to } => lease::listener_at(&net.0, *to),
        Way::Outside | Way::Denied | Way::Refused | Way::Unreachable => None,
    }
}

/// Hands the connect over to whoever carries traffic to the outside.
fn call_outside(member: &MemberState, to: SocketAddr, seed: EndSeed) -> Connecting {
    let handshake = Arc::new(Handshake::new(to, seed));
    handshake.attach();
    ask_outside(member, &handshake);
    Connecting::waiting(handshake)
}

fn ask_outside(member: &MemberState, handshake: &Arc<Handshake>) {
    let (from, to) = (handshake.from(), handshake.to());
    let ask = Ask { member: &member.name, protocol: Protocol::Tcp, from, to };
    member.net.egress.connect(&ask, OutboundCall::new(Arc::clone(handshake)));
}

/// Sends the connect on a way on which it may be late: whom it meets is known when it comes.
fn arrive_by(
    faults: &Faults,
    member: &Arc<MemberState>,
    way: Way,
    to: SocketAddr,
    seed: EndSeed,
) -> Connecting {
    let handshake = Arc::new(Handshake::new(to, seed));
    handshake.attach();
    let real = way.address(to);
    let pair = member.net.pair_with(real.ip());
    let (late, sender) = (Arc::downgrade(&handshake), Arc::downgrade(member));
    let arrive = move || {
        let (Some(handshake), Some(member)) = (late.upgrade(), sender.upgrade()) else { return };
        match (listener(&member.net, &way, to), &way) {
            (Some(listener), _) => listener.admit_late(&handshake, real),
            (None, Way::Outside) => ask_outside(&member, &handshake),
            (None, _) => handshake.fail(ConnectError::Refused(to)),
        }
    };
    match faults.connect(pair, arrive) {
        Ok(Some(arrive)) => arrive(),
        Ok(None) => {}
        Err(NoRoom) => handshake.fail(ConnectError::Unreachable(to)),
    }
    Connecting::waiting(handshake)
}
