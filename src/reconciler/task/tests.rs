//! The node's task against real workers of pods that wait for an image nobody has.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1 as corev1;

use super::*;
use crate::board::{Kind, Object};
use crate::lifecycle::{Restored, RestoredEnd};
use crate::limits::{DATA_OBJECTS_MAX, PODS_MAX};
use crate::mqtt::intent::{Manifest, Release};
use crate::mqtt::kit;
use crate::pod::context::NoKeeper;
use crate::reconciler::handle::{Deletion, Refusal, Write};
use crate::reconciler::{Offered, intake, records};
use crate::source::folder::FolderFile;
use crate::store::Loaded;
use crate::store::disk::RealDisk;
use crate::store::unlucky::{Fault, Survival, Unlucky};
use crate::testkit::node::{TestNode, labels};

/// What every wait gives up after.
const PATIENCE: Duration = Duration::from_secs(60);

struct Lab {
    node: TestNode,
    task: NodeTask,
}

impl Lab {
    fn new() -> Self {
        let node = TestNode::new(Arc::new(NoKeeper));
        let (store, _, _) = Store::open(&node.dir.path().join("store")).unwrap();
        let store = Arc::new(store);
        let keeper = RecordKeeper::new(Arc::clone(&store));
        let (task, _handle) = NodeTask::new(Arc::clone(&node.context), Some(store), Some(keeper));
        Self { node, task }
    }

    /// What a daemon that comes up now would find.
    fn durable(&self) -> Loaded {
        let dir = self.node.dir.path().join("store");
        Store::open_on(Arc::new(RealDisk), &dir).unwrap().1
    }

    /// Writes what is queued, as the keeper's own task does at the end.
    async fn write_records(&self) {
        let stop = CancellationToken::new();
        stop.cancel();
        Arc::clone(self.task.keeper.as_ref().unwrap()).run(stop).await;
    }

    fn folder(&mut self, files: &[(&str, &str)]) {
        self.task.folder(files.iter().map(|(name, text)| read(name, text)).collect());
    }

    /// Passes until nothing is on its way out any more.
    async fn settle(&mut self) {
        let ending = |e: &Entry| e.handle.is_stopping() && !e.finished;
        loop {
            self.task.pass();
            if !self.task.workers.values().any(ending) {
                return;
            }
            let finished = tokio::time::timeout(PATIENCE, self.task.finished.1.recv()).await;
            self.task.worker_finished(&finished.unwrap().unwrap());
        }
    }

    /// Where the running pod of that name comes from.
    fn source(&self, name: &str) -> Option<String> {
        let (accepted, deleting) = self.task.desired.get(&key(name))?;
        let running = self.task.workers.contains_key(&accepted.pod.uid);
        (deleting.is_none() && running).then(|| accepted.pod.source.to_string())
    }

    fn uid(&self, name: &str) -> Option<String> {
        self.task.desired.get(&key(name)).map(|(a, _)| a.pod.uid.to_string())
    }

    async fn create(&mut self, name: &str) {
        self.task.create_pod(pod(name), Write::default()).await.unwrap();
    }

    async fn delete(&mut self, name: &str) {
        self.task.delete_pod(&key(name), Deletion::default()).await.unwrap();
    }

    fn complaints(&self) -> Vec<String> {
        let events = self.task.board().list(&crate::board::Query::all(Kind::Event)).items;
        let message = |object| {
            let Object::Event(event) = object else { return None };
            let of_node = event.involved_object.kind.as_deref() == Some("Node");
            event.message.clone().filter(|_| of_node)
        };
        events.into_iter().filter_map(message).collect()
    }
}

fn key(name: &str) -> PodKey {
    PodKey::new("default", name)
}

fn text(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n\
         spec: {{containers: [{{name: c, image: 'nowhere:1'}}]}}\n"
    )
}

fn map_text(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{k: v}}\n")
}

fn pod(name: &str) -> corev1::Pod {
    serde_yaml::from_str(&text(name)).unwrap()
}

/// As the API server hands it on.
fn map(name: &str) -> corev1::ConfigMap {
    let mut map: corev1::ConfigMap = serde_yaml::from_str(&map_text(name)).unwrap();
    map.metadata.namespace = Some("default".to_owned());
    map
}

fn read(name: &str, text: &str) -> Offered {
    let path = Path::new("/etc/podling/manifests").join(name);
    let file = FolderFile { path: path.clone(), content: Ok(text.as_bytes().into()) };
    intake::read_file(&file, &Source::Folder(path), "gw-test")
}

#[tokio::test]
async fn a_change_of_a_pod_that_is_being_deleted_does_not_bring_its_record_back() {
    let mut lab = Lab::new();
    lab.create("a").await;
    assert_eq!(lab.durable().objects.len(), 1);
    lab.delete("a").await;
    let mut changed = (*lab.task.board().pod(&key("a")).unwrap()).clone();
    changed.metadata.labels = Some(labels("late", "yes"));
    let written = lab.task.update_pod(changed, Write::default()).await.unwrap();
    assert_eq!(written.object.metadata.labels, Some(labels("late", "yes")));
    assert_eq!(lab.durable().objects, []);
    lab.settle().await;
    assert!(lab.task.board().pod(&key("a")).is_none());
}

#[tokio::test]
async fn a_setting_of_a_container_that_a_running_pod_does_not_take_up_is_told() {
    let mut lab = Lab::new();
    lab.create("a").await;
    let mut changed = (*lab.task.board().pod(&key("a")).unwrap()).clone();
    changed.metadata.annotations = Some(labels("log-rate.podling.dev/c", "2Ki"));
    let told =
        "metadata.annotations[log-rate.podling.dev/c]: the running pod keeps what it began with";
    let dry = Write { dry_run: true, ..Write::default() };
    for how in [dry, Write::default()] {
        let written = lab.task.update_pod(changed.clone(), how).await.unwrap();
        assert_eq!(written.warnings.len(), 1, "{:?}", written.warnings);
        assert!(written.warnings[0].starts_with(told), "{:?}", written.warnings);
    }
    // Nothing changes any more.
    let written = lab.task.update_pod(changed, Write::default()).await.unwrap();
    assert_eq!(written.warnings, Vec::<String>::new());
}

/// The pod as it is shown, with another image.
fn edited(lab: &Lab, name: &str, image: &str) -> corev1::Pod {
    let mut pod = (*lab.task.board().pod(&key(name)).unwrap()).clone();
    pod.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
    pod
}

fn image(pod: &corev1::Pod) -> &str {
    pod.spec.as_ref().unwrap().containers[0].image.as_deref().unwrap()
}

/// What is on disk of the only pod there is.
fn stored(loaded: &Loaded) -> corev1::Pod {
    assert_eq!(loaded.objects.len(), 1);
    serde_json::from_slice(&loaded.objects[0].json).unwrap()
}

#[tokio::test]
async fn another_image_is_durable_before_it_is_acknowledged_and_the_pod_stays_itself() {
    let mut lab = Lab::new();
    lab.create("a").await;
    let before = (*lab.task.board().pod(&key("a")).unwrap()).clone();
    let written = lab.task.update_pod(edited(&lab, "a", "nowhere:2"), Write::default()).await;
    let shown = written.unwrap().object;
    let kept = stored(&lab.durable());
    for pod in [&*shown, &kept] {
        assert_eq!((image(pod), pod.metadata.generation), ("nowhere:2", Some(2)));
        assert_eq!(pod.metadata.uid, before.metadata.uid);
    }
    assert_eq!(lab.task.workers.len(), 1);
    let acted_upon = async {
        loop {
            let pod = lab.task.board().pod(&key("a")).unwrap();
            let status = pod.status.as_ref().unwrap();
            let waits = status.container_statuses.iter().flatten().next();
            let waits = waits.and_then(|c| c.state.as_ref()?.waiting.as_ref()?.message.clone());
            if status.observed_generation == Some(2)
                && waits.is_some_and(|m| m.contains("nowhere:2"))
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, acted_upon).await.unwrap();
    // The same once more is no change; a trial is none either.
    let again = lab.task.update_pod(edited(&lab, "a", "nowhere:2"), Write::default()).await;
    assert_eq!(again.unwrap().object.metadata.generation, Some(2));
    let trial = Write { dry_run: true, ..Write::default() };
    let trial = lab.task.update_pod(edited(&lab, "a", "nowhere:3"), trial).await.unwrap();
    assert_eq!((image(&trial.object), trial.object.metadata.generation), ("nowhere:3", Some(3)));
    assert_eq!(image(&stored(&lab.durable())), "nowhere:2");
    assert_eq!(image(&lab.task.board().pod(&key("a")).unwrap()), "nowhere:2");
}

#[tokio::test]
async fn when_the_power_goes_during_an_edit_the_record_is_the_old_one_or_the_new_one() {
    let mut lab = Lab::new();
    let root = Path::new("/state");
    for (step, last) in (0..).map(|step| (step, format!("p{step}"))) {
        let disk = Unlucky::new(root);
        lab.task.store = Some(Arc::new(Store::open_on(Arc::new(disk.clone()), root).unwrap().0));
        lab.create(&last).await;
        disk.plan(Fault::PowerCut { step: disk.steps() + step });
        let pod = edited(&lab, &last, "nowhere:2");
        let answer = lab.task.update_pod(pod, Write::default()).await;
        let shown = lab.task.board().pod(&key(&last)).unwrap();
        let expected = if answer.is_ok() { "nowhere:2" } else { "nowhere:1" };
        assert_eq!(image(&shown), expected, "what is not durable is not acted upon: step {step}");
        for survival in [Survival::Nothing, Survival::Everything, Survival::Random(step)] {
            let disk = Arc::new(disk.reboot(survival));
            let kept = stored(&Store::open_on(disk, root).unwrap().1);
            let found = (image(&kept), kept.metadata.generation);
            let new = found == ("nowhere:2", Some(2));
            assert!(new || answer.is_err(), "acknowledged and lost: {found:?}, step {step}");
            assert!(new || found == ("nowhere:1", Some(1)), "{found:?}");
        }
        if answer.is_ok() {
            assert!(step > 2, "an edit is {step} steps");
            return;
        }
    }
}

#[tokio::test]
async fn a_pod_that_begins_anew_when_it_is_edited_begins_with_the_edit() {
    let mut lab = Lab::new();
    lab.create("a").await;
    let uid = lab.uid("a");
    lab.task.restart(&key("a")).unwrap();
    lab.task.pass();
    lab.task.update_pod(edited(&lab, "a", "nowhere:2"), Write::default()).await.unwrap();
    assert_eq!(image(&stored(&lab.durable())), "nowhere:2");
    lab.settle().await;
    assert_eq!(image(&lab.task.desired.get(&key("a")).unwrap().0.object), "nowhere:2");
    assert_eq!(lab.uid("a"), uid);
}

#[tokio::test]
async fn what_may_not_change_is_refused_and_nothing_is_written() {
    let mut lab = Lab::new();
    lab.create("a").await;
    let mut other = edited(&lab, "a", "nowhere:2");
    other.spec.as_mut().unwrap().hostname = Some("h".to_owned());
    let refused = lab.task.update_pod(other, Write::default()).await.unwrap_err();
    let Refusal::Invalid(errors) = &refused else { panic!("{refused:?}") };
    assert_eq!(errors.len(), 1);
    assert!(refused.to_string().ends_with("; changed: spec.hostname"), "{refused}");
    // A name that is none is told as it is at creation.
    let refused = lab.task.update_pod(edited(&lab, "a", " x"), Write::default()).await.unwrap_err();
    assert!(
        refused.to_string().starts_with("spec.containers[0].image: Invalid value"),
        "{refused}"
    );
    assert_eq!(image(&stored(&lab.durable())), "nowhere:1");
    assert_eq!(image(&lab.task.board().pod(&key("a")).unwrap()), "nowhere:1");
}

#[tokio::test]
async fn a_pod_whose_file_is_renamed_comes_back_from_the_new_one() {
    let mut lab = Lab::new();
    lab.folder(&[("a.yaml", &text("a")), ("map.yaml", &map_text("m"))]);
    lab.settle().await;
    assert_eq!(lab.source("a").as_deref(), Some("file /etc/podling/manifests/a.yaml"));
    lab.folder(&[("b.yaml", &text("a")), ("c.yaml", &map_text("m"))]);
    lab.settle().await;
    assert_eq!(lab.source("a").as_deref(), Some("file /etc/podling/manifests/b.yaml"));
    assert!(lab.task.board().config_map("default", "m").is_some());
    assert_eq!(lab.complaints(), [""; 0]);
}

#[tokio::test]
async fn of_two_files_that_name_one_pod_the_one_it_runs_from_keeps_it() {
    let mut lab = Lab::new();
    lab.folder(&[("b.yaml", &text("a"))]);
    lab.settle().await;
    let before = lab.uid("a");
    for _ in 0..2 {
        lab.folder(&[("a.yaml", &text("a")), ("b.yaml", &text("a"))]);
        lab.settle().await;
    }
    assert_eq!(lab.uid("a"), before);
    let told = lab.complaints();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("a.yaml") && told[0].contains("b.yaml"), "{told:?}");
    lab.folder(&[("a.yaml", &text("a"))]);
    lab.settle().await;
    assert_eq!(lab.source("a").as_deref(), Some("file /etc/podling/manifests/a.yaml"));
}

#[tokio::test]
async fn what_the_folder_was_refused_it_gets_when_the_owner_is_gone() {
    let mut lab = Lab::new();
    lab.create("a").await;
    let map = Object::from(map("m"));
    lab.task.put_object(map.clone(), false, Write::default()).await.unwrap();
    let mut twin = map_text("m");
    twin.push_str("immutable: true\n");
    lab.folder(&[("a.yaml", &text("a")), ("m.yaml", &twin)]);
    lab.settle().await;
    assert_eq!(lab.source("a").as_deref(), Some("api"));
    assert_eq!(lab.complaints().len(), 2);
    lab.delete("a").await;
    lab.settle().await;
    assert_eq!(lab.source("a").as_deref(), Some("file /etc/podling/manifests/a.yaml"));
    lab.task.delete_object(&map.key(), Write::default()).await.unwrap();
    let now = lab.task.board().config_map("default", "m").unwrap();
    assert_eq!(now.immutable, Some(true));
}

#[tokio::test]
async fn a_repeated_deletion_does_not_forget_the_pod_of_another_source_that_waits() {
    let mut lab = Lab::new();
    lab.create("a").await;
    lab.delete("a").await;
    lab.folder(&[("a.yaml", &text("a"))]);
    lab.delete("a").await;
    lab.settle().await;
    assert_eq!(lab.source("a").as_deref(), Some("file /etc/podling/manifests/a.yaml"));
}

#[tokio::test]
async fn a_folder_gets_no_more_pods_than_a_node_has() {
    let mut lab = Lab::new();
    let names = (0..=PODS_MAX).map(|n| format!("p{n:05}"));
    let many: Vec<String> = names.map(|name| text(&name)).collect();
    let files: Vec<String> = many.chunks(256).map(|chunk| chunk.join("---\n")).collect();
    let named: Vec<(String, &str)> =
        files.iter().enumerate().map(|(n, text)| (format!("{n}.yaml"), text.as_str())).collect();
    let files: Vec<(&str, &str)> = named.iter().map(|(n, t)| (n.as_str(), *t)).collect();
    lab.folder(&files);
    assert_eq!(lab.task.desired.len(), PODS_MAX);
    let told = lab.complaints();
    assert!(told.iter().any(|t| t.contains(&format!("p{PODS_MAX:05}"))), "{told:?}");
}

#[tokio::test]
async fn a_node_takes_only_so_many_config_maps_and_leaves_the_others_be() {
    let mut lab = Lab::new();
    for n in 0..DATA_OBJECTS_MAX {
        lab.task.take_data(Object::from(map(&format!("m{n}"))), &Source::Api);
    }
    let one_more = Object::from(map("more"));
    let refused = lab.task.put_object(one_more, false, Write::default()).await.unwrap_err();
    assert!(matches!(refused, Refusal::Forbidden(_)), "{refused:?}");
    assert_eq!(lab.durable().objects, []);
    lab.folder(&[("a.yaml", &map_text("more"))]);
    let told = lab.complaints();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("ConfigMap default/more"), "{told:?}");
}

#[tokio::test]
async fn what_is_remembered_of_pods_that_are_gone_is_forgotten_at_the_next_start() {
    let mut lab = Lab::new();
    lab.folder(&[("a.yaml", &text("a"))]);
    let uid = PodUid::new(&lab.uid("a").unwrap());
    let gone = PodUid::new("gone");
    let facts = records::to_json(&Restored::default(), None);
    let store = lab.task.store.clone().unwrap();
    store.commit_runtime(&uid, &facts).unwrap();
    store.commit_runtime(&gone, &facts).unwrap();
    let loaded = lab.durable();
    assert!(lab.task.restore(loaded));
    lab.task.forget_orphans();
    lab.write_records().await;
    let left: Vec<PodUid> = lab.durable().runtime.into_iter().map(|r| r.uid).collect();
    assert_eq!(left, [uid]);
}

#[tokio::test]
async fn a_start_with_a_broken_file_or_record_does_not_know_all_pods() {
    let mut lab = Lab::new();
    assert!(lab.task.restore_folder(vec![read("a.yaml", &text("a"))]));
    assert!(!lab.task.restore_folder(vec![read("a.yaml", "kind: {")]));
    let store = lab.task.store.clone().unwrap();
    let kind = crate::store::ObjectKind::Pod;
    store.commit_object(kind, "default", "b", &Source::Api, b"{}").unwrap();
    let loaded = lab.durable();
    assert!(!lab.task.restore(loaded));
}

#[tokio::test]
async fn pods_stay_when_the_node_gets_another_name() {
    let mut lab = Lab::new();
    let mut elsewhere = pod("a");
    elsewhere.metadata.uid = Some("u1".to_owned());
    elsewhere.spec.as_mut().unwrap().node_name = Some("gw-before".to_owned());
    let json = serde_json::to_vec(&elsewhere).unwrap();
    let (store, kind) = (lab.task.store.clone().unwrap(), crate::store::ObjectKind::Pod);
    store.commit_object(kind, "default", "a", &Source::Api, &json).unwrap();
    let loaded = lab.durable();
    assert!(lab.task.restore(loaded));
    let (accepted, _) = lab.task.desired.get(&key("a")).unwrap();
    let spec = accepted.object.spec.clone().unwrap();
    assert_eq!(spec.node_name.as_deref(), Some("gw-test"));
}

#[tokio::test]
async fn creation_times_survive_a_restart() {
    let mut lab = Lab::new();
    let born = crate::board::wire_time(1_000_000_000_000);
    let mut map = map("m");
    map.metadata.creation_timestamp = Some(born.clone());
    lab.task.put_object(Object::from(map), false, Write::default()).await.unwrap();
    let mut next = Lab::new();
    assert!(next.task.restore(lab.durable()));
    let shown = next.task.board().config_map("default", "m").unwrap();
    assert_eq!(shown.metadata.creation_timestamp, Some(born));
}

#[tokio::test]
async fn an_endless_grace_does_not_break_the_end() {
    let mut lab = Lab::new();
    let mut endless = pod("a");
    endless.spec.as_mut().unwrap().termination_grace_period_seconds = Some(i64::MAX);
    lab.task.create_pod(endless, Write::default()).await.unwrap();
    tokio::time::timeout(PATIENCE, lab.task.end_all()).await.unwrap();
    assert!(lab.task.workers.values().all(|entry| entry.finished));
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused() {
    let mut lab = Lab::new();
    lab.folder(&[("a.yaml", &text("a"))]);
    let refused = lab.task.create_pod(pod("a"), Write::default()).await.unwrap_err();
    assert!(matches!(refused, Refusal::SourceConflict(_)), "{refused:?}");
}

/// What an intent's pod is, at that generation.
fn release(generation: u64, command: &str) -> Release {
    let mut intent = kit::with_artifact("m:1", kit::intent("a", generation));
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, labels: {{g: 'v{generation}'}}}}\n\
         spec: {{restartPolicy: Never, containers: [{{name: c, image: 'm:1', args: [{command}]}}]}}\n"
    );
    intent.manifest = Some(Manifest::Text(manifest));
    Release::read(&serde_json::to_vec(&intent).unwrap(), "k").unwrap()
}

impl Lab {
    /// The next life of the daemon, with what this one left on disk.
    async fn reborn(self) -> Self {
        self.write_records().await;
        let mut next = Self::new();
        let loaded = self.durable();
        let store = next.task.store.clone().unwrap();
        for record in &loaded.runtime {
            store.commit_runtime(&record.uid, &record.json).unwrap();
        }
        next.task.restore(loaded);
        next
    }
}

#[tokio::test]
async fn the_end_of_a_pod_is_not_that_of_its_next_form() {
    let ended = || {
        let end = RestoredEnd { failed: true, reason: "Error".into(), message: "over".into() };
        Restored { containers: vec![], ended: Some(end) }
    };
    // What is wanted after the restart, and whether the end on disk is its own.
    for (after, is_over) in
        [(release(1, "one"), true), (release(2, "one"), true), (release(2, "two"), false)]
    {
        let mut lab = Lab::new();
        lab.task.apply_release(&release(1, "one"), false).unwrap();
        lab.task.begin();
        let uid = PodUid::new(&lab.uid("a").unwrap());
        crate::pod::Keeper::keep(&**lab.task.keeper.as_ref().unwrap(), &uid, &ended());
        let mut lab = lab.reborn().await;
        lab.task.apply_release(&after, false).unwrap();
        let (accepted, _) = lab.task.desired.get(&key("a")).unwrap();
        let accepted = accepted.clone();
        // What its worker would be given.
        let facts = lab.task.recall(&accepted);
        assert_eq!(facts, is_over.then(ended), "{:?}", after.revision);
        lab.write_records().await;
        let left = lab.durable().runtime.len();
        assert_eq!(left, usize::from(is_over), "what is of an earlier form goes");
    }
}

#[tokio::test]
async fn a_name_that_a_pods_next_form_has_no_use_for_comes_free() {
    use futures_util::FutureExt as _;
    let with_map = |generation| {
        let mut intent = release(generation, "one").intent;
        let text = intent.manifest.as_ref().unwrap().text().into_owned();
        let map = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n";
        intent.manifest = Some(Manifest::Text(text + map));
        Release::read(&serde_json::to_vec(&intent).unwrap(), "k").unwrap()
    };
    let mut lab = Lab::new();
    let freed = Arc::clone(&lab.task.freed);
    let is_told = || freed.notified().now_or_never().is_some();
    lab.task.apply_release(&with_map(1), false).unwrap();
    lab.task.apply_release(&with_map(2), false).unwrap();
    assert!(!is_told());
    // Another pod that was refused for the map's name would wait for ever.
    lab.task.apply_release(&release(3, "one"), false).unwrap();
    assert!(is_told());
    lab.task.apply_release(&with_map(4), false).unwrap();
    lab.task.withdraw(&key("a"));
    assert!(is_told());
}
