//! `wasi:sockets` 0.3.
//!
//! ```text
//! tcp  connect as an async call, data as streams of bytes, accepted connections as one of sockets
//! udp  send and receive as async calls
//! ```
//! Owns, here: the list of the interfaces, name look-up, and the translation of each of the
//! network's errors. A socket is of the same kind as in 0.2 (`crate::net::TcpSocket`), so modules
//! of both versions talk to each other.

pub(super) mod tcp;
mod udp;

use wasmtime::component::{Accessor, Linker, ResourceTableError};
use wasmtime_wasi::p3::bindings::sockets::ip_name_lookup;
use wasmtime_wasi::p3::bindings::sockets::types::{self, ErrorCode, IpAddress, IpAddressFamily};
use wasmtime_wasi::p3::sockets::SocketError;

use crate::net::{
    BindError, ConnectError, Family, ListenError, Lookup, OpenError, ReadError, ReceiveError,
    ResolveError, SendError, SetBacklogError, WriteError,
};
use crate::wasi::sockets::{HasNet, NetCtxView, NetView};

/// The interfaces that [`add_to_linker_p3`] links.
pub const WASI_0_3: &[&str] = &["wasi:sockets/types", "wasi:sockets/ip-name-lookup"];

/// Links `wasi:sockets` 0.3, on the pod's network.
///
/// # Errors
/// wasmtime's, if one of the interfaces is linked already.
pub fn add_to_linker_p3<T: NetView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    types::add_to_linker::<T, HasNet>(linker, T::net)?;
    ip_name_lookup::add_to_linker::<T, HasNet>(linker, T::net)?;
    Ok(())
}

impl types::Host for NetCtxView<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }
}

impl ip_name_lookup::Host for NetCtxView<'_> {}

impl<T: Send> ip_name_lookup::HostWithStore<T> for HasNet {
    async fn resolve_addresses(
        store: &Accessor<T, Self>,
        name: String,
    ) -> wasmtime::Result<Result<Vec<IpAddress>, ip_name_lookup::ErrorCode>> {
        let answer = match store.with(|mut store| store.get().member.lookup(&name)) {
            Lookup::Now(answer) => answer,
            Lookup::Later(answer) => answer.await,
        };
        Ok(match answer {
            Ok(addresses) => Ok(addresses.into_iter().map(IpAddress::from).collect()),
            Err(error) => Err(resolve_code(error)),
        })
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
        // 0.3 has no code for EMFILE any more; its catch-all takes words.
        OpenError::MemberLimit | OpenError::PodLimit => ErrorCode::Other(Some(error.to_string())),
        OpenError::NoMemory => ErrorCode::OutOfMemory,
        OpenError::Gone => ErrorCode::InvalidState,
    }
}

/// The module has no place for another handle: said as its limit of sockets is.
fn no_place(_: ResourceTableError) -> ErrorCode {
    ErrorCode::Other(Some("the module has reached its limit of resources".to_owned()))
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

fn read_code(error: ReadError) -> ErrorCode {
    match error {
        ReadError::Reset => ErrorCode::ConnectionReset,
    }
}

fn write_code(error: WriteError) -> ErrorCode {
    match error {
        WriteError::Closed | WriteError::Broken => ErrorCode::ConnectionBroken,
        WriteError::Reset => ErrorCode::ConnectionReset,
        WriteError::NoMemory => ErrorCode::OutOfMemory,
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

fn resolve_code(error: ResolveError) -> ip_name_lookup::ErrorCode {
    use ip_name_lookup::ErrorCode;
    match error {
        ResolveError::Invalid => ErrorCode::InvalidArgument,
        ResolveError::NotFound => ErrorCode::NameUnresolvable,
        ResolveError::Denied => ErrorCode::AccessDenied,
        ResolveError::Temporary => ErrorCode::TemporaryResolverFailure,
        ResolveError::Permanent => ErrorCode::PermanentResolverFailure,
    }
}

fn backlog_code(error: SetBacklogError) -> ErrorCode {
    match error {
        SetBacklogError::Zero(_) => ErrorCode::InvalidArgument,
        SetBacklogError::InvalidState => ErrorCode::InvalidState,
    }
}
