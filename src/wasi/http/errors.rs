//! What went wrong with a request that a module made, in the words of `wasi:http`.
//!
//! Owns: one function for each kind of cause, so that a new cause does not compile here. Is not: the words' WIT form; wasmtime-wasi-http
//! turns its [`Error`] into the `error-code` of 0.2 and 0.3.

use wasmtime_wasi_http::Error;

use crate::net::{ConnectError, ResolveError};

pub(super) fn connect(error: ConnectError) -> Error {
    match error {
        ConnectError::Refused(_) => Error::ConnectionRefused,
        ConnectError::Denied(_) => Error::DestinationIpProhibited,
        ConnectError::Unreachable(_) => Error::DestinationIpUnroutable,
        ConnectError::TimedOut(_) => Error::ConnectionTimeout,
        ConnectError::InvalidAddress(_) => Error::DestinationNotFound,
        ConnectError::NoPort | ConnectError::Open(_) => Error::ConnectionLimitReached,
        ConnectError::InvalidState => Error::InternalError(Some(error.to_string())),
    }
}

pub(super) fn resolve(error: ResolveError) -> Error {
    // RFC 1035, 4.1.1; RFC 6895 spells the names.
    let rcode = match error {
        ResolveError::Invalid => return Error::HttpRequestUriInvalid,
        ResolveError::NotFound => "NXDOMAIN",
        ResolveError::Denied => "REFUSED",
        ResolveError::Temporary => "SERVFAIL",
        ResolveError::Permanent => "NOTIMP",
    };
    Error::DnsError { rcode: Some(rcode.to_owned()), info_code: None }
}

/// TLS: tells a peer that is not whom it claims to be from one that speaks no TLS.
pub(super) fn tls(error: &std::io::Error) -> Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Error::TlsCertificateError
        }
        Some(rustls::Error::AlertReceived(alert)) => Error::TlsAlertReceived {
            alert_id: Some(u8::from(*alert)),
            alert_message: Some(format!("{alert:?}")),
        },
        Some(_) => Error::TlsProtocolError,
        None => Error::ConnectionTerminated,
    }
}

/// What hyper says about an exchange.
pub(super) fn exchange(error: hyper::Error) -> Error {
    if error.is_timeout() {
        Error::HttpResponseTimeout
    } else if error.is_parse_too_large() {
        Error::HttpResponseHeaderSectionSize(None)
    } else if error.is_incomplete_message() {
        Error::HttpResponseIncomplete
    } else if error.is_closed() || error.is_canceled() {
        Error::ConnectionTerminated
    } else {
        Error::Hyper(error)
    }
}
