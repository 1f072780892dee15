//! HTTP through a published port of the host: the real daemon against `wasmtime serve`, the same component, one machine.
//!
//! Both servers are up all the time; rounds of load alternate between them. The load is in this process: so many connections kept alive,
//! each with one request at a time. The peer is found as `wasmtime` on the path, or as PODLING_BENCH_WASMTIME says; without it podling is
//! measured alone. Goal: at least as many requests per second.
//!
//! Each server is there as it is by default and with the other choice for its instances: one for each request, or used again. Both have the same defaults: an
//! instance for each request of WASI 0.2, and for 0.3 instances that have up to 16 requests at a time and 128 in all. A ratio is to the peer that does the same.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

mod common;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use common::Options;
use common::guests::path;
use common::report::{Cell, Report, Table};
use common::stats::{median, percentile, spread};
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const ROUNDS: usize = 5;

/// One round of load.
const ROUND: Duration = Duration::from_secs(3);

/// What is asked for, by how many connections.
const CASES: [(&str, &str, usize); 4] = [
    ("a line of text, 1 connection", "/", 1),
    ("a line of text, 16 connections", "/", 16),
    ("a line of text, 64 connections", "/", 64),
    ("1 MB in 16 KB chunks, 8 connections", "/stream?n=64&size=16384", 8),
];

/// A component that answers, and how `wasmtime serve` is told to run it.
struct Handler {
    wasi: &'static str,
    guest: &'static str,
    peer: &'static [&'static str],
    instances: [Instances; 2],
}

/// What is done with instances: by default, or with so many requests for each.
#[derive(Clone, Copy)]
struct Instances {
    what: &'static str,
    reuse: Option<u32>,
}

const HANDLERS: [Handler; 2] = [
    Handler {
        wasi: "0.2",
        guest: "handler",
        peer: &["-S", "cli"],
        instances: [
            Instances { what: "an instance each", reuse: None },
            Instances { what: "instances reused", reuse: Some(1000) },
        ],
    },
    Handler {
        wasi: "0.3",
        guest: "handler3",
        peer: &["-S", "cli,p3", "-W", "component-model-async=y"],
        instances: [
            Instances { what: "instances shared", reuse: None },
            Instances { what: "an instance each", reuse: Some(1) },
        ],
    },
];

/// A server, ended on drop.
struct Server {
    name: String,
    /// Of the peer that does the same, and is the base of the ratio.
    peer: String,
    child: Child,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Processor time that a process has used, microseconds, with its threads that have gone.
fn cpu_us(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no such line")?;
    // proc_pid_stat(5): the 14th and the 15th, where the state is the 3rd.
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.sum::<Result<_, _>>()?;
    Ok(ticks as f64 * 1e6 / rustix::param::clock_ticks_per_second() as f64)
}

/// Starts podling with one pod of the handler.
fn podling(dir: &Path, handler: &Handler, instances: Instances) -> anyhow::Result<Server> {
    let address = free_address()?;
    let annotations = instances
        .reuse
        .map(|count| format!("http-reuse.podling.dev/web: '{count}'"))
        .unwrap_or_default();
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, annotations: {{{annotations}}}}}\nspec:\n  \
         containers:\n  - name: web\n    image: 'file:{}'\n    \
         ports: [{{containerPort: 8080, hostPort: {}, hostIP: 127.0.0.1}}]\n",
        path(handler.guest).display(),
        address.port()
    );
    let of = format!("{}-{}", handler.guest, instances.reuse.unwrap_or_default());
    let state = dir.join(format!("state-{of}"));
    let file = dir.join(format!("{of}.yaml"));
    std::fs::write(&file, manifest)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_podling"));
    command.arg("play").arg(&file).arg("--state-dir").arg(state);
    command.arg("--cache-dir").arg(dir.join("cache"));
    start(format!("podling, {}", instances.what), instances, command, address)
}

fn wasmtime(handler: &Handler, instances: Instances) -> anyhow::Result<Option<Server>> {
    let program = match std::env::var_os("PODLING_BENCH_WASMTIME") {
        Some(named) => Some(PathBuf::from(named)),
        None => std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|dir| dir.join("wasmtime"))
            .find(|file| file.is_file()),
    };
    let Some(program) = program else { return Ok(None) };
    let address = free_address()?;
    let mut command = Command::new(program);
    command.arg("serve").args(handler.peer);
    if let Some(count) = instances.reuse {
        command.arg("--max-instance-reuse-count").arg(count.to_string());
    }
    command.arg("--addr").arg(address.to_string()).arg(path(handler.guest));
    start(peer_name(instances), instances, command, address).map(Some)
}

fn peer_name(instances: Instances) -> String {
    format!("wasmtime serve, {}", instances.what)
}

fn start(
    name: String,
    instances: Instances,
    mut command: Command,
    address: SocketAddr,
) -> anyhow::Result<Server> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = child.with_context(|| format!("start {name}"))?;
    Ok(Server { name, peer: peer_name(instances), child, address })
}

async fn client(address: SocketAddr) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

async fn ask(client: &mut SendRequest<Empty<Bytes>>, path: &str) -> anyhow::Result<()> {
    client.ready().await?;
    let request = Request::get(path).header("host", "bench").body(Empty::new())?;
    let response = client.send_request(request).await?;
    if !response.status().is_success() {
        bail!("status {}", response.status());
    }
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

/// Waits until it answers.
async fn ready(server: &mut Server) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        if let Some(ended) = server.child.try_wait()? {
            bail!("{} ended: {ended}", server.name);
        }
        if let Ok(mut client) = client(server.address).await
            && ask(&mut client, "/").await.is_ok()
        {
            return Ok(());
        }
        if start.elapsed() > Duration::from_secs(60) {
            bail!("{} does not answer", server.name);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What one round of load came to.
struct Load {
    per_second: f64,
    /// Milliseconds.
    p50: f64,
    p99: f64,
    /// Processor time of the server for each request, microseconds.
    cpu: f64,
}

async fn load(
    server: &Server,
    path: &'static str,
    connections: usize,
    round: Duration,
) -> anyhow::Result<Load> {
    let mut tasks = tokio::task::JoinSet::new();
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(client(server.address).await?);
    }
    let before = cpu_us(server.child.id())?;
    let start = Instant::now();
    for mut client in clients {
        tasks.spawn(async move {
            let mut times = Vec::new();
            while start.elapsed() < round {
                let asked = Instant::now();
                ask(&mut client, path).await?;
                times.push(asked.elapsed().as_secs_f64() * 1e3);
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    let per_second = times.len() as f64 / start.elapsed().as_secs_f64();
    let cpu = (cpu_us(server.child.id())? - before) / times.len().max(1) as f64;
    Ok(Load { per_second, p50: percentile(&times, 50), p99: percentile(&times, 99), cpu })
}

fn main() -> anyhow::Result<()> {
    let options = Options::from_args();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(options))
}

async fn measure(options: Options) -> anyhow::Result<()> {
    let mut report = Report::new("http", options.json);
    for handler in &HANDLERS {
        compare(handler, options, &mut report).await?;
    }
    report.finish();
    Ok(())
}

async fn compare(handler: &Handler, options: Options, report: &mut Report) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut servers = Vec::new();
    for instances in handler.instances {
        servers.push(podling(dir.path(), handler, instances)?);
        servers.extend(wasmtime(handler, instances)?);
    }
    for server in &mut servers {
        ready(server).await?;
    }
    let round = if options.quick { ROUND / 10 } else { ROUND };
    for (what, path, connections) in CASES {
        let columns =
            ["server", "requests/s", "ratio", "p50 (ms)", "p99 (ms)", "spread", "CPU (us/request)"];
        let mut table = Table::new(format!("WASI {}, {what}", handler.wasi), &columns);
        let mut loads: Vec<Vec<Load>> = servers.iter().map(|_| Vec::new()).collect();
        for _ in 0..options.rounds(ROUNDS) {
            for (server, loads) in servers.iter().zip(&mut loads) {
                loads.push(load(server, path, connections, round).await?);
            }
        }
        fill(&mut table, &servers, &loads);
        report.table(table);
    }
    Ok(())
}

/// A row for each server.
fn fill(table: &mut Table, servers: &[Server], all: &[Vec<Load>]) {
    let figure =
        |loads: &[Load], of: fn(&Load) -> f64| median(&loads.iter().map(of).collect::<Vec<_>>());
    for (server, loads) in servers.iter().zip(all) {
        let peer = servers.iter().position(|other| other.name == server.peer);
        let base = peer.map(|peer| figure(&all[peer], |load| load.per_second));
        let rate = figure(loads, |load| load.per_second);
        let rates: Vec<f64> = loads.iter().map(|load| load.per_second).collect();
        table.row(vec![
            server.name.clone().into(),
            Cell::Number(rate, 0),
            base.map_or("".into(), |base| Cell::Number(rate / base, 2)),
            Cell::Number(figure(loads, |load| load.p50), 3),
            Cell::Number(figure(loads, |load| load.p99), 3),
            Cell::Number(spread(&rates), 2),
            Cell::Number(figure(loads, |load| load.cpu), 1),
        ]);
    }
    table.note("ratio: to wasmtime serve with instances as this row's; the goal is at least 1");
}
