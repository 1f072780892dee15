//! `wasi:sockets/ip-name-lookup` 0.2.
//!
//! Owns: a stream of addresses, complete when it is made if the name is the pod's own, else once a
//! resolver has answered.
//! Is not: a resolver ([`Member::lookup`](crate::net::Member::lookup)).
//! Limits: look-ups under way by [`MAX_LOOKUPS`](crate::net::MAX_LOOKUPS); streams by the table.

use std::net::IpAddr;
use std::task::{Context, Poll, Waker};
use std::vec;

use wasmtime::component::Resource;
use wasmtime_wasi::p2::SocketResult;
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{
    Host, HostResolveAddressStream, ResolveAddressStream,
};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress, Network};
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::{DynPollable, Pollable};

use super::resolve_code;
use crate::net::{Answer, Lookup, ResolveError};
use crate::wasi::sockets::{NetCtxView, ours, theirs};

/// What a `resolve-address-stream` stands for.
enum Answers {
    Coming(Answer),
    Here(Result<vec::IntoIter<IpAddr>, ResolveError>),
}

impl Answers {
    fn here(answer: Result<Vec<IpAddr>, ResolveError>) -> Self {
        Self::Here(answer.map(Vec::into_iter))
    }

    fn poll_here(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Coming(answer) = self {
            match answer.as_mut().poll(cx) {
                Poll::Ready(answer) => *self = Self::here(answer),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }

    fn next(&mut self) -> Result<Option<IpAddr>, ErrorCode> {
        // Whoever asks without waiting moves it on too.
        let _ = self.poll_here(&mut Context::from_waker(Waker::noop()));
        match self {
            Self::Coming(_) => Err(ErrorCode::WouldBlock),
            Self::Here(Ok(addresses)) => Ok(addresses.next()),
            Self::Here(Err(error)) => Err(resolve_code(*error)),
        }
    }
}

#[async_trait]
impl Pollable for Answers {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.poll_here(cx)).await;
    }
}

impl Host for NetCtxView<'_> {
    fn resolve_addresses(
        &mut self,
        network: Resource<Network>,
        name: String,
    ) -> SocketResult<Resource<ResolveAddressStream>> {
        self.check_network(&network)?;
        self.check_places(1, ErrorCode::OutOfMemory)?;
        let answers = match self.member.lookup(&name) {
            // WIT: a malformed name fails here; that nobody has it is told by the first answer.
            Lookup::Now(Err(error @ ResolveError::Invalid)) => {
                return Err(resolve_code(error).into());
            }
            Lookup::Now(answer) => Answers::here(answer),
            Lookup::Later(answer) => Answers::Coming(answer),
        };
        Ok(theirs(&self.table.push(answers)?))
    }
}

impl HostResolveAddressStream for NetCtxView<'_> {
    fn resolve_next_address(
        &mut self,
        this: Resource<ResolveAddressStream>,
    ) -> SocketResult<Option<IpAddress>> {
        let next = self.table.get_mut(&ours::<Answers, _>(&this))?.next()?;
        Ok(next.map(IpAddress::from))
    }

    fn subscribe(
        &mut self,
        this: Resource<ResolveAddressStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        wasmtime_wasi_io::poll::subscribe(self.table, ours::<Answers, _>(&this))
    }

    fn drop(&mut self, this: Resource<ResolveAddressStream>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<Answers>::new_own(this.rep()))?;
        Ok(())
    }
}
