//! `wasi:sockets` 0.2.
//!
//! ```text
//! tcp     tcp, tcp-create-socket: start/finish rules, then crate::net::TcpSocket
//! stream  a connection's halves as wasi:io streams
//! udp     udp, udp-create-socket
//! lookup  ip-name-lookup
//! ```
//! Owns, here: the list of the interfaces, the `network` handle (which carries no rights of its own
//! here: what a module may reach is its member's matter), and the translation of each of the
//! network's errors into WASI's code for it.

mod lookup;
pub(super) mod stream;
mod tcp;
mod udp;

use std::io;

use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::bindings::sockets::network::{
    self, ErrorCode, HostNetwork, IpAddressFamily, Network,
};
use wasmtime_wasi::p2::bindings::sockets::{
    self, instance_network, ip_name_lookup, tcp_create_socket, udp_create_socket,
};
use wasmtime_wasi::p2::{SocketError, SocketResult};

use crate::net::{
    AcceptError, BindError, ConnectError, Family, ListenError, OpenError, ReceiveError,
    ResolveError, SendError, SetBacklogError, WrongState, ZeroOption,
};
use crate::wasi::files::has_places;
use crate::wasi::sockets::{HasNet, NetCtxView, NetView, ours, theirs};

/// The interfaces that [`add_to_linker_p2`] links.
pub const WASI_0_2: &[&str] = &[
    "wasi:sockets/network",
    "wasi:sockets/instance-network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
    "wasi:sockets/ip-name-lookup",
];

/// Links `wasi:sockets` 0.2, on the pod's network.
///
/// # Errors
/// wasmtime's, if one of the interfaces is linked already.
pub fn add_to_linker_p2<T: NetView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    let mut options = network::LinkOptions::default();
    // Not yet stable in WASI; without it a program cannot tell a reset from any other failure of a stream.
    options.network_error_code(true);
    network::add_to_linker::<T, HasNet>(linker, &options, T::net)?;
    instance_network::add_to_linker::<T, HasNet>(linker, T::net)?;
    sockets::tcp::add_to_linker::<T, HasNet>(linker, T::net)?;
    tcp_create_socket::add_to_linker::<T, HasNet>(linker, T::net)?;
    sockets::udp::add_to_linker::<T, HasNet>(linker, T::net)?;
    udp_create_socket::add_to_linker::<T, HasNet>(linker, T::net)?;
    ip_name_lookup::add_to_linker::<T, HasNet>(linker, T::net)?;
    Ok(())
}

/// What stands in the table for a `network` handle.
struct NetworkHandle;

impl NetCtxView<'_> {
    /// Checks that a handle the guest passed is one.
    fn check_network(&self, network: &Resource<Network>) -> SocketResult<()> {
        self.table.get(&ours::<NetworkHandle, _>(network))?;
        Ok(())
    }

    /// Whether the table has so many places left: asked before anything is done, so that nothing is lost where it has not; then the
    /// module is told so with `otherwise` and goes on.
    fn check_places(&mut self, count: usize, otherwise: ErrorCode) -> SocketResult<()> {
        if has_places(self.table, count) { Ok(()) } else { Err(otherwise.into()) }
    }
}

impl instance_network::Host for NetCtxView<'_> {
    fn instance_network(&mut self) -> wasmtime::Result<Resource<Network>> {
        Ok(theirs(&self.table.push(NetworkHandle)?))
    }
}

impl HostNetwork for NetCtxView<'_> {
    fn drop(&mut self, this: Resource<Network>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<NetworkHandle>::new_own(this.rep()))?;
        Ok(())
    }
}

impl network::Host for NetCtxView<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn network_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        let error = self.table.get(&error)?;
        Ok(error.downcast_ref::<io::Error>().map(ErrorCode::from))
    }
}

fn family(family: IpAddressFamily) -> Family {
    match family {
        IpAddressFamily::Ipv4 => Family::V4,
        IpAddressFamily::Ipv6 => Family::V6,
    }
}

fn address_family(family: Family) -> IpAddressFamily {
    match family {
        Family::V4 => IpAddressFamily::Ipv4,
        Family::V6 => IpAddressFamily::Ipv6,
    }
}

// ---- errors: one function for each of the network's, so that a new variant there does not compile
// here

fn open_code(error: OpenError) -> ErrorCode {
    match error {
        OpenError::MemberLimit | OpenError::PodLimit => ErrorCode::NewSocketLimit,
        OpenError::NoMemory => ErrorCode::OutOfMemory,
        OpenError::Gone => ErrorCode::InvalidState,
    }
}

fn bind_code(error: BindError) -> ErrorCode {
    match error {
        BindError::InvalidAddress(_) => ErrorCode::InvalidArgument,
        BindError::InvalidState | BindError::Gone => ErrorCode::InvalidState,
        BindError::InUse(_) | BindError::NoPort => ErrorCode::AddressInUse,
        BindError::NotOurs(_) => ErrorCode::AddressNotBindable,
    }
}

fn listen_code(error: ListenError) -> ErrorCode {
    match error {
        ListenError::InvalidState => ErrorCode::InvalidState,
        ListenError::Bind(error) => bind_code(error),
        ListenError::Open(error) => open_code(error),
    }
}

fn connect_code(error: ConnectError) -> ErrorCode {
    match error {
        ConnectError::InvalidAddress(_) => ErrorCode::InvalidArgument,
        ConnectError::InvalidState => ErrorCode::InvalidState,
        ConnectError::Refused(_) => ErrorCode::ConnectionRefused,
        ConnectError::Denied(_) => ErrorCode::AccessDenied,
        ConnectError::Unreachable(_) => ErrorCode::RemoteUnreachable,
        ConnectError::NoPort => ErrorCode::AddressInUse,
        ConnectError::TimedOut(_) => ErrorCode::Timeout,
        ConnectError::Open(error) => open_code(error),
    }
}

fn accept_code(error: AcceptError) -> ErrorCode {
    match error {
        AcceptError::Open(error) => open_code(error),
        AcceptError::Closed => ErrorCode::InvalidState,
    }
}

fn send_code(error: SendError) -> ErrorCode {
    match error {
        SendError::InvalidAddress(_) | SendError::OtherPeer(_) | SendError::NoAddress => {
            ErrorCode::InvalidArgument
        }
        SendError::TooLong(_) => ErrorCode::DatagramTooLarge,
        SendError::Refused => ErrorCode::ConnectionRefused,
        SendError::Denied(_) => ErrorCode::AccessDenied,
        SendError::Unreachable(_) => ErrorCode::RemoteUnreachable,
        SendError::Bind(error) => bind_code(error),
        SendError::Gone => ErrorCode::InvalidState,
    }
}

fn receive_code(error: ReceiveError) -> ErrorCode {
    match error {
        ReceiveError::Refused => ErrorCode::ConnectionRefused,
        ReceiveError::NotBound | ReceiveError::Gone => ErrorCode::InvalidState,
    }
}

fn resolve_code(error: ResolveError) -> ErrorCode {
    match error {
        ResolveError::Invalid => ErrorCode::InvalidArgument,
        ResolveError::NotFound => ErrorCode::NameUnresolvable,
        ResolveError::Denied => ErrorCode::AccessDenied,
        ResolveError::Temporary => ErrorCode::TemporaryResolverFailure,
        ResolveError::Permanent => ErrorCode::PermanentResolverFailure,
    }
}

fn zero_code(_: ZeroOption) -> ErrorCode {
    ErrorCode::InvalidArgument
}

fn state_code(_: WrongState) -> ErrorCode {
    ErrorCode::InvalidState
}

fn backlog_code(error: SetBacklogError) -> ErrorCode {
    match error {
        SetBacklogError::Zero(error) => zero_code(error),
        SetBacklogError::InvalidState => ErrorCode::InvalidState,
    }
}
