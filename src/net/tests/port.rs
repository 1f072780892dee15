#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn claim(ip: &str, port: u16, dual: bool) -> Claim {
    Claim { ip: ip.parse().unwrap(), port, dual }
}

#[test]
fn two_binds_of_one_port_get_on_as_on_linux() {
    // first, second, both for IPv6 only unless marked "dual", second allowed?
    let table = [
        ("127.0.0.1", false, "127.0.0.1", false, false),
        ("127.0.0.1", false, "127.0.0.2", false, true),
        ("127.0.0.1", false, "10.88.0.5", false, true),
        ("0.0.0.0", false, "127.0.0.1", false, false),
        ("127.0.0.1", false, "0.0.0.0", false, false),
        ("0.0.0.0", false, "0.0.0.0", false, false),
        ("::1", false, "::1", false, false),
        ("::", false, "::1", false, false),
        ("::1", false, "::", false, false),
        ("0.0.0.0", false, "::", false, true),
        ("::", false, "0.0.0.0", false, true),
        ("127.0.0.1", false, "::1", false, true),
        ("0.0.0.0", false, "::1", false, true),
        ("::", true, "0.0.0.0", false, false),
        ("::", true, "127.0.0.1", false, false),
        ("127.0.0.1", false, "::", true, false),
    ];
    for (first, first_dual, second, second_dual, allowed) in table {
        let mut ports = PortTable::<()>::new();
        ports.bind(claim(first, 80, first_dual)).unwrap();
        let outcome = ports.bind(claim(second, 80, second_dual));
        assert_eq!(outcome.is_ok(), allowed, "{first} then {second}");
        assert!(ports.bind(claim(second, 81, second_dual)).is_ok(), "another port is free");
    }
}

#[test]
fn the_most_specific_listener_answers() {
    let mut ports = PortTable::new();
    for (ip, name) in [("0.0.0.0", "any4"), ("::", "any6")] {
        let bound = ports.bind(claim(ip, 80, false)).unwrap();
        ports.answer(bound, name);
    }
    let bound = ports.bind(claim("127.0.0.2", 81, false)).unwrap();
    ports.answer(bound, "two");
    let bound = ports.bind(claim("127.0.0.3", 81, false)).unwrap();
    ports.answer(bound, "three");
    ports.bind(claim("127.0.0.4", 81, false)).unwrap();
    let bound = ports.bind(claim("::", 82, true)).unwrap();
    ports.answer(bound, "dual");
    let table = [
        ("127.0.0.1", 80, Some("any4")),
        ("10.88.0.5", 80, Some("any4")),
        ("::1", 80, Some("any6")),
        ("127.0.0.2", 81, Some("two")),
        ("127.0.0.3", 81, Some("three")),
        ("127.0.0.4", 81, None),
        ("127.0.0.1", 81, None),
        ("127.0.0.1", 82, Some("dual")),
        ("::1", 82, Some("dual")),
        ("::1", 83, None),
    ];
    for (ip, port, who) in table {
        assert_eq!(ports.find(ip.parse().unwrap(), port).copied(), who, "{ip} {port}");
    }
}

#[test]
fn a_binding_released_twice_does_not_free_its_successor() {
    let mut ports = PortTable::new();
    let old = ports.bind(claim("127.0.0.1", 80, false)).unwrap();
    ports.release(old);
    let new = ports.bind(claim("127.0.0.1", 80, false)).unwrap();
    ports.answer(new, "new");
    ports.release(old);
    assert_eq!(ports.find("127.0.0.1".parse().unwrap(), 80), Some(&"new"));
}

#[test]
fn every_port_of_the_range_is_given_once_and_then_none() {
    let mut ports = PortTable::<()>::new();
    let taken_by_name = ports.bind(claim("127.0.0.1", 40_000, false)).unwrap();
    let mut given = Vec::new();
    while let Ok(bound) = ports.bind(claim("127.0.0.1", 0, false)) {
        given.push(bound);
    }
    let distinct: HashSet<u16> = given.iter().map(|bound| bound.port).collect();
    assert_eq!(distinct.len(), EPHEMERAL_COUNT - 1);
    assert_eq!(given.len(), distinct.len());
    assert!(distinct.iter().all(|port| (EPHEMERAL_FIRST..=EPHEMERAL_LAST).contains(port)));
    assert!(!distinct.contains(&40_000));
    assert_eq!(ports.bind(claim("127.0.0.2", 0, false)), Err(PortRefusal::Exhausted));
    ports.release(taken_by_name);
    assert_eq!(ports.bind(claim("::1", 0, false)).map(|bound| bound.port), Ok(40_000));
}

#[test]
fn a_port_just_freed_is_the_last_to_be_given_again() {
    let mut ports = PortTable::<()>::new();
    let first = ports.bind(claim("127.0.0.1", 0, false)).unwrap();
    ports.release(first);
    let next = ports.bind(claim("127.0.0.1", 0, false)).unwrap();
    assert_ne!(first.port, next.port);
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_list_of_bindings(
        steps in prop::collection::vec((0u8..4, 0usize..6, 0u16..4, any::<bool>()), 1..200)
    ) {
        let ips = ["0.0.0.0", "127.0.0.1", "127.0.0.2", "::", "::1", "10.88.0.5"];
        let mut ports = PortTable::<u64>::new();
        let mut model: Vec<(Bound, IpAddr, bool)> = Vec::new();
        for (what, ip, port, dual) in steps {
            let ip: IpAddr = ips[ip].parse().unwrap();
            let dual = dual && ip.is_ipv6() && ip.is_unspecified();
            if what == 0 && !model.is_empty() {
                let (bound, ..) = model.swap_remove(usize::from(port) % model.len());
                ports.release(bound);
                continue;
            }
            let port = if port == 0 { 0 } else { 32_766 + port };
            let free = |port: u16| model.iter().filter(|(b, ..)| b.port == port).all(|(_, o, d)| {
                if o.is_ipv4() == ip.is_ipv4() {
                    *o != ip && !o.is_unspecified() && !ip.is_unspecified()
                } else {
                    !d && !dual
                }
            });
            match ports.bind(Claim { ip, port, dual }) {
                Ok(bound) => {
                    prop_assert!(free(bound.port));
                    prop_assert!(port == 0 || port == bound.port);
                    model.push((bound, ip, dual));
                }
                Err(refusal) => {
                    prop_assert_eq!(refusal, PortRefusal::InUse);
                    prop_assert!(!free(port));
                }
            }
            let distinct: HashSet<u16> = model.iter().map(|(b, ..)| b.port).collect();
            prop_assert_eq!(ports.len(), distinct.len());
        }
        for (bound, ..) in model {
            ports.release(bound);
        }
        prop_assert_eq!(ports.len(), 0);
        prop_assert!(ports.ephemeral.words.iter().take(WORDS - 1).all(|word| *word == 0));
    }
}

#[test]
fn a_port_that_many_had_keeps_no_room_for_them() {
    let mut table = PortTable::<()>::new();
    let claim = |n: u32| Claim {
        ip: std::net::Ipv4Addr::from(0x7f00_0001 + n).into(),
        port: 80,
        dual: false,
    };
    let bound: Vec<Bound> = (0..1000).map(|n| table.bind(claim(n)).unwrap()).collect();
    for bound in &bound[1..] {
        table.release(*bound);
    }
    let kept = table.slots[&80].more.capacity();
    assert!(kept <= 8, "{kept}");
    assert_eq!(table.bind(claim(0)), Err(PortRefusal::InUse));
}
