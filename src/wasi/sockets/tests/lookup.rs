//! Name look-up as a guest sees it.

use std::net::IpAddr;
use std::sync::Mutex;

use tokio::sync::oneshot;
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{
    Host as _, HostResolveAddressStream as _,
};
use wasmtime_wasi::p2::bindings::sockets::network::IpAddress;
use wasmtime_wasi_io::bindings::wasi::io::poll::HostPollable as _;

use super::*;
use crate::net::{Ask, Egress, Lookup, ResolveError, Route};

#[tokio::test]
async fn names_resolve_to_their_addresses_one_at_a_time() {
    let host = &mut Host::new(&pod());
    let mut resolve = |name: &str| {
        let network = host.network();
        let stream = host.view().resolve_addresses(network, name.to_owned())?;
        let mut found = Vec::new();
        while let Some(address) = host.view().resolve_next_address(lend(&stream))? {
            found.push(address);
        }
        Ok::<_, SocketError>(found)
    };
    let local = resolve("localhost").unwrap();
    assert!(matches!(local[..], [IpAddress::Ipv4((127, 0, 0, 1)), IpAddress::Ipv6(_)]));
    let own = resolve("greenhouse").unwrap();
    assert!(matches!(own[..], [IpAddress::Ipv4((10, 88, 0, 5))]));
    let literal = resolve("192.0.2.1").unwrap();
    assert!(matches!(literal[..], [IpAddress::Ipv4((192, 0, 2, 1))]));
    assert_eq!(code(resolve("example.com")), ErrorCode::NameUnresolvable);
    assert_eq!(code(resolve("not a name")), ErrorCode::InvalidArgument);
}

type Answer = Result<Vec<IpAddr>, ResolveError>;

/// A resolver that answers when it is told to.
#[derive(Debug)]
struct Resolver(Mutex<Option<oneshot::Receiver<Answer>>>);

impl Egress for Resolver {
    fn route(&self, _ask: &Ask<'_>) -> Route {
        Route::Denied
    }

    fn lookup(&self, _member: &str, _name: &str) -> Lookup {
        let answer = self.0.lock().unwrap().take().unwrap();
        Lookup::Later(Box::pin(async { answer.await.unwrap() }))
    }
}

#[tokio::test]
async fn a_name_that_a_resolver_knows_is_waited_for_and_would_block_until_then() {
    for (answer, outcome) in [
        (Ok(vec![Ipv4Addr::new(192, 0, 2, 7).into()]), Ok(())),
        (Err(ResolveError::Temporary), Err(ErrorCode::TemporaryResolverFailure)),
        (Err(ResolveError::Denied), Err(ErrorCode::AccessDenied)),
    ] {
        let (tell, told) = oneshot::channel();
        let mut config = NetConfig::new(Ipv4Addr::new(10, 88, 0, 5));
        config.egress = Arc::new(Resolver(Mutex::new(Some(told))));
        let host = &mut Host::new(&PodNet::new(config));
        let network = host.network();
        let stream = host.view().resolve_addresses(network, "api.example".to_owned()).unwrap();
        let next = |host: &mut Host| host.view().resolve_next_address(lend(&stream));
        assert_eq!(code(next(host)), ErrorCode::WouldBlock);
        let pollable = host.view().subscribe(lend(&stream)).unwrap();
        let waits = host.table.block(lend(&pollable));
        let (waited, sent) = tokio::join!(waits, async { tell.send(answer) });
        sent.unwrap();
        waited.unwrap();
        match outcome {
            Ok(()) => {
                assert!(matches!(next(host), Ok(Some(IpAddress::Ipv4((192, 0, 2, 7))))));
                assert!(matches!(next(host), Ok(None)));
            }
            Err(expected) => assert_eq!(code(next(host)), expected),
        }
    }
}
