//! UDP of `wasi:sockets/types` 0.3.
//!
//! Owns: receiving as a call that waits; any number of a guest's tasks may wait on one socket.
//! Is not: the socket (`crate::net::UdpSocket`). Sending never waits.

use bytes::Bytes;
use wasmtime::component::{Accessor, Resource};
use wasmtime_wasi::p3::bindings::sockets::types::{
    ErrorCode, HostUdpSocket, HostUdpSocketWithStore, IpAddressFamily, IpSocketAddress, UdpSocket,
};
use wasmtime_wasi::p3::sockets::{SocketError, SocketResult};

use super::{address_family, bind_code, family, no_place, open_code, receive_code, send_code};
use crate::net::{self, ZeroOption};
use crate::wasi::sockets::{HasNet, NetCtxView, ours, theirs};

impl NetCtxView<'_> {
    fn udp3(&self, this: &Resource<UdpSocket>) -> SocketResult<&net::UdpSocket> {
        self.table.get(&ours::<net::UdpSocket, _>(this)).map_err(SocketError::trap)
    }
}

impl<T: Send> HostUdpSocketWithStore<T> for HasNet {
    async fn send(
        store: &Accessor<T, Self>,
        this: Resource<UdpSocket>,
        data: Vec<u8>,
        remote_address: Option<IpSocketAddress>,
    ) -> SocketResult<()> {
        store.with(|mut store| {
            let to = remote_address.map(Into::into);
            Ok(store.get().udp3(&this)?.send(Bytes::from(data), to).map_err(send_code)?)
        })
    }

    async fn receive(
        store: &Accessor<T, Self>,
        this: Resource<UdpSocket>,
    ) -> SocketResult<(Vec<u8>, IpSocketAddress)> {
        let socket = store.with(|mut store| store.get().udp3(&this).cloned())?;
        let datagram = socket.receive().await.map_err(receive_code)?;
        Ok((datagram.data.into(), datagram.from.into()))
    }
}

fn zero_code(_: ZeroOption) -> ErrorCode {
    ErrorCode::InvalidArgument
}

impl HostUdpSocket for NetCtxView<'_> {
    async fn create(&mut self, of: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
        let socket = self.member.udp_socket(family(of)).map_err(open_code)?;
        Ok(theirs(&self.table.push(socket).map_err(no_place)?))
    }

    async fn bind(
        &mut self,
        this: Resource<UdpSocket>,
        local_address: IpSocketAddress,
    ) -> SocketResult<()> {
        Ok(self.udp3(&this)?.bind(local_address.into()).map_err(bind_code)?)
    }

    async fn connect(
        &mut self,
        this: Resource<UdpSocket>,
        remote_address: IpSocketAddress,
    ) -> SocketResult<()> {
        Ok(self.udp3(&this)?.connect(remote_address.into()).map_err(send_code)?)
    }

    fn disconnect(&mut self, this: Resource<UdpSocket>) -> SocketResult<()> {
        let socket = self.udp3(&this)?;
        if socket.remote_address().is_none() {
            return Err(ErrorCode::InvalidState.into());
        }
        socket.disconnect();
        Ok(())
    }

    fn get_local_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.udp3(&this)?.local_address().ok_or(ErrorCode::InvalidState)?.into())
    }

    fn get_remote_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.udp3(&this)?.remote_address().ok_or(ErrorCode::InvalidState)?.into())
    }

    fn get_address_family(
        &mut self,
        this: Resource<UdpSocket>,
    ) -> wasmtime::Result<IpAddressFamily> {
        Ok(address_family(self.udp3(&this)?.family()))
    }

    fn get_unicast_hop_limit(&mut self, this: Resource<UdpSocket>) -> SocketResult<u8> {
        Ok(self.udp3(&this)?.hop_limit())
    }

    fn set_unicast_hop_limit(&mut self, this: Resource<UdpSocket>, value: u8) -> SocketResult<()> {
        Ok(self.udp3(&this)?.set_hop_limit(value).map_err(zero_code)?)
    }

    fn get_receive_buffer_size(&mut self, this: Resource<UdpSocket>) -> SocketResult<u64> {
        Ok(self.udp3(&this)?.receive_buffer_size())
    }

    fn set_receive_buffer_size(
        &mut self,
        this: Resource<UdpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        Ok(self.udp3(&this)?.set_receive_buffer_size(value).map_err(zero_code)?)
    }

    fn get_send_buffer_size(&mut self, this: Resource<UdpSocket>) -> SocketResult<u64> {
        Ok(self.udp3(&this)?.send_buffer_size())
    }

    fn set_send_buffer_size(&mut self, this: Resource<UdpSocket>, value: u64) -> SocketResult<()> {
        Ok(self.udp3(&this)?.set_send_buffer_size(value).map_err(zero_code)?)
    }

    fn drop(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<net::UdpSocket>::new_own(this.rep()))?;
        Ok(())
    }
}
