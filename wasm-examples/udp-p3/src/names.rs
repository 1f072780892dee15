//! Name look-up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use guest_p3::ip_name_lookup::ErrorCode;
use guest_p3::kit::{resolve, unresolved};

#[track_caller]
fn are(outcome: Result<Vec<IpAddr>, ErrorCode>, expected: &[IpAddr]) {
    assert!(outcome.is_ok_and(|addresses| addresses == expected));
}

pub(crate) async fn lookup() {
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    are(resolve("localhost").await, &loopback);
    let documentation = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0);
    let literals: [(&str, IpAddr); 9] = [
        ("0.0.0.0", Ipv4Addr::UNSPECIFIED.into()),
        ("127.0.0.1", Ipv4Addr::LOCALHOST.into()),
        ("192.0.2.0", Ipv4Addr::new(192, 0, 2, 0).into()),
        ("::", Ipv6Addr::UNSPECIFIED.into()),
        ("::1", Ipv6Addr::LOCALHOST.into()),
        ("[::]", Ipv6Addr::UNSPECIFIED.into()),
        ("2001:0db8:0:0:0:0:0:0", documentation.into()),
        ("2001:db8::", documentation.into()),
        ("2001:DB8::0", documentation.into()),
    ];
    for (text, ip) in literals {
        are(resolve(text).await, &[ip]);
    }
    for bad in ["", " ", "a.b<&>", "127.0.0.1:80", "[::]:80", "http://example.com/"] {
        unresolved(bad, "invalid-argument").await;
    }
    are(resolve("later.example").await, &[Ipv4Addr::new(192, 0, 2, 7).into()]);
}
