//! The hands with a real runtime, network and volumes: what must be gone when something ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as corev1;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::context::NoKeeper;
use super::hands::{Hands, Report};
use super::host_port::{PublishedPorts, Shelf};
use super::logs::PodLogs;
use super::sandbox::Sandbox;
use super::{NodeContext, PublishedPod, Worker, WorkerHandle};
use crate::board::{Kind, Object, Query, wire_time};
use crate::clock::Timestamp;
use crate::lifecycle::{Action, Event, Restored, RestoredEnd, RunId, StopReason};
use crate::spec::{
    ContainerName, Handler, Hook, Pod, PodUid, Port, Protocol, PullPolicy, RestartPolicy, Source,
    Volume, VolumeSource,
};
use crate::testkit::node::{TestNode, guest};
use crate::testkit::pods::{self, Tweak as _};
use crate::testkit::ports;
use crate::testkit::registry::Registry;

/// What every wait gives up after.
const PATIENCE: Duration = Duration::from_secs(60);

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited for {what}"));
}

fn worker(node: &Arc<NodeContext>, pod: Pod) -> (WorkerHandle, mpsc::Receiver<PodUid>) {
    worker_of(node, pod, None)
}

fn worker_of(
    node: &Arc<NodeContext>,
    pod: Pod,
    restored: Option<Restored>,
) -> (WorkerHandle, mpsc::Receiver<PodUid>) {
    let mut object = corev1::Pod::default();
    object.metadata.name = Some(pod.key.name.to_string());
    object.metadata.namespace = Some(pod.key.namespace.to_string());
    object.metadata.uid = Some(pod.uid.to_string());
    let published =
        PublishedPod::new(node.board.clone(), node.fabric.clone(), vec![], Arc::new(pod), object);
    let (finished, gone) = mpsc::channel(1);
    (Worker::spawn(node, published, restored, finished), gone)
}

fn status(node: &NodeContext, worker: &WorkerHandle) -> corev1::PodStatus {
    node.board.pod(&worker.key).unwrap().status.clone().unwrap()
}

fn state(node: &NodeContext, worker: &WorkerHandle) -> corev1::ContainerState {
    let containers = status(node, worker).container_statuses.unwrap_or_default();
    containers.first().and_then(|c| c.state.clone()).unwrap_or_default()
}

fn of_folder(pod: &mut Pod) {
    pod.source = Source::Folder("/etc/podling/manifests/a.yaml".into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_ends_with_the_run_it_belongs_to() {
    let lab = TestNode::new(Arc::new(NoKeeper));
    let node = &lab.context;
    let mut container = guest("c", "sleep", &["0.5"]);
    let command = ["sleep", "forever"].map(str::to_owned).to_vec();
    container.hooks.post_start = Some(Hook::Call(Handler::Exec { command }));
    let pod = pods::pod([container]).tweak(|pod| {
        of_folder(pod);
        pod.restart_policy = RestartPolicy::Never;
    });
    let (worker, _gone) = worker(node, pod);
    until("the end of the pod", || {
        matches!(status(node, &worker).phase.as_deref(), Some("Succeeded" | "Failed"))
    })
    .await;
    until("the end of the hook's instance", || node.runtime.live_runs() == 0).await;
    until("its folders to go", || runs_left(&lab) == 0).await;
}

/// Private folders of runs, of all pods.
fn runs_left(lab: &TestNode) -> usize {
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let pods = lab.dir.path().join("volumes/pods");
    entries(&pods).map(|pod| entries(&pod.path().join("runs")).count()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_does_not_come_about_leaves_no_folder() {
    let lab = TestNode::new(Arc::new(NoKeeper));
    let node = &lab.context;
    // It answers HTTP, and has no port to be served on.
    let pod = pods::pod([guest("c", "handler", &[])]).tweak(|pod| {
        of_folder(pod);
        pod.restart_policy = RestartPolicy::Never;
    });
    let (worker, _gone) = worker(node, pod);
    until("the failure", || status(node, &worker).phase.as_deref() == Some("Failed")).await;
    assert!(lab.dir.path().join("volumes/pods").read_dir().unwrap().next().is_some());
    until("its folders to go", || runs_left(&lab) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_goes_takes_back_what_it_was_fetching() {
    let lab = TestNode::new(Arc::new(NoKeeper));
    // A registry that never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let image = format!("{}/acme/web:1", silent.local_addr().unwrap());
    let pod = pods::pod([pods::regular("c")]).tweak(|pod| {
        pod.containers[0].image = crate::image::parse_reference(&image, None).unwrap();
    });
    let (report, mut reports) = mpsc::channel(8);
    let node = Arc::clone(&lab.context);
    let mut hands = Hands::new(node, Arc::new(pod), PodLogs::new(), report, Arc::default());
    let run = RunId { container: ContainerName::new("c"), attempt: 0 };
    hands.perform(Action::Prepare { run });
    let asked = tokio::time::timeout(PATIENCE, silent.accept()).await.unwrap().unwrap();
    drop(hands);
    let told = async {
        let mut told = vec![];
        while let Some(report) = reports.recv().await {
            told.push(report);
        }
        told
    };
    let told = tokio::time::timeout(PATIENCE, told).await.unwrap();
    let fetching = |report: &Report| matches!(report, Report::Event(Event::Pulling { .. }));
    assert!(told.iter().all(fetching), "nobody heeds what comes of it: {told:?}");
    drop(asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_waits_because_memory_is_tight_says_so_and_goes_on_when_that_is_over() {
    let lab = TestNode::new(Arc::new(NoKeeper));
    let (node, registry) = (&lab.context, Registry::start().await);
    // Nobody has compiled it before: the folder is this test's own.
    let new = lab.dir.path().display();
    let text = format!("(module (func (export \"_start\")) (func (export \"{new}\")))");
    registry.put_image("acme/web", "1", &wat::parse_str(text).unwrap());
    let image = format!("{}/acme/web:1", registry.host());
    node.fetcher.hold(true);
    node.runtime.hold_compiles(true);
    let pod = pods::pod([pods::regular("c")]).tweak(|pod| {
        pod.restart_policy = RestartPolicy::Never;
        pod.containers[0].image = crate::image::parse_reference(&image, None).unwrap();
        pod.containers[0].pull_policy = PullPolicy::IfNotPresent;
    });
    let (worker, _gone) = worker(node, pod);
    let waits = |reason: &str, what: &str| {
        let waiting = state(node, &worker).waiting.unwrap_or_default();
        waiting.reason.as_deref() == Some(reason)
            && waiting.message.is_some_and(|message| message.contains(what))
    };
    until("its image", || waits("ContainerCreating", "waits to be fetched: memory is tight")).await;
    assert!(!registry.log().iter().any(|line| line.contains("/blobs/")));
    node.fetcher.hold(false);
    until("the compiler", || waits("Compiling", "waits to be compiled: memory is tight")).await;
    node.runtime.hold_compiles(false);
    until("its end", || status(node, &worker).phase.as_deref() == Some("Succeeded")).await;
    let tight = |object: &Object| {
        let Object::Event(event) = object else { return None };
        let is_it = event.reason.as_deref() == Some("MemoryIsTight");
        assert!(!is_it || event.type_.as_deref() == Some("Warning"), "{event:?}");
        event.message.clone().filter(|_| is_it)
    };
    let told: Vec<String> =
        node.board.list(&Query::all(Kind::Event)).items.iter().filter_map(tight).collect();
    assert_eq!(told.len(), 2, "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_grace_ends_when_the_module_does() {
    let lab = TestNode::new(Arc::new(NoKeeper));
    let node = &lab.context;
    let pod = pods::pod([guest("c", "sleep", &["forever"])]).tweak(of_folder);
    let (worker, mut gone) = worker(node, pod);
    until("the start", || state(node, &worker).running.is_some()).await;
    worker.stop(Some(Duration::MAX), StopReason::Deleted);
    tokio::time::timeout(PATIENCE, gone.recv()).await.unwrap().unwrap();
    let ended = state(node, &worker).terminated.expect("its end was seen by the worker");
    assert_eq!(ended.exit_code, 143);
}

#[tokio::test]
async fn a_sandbox_that_is_gone_holds_no_port() {
    let lab = TestNode::new(Arc::new(NoKeeper));
    let port = ports::free(Ipv4Addr::LOCALHOST.into()).port();
    let port = |protocol| Port {
        name: None,
        container_port: 80,
        protocol,
        host_port: Some(port),
        host_ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    };
    let mut container = pods::regular("c");
    container.ports = vec![port(Protocol::Tcp), port(Protocol::Udp)];
    let pod = Arc::new(pods::pod([container]));
    let sandbox = Sandbox::set_up(Arc::clone(&lab.context), Arc::clone(&pod)).await.unwrap();
    assert!(PublishedPorts::bind(&pod, &Shelf::default()).await.is_err());
    sandbox.tear_down(false).await;
    drop(PublishedPorts::bind(&pod, &Shelf::default()).await.unwrap());
}

#[tokio::test]
async fn the_ports_of_a_pod_that_is_replaced_stay_open_and_its_next_form_gets_who_came_meanwhile() {
    let lab = TestNode::new(Arc::new(NoKeeper));
    let address = ports::free(Ipv4Addr::LOCALHOST.into());
    let mut container = pods::regular("c");
    container.ports = vec![Port {
        name: None,
        container_port: 80,
        protocol: Protocol::Tcp,
        host_port: Some(address.port()),
        host_ip: Some(address.ip()),
    }];
    let pod = Arc::new(pods::pod([container]));
    let set_up = || Sandbox::set_up(Arc::clone(&lab.context), Arc::clone(&pod));
    let old = set_up().await.unwrap();
    old.tear_down(true).await;
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    drop(old);
    let new = set_up().await.unwrap();
    let member =
        new.net().join("c", crate::net::MemberLimits::default(), Arc::new(crate::net::NoLedger));
    let mut listener = member.listen("0.0.0.0:80".parse().unwrap()).unwrap();
    let accepted = std::future::poll_fn(|cx| listener.poll_accept(cx));
    tokio::time::timeout(PATIENCE, accepted).await.unwrap().unwrap();
    // Its own end, when nothing comes after it, closes them.
    new.tear_down(false).await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    // One that is not replaced after all is closed, too.
    let last = set_up().await.unwrap();
    last.tear_down(true).await;
    lab.context.shelf.forget(&pod.uid);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_config_map_that_changes_while_its_volume_is_set_up_is_not_missed() {
    let lab = TestNode::new(Arc::new(NoKeeper));
    let node = &lab.context;
    let map = |value: &str| -> corev1::ConfigMap {
        serde_yaml::from_str(&format!(
            "metadata: {{name: m, namespace: default}}\ndata: {{key: '{value}'}}"
        ))
        .unwrap()
    };
    node.board.upsert(map("old"));
    let pod = Arc::new(pods::pod([pods::regular("c")]).tweak(|pod| {
        let source = VolumeSource::ConfigMap {
            name: "m".into(),
            items: vec![],
            default_mode: 0o644,
            optional: false,
        };
        pod.volumes = vec![Volume { name: "v".into(), source }];
    }));
    let (reports, _kept) = mpsc::channel(8);
    let mut hands =
        Hands::new(Arc::clone(node), Arc::clone(&pod), PodLogs::new(), reports, Arc::default());
    let sandbox = Sandbox::set_up(Arc::clone(node), pod).await.unwrap();
    node.board.upsert(map("new"));
    hands.refresh_volumes();
    let ready = hands.take(Report::Sandbox(Box::new(sandbox)));
    assert!(ready.is_some());
    let root = lab.dir.path().join("volumes");
    until("the new value", || holds(&root, "key", "new")).await;
}

/// Whether a file of that name somewhere below says that.
fn holds(dir: &Path, name: &str, text: &str) -> bool {
    std::fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| {
        let path = entry.path();
        let here = path.file_name().is_some_and(|n| n == name);
        (here && std::fs::read_to_string(&path).is_ok_and(|t| t == text))
            || (path.is_dir() && holds(&path, name, text))
    })
}

/// On one thread, so that the worker's task has not run when it is asked.
#[tokio::test]
async fn a_pod_that_has_ended_is_never_shown_as_one_that_is_yet_to_run() {
    let lab = TestNode::new(Arc::new(NoKeeper));
    let ended = RestoredEnd { failed: true, reason: "Evicted".into(), message: "no room".into() };
    let restored = Restored { containers: vec![], ended: Some(ended) };
    let pod = pods::pod([pods::regular("c")]);
    let (worker, _gone) = worker_of(&lab.context, pod, Some(restored));
    let shown = status(&lab.context, &worker);
    assert_eq!(shown.phase.as_deref(), Some("Failed"));
    assert_eq!(shown.reason.as_deref(), Some("Evicted"));
}

#[tokio::test]
async fn a_repeated_deletion_moves_the_time_back_only() {
    let lab = TestNode::new(Arc::new(NoKeeper));
    let pod = Arc::new(pods::pod([pods::regular("c")]));
    let mut object = corev1::Pod::default();
    object.metadata.name = Some("p".into());
    object.metadata.generation = Some(1);
    let published = PublishedPod::new(
        lab.context.board.clone(),
        lab.context.fabric.clone(),
        vec![],
        pod,
        object,
    );
    let at = |seconds: u64| Timestamp::simulated(Duration::from_secs(seconds));
    let rows = [
        // At, grace asked for; grace and time shown.
        (100, 30, 30, 130),
        (125, 40, 30, 130),
        // Counted from the first request, as the API server does.
        (125, 20, 20, 120),
        (126, 0, 0, 100),
    ];
    for (now, grace, shown, until) in rows {
        let pod = published.set_deleting(at(now), Duration::from_secs(grace));
        let meta = &pod.metadata;
        assert_eq!(meta.deletion_grace_period_seconds, Some(shown), "{grace} at {now}");
        assert_eq!(meta.deletion_timestamp, Some(wire_time(until * 1000)), "{grace} at {now}");
        assert_eq!(meta.generation, Some(2));
    }
}
