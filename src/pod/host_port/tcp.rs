//! One published TCP port.
//!
//! ```text
//!  accept ─► place (of 256) ─► the module's queue ─► it accepts ─► pump ─► end
//!                                ▲            │
//!                                │            └ it ends before that ─┐
//!                                └─ it listens ── wait (10 s in all) ◄┴─ nobody listens, or its queue is full (128 of these)
//!                                                  └ too many, too long ─► reset
//! ```
//! Nothing is read from a client before the module has accepted it. So what it has sent waits in the kernel, for whichever run of
//! the module takes it, in the order in which the clients came; and one that no run has accepted does not notice that there were several.
//!
//! Until then a client is a task of the control plane. What comes after is carried on the guests' own threads, on the pod's account
//! (`runtime::carry`): what a module says goes out in the next turn of the thread it said it on. Where no one pod is the other end (a Service's
//! port on the node), the control plane carries.
//!
//! Beyond the places, connections stay in the kernel's queue: the client sees a slow server, not a dead one.

use std::future::{Future as _, poll_fn};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tracing::debug;

use super::{Entrance, Way};
use crate::net::{ConnectError, Connecting, Stream};
use crate::outside;
use crate::outside::pump::{Ended, Pump};
use crate::outside::stats::Traffic;
use crate::runtime::Carriers;

/// Connections through one published port at a time. Each is a descriptor and a task; busy, it holds up to 64 KiB beside its
/// pipe. The next ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;

/// Of these, connections that come and have to wait to get into a module's queue. One more is reset at once: so many clients are a
/// queue that no module works off in time. One that was in the queue of a run that has ended is not counted: it was let in.
pub(super) const WAITING_MAX: usize = 128;

/// How long a connection waits in all for a module that is not listening (it restarts, or has not begun), or whose queue is full. In its
/// queue it waits for as long as the module likes, as on any host.
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
                // Here and not in its task, so that clients are served in the order in which they came.
                let begun = way.host.connect_patiently(seen(from, way.to), way.to);
                let (waiting, lanes) = (Arc::clone(&waiting), entrance.carriers.clone());
                let letting_in = entrance.port.traffic.bill.pays_for(async move {
                    let Some(module) = let_in(&client, from, begun, &way, &waiting).await else {
                        return;
                    };
                    let Some(lanes) = lanes else {
                        return Open::new(client, from, way, place.ok()).carry(module).await;
                    };
                    match lanes.adopt(client) {
                        Ok(client) => {
                            Open::new(client, from, way, place.ok()).carry_on(lanes, module);
                        }
                        Err(error) => {
                            way.port.traffic.connections_failed.add(1);
                            debug!(%from, to = %way.to, %error, "a client's connection cannot be watched");
                            module.abort();
                        }
                    }
                });
                entrance.tasks.spawn(letting_in);
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

/// The connection to the module, once that has accepted it; `None`: there is none, and the client has been told.
async fn let_in(
    client: &TcpStream,
    from: SocketAddr,
    begun: Result<Connecting, ConnectError>,
    way: &Way,
    waiting: &Semaphore,
) -> Option<Stream> {
    tune(client);
    let traffic = &way.port.traffic;
    let connected = async {
        tokio::select! {
            biased;
            connected = connect(begun, way, waiting) => Some(connected),
            () = broken(client) => None,
        }
    };
    match way.stop.run_until_cancelled(connected).await {
        Some(Some(Ok(module))) => return Some(module),
        Some(Some(Err(error))) => {
            debug!(%from, to = %way.to, %error, "connection to a published port refused");
            outside::reset(client);
        }
        Some(None) => {
            traffic.connections_failed.add(1);
            debug!(%from, to = %way.to, "a client has gone before a module took it");
        }
        // The pod goes: whoever still waits is told so at once.
        None => outside::reset(client),
    }
    None
}

/// A client that a module has accepted, and its place. Dropped before both sides are done, it resets the client: the pod goes, or the
/// guests' threads have ended.
struct Open<K: AsFd> {
    client: K,
    from: SocketAddr,
    way: Way,
    over: bool,
    _place: Option<OwnedSemaphorePermit>,
}

impl<K: AsyncRead + AsyncWrite + AsFd + Send + Unpin + 'static> Open<K> {
    fn new(client: K, from: SocketAddr, way: Way, place: Option<OwnedSemaphorePermit>) -> Self {
        let traffic = &way.port.traffic;
        traffic.connections.add(1);
        traffic.connections_open.rise(&traffic.connections_peak);
        Self { client, from, way, over: false, _place: place }
    }

    /// Carries it both ways, here.
    async fn carry(mut self, module: Stream) {
        let stop = self.way.stop.clone();
        let pump = Pump::new(&mut self.client, module, &self.way.port.traffic);
        let ended = stop.run_until_cancelled(pump).await;
        self.ended(ended);
    }

    /// Carries it both ways on the guests' threads, where a module's word reaches the kernel without waking another one.
    fn carry_on(mut self, lanes: Carriers, module: Stream) {
        let (theirs, tasks) = (lanes.clone(), self.way.tasks.clone());
        theirs.spawn(tasks.track_future(async move {
            let stop = self.way.stop.clone();
            let pump = Pump::new(&mut self.client, module, &self.way.port.traffic);
            // A pod that has used up its time ends all the same.
            let ended = stop.run_until_cancelled(lanes.metered(pump)).await;
            self.ended(ended);
        }));
    }

    fn ended(mut self, ended: Option<Ended>) {
        match ended {
            Some(Ended::Orderly) => self.over = true,
            Some(Ended::Outside(error)) => {
                let (from, to) = (self.from, self.way.to);
                debug!(%from, %to, %error, "published connection broke");
                self.over = true;
            }
            // A reset on one side must be a reset, not an orderly end, on the other.
            Some(Ended::Pod) | None => {}
        }
    }
}

impl<K: AsFd> Drop for Open<K> {
    fn drop(&mut self) {
        if !self.over {
            outside::reset(&self.client);
        }
        self.way.port.traffic.connections_open.fall();
    }
}

/// Ends when the client has reset the connection, or is lost (keep-alive). One that has only closed its side may want an answer.
async fn broken(client: &TcpStream) {
    loop {
        match client.ready(Interest::ERROR).await {
            Ok(ready) if !ready.is_error() => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// The connection to the module, once that has accepted it.
async fn connect(
    begun: Result<Connecting, ConnectError>,
    way: &Way,
    waiting: &Semaphore,
) -> Result<Stream, ConnectError> {
    let traffic = &way.port.traffic;
    let limited = |error| {
        traffic.connections_limited.add(1);
        error
    };
    let mut connecting = begun.map_err(limited)?;
    let mut place = None;
    let mut let_in = false;
    let mut patience = WAIT_FOR_MODULE;
    loop {
        if let Poll::Ready(outcome) = connecting.try_finish() {
            return outcome;
        }
        if connecting.is_queued() {
            (place, let_in) = (None, true);
            if let Some(outcome) = news(&mut connecting, true).await {
                return outcome;
            }
            continue;
        }
        if place.is_none() && !let_in {
            let free = waiting.try_acquire();
            place = Some(free.map_err(|_| limited(ConnectError::Refused(way.to)))?);
        }
        let (_counted, since) = (Counted::new(traffic), way.clock.now());
        match timeout(patience, news(&mut connecting, false)).await {
            Ok(Some(outcome)) => return outcome,
            Ok(None) => patience = patience.saturating_sub(way.clock.now().since(since)),
            Err(_) => {
                traffic.connections_failed.add(1);
                return Err(ConnectError::TimedOut(way.to));
            }
        }
    }
}

/// The outcome of a connect; `None` when it has come into a module's queue, or (`queued`) has lost its place there.
async fn news(connecting: &mut Connecting, queued: bool) -> Option<Result<Stream, ConnectError>> {
    poll_fn(|cx| match Pin::new(&mut *connecting).poll(cx) {
        Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
        Poll::Pending if connecting.is_queued() != queued => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// One that waits for a module, for as long as this lives.
struct Counted<'a>(&'a Traffic);

impl<'a> Counted<'a> {
    fn new(traffic: &'a Traffic) -> Self {
        traffic.queued.rise(&traffic.queued_peak);
        Self(traffic)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.queued.fall();
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
