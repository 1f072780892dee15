//! TCP of `wasi:sockets/types` 0.3.
//!
//! Owns: a connection's halves and a listener's queue as streams of the component model, which poll
//! us when the guest reads or writes, and the futures that tell how a direction ended.
//! Is not: the socket's states (`crate::net::TcpSocket`). Bytes are copied once, between the
//! guest's memory and the connection; a stalled reader stops its writer as in 0.2, since a producer
//! or consumer that cannot go on is pending and holds nothing.
//! Limits: [`CHUNK_MAX`] a step.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::sync::oneshot;
use wasmtime::StoreContextMut;
use wasmtime::component::{
    Access, Accessor, Destination, FutureReader, Resource, ResourceTableError, Source,
    StreamConsumer, StreamProducer, StreamReader, StreamResult,
};
use wasmtime_wasi::p3::bindings::sockets::types::{
    Duration, ErrorCode, HostTcpSocket, HostTcpSocketWithStore, IpAddressFamily, IpSocketAddress,
    TcpSocket,
};
use wasmtime_wasi::p3::sockets::{SocketError, SocketResult};

use super::{
    address_family, backlog_code, bind_code, connect_code, family, listen_code, no_place,
    open_code, read_code, write_code,
};
use crate::net::{
    self, AcceptError, ConnectError, Listener, Paid, ReadHalf, WriteHalf, ZeroOption,
};
use crate::wasi::sockets::{CONNECT_TIMEOUT, HasNet, NetCtxView, ours, theirs};

/// Most bytes a step moves when the reader is not the guest itself but the host: a guest that hands what it receives on to another stream as it is. wasmtime
/// keeps a buffer of this size for as long as the two are joined, on nobody's account, so it is small.
const CHUNK_MAX: usize = 4 * 1024;

/// What a direction of a connection costs its module beside the socket: wasmtime's records of the
/// stream, of the future that tells its end, and of the task that serves both (measured: 1.7 KiB).
pub(crate) const STREAM_COST: usize = 1792;

/// How a direction of a connection ended; sent once.
type Verdict = oneshot::Sender<Result<(), ErrorCode>>;

impl NetCtxView<'_> {
    fn tcp3(&mut self, this: &Resource<TcpSocket>) -> SocketResult<&mut net::TcpSocket> {
        let this = ours::<net::TcpSocket, _>(this);
        self.table.get_mut(&this).map_err(SocketError::trap)
    }

    /// A half of a connected socket, paid for; each is had once. Without memory it stays where it is.
    fn take_half<Half>(
        &mut self,
        this: &Resource<TcpSocket>,
        take: impl FnOnce(&mut net::TcpSocket) -> Option<Half>,
    ) -> SocketResult<Result<(Half, Paid), ErrorCode>> {
        let paid = self.member.pay(STREAM_COST);
        let socket = self.tcp3(this)?;
        Ok(match paid {
            Some(paid) => take(socket).map(|half| (half, paid)).ok_or(ErrorCode::InvalidState),
            None => Err(ErrorCode::OutOfMemory),
        })
    }

    fn push_tcp3(
        &mut self,
        socket: net::TcpSocket,
    ) -> Result<Resource<TcpSocket>, ResourceTableError> {
        Ok(theirs(&self.table.push(socket)?))
    }
}

/// A pending step: cancelled if the guest asked to stop, else still pending.
fn pending(finish: bool) -> Poll<wasmtime::Result<StreamResult>> {
    if finish { Poll::Ready(Ok(StreamResult::Cancelled)) } else { Poll::Pending }
}

/// A step that only asked whether the next one would have something.
fn readiness<T>(ready: &Poll<T>, finish: bool) -> Poll<wasmtime::Result<StreamResult>> {
    match ready {
        Poll::Ready(_) => Poll::Ready(Ok(StreamResult::Completed)),
        Poll::Pending => pending(finish),
    }
}

/// Hands out accepted connections as sockets.
struct Accepting<D: 'static> {
    listener: Listener,
    getter: for<'a> fn(&'a mut D) -> NetCtxView<'a>,
}

impl<D: 'static> StreamProducer<D> for Accepting<D> {
    type Item = Resource<TcpSocket>;
    type Buffer = Option<Self::Item>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        if destination.remaining(&mut store) == Some(0) {
            return readiness(&self.listener.poll_ready(cx), finish);
        }
        loop {
            match self.listener.poll_accept_socket(cx) {
                Poll::Pending => return pending(finish),
                Poll::Ready(Err(AcceptError::Closed)) => {
                    return Poll::Ready(Ok(StreamResult::Dropped));
                }
                // WIT: the stream goes on whatever becomes of one connection. There is no telling
                // when the module will be below its limit again, so the one that came is turned
                // away.
                Poll::Ready(Err(AcceptError::Open(_))) => self.listener.turn_away(),
                Poll::Ready(Ok(socket)) => {
                    // The same where it has no place for it.
                    let pushed = (self.getter)(store.data_mut()).push_tcp3(socket);
                    let Ok(socket) = pushed else { continue };
                    destination.set_buffer(Some(socket));
                    return Poll::Ready(Ok(StreamResult::Completed));
                }
            }
        }
    }
}

/// Gives the guest what comes in. Dropped by the guest, it shuts the receiving side.
struct Receiving(Option<(ReadHalf, Verdict, Paid)>);

impl Receiving {
    fn end(&mut self, outcome: Result<(), ErrorCode>) -> Poll<wasmtime::Result<StreamResult>> {
        if let Some((_, verdict, _)) = self.0.take() {
            // The guest may not care to know.
            let _ = verdict.send(outcome);
        }
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let _ = self.end(Ok(()));
    }
}

impl<D: 'static> StreamProducer<D> for Receiving {
    type Item = u8;
    type Buffer = BytesMut;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, D>,
        destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let Some((half, ..)) = &mut self.0 else {
            return Poll::Ready(Ok(StreamResult::Dropped));
        };
        if destination.remaining(&mut store) == Some(0) {
            return readiness(&half.poll_ready(cx), finish);
        }
        let mut destination = destination.as_direct(store, CHUNK_MAX);
        match half.poll_read_into(cx, destination.remaining()) {
            Poll::Pending => pending(finish),
            Poll::Ready(Ok(0)) => self.end(Ok(())),
            Poll::Ready(Ok(n)) => {
                destination.mark_written(n);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Poll::Ready(Err(error)) => self.end(Err(read_code(error))),
        }
    }
}

/// Takes what the guest sends. When the guest closes its stream, the sending side is shut.
struct Sending(Option<(WriteHalf, Verdict, Paid)>);

impl Sending {
    fn end(&mut self, outcome: Result<(), ErrorCode>) -> Poll<wasmtime::Result<StreamResult>> {
        if let Some((_, verdict, _)) = self.0.take() {
            // The guest may not care to know.
            let _ = verdict.send(outcome);
        }
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let _ = self.end(Ok(()));
    }
}

impl<D: 'static> StreamConsumer<D> for Sending {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'_, D>,
        source: Source<'_, Self::Item>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let Some((half, ..)) = &mut self.0 else {
            return Poll::Ready(Ok(StreamResult::Dropped));
        };
        let mut source = source.as_direct(store);
        if source.remaining().is_empty() {
            return readiness(&half.poll_ready(cx), finish);
        }
        match half.poll_write_slice(cx, source.remaining()) {
            Poll::Pending => pending(finish),
            Poll::Ready(Ok(n)) => {
                source.mark_read(n);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Poll::Ready(Err(error)) => self.end(Err(write_code(error))),
        }
    }
}

impl<T: Send> HostTcpSocketWithStore<T> for HasNet {
    async fn connect(
        store: &Accessor<T, Self>,
        this: Resource<TcpSocket>,
        remote_address: IpSocketAddress,
    ) -> SocketResult<()> {
        // A guest may cancel the call and keep the socket: with this future goes the clock, so the connect goes too.
        let _attempt = store.with(|mut store| -> SocketResult<_> {
            let mut view = store.get();
            let socket = view.tcp3(&this)?;
            socket.connect(remote_address.into()).map_err(connect_code)?;
            Ok(socket.attempt())
        })?;
        let connected = poll_fn(|cx| {
            store.with(|mut store| match store.get().tcp3(&this) {
                Ok(socket) => socket.poll_connected(cx).map(Ok),
                Err(trap) => Poll::Ready(Err(trap)),
            })
        });
        let outcome = match tokio::time::timeout(CONNECT_TIMEOUT, connected).await {
            Ok(outcome) => outcome?,
            Err(_) => store.with(|mut store| -> SocketResult<Result<(), ConnectError>> {
                let mut view = store.get();
                let socket = view.tcp3(&this)?;
                socket.give_up_connecting();
                Ok(socket.failure().map_or(Ok(()), Err))
            })?,
        };
        Ok(outcome.map_err(connect_code)?)
    }

    async fn listen(
        mut store: Access<'_, T, Self>,
        this: Resource<TcpSocket>,
    ) -> SocketResult<StreamReader<Resource<TcpSocket>>> {
        let getter = store.getter();
        let mut view = store.get();
        let socket = view.tcp3(&this)?;
        socket.listen().map_err(listen_code)?;
        let listener = socket.listener().ok_or(ErrorCode::InvalidState)?;
        StreamReader::new(&mut store, Accepting { listener, getter }).map_err(SocketError::trap)
    }

    fn send(
        mut store: Access<'_, T, Self>,
        this: Resource<TcpSocket>,
        mut data: StreamReader<u8>,
    ) -> wasmtime::Result<FutureReader<Result<(), ErrorCode>>> {
        let half = store.get().take_half(&this, net::TcpSocket::take_write)?;
        let (verdict, outcome) = oneshot::channel();
        match half {
            Ok((half, paid)) => data.pipe(&mut store, Sending(Some((half, verdict, paid))))?,
            Err(code) => {
                data.close(&mut store)?;
                // The receiver is right here.
                let _ = verdict.send(Err(code));
            }
        }
        FutureReader::new(&mut store, outcome)
    }

    fn receive(
        mut store: Access<'_, T, Self>,
        this: Resource<TcpSocket>,
    ) -> wasmtime::Result<(StreamReader<u8>, FutureReader<Result<(), ErrorCode>>)> {
        let half = store.get().take_half(&this, net::TcpSocket::take_read)?;
        let (verdict, outcome) = oneshot::channel();
        let stream = match half {
            Ok((half, paid)) => {
                StreamReader::new(&mut store, Receiving(Some((half, verdict, paid))))?
            }
            Err(code) => {
                // The receiver is right here.
                let _ = verdict.send(Err(code));
                StreamReader::new(&mut store, std::iter::empty())?
            }
        };
        Ok((stream, FutureReader::new(&mut store, outcome)?))
    }
}

fn zero_code(_: ZeroOption) -> ErrorCode {
    ErrorCode::InvalidArgument
}

impl HostTcpSocket for NetCtxView<'_> {
    fn create(&mut self, of: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        let socket = self.member.tcp_socket(family(of)).map_err(open_code)?;
        Ok(self.push_tcp3(socket).map_err(no_place)?)
    }

    async fn bind(
        &mut self,
        this: Resource<TcpSocket>,
        local_address: IpSocketAddress,
    ) -> SocketResult<()> {
        Ok(self.tcp3(&this)?.bind(local_address.into()).map_err(bind_code)?)
    }

    fn get_local_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.tcp3(&this)?.local_address().ok_or(ErrorCode::InvalidState)?.into())
    }

    fn get_remote_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        Ok(self.tcp3(&this)?.remote_address().ok_or(ErrorCode::InvalidState)?.into())
    }

    fn get_is_listening(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<bool> {
        Ok(self.tcp3(&this)?.is_listening())
    }

    fn get_address_family(
        &mut self,
        this: Resource<TcpSocket>,
    ) -> wasmtime::Result<IpAddressFamily> {
        Ok(address_family(self.tcp3(&this)?.family()))
    }

    fn set_listen_backlog_size(
        &mut self,
        this: Resource<TcpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        Ok(self.tcp3(&this)?.set_backlog(value).map_err(backlog_code)?)
    }

    fn get_keep_alive_enabled(&mut self, this: Resource<TcpSocket>) -> SocketResult<bool> {
        Ok(self.tcp3(&this)?.keep_alive())
    }

    fn set_keep_alive_enabled(
        &mut self,
        this: Resource<TcpSocket>,
        value: bool,
    ) -> SocketResult<()> {
        self.tcp3(&this)?.set_keep_alive(value);
        Ok(())
    }

    fn get_keep_alive_idle_time(&mut self, this: Resource<TcpSocket>) -> SocketResult<Duration> {
        Ok(self.tcp3(&this)?.keep_alive_idle())
    }

    fn set_keep_alive_idle_time(
        &mut self,
        this: Resource<TcpSocket>,
        value: Duration,
    ) -> SocketResult<()> {
        Ok(self.tcp3(&this)?.set_keep_alive_idle(value).map_err(zero_code)?)
    }

    fn get_keep_alive_interval(&mut self, this: Resource<TcpSocket>) -> SocketResult<Duration> {
        Ok(self.tcp3(&this)?.keep_alive_interval())
    }

    fn set_keep_alive_interval(
        &mut self,
        this: Resource<TcpSocket>,
        value: Duration,
    ) -> SocketResult<()> {
        Ok(self.tcp3(&this)?.set_keep_alive_interval(value).map_err(zero_code)?)
    }

    fn get_keep_alive_count(&mut self, this: Resource<TcpSocket>) -> SocketResult<u32> {
        Ok(self.tcp3(&this)?.keep_alive_count())
    }

    fn set_keep_alive_count(&mut self, this: Resource<TcpSocket>, value: u32) -> SocketResult<()> {
        Ok(self.tcp3(&this)?.set_keep_alive_count(value).map_err(zero_code)?)
    }

    fn get_hop_limit(&mut self, this: Resource<TcpSocket>) -> SocketResult<u8> {
        Ok(self.tcp3(&this)?.hop_limit())
    }

    fn set_hop_limit(&mut self, this: Resource<TcpSocket>, value: u8) -> SocketResult<()> {
        Ok(self.tcp3(&this)?.set_hop_limit(value).map_err(zero_code)?)
    }

    fn get_receive_buffer_size(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp3(&this)?.receive_buffer_size())
    }

    fn set_receive_buffer_size(
        &mut self,
        this: Resource<TcpSocket>,
        value: u64,
    ) -> SocketResult<()> {
        Ok(self.tcp3(&this)?.set_receive_buffer_size(value).map_err(zero_code)?)
    }

    fn get_send_buffer_size(&mut self, this: Resource<TcpSocket>) -> SocketResult<u64> {
        Ok(self.tcp3(&this)?.send_buffer_size())
    }

    fn set_send_buffer_size(&mut self, this: Resource<TcpSocket>, value: u64) -> SocketResult<()> {
        Ok(self.tcp3(&this)?.set_send_buffer_size(value).map_err(zero_code)?)
    }

    fn drop(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<net::TcpSocket>::new_own(this.rep()))?;
        Ok(())
    }
}
