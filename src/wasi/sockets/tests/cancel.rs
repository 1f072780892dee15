//! Calls of WASI 0.3 that the guest cancels while they wait.

use std::task::{Context, Waker};

use wasmtime::{Engine, Store};
use wasmtime_wasi::p3::bindings::sockets::types::{
    HostTcpSocket, HostTcpSocketWithStore, IpAddressFamily, IpSocketAddress,
};

use super::*;
use crate::net::Family;
use crate::wasi::sockets::{HasNet, NetView};

struct Data {
    table: ResourceTable,
    member: Member,
}

impl NetView for Data {
    fn net(&mut self) -> NetCtxView<'_> {
        NetCtxView { table: &mut self.table, member: &self.member }
    }
}

#[tokio::test]
async fn a_connect_that_is_cancelled_leaves_neither_a_port_nor_a_place_in_the_queue() {
    let pod = pod();
    let server = join(&pod, "server");
    let mut socket = server.tcp_socket(Family::V4).unwrap();
    socket.bind("127.0.0.1:80".parse().unwrap()).unwrap();
    socket.set_backlog(1).unwrap();
    socket.listen().unwrap();
    let to: SocketAddr = "127.0.0.1:80".parse().unwrap();
    let _first = server.connect(to).unwrap();
    let mut config = wasmtime::Config::new();
    config.wasm_component_model_async(true);
    let engine = Engine::new(&config).unwrap();
    let data = Data { table: ResourceTable::new(), member: join(&pod, "guest") };
    let mut store = Store::new(&engine, data);
    let before = (pod.bound_ports(), pod.open_sockets());
    let calls = store.run_concurrent(async |accessor| {
        let net = accessor.with_getter::<HasNet>(Data::net);
        for round in 0..100 {
            let socket = net.with(|mut store| {
                HostTcpSocket::create(&mut store.get(), IpAddressFamily::Ipv4).unwrap()
            });
            let mut connecting =
                Box::pin(HasNet::connect(&net, lend(&socket), IpSocketAddress::from(to)));
            let mut nobody = Context::from_waker(Waker::noop());
            assert!(connecting.as_mut().poll(&mut nobody).is_pending());
            assert_eq!(pod.bound_ports().0, before.0.0 + 1, "it holds a port while it waits");
            drop(connecting);
            assert_eq!((pod.bound_ports(), pod.open_sockets()), before, "round {round}");
            let again = HasNet::connect(&net, lend(&socket), IpSocketAddress::from(to)).await;
            assert!(again.is_err(), "the socket is closed");
            net.with(|mut store| HostTcpSocket::drop(&mut store.get(), socket).unwrap());
        }
    });
    calls.await.unwrap();
    // The one in the queue, and then nobody.
    assert!(socket.try_accept().is_ready());
    assert!(socket.try_accept().is_pending());
}
