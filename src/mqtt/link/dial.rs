//! From a URL to a stream of bytes: name, TCP, TLS.
//!
//! Owns: where a broker is ([`Endpoint`]), the sockets' options, and the words for what did not work. Not: MQTT.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::chain;
use crate::mqtt::tls::{self, Choice, TlsFiles};
use crate::mqtt::transport::Closed;

/// One address of a broker gets this long: a name often has a dead IPv6 address before a live IPv4 one.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(10);

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// How long sent bytes may stay unacknowledged by the peer's kernel, and an idle connection unprobed, before our kernel calls it dead. MQTT's own
/// keep-alive notices the same later; this is for when the radio is gone while we are sending.
const PEER_SILENCE: Duration = Duration::from_secs(60);

/// Where a broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

/// Why a URL of a broker cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("begins with neither mqtts:// nor mqtt://")]
    Scheme,
    #[error("names no host")]
    NoHost,
    #[error("has no valid port after its host")]
    Port,
    #[error("has something after host and port, which means nothing for MQTT over TCP")]
    Trailing,
    #[error("holds a user name or password: use userName and passwordFile instead")]
    Credentials,
}

impl Endpoint {
    /// Reads `mqtts://host[:8883]` or `mqtt://host[:1883]`.
    ///
    /// # Errors
    /// If it is of another form.
    pub fn parse(url: &str) -> Result<Self, EndpointError> {
        let (scheme, rest) = url.split_once("://").ok_or(EndpointError::Scheme)?;
        let tls = match scheme {
            "mqtts" => true,
            "mqtt" => false,
            _ => return Err(EndpointError::Scheme),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(EndpointError::Trailing);
        }
        if rest.contains('@') {
            return Err(EndpointError::Credentials);
        }
        // An IPv6 address stands in brackets.
        let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or(EndpointError::Port)?)),
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        if host.is_empty() {
            return Err(EndpointError::NoHost);
        }
        let port = match port {
            Some(text) => text.parse().ok().filter(|p| *p > 0).ok_or(EndpointError::Port)?,
            None if tls => 8883,
            None => 1883,
        };
        Ok(Self { host: host.to_owned(), port, tls })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{open}{}{close}:{}", self.host, self.port)
    }
}

/// A stream of bytes to a broker.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// TLS as this link uses it.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    pub(super) files: Arc<Mutex<TlsFiles>>,
    pub(super) server_name: Option<String>,
}

impl Tls {
    /// What the broker's certificate must be for.
    pub(super) fn name_for(&self, endpoint: &Endpoint) -> String {
        self.server_name.clone().unwrap_or_else(|| endpoint.host.clone())
    }

    /// Runs something on the files where the disk may be waited for.
    pub(super) async fn with_files<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut TlsFiles) -> T + Send + 'static,
    ) -> Option<T> {
        let files = Arc::clone(&self.files);
        let run = move || act(&mut files.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(run).await.ok()
    }
}

/// Connects. With TLS, also the set of files that it was done with.
pub(super) async fn dial(
    endpoint: &Endpoint,
    tls: Option<&Tls>,
) -> Result<(Box<dyn Wire>, Option<Choice>), Closed> {
    let Some(tls) = tls.filter(|_| endpoint.tls) else {
        let tcp = connect(endpoint).await?;
        return Ok((Box::new(tcp), None));
    };
    let chosen = tls.with_files(|files| files.choose().map_err(|e| chain(&e))).await;
    let choice = chosen
        .ok_or_else(|| Closed::Internal("reading the TLS files".to_owned()))?
        .map_err(Closed::TlsFiles)?;
    let tcp = connect(endpoint).await?;
    let name = tls.name_for(endpoint);
    let server = ServerName::try_from(name.clone()).map_err(|_| {
        Closed::TlsFiles(format!("{name:?} is no name that a certificate can have"))
    })?;
    match TlsConnector::from(Arc::clone(&choice.config)).connect(server, tcp).await {
        Ok(stream) => Ok((Box::new(stream), Some(choice))),
        Err(error) => {
            let closed = broken(&error, &name);
            if matches!(closed, Closed::Tls(_)) {
                let choice = choice.clone();
                tls.with_files(move |files| files.failed(&choice)).await;
            }
            Err(closed)
        }
    }
}

/// The words for an error on a stream.
pub(super) fn broken(error: &io::Error, server_name: &str) -> Closed {
    match tls::fault(error, server_name) {
        Some(fault) => Closed::Tls(fault),
        None if error.kind() == io::ErrorKind::UnexpectedEof => Closed::ByPeer,
        None => Closed::Broken(chain(error)),
    }
}

async fn connect(endpoint: &Endpoint) -> Result<TcpStream, Closed> {
    let host = endpoint.host.as_str();
    let resolve = |cause: String| Closed::Resolve { host: host.to_owned(), cause };
    let found = tokio::net::lookup_host((host, endpoint.port));
    let addresses: Vec<SocketAddr> =
        found.await.map_err(|e| resolve(chain(&e)))?.take(ADDRESSES_MAX).collect();
    let mut last = resolve("the name has no address".to_owned());
    for address in addresses {
        let tried = tokio::time::timeout(ADDRESS_TIMEOUT, TcpStream::connect(address)).await;
        let unreachable = |cause| Closed::Unreachable { address: address.to_string(), cause };
        match tried {
            Ok(Ok(tcp)) => {
                tune(&tcp);
                return Ok(tcp);
            }
            Ok(Err(error)) => last = unreachable(chain(&error)),
            Err(_) => last = unreachable(format!("no answer within {ADDRESS_TIMEOUT:?}")),
        }
    }
    Err(last)
}

/// Socket options; where one cannot be had the connection is merely slower to notice its end.
fn tune(tcp: &TcpStream) {
    use rustix::net::sockopt;
    let fd = tcp.as_fd();
    let millis = u32::try_from(PEER_SILENCE.as_millis()).unwrap_or(u32::MAX);
    let _ = sockopt::set_tcp_nodelay(fd, true);
    let _ = sockopt::set_tcp_user_timeout(fd, millis);
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn urls_say_where_the_broker_is() {
        let rows = [
            ("mqtts://broker.example", "mqtts://broker.example:8883"),
            ("mqtt://10.0.0.7", "mqtt://10.0.0.7:1883"),
            ("mqtt://broker:2883/", "mqtt://broker:2883"),
            ("mqtts://[2001:db8::7]", "mqtts://[2001:db8::7]:8883"),
            ("mqtts://[2001:db8::7]:443", "mqtts://[2001:db8::7]:443"),
        ];
        for (url, shown) in rows {
            assert_eq!(Endpoint::parse(url).unwrap().to_string(), shown, "{url}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_url_is_named() {
        let rows = [
            ("broker:1883", EndpointError::Scheme),
            ("http://broker", EndpointError::Scheme),
            ("mqtt://", EndpointError::NoHost),
            ("mqtt://:1883", EndpointError::NoHost),
            ("mqtt://broker:0", EndpointError::Port),
            ("mqtt://broker:70000", EndpointError::Port),
            ("mqtt://[::1]1883", EndpointError::Port),
            ("mqtt://a/topic", EndpointError::Trailing),
            ("mqtt://u:p@broker", EndpointError::Credentials),
        ];
        for (url, error) in rows {
            assert_eq!(Endpoint::parse(url), Err(error), "{url}");
        }
    }
}
