//! `/metrics`: everything the daemon counts, read when it is asked for.
//!
//! Owns: the names, which are cAdvisor's where it has them, so that dashboards made for Kubernetes work here. Is not: the counting; each
//! part keeps its own numbers and this file only reads them, so that nothing is updated twice and an idle node does nothing.
//!
//! A part with numbers of its own adds a [`Collector`] in [`registry`]. Labels are bounded by the pods that are here.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::daemon::network_metrics::Networks;
use crate::pod::NodeContext;
use crate::pod::environment::Allocatable;
use crate::pod::usage::{ContainerUsage, PodUsage};
use crate::runtime::HttpUsage;
use crate::store::Store;

type Labels<'a> = [(&'static str, &'a str); 5];

/// The collectors of a node; `store` where it has one.
#[must_use]
pub fn registry(node: &Arc<NodeContext>, store: Option<&Arc<Store>>) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Machine(node.node.total)));
    registry.register_collector(Box::new(Modules(Arc::clone(node))));
    registry.register_collector(Box::new(Networks(Arc::clone(node))));
    if let Some(store) = store {
        registry.register_collector(Box::new(Flash(Arc::clone(store))));
    }
    registry
}

/// The text that Prometheus reads.
///
/// # Errors
/// Never in practice: a collector here writes into a string.
pub fn text(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry)?;
    Ok(text)
}

/// What there is of the machine, or what the node is told that there is.
#[derive(Debug)]
struct Machine(Allocatable);

impl Collector for Machine {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (name, help) = ("machine_cpu_cores", "Cores of the machine");
        let millis = u32::try_from(self.0.cpu_millis).unwrap_or(u32::MAX);
        let cores = ConstGauge::new(f64::from(millis) / 1000.0);
        cores.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        let (name, help) = ("machine_memory", "Memory of the machine");
        let memory =
            encoder.encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Gauge)?;
        Value::Level(self.0.memory_bytes).encode(memory)
    }
}

/// What modules use.
#[derive(Debug)]
struct Modules(Arc<NodeContext>);

impl Collector for Modules {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let pods = self.0.usage.read(self.0.clock.now());
        for family in FAMILIES {
            family.encode(&mut encoder, &pods)?;
        }
        memory_by_kind(&mut encoder, &pods)?;
        for family in POD_FAMILIES {
            family.encode(&mut encoder, &pods)?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Value {
    Seconds(f64),
    Count(u64),
    Level(u64),
    /// Time since 1970.
    Moment(Duration),
    Absent,
}

impl Value {
    fn encode(self, encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        match self {
            Self::Seconds(seconds) => ConstCounter::new(seconds).encode(encoder),
            Self::Count(count) => ConstCounter::new(count).encode(encoder),
            Self::Level(level) => {
                ConstGauge::new(i64::try_from(level).unwrap_or(i64::MAX)).encode(encoder)
            }
            Self::Moment(since) => ConstGauge::new(since.as_secs_f64()).encode(encoder),
            Self::Absent => Ok(()),
        }
    }
}

/// One metric of each pod as a whole: what its modules share, and what the daemon does for it.
struct PodFamily {
    name: &'static str,
    help: &'static str,
    unit: Unit,
    kind: MetricType,
    value: fn(&PodUsage) -> Value,
}

const POD_FAMILIES: &[PodFamily] = &[
    PodFamily {
        name: "podling_pod_cpu_usage",
        help: "CPU time of the pod's modules, and of the daemon for its traffic with the host's network",
        unit: Unit::Seconds,
        kind: MetricType::Counter,
        value: |pod| Value::Seconds(pod.cpu_time.as_secs_f64()),
    },
    PodFamily {
        name: "podling_pod_memory_working_set",
        help: "What all modules of the pod hold",
        unit: Unit::Bytes,
        kind: MetricType::Gauge,
        value: |pod| Value::Level(pod.memory_bytes),
    },
    PodFamily {
        name: "podling_pod_memory_max_usage",
        help: "The most they ever held at once",
        unit: Unit::Bytes,
        kind: MetricType::Gauge,
        value: |pod| Value::Level(pod.memory_peak_bytes),
    },
];

/// The period that quotas of CPU time are told for, microseconds: Linux' own default. Here the rate is kept over any time.
const CPU_PERIOD_US: u64 = 100_000;

/// One metric of each container.
struct Family {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    value: fn(&ContainerUsage) -> Value,
}

const FAMILIES: &[Family] = &[
    Family {
        name: "container_cpu_usage",
        help: "CPU time on guest threads, host functions included",
        unit: Some(Unit::Seconds),
        kind: MetricType::Counter,
        value: |c| Value::Seconds(c.total.cpu_time.as_secs_f64()),
    },
    Family {
        name: "container_cpu_cfs_throttled",
        help: "Time spent waiting because of a CPU limit, or for fuel that is paced",
        unit: Some(Unit::Seconds),
        kind: MetricType::Counter,
        value: |c| Value::Seconds(c.total.throttled.as_secs_f64()),
    },
    Family {
        name: "container_memory_working_set",
        help: "Linear memories, tables and what the host holds for the module",
        unit: Some(Unit::Bytes),
        kind: MetricType::Gauge,
        value: |c| Value::Level(c.total.memory_bytes),
    },
    Family {
        name: "container_memory_max_usage",
        help: "The most it ever held at once",
        unit: Some(Unit::Bytes),
        kind: MetricType::Gauge,
        value: |c| Value::Level(c.total.memory_peak_bytes),
    },
    Family {
        name: "container_memory_failcnt",
        help: "How often a memory limit refused it memory",
        unit: None,
        // A counter in cAdvisor; here its name would get `_total`.
        kind: MetricType::Gauge,
        value: |c| Value::Level(c.total.memory_refused),
    },
    Family {
        name: "container_oom_events",
        help: "Runs ended for want of memory (OOMKilled)",
        unit: None,
        kind: MetricType::Counter,
        value: |c| Value::Count(c.oom_kills),
    },
    Family {
        name: "container_spec_cpu_period",
        help: "What container_spec_cpu_quota is allowed in, microseconds",
        unit: None,
        kind: MetricType::Gauge,
        value: |_| Value::Level(CPU_PERIOD_US),
    },
    Family {
        name: "container_spec_cpu_quota",
        help: "CPU time allowed in each period, microseconds: the least of its own limit and its pod's; absent: none",
        unit: None,
        kind: MetricType::Gauge,
        value: |c| {
            let quota = |millis: u64| millis.saturating_mul(CPU_PERIOD_US) / 1000;
            c.total.cpu_limit_millis.map_or(Value::Absent, |millis| Value::Level(quota(millis)))
        },
    },
    Family {
        name: "container_start_time",
        help: "When its run began, or the last one, since 1970",
        unit: Some(Unit::Seconds),
        kind: MetricType::Gauge,
        value: |c| {
            let since = |ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
            c.started.map_or(Value::Absent, |at| Value::Moment(since(at.wall_ms())))
        },
    },
    Family {
        name: "container_spec_memory_limit",
        help: "The least of its own memory limit and its pod's; 0: none",
        unit: Some(Unit::Bytes),
        kind: MetricType::Gauge,
        value: |c| Value::Level(c.total.memory_limit_bytes.unwrap_or_default()),
    },
    Family {
        name: "podling_container_fuel",
        help: "Instructions executed, where they are counted",
        unit: None,
        kind: MetricType::Counter,
        value: |c| c.total.fuel_used.map_or(Value::Absent, Value::Count),
    },
    Family {
        name: "podling_container_running",
        help: "1 while the container runs",
        unit: None,
        kind: MetricType::Gauge,
        value: |c| Value::Level(u64::from(c.running)),
    },
    Family {
        name: "podling_container_log_dropped_lines",
        help: "Lines of its log dropped because it printed more than it may (log-rate)",
        unit: None,
        kind: MetricType::Counter,
        value: |c| Value::Count(c.log_dropped_lines),
    },
    Family {
        name: "podling_container_log_dropped",
        help: "Bytes of those lines",
        unit: Some(Unit::Bytes),
        kind: MetricType::Counter,
        value: |c| Value::Count(c.log_dropped_bytes),
    },
    Family {
        name: "podling_container_http_requests",
        help: "Requests that came to a module that answers HTTP",
        unit: None,
        kind: MetricType::Counter,
        value: |c| of_http(c, |http| Value::Count(http.requests)),
    },
    Family {
        name: "podling_container_http_trapped",
        help: "Requests whose handler trapped: 500, or a connection broken off",
        unit: None,
        kind: MetricType::Counter,
        value: |c| of_http(c, |http| Value::Count(http.trapped)),
    },
    Family {
        name: "podling_container_http_failed",
        help: "Requests for which the handler gave no response, or an error: 500",
        unit: None,
        kind: MetricType::Counter,
        value: |c| of_http(c, |http| Value::Count(http.failed)),
    },
    Family {
        name: "podling_container_http_timed_out",
        help: "Requests without a response in time: 504",
        unit: None,
        kind: MetricType::Counter,
        value: |c| of_http(c, |http| Value::Count(http.timed_out)),
    },
    Family {
        name: "podling_container_http_refused",
        help: "Requests that found no room (503) or were not acceptable (400, 413, 501)",
        unit: None,
        kind: MetricType::Counter,
        value: |c| of_http(c, |http| Value::Count(http.refused)),
    },
    Family {
        name: "podling_container_http_turned_away",
        help: "Connections that found no memory",
        unit: None,
        kind: MetricType::Counter,
        value: |c| of_http(c, |http| Value::Count(http.turned_away)),
    },
    Family {
        name: "podling_container_http_instances",
        help: "Instances made for requests",
        unit: None,
        kind: MetricType::Counter,
        value: |c| of_http(c, |http| Value::Count(http.instances)),
    },
    Family {
        name: "podling_container_http_under_way",
        help: "Requests whose handler works now",
        unit: None,
        kind: MetricType::Gauge,
        value: |c| of_http(c, |http| Value::Level(http.under_way)),
    },
];

fn of_http(container: &ContainerUsage, value: fn(&HttpUsage) -> Value) -> Value {
    container.http.as_ref().map_or(Value::Absent, value)
}

impl Family {
    fn encode(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        pods: &[PodUsage],
    ) -> Result<(), std::fmt::Error> {
        let unit = self.unit.as_ref();
        let mut family = encoder.encode_descriptor(self.name, self.help, unit, self.kind)?;
        for pod in pods {
            for container in &pod.containers {
                let labels = labels(pod, container);
                (self.value)(container).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

impl PodFamily {
    fn encode(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        pods: &[PodUsage],
    ) -> Result<(), std::fmt::Error> {
        let unit = Some(&self.unit);
        let mut family = encoder.encode_descriptor(self.name, self.help, unit, self.kind)?;
        for pod in pods {
            let labels = [
                ("namespace", &*pod.key.namespace),
                ("pod", &*pod.key.name),
                ("uid", pod.uid.as_str()),
            ];
            (self.value)(pod).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// What the memory of each container is for.
fn memory_by_kind(
    encoder: &mut DescriptorEncoder<'_>,
    pods: &[PodUsage],
) -> Result<(), std::fmt::Error> {
    let (name, help) = ("podling_container_memory", "Memory by what it is for");
    let mut family =
        encoder.encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Gauge)?;
    for pod in pods {
        for container in &pod.containers {
            let [namespace, name, of, uid, image] = labels(pod, container);
            for (kind, bytes) in container.total.memory.rows() {
                let labels = [namespace, name, of, uid, image, ("kind", kind)];
                Value::Level(bytes).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

/// Dashboards for Kubernetes choose containers by `image!=""`.
fn labels<'a>(pod: &'a PodUsage, container: &'a ContainerUsage) -> Labels<'a> {
    [
        ("namespace", &*pod.key.namespace),
        ("pod", &*pod.key.name),
        ("container", container.name.as_str()),
        ("uid", pod.uid.as_str()),
        ("image", &container.image),
    ]
}

/// What was written to the node's state.
#[derive(Debug)]
struct Flash(Arc<Store>);

impl Collector for Flash {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let written = self.0.written();
        let rows: [(&str, &str, Option<Unit>, u64); 2] = [
            ("podling_store_written", "Bytes written to records", Some(Unit::Bytes), written.bytes),
            (
                "podling_store_fsync",
                "Times a record or its folder was synced",
                None,
                written.fsyncs,
            ),
        ];
        for (name, help, unit, value) in rows {
            let counter = ConstCounter::new(value);
            let encoder =
                encoder.encode_descriptor(name, help, unit.as_ref(), counter.metric_type())?;
            counter.encode(encoder)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::clock::Timestamp;
    use crate::runtime::Usage;
    use crate::spec::{ContainerName, PodKey, PodUid};

    /// The families of one pod.
    #[derive(Debug)]
    struct One(PodUsage);

    impl Collector for One {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
            for family in FAMILIES {
                family.encode(&mut encoder, std::slice::from_ref(&self.0))?;
            }
            memory_by_kind(&mut encoder, std::slice::from_ref(&self.0))
        }
    }

    #[test]
    fn a_container_is_told_in_cadvisors_names_with_the_image_that_dashboards_ask_for() {
        let total = Usage {
            cpu_time: Duration::from_millis(1500),
            throttled: Duration::from_millis(250),
            cpu_limit_millis: Some(1500),
            memory_bytes: 5,
            memory_peak_bytes: 7,
            memory_refused: 3,
            memory_limit_bytes: Some(64),
            ..Usage::default()
        };
        let container = ContainerUsage {
            name: ContainerName::new("app"),
            image: "web:1".to_owned(),
            running: true,
            started: Some(Timestamp::new(Duration::ZERO, 1_795_300_000_250)),
            total,
            http: None,
            oom_kills: 2,
            log_dropped_lines: 0,
            log_dropped_bytes: 0,
            cpu_nanocores: 0,
            window: Duration::ZERO,
        };
        let pod = PodUsage {
            key: PodKey::new("lab", "site"),
            uid: PodUid::new("u"),
            memory_bytes: 5,
            memory_peak_bytes: 7,
            cpu_time: Duration::ZERO,
            containers: vec![container],
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(One(pod)));
        let text = text(&registry).unwrap();
        let labels = r#"{namespace="lab",pod="site",container="app",uid="u",image="web:1"}"#;
        for row in [
            "container_cpu_usage_seconds_total L 1.5",
            "container_cpu_cfs_throttled_seconds_total L 0.25",
            "container_spec_cpu_quota L 150000",
            "container_spec_cpu_period L 100000",
            "container_start_time_seconds L 1795300000.25",
            "container_memory_working_set_bytes L 5",
            "container_memory_max_usage_bytes L 7",
            "container_memory_failcnt L 3",
            "container_oom_events_total L 2",
            "container_spec_memory_limit_bytes L 64",
        ] {
            let row = row.replace(" L ", &format!("{labels} "));
            assert!(text.lines().any(|line| line == row), "{row} in:\n{text}");
        }
    }

    #[test]
    fn a_container_without_a_limit_has_no_quota() {
        let pod = PodUsage {
            key: PodKey::new("lab", "site"),
            uid: PodUid::new("u"),
            memory_bytes: 0,
            memory_peak_bytes: 0,
            cpu_time: Duration::ZERO,
            containers: vec![ContainerUsage {
                name: ContainerName::new("app"),
                image: String::new(),
                running: false,
                started: None,
                total: Usage::default(),
                http: None,
                oom_kills: 0,
                log_dropped_lines: 0,
                log_dropped_bytes: 0,
                cpu_nanocores: 0,
                window: Duration::ZERO,
            }],
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(One(pod)));
        let text = text(&registry).unwrap();
        for name in ["container_spec_cpu_quota{", "container_start_time_seconds{"] {
            assert!(!text.contains(name), "{text}");
        }
        assert!(text.contains("container_spec_cpu_period{"), "{text}");
    }

    #[test]
    fn the_machine_is_told_in_cadvisors_names() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Machine(Allocatable {
            cpu_millis: 3500,
            memory_bytes: 512 << 20,
            ephemeral_storage_bytes: 0,
        })));
        let text = text(&registry).unwrap();
        for row in ["machine_cpu_cores 3.5", "machine_memory_bytes 536870912"] {
            assert!(text.lines().any(|line| line == row), "{row} in:\n{text}");
        }
    }
}
