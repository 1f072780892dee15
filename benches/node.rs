//! What a pod costs the node: time from its durable commit to running modules, and memory at rest.
//!
//! Everything is the daemon's own: store, reconciler, workers, runtime, in a temporary state folder; only the sockets are left out.
//! Each pod has two modules (`sleep forever`), already compiled. *Durable* is when the board shows the pod, which is done right after the
//! commit; *started* when its status says that both containers run; *heard* when both have printed their first line.
//! Goals: DESIGN.md, "Figures to reach".

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

mod common;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use common::Options;
use common::report::{Cell, Report, Table};
use common::stats::{median, percentile};
use common::{guests, memory};
use podling::board::logs::{LogCursor, LogSource as _};
use podling::board::{Board, Kind, Object, Query, WatchEventType};
use podling::daemon::config::{Config, ConfigFile, Places};
use podling::daemon::node::NodeParts;
use podling::pod::NodeContext;
use podling::reconciler::handle::{Deletion, Write};
use podling::reconciler::records::RecordKeeper;
use podling::reconciler::{NodeHandle, NodeTask, Offered, intake};
use podling::source::folder::FolderFile;
use podling::spec::{ContainerName, ImageRef, PodKey, Source};
use podling::store::Store;

/// Threads of the control plane, as the daemon has.
const CONTROL_THREADS: usize = 2;

const STARTS: usize = 100;
const CROWD: usize = 100;
const BIG_CROWD: usize = 500;

/// Makes this program one of those processes.
const CROWD_OPTION: &str = "--pods";

/// How many pods at once; how both figures grow.
const CROWDS: [usize; 4] = [10, 100, BIG_CROWD, 1000];

/// How long anything may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// At rest: timers of the start have fired, idle threads have gone.
const REST: Duration = Duration::from_secs(3);

const IMAGE: &str = "bench/sleep:1";
const NAMESPACE: &str = "default";
const CONTAINERS: [&str; 2] = ["one", "two"];

fn main() -> ExitCode {
    // The node compiles in a child process, which is this program again.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|word| word == "compile") {
        return podling::runtime::compile_child(&arguments.collect::<Vec<_>>());
    }
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> anyhow::Result<()> {
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()?;
    let mut arguments = std::env::args().skip_while(|argument| argument != CROWD_OPTION);
    if let Some(count) = arguments.nth(1) {
        return control.block_on(crowd(count.parse()?));
    }
    let options = Options::from_args();
    let mut report = Report::new("node", options.json);
    control.block_on(few(&mut report, options))?;
    many(&mut report, options)?;
    report.finish();
    Ok(())
}

/// Starts alone and among a hundred, and what the hundred take.
async fn few(report: &mut Report, options: Options) -> anyhow::Result<()> {
    let node = Node::open().await?;
    let mut starts = Table::new(
        "Pod of two cached modules, from the API (ms)",
        &["", "p50", "p99", "largest", "goal"],
    );
    // Warm: the module is compiled and loaded, all threads exist.
    for n in 0..3 {
        node.start_and_delete(&format!("warm-{n}")).await?;
    }
    let alone = node.starts(options.rounds(STARTS), "alone").await?;
    tokio::time::sleep(REST).await;
    let before = memory::Memory::now()?;
    let crowd = if options.quick { CROWD / 10 } else { CROWD };
    for n in 0..crowd {
        node.create(&format!("crowd-{n}")).await?;
    }
    node.running(crowd).await?;
    tokio::time::sleep(REST).await;
    let after = memory::Memory::now()?;
    let among = node.starts(options.rounds(STARTS), "among").await?;
    for (times, among) in [(&alone, "no other pods"), (&among, "100 pods running")] {
        let part = |of: fn(&Times) -> f64| times.iter().map(of).collect::<Vec<f64>>();
        let mut row = |what: &str, samples: &[f64], goal: &str| {
            starts.row(vec![
                format!("{what}, {among}").into(),
                Cell::Number(median(samples), 2),
                Cell::Number(percentile(samples, 99), 2),
                Cell::Number(percentile(samples, 100), 2),
                goal.into(),
            ]);
        };
        row("request → durable", &part(|t| t.durable), "");
        row("durable → both started", &part(|t| t.started), "p99 ≤ 5");
        row("durable → both heard", &part(|t| t.heard), "");
    }
    let raw: Vec<f64> =
        (0..options.rounds(STARTS)).map(|_| node.fsync()).collect::<Result<_, _>>()?;
    starts.row(vec![
        "a bare write + fsync of 2 KiB on this disk".into(),
        Cell::Number(median(&raw), 2),
        Cell::Number(percentile(&raw, 99), 2),
        Cell::Number(percentile(&raw, 100), 2),
        "".into(),
    ]);
    report.table(starts);
    report.table(memory::table(&before, &after, crowd));
    node.close().await
}

/// So many pods at once, as at boot. Each number in a process of its own, whose heap has no holes from another.
fn many(report: &mut Report, options: Options) -> anyhow::Result<()> {
    let mut growth = Table::new(
        "Pods of two cached modules, all at once from the folder; KiB a pod of PSS",
        &[
            "pods",
            "running (s)",
            "ms a pod",
            "beyond linear",
            "linear",
            "stacks",
            "heap",
            "files",
            "goal",
        ],
    );
    for count in if options.quick { &CROWDS[..2] } else { &CROWDS[..] } {
        let program = std::env::current_exe()?;
        let output = std::process::Command::new(program)
            .args([CROWD_OPTION, &count.to_string()])
            .stderr(std::process::Stdio::inherit())
            .output()?;
        anyhow::ensure!(output.status.success(), "{count} pods: {}", output.status);
        let found: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let number = |name: &str| found[name].as_f64().unwrap_or(f64::NAN);
        let mut row = vec![
            count.to_string().into(),
            Cell::Number(number("seconds"), 2),
            Cell::Number(number("seconds") * 1e3 / f64::from(u32::try_from(*count)?), 2),
            Cell::Number(number("beyond"), 1),
        ];
        let kinds = ["linear memories", "stacks", "host's heap", "files mapped"];
        row.extend(kinds.map(|name| Cell::Number(number(name), 1)));
        row.push(if *count == BIG_CROWD { "≤ 10 s, ≤ 1024 KiB beyond" } else { "" }.into());
        growth.row(row);
    }
    report.table(growth);
    Ok(())
}

/// One of these processes: starts `count` pods and prints what it found.
async fn crowd(count: usize) -> anyhow::Result<()> {
    let node = Node::open().await?;
    node.start_and_delete("warm").await?;
    tokio::time::sleep(REST).await;
    let before = memory::Memory::now()?;
    let offered = (0..count).map(offered).collect::<anyhow::Result<Vec<_>>>()?;
    let began = Instant::now();
    node.handle.folder(offered).await;
    node.running(count).await?;
    let seconds = began.elapsed().as_secs_f64();
    tokio::time::sleep(REST).await;
    let after = memory::Memory::now()?;
    let (beyond, kinds) = memory::kib_each(&before, &after, count);
    let mut found = json!({ "seconds": seconds, "beyond": beyond });
    for (name, kib) in kinds {
        found[name] = json!(kib);
    }
    println!("{found}");
    node.close().await
}

/// One start, in milliseconds.
struct Times {
    durable: f64,
    started: f64,
    heard: f64,
}

/// A node in this process.
struct Node {
    dir: tempfile::TempDir,
    context: Arc<NodeContext>,
    handle: NodeHandle,
    stop: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Node {
    async fn open() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir().context("make a folder for the node's state")?;
        let config = config(dir.path())?;
        let parts = NodeParts::open(&config)?;
        let (store, loaded, _) = Store::open(&config.state_dir.join("store"))?;
        let store = Arc::new(store);
        let keeper = RecordKeeper::new(Arc::clone(&store));
        let context = parts.context(Arc::<RecordKeeper>::clone(&keeper), 1);
        let image = podling::image::parse_reference(IMAGE, None)?;
        load(&context, &image)?;
        let (mut task, handle) =
            NodeTask::new(Arc::clone(&context), Some(store), Some(Arc::clone(&keeper)));
        task.restore(loaded);
        let stop = CancellationToken::new();
        let tasks =
            vec![tokio::spawn(keeper.run(stop.clone())), tokio::spawn(task.run(stop.clone()))];
        Ok(Self { dir, context, handle, stop, tasks })
    }

    fn board(&self) -> &Board {
        self.handle.board()
    }

    async fn create(&self, name: &str) -> anyhow::Result<()> {
        self.handle.create_pod(pod(name)?, Write::default()).await?;
        Ok(())
    }

    async fn starts(&self, count: usize, name: &str) -> anyhow::Result<Vec<Times>> {
        let mut times = vec![];
        for n in 0..count {
            times.push(self.start_and_delete(&format!("{name}-{n}")).await?);
        }
        Ok(times)
    }

    /// Starts a pod, and when both modules are up, deletes it and waits until it is gone.
    async fn start_and_delete(&self, name: &str) -> anyhow::Result<Times> {
        let key = PodKey::new(NAMESPACE, name);
        let asked = Instant::now();
        let watching = tokio::spawn(watch(self.board().clone(), name.to_owned()));
        self.create(name).await?;
        let heard = self.heard(&key).await?;
        let (durable, started) = watching.await??;
        let how = Deletion { grace: Some(Duration::ZERO), ..Deletion::default() };
        self.handle.delete_pod(key.clone(), how).await?;
        self.gone(&key).await?;
        let milliseconds =
            |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
        Ok(Times {
            durable: milliseconds(asked, durable),
            started: milliseconds(durable, started),
            heard: milliseconds(durable, heard),
        })
    }

    /// Waits until both modules have printed something.
    async fn heard(&self, key: &PodKey) -> anyhow::Result<Instant> {
        let logs = self.handle.logs(key).context("no logs of a pod that was accepted")?;
        let mut begun = logs.changed();
        for container in CONTAINERS.map(ContainerName::new) {
            let ring = loop {
                match logs.get(&container, false) {
                    Some(ring) => break ring,
                    None => tokio::time::timeout(PATIENCE, begun.changed()).await??,
                }
            };
            let mut changed = ring.changed();
            while ring.read(LogCursor::START, 1).lines.is_empty() {
                tokio::time::timeout(PATIENCE, changed.changed()).await??;
            }
        }
        Ok(Instant::now())
    }

    async fn gone(&self, key: &PodKey) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.board().pod(key).is_some() {
            anyhow::ensure!(Instant::now() < deadline, "{key} does not go");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Waits until so many pods run whole.
    async fn running(&self, count: usize) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let pods = self.board().list(&Query::all(Kind::Pod)).items;
            let running = pods.iter().filter_map(Object::as_pod).filter(|pod| runs(pod)).count();
            if running >= count {
                return Ok(());
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "{running} of {count} pods run; one says {:?}",
                pods.iter()
                    .filter_map(Object::as_pod)
                    .find(|pod| !runs(pod))
                    .map(|pod| &pod.status)
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What the disk takes for a write like a commit's, milliseconds.
    fn fsync(&self) -> anyhow::Result<f64> {
        let began = Instant::now();
        let mut file = std::fs::File::create(self.dir.path().join("probe"))?;
        std::io::Write::write_all(&mut file, &[0x20; 2048])?;
        file.sync_all()?;
        Ok(began.elapsed().as_secs_f64() * 1e3)
    }

    async fn close(self) -> anyhow::Result<()> {
        self.stop.cancel();
        for task in self.tasks {
            task.await?;
        }
        self.context.runtime.shutdown(PATIENCE).await;
        Ok(())
    }
}

fn config(dir: &Path) -> anyhow::Result<Config> {
    let file = ConfigFile {
        node_name: Some("bench".into()),
        state_dir: Some(dir.join("state")),
        cache_dir: Some(dir.join("cache")),
        socket: Some(dir.join("podling.sock")),
        max_pods: Some(podling::limits::PODS_MAX),
        ..ConfigFile::default()
    };
    Ok(file.resolve(&Places::of_this_process())?)
}

fn load(context: &NodeContext, image: &ImageRef) -> anyhow::Result<()> {
    let now = context.clock.now();
    context.images.load(&guests::path("sleep"), image, now, &mut |_, _| {})?;
    Ok(())
}

fn manifest(name: &str) -> serde_json::Value {
    let container = |name| json!({ "name": name, "image": IMAGE, "args": ["forever"] });
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": CONTAINERS.map(container),
        },
    })
}

fn pod(name: &str) -> anyhow::Result<Pod> {
    Ok(serde_json::from_value(manifest(name))?)
}

/// The same as a file of the watched folder.
fn offered(n: usize) -> anyhow::Result<Offered> {
    let path = Path::new("manifests").join(format!("{n:03}.json"));
    let content = serde_json::to_vec(&manifest(&format!("pod-{n:03}")))?;
    let file = FolderFile { path: path.clone(), content: Ok(content.into()) };
    let offered = intake::read_file(&file, &Source::Folder(path), "bench");
    anyhow::ensure!(offered.result.is_ok(), "the manifest is refused: {:?}", offered.result.err());
    Ok(offered)
}

/// When the pod came, and when all of it ran.
async fn watch(board: Board, name: String) -> anyhow::Result<(Instant, Instant)> {
    let since = Some(board.version());
    let mut watch = board.watch(Query::all(Kind::Pod), since)?;
    let mut came = None;
    loop {
        tokio::time::timeout(PATIENCE, watch.changed()).await.context("it did not start")?;
        for step in watch.next_batch(64)? {
            let Some(pod) = step.object.as_pod() else { continue };
            if pod.metadata.name.as_ref() != Some(&name) || step.event == WatchEventType::Deleted {
                continue;
            }
            let came = *came.get_or_insert_with(Instant::now);
            if runs(pod) {
                return Ok((came, Instant::now()));
            }
        }
    }
}

/// Whether all containers of a pod are running.
fn runs(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.is_some_and(|all| {
        all.len() == CONTAINERS.len()
            && all.iter().all(|one| one.state.as_ref().is_some_and(|state| state.running.is_some()))
    })
}
