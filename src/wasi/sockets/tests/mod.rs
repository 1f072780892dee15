//! `wasi:sockets` as guests meet it: rules at the traits, and real guests.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cancel;
#[cfg(feature = "compiler")]
mod cases;
#[cfg(feature = "compiler")]
mod guests;
mod lookup;
#[cfg(feature = "compiler")]
mod shop;
mod streams;
mod tcp;
mod udp;
#[cfg(feature = "compiler")]
mod world;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::p2::SocketError;
use wasmtime_wasi::p2::bindings::sockets::instance_network::Host as _;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpSocketAddress, Network};

use super::NetCtxView;
use crate::net::{Member, MemberLimits, NetConfig, NoLedger, PodNet};

fn pod() -> PodNet {
    let mut config = NetConfig::new(Ipv4Addr::new(10, 88, 0, 5));
    config.host_names = vec!["greenhouse".to_owned()];
    PodNet::new(config)
}

fn join(pod: &PodNet, name: &str) -> Member {
    pod.join(name, MemberLimits::default(), Arc::new(NoLedger))
}

/// What a store holds for its guest's sockets, without the store.
struct Host {
    table: ResourceTable,
    member: Member,
    network: u32,
}

impl Host {
    fn new(pod: &PodNet) -> Self {
        Self::of(join(pod, "guest"))
    }

    fn of(member: Member) -> Self {
        let mut host = Self { table: ResourceTable::new(), member, network: 0 };
        host.network = host.view().instance_network().unwrap().rep();
        host
    }

    fn view(&mut self) -> NetCtxView<'_> {
        NetCtxView { table: &mut self.table, member: &self.member }
    }

    fn network(&self) -> Resource<Network> {
        Resource::new_borrow(self.network)
    }
}

/// A borrowed copy of a handle, as each call gets one.
fn lend<T: 'static>(resource: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(resource.rep())
}

/// The code of an error that is not a trap.
#[track_caller]
fn code<T>(outcome: Result<T, SocketError>) -> ErrorCode {
    match outcome {
        Ok(_) => panic!("should have failed"),
        Err(error) => error.downcast().expect("a code, not a trap"),
    }
}

fn at(text: &str) -> IpSocketAddress {
    text.parse::<SocketAddr>().unwrap().into()
}

fn same(address: IpSocketAddress, text: &str) -> bool {
    SocketAddr::from(address) == text.parse().unwrap()
}
