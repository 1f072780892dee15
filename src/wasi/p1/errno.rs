//! The network's errors in WASI 0.1's numbers.
//!
//! Owns: one function for each of the network's, so that a new variant there does not compile here. The numbers are Linux' names for
//! the same thing, where Linux has it.

pub(super) use wasmtime_wasi::p1::types::Errno;

use crate::net::{
    AcceptError, BindError, ConnectError, ListenError, OpenError, ReadError, ReceiveError,
    ResolveError, SendError, WriteError,
};

pub(super) fn open(error: OpenError) -> Errno {
    match error {
        OpenError::MemberLimit => Errno::Mfile,
        OpenError::PodLimit => Errno::Nfile,
        OpenError::NoMemory => Errno::Nobufs,
        OpenError::Gone => Errno::Netdown,
    }
}

pub(super) fn bind(error: BindError) -> Errno {
    match error {
        BindError::InvalidAddress(_) | BindError::InvalidState => Errno::Inval,
        BindError::InUse(_) | BindError::NoPort => Errno::Addrinuse,
        BindError::NotOurs(_) => Errno::Addrnotavail,
        BindError::Gone => Errno::Netdown,
    }
}

pub(super) fn listen(error: ListenError) -> Errno {
    match error {
        ListenError::InvalidState => Errno::Inval,
        ListenError::Bind(error) => bind(error),
        ListenError::Open(error) => open(error),
    }
}

pub(super) fn connect(error: ConnectError) -> Errno {
    match error {
        ConnectError::InvalidAddress(_) | ConnectError::InvalidState => Errno::Inval,
        ConnectError::Refused(_) => Errno::Connrefused,
        ConnectError::Denied(_) => Errno::Acces,
        ConnectError::Unreachable(_) => Errno::Netunreach,
        ConnectError::NoPort => Errno::Addrnotavail,
        ConnectError::TimedOut(_) => Errno::Timedout,
        ConnectError::Open(error) => open(error),
    }
}

pub(super) fn accept(error: AcceptError) -> Errno {
    match error {
        AcceptError::Open(error) => open(error),
        AcceptError::Closed => Errno::Inval,
    }
}

pub(super) fn read(error: ReadError) -> Errno {
    match error {
        ReadError::Reset => Errno::Connreset,
    }
}

pub(super) fn write(error: WriteError) -> Errno {
    match error {
        WriteError::Closed | WriteError::Broken => Errno::Pipe,
        WriteError::Reset => Errno::Connreset,
        WriteError::NoMemory => Errno::Nobufs,
    }
}

pub(super) fn send(error: SendError) -> Errno {
    match error {
        SendError::InvalidAddress(_) => Errno::Inval,
        SendError::OtherPeer(_) => Errno::Isconn,
        SendError::NoAddress => Errno::Destaddrreq,
        SendError::TooLong(_) => Errno::Msgsize,
        SendError::Refused => Errno::Connrefused,
        SendError::Denied(_) => Errno::Acces,
        SendError::Unreachable(_) => Errno::Netunreach,
        SendError::Bind(error) => bind(error),
        SendError::Gone => Errno::Netdown,
    }
}

pub(super) fn receive(error: ReceiveError) -> Errno {
    match error {
        ReceiveError::Refused => Errno::Connrefused,
        ReceiveError::NotBound => Errno::Inval,
        ReceiveError::Gone => Errno::Netdown,
    }
}

/// WASI 0.1 has no numbers of its own for names; these are the nearest, and what WasmEdge's callers look for.
pub(super) fn resolve(error: ResolveError) -> Errno {
    match error {
        ResolveError::Invalid => Errno::Inval,
        ResolveError::NotFound => Errno::Noent,
        ResolveError::Denied => Errno::Acces,
        ResolveError::Temporary => Errno::Again,
        ResolveError::Permanent => Errno::Io,
    }
}
