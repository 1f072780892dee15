//! `podling port-forward`: ports of this machine that lead into a pod.
//!
//! Owns: listening here, and a connection to the daemon for each that comes: one that stalls stops no other. Not: reaching the pod; the daemon does.
//! Words and forms are kubectl's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use hyper_util::rt::TokioIo;
use k8s_openapi::List;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::args::PortForwardArgs;
use super::client::{Client, PathBuilder};
use super::{Out, complain, show_error};

/// Connections at one time, over all ports; the next wait. Fewer than the daemon lets all its clients have.
const CONNECTIONS_MAX: usize = 128;

/// Bytes copied at a time, in each direction.
const CHUNK_BYTES: usize = 64 * 1024;

/// Pause after `accept` failed, so that the failure does not spin.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn run(
    client: &Client,
    args: &PortForwardArgs,
    out: &mut Out,
) -> anyhow::Result<ExitCode> {
    let (pod, service) = find(client, args.target.namespace(), &args.pod).await?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Unknown");
    ensure!(
        phase == "Running",
        "unable to forward port because pod is not running. Current status={phase}"
    );
    let forwards: Vec<Forward> = args
        .ports
        .iter()
        .map(|text| Forward::parse(text, &pod, service.as_ref()))
        .collect::<anyhow::Result<_>>()?;
    let name = pod.metadata.name.unwrap_or_default();
    let mut listeners = Vec::new();
    for forward in &forwards {
        for listener in listen(forward, &args.address).await? {
            let here = listener.local_addr()?;
            out.line(&format!("Forwarding from {here} -> {}", forward.remote))?;
            listeners.push((listener, forward.remote));
        }
    }
    out.flush()?;
    let namespace = args.target.namespace();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (said, mut lines) = tokio::sync::mpsc::channel(CONNECTIONS_MAX);
    let mut serving = JoinSet::new();
    for (listener, remote) in listeners {
        let path = PathBuilder::new(&["namespaces", namespace, "pods", &name, "portforward"]);
        let path = path.with("port", &remote.to_string());
        let (client, room) = (client.clone(), Arc::clone(&room));
        serving.spawn(serve(listener, client, path, room, said.clone()));
    }
    drop(said);
    while let Some(line) = lines.recv().await {
        out.line(&line)?;
        out.flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One port of this machine, and one of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Forward {
    /// 0: any.
    local: u16,
    remote: u16,
}

impl Forward {
    /// Reads `8080:80`, `80`, `:80`; names of ports in place of the remote one.
    fn parse(text: &str, pod: &Pod, service: Option<&Service>) -> anyhow::Result<Self> {
        let (local, remote) = text.split_once(':').unwrap_or((text, text));
        let asked = match service {
            Some(service) => service_port(service, remote)?,
            None => Port { number: pod_port(pod, remote)?, target: None },
        };
        let local = match local {
            "" => 0,
            same if same == remote => asked.number,
            number => number.parse().map_err(|_| anyhow::anyhow!("invalid port: {text}"))?,
        };
        let remote = match asked.target {
            Some(IntOrString::Int(number)) => {
                u16::try_from(number).context("the service's target port is none")?
            }
            Some(IntOrString::String(name)) => pod_port(pod, &name)?,
            None => asked.number,
        };
        ensure!(remote > 0, "remote port must be > 0");
        Ok(Self { local, remote })
    }
}

/// A port as it was asked for, and where a Service leads it.
struct Port {
    number: u16,
    target: Option<IntOrString>,
}

fn service_port(service: &Service, wanted: &str) -> anyhow::Result<Port> {
    let spec = service.spec.clone().unwrap_or_default();
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let ports = spec.ports.unwrap_or_default();
    let by_number = |number: u16| ports.iter().find(|port| port.port == i32::from(number));
    let found = match wanted.parse::<u16>() {
        Ok(number) => by_number(number),
        Err(_) => ports.iter().find(|port| port.name.as_deref() == Some(wanted)),
    };
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let Some(found) = found else { bail!("service {name} does not have a service port {wanted}") };
    let number = u16::try_from(found.port).context("the service's port is none")?;
    // Nothing stands between a headless Service's clients and its pods.
    let target = found.target_port.clone().filter(|_| !headless);
    Ok(Port { number, target })
}

fn pod_port(pod: &Pod, wanted: &str) -> anyhow::Result<u16> {
    if let Ok(number) = wanted.parse() {
        return Ok(number);
    }
    ensure!(!wanted.bytes().all(|b| b.is_ascii_digit()), "{wanted} is no port: 1 to 65535");
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let found = ports.find(|port| port.name.as_deref() == Some(wanted));
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let found = found.with_context(|| format!("pod {name} does not have a port named {wanted}"))?;
    u16::try_from(found.container_port).context("the container's port is none")
}

/// The pod that is meant; for a Service one of its pods, a ready one if there is any.
async fn find(
    client: &Client,
    namespace: &str,
    what: &str,
) -> anyhow::Result<(Pod, Option<Service>)> {
    let (kind, name) = what.split_once('/').unwrap_or(("pod", what));
    match kind {
        "pod" | "pods" | "po" => {
            let path = PathBuilder::new(&["namespaces", namespace, "pods", name]);
            Ok((client.get(path.as_str()).await?, None))
        }
        "service" | "services" | "svc" => {
            let path = PathBuilder::new(&["namespaces", namespace, "services", name]);
            let service: Service = client.get(path.as_str()).await?;
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone());
            let selector = selector.unwrap_or_default();
            ensure!(!selector.is_empty(), "service {name} has no selector, and so no pods");
            let pairs: Vec<String> =
                selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let path = PathBuilder::new(&["namespaces", namespace, "pods"]);
            let path = path.with("labelSelector", &pairs.join(","));
            let pods: List<Pod> = client.get(path.as_str()).await?;
            let pod = pods.items.into_iter().max_by_key(|pod| (is_ready(pod), is_running(pod)));
            Ok((pod.with_context(|| format!("service {name} has no pods"))?, Some(service)))
        }
        other => bail!("cannot forward to a {other}: name a pod or a service"),
    }
}

fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Listens on every address. `localhost` needs one of its two; a port that is any is the same on both.
async fn listen(forward: &Forward, addresses: &[String]) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    for address in addresses {
        let local = match listeners.first() {
            Some(first) => first.local_addr()?.port(),
            None => forward.local,
        };
        let why = |at: SocketAddr| format!("unable to listen on {at}");
        if address == "localhost" {
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, local));
            let v4 = TcpListener::bind(at).await.with_context(|| why(at))?;
            let local = v4.local_addr()?.port();
            listeners.push(v4);
            // A machine without IPv6 has no such address; a port taken there alone is none of ours.
            let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, local)).await;
            listeners.extend(v6);
        } else {
            let ip: IpAddr = address.parse().with_context(|| format!("{address} is no address"))?;
            let at = SocketAddr::new(ip, local);
            listeners.push(TcpListener::bind(at).await.with_context(|| why(at))?);
        }
    }
    Ok(listeners)
}

async fn serve(
    listener: TcpListener,
    client: Client,
    path: PathBuilder,
    room: Arc<Semaphore>,
    said: tokio::sync::mpsc::Sender<String>,
) {
    let port = listener.local_addr().map_or(0, |address| address.port());
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((connection, _)) => {
                // Nobody reads it any more: the command is ending.
                let _ = said.send(format!("Handling connection for {port}")).await;
                let (client, path) = (client.clone(), path.clone());
                tokio::spawn(async move {
                    let mut connection = connection;
                    // Told before the connection ends, so that whoever sees the end can read why.
                    if let Err(error) = carry(&mut connection, &client, &path).await {
                        show_error(&error);
                    }
                    drop((connection, place));
                });
            }
            Err(error) => {
                complain(&format!("error accepting a connection on port {port}: {error}"));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn carry(local: &mut TcpStream, client: &Client, path: &PathBuilder) -> anyhow::Result<()> {
    // A socket that refuses is slower, no more.
    let _ = local.set_nodelay(true);
    let upgraded = match client.upgrade(path.as_str(), "tcp").await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            crate::outside::reset(local);
            return Err(error.into());
        }
    };
    let mut pod = TokioIo::new(upgraded);
    let copied =
        tokio::io::copy_bidirectional_with_sizes(local, &mut pod, CHUNK_BYTES, CHUNK_BYTES);
    match copied.await {
        Ok(_) => Ok(()),
        Err(error) => {
            crate::outside::reset(local);
            // A side that went away in the middle is its own affair.
            let usual = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
            if usual.contains(&error.kind()) { Ok(()) } else { Err(error.into()) }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn pod() -> Pod {
        serde_yaml::from_str(
            "metadata: {name: web}\nspec:\n  containers:\n  - name: c\n    ports: [{name: http, containerPort: 8080}]\n",
        )
        .unwrap()
    }

    fn service(cluster_ip: &str) -> Service {
        serde_yaml::from_str(&format!(
            "metadata: {{name: front}}\nspec:\n  clusterIP: {cluster_ip}\n  ports:\n  - {{name: web, port: 80, targetPort: http}}\n  \
             - {{name: raw, port: 81, targetPort: 9000}}\n  - {{name: same, port: 82}}\n"
        ))
        .unwrap()
    }

    #[test]
    fn ports_are_read_as_kubectl_reads_them() {
        let (pod, service, headless) = (pod(), service("10.89.0.1"), service("None"));
        type Row<'a> = (&'a str, Option<&'a Service>, Option<(u16, u16)>);
        let table: &[Row<'_>] = &[
            ("8888:80", None, Some((8888, 80))),
            ("80", None, Some((80, 80))),
            (":80", None, Some((0, 80))),
            ("0:80", None, Some((0, 80))),
            ("8888:http", None, Some((8888, 8080))),
            ("http", None, Some((8080, 8080))),
            ("8888:web", Some(&service), Some((8888, 8080))),
            ("8888:80", Some(&service), Some((8888, 8080))),
            ("80", Some(&service), Some((80, 8080))),
            ("web", Some(&service), Some((80, 8080))),
            ("81", Some(&service), Some((81, 9000))),
            ("82", Some(&service), Some((82, 82))),
            ("81", Some(&headless), Some((81, 81))),
            ("83", Some(&service), None),
            ("8888:0", None, None),
            ("8888:nobody", None, None),
            ("x:80", None, None),
            ("70000:80", None, None),
        ];
        for (text, service, expected) in table {
            let read = Forward::parse(text, &pod, *service).ok();
            let expected = expected.map(|(local, remote)| Forward { local, remote });
            assert_eq!(read, expected, "{text}");
        }
    }
}
