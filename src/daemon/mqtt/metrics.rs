//! What the link to the broker counts, as `/metrics` shows it.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::mqtt::link::LinkStats;

/// See the header.
#[derive(Debug)]
pub(super) struct Link(pub(super) Arc<LinkStats>);

/// A counter with one label: its name, help, unit, label, and a value for each of the label's.
type Counted<'a> = (&'a str, &'a str, Option<Unit>, &'a str, Vec<(&'a str, u64)>);

impl Collector for Link {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts = self.0.counts();
        let up = ConstGauge::new(i64::from(counts.connected));
        let help = "1 while the node is connected to its broker";
        let gauge =
            encoder.encode_descriptor("podling_mqtt_connected", help, None, MetricType::Gauge)?;
        up.encode(gauge)?;
        let families: [Counted<'_>; 4] = [
            (
                "podling_mqtt_reconnects",
                "Connections that ended or did not come about, by reason",
                None,
                "reason",
                counts.ends,
            ),
            (
                "podling_mqtt_messages",
                "Messages from and to the broker",
                None,
                "direction",
                vec![("in", counts.messages_in), ("out", counts.messages_out)],
            ),
            (
                "podling_mqtt_messages_dropped",
                "Messages from the broker that were not taken",
                None,
                "reason",
                vec![("overrun", counts.dropped), ("too_large", counts.too_large)],
            ),
            (
                "podling_mqtt",
                "Bytes from and to the broker, below TLS",
                Some(Unit::Bytes),
                "direction",
                vec![("in", counts.bytes_in), ("out", counts.bytes_out)],
            ),
        ];
        for (name, help, unit, label, values) in families {
            let kind = MetricType::Counter;
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
            for (value, count) in values {
                let labels = [(label, value)];
                let encoder = family.encode_family(&labels)?;
                ConstCounter::new(count).encode(encoder)?;
            }
        }
        Ok(())
    }
}
