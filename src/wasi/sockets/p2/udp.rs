//! `wasi:sockets/udp` and `udp-create-socket` 0.2.
//!
//! Owns: the start/finish protocol of bind, the pair of datagram streams, and how many datagrams
//! one call moves.
//! Is not: the socket (`crate::net::UdpSocket`). A pair of streams is for one association: asking
//! for a new pair while the old one lives traps, as WASI allows.
//! Limits: [`DATAGRAMS_MAX`] and [`BYTES_MAX`] a call.

use std::task::Poll;

use bytes::Bytes;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::network::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Network,
};
use wasmtime_wasi::p2::bindings::sockets::udp::{
    self, HostIncomingDatagramStream, HostOutgoingDatagramStream, HostUdpSocket, IncomingDatagram,
    IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream, UdpSocket,
};
use wasmtime_wasi::p2::bindings::sockets::udp_create_socket;
use wasmtime_wasi::p2::{SocketError, SocketResult};
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::{DynPollable, Pollable};

use super::{address_family, bind_code, family, open_code, receive_code, send_code, zero_code};
use crate::net;
use crate::wasi::sockets::{NetCtxView, ours, theirs};

/// Most datagrams a call sends or receives: what one call can make the host hold at once beside the
/// queue is this many of 64 KiB.
const DATAGRAMS_MAX: usize = 16;
/// A call receives no further datagram once it has this many bytes.
const BYTES_MAX: usize = 64 * 1024;

/// What a guest's `udp-socket` handle stands for.
struct Socket {
    inner: net::UdpSocket,
    binding: bool,
}

/// What its `incoming-datagram-stream` stands for.
struct Incoming(net::UdpSocket);

/// What its `outgoing-datagram-stream` stands for.
struct Outgoing {
    socket: net::UdpSocket,
    permit: usize,
}

#[async_trait]
impl Pollable for Socket {
    /// Nothing about the socket itself takes time.
    async fn ready(&mut self) {}
}

#[async_trait]
impl Pollable for Incoming {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.0.poll_ready(cx)).await;
    }
}

#[async_trait]
impl Pollable for Outgoing {
    /// Sending never waits.
    async fn ready(&mut self) {}
}

impl NetCtxView<'_> {
    fn udp(&self, this: &Resource<UdpSocket>) -> SocketResult<&net::UdpSocket> {
        Ok(&self.table.get(&ours::<Socket, _>(this))?.inner)
    }
}

impl udp_create_socket::Host for NetCtxView<'_> {
    async fn create_udp_socket(
        &mut self,
        of: IpAddressFamily,
    ) -> SocketResult<Resource<UdpSocket>> {
        self.check_places(1, ErrorCode::NewSocketLimit)?;
        let inner = self.member.udp_socket(family(of)).map_err(open_code)?;
        Ok(theirs(&self.table.push(Socket { inner, binding: false })?))
    }
}

impl udp::Host for NetCtxView<'_> {}

impl HostUdpSocket for NetCtxView<'_> {
    async fn start_bind(
        &mut self,
        this: Resource<UdpSocket>,
        network: Resource<Network>,
        local_address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.check_network(&network)?;
        let socket = self.table.get_mut(&ours::<Socket, _>(&this))?;
        if socket.binding {
            return Err(ErrorCode::ConcurrencyConflict.into());
        }
        socket.inner.bind(local_address.into()).map_err(bind_code)?;
        socket.binding = true;
        Ok(())
    }

    fn finish_bind(&mut self, this: Resource<UdpSocket>) -> SocketResult<()> {
        let socket = self.table.get_mut(&ours::<Socket, _>(&this))?;
        if !std::mem::take(&mut socket.binding) {
            return Err(ErrorCode::NotInProgress.into());
        }
        Ok(())
    }

    async fn stream(
        &mut self,
        this: Resource<UdpSocket>,
        remote_address: Option<IpSocketAddress>,
    ) -> SocketResult<(Resource<IncomingDatagramStream>, Resource<OutgoingDatagramStream>)> {
        let this = ours::<Socket, _>(&this);
        let in_use = self
            .table
            .iter_children(&this)?
            .any(|child| child.is::<Incoming>() || child.is::<Outgoing>());
        if in_use {
            return Err(SocketError::trap(wasmtime::format_err!(
                "the streams of an earlier call are still in use"
            )));
        }
        let socket = self.table.get(&this)?.inner.clone();
        if !socket.is_bound() {
            // WASI 0.2 has no implicit bind here.
            return Err(ErrorCode::InvalidState.into());
        }
        self.check_places(2, ErrorCode::OutOfMemory)?;
        match remote_address {
            Some(peer) => socket.connect(peer.into()).map_err(send_code)?,
            None => socket.disconnect(),
        }
        let incoming = self.table.push_child(Incoming(socket.clone()), &this)?;
        let outgoing = self.table.push_child(Outgoing { socket, permit: 0 }, &this)?;
        Ok((theirs(&incoming), theirs(&outgoing)))
    }

    fn local_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.udp(&this)?.local_address().ok_or(ErrorCode::InvalidState)?.into())
    }

    fn remote_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.udp(&this)?.remote_address().ok_or(ErrorCode::InvalidState)?.into())
    }

    fn address_family(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<IpAddressFamily> {
        Ok(address_family(self.table.get(&ours::<Socket, _>(&this))?.inner.family()))
    }

    fn unicast_hop_limit(&mut self, this: Resource<UdpSocket>) -> SocketResult<u8> {
        Ok(self.udp(&this)?.hop_limit())
    }

    fn set_unicast_hop_limit(&mut self, this: Resource<UdpSocket>, value: u8) -> SocketResult<()> {
        Ok(self.udp(&this)?.set_hop_limit(value).map_err(zero_code)?)
    }

    fn receive_buffer_size(&mut self, this: Resource<UdpSocket>) -> SocketResult<u64> {
        Ok(self.udp(&this)?.receive_buffer_size())
    }

    fn set_receive_buffer_size(
        &mut self,
        this: Resource<UdpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        Ok(self.udp(&this)?.set_receive_buffer_size(value).map_err(zero_code)?)
    }

    fn send_buffer_size(&mut self, this: Resource<UdpSocket>) -> SocketResult<u64> {
        Ok(self.udp(&this)?.send_buffer_size())
    }

    fn set_send_buffer_size(&mut self, this: Resource<UdpSocket>, value: u64) -> SocketResult<()> {
        Ok(self.udp(&this)?.set_send_buffer_size(value).map_err(zero_code)?)
    }

    fn subscribe(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<Resource<DynPollable>> {
        wasmtime_wasi_io::poll::subscribe(self.table, ours::<Socket, _>(&this))
    }

    fn drop(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<Socket>::new_own(this.rep()))?;
        Ok(())
    }
}

impl HostIncomingDatagramStream for NetCtxView<'_> {
    fn receive(
        &mut self,
        this: Resource<IncomingDatagramStream>,
        max_results: u64,
    ) -> SocketResult<Vec<IncomingDatagram>> {
        let stream = self.table.get(&ours::<Incoming, _>(&this))?;
        let most = usize::try_from(max_results).unwrap_or(usize::MAX).min(DATAGRAMS_MAX);
        let (mut datagrams, mut bytes) = (Vec::new(), 0);
        while datagrams.len() < most && bytes < BYTES_MAX {
            match stream.0.try_receive() {
                Poll::Pending => break,
                Poll::Ready(Ok(datagram)) => {
                    bytes += datagram.data.len();
                    datagrams.push(IncomingDatagram {
                        data: datagram.data.into(),
                        remote_address: datagram.from.into(),
                    });
                }
                // What came before is told first. A refusal that was met after it is lost, as
                // datagrams may be.
                Poll::Ready(Err(_)) if !datagrams.is_empty() => break,
                Poll::Ready(Err(error)) => return Err(receive_code(error).into()),
            }
        }
        Ok(datagrams)
    }

    fn subscribe(
        &mut self,
        this: Resource<IncomingDatagramStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        wasmtime_wasi_io::poll::subscribe(self.table, ours::<Incoming, _>(&this))
    }

    fn drop(&mut self, this: Resource<IncomingDatagramStream>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<Incoming>::new_own(this.rep()))?;
        Ok(())
    }
}

impl HostOutgoingDatagramStream for NetCtxView<'_> {
    fn check_send(&mut self, this: Resource<OutgoingDatagramStream>) -> SocketResult<u64> {
        let stream = self.table.get_mut(&ours::<Outgoing, _>(&this))?;
        stream.permit = DATAGRAMS_MAX;
        Ok(stream.permit as u64)
    }

    fn send(
        &mut self,
        this: Resource<OutgoingDatagramStream>,
        datagrams: Vec<OutgoingDatagram>,
    ) -> SocketResult<u64> {
        let stream = self.table.get_mut(&ours::<Outgoing, _>(&this))?;
        if datagrams.is_empty() {
            return Ok(0);
        }
        if datagrams.len() > std::mem::take(&mut stream.permit) {
            return Err(SocketError::trap(wasmtime::format_err!(
                "send of more datagrams than check-send permitted"
            )));
        }
        let mut sent = 0;
        for datagram in datagrams {
            let to = datagram.remote_address.map(Into::into);
            match stream.socket.send(Bytes::from(datagram.data), to) {
                Ok(()) => sent += 1,
                // WIT: once one is sent, the call never fails.
                Err(_) if sent > 0 => break,
                Err(error) => return Err(send_code(error).into()),
            }
        }
        Ok(sent)
    }

    fn subscribe(
        &mut self,
        this: Resource<OutgoingDatagramStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        wasmtime_wasi_io::poll::subscribe(self.table, ours::<Outgoing, _>(&this))
    }

    async fn drop(&mut self, this: Resource<OutgoingDatagramStream>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<Outgoing>::new_own(this.rep()))?;
        Ok(())
    }
}
