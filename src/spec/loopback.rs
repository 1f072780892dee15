//! A port of the host's own loopback, as a pod is granted one.

use std::fmt;

use super::Protocol;

/// One entry of the annotation `podling.dev/host-loopback`, spelled `tcp/5432`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    pub protocol: Protocol,
    pub port: u16,
}

impl HostPort {
    /// Reads `tcp/5432` or `udp/53`. `None` for anything else, port 0 included.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (protocol, port) = text.split_once('/')?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return None,
        };
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port != 0)?;
        Some(Self { protocol, port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, "{protocol}/{}", self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_spelling_is_read() {
        for text in ["tcp/5432", "udp/53", "tcp/65535"] {
            assert_eq!(HostPort::parse(text).map(|port| port.to_string()).as_deref(), Some(text));
        }
        for text in
            ["", "5432", "tcp/", "tcp/0", "tcp/65536", "tcp/+80", "TCP/80", "sctp/80", "tcp/80/1"]
        {
            assert_eq!(HostPort::parse(text), None, "{text:?}");
        }
    }
}
