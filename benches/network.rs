//! TCP between two modules: podling's loopback against the same module over the kernel's, in one process.
//!
//! `bench-net` is a plain std program for wasip2, `bench-net-p3` the same for WASI 0.3. Server and client run once as two modules of a
//! pod, and once in a plain embedding of wasmtime-wasi with the host's sockets; same engine settings, same number of threads; the
//! client measures. Goals: DESIGN.md, "Figures to reach".
//!
//! `cargo bench --bench network -- --minute` measures something else: a thousand connections per second for a minute, and what
//! memory they leave. `-- --only connect` repeats one case without the peer, for a profiler.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

mod common;

use anyhow::Context as _;

use common::Options;
use common::guests::{self, Host, Plan};
use common::host_only::{self, Work};
use common::memory::Memory;
use common::peer::{Code, Peer, Started};
use common::report::{Cell, Report, Table};
use common::stats::{median, spread};
use podling::net::PodNet;
use podling::runtime::{Artifact, RunHandle};

const ROUNDS: usize = 7;

/// The guests, with the version of WASI each is for.
const GUESTS: [(&str, &str); 2] = [("0.2", "bench-net"), ("0.3", "bench-net-p3")];

/// One thing to measure.
struct Case {
    what: &'static str,
    unit: &'static str,
    /// The client's arguments; the last one is the amount of work.
    words: &'static [&'static str],
    amount: u64,
    /// Where the result is in the client's JSON, and what to multiply it with.
    field: &'static str,
    scale: f64,
    goal: Goal,
}

enum Goal {
    /// At least so many times as much as the peer.
    More(f64),
    /// At most so much of the peer's.
    Part(f64),
    None,
}

const CASES: [Case; 6] = [
    Case {
        what: "throughput, 64 KiB writes",
        unit: "MiB/s",
        words: &["throughput", "65536"],
        amount: 1 << 30,
        field: "mibPerSecond",
        scale: 1.0,
        goal: Goal::More(5.0),
    },
    Case {
        what: "throughput, 4 KiB writes",
        unit: "MiB/s",
        words: &["throughput", "4096"],
        amount: 512 << 20,
        field: "mibPerSecond",
        scale: 1.0,
        goal: Goal::None,
    },
    Case {
        what: "throughput, 256 B writes",
        unit: "MiB/s",
        words: &["throughput", "256"],
        amount: 32 << 20,
        field: "mibPerSecond",
        scale: 1.0,
        goal: Goal::None,
    },
    Case {
        what: "round trip of 64 B, mean",
        unit: "µs",
        words: &["pingpong", "64"],
        amount: 20_000,
        field: "nanosecondsEach",
        scale: 1e-3,
        goal: Goal::Part(5.0),
    },
    Case {
        what: "round trip of 64 B, p99",
        unit: "µs",
        words: &["pingpong", "64"],
        amount: 20_000,
        field: "p99",
        scale: 1e-3,
        goal: Goal::None,
    },
    Case {
        what: "connect and close",
        unit: "µs",
        words: &["connect"],
        amount: 2_000,
        field: "nanosecondsEach",
        scale: 1e-3,
        goal: Goal::Part(15.0),
    },
];

fn main() -> anyhow::Result<()> {
    let options = Options::from_args();
    // As in the daemon, which has one: without any, each span of a host call is offered to the `log` crate, on both sides.
    tracing::subscriber::set_global_default(tracing::subscriber::NoSubscriber::default())?;
    let mut report = Report::new("network", options.json);
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).max(2);
    if options.minute {
        report.table(control.block_on(minute(cores, options))?);
        report.finish();
        return Ok(());
    }
    if let Some(word) = options.only {
        return control.block_on(profile(cores, word));
    }
    for (threads, note) in [(cores, "as the daemon runs"), (1, "no parallelism, no migration")] {
        for (version, guest) in GUESTS {
            let title =
                format!("Two modules of a pod, WASI {version}, {threads} guest thread(s): {note}");
            report.table(control.block_on(compare(title, guest, threads, options))?);
        }
    }
    report.table(without_guests(cores, options)?);
    report.finish();
    Ok(())
}

/// Measures all cases on both sides.
async fn compare(
    title: String,
    guest: &'static str,
    threads: usize,
    options: Options,
) -> anyhow::Result<Table> {
    let ours = Ours::start(guest, threads).await?;
    let theirs = Theirs::start(guest, threads)?;
    let head = ["", "podling", "kernel", "ratio", "goal", "reached", "spread"];
    let mut table = Table::new(title, &head);
    for case in &CASES {
        let amount = if options.quick { case.amount / 10 } else { case.amount };
        let amount = amount.to_string();
        let mut words = case.words.to_vec();
        words.push(&amount);
        let (mut a, mut b) = (vec![], vec![]);
        for round in 0..options.rounds(ROUNDS) {
            // Each goes first as often as the other.
            if round % 2 == 0 {
                a.push(case.read(&ours.ask(&words).await?)?);
                b.push(case.read(&theirs.ask(&words).await?)?);
            } else {
                b.push(case.read(&theirs.ask(&words).await?)?);
                a.push(case.read(&ours.ask(&words).await?)?);
            }
        }
        table.row(case.row(&a, &b));
    }
    table.note("medians of alternating rounds; spread: largest over smallest of podling's rounds");
    ours.end().await?;
    theirs.end().await?;
    Ok(table)
}

/// Goes on with one case for some seconds in each version, and prints what each round measured.
async fn profile(threads: usize, word: &str) -> anyhow::Result<()> {
    const ROUNDS: u32 = 20;
    for (version, guest) in GUESTS {
        let ours = Ours::start(guest, threads).await?;
        for case in CASES.iter().filter(|case| case.words[0] == word) {
            let amount = (case.amount * 5).to_string();
            let mut words = case.words.to_vec();
            words.push(&amount);
            for _ in 0..ROUNDS {
                let value = case.read(&ours.ask(&words).await?)?;
                println!("WASI {version}, {}: {value:.2} {}", case.what, case.unit);
            }
        }
        ours.end().await?;
    }
    Ok(())
}

/// Connections of one second, and seconds of warm-up before what is counted.
const EACH_SECOND: &str = "1000";
const WARM_UP: u32 = 10;

/// A thousand connections per second for a minute, and what memory they leave.
async fn minute(threads: usize, options: Options) -> anyhow::Result<Table> {
    let title = "1,000 connections per second for a minute: memory after warm-up and at the end";
    let head =
        ["", "after warm-up (KiB)", "at the end (KiB)", "more (KiB)", "goal", "reached", "late"];
    let mut table = Table::new(title.to_owned(), &head);
    let seconds = if options.quick { 6 } else { 60 };
    for (version, guest) in GUESTS {
        let ours = Ours::start(guest, threads).await?;
        let mut clock = tokio::time::interval(std::time::Duration::from_secs(1));
        let (mut before, mut late) = ((0, 0), 0);
        for second in 0..WARM_UP + seconds {
            if second == WARM_UP {
                before = Memory::now()?.heap_and_all();
            }
            let due = clock.tick().await;
            ours.ask(&["connect", EACH_SECOND]).await?;
            late += u32::from(due.elapsed() > std::time::Duration::from_secs(1));
        }
        let after = Memory::now()?.heap_and_all();
        ours.end().await?;
        for (what, before, after) in
            [("allocator's", before.0, after.0), ("all of the process", before.1, after.1)]
        {
            #[allow(clippy::cast_precision_loss, reason = "kibibytes of one process")]
            let cell = |bytes: u64| Cell::Number(bytes as f64 / 1024.0, 0);
            table.row(vec![
                format!("WASI {version}, {what}").into(),
                cell(before),
                cell(after),
                cell(after.saturating_sub(before)),
                "≤ 1024".into(),
                yes(after.saturating_sub(before) <= 1 << 20).into(),
                format!("{late} of {} s", WARM_UP + seconds).into(),
            ]);
        }
    }
    table.note("late: seconds whose thousand connections took longer than the second");
    Ok(table)
}

/// The same two networks with both ends in the host.
fn without_guests(threads: usize, options: Options) -> anyhow::Result<Table> {
    let workers =
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let title = format!("For comparison, two tasks of the host, {threads} threads, no WebAssembly");
    let mut table = Table::new(title, &["", "podling", "kernel", "ratio"]);
    let part = if options.quick { 10 } else { 1 };
    let cases = [
        ("throughput, 64 KiB writes (MiB/s)", Work::Throughput(65536, (1 << 30) / part), true),
        ("throughput, 4 KiB writes (MiB/s)", Work::Throughput(4096, (1 << 29) / part), true),
        ("round trip of 64 B, mean (µs)", Work::PingPong(64, 20_000), false),
    ];
    for (what, work, more) in cases {
        let (mut a, mut b) = (vec![], vec![]);
        for _ in 0..options.rounds(ROUNDS) {
            a.push(workers.block_on(async { tokio::spawn(host_only::ours(work)).await })??);
            b.push(workers.block_on(async { tokio::spawn(host_only::kernel(work)).await })??);
        }
        let (a, b) = (median(&a), median(&b));
        let decimals = if more { 0 } else { 2 };
        let ratio = if more { format!("{:.1} ×", a / b) } else { format!("1/{:.1}", b / a) };
        table.row(vec![
            what.into(),
            Cell::Number(a, decimals),
            Cell::Number(b, decimals),
            ratio.into(),
        ]);
    }
    Ok(table)
}

impl Case {
    fn read(&self, output: &[u8]) -> anyhow::Result<f64> {
        let line = guests::json_line(output)?;
        let value = line.get(self.field).and_then(serde_json::Value::as_f64);
        Ok(value.with_context(|| format!("no {} in {line}", self.field))? * self.scale)
    }

    fn row(&self, ours: &[f64], theirs: &[f64]) -> Vec<Cell> {
        let (a, b) = (median(ours), median(theirs));
        let more = self.unit == "MiB/s";
        let ratio = if more { a / b } else { b / a };
        let (goal, reached) = match self.goal {
            Goal::More(times) => (format!("≥ {times} ×"), yes(ratio >= times)),
            Goal::Part(part) => (format!("≤ 1/{part}"), yes(ratio >= part)),
            Goal::None => (String::new(), String::new()),
        };
        let ratio = if more { format!("{ratio:.1} ×") } else { format!("1/{ratio:.1}") };
        let decimals = if more { 0 } else { 2 };
        vec![
            format!("{} ({})", self.what, self.unit).into(),
            Cell::Number(a, decimals),
            Cell::Number(b, decimals),
            ratio.into(),
            goal.into(),
            reached.into(),
            Cell::Number(spread(ours), 2),
        ]
    }
}

fn yes(reached: bool) -> String {
    if reached { "yes".into() } else { "no".into() }
}

const PORT_OURS: u16 = 5201;

/// Server and clients as modules of one pod.
struct Ours {
    host: Host,
    guest: &'static str,
    artifact: Artifact,
    net: PodNet,
    server: RunHandle,
}

impl Ours {
    async fn start(guest: &'static str, threads: usize) -> anyhow::Result<Self> {
        let host = Host::new(Some(threads))?;
        let artifact = host.prepare(guest, false).await?;
        let net = guests::pod_net();
        let argv = [guest, "server", "5201"];
        let mut plan = Plan::new(&artifact, &argv);
        plan.net = Some((&net, "server"));
        let (server, _) = host.start(plan).await?;
        Ok(Self { host, guest, artifact, net, server })
    }

    async fn ask(&self, words: &[&str]) -> anyhow::Result<Vec<u8>> {
        let mut argv = vec![self.guest, "client"];
        argv.extend(words);
        let env = [("PORT", PORT_OURS.to_string())];
        let mut plan = Plan::new(&self.artifact, &argv);
        plan.env = &env;
        plan.net = Some((&self.net, "client"));
        self.host.run(plan).await
    }

    async fn end(self) -> anyhow::Result<()> {
        self.ask(&["quit"]).await?;
        guests::end(self.server).await
    }
}

/// The same over the host's kernel.
struct Theirs {
    peer: Peer,
    guest: &'static str,
    port: u16,
    server: Started,
}

impl Theirs {
    fn start(guest: &'static str, threads: usize) -> anyhow::Result<Self> {
        let peer = Peer::new(&guests::path(guest), threads, Code::AsPodling)?;
        let port = free_port()?;
        let env = [("HOST", "127.0.0.1".to_owned())];
        let server = peer.start(&[guest, "server", &port.to_string()], &env);
        Ok(Self { peer, guest, port, server })
    }

    async fn ask(&self, words: &[&str]) -> anyhow::Result<Vec<u8>> {
        let mut argv = vec![self.guest, "client"];
        argv.extend(words);
        let env = [("HOST", "127.0.0.1".to_owned()), ("PORT", self.port.to_string())];
        self.peer.start(&argv, &env).output().await
    }

    async fn end(self) -> anyhow::Result<()> {
        self.ask(&["quit"]).await?;
        self.server.output().await.map(drop)
    }
}

/// A port of the host's loopback that was free a moment ago.
fn free_port() -> anyhow::Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr()?.port())
}
