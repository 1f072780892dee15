//! `podling net`: a pod's sockets as `ss` would show them, what its traffic adds up to, and the policy it needs.

use std::process::ExitCode;

use anyhow::ensure;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::Out;
use super::args::{NetArgs, NetFormat};
use super::client::{Client, PathBuilder};
use super::columns::{self, align};
use super::{logs, yaml};
use crate::server::network::{Counters, NetworkReport, SocketRow};
use crate::server::network_audit::AuditReport;

/// What stands where there is no address, as in `ss`.
const NONE: &str = "*:*";

pub(super) async fn run(
    client: &Client,
    args: &NetArgs,
    out: &mut Out,
) -> anyhow::Result<ExitCode> {
    let pod = match args.pod.split_once('/') {
        Some(("pod" | "pods" | "po", name)) => name,
        Some((kind, _)) => anyhow::bail!("only pods have a network, not a {kind}"),
        None => &args.pod,
    };
    if args.audit {
        return audit(client, args, pod, out).await;
    }
    let segments = ["namespaces", args.target.namespace(), "pods", pod, "network"];
    let report: NetworkReport = client.get(PathBuilder::new(&segments).as_str()).await?;
    if let Some(name) = args.container.as_ref().filter(|name| !knows(&report, name)) {
        // It may have done nothing yet; one that there is not must not look like that.
        let pod_object: Pod = client.get(PathBuilder::new(&segments[..4]).as_str()).await?;
        let known = logs::all_containers(&pod_object).contains(name);
        ensure!(known, "container {name} is not valid for pod {pod}");
    }
    match args.output {
        Some(NetFormat::Json) => {
            out.line(&serde_json::to_string_pretty(&report)?)?;
        }
        None if args.traffic => out.text(&traffic(&report, args.container.as_deref()))?,
        None => out.text(&sockets(&report, args))?,
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Whether any traffic is told of a container, the daemon's own members included.
fn knows(report: &NetworkReport, container: &str) -> bool {
    report.containers.iter().any(|it| it.name == container)
}

async fn audit(
    client: &Client,
    args: &NetArgs,
    pod: &str,
    out: &mut Out,
) -> anyhow::Result<ExitCode> {
    let segments = ["namespaces", args.target.namespace(), "pods", pod, "networkaudit"];
    let report: AuditReport = client.get(PathBuilder::new(&segments).as_str()).await?;
    match args.output {
        Some(NetFormat::Json) => out.line(&serde_json::to_string_pretty(&report)?)?,
        None => out.text(&proposal(&report)?)?,
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// What was seen as comments, and the policy: the whole can be applied as it is.
fn proposal(report: &AuditReport) -> anyhow::Result<String> {
    let name = &report.metadata.name;
    let mut text = if report.audited {
        format!(
            "# What pod {name} used since it is audited. Policy denies, but for the audit, what is marked so.\n"
        )
    } else {
        format!(
            "# Pod {name} is not audited: only what was denied is known, so there is no policy to propose. To find it, give the pod the\n\
             # annotation podling.dev/network-audit: \"true\", in its manifest or by:\n\
             #   kubectl annotate pod {name} podling.dev/network-audit=true\n"
        )
    };
    for row in &report.seen {
        let mark = if row.denied { "denied " } else { "allowed" };
        text.push_str(&format!("#   {mark}  {}\n", columns::visible(&row.what)));
    }
    if report.seen.is_empty() {
        text.push_str("#   nothing so far\n");
    }
    if report.lost > 0 {
        text.push_str(&format!("#   and {} more that were not remembered\n", report.lost));
    }
    if let Some(policy) = &report.policy {
        let selector = policy.spec.as_ref().and_then(|spec| spec.pod_selector.as_ref());
        if selector.is_none_or(|selector| *selector == LabelSelector::default()) {
            text.push_str(
                "# The pod has no labels: this policy is for every pod of its namespace. Give it one, and name it in podSelector.\n",
            );
        }
        text.push_str(&yaml::to_string(&serde_json::to_value(policy)?));
    }
    Ok(text)
}

fn sockets(report: &NetworkReport, args: &NetArgs) -> String {
    let wanted = |socket: &&SocketRow| {
        let container = args.container.as_ref().is_none_or(|name| *name == socket.container);
        container && (!args.listening || is_listening(socket))
    };
    let shown: Vec<&SocketRow> = report.sockets.iter().filter(wanted).collect();
    let outside = shown.iter().any(|socket| socket.via.is_some());
    let mut text = String::from(
        "Netid\tState\tRecv-Q\tSend-Q\tLocal Address:Port\tPeer Address:Port\tContainer",
    );
    text.push_str(if outside { "\tHost Address:Port\n" } else { "\n" });
    for socket in shown {
        let address = |address: &Option<String>| address.clone().unwrap_or_else(|| NONE.to_owned());
        let cells = [
            socket.protocol.clone(),
            socket.state.clone(),
            socket.receive_queue.to_string(),
            socket.send_queue.to_string(),
            address(&socket.local),
            address(&socket.remote),
            socket.container.clone(),
        ];
        text.push_str(&cells.join("\t"));
        if outside {
            text.push('\t');
            text.push_str(socket.via.as_deref().unwrap_or_default());
        }
        text.push('\n');
    }
    let aligned = align(&text, 2);
    aligned.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn is_listening(socket: &SocketRow) -> bool {
    let bound = socket.protocol == "udp" && socket.local.is_some() && socket.remote.is_none();
    socket.state == "LISTEN" || bound
}

fn traffic(report: &NetworkReport, container: Option<&str>) -> String {
    let wanted = |name: &str| container.is_none_or(|wanted| wanted == name);
    let mut text = String::new();
    let table = |title: &str, rows: Vec<(String, &Counters)>, text: &mut String| {
        if rows.is_empty() {
            return;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        let all: std::collections::BTreeSet<&String> =
            rows.iter().flat_map(|(_, counters)| counters.keys()).collect();
        // One line for each number: there are more of them than containers.
        let mut lines = format!("{title}\t");
        lines.push_str(&rows.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join("\t"));
        lines.push('\n');
        for name in all {
            let values = rows
                .iter()
                .map(|(_, counters)| counters.get(name).copied().unwrap_or_default().to_string());
            lines.push_str(&format!("{name}\t{}\n", values.collect::<Vec<_>>().join("\t")));
        }
        text.push_str(&align(&lines, 3));
    };
    let containers = report.containers.iter().filter(|it| wanted(&it.name));
    let rows = containers.map(|it| (it.name.clone(), &it.counters)).collect();
    table("CONTAINER", rows, &mut text);
    if container.is_some() {
        return text;
    }
    let ports = report.published.iter();
    let rows = ports.map(|port| {
        let name = format!("{}/{}->{}", port.protocol, port.address, port.container_port);
        (name, &port.counters)
    });
    table("PUBLISHED", rows.collect(), &mut text);
    let whole = [("outside", &report.outside), ("port-forward", &report.forwarded)];
    let rows = whole.into_iter().filter(|(_, counters)| !counters.is_empty());
    table("HOST", rows.map(|(name, all)| (name.to_owned(), all)).collect(), &mut text);
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::server::network::{ContainerTraffic, PublishedRow};
    use crate::server::network_audit::SeenRow;

    fn args(line: &str) -> NetArgs {
        let words = std::iter::once("podling").chain(line.split(' '));
        let Command::Net(args) = Cli::try_parse_from(words).unwrap().command else { panic!() };
        args
    }

    fn report() -> NetworkReport {
        let socket = |container: &str, protocol: &str, state: &str, local: &str, remote: &str| {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            SocketRow {
                container: container.to_owned(),
                protocol: protocol.to_owned(),
                state: state.to_owned(),
                local: some(local),
                remote: some(remote),
                ..SocketRow::default()
            }
        };
        let mut outside = socket("app", "tcp", "ESTAB", "10.88.0.1:40000", "192.0.2.9:443");
        outside.via = Some("192.168.1.5:51234".to_owned());
        let mut listener = socket("web", "tcp", "LISTEN", "0.0.0.0:80", "");
        listener.send_queue = 128;
        let counters = |rows: &[(&str, u64)]| -> Counters {
            rows.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
        };
        NetworkReport {
            sockets: vec![listener, outside, socket("app", "udp", "UNCONN", "0.0.0.0:53", "")],
            containers: vec![
                ContainerTraffic { name: "app".into(), counters: counters(&[("connects", 7)]) },
                ContainerTraffic { name: "web".into(), counters: counters(&[("accepts", 12)]) },
            ],
            published: vec![PublishedRow {
                protocol: "tcp".into(),
                address: "127.0.0.1:8080".into(),
                container_port: 80,
                counters: counters(&[("bytesIn", 5)]),
            }],
            ..NetworkReport::default()
        }
    }

    #[test]
    fn sockets_stand_as_ss_sets_them() {
        assert_eq!(
            sockets(&report(), &args("net p")),
            "Netid  State   Recv-Q  Send-Q  Local Address:Port  Peer Address:Port  Container  Host Address:Port\n\
             tcp    LISTEN  0       128     0.0.0.0:80          *:*                web\n\
             tcp    ESTAB   0       0       10.88.0.1:40000     192.0.2.9:443      app        192.168.1.5:51234\n\
             udp    UNCONN  0       0       0.0.0.0:53          *:*                app\n"
        );
    }

    #[test]
    fn an_audit_is_a_policy_with_what_was_seen_as_comments() {
        use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};
        let row = |what: &str, denied| SeenRow { what: what.to_owned(), denied };
        let mut report = AuditReport {
            seen: vec![row("to 192.0.2.1 tcp/443", true), row("from a\u{1b}b", false)],
            lost: 3,
            ..AuditReport::default()
        };
        let text = proposal(&report).unwrap();
        assert!(text.contains("#   denied   to 192.0.2.1 tcp/443\n"), "{text}");
        assert!(text.contains("and 3 more"), "{text}");
        assert!(
            text.lines().all(|line| line.starts_with('#')) && !text.contains('\u{1b}'),
            "{text}"
        );
        report.audited = true;
        let selector = LabelSelector::default();
        let spec =
            NetworkPolicySpec { pod_selector: Some(selector), ..NetworkPolicySpec::default() };
        report.policy = Some(NetworkPolicy { spec: Some(spec), ..NetworkPolicy::default() });
        let text = proposal(&report).unwrap();
        assert!(
            text.contains("# The pod has no labels") && text.contains("\nkind: NetworkPolicy\n"),
            "{text}"
        );
    }

    #[test]
    fn only_what_is_asked_for_is_shown() {
        let listening = sockets(&report(), &args("net p --listening"));
        assert!(listening.contains("LISTEN") && listening.contains("UNCONN"), "{listening}");
        assert!(!listening.contains("ESTAB") && !listening.contains("Host"), "{listening}");
        let of_web = sockets(&report(), &args("net p -c web"));
        assert_eq!(of_web.lines().count(), 2, "{of_web}");
    }

    #[test]
    fn traffic_stands_in_a_table_for_each_kind() {
        assert_eq!(
            traffic(&report(), None),
            "CONTAINER   app   web\naccepts     0     12\nconnects    7     0\n\n\
             PUBLISHED   tcp/127.0.0.1:8080->80\nbytesIn     5\n"
        );
        assert_eq!(traffic(&report(), Some("web")), "CONTAINER   web\naccepts     12\n");
    }
}
