//! Name look-up as a guest sees it.

use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{
    Host as _, HostResolveAddressStream as _,
};
use wasmtime_wasi::p2::bindings::sockets::network::IpAddress;

use super::*;

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
