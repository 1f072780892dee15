//! Datagrams of a pod to the outside, and their answers.
//!
//! ```text
//!  send ─► flow of (pod's address, target)? ── yes ─► the kernel's socket, at once, or lost
//!                └ no ─► granted or outside? own address? rate? place? ─► socket, receiving task
//!  receiving task: answer ─► reply.deliver    ends when: idle · evicted · socket closed · pod gone
//! ```
//! Owns: a kernel's socket for each flow, as a NAT keeps a mapping: connected, so that the kernel
//! lets in only what the target answers. Towards a group anybody may answer. Is not: the table
//! (`flows`).
//! Nothing here waits: `send` is called by guests' threads, and is one system call where the flow
//! stands. Taking answers is on the pod's bill, and waits while the pod has used up its time.
//! Limits: those of the pod.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tracing::debug;

use super::address::{self, Closed, is_group};
use super::flows::Idle;
use super::pod::{Busy, PodOutside, Target};
use super::{Gateway, closed};
use crate::net::{Protocol, SendError, UdpReply};

/// Largest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Answers taken in one go before other tasks have their turn.
const ANSWERS_AT_ONCE: usize = 32;

thread_local! {
    /// Where datagrams land before their length is known.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; DATAGRAM_BYTES_MAX]);
}

/// Who talks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FlowKey {
    /// The pod's own address and port.
    pub(super) from: SocketAddr,
    /// The address it named.
    pub(super) to: SocketAddr,
}

/// One flow under way. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Flow {
    socket: Arc<UdpSocket>,
    receiving: JoinHandle<()>,
    pod: std::sync::Weak<PodOutside>,
    _place: OwnedSemaphorePermit,
}

impl Flow {
    /// The host's own address of it.
    #[must_use]
    pub(super) fn via(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }

    /// Past tokio, whose readiness a guest's thread could not wait for anyway.
    fn send(&self, to: SocketAddr, data: &[u8]) -> rustix::io::Result<usize> {
        if is_group(to.ip()) {
            rustix::net::sendto(&self.socket, data, SendFlags::DONTWAIT, &to)
        } else {
            rustix::net::send(&self.socket, data, SendFlags::DONTWAIT)
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.receiving.abort();
        if let Some(pod) = self.pod.upgrade() {
            pod.traffic.flows_open.fall();
        }
    }
}

impl Gateway {
    /// Sends a datagram for the pod. Never waits: what there is no room for is lost, and counted.
    ///
    /// # Errors
    /// What the sender is told at once: it may not go there, or there is no way.
    pub fn send(
        &self,
        pod: &Arc<PodOutside>,
        from: SocketAddr,
        to: SocketAddr,
        data: &Bytes,
        reply: &UdpReply,
    ) -> Result<(), SendError> {
        let key = FlowKey { from, to };
        let mut busy = pod.busy();
        let now = self.0.clock.now();
        if let Some(flow) = busy.flows.touch(&key, now) {
            let sent = flow.send(to, data);
            drop(busy);
            return told(pod, to, data.len(), sent);
        }
        let target = pod.target(to, Protocol::Udp);
        let target = target.map_err(|why| denied(pod, to, why))?;
        if !busy.new_flows.take(now) {
            pod.traffic.datagrams_dropped.add(1);
            return Ok(());
        }
        self.open_flow(pod, &mut busy, key, target, reply)?;
        let sent = busy.flows.touch(&key, now).map(|flow| flow.send(to, data));
        drop(busy);
        sent.map_or(Ok(()), |sent| told(pod, to, data.len(), sent))
    }

    /// Makes the kernel's socket and the task that listens to it. Without a descriptor to spare the
    /// datagram is lost.
    fn open_flow(
        &self,
        pod: &Arc<PodOutside>,
        busy: &mut Busy,
        key: FlowKey,
        target: Target,
        reply: &UdpReply,
    ) -> Result<(), SendError> {
        let node = &self.0;
        let place = Arc::clone(&node.descriptors).try_acquire_owned();
        let Ok(place) = place else {
            pod.traffic.datagrams_dropped.add(1);
            return Ok(());
        };
        let (to, opened) = match target {
            Target::Host(port) => {
                let to = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, port));
                (to, node.dialer.udp(to))
            }
            Target::Outside(to) => {
                if address::spellings(to.ip()).any(|ip| node.dialer.is_own(ip)) {
                    return Err(denied(pod, to, Closed::Own));
                }
                (to, node.dialer.udp(to))
            }
        };
        // Registering with the timers and sockets of the control plane, not of the guest's thread.
        let context = node.control.enter();
        let socket = opened.and_then(UdpSocket::from_std).map_err(|error| {
            pod.traffic.datagrams_dropped.add(1);
            debug!(pod = %pod.key, %to, %error, "no flow of datagrams to the outside");
            SendError::Unreachable(key.to)
        })?;
        drop(context);
        let now = node.clock.now();
        let socket = Arc::new(socket);
        let serial = busy.flows.next_serial();
        let receiver = Receiver {
            node: self.clone(),
            pod: Arc::downgrade(pod),
            socket: Arc::clone(&socket),
            reply: reply.clone(),
            key,
            serial,
        };
        let receiving = node.control.spawn(pod.traffic.bill.pays_for(receiver.run()));
        let flow = Flow { socket, receiving, pod: Arc::downgrade(pod), _place: place };
        pod.traffic.flows_open.rise(&pod.traffic.flows_peak);
        let (_, evicted) = busy.flows.insert(key, flow, now);
        if evicted.is_some() {
            pod.traffic.flows_evicted.add(1);
        }
        Ok(())
    }
}

fn denied(pod: &PodOutside, to: SocketAddr, why: Closed) -> SendError {
    closed(pod, to, why);
    SendError::Denied(to)
}

/// What the kernel said, as the sender is told it, and counted.
fn told(
    pod: &PodOutside,
    to: SocketAddr,
    length: usize,
    sent: rustix::io::Result<usize>,
) -> Result<(), SendError> {
    use rustix::io::Errno;
    let error = match sent {
        Ok(n) => {
            pod.traffic.datagrams_out.add(1);
            pod.traffic.bytes_out.add(n);
            return Ok(());
        }
        Err(error) => error,
    };
    pod.traffic.datagrams_dropped.add(1);
    match error {
        // The answer to an earlier datagram: nobody listens there. Told once, as Linux does.
        Errno::CONNREFUSED => Err(SendError::Refused),
        Errno::MSGSIZE => Err(SendError::TooLong(length)),
        Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN | Errno::ADDRNOTAVAIL => {
            Err(SendError::Unreachable(to))
        }
        Errno::ACCESS | Errno::PERM => Err(SendError::Denied(to)),
        // Its queue is full, or it is out of memory: the datagram is lost, as datagrams are.
        _ => Ok(()),
    }
}

/// The next datagram that has come, and from whom.
fn receive(socket: &UdpSocket) -> io::Result<(Option<SocketAddr>, Bytes)> {
    SCRATCH.with_borrow_mut(|scratch| {
        let (n, _, from) =
            rustix::net::recvfrom(socket, scratch.as_mut_slice(), RecvFlags::DONTWAIT)?;
        let from = from.and_then(|from| SocketAddr::try_from(from).ok());
        Ok((from, Bytes::copy_from_slice(&scratch[..n])))
    })
}

/// Brings the answers of one flow back, until the flow is over.
struct Receiver {
    node: Gateway,
    pod: std::sync::Weak<PodOutside>,
    socket: Arc<UdpSocket>,
    reply: UdpReply,
    key: FlowKey,
    serial: u64,
}

impl Receiver {
    async fn run(self) {
        let mut closing = self.reply.clone();
        loop {
            let Some(pod) = self.pod.upgrade() else { return };
            let now = self.node.0.clock.now();
            let idle = pod.busy().flows.expire(&self.key, self.serial, now, pod.flow_idle);
            let Idle::Until(until) = idle else { return };
            drop(pod);
            let until = self.node.0.clock.instant(until);
            tokio::select! {
                // Each arm is cancel-safe: a datagram stays with the kernel until it is taken.
                received = self.answers() => {
                    let Some(pod) = self.pod.upgrade() else { return };
                    match received {
                        Ok(()) => {
                            // An answer is use, too.
                            pod.busy().flows.touch(&self.key, self.node.0.clock.now());
                        }
                        Err(error) => {
                            if error.kind() == io::ErrorKind::ConnectionRefused {
                                self.reply.refused(self.key.to);
                            }
                            debug!(pod = %pod.key, to = %self.key.to, %error, "a flow of datagrams");
                        }
                    }
                }
                () = std::future::poll_fn(|cx| closing.poll_closed(cx)) => {
                    if let Some(pod) = self.pod.upgrade() {
                        let gone = pod.busy().flows.remove(&self.key, self.serial);
                        drop(gone);
                    }
                    return;
                }
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }

    /// Waits for answers and delivers them. An error came instead of one (an ICMP message); the
    /// socket lives on.
    ///
    /// # Cancel safety
    /// What was not delivered is still with the kernel.
    async fn answers(&self) -> io::Result<()> {
        if let Some(pod) = self.pod.upgrade() {
            pod.traffic.bill.patience().await;
        }
        // An error alone does not make a socket readable.
        let ready = self.socket.ready(Interest::READABLE | Interest::ERROR).await?;
        let which = if ready.is_error() { Interest::ERROR } else { Interest::READABLE };
        for _ in 0..ANSWERS_AT_ONCE {
            match self.socket.try_io(which, || receive(&self.socket)) {
                Ok((from, data)) => self.deliver(from, data),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn deliver(&self, from: Option<SocketAddr>, data: Bytes) {
        let Some(pod) = self.pod.upgrade() else { return };
        // The target is known to the pod under the address it named.
        let from = from.filter(|_| is_group(self.key.to.ip())).unwrap_or(self.key.to);
        let bytes = data.len();
        if self.reply.deliver(from, data) {
            pod.traffic.datagrams_in.add(1);
            pod.traffic.bytes_in.add(bytes);
        } else {
            pod.traffic.datagrams_dropped.add(1);
        }
    }
}
