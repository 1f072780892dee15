//! `podling demo`: broker, node and pod on this machine, for half a minute.
//!
//! Owns: the play's script. Each step is a command that a person would type, run as one; only what they could not type here (a
//! broker, a cable to pull) is in this process. Everything is in one temporary folder, every port on loopback, and all of it is gone at
//! the end, also after Ctrl-C.
//!
//! ```text
//!  podling publish ──────────► broker ◄── cable ◄── podling daemon ──► greenhouse ──► 127.0.0.1:PORT
//!  podling fleet get           (this process)
//! ```

mod broker;
mod cable;

use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::clock::{Clock, Timestamp};

use super::Out;
use super::args::DemoArgs;

use broker::Broker;
use cable::Cable;

const NODE: &str = "gw-demo";
const POD: &str = "greenhouse";
const TENANT: &str = "demo";

/// The example of the README, and its modules.
const MANIFEST: &str = include_str!("../../manifests/greenhouse.yaml");
const MODULES: [(&str, &[u8]); 3] = [
    ("refresher", include_bytes!("../../wasm-examples/built/refresher.wasm")),
    ("sensor", include_bytes!("../../wasm-examples/built/sensor.wasm")),
    ("web", include_bytes!("../../wasm-examples/built/web.wasm")),
];

/// How long the daemon, a reading, or a reconnection may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at something.
const LOOK: Duration = Duration::from_millis(200);

/// The daemon's pods get their grace; then it is killed.
const GRACE: Duration = Duration::from_secs(8);

/// Readings that are shown while the cable is out.
const READINGS: usize = 3;

/// Lines of the daemon's log that are shown when something went wrong.
const LOG_LINES: usize = 20;

pub(super) fn run(args: &DemoArgs, out: &mut Out) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start")?;
    let outcome = runtime.block_on(async {
        let stage = Stage::build().await?;
        let played = tokio::select! {
            played = Box::pin(stage.play(out)) => played,
            signal = tokio::signal::ctrl_c() => {
                signal.context("cannot listen for signals")?;
                Err(anyhow::anyhow!("interrupted"))
            }
        };
        let played = match played {
            Err(error) => Err(error.context(stage.last_words())),
            Ok(()) => Ok(()),
        };
        stage.clear(args.keep).await;
        played
    });
    outcome.map(|()| ExitCode::SUCCESS)
}

/// A folder of this run's own.
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let serial = uuid::Uuid::new_v4().simple().to_string();
        let path = std::env::temp_dir().join(format!("podling-demo-{}", &serial[..8]));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(Self(path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let path = self.path(name);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
        }
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Everything that the play needs, and that must go when it is over.
struct Stage {
    folder: Folder,
    program: PathBuf,
    clock: Clock,
    began: Timestamp,
    broker: Broker,
    cable: Cable,
    /// Of the pod, on this machine.
    port: u16,
    daemon: tokio::sync::Mutex<Option<Child>>,
}

impl Stage {
    async fn build() -> anyhow::Result<Self> {
        let clock = Clock::start();
        let folder = Folder::new()?;
        for (name, module) in MODULES {
            folder.write(&format!("wasm-examples/built/{name}.wasm"), module)?;
        }
        let broker = Broker::start().await.context("cannot start the broker")?;
        let cable = Cable::lay(broker.port()).await.context("cannot listen on loopback")?;
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
        let port = free.local_addr()?.port();
        drop(free);
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let manifest = MANIFEST.replace("hostPort: 8080", &format!("hostPort: {port}"));
        folder.write("manifests/greenhouse.yaml", manifest.as_bytes())?;
        let daemon = tokio::sync::Mutex::new(None);
        Ok(Self { folder, program, clock, began: clock.now(), broker, cable, port, daemon })
    }

    /// The play.
    async fn play(&self, out: &mut Out) -> anyhow::Result<()> {
        let here = self.folder.0.display();
        say(
            out,
            &format!(
                "A broker, a node and a pod on this machine, in {here}; all of it goes at the end."
            ),
        )?;

        title(
            out,
            "1. Keys: a controller signs what it publishes, and the node trusts its key and no other.",
        )?;
        self.command(out, &["key", "generate", "controller.pem"]).await?;
        self.command_into(out, &["key", "anchor", "controller.pem"], "anchor.yaml").await?;

        title(
            out,
            &format!(
                "2. A broker on 127.0.0.1:{}, and a node that connects to it.",
                self.broker.port()
            ),
        )?;
        self.start_daemon(out).await?;
        let first = self.node_conn(0).await?;

        title(out, "3. A pod of three modules, published with its modules through the broker.")?;
        let publish =
            ["publish", "-f", "manifests/greenhouse.yaml", "--node", NODE, "--min-ready", "1s"];
        self.command(out, &publish).await?;
        let page = self.reading().await?;
        say(out, &format!("   its page on http://127.0.0.1:{}/ says: {page}", self.port))?;
        self.command(out, &["fleet", "get", "pods"]).await?;

        title(out, "4. The cable between node and broker is pulled. The pod does not notice.")?;
        self.cable.pull();
        let mut last = page;
        for _ in 0..READINGS {
            last = self.next_reading(&last).await?;
            say(out, &format!("   {:>4.1} s  {last}", self.seconds()))?;
        }

        title(
            out,
            "5. The cable is back. The node says again what is true, and no pod was restarted.",
        )?;
        self.cable.plug();
        let again = self.node_conn(first + 1).await?;
        say(out, &format!("   the node's connection {first} is over, this is its {again}"))?;
        self.command(out, &["fleet", "get", "nodes", "-o", "wide"]).await?;
        let pods = self.output(&["fleet", "get", "pods", POD, "-o", "json"]).await?;
        let pods: Value = serde_json::from_slice(&pods).context("fleet get printed no JSON")?;
        let containers = pods["items"][0]["containers"].as_array().cloned().unwrap_or_default();
        let restarts: i64 = containers.iter().filter_map(|c| c["restarts"].as_i64()).sum();
        ensure!(restarts == 0, "{restarts} restarts of modules while the cable was out");

        title(
            out,
            "6. And away with it: a signed tombstone, since nothing that is merely absent deletes a pod.",
        )?;
        self.command(out, &["publish", "--delete", POD, "--node", NODE]).await?;
        say(out, &format!("\nThat took {:.0} s. What to try next:\n", self.seconds()))?;
        out.text(NEXT)?;
        out.flush()
    }

    fn seconds(&self) -> f64 {
        self.clock.now().since(self.began).as_secs_f64()
    }

    /// Starts the node, and waits until it answers.
    async fn start_daemon(&self, out: &mut Out) -> anyhow::Result<()> {
        let here = self.folder.0.display();
        let settings = format!(
            "mqtt:\n  urls: ['mqtt://127.0.0.1:{}']\n  tenant: {TENANT}\n  keepAliveSeconds: 5\n  trustAnchors: ['{here}/anchor.yaml']\n",
            self.cable.port()
        );
        self.folder.write("node.yaml", settings.as_bytes())?;
        let controller = format!(
            "urls: ['mqtt://127.0.0.1:{}']\ntenant: {TENANT}\nsigningKey: controller.pem\n",
            self.broker.port()
        );
        self.folder.write("controller.yaml", controller.as_bytes())?;
        say(out, "$ podling daemon --config node.yaml &")?;
        let log = File::create(self.folder.path("daemon.log")).context("cannot write a log")?;
        let mut command = self.program(&["daemon", "--config", "node.yaml", "--node-name", NODE]);
        command.args(["--state-dir", "state", "--socket", "podling.sock"]);
        if std::env::var_os("PODLING_CACHE_DIR").is_none() {
            command.args(["--cache-dir", "cache"]);
        }
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("cannot start the daemon")?;
        *self.daemon.lock().await = Some(child);
        Ok(())
    }

    /// This program in the play's folder, with no setting of its user's.
    fn program(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(&self.folder.0).args(args).stdin(Stdio::null()).kill_on_drop(true);
        for name in ["PODLING_SOCKET", "PODLING_CONFIG", "PODLING_MANIFESTS", "PODLING_STATE_DIR"] {
            command.env_remove(name);
        }
        command.env("PODLING_CONTROLLER", "controller.yaml");
        command.env("PODLING_STATE_DIR", self.folder.path("laptop"));
        command
    }

    /// Shows a command and runs it; its words go where ours go.
    async fn command(&self, out: &mut Out, args: &[&str]) -> anyhow::Result<()> {
        say(out, &format!("$ podling {}", args.join(" ")))?;
        let status = self.program(args).status().await;
        let status = status.with_context(|| format!("cannot run podling {}", args[0]))?;
        ensure!(status.success(), "podling {} ended with {status}", args.join(" "));
        Ok(())
    }

    async fn command_into(&self, out: &mut Out, args: &[&str], file: &str) -> anyhow::Result<()> {
        say(out, &format!("$ podling {} > {file}", args.join(" ")))?;
        let output = self.output(args).await?;
        self.folder.write(file, &output)
    }

    /// What a command prints.
    async fn output(&self, args: &[&str]) -> anyhow::Result<Vec<u8>> {
        let output = self.program(args).output().await;
        let output = output.with_context(|| format!("cannot run podling {}", args[0]))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "podling {}: {}", args.join(" "), said.trim());
        Ok(output.stdout)
    }

    /// Waits until the node says that it is connected, for the given time at least.
    async fn node_conn(&self, least: u64) -> anyhow::Result<u64> {
        let until = self.clock.now().plus(PATIENCE);
        loop {
            self.check_daemon().await?;
            let nodes = self.output(&["fleet", "get", "nodes", "-o", "json"]).await?;
            let nodes: Value =
                serde_json::from_slice(&nodes).context("fleet get printed no JSON")?;
            let node = &nodes["items"][0];
            let conn = node["online"]["conn"].as_u64().unwrap_or(0);
            // Its own status as well: it is published after the birth.
            let is_told = node["conn"].as_u64() == Some(conn);
            if conn > 0 && conn >= least && is_told && node["online"]["online"] == true {
                return Ok(conn);
            }
            self.pause(until, "the node to connect").await?;
        }
    }

    async fn check_daemon(&self) -> anyhow::Result<()> {
        if let Some(daemon) = &mut *self.daemon.lock().await
            && let Some(status) = daemon.try_wait()?
        {
            bail!("the daemon ended with {status}");
        }
        Ok(())
    }

    async fn pause(&self, until: Timestamp, what: &str) -> anyhow::Result<()> {
        ensure!(self.clock.now() < until, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(LOOK).await;
        Ok(())
    }

    /// What the pod's page says now.
    async fn reading(&self) -> anyhow::Result<String> {
        self.next_reading("").await
    }

    /// The first reading that is another than the last: the modules work.
    async fn next_reading(&self, last: &str) -> anyhow::Result<String> {
        let until = self.clock.now().plus(PATIENCE);
        loop {
            let text = get(self.port, "/readings.json").await.ok();
            let reading = text.as_deref().and_then(latest).filter(|reading| reading != last);
            if let Some(reading) = reading {
                return Ok(reading);
            }
            self.pause(until, "a reading from the pod").await?;
        }
    }

    /// The end of the daemon's log, for whoever must find out.
    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.folder.path("daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(LOG_LINES);
        format!(
            "the demo did not come to its end. The daemon's last words:\n{}\n",
            lines[from..].join("\n")
        )
    }

    /// Ends the daemon and the broker, and removes everything.
    async fn clear(self, keep: bool) {
        if let Some(mut daemon) = self.daemon.lock().await.take() {
            if let Some(pid) = daemon.id().and_then(|id| i32::try_from(id).ok())
                && let Some(pid) = rustix::process::Pid::from_raw(pid)
            {
                // It may have ended already.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            if tokio::time::timeout(GRACE, daemon.wait()).await.is_err() {
                let _ = daemon.kill().await;
            }
        }
        self.broker.stop().await;
        let path = &self.folder.0;
        if keep {
            let _ = writeln!(io::stderr(), "what is left is in {}", path.display());
        } else if let Err(error) = remove(path) {
            super::complain(&format!("Warning: cannot remove {}: {error}", path.display()));
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    std::fs::remove_dir_all(path)
}

fn say(out: &mut Out, text: &str) -> anyhow::Result<()> {
    out.line(text)?;
    // What a command prints next goes past this buffer.
    out.flush()
}

fn title(out: &mut Out, text: &str) -> anyhow::Result<()> {
    say(out, &format!("\n{text}"))
}

/// One GET; its body on one line.
async fn get(port: u16, path: &str) -> io::Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let ask = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).await?;
        let mut answer = vec![];
        stream.take(64 * 1024).read_to_end(&mut answer).await?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), exchange).await??;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(body.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The newest of the readings, in words.
fn latest(readings: &str) -> Option<String> {
    let readings: Value = serde_json::from_str(readings).ok()?;
    let latest = &readings["latest"];
    let (number, degrees) = (latest["sequence"].as_u64()?, latest["temperature"].as_f64()?);
    let humidity = latest["humidity"].as_f64()?;
    Some(format!("reading {number}: {degrees:.1} degrees, {humidity:.0} % humidity"))
}

/// What a person does next.
const NEXT: &str = "  podling play manifests/greenhouse.yaml     the same pod without a broker: watch it, crash it, Ctrl-C
  podling check FILE                         what podling thinks of a manifest of yours
  docs/publish.md                            a real broker, with TLS and certificates; groups; secrets
  docs/configuration.md                      a gateway that runs what you publish, also after a power cut
";
