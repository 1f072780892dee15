//! What thousands of connections between two modules leave: nothing, neither on the host nor on their accounts.
//!
//! The thousand connections a second for a minute, bounded in number and not in time: memory that each left behind would show
//! after a few thousand as well.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use podling::net::{NetConfig, PodNet};
use podling::runtime::{Network, PodAccount, Run, RunHandle, RunLimits, Runtime, Stdin, Usage};
use podling::spec::{Exit, HttpLimits, StopSignal};

use super::{ALONE, LIVE, Paper};

/// Connections before memory is looked at: what is made at the first use is made by then.
const WARM_UP: &str = "500";

/// Connections of each client after that, and how many clients.
const EACH: &str = "1500";
const CLIENTS: usize = 3;

/// By how much the host's heap may differ then: some 57 bytes a connection, less than the smallest thing that one has.
const LEFT_MAX: usize = 256 << 10;

/// By how much an account may: handles of the connection that was under way when they were counted, pages of stacks.
const ACCOUNT_MAX: u64 = 128 << 10;

/// Longer than a busy machine takes.
const PATIENCE: Duration = Duration::from_secs(300);

struct Pod<'a> {
    runtime: &'a Runtime,
    net: PodNet,
    guest: &'static str,
}

impl Pod<'_> {
    async fn start(&self, member: &str, words: &[&str]) -> (RunHandle, Arc<Paper>) {
        let artifact = self.runtime.prepare(super::guest(self.guest), false).await.unwrap();
        let argv = std::iter::once(self.guest).chain(words.iter().copied()).map(str::to_owned);
        let paper = Arc::new(Paper::default());
        let run = Run {
            name: format!("test/pod/{member}"),
            artifact,
            argv: argv.collect(),
            env: vec![("PORT".to_owned(), "5201".to_owned())],
            working_dir: None,
            mounts: Vec::new(),
            limits: RunLimits::unlimited(),
            http: HttpLimits::default(),
            tcp_ports: Vec::new(),
            pod: PodAccount::unlimited(),
            charge_to: None,
            network: Network::Pod { net: self.net.clone(), member: member.to_owned() },
            stop_signal: StopSignal::Lifecycle,
            stdin: Stdin::Closed,
            logs: Arc::<Paper>::clone(&paper),
        };
        (self.runtime.start(run).await.unwrap(), paper)
    }

    /// A client that opens and closes so many connections, to its end; the most it held at once.
    async fn connect(&self, count: &str) -> u64 {
        let (RunHandle { control, exit }, paper) =
            self.start("client", &["client", "connect", count]).await;
        let exit = tokio::time::timeout(PATIENCE, exit).await;
        control.kill();
        assert_eq!(exit.unwrap(), Exit::Code(0), "{}: {}", self.guest, paper.text());
        let Usage { memory_bytes, memory_peak_bytes, .. } = control.usage();
        assert_eq!(memory_bytes, 0, "it is over");
        memory_peak_bytes
    }

    /// Sockets, bytes under way and ports.
    fn held(&self) -> (usize, usize, (usize, usize)) {
        (self.net.open_sockets(), self.net.buffered_bytes(), self.net.bound_ports())
    }
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let came = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, came).await.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn leave_nothing(runtime: &Runtime, guest: &'static str) {
    let net = PodNet::new(NetConfig::new(Ipv4Addr::new(10, 88, 0, 1)));
    let pod = Pod { runtime, net, guest };
    let (server, _) = pod.start("server", &["server", "5201"]).await;
    eventually("it listens", || pod.net.bound_ports() == (1, 0)).await;
    let peak = pod.connect(WARM_UP).await;
    // The server lets go of the last ones after the client has ended.
    let rests = (1, 0, (1, 0));
    eventually("only its listener is left", || pod.held() == rests).await;
    let (heap, account) = (LIVE.load(Ordering::Relaxed), server.control.usage());
    for _ in 0..CLIENTS {
        let most = pod.connect(EACH).await;
        assert!(most <= peak + ACCOUNT_MAX, "{guest}: {most} after {peak}");
    }
    eventually("only its listener is left", || pod.held() == rests).await;
    eventually("what a run took on the heap is given back", || {
        LIVE.load(Ordering::Relaxed) <= heap + LEFT_MAX
    })
    .await;
    let after = server.control.usage();
    eprintln!(
        "{guest}: heap {heap} then {}, the server's account {} then {}",
        LIVE.load(Ordering::Relaxed),
        account.memory_bytes,
        after.memory_bytes
    );
    assert!(after.memory_bytes <= account.memory_bytes + ACCOUNT_MAX, "{account:?}, {after:?}");
    server.control.kill();
    assert_eq!(tokio::time::timeout(PATIENCE, server.exit).await.unwrap(), Exit::Killed);
    assert_eq!(pod.held(), (0, 0, (0, 0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn thousands_of_connections_leave_nothing_in_0_2_and_0_3() {
    let _alone = ALONE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let runtime = super::runtime(dir.path());
    for guest in ["bench-net", "bench-net-p3"] {
        leave_nothing(&runtime, guest).await;
    }
}
