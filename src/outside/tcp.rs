//! Connections of a pod to the outside.
//!
//! ```text
//!  call ─► granted or outside? ─► place? ─► own address? ─► dial (deadline) ─► connected ─► pump
//!              └ denied             └ limit      └ denied        └ failed            └ reset, end
//! ```
//! Owns: one connection from the pod's wish to its end. A task each, on the control plane; the
//! guest's thread only leaves its wish. Is not: the bytes (`pump`).
//! Limits: [`DIAL_DEADLINE`]; those of the pod.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tracing::debug;

use super::address;
use super::dialer::Dialer;
use super::pod::{Place, PodOutside, Target};
use super::pump::{Ended, Pump};
use super::{Gateway, closed};
use crate::net::{ConnectError, OpenError, OutboundCall, Protocol};

/// How long the kernel may try. Linux alone would try for two minutes; whoever answers after one
/// minute is of no use to a program.
const DIAL_DEADLINE: Duration = Duration::from_secs(60);

impl Gateway {
    /// Opens a TCP connection to `to` for the pod. Returns at once; `call` is told the outcome.
    pub fn connect(&self, pod: &Arc<PodOutside>, to: SocketAddr, call: OutboundCall) {
        let target = match pod.target(to, Protocol::Tcp) {
            Ok(target) => target,
            Err(why) => {
                closed(pod, to, why);
                return call.failed(ConnectError::Denied(to));
            }
        };
        let connecting = Arc::clone(&pod.connecting).try_acquire_owned();
        let place = Place::take(pod, &self.0.descriptors);
        let (Ok(connecting), Some(place)) = (connecting, place) else {
            pod.traffic.connections_limited.add(1);
            debug!(pod = %pod.key, %to, "connection refused: too many are open");
            return call.failed(ConnectError::Open(OpenError::PodLimit));
        };
        let wish = Wish { pod: Arc::clone(pod), to, target, call, place };
        let dialer = Arc::clone(&self.0.dialer);
        self.0.control.spawn(pod.traffic.bill.pays_for(wish.fulfil(dialer, connecting)));
    }
}

/// A connection that is to be.
struct Wish {
    pod: Arc<PodOutside>,
    to: SocketAddr,
    target: Target,
    call: OutboundCall,
    place: Place,
}

impl Wish {
    async fn fulfil(mut self, dialer: Arc<dyn Dialer>, connecting: OwnedSemaphorePermit) {
        let pod = Arc::clone(&self.pod);
        let dialled = tokio::select! {
            biased;
            () = pod.stop.cancelled() => return, // cancel-safe; the call fails as unreachable
            () = std::future::poll_fn(|cx| self.call.poll_abandoned(cx)) => return, // nobody waits
            dialled = dial(self.target, &*dialer) => dialled,
        };
        drop(connecting);
        let (to, call) = (self.to, self.call);
        let mut kernel = match dialled {
            Ok(kernel) => kernel,
            Err(Dialled::Closed(why)) => {
                closed(&pod, to, why);
                return call.failed(ConnectError::Denied(to));
            }
            Err(Dialled::Failed(error)) => {
                pod.traffic.connections_failed.add(1);
                debug!(pod = %pod.key, %to, %error, "no connection to the outside");
                return call.failed(refusal(to, &error));
            }
        };
        // The pod's network has no delayed acknowledgements; the kernel's side should not wait for
        // more either. A socket that refuses the option is slower, no more.
        let _ = kernel.set_nodelay(true);
        let Ok(via) = kernel.local_addr() else { return };
        let Some(stream) = call.connected(via) else { return };
        let _open = self.place.open();
        let pump = Pump::new(&mut kernel, stream, &pod.traffic);
        match pod.stop.run_until_cancelled(pump).await {
            Some(Ended::Orderly) => {}
            Some(Ended::Outside(error)) => {
                debug!(pod = %pod.key, %to, %error, "a connection to the outside broke");
            }
            Some(Ended::Pod) | None => reset(&kernel),
        }
    }
}

/// Why no connection came about.
enum Dialled {
    Closed(address::Closed),
    Failed(io::Error),
}

async fn dial(target: Target, dialer: &dyn Dialer) -> Result<TcpStream, Dialled> {
    let dialled = match target {
        Target::Host(port) => tokio::time::timeout(DIAL_DEADLINE, dial_host(port, dialer)).await,
        Target::Outside(to) => {
            if address::spellings(to.ip()).any(|ip| dialer.is_own(ip)) {
                return Err(Dialled::Closed(address::Closed::Own));
            }
            tokio::time::timeout(DIAL_DEADLINE, dialer.tcp(to)).await
        }
    };
    let late = |late| Err(io::Error::new(io::ErrorKind::TimedOut, late));
    dialled.unwrap_or_else(late).map_err(Dialled::Failed)
}

/// A program of the host listens on one of the two loopback addresses, or on both.
async fn dial_host(port: u16, dialer: &dyn Dialer) -> io::Result<TcpStream> {
    match dialer.tcp((Ipv4Addr::LOCALHOST, port).into()).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            dialer.tcp((Ipv6Addr::LOCALHOST, port).into()).await.map_err(|_| error)
        }
        dialled => dialled,
    }
}

/// What a program is told, in its own system's terms.
fn refusal(to: SocketAddr, error: &io::Error) -> ConnectError {
    let kind = error.kind();
    if kind == io::ErrorKind::ConnectionRefused {
        ConnectError::Refused(to)
    } else if kind == io::ErrorKind::TimedOut {
        ConnectError::TimedOut(to)
    } else if kind == io::ErrorKind::PermissionDenied {
        // A firewall of the host.
        ConnectError::Denied(to)
    } else if is_shortage(error) {
        ConnectError::Open(OpenError::PodLimit)
    } else {
        ConnectError::Unreachable(to)
    }
}

/// The host is out of descriptors, ports or memory.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| shortages.iter().any(|e| e.raw_os_error() == code))
}

/// Makes closing the kernel's socket send a reset, as the pod's side saw one.
pub fn reset(kernel: impl AsFd) {
    // A socket that refuses the option is closed in the ordinary way instead.
    let _ = rustix::net::sockopt::set_socket_linger(kernel, Some(Duration::ZERO));
}
