//! The network of a described pod: what each of its modules and ports did, in the words of a person. kubectl has no such part.
//!
//! Owns: choosing what is worth a line. A number that is zero and usually is has none; `podling net --traffic` has them all.

use crate::server::network::{ContainerTraffic, Counters, NetworkReport};

use super::page::Page;

/// Members of a pod's network that are the daemon: probes, and what comes in through published ports, which has lines of its own.
const DAEMON: [&str; 2] = ["podling", "host"];

pub(super) fn describe(page: &mut Page, report: &NetworkReport) {
    page.line(0, "Network:");
    let held = bytes(report.buffered_bytes);
    page.line(1, &format!("Sockets:\t{} open, {held} held for them", report.open_sockets));
    for container in report.containers.iter().filter(|it| !DAEMON.contains(&it.name.as_str())) {
        page.line(1, &format!("{}:", container.name));
        module(page, container);
    }
    for port in &report.published {
        let protocol = port.protocol.to_uppercase();
        let title = format!("{}/{protocol} of the host, to {}:", port.address, port.container_port);
        page.line(1, &title);
        crossing(page, &port.counters);
    }
    for (title, counters) in [("Outside:", &report.outside), ("Port-forward:", &report.forwarded)] {
        if counters.values().any(|value| *value > 0) {
            page.line(1, title);
            crossing(page, counters);
        }
    }
}

fn module(page: &mut Page, container: &ContainerTraffic) {
    let of = |name: &str| value(&container.counters, name);
    let (received, sent) = (of("tcpBytesReceived"), of("tcpBytesSent"));
    page.line(2, &format!("Connections:\t{} in, {} out", of("accepts"), of("connects")));
    page.line(2, &format!("Bytes:\t{} in, {} out", bytes(received), bytes(sent)));
    some(
        page,
        "Datagrams",
        &[
            (of("datagramsReceived"), "in"),
            (of("datagramsSent"), "out"),
            (of("datagramsDropped"), "dropped"),
        ],
    );
    some(
        page,
        "Refused",
        &[
            (of("arrivalsRefused"), "arrivals"),
            (of("connectsRefused"), "connects"),
            (of("denied"), "by policy"),
            (of("connectsFailed"), "unreachable"),
            (of("socketsRefused"), "over the limit of sockets"),
            (of("memoryRefused"), "writes over the limit of memory"),
        ],
    );
    some(page, "Broken", &[(of("resets"), "connections reset by the other side")]);
    let mut peaks = vec![format!("{} sockets", of("socketsPeak"))];
    for (name, what) in
        [("bufferedPeak", "buffered"), ("datagramQueuePeak", "in a datagram socket")]
    {
        if of(name) > 0 {
            peaks.push(format!("{} {what}", bytes(of(name))));
        }
    }
    if of("backlogPeak") > 0 {
        peaks.push(format!("{} waiting to be accepted", of("backlogPeak")));
    }
    page.line(2, &format!("Most at once:\t{}", peaks.join(", ")));
}

/// What crosses between the pod and the host.
fn crossing(page: &mut Page, counters: &Counters) {
    let of = |name: &str| value(counters, name);
    let open = match of("connectionsOpen") {
        0 => String::new(),
        open => format!(", {open} open"),
    };
    page.line(2, &format!("Connections:\t{}{open}", of("connections")));
    page.line(2, &format!("Bytes:\t{} in, {} out", bytes(of("bytesIn")), bytes(of("bytesOut"))));
    some(
        page,
        "Datagrams",
        &[
            (of("datagramsIn"), "in"),
            (of("datagramsOut"), "out"),
            (of("datagramsDropped"), "dropped"),
        ],
    );
    some(page, "Look-ups", &[(of("lookups"), "asked"), (of("lookupsFailed"), "without an answer")]);
    some(
        page,
        "Refused",
        &[
            (of("connectionsFailed"), "failed"),
            (of("connectionsLimited") + of("lookupsLimited"), "over a limit"),
            (of("closed"), "towards the host itself"),
        ],
    );
    some(page, "Broken", &[(of("resets"), "connections reset")]);
    some(
        page,
        "Most at once",
        &[
            (of("connectionsPeak"), "connections"),
            (of("queuedPeak"), "waiting for a module to listen"),
            (of("flowsPeak"), "flows of datagrams"),
        ],
    );
}

/// A line with what is not zero, if anything is.
fn some(page: &mut Page, title: &str, parts: &[(u64, &str)]) {
    let there = parts.iter().filter(|(value, _)| *value > 0);
    let there: Vec<String> = there.map(|(value, what)| format!("{value} {what}")).collect();
    if !there.is_empty() {
        page.line(2, &format!("{title}:\t{}", there.join(", ")));
    }
}

fn value(counters: &Counters, name: &str) -> u64 {
    counters.get(name).copied().unwrap_or_default()
}

/// `512 B`, `1.5 KiB`: at most one digit behind the point, cut off.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let (mut tenths, mut unit) = (u128::from(count) * 10 / 1024, 0);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        (tenths, unit) = (tenths / 1024, unit + 1);
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::network::PublishedRow;

    fn counters(rows: &[(&str, u64)]) -> Counters {
        rows.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn each_module_and_port_says_what_it_did_and_nothing_that_never_happened() {
        let container =
            |name: &str, rows| ContainerTraffic { name: name.to_owned(), counters: counters(rows) };
        let report = NetworkReport {
            open_sockets: 3,
            buffered_bytes: 70_000,
            containers: vec![
                container("podling", &[("connects", 9)]),
                container(
                    "web",
                    &[
                        ("accepts", 12),
                        ("connects", 3),
                        ("tcpBytesReceived", 1536),
                        ("tcpBytesSent", 3 << 30),
                        ("datagramsReceived", 5),
                        ("datagramsDropped", 2),
                        ("denied", 4),
                        ("arrivalsRefused", 1),
                        ("socketsPeak", 8),
                        ("bufferedPeak", 65_536),
                        ("backlogPeak", 2),
                    ],
                ),
                container("idle", &[]),
            ],
            published: vec![PublishedRow {
                protocol: "tcp".into(),
                address: "127.0.0.1:8080".into(),
                container_port: 80,
                counters: counters(&[
                    ("connections", 12),
                    ("bytesIn", 5),
                    ("connectionsPeak", 2),
                    ("queuedPeak", 1),
                ]),
            }],
            outside: counters(&[("lookups", 1), ("closed", 2)]),
            ..NetworkReport::default()
        };
        let mut page = Page::default();
        describe(&mut page, &report);
        assert_eq!(
            page.finish(),
            "Network:\n  \
             Sockets:  3 open, 68.3 KiB held for them\n  \
             web:\n    \
             Connections:   12 in, 3 out\n    \
             Bytes:         1.5 KiB in, 3.0 GiB out\n    \
             Datagrams:     5 in, 2 dropped\n    \
             Refused:       1 arrivals, 4 by policy\n    \
             Most at once:  8 sockets, 64.0 KiB buffered, 2 waiting to be accepted\n  \
             idle:\n    \
             Connections:   0 in, 0 out\n    \
             Bytes:         0 B in, 0 B out\n    \
             Most at once:  0 sockets\n  \
             127.0.0.1:8080/TCP of the host, to 80:\n    \
             Connections:   12\n    \
             Bytes:         5 B in, 0 B out\n    \
             Most at once:  2 connections, 1 waiting for a module to listen\n  \
             Outside:\n    \
             Connections:  0\n    \
             Bytes:        0 B in, 0 B out\n    \
             Look-ups:     1 asked\n    \
             Refused:      2 towards the host itself\n"
        );
    }

    #[test]
    fn bytes_are_short_to_read() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1023.9 KiB"),
            (1 << 20, "1.0 MiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
