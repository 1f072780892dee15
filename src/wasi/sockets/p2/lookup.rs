//! `wasi:sockets/ip-name-lookup` 0.2.
//!
//! Owns: a stream of addresses that is complete when it is made, since the pod's names are known
//! here.
//! Is not: a resolver (`crate::net`'s names).

use std::net::IpAddr;
use std::vec;

use wasmtime::component::Resource;
use wasmtime_wasi::p2::SocketResult;
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{
    Host, HostResolveAddressStream, ResolveAddressStream,
};
use wasmtime_wasi::p2::bindings::sockets::network::{IpAddress, Network};
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::{DynPollable, Pollable};

use super::resolve_code;
use crate::net::ResolveError;
use crate::wasi::sockets::{NetCtxView, ours, theirs};

/// What a `resolve-address-stream` stands for.
struct Answers(Result<vec::IntoIter<IpAddr>, ResolveError>);

#[async_trait]
impl Pollable for Answers {
    /// The answers are here.
    async fn ready(&mut self) {}
}

impl Host for NetCtxView<'_> {
    fn resolve_addresses(
        &mut self,
        network: Resource<Network>,
        name: String,
    ) -> SocketResult<Resource<ResolveAddressStream>> {
        self.check_network(&network)?;
        let answers = match self.member.net().resolve(&name) {
            // WIT: a malformed name fails here; that nobody has it is told by the first answer.
            Err(error @ ResolveError::Invalid) => return Err(resolve_code(error).into()),
            Err(error @ ResolveError::NotFound) => Err(error),
            Ok(addresses) => Ok(addresses.into_iter()),
        };
        Ok(theirs(&self.table.push(Answers(answers))?))
    }
}

impl HostResolveAddressStream for NetCtxView<'_> {
    fn resolve_next_address(
        &mut self,
        this: Resource<ResolveAddressStream>,
    ) -> SocketResult<Option<IpAddress>> {
        match &mut self.table.get_mut(&ours::<Answers, _>(&this))?.0 {
            Ok(addresses) => Ok(addresses.next().map(IpAddress::from)),
            Err(error) => Err(resolve_code(*error).into()),
        }
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
