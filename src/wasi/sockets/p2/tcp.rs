//! `wasi:sockets/tcp` and `tcp-create-socket` 0.2.
//!
//! Owns: the start/finish protocol, and how long a connect may wait for room in a listener's queue.
//! Is not: the socket's states (`crate::net::TcpSocket`). Binding and listening are done when
//! started; a connect may take longer, and what it fails with is told when it is finished
//! (`wasi:sockets/tcp`, implementor's notes).

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::time::Sleep;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::SocketResult;
use wasmtime_wasi::p2::bindings::sockets::network::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Network,
};
use wasmtime_wasi::p2::bindings::sockets::tcp::{self, HostTcpSocket, ShutdownType, TcpSocket};
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket;
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::{DynPollable, Pollable};
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream};

use super::stream::{TcpInput, TcpOutput};
use super::{
    accept_code, address_family, backlog_code, bind_code, connect_code, family, listen_code,
    open_code, state_code, zero_code,
};
use crate::net::{self, ConnectError, Shutdown};
use crate::wasi::files::has_places;
use crate::wasi::sockets::{CONNECT_TIMEOUT, NetCtxView, ours, theirs};

/// What a guest's `tcp-socket` handle stands for.
struct Socket {
    inner: net::TcpSocket,
    started: Option<Step>,
}

/// An operation that was started and not finished.
enum Step {
    Bind,
    Listen,
    /// With the end of its patience, if it had to wait.
    Connect(Option<Pin<Box<Sleep>>>),
}

impl Socket {
    fn new(inner: net::TcpSocket) -> Self {
        Self { inner, started: None }
    }

    /// Refuses to start anything while something else is under way.
    fn check_idle(&self) -> SocketResult<()> {
        match self.started {
            None => Ok(()),
            Some(_) => Err(ErrorCode::ConcurrencyConflict.into()),
        }
    }

    /// Gives up a connect whose time is over. Keeps the time's waker in `cx`.
    fn check_patience(&mut self, cx: &mut Context<'_>) {
        if let Some(Step::Connect(Some(patience))) = &mut self.started
            && patience.as_mut().poll(cx).is_ready()
        {
            self.inner.give_up_connecting();
            self.started = Some(Step::Connect(None));
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.check_patience(cx);
        self.inner.poll_ready(cx)
    }

    /// The streams of a connected socket.
    fn streams(&mut self) -> Option<(DynInputStream, DynOutputStream)> {
        let (read, write) = (self.inner.take_read()?, self.inner.take_write()?);
        Some((Box::new(TcpInput::new(read)), Box::new(TcpOutput::new(write))))
    }
}

#[async_trait]
impl Pollable for Socket {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.poll_ready(cx)).await;
    }
}

impl NetCtxView<'_> {
    fn tcp(&mut self, this: &Resource<TcpSocket>) -> SocketResult<&mut Socket> {
        Ok(self.table.get_mut(&ours::<Socket, _>(this))?)
    }

    fn tcp_ref(&self, this: &Resource<TcpSocket>) -> SocketResult<&Socket> {
        Ok(self.table.get(&ours::<Socket, _>(this))?)
    }

    fn push_streams(
        &mut self,
        (input, output): (DynInputStream, DynOutputStream),
    ) -> SocketResult<(Resource<DynInputStream>, Resource<DynOutputStream>)> {
        // Not as children of the socket: each half lives on its own, and the guest may drop them in
        // any order.
        Ok((self.table.push(input)?, self.table.push(output)?))
    }
}

impl tcp_create_socket::Host for NetCtxView<'_> {
    fn create_tcp_socket(&mut self, of: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        self.check_places(1, ErrorCode::NewSocketLimit)?;
        let socket = self.member.tcp_socket(family(of)).map_err(open_code)?;
        Ok(theirs(&self.table.push(Socket::new(socket))?))
    }
}

impl tcp::Host for NetCtxView<'_> {}

impl HostTcpSocket for NetCtxView<'_> {
    async fn start_bind(
        &mut self,
        this: Resource<TcpSocket>,
        network: Resource<Network>,
        local_address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.check_network(&network)?;
        let socket = self.tcp(&this)?;
        socket.check_idle()?;
        socket.inner.bind(local_address.into()).map_err(bind_code)?;
        socket.started = Some(Step::Bind);
        Ok(())
    }

    fn finish_bind(&mut self, this: Resource<TcpSocket>) -> SocketResult<()> {
        let socket = self.tcp(&this)?;
        if !matches!(socket.started, Some(Step::Bind)) {
            return Err(ErrorCode::NotInProgress.into());
        }
        socket.started = None;
        Ok(())
    }

    fn start_connect(
        &mut self,
        this: Resource<TcpSocket>,
        network: Resource<Network>,
        remote_address: IpSocketAddress,
    ) -> SocketResult<()> {
        self.check_network(&network)?;
        let socket = self.tcp(&this)?;
        socket.check_idle()?;
        // Only what is wrong with the call itself is told here: any other failure is the outcome of
        // the connect, which finish-connect tells.
        if let Err(error @ (ConnectError::InvalidAddress(_) | ConnectError::InvalidState)) =
            socket.inner.connect(remote_address.into())
        {
            return Err(connect_code(error).into());
        }
        let waits = socket.inner.poll_ready(&mut Context::from_waker(Waker::noop())).is_pending();
        let patience = waits.then(|| Box::pin(tokio::time::sleep(CONNECT_TIMEOUT)));
        socket.started = Some(Step::Connect(patience));
        Ok(())
    }

    fn finish_connect(
        &mut self,
        this: Resource<TcpSocket>,
    ) -> SocketResult<(Resource<DynInputStream>, Resource<DynOutputStream>)> {
        let socket = self.tcp(&this)?;
        if !matches!(socket.started, Some(Step::Connect(_))) {
            return Err(ErrorCode::NotInProgress.into());
        }
        socket.check_patience(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(outcome) = socket.inner.try_connected() else {
            return Err(ErrorCode::WouldBlock.into());
        };
        if let Err(error) = outcome {
            socket.started = None;
            return Err(connect_code(error).into());
        }
        // Still in progress: it can be finished once there are places.
        self.check_places(2, ErrorCode::OutOfMemory)?;
        let socket = self.tcp(&this)?;
        socket.started = None;
        let streams = socket.streams().ok_or(ErrorCode::InvalidState)?;
        self.push_streams(streams)
    }

    async fn start_listen(&mut self, this: Resource<TcpSocket>) -> SocketResult<()> {
        let socket = self.tcp(&this)?;
        socket.check_idle()?;
        if !socket.inner.is_bound() {
            // WASI 0.2 has no implicit bind here.
            return Err(ErrorCode::InvalidState.into());
        }
        socket.inner.listen().map_err(listen_code)?;
        socket.started = Some(Step::Listen);
        Ok(())
    }

    fn finish_listen(&mut self, this: Resource<TcpSocket>) -> SocketResult<()> {
        let socket = self.tcp(&this)?;
        if !matches!(socket.started, Some(Step::Listen)) {
            return Err(ErrorCode::NotInProgress.into());
        }
        socket.started = None;
        Ok(())
    }

    fn accept(
        &mut self,
        this: Resource<TcpSocket>,
    ) -> SocketResult<(Resource<TcpSocket>, Resource<DynInputStream>, Resource<DynOutputStream>)>
    {
        // A connection that there is no place for stays in the queue.
        let full = !has_places(self.table, 3);
        let socket = self.tcp(&this)?;
        let mut nobody = Context::from_waker(Waker::noop());
        if full && socket.inner.is_listening() && socket.inner.poll_ready(&mut nobody).is_ready() {
            return Err(ErrorCode::NewSocketLimit.into());
        }
        let Poll::Ready(accepted) = socket.inner.try_accept() else {
            return Err(ErrorCode::WouldBlock.into());
        };
        let mut accepted = Socket::new(accepted.map_err(accept_code)?);
        let streams = accepted.streams().ok_or(ErrorCode::InvalidState)?;
        let (input, output) = self.push_streams(streams)?;
        Ok((theirs(&self.table.push(accepted)?), input, output))
    }

    fn local_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        let address = self.tcp_ref(&this)?.inner.local_address();
        Ok(address.ok_or(ErrorCode::InvalidState)?.into())
    }

    fn remote_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        let address = self.tcp_ref(&this)?.inner.remote_address();
        Ok(address.ok_or(ErrorCode::InvalidState)?.into())
    }

    fn is_listening(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<bool> {
        Ok(self.table.get(&ours::<Socket, _>(&this))?.inner.is_listening())
    }

    fn address_family(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<IpAddressFamily> {
        Ok(address_family(self.table.get(&ours::<Socket, _>(&this))?.inner.family()))
    }

    fn set_listen_backlog_size(
        &mut self,
        this: Resource<TcpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        Ok(self.tcp(&this)?.inner.set_backlog(value).map_err(backlog_code)?)
    }

    fn keep_alive_enabled(&mut self, this: Resource<TcpSocket>) -> SocketResult<bool> {
        Ok(self.tcp_ref(&this)?.inner.keep_alive())
    }

    fn set_keep_alive_enabled(
        &mut self,
        this: Resource<TcpSocket>,
        value: bool,
    ) -> SocketResult<()> {
        self.tcp(&this)?.inner.set_keep_alive(value);
        Ok(())
    }

    fn keep_alive_idle_time(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp_ref(&this)?.inner.keep_alive_idle())
    }

    fn set_keep_alive_idle_time(
        &mut self,
        this: Resource<TcpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        Ok(self.tcp(&this)?.inner.set_keep_alive_idle(value).map_err(zero_code)?)
    }

    fn keep_alive_interval(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp_ref(&this)?.inner.keep_alive_interval())
    }

    fn set_keep_alive_interval(
        &mut self,
        this: Resource<TcpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        Ok(self.tcp(&this)?.inner.set_keep_alive_interval(value).map_err(zero_code)?)
    }

    fn keep_alive_count(&mut self, this: Resource<TcpSocket>) -> SocketResult<u32> {
        Ok(self.tcp_ref(&this)?.inner.keep_alive_count())
    }

    fn set_keep_alive_count(&mut self, this: Resource<TcpSocket>, value: u32) -> SocketResult<()> {
        Ok(self.tcp(&this)?.inner.set_keep_alive_count(value).map_err(zero_code)?)
    }

    fn hop_limit(&mut self, this: Resource<TcpSocket>) -> SocketResult<u8> {
        Ok(self.tcp_ref(&this)?.inner.hop_limit())
    }

    fn set_hop_limit(&mut self, this: Resource<TcpSocket>, value: u8) -> SocketResult<()> {
        Ok(self.tcp(&this)?.inner.set_hop_limit(value).map_err(zero_code)?)
    }

    fn receive_buffer_size(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp_ref(&this)?.inner.receive_buffer_size())
    }

    fn set_receive_buffer_size(
        &mut self,
        this: Resource<TcpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        Ok(self.tcp(&this)?.inner.set_receive_buffer_size(value).map_err(zero_code)?)
    }

    fn send_buffer_size(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp_ref(&this)?.inner.send_buffer_size())
    }

    fn set_send_buffer_size(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        Ok(self.tcp(&this)?.inner.set_send_buffer_size(value).map_err(zero_code)?)
    }

    fn subscribe(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<Resource<DynPollable>> {
        wasmtime_wasi_io::poll::subscribe(self.table, ours::<Socket, _>(&this))
    }

    fn shutdown(&mut self, this: Resource<TcpSocket>, how: ShutdownType) -> SocketResult<()> {
        let how = match how {
            ShutdownType::Receive => Shutdown::Read,
            ShutdownType::Send => Shutdown::Write,
            ShutdownType::Both => Shutdown::Both,
        };
        Ok(self.tcp_ref(&this)?.inner.shutdown(how).map_err(state_code)?)
    }

    fn drop(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<Socket>::new_own(this.rep()))?;
        Ok(())
    }
}
