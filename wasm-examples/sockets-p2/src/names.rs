//! Name look-up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wasi::sockets::instance_network::instance_network;
use wasi::sockets::ip_name_lookup::resolve_addresses;
use wasi::sockets::network::IpAddress;

use crate::kit::{ErrorCode, same};

/// All addresses of a name, best first.
pub(crate) fn resolve(name: &str) -> Result<Vec<IpAddr>, ErrorCode> {
    let network = instance_network();
    let answers = resolve_addresses(&network, name)?;
    let mut all = Vec::new();
    loop {
        match answers.resolve_next_address() {
            Err(ErrorCode::WouldBlock) => answers.subscribe().block(),
            Err(code) => return Err(code),
            Ok(None) => return Ok(all),
            Ok(Some(IpAddress::Ipv4((a, b, c, d)))) => all.push(Ipv4Addr::new(a, b, c, d).into()),
            Ok(Some(IpAddress::Ipv6((a, b, c, d, e, f, g, h)))) => {
                all.push(Ipv6Addr::new(a, b, c, d, e, f, g, h).into());
            }
        }
    }
}

pub(crate) fn lookup() {
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    same(resolve("localhost").as_deref(), Ok(&loopback[..]));
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
        assert_eq!(resolve(text).as_deref(), Ok(&[ip][..]), "{text}");
    }
    for bad in ["", " ", "a.b<&>", "127.0.0.1:80", "[::]:80", "http://example.com/"] {
        assert_eq!(resolve(bad), Err(ErrorCode::InvalidArgument), "{bad:?}");
    }
    same(resolve("later.example").as_deref(), Ok(&[Ipv4Addr::new(192, 0, 2, 7).into()][..]));
}
