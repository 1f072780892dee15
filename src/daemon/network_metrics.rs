//! What pods' networks count, for `/metrics`.
//!
//! Owns: names and labels. cAdvisor's names where it has them; there they are of a pod, here of each container, so that the sum over
//! a pod is what a dashboard expects. They count all of the pod's network, its own loopback included, since a module's traffic with
//! its neighbours is what cAdvisor sees of two pods. `podling_published_*` and `podling_outside_*` count what crosses to the host.
//! Labels are bounded by the pods that are here, their containers and their published ports.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::net::CounterSnapshot;
use crate::outside::stats::TrafficSnapshot;
use crate::pod::NodeContext;
use crate::pod::networks::PodNetwork;
use crate::spec::Protocol;

/// What is counted of a container, and of what goes through a port or out of the node.
type Of = CounterSnapshot;
type Through = TrafficSnapshot;

/// One number of some kind of thing.
struct Metric<T> {
    name: &'static str,
    help: &'static str,
    bytes: bool,
    kind: MetricType,
    /// A label of its own, beside those of the thing.
    label: Option<(&'static str, &'static str)>,
    value: fn(&T) -> u64,
}

const fn counter<T>(name: &'static str, help: &'static str, value: fn(&T) -> u64) -> Metric<T> {
    Metric { name, help, bytes: false, kind: MetricType::Counter, label: None, value }
}

const fn gauge<T>(name: &'static str, help: &'static str, value: fn(&T) -> u64) -> Metric<T> {
    Metric { name, help, bytes: false, kind: MetricType::Gauge, label: None, value }
}

impl<T> Metric<T> {
    const fn bytes(mut self) -> Self {
        self.bytes = true;
        self
    }

    const fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.label = Some((name, value));
        self
    }
}

/// Of each container. Rows of one name follow one another: they are one family.
const OF_CONTAINERS: &[Metric<Of>] = &[
    counter("container_network_receive", "Bytes received, TCP and UDP", |c: &Of| {
        c.tcp_bytes_received + c.datagram_bytes_received
    })
    .bytes(),
    counter("container_network_transmit", "Bytes sent, TCP and UDP", |c: &Of| {
        c.tcp_bytes_sent + c.datagram_bytes_sent
    })
    .bytes(),
    counter(
        "container_network_receive_packets_dropped",
        "Datagrams dropped because the receiver's queue or memory was full",
        |c| c.datagrams_dropped,
    ),
    counter("podling_net_connections", "TCP connections", |c: &Of| c.connects)
        .with("direction", "out"),
    counter("podling_net_connections", "TCP connections", |c: &Of| c.accepts)
        .with("direction", "in"),
    counter("podling_net_failures", "Connects and datagrams that came to nothing", |c: &Of| {
        c.connects_refused
    })
    .with("reason", "refused"),
    counter("podling_net_failures", "Connects and datagrams that came to nothing", |c: &Of| {
        c.connects_failed
    })
    .with("reason", "unreachable"),
    counter("podling_net_failures", "Connects and datagrams that came to nothing", |c: &Of| {
        c.denied
    })
    .with("reason", "denied"),
    counter("podling_net_failures", "Connects and datagrams that came to nothing", |c: &Of| {
        c.sockets_refused
    })
    .with("reason", "limit"),
    counter("podling_net_arrivals_refused", "Connections that a listener did not take", |c| {
        c.arrivals_refused
    }),
    counter("podling_net_resets", "TCP connections reset by the other side", |c| c.resets),
    counter("podling_net_datagrams", "Datagrams", |c: &Of| c.datagrams_sent)
        .with("direction", "out"),
    counter("podling_net_datagrams", "Datagrams", |c: &Of| c.datagrams_received)
        .with("direction", "in"),
    counter("podling_net_lookups", "Names looked up that are not the pod's own", |c: &Of| {
        c.lookups
    }),
    counter(
        "podling_net_lookups_refused",
        "Of these, those refused at once because of a limit",
        |c: &Of| c.lookups_refused,
    ),
    counter("podling_net_memory_refused", "Writes that found no memory for their bytes", |c| {
        c.memory_refused
    }),
    gauge("podling_net_sockets_peak", "Most sockets held at once", |c| c.sockets_peak),
    gauge("podling_net_buffered_peak", "Most bytes buffered at once", |c: &Of| c.buffered_peak)
        .bytes(),
    gauge("podling_net_backlog_peak", "Most connections that waited for one listener", |c| {
        c.backlog_peak
    }),
    gauge(
        "podling_net_datagram_queue_peak",
        "Most bytes that waited in one datagram socket",
        |c: &Of| c.datagram_queue_peak,
    )
    .bytes(),
];

const OF_PODS: &[Metric<PodNetwork>] = &[
    gauge("podling_net_sockets", "Sockets open", |pod| pod.net.open_sockets() as u64),
    gauge(
        "podling_net_buffered",
        "Bytes written and not read yet, and what datagram sockets remember of others",
        |pod: &PodNetwork| pod.net.buffered_bytes() as u64,
    )
    .bytes(),
];

/// Of what crosses to the host: published ports, egress, port-forward.
struct Crossing {
    connections: [Metric<Through>; 9],
    datagrams: [Metric<Through>; 6],
}

/// The rows are the same for each; only the names begin otherwise.
macro_rules! crossing {
    ($prefix:literal) => {
        Crossing {
            connections: [
                counter(concat!($prefix, "_received"), "Bytes into the pod", |t: &Through| {
                    t.bytes_in
                })
                .bytes(),
                counter(concat!($prefix, "_sent"), "Bytes out of the pod", |t: &Through| {
                    t.bytes_out
                })
                .bytes(),
                counter(concat!($prefix, "_connections"), "Connections", |t| t.connections),
                gauge(concat!($prefix, "_connections_open"), "Connections open", |t| {
                    t.connections_open
                }),
                gauge(concat!($prefix, "_connections_peak"), "Most open at once", |t| {
                    t.connections_peak
                }),
                counter(
                    concat!($prefix, "_connections_failed"),
                    "Connections that did not come about",
                    |t: &Through| t.connections_failed,
                )
                .with("reason", "failed"),
                counter(
                    concat!($prefix, "_connections_failed"),
                    "Connections that did not come about",
                    |t: &Through| t.connections_limited,
                )
                .with("reason", "limit"),
                counter(
                    concat!($prefix, "_connections_failed"),
                    "Connections that did not come about",
                    |t: &Through| t.closed,
                )
                .with("reason", "closed"),
                counter(concat!($prefix, "_resets"), "Connections that ended by a reset", |t| {
                    t.resets
                }),
            ],
            datagrams: [
                counter(concat!($prefix, "_datagrams"), "Datagrams", |t: &Through| t.datagrams_in)
                    .with("direction", "in"),
                counter(concat!($prefix, "_datagrams"), "Datagrams", |t: &Through| t.datagrams_out)
                    .with("direction", "out"),
                counter(concat!($prefix, "_datagrams_dropped"), "Datagrams lost", |t| {
                    t.datagrams_dropped
                }),
                gauge(concat!($prefix, "_flows_open"), "Flows of datagrams", |t| t.flows_open),
                gauge(concat!($prefix, "_flows_peak"), "Most flows at once", |t| t.flows_peak),
                counter(
                    concat!($prefix, "_flows_evicted"),
                    "Flows that made room for others",
                    |t| t.flows_evicted,
                ),
            ],
        }
    };
}

const PUBLISHED: Crossing = crossing!("podling_published");
const OUTSIDE: Crossing = crossing!("podling_outside");
const FORWARDED: Crossing = crossing!("podling_portforward");

/// Of published ports alone.
const WAITING: &[Metric<Through>] = &[
    gauge("podling_published_waiting", "Connections that wait for a module to listen", |t| {
        t.queued
    }),
    gauge("podling_published_waiting_peak", "Most that waited at once", |t| t.queued_peak),
];

/// Of egress alone.
const LOOKUPS: &[Metric<Through>] = &[
    counter("podling_outside_lookups", "Names asked of the host's resolvers", |t| t.lookups),
    counter("podling_outside_lookups_failed", "Look-ups without an answer", |t: &Through| {
        t.lookups_failed
    })
    .with("reason", "failed"),
    counter("podling_outside_lookups_failed", "Look-ups without an answer", |t: &Through| {
        t.lookups_limited
    })
    .with("reason", "limit"),
    counter(
        "podling_outside_answers_closed",
        "Addresses of the host itself, left out of answers",
        |t| t.answers_closed,
    ),
];

/// See the header.
#[derive(Debug)]
pub(super) struct Networks(pub(super) Arc<NodeContext>);

type Label = (&'static str, String);

impl Collector for Networks {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let pods = self.0.networks.all();
        let mut containers = Vec::new();
        let (mut published, mut outside, mut forwarded) = (Vec::new(), Vec::new(), Vec::new());
        for pod in &pods {
            for (name, counters) in pod.net.member_counters() {
                containers.push((with(pod, [("container", name.into())]), counters));
            }
            for port in &pod.published {
                let protocol = match port.protocol {
                    Protocol::Tcp => "tcp",
                    Protocol::Udp => "udp",
                };
                let labels =
                    [("protocol", protocol.to_owned()), ("address", port.address.to_string())];
                published.push((with(pod, labels), port.traffic.snapshot()));
            }
            outside.push((with(pod, []), pod.outside.traffic().snapshot()));
            forwarded.push((with(pod, []), pod.forwarded.snapshot()));
        }
        let pods: Vec<_> = pods.iter().map(|pod| (with(pod, []), &**pod)).collect();
        write(&mut encoder, OF_CONTAINERS, &borrowed(&containers))?;
        write(&mut encoder, OF_PODS, &pods)?;
        for (crossing, rows) in
            [(&PUBLISHED, &published), (&OUTSIDE, &outside), (&FORWARDED, &forwarded)]
        {
            write(&mut encoder, &crossing.connections, &borrowed(rows))?;
        }
        write(&mut encoder, &PUBLISHED.datagrams, &borrowed(&published))?;
        write(&mut encoder, &OUTSIDE.datagrams, &borrowed(&outside))?;
        write(&mut encoder, WAITING, &borrowed(&published))?;
        write(&mut encoder, LOOKUPS, &borrowed(&outside))
    }
}

fn borrowed<T>(rows: &[(Vec<Label>, T)]) -> Vec<(Vec<Label>, &T)> {
    rows.iter().map(|(labels, value)| (labels.clone(), value)).collect()
}

fn with<const N: usize>(pod: &PodNetwork, more: [Label; N]) -> Vec<Label> {
    let of_pod = [
        ("namespace", pod.key.namespace.to_string()),
        ("pod", pod.key.name.to_string()),
        ("uid", pod.uid.to_string()),
    ];
    of_pod.into_iter().chain(more).collect()
}

/// Writes all rows of each metric; metrics of one name are one family, which is written once.
fn write<T>(
    encoder: &mut DescriptorEncoder<'_>,
    metrics: &[Metric<T>],
    rows: &[(Vec<Label>, &T)],
) -> Result<(), std::fmt::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    for family in metrics.chunk_by(|a, b| a.name == b.name) {
        let Metric { name, help, bytes, kind, .. } = &family[0];
        let unit = bytes.then_some(&Unit::Bytes);
        let mut encoder = encoder.encode_descriptor(name, help, unit, *kind)?;
        for metric in family {
            for (labels, thing) in rows {
                let own = metric.label.map(|(name, value)| (name, value.to_owned()));
                let labels: Vec<Label> = labels.iter().cloned().chain(own).collect();
                let encoder = encoder.encode_family(&labels)?;
                let value = (metric.value)(thing);
                match metric.kind {
                    MetricType::Counter => ConstCounter::new(value).encode(encoder)?,
                    MetricType::Gauge
                    | MetricType::Histogram
                    | MetricType::Info
                    | MetricType::Unknown => {
                        ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(encoder)?
                    }
                }
            }
        }
    }
    Ok(())
}
