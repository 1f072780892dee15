//! `podling top pods|node`: what pods and the node use now, in kubectl's columns.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::manifest::quantity::Quantity;

use super::Out;
use super::args::{ReportFormat, TopArgs, TopWhat};
use super::client::{Client, ClientError};
use super::columns::Columns;
use crate::server::usage::{FUEL, MEMORY_OF, MEMORY_PEAK, THROTTLED};

/// Where usage is asked for.
const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

/// What one container uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    namespace: String,
    pod: String,
    container: String,
    cpu_millis: u64,
    memory_bytes: u64,
    /// Time that it waited because of a CPU limit, since its pod is here.
    throttled_millis: u64,
    /// The most that it held at once.
    memory_peak_bytes: u64,
    /// Of its memory, what the host holds for it: all but linear memories and tables.
    memory_host_bytes: u64,
    /// Instructions that it executed, where they are counted.
    fuel: Option<u64>,
}

pub(super) async fn run(
    client: &Client,
    args: &TopArgs,
    out: &mut Out,
) -> anyhow::Result<ExitCode> {
    match args.what {
        TopWhat::Pods | TopWhat::Pod | TopWhat::Po => {
            let namespace = (!args.all_namespaces).then(|| args.target.namespace());
            let mut rows = pods(client, namespace).await?;
            if let Some(name) = &args.name {
                rows.retain(|row| &row.pod == name);
                anyhow::ensure!(!rows.is_empty(), "pod {name} uses nothing, or is not there");
            }
            match args.output {
                ReportFormat::Json => out.line(&serde_json::to_string_pretty(&to_json(&rows))?)?,
                ReportFormat::Text if rows.is_empty() => eprintln!("No resources found"),
                ReportFormat::Text if args.wide => out.line(&wide(&rows))?,
                ReportFormat::Text => out.line(&table(&rows, args.containers))?,
            }
        }
        TopWhat::Nodes | TopWhat::Node | TopWhat::No => node(client, args, out).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What each container uses, in the order of the pods' names.
///
/// # Errors
/// If no daemon answers.
pub(super) async fn pods(
    client: &Client,
    namespace: Option<&str>,
) -> Result<Vec<Row>, ClientError> {
    let path = match namespace {
        Some(namespace) => format!("{METRICS}/namespaces/{namespace}/pods"),
        None => format!("{METRICS}/pods"),
    };
    Ok(rows_of(&client.get(&path).await?))
}

/// The rows of a `PodMetricsList`.
pub(super) fn rows_of(list: &Value) -> Vec<Row> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut rows = Vec::new();
    for pod in items {
        for container in pod["containers"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let usage = &container["usage"];
            let (cpu_millis, memory_bytes) = amounts(usage);
            rows.push(Row {
                namespace: text(&pod["metadata"]["namespace"]),
                pod: text(&pod["metadata"]["name"]),
                container: text(&container["name"]),
                cpu_millis,
                memory_bytes,
                throttled_millis: amount(usage, THROTTLED).map_or(0, |q| q.millis_u64()),
                memory_peak_bytes: amount(usage, MEMORY_PEAK).map_or(0, |q| q.units_u64()),
                memory_host_bytes: amount(usage, &format!("{MEMORY_OF}host"))
                    .map_or(0, |q| q.units_u64()),
                fuel: amount(usage, FUEL).map(|q| q.units_u64()),
            });
        }
    }
    rows
}

impl Row {
    pub(super) fn is_of(&self, pod: &str, container: &str) -> bool {
        self.pod == pod && self.container == container
    }

    /// For a person who looks at one container: `10m CPU, 2Mi memory (most: 3Mi), throttled for 12.345s`.
    pub(super) fn in_words(&self) -> String {
        let (memory, peak) = (mebibytes(self.memory_bytes), mebibytes(self.memory_peak_bytes));
        let mut words = format!("{}m CPU, {memory} memory (most: {peak})", self.cpu_millis);
        if self.throttled_millis > 0 {
            words.push_str(&format!(", throttled for {}", seconds(self.throttled_millis)));
        }
        if let Some(fuel) = self.fuel {
            words.push_str(&format!(", {fuel} of fuel"));
        }
        words
    }
}

fn seconds(millis: u64) -> String {
    format!("{}.{:03}s", millis / 1000, millis % 1000)
}

fn amounts(usage: &Value) -> (u64, u64) {
    let cpu = amount(usage, "cpu").map_or(0, |q| q.millis_u64());
    (cpu, amount(usage, "memory").map_or(0, |q| q.units_u64()))
}

fn amount(usage: &Value, key: &str) -> Option<Quantity> {
    usage[key].as_str().and_then(|text| Quantity::parse(text).ok())
}

/// kubectl's table: one line a pod, or one a container.
pub(super) fn table(rows: &[Row], containers: bool) -> String {
    let mut summed: Vec<Row> = Vec::new();
    for row in rows {
        match summed.last_mut() {
            Some(last) if !containers && last.pod == row.pod && last.namespace == row.namespace => {
                last.cpu_millis += row.cpu_millis;
                last.memory_bytes += row.memory_bytes;
            }
            Some(_) | None => summed.push(row.clone()),
        }
    }
    let mut names = vec!["NAMESPACE", "POD"];
    if containers {
        names.push("NAME");
    } else {
        names[1] = "NAME";
    }
    names.extend(["CPU(cores)", "MEMORY(bytes)"]);
    let cells = summed.iter().map(|row| {
        let mut cells = vec![row.namespace.clone(), row.pod.clone()];
        if containers {
            cells.push(row.container.clone());
        }
        cells.extend([format!("{}m", row.cpu_millis), mebibytes(row.memory_bytes)]);
        cells
    });
    aligned(&names, cells)
}

/// All that is known of each container.
pub(super) fn wide(rows: &[Row]) -> String {
    let names = [
        "NAMESPACE",
        "POD",
        "NAME",
        "CPU(cores)",
        "THROTTLED",
        "MEMORY(bytes)",
        "HOST(bytes)",
        "PEAK(bytes)",
        "FUEL",
    ];
    let cells = rows.iter().map(|row| {
        vec![
            row.namespace.clone(),
            row.pod.clone(),
            row.container.clone(),
            format!("{}m", row.cpu_millis),
            seconds(row.throttled_millis),
            mebibytes(row.memory_bytes),
            mebibytes(row.memory_host_bytes),
            mebibytes(row.memory_peak_bytes),
            row.fuel.map_or("<none>".to_owned(), |fuel| fuel.to_string()),
        ]
    });
    aligned(&names, cells)
}

fn aligned(names: &[&str], cells: impl Iterator<Item = Vec<String>>) -> String {
    let heading = names.iter().map(|name| (*name).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(heading).chain(cells).collect();
    Columns::default().set(&rows).trim_end().to_owned()
}

fn mebibytes(bytes: u64) -> String {
    format!("{}Mi", bytes.div_ceil(1 << 20))
}

/// The rows for programs.
pub(super) fn to_json(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        json!({
            "namespace": row.namespace, "pod": row.pod, "container": row.container,
            "cpuMillis": row.cpu_millis, "memoryBytes": row.memory_bytes,
            "throttledMillis": row.throttled_millis, "memoryPeakBytes": row.memory_peak_bytes,
            "memoryHostBytes": row.memory_host_bytes,
            "fuel": row.fuel,
        })
    };
    rows.iter().map(row).collect()
}

async fn node(client: &Client, args: &TopArgs, out: &mut Out) -> anyhow::Result<()> {
    let usage: Value = client.get(&format!("{METRICS}/nodes")).await?;
    let nodes: Value = client.get("/api/v1/nodes").await?;
    let mut report = Vec::new();
    for item in usage["items"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let name = item["metadata"]["name"].as_str().unwrap_or_default();
        let (cpu, memory) = amounts(&item["usage"]);
        let all = nodes["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let this = all.iter().find(|node| node["metadata"]["name"] == item["metadata"]["name"]);
        let (has_cpu, has_memory) = this.map_or((0, 0), |n| amounts(&n["status"]["allocatable"]));
        if args.name.as_ref().is_some_and(|asked| asked != name) {
            continue;
        }
        report.push((name.to_owned(), cpu, has_cpu, memory, has_memory));
    }
    if let Some(asked) = args.name.as_ref().filter(|_| report.is_empty()) {
        anyhow::bail!("node {asked} is not there: this daemon has one node (podling get nodes)");
    }
    let share = |used: u64, of: u64| used.saturating_mul(100).checked_div(of);
    match args.output {
        ReportFormat::Json => {
            let nodes: Vec<Value> = report
                .iter()
                .map(|(name, cpu, has_cpu, memory, has_memory)| {
                    json!({
                        "node": name, "cpuMillis": cpu, "cpuAllocatableMillis": has_cpu,
                        "memoryBytes": memory, "memoryAllocatableBytes": has_memory,
                    })
                })
                .collect();
            out.line(&serde_json::to_string_pretty(&nodes)?)
        }
        ReportFormat::Text => {
            let percent =
                |used, of| share(used, of).map_or("<unknown>".to_owned(), |p| format!("{p}%"));
            let cells = report.iter().map(|(name, cpu, has_cpu, memory, has_memory)| {
                vec![
                    name.clone(),
                    format!("{cpu}m"),
                    percent(*cpu, *has_cpu),
                    mebibytes(*memory),
                    percent(*memory, *has_memory),
                ]
            });
            out.line(&aligned(
                &["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"],
                cells,
            ))
        }
    }
}
