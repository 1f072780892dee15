//! One published UDP port.
//!
//! Each client is a socket of the daemon inside the pod, from its first datagram until it has been quiet for a while. A module
//! that is away loses datagrams, as a program on a host does.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

use super::Way;
use crate::net::{Family, ReceiveError};
use crate::outside::flows::{Flows, Idle};

/// Clients of one published port that are remembered; the one quiet for longest makes room.
const CLIENTS_MAX: usize = 256;

/// A client that was quiet for so long is forgotten (RFC 4787 asks for at least two minutes).
const IDLE: Duration = Duration::from_secs(120);

/// Largest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Datagrams taken in one go before other tasks have their turn.
const AT_ONCE: usize = 64;

/// Pause after receiving failed, so that the failure does not spin.
const PAUSE: Duration = Duration::from_millis(100);

thread_local! {
    /// Where datagrams land before their length is known.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; DATAGRAM_BYTES_MAX]);
}

/// One client. Dropping it ends its task and closes its socket.
#[derive(Debug)]
pub(super) struct Client {
    inside: crate::net::UdpSocket,
    _end: DropGuard,
}

pub(super) type Clients = Arc<Mutex<Flows<SocketAddr, Client>>>;

fn lock(clients: &Clients) -> MutexGuard<'_, Flows<SocketAddr, Client>> {
    clients.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) async fn serve(socket: Arc<UdpSocket>, way: Way) {
    let clients = Arc::new(Mutex::new(Flows::new(CLIENTS_MAX)));
    let stop = way.stop.clone();
    // What is in the table ends with it.
    stop.run_until_cancelled(receive_all(&socket, &way, &clients)).await;
}

async fn receive_all(socket: &Arc<UdpSocket>, way: &Way, clients: &Clients) {
    loop {
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await;
        let which = match ready {
            Ok(ready) if ready.is_error() => Interest::ERROR,
            Ok(_) | Err(_) => Interest::READABLE,
        };
        for _ in 0..AT_ONCE {
            match socket.try_io(which, || receive(socket)) {
                Ok((from, data)) => inwards(socket, way, clients, from, data),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    debug!(to = %way.to, %error, "receiving on a published port failed");
                    tokio::time::sleep(PAUSE).await;
                    break;
                }
            }
        }
    }
}

fn receive(socket: &UdpSocket) -> io::Result<(SocketAddr, Bytes)> {
    SCRATCH.with_borrow_mut(|scratch| {
        let (n, _, from) =
            rustix::net::recvfrom(socket, scratch.as_mut_slice(), RecvFlags::DONTWAIT)?;
        let from = from.and_then(|from| SocketAddr::try_from(from).ok());
        let from = from.ok_or(io::ErrorKind::InvalidData)?;
        Ok((from, Bytes::copy_from_slice(&scratch[..n])))
    })
}

/// Passes a client's datagram on to the module.
fn inwards(
    socket: &Arc<UdpSocket>,
    way: &Way,
    clients: &Clients,
    from: SocketAddr,
    data: Bytes,
) {
    let (traffic, bytes) = (&way.port.traffic, data.len());
    let mut table = lock(clients);
    let now = way.clock.now();
    if table.touch(&from, now).is_none() && !admit(socket, way, clients, &mut table, from) {
        traffic.datagrams_dropped.add(1);
        return;
    }
    // A full or absent receiver drops the datagram, as UDP does; `net` counts it.
    let sent = table.touch(&from, now).map(|client| client.inside.send(data, None));
    match sent {
        Some(Ok(())) => {
            traffic.datagrams_in.add(1);
            traffic.bytes_in.add(bytes);
        }
        Some(Err(_)) | None => traffic.datagrams_dropped.add(1),
    }
}

/// Lets a new client in.
fn admit(
    socket: &Arc<UdpSocket>,
    way: &Way,
    clients: &Clients,
    table: &mut Flows<SocketAddr, Client>,
    from: SocketAddr,
) -> bool {
    let family = if way.to.is_ipv4() { Family::V4 } else { Family::V6 };
    let Ok(inside) = way.host.udp_socket(family) else { return false };
    if inside.connect(way.to).is_err() {
        return false;
    }
    let end = CancellationToken::new();
    let answers = Answers {
        inside: inside.clone(),
        outside: Arc::clone(socket),
        client: from,
        serial: table.next_serial(),
        clients: Arc::downgrade(clients),
        way: way.clone(),
    };
    let ended = end.clone();
    way.tasks.spawn(async move { drop(ended.run_until_cancelled(answers.carry()).await) });
    let client = Client { inside, _end: end.drop_guard() };
    let (_, evicted) = table.insert(from, client, way.clock.now());
    let traffic = &way.port.traffic;
    traffic.flows_open.rise(&traffic.flows_peak);
    if evicted.is_some() {
        traffic.flows_evicted.add(1);
    }
    true
}

/// Carries a module's answers back to one client, until the client is forgotten.
struct Answers {
    inside: crate::net::UdpSocket,
    outside: Arc<UdpSocket>,
    client: SocketAddr,
    serial: u64,
    clients: std::sync::Weak<Mutex<Flows<SocketAddr, Client>>>,
    way: Way,
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.way.port.traffic.flows_open.fall();
    }
}

impl Answers {
    async fn carry(self) {
        loop {
            let Some(clients) = self.clients.upgrade() else { return };
            let now = self.way.clock.now();
            let idle = lock(&clients).expire(&self.client, self.serial, now, IDLE);
            drop(clients);
            let Idle::Until(until) = idle else { return };
            tokio::select! {
                // Cancel-safe: what was not received stays in the queue.
                received = poll_fn(|cx| self.inside.poll_receive(cx)) => match received {
                    Ok(datagram) => self.outwards(&datagram.data).await,
                    // Told once, and nothing that the client could hear: the module is away.
                    Err(ReceiveError::Refused) => {}
                    Err(ReceiveError::NotBound | ReceiveError::Gone) => return,
                },
                () = tokio::time::sleep_until(self.way.clock.instant(until).into()) => {}
            }
        }
    }

    async fn outwards(&self, data: &Bytes) {
        let traffic = &self.way.port.traffic;
        match self.outside.send_to(data, self.client).await {
            Ok(n) => {
                traffic.datagrams_out.add(1);
                traffic.bytes_out.add(n);
                if let Some(clients) = self.clients.upgrade() {
                    lock(&clients).touch(&self.client, self.way.clock.now());
                }
            }
            // Lost, as datagrams may be: a link that is down now may be up for the next one.
            Err(error) => {
                traffic.datagrams_dropped.add(1);
                debug!(client = %self.client, %error, "an answer of a published port could not be sent");
            }
        }
    }
}
