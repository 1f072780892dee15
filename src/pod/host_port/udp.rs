//! One published UDP port.
//!
//! Each client is a socket of the daemon inside the pod, from its first datagram until it has been quiet for a while. A module
//! that is away loses datagrams, as a program on a host does.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use super::ends::{self, Ends};
use super::{Entrance, Way};
use crate::net::{Family, ReceiveError, SendError};
use crate::outside::flows::{Flows, Idle};
use crate::outside::rate::Rate;

/// Clients of one published port that are remembered; the one quiet for longest makes room.
const CLIENTS_MAX: usize = 256;

/// A client that was quiet for so long is forgotten (RFC 4787 asks for at least two minutes).
const IDLE: Duration = Duration::from_secs(120);

/// New clients in a second, and at once. Each is a socket and a task; a flood with invented addresses must not keep the daemon
/// from its work.
const NEW_CLIENTS: (u32, u32) = (100, 256);

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
struct Client {
    inside: crate::net::UdpSocket,
    serial: u64,
    /// Where it was led, and as of when it may go there ([`super::Leads::generation`]).
    to: SocketAddr,
    admitted: AtomicU64,
    _end: DropGuard,
}

/// All clients of a port.
#[derive(Debug)]
struct Table {
    flows: Flows<Ends, Client>,
    new: Rate,
}

type Clients = Arc<Mutex<Table>>;

fn lock(clients: &Mutex<Table>) -> MutexGuard<'_, Table> {
    clients.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) async fn serve(socket: Arc<UdpSocket>, entrance: Entrance) {
    if let Err(error) = ends::learn(&socket, entrance.port.address) {
        warn!(port = %entrance.port.address, %error, "clients of a published port are answered from the address that the routes prefer");
    }
    let (per_second, burst) = NEW_CLIENTS;
    let table = Table { flows: Flows::new(CLIENTS_MAX), new: Rate::new(per_second, burst) };
    let clients = Arc::new(Mutex::new(table));
    let stop = entrance.stop.clone();
    // What is in the table ends with it.
    stop.run_until_cancelled(receive_all(&socket, &entrance, &clients)).await;
}

async fn receive_all(socket: &Arc<UdpSocket>, entrance: &Entrance, clients: &Clients) {
    loop {
        entrance.port.traffic.bill.patience().await;
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await;
        let which = match ready {
            Ok(ready) if ready.is_error() => Interest::ERROR,
            Ok(_) | Err(_) => Interest::READABLE,
        };
        for _ in 0..AT_ONCE {
            match socket.try_io(which, || receive(socket)) {
                Ok((ends, data)) => inwards(socket, entrance, clients, ends, data),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    debug!(port = %entrance.port.address, %error, "receiving on a published port failed");
                    tokio::time::sleep(PAUSE).await;
                    break;
                }
            }
        }
    }
}

fn receive(socket: &UdpSocket) -> io::Result<(Ends, Bytes)> {
    SCRATCH.with_borrow_mut(|scratch| {
        let (n, ends) = ends::receive(socket, scratch)?;
        Ok((ends, Bytes::copy_from_slice(&scratch[..n])))
    })
}

/// Passes a client's datagram on to the module.
fn inwards(
    socket: &Arc<UdpSocket>,
    entrance: &Entrance,
    clients: &Clients,
    ends: Ends,
    data: Bytes,
) {
    let (traffic, bytes) = (&entrance.port.traffic, data.len());
    let mut table = lock(clients);
    let now = entrance.clock.now();
    ask_again(entrance, &mut table, ends);
    let pass = |table: &mut Table| {
        table.flows.touch(&ends, now).map(|client| send(&client.inside, data.clone()))
    };
    let sent = match pass(&mut table) {
        // Nobody yet, or its pod is gone: to whomever it leads now.
        None | Some(Err(SendError::Gone)) => {
            let admitted = admit(socket, entrance, clients, &mut table, ends);
            if admitted { pass(&mut table) } else { None }
        }
        sent => sent,
    };
    match sent {
        Some(Ok(())) => {
            traffic.datagrams_in.add(1);
            traffic.bytes_in.add(bytes);
        }
        Some(Err(_)) | None => traffic.datagrams_dropped.add(1),
    }
}

/// Forgets a client that policy has shut out since.
fn ask_again(entrance: &Entrance, table: &mut Table, ends: Ends) {
    let generation = entrance.leads.generation();
    let Some(client) = table.flows.get(&ends) else { return };
    if client.admitted.load(Ordering::Relaxed) == generation {
        return;
    }
    if entrance.leads.still(ends.client, client.to) {
        client.admitted.store(generation, Ordering::Relaxed);
    } else {
        let serial = client.serial;
        drop(table.flows.remove(&ends, serial));
    }
}

/// A full or absent receiver loses the datagram, as UDP does; `net` counts it. What is told is about an earlier one: the module
/// was away then.
fn send(inside: &crate::net::UdpSocket, data: Bytes) -> Result<(), SendError> {
    match inside.send(data.clone(), None) {
        Err(SendError::Refused) => inside.send(data, None),
        sent => sent,
    }
}

/// Lets a new client in.
fn admit(
    socket: &Arc<UdpSocket>,
    entrance: &Entrance,
    clients: &Clients,
    table: &mut Table,
    ends: Ends,
) -> bool {
    if !table.new.take(entrance.clock.now()) {
        return false;
    }
    // Before the question: a change in between is asked about again.
    let admitted = AtomicU64::new(entrance.leads.generation());
    let Some(way) = entrance.way(ends.client) else { return false };
    let family = if way.to.is_ipv4() { Family::V4 } else { Family::V6 };
    let Ok(inside) = way.host.udp_socket(family) else { return false };
    if inside.connect(way.to).is_err() {
        return false;
    }
    let end = CancellationToken::new();
    let serial = table.flows.next_serial();
    let answers = Answers {
        inside: inside.clone(),
        outside: Arc::clone(socket),
        ends,
        serial,
        clients: Arc::downgrade(clients),
        way: way.clone(),
    };
    let ended = end.clone();
    let bill = &way.port.traffic.bill;
    let carrying = bill.pays_for(async move { ended.run_until_cancelled(answers.carry()).await });
    way.tasks.spawn(carrying);
    let client = Client { inside, serial, to: way.to, admitted, _end: end.drop_guard() };
    let (_, evicted) = table.flows.insert(ends, client, way.clock.now());
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
    ends: Ends,
    serial: u64,
    clients: Weak<Mutex<Table>>,
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
            let idle = lock(&clients).flows.expire(&self.ends, self.serial, now, IDLE);
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
        let send = || ends::send(&self.outside, data, self.ends);
        match self.outside.async_io(Interest::WRITABLE, send).await {
            Ok(n) => {
                traffic.datagrams_out.add(1);
                traffic.bytes_out.add(n);
                if let Some(clients) = self.clients.upgrade() {
                    lock(&clients).flows.touch(&self.ends, self.way.clock.now());
                }
            }
            // Lost, as datagrams may be: a link that is down now may be up for the next one.
            Err(error) => {
                traffic.datagrams_dropped.add(1);
                debug!(client = %self.ends.client, %error, "an answer of a published port could not be sent");
            }
        }
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::net::Ipv4Addr;

    use super::*;
    use crate::clock::Clock;
    use crate::net::{MemberLimits, NetConfig, NoLedger, PodNet};
    use crate::outside::stats::Traffic;
    use crate::pod::host_port::PublishedPort;
    use crate::spec::Protocol;

    /// A gateway whose link is down answers `EHOSTUNREACH` for a while; then it is up again.
    #[tokio::test]
    async fn an_answer_that_cannot_be_sent_is_lost_and_the_next_is_not() {
        let net = PodNet::new(NetConfig::new(Ipv4Addr::new(10, 88, 0, 5)));
        let to: SocketAddr = "10.88.0.5:53".parse().unwrap();
        let host = net.join("m", MemberLimits::default(), Arc::new(NoLedger));
        let module = host.udp_socket(Family::V4).unwrap();
        module.bind(to).unwrap();
        let inside = host.udp_socket(Family::V4).unwrap();
        inside.connect(to).unwrap();
        let flow = inside.local_address().unwrap();
        // A socket on loopback cannot send anywhere else.
        let outside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let ends = Ends { client: "192.0.2.1:9".parse().unwrap(), host: None };
        assert!(outside.send_to(b"x", ends.client).await.is_err());
        let port = PublishedPort {
            protocol: Protocol::Udp,
            address: outside.local_addr().unwrap(),
            container_port: 53,
            traffic: Traffic::default(),
        };
        let way = Way {
            host: Arc::new(host),
            to,
            port: Arc::new(port),
            clock: Clock::start(),
            stop: CancellationToken::new(),
            tasks: tokio_util::task::TaskTracker::new(),
        };
        let mut flows = Flows::new(1);
        let end = CancellationToken::new();
        let (admitted, _end) = (AtomicU64::new(0), end.clone().drop_guard());
        let serial = flows.next_serial();
        let kept = Client { inside: inside.clone(), serial, to, admitted, _end };
        let (serial, _) = flows.insert(ends, kept, way.clock.now());
        let clients = Arc::new(Mutex::new(Table { flows, new: Rate::new(1, 1) }));
        way.port.traffic.flows_open.rise(&way.port.traffic.flows_peak);
        let traffic = Arc::clone(&way.port);
        let weak = Arc::downgrade(&clients);
        let answers = Answers { inside, outside, ends, serial, clients: weak, way };
        tokio::spawn(answers.carry());
        for lost in 1..=3 {
            module.send(Bytes::from_static(b"answer"), Some(flow)).unwrap();
            let taken = async {
                while traffic.traffic.datagrams_dropped.get() < lost {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), taken).await.expect("taken");
        }
    }
}
