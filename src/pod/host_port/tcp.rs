//! One published TCP port.
//!
//! ```text
//!  accept ─► place (of 256) ─► connect ─┬─ listener there ─► pump ─► end
//!                              ▲        ├─ nobody listens ─► wait (of 128, 10 s) ─► woken by a listener ─┐
//!                              │        │                      └ too many, too long ─► reset             │
//!                              └────────┴─────────────────────────────────────────────────────────────────┘
//! ```
//! Beyond the places, connections stay in the kernel's queue: the client sees a slow server, not a dead one.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::debug;

use super::{Entrance, Way};
use crate::net::{ConnectError, Connecting, Member, Stream};
use crate::outside;
use crate::outside::pump::{Ended, Pump};

/// Connections through one published port at a time. Each is a descriptor and a task; busy, it holds up to 64 KiB beside its
/// pipe. The next ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;

/// Of these, connections that wait for a module to listen. One more is reset at once: so many clients are a queue that no module
/// works off in time.
pub(super) const WAITING_MAX: usize = 128;

/// How long an arrived connection waits for a module that is not listening (it restarts, or has not begun), or that accepts
/// nothing.
const WAIT_FOR_MODULE: Duration = Duration::from_secs(10);

/// Pause after the kernel had no descriptor for a connection, so that the failure does not spin.
const PAUSE: Duration = Duration::from_millis(100);

/// A client that is gone without a word (a radio link, a power cut) is noticed after about four minutes, and its place is free.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(120);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_PROBES: u32 = 4;

pub(super) async fn serve(listener: TcpListener, entrance: Entrance) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let waiting = Arc::new(Semaphore::new(WAITING_MAX));
    loop {
        let accepted = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (place, listener.accept().await)
        };
        let closed = &entrance.closed;
        let Some((place, accepted)) = closed.run_until_cancelled(accepted).await else { return };
        match accepted {
            Ok((client, from)) => {
                let Some(way) = entrance.way(from) else {
                    debug!(%from, port = %entrance.port.address, "a client of a published port is refused");
                    entrance.port.traffic.connections_failed.add(1);
                    outside::reset(&client);
                    continue;
                };
                let waiting = Arc::clone(&waiting);
                entrance.tasks.spawn(async move {
                    let _place = place;
                    carry(client, from, &way, &waiting).await;
                });
            }
            Err(error) => {
                // Out of descriptors, or a client that gave up: neither may end the listener, nor make it spin.
                entrance.port.traffic.connections_failed.add(1);
                debug!(port = %entrance.port.address, %error, "accepting on a published port failed");
                if closed.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
                    return;
                }
            }
        }
    }
}

/// Carries one connection both ways until both sides are done.
async fn carry(mut client: TcpStream, from: SocketAddr, way: &Way, waiting: &Semaphore) {
    tune(&client);
    let traffic = &way.port.traffic;
    let connected = way.stop.run_until_cancelled(connect(from, way, waiting)).await;
    let module = match connected {
        Some(Ok(module)) => module,
        Some(Err(error)) => {
            debug!(%from, to = %way.to, %error, "connection to a published port refused");
            return outside::reset(&client);
        }
        // The pod goes: whoever still waits is told so at once.
        None => return outside::reset(&client),
    };
    traffic.connections.add(1);
    traffic.connections_open.rise(&traffic.connections_peak);
    let pump = Pump::new(&mut client, module, traffic);
    match way.stop.run_until_cancelled(pump).await {
        Some(Ended::Orderly) => {}
        Some(Ended::Outside(error)) => {
            debug!(%from, to = %way.to, %error, "published connection broke");
        }
        // A reset on one side must be a reset, not an orderly end, on the other.
        Some(Ended::Pod) | None => outside::reset(&client),
    }
    traffic.connections_open.fall();
}

/// Connects, waiting for a module that is about to listen (again).
async fn connect(
    client: SocketAddr,
    way: &Way,
    waiting: &Semaphore,
) -> Result<Stream, ConnectError> {
    match knock(&way.host, client, way.to) {
        Ok(mut connecting) => {
            if let std::task::Poll::Ready(connected) = connecting.try_finish() {
                return connected;
            }
            within(way, waiting, Some(connecting), client).await
        }
        Err(ConnectError::Refused(_)) => within(way, waiting, None, client).await,
        Err(error) => {
            way.port.traffic.connections_limited.add(1);
            Err(error)
        }
    }
}

/// The same for a connection that has to wait: `begun` for room in a listener's queue, else for a listener.
async fn within(
    way: &Way,
    waiting: &Semaphore,
    mut begun: Option<Connecting>,
    client: SocketAddr,
) -> Result<Stream, ConnectError> {
    let traffic = &way.port.traffic;
    let Ok(_place) = waiting.try_acquire() else {
        traffic.connections_limited.add(1);
        return Err(ConnectError::Refused(way.to));
    };
    traffic.queued.rise(&traffic.queued_peak);
    let net = way.host.net();
    let attempt = async {
        loop {
            let connected = match begun.take() {
                Some(connecting) => connecting.await,
                None => {
                    net.listening(way.to).await;
                    match knock(&way.host, client, way.to) {
                        Ok(connecting) => connecting.await,
                        Err(error) => Err(error),
                    }
                }
            };
            match connected {
                // It has gone again meanwhile.
                Err(ConnectError::Refused(_)) => tokio::task::yield_now().await,
                other => return other,
            }
        }
    };
    let connected = tokio::time::timeout(WAIT_FOR_MODULE, attempt).await;
    traffic.queued.fall();
    connected.unwrap_or_else(|_| {
        traffic.connections_failed.add(1);
        Err(ConnectError::Refused(way.to))
    })
}

/// Asks the module for a connection. It sees who the client is, unless that has an address of another family.
fn knock(host: &Member, client: SocketAddr, to: SocketAddr) -> Result<Connecting, ConnectError> {
    match seen(client, to) {
        Some(client) => host.connect_for(client, to),
        None => host.connect(to),
    }
}

/// The client's address as a socket of the family of `to` can have it. An IPv4 client of a listener for both families comes in
/// IPv6 dress.
fn seen(client: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    (client.is_ipv4() == to.is_ipv4() && client.ip() != Ipv4Addr::UNSPECIFIED).then_some(client)
}

/// The virtual network has no delayed acknowledgements, so the kernel's side should not add Nagle's. A socket that refuses an
/// option works without it.
fn tune(client: &TcpStream) {
    let tuned = client.set_nodelay(true).and_then(|()| {
        sockopt::set_socket_keepalive(client, true)?;
        sockopt::set_tcp_keepidle(client, KEEP_ALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(client, KEEP_ALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(client, KEEP_ALIVE_PROBES)?;
        Ok(())
    });
    if let Err(error) = tuned {
        debug!(%error, "a published connection keeps the kernel's defaults");
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_client_is_seen_where_the_families_allow_it() {
        let table = [
            ("192.0.2.1:5", "10.88.0.1:80", Some("192.0.2.1:5")),
            ("[::ffff:192.0.2.1]:5", "10.88.0.1:80", Some("192.0.2.1:5")),
            ("[2001:db8::1]:5", "10.88.0.1:80", None),
        ];
        for (client, to, expected) in table {
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(seen(client.parse().unwrap(), to.parse().unwrap()), expected, "{client}");
        }
    }
}
