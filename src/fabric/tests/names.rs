#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use super::*;
use crate::fabric::service::Endpoint;
use crate::spec::{Labels, NamespacedName, PodKey, PodUid, Service, ServiceAddress};

struct Fixed;

fn backing(name: &str, address: ServiceAddress, endpoints: Vec<Endpoint>) -> Backing {
    let service = Service {
        key: NamespacedName::new("lab", name),
        selector: Labels::new(),
        address,
        ports: Vec::new(),
        affinity: None,
        publish_not_ready: false,
    };
    Backing { service: Arc::new(service), endpoints: endpoints.into() }
}

fn endpoint(host: u8, hostname: Option<&str>, ready: bool) -> Endpoint {
    Endpoint {
        uid: PodUid::new("u"),
        pod: PodKey::new("lab", "p"),
        ip: Ipv4Addr::new(10, 88, 0, host),
        hostname: hostname.map(str::to_owned),
        ready,
        serving: ready,
        terminating: false,
        ports: Vec::new(),
    }
}

impl Zone for Fixed {
    fn service(&self, namespace: &str, name: &str) -> Option<Backing> {
        match (namespace, name) {
            ("lab", "web") => {
                let ip = ServiceAddress::ClusterIp(Ipv4Addr::new(10, 89, 0, 1));
                Some(backing(name, ip, vec![endpoint(1, None, true)]))
            }
            ("lab", "db") => {
                let pods = vec![
                    endpoint(1, Some("db-0"), true),
                    endpoint(2, Some("db-1"), false),
                    endpoint(3, None, true),
                ];
                Some(backing(name, ServiceAddress::Headless, pods))
            }
            _ => None,
        }
    }

    fn has_pod(&self, namespace: &str, ip: Ipv4Addr) -> bool {
        namespace == "lab" && ip == Ipv4Addr::new(10, 88, 0, 1)
    }
}

#[test]
fn names_of_the_node_mean_what_kubernetes_says() {
    let rows: &[(&str, Option<&[&str]>)] = &[
        ("web.lab.svc.cluster.local", Some(&["10.89.0.1"])),
        ("WEB.Lab.svc.Cluster.LOCAL", Some(&["10.89.0.1"])),
        ("web.shop.svc.cluster.local", Some(&[])),
        ("db.lab.svc.cluster.local", Some(&["10.88.0.1", "10.88.0.3"])),
        ("db-0.db.lab.svc.cluster.local", Some(&["10.88.0.1"])),
        ("db-1.db.lab.svc.cluster.local", Some(&[])),
        ("10-88-0-3.db.lab.svc.cluster.local", Some(&["10.88.0.3"])),
        // A pod with a name of its own goes by that one.
        ("10-88-0-1.db.lab.svc.cluster.local", Some(&[])),
        ("10-88-0-1.web.lab.svc.cluster.local", Some(&[])),
        ("10-88-0-1.lab.pod.cluster.local", Some(&["10.88.0.1"])),
        ("10-88-0-1.shop.pod.cluster.local", Some(&[])),
        ("10-88-0-9.lab.pod.cluster.local", Some(&[])),
        ("x.lab.pod.cluster.local", Some(&[])),
        ("cluster.local", Some(&[])),
        ("svc.cluster.local", Some(&[])),
        ("a.b.web.lab.svc.cluster.local", Some(&[])),
        ("notcluster.local", None),
        ("example.com", None),
        ("web", None),
    ];
    for (name, expected) in rows {
        let found = resolve(name, &Fixed);
        let expected = expected.map(|ips| ips.iter().map(|ip| ip.parse().unwrap()).collect());
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn a_name_is_tried_with_the_suffixes_of_kubernetes() {
    let first = DnsConfig { searches: vec!["lan".to_owned()], ..DnsConfig::default() };
    let short = candidates("web", &first, "lab");
    let expected = [
        "web.lab.svc.cluster.local",
        "web.svc.cluster.local",
        "web.cluster.local",
        "web.lan",
        "web",
    ];
    assert_eq!(short, expected);
    assert_eq!(candidates("web.lab", &first, "shop")[1], "web.lab.svc.cluster.local");
    assert_eq!(candidates("web.lab.svc", &first, "shop")[2], "web.lab.svc.cluster.local");
    let dotted = candidates("a.b.c.d.e.f", &first, "lab");
    assert_eq!(dotted[0], "a.b.c.d.e.f", "enough dots: as it is first");
    assert_eq!(dotted.len(), 5);
    let plain = DnsConfig { cluster: false, searches: Vec::new(), ndots: 1 };
    assert_eq!(candidates("web", &plain, "lab"), ["web"]);
    let long = "a".repeat(240);
    assert_eq!(candidates(&long, &first, "lab").len(), 2, "what would be no name is not tried");
}
