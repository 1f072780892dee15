#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;

use super::slots::CORRUPT_FILES_MAX;
use super::unlucky::{Fault, Survival, Unlucky};
use super::*;

const ROOT: &str = "/state";

/// What is on disk, as a caller sees it.
type View = BTreeMap<String, String>;

/// One change of the store.
#[derive(Clone, Copy, Debug)]
enum Op {
    Commit(ObjectKind, &'static str, &'static str),
    Delete(ObjectKind, &'static str),
    Runtime(&'static str, &'static str),
    Forget(&'static str),
    Mqtt(&'static str, &'static str),
    DropMqtt(&'static str),
}

use ObjectKind::{ConfigMap, NetworkPolicy, Pod, Secret, Service};

/// Every operation in every situation: first, second and third commit, removal of a record with one copy and with two,
/// a commit after a removal, neighbours in the same and in other folders, content longer than a block.
const STORY: &[Op] = &[
    Op::Commit(Pod, "web", "{\"v\":1}"),
    Op::Commit(Secret, "key", "{\"s\":1}"),
    Op::Commit(Pod, "web", "{\"v\":2}"),
    Op::Runtime("uid-1", "{\"restarts\":1}"),
    Op::Commit(Pod, "web", "{\"v\":3}"),
    Op::Commit(Pod, "other", "{\"v\":1}"),
    Op::Delete(Pod, "web"),
    Op::Commit(ConfigMap, "cm", "{\"c\":1}"),
    Op::Delete(Pod, "other"),
    Op::Commit(Pod, "web", "{\"v\":4}"),
    Op::Runtime("uid-1", "{\"restarts\":2}"),
    Op::Forget("uid-1"),
    Op::Mqtt("pod.default.web", "{\"want\":1}"),
    Op::Mqtt("node", "{\"conn\":1}"),
    Op::Commit(Service, "web", "{\"p\":1}"),
    Op::Commit(NetworkPolicy, "deny", "{\"n\":1}"),
    Op::Mqtt("pod.default.web", "{\"want\":2}"),
    Op::DropMqtt("pod.default.web"),
    Op::Commit(Pod, "web", "{\"v\":5}"),
];

impl Op {
    fn key(self) -> String {
        match self {
            Self::Commit(kind, name, _) | Self::Delete(kind, name) => {
                format!("{} {name}", kind.as_str())
            }
            Self::Runtime(uid, _) | Self::Forget(uid) => format!("Runtime {uid}"),
            Self::Mqtt(name, _) | Self::DropMqtt(name) => format!("Mqtt {name}"),
        }
    }

    /// Content long enough to be torn in its last block.
    fn content(text: &str) -> String {
        format!("{text}{}", " ".repeat(700))
    }

    fn apply(self, store: &Store) -> Result<(), String> {
        let default = "default";
        match self {
            Self::Commit(kind, name, text) => store
                .commit_object(kind, default, name, &Source::Api, Self::content(text).as_bytes())
                .map(drop)
                .map_err(|error| error.to_string()),
            Self::Delete(kind, name) => store
                .delete_object(kind, default, name)
                .map(drop)
                .map_err(|error| error.to_string()),
            Self::Runtime(uid, text) => store
                .commit_runtime(&PodUid::new(uid), Self::content(text).as_bytes())
                .map(drop)
                .map_err(|error| error.to_string()),
            Self::Forget(uid) => {
                store.delete_runtime(&PodUid::new(uid)).map(drop).map_err(|error| error.to_string())
            }
            Self::Mqtt(name, text) => store
                .commit_mqtt(name, Self::content(text).as_bytes())
                .map(drop)
                .map_err(|error| error.to_string()),
            Self::DropMqtt(name) => {
                store.delete_mqtt(name).map(drop).map_err(|error| error.to_string())
            }
        }
    }

    fn expect(self, view: &mut View) {
        match self {
            Self::Commit(_, _, text) | Self::Runtime(_, text) | Self::Mqtt(_, text) => {
                view.insert(self.key(), Self::content(text));
            }
            Self::Delete(..) | Self::Forget(_) | Self::DropMqtt(_) => {
                view.remove(&self.key());
            }
        }
    }
}

fn view(loaded: &Loaded) -> View {
    let text = |json: &[u8]| String::from_utf8(json.to_vec()).unwrap();
    let objects = loaded
        .objects
        .iter()
        .map(|object| (format!("{} {}", object.kind.as_str(), object.name), text(&object.json)));
    let runtime =
        loaded.runtime.iter().map(|record| (format!("Runtime {}", record.uid), text(&record.json)));
    let mqtt =
        loaded.mqtt.iter().map(|record| (format!("Mqtt {}", record.name), text(&record.content)));
    objects.chain(runtime).chain(mqtt).collect()
}

fn open(disk: &Unlucky) -> Result<(Store, View), String> {
    let (store, loaded, damage) =
        Store::open_on(Arc::new(disk.clone()), Path::new(ROOT)).map_err(|e| e.to_string())?;
    if damage.is_empty() {
        Ok((store, view(&loaded)))
    } else {
        Err(format!("damage after a mere power cut: {damage:?}"))
    }
}

const SURVIVALS: [Survival; 10] = {
    use Survival::{Everything, Nothing, Random};
    [
        Nothing,
        Everything,
        Random(1),
        Random(2),
        Random(3),
        Random(4),
        Random(5),
        Random(6),
        Random(7),
        Random(8),
    ]
};

/// Tells the story until something fails; what was acknowledged, and what was in flight.
fn tell(disk: &Unlucky) -> (View, Option<Op>) {
    let mut acknowledged = View::new();
    let Ok((store, _)) = open(disk) else { return (acknowledged, None) };
    for op in STORY {
        if op.apply(&store).is_err() {
            return (acknowledged, Some(*op));
        }
        op.expect(&mut acknowledged);
    }
    (acknowledged, None)
}

/// After a reboot: what was acknowledged is there, what was in flight is there whole or not at all; and the store goes
/// on working: a new commit survives the next power cut.
fn check_reboot(disk: &Unlucky, acknowledged: &View, in_flight: Option<Op>) -> Result<(), String> {
    for survival in SURVIVALS {
        let disk = disk.reboot(survival);
        let (store, found) = open(&disk).map_err(|error| format!("{survival:?}: {error}"))?;
        let mut with = acknowledged.clone();
        if let Some(op) = in_flight {
            op.expect(&mut with);
        }
        if found != *acknowledged && found != with {
            return Err(format!(
                "{survival:?}, {in_flight:?} in flight: found {found:?}, acknowledged {acknowledged:?}"
            ));
        }
        let afterwards = Op::Commit(Pod, "web", "{\"v\":\"afterwards\"}");
        afterwards.apply(&store)?;
        let mut expected = found;
        afterwards.expect(&mut expected);
        let (_, found) = open(&disk.reboot(Survival::Nothing))?;
        if found != expected {
            return Err(format!("{survival:?}, and again: found {found:?}, expected {expected:?}"));
        }
    }
    Ok(())
}

fn steps_of_the_story() -> u64 {
    let disk = Unlucky::new(Path::new(ROOT));
    tell(&disk);
    disk.steps()
}

/// The power goes before each step of the story, in turn, on a disk with this other fault.
fn cut_everywhere(disk: impl Fn() -> Unlucky) -> Result<(), String> {
    let steps = steps_of_the_story();
    for step in 0..=steps {
        let disk = disk();
        disk.plan(Fault::PowerCut { step });
        let (acknowledged, in_flight) = tell(&disk);
        check_reboot(&disk, &acknowledged, in_flight)
            .map_err(|error| format!("power cut at step {step}: {error}"))?;
    }
    Ok(())
}

#[test]
fn a_power_cut_at_any_step_leaves_the_old_record_or_the_new_one() {
    assert!(steps_of_the_story() > 60, "the story tells too little");
    cut_everywhere(|| Unlucky::new(Path::new(ROOT))).unwrap();
}

#[test]
fn no_sync_of_a_commit_or_a_removal_can_be_left_out() {
    let honest = Unlucky::new(Path::new(ROOT));
    let (_store, _) = open(&honest).unwrap();
    let syncs_of_opening = honest.syncs();
    let honest = Unlucky::new(Path::new(ROOT));
    tell(&honest);
    let mut unnoticed = String::new();
    // The syncs of opening an empty folder are needed only after a kill: see the test below.
    for sync in std::iter::once(0).chain(syncs_of_opening..honest.syncs()) {
        let mutant = || {
            let disk = Unlucky::new(Path::new(ROOT));
            disk.plan(Fault::LyingSync { sync });
            disk
        };
        if cut_everywhere(mutant).is_ok() {
            writeln!(unnoticed, "sync {sync}").unwrap();
        }
    }
    assert_eq!(unnoticed, "", "these syncs are not needed, or the test does not see that they are");
}

/// Kills the process (not the machine) before each step of the story; the next process opens the store and acts on what
/// it finds; then the power goes. `lie`: that sync of the second opening is not done.
fn kill_everywhere(lie: Option<u64>) -> Result<(), String> {
    for step in 0..=steps_of_the_story() {
        let disk = Unlucky::new(Path::new(ROOT));
        disk.plan(Fault::PowerCut { step });
        tell(&disk);
        disk.mend();
        if let Some(lie) = lie {
            disk.plan(Fault::LyingSync { sync: disk.syncs() + lie });
        }
        let (store, mut found) = open(&disk)?;
        for survival in SURVIVALS {
            let (_store, again) = open(&disk.reboot(survival))?;
            if again != found {
                return Err(format!("killed at step {step}: {found:?}, {survival:?}: {again:?}"));
            }
        }
        let next = Op::Commit(ConfigMap, "next", "{}");
        next.apply(&store)?;
        next.expect(&mut found);
        for survival in SURVIVALS {
            let (_store, again) = open(&disk.reboot(survival))?;
            if again != found {
                return Err(format!("killed at step {step}: {found:?}, {survival:?}: {again:?}"));
            }
        }
    }
    Ok(())
}

#[test]
fn a_store_opened_after_a_kill_makes_what_it_found_durable() {
    kill_everywhere(None).unwrap();
    // The state folder's own, then each folder's.
    for sync in 0..8 {
        assert!(kill_everywhere(Some(sync)).is_err(), "sync {sync} of opening is not needed");
    }
}

#[test]
fn a_fault_at_any_step_is_told_and_trying_again_mends_it() {
    for kind in [ErrorKind::StorageFull, ErrorKind::Other] {
        let start = {
            let disk = Unlucky::new(Path::new(ROOT));
            open(&disk).unwrap();
            disk.steps()
        };
        for step in start..steps_of_the_story() {
            let disk = Unlucky::new(Path::new(ROOT));
            disk.plan(Fault::Error { step, kind });
            let (store, _) = open(&disk).unwrap();
            let mut expected = View::new();
            let mut failures = 0;
            for op in STORY {
                if op.apply(&store).is_err() {
                    failures += 1;
                    check_reboot(&disk, &expected, Some(*op)).unwrap();
                    op.apply(&store).unwrap();
                }
                op.expect(&mut expected);
                let (_, found) = open(&disk.reboot(Survival::Nothing)).unwrap();
                assert_eq!(found, expected, "{kind:?} at step {step}, after {op:?}");
            }
            // Removing a leftover is the one thing whose failure needs no telling; the story has none.
            assert_eq!(failures, 1, "{kind:?} at step {step}");
        }
    }
}

#[test]
fn after_a_fault_going_back_to_the_old_content_is_written_not_taken_for_unchanged() {
    let base = {
        let disk = Unlucky::new(Path::new(ROOT));
        let (store, _) = open(&disk).unwrap();
        Op::Commit(Pod, "web", "1").apply(&store).unwrap();
        disk.steps()
    };
    for step in base..base + 5 {
        let disk = Unlucky::new(Path::new(ROOT));
        let (store, _) = open(&disk).unwrap();
        Op::Commit(Pod, "web", "1").apply(&store).unwrap();
        disk.plan(Fault::Error { step, kind: ErrorKind::Other });
        Op::Commit(Pod, "web", "2").apply(&store).unwrap_err();
        Op::Commit(Pod, "web", "1").apply(&store).unwrap();
        for survival in SURVIVALS {
            let (_, found) = open(&disk.reboot(survival)).unwrap();
            assert_eq!(found["Pod web"], Op::content("1"), "step {step}, {survival:?}");
        }
    }
}

#[test]
fn after_a_failed_removal_the_same_content_is_written_again() {
    let story = |disk: &Unlucky| {
        let (store, _) = open(disk).unwrap();
        Op::Commit(Pod, "web", "1").apply(&store).unwrap();
        Op::Commit(Pod, "web", "2").apply(&store).unwrap();
        store
    };
    let disk = Unlucky::new(Path::new(ROOT));
    story(&disk);
    let base = disk.steps();
    for step in base..base + 4 {
        let disk = Unlucky::new(Path::new(ROOT));
        let store = story(&disk);
        disk.plan(Fault::Error { step, kind: ErrorKind::Other });
        let error = store.delete_object(Pod, "default", "web").unwrap_err();
        assert_eq!(error.to_string(), "cannot remove Pod default/web from the store");
        Op::Commit(Pod, "web", "2").apply(&store).unwrap();
        for survival in SURVIVALS {
            let (_, found) = open(&disk.reboot(survival)).unwrap();
            assert_eq!(found["Pod web"], Op::content("2"), "step {step}, {survival:?}");
        }
    }
}

#[test]
fn nothing_is_left_of_what_was_interrupted_or_removed() {
    for step in 0..steps_of_the_story() {
        let disk = Unlucky::new(Path::new(ROOT));
        disk.plan(Fault::PowerCut { step });
        tell(&disk);
        disk.mend();
        let (store, found) = open(&disk).unwrap();
        let leftover = |file: &PathBuf| file.to_string_lossy().ends_with(".tmp");
        assert!(!disk.files().iter().any(leftover), "killed at step {step}: {:?}", disk.files());
        for name in ["web", "other"] {
            store.delete_object(Pod, "default", name).unwrap();
        }
        assert_eq!(
            store.records().len(),
            found.keys().filter(|key| !key.starts_with("Pod")).count(),
            "memory is given back, too"
        );
    }
}

#[test]
fn on_a_full_disk_commits_fail_whole_and_removals_work() {
    let disk = Unlucky::new(Path::new(ROOT));
    let (store, _) = open(&disk).unwrap();
    for op in &STORY[..6] {
        op.apply(&store).unwrap();
    }
    // There is room for a name yet, not for what should be in it.
    disk.plan(Fault::Full { step: disk.steps() + 1 });
    let error = store.commit_object(Pod, "default", "web", &Source::Api, b"{}").unwrap_err();
    assert_eq!(error.to_string(), "cannot store Pod default/web");
    assert_eq!(error.cause.kind(), ErrorKind::StorageFull);
    assert!(store.delete_object(Pod, "default", "web").unwrap());
    assert!(store.delete_runtime(&PodUid::new("uid-1")).unwrap());
    let (_, found) = open(&disk.reboot(Survival::Nothing)).unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["Pod other", "Secret key"]);
    assert!(disk.files().iter().all(|file| !file.to_string_lossy().ends_with(".tmp")));
}

#[test]
fn identical_content_costs_nothing() {
    let disk = Unlucky::new(Path::new(ROOT));
    let (store, _) = open(&disk).unwrap();
    let commit = |source| store.commit_object(Pod, "ns", "web", &source, b"{}").unwrap();
    assert_eq!(commit(Source::Api), Commit::Written);
    let (steps, written) = (disk.steps(), store.written());
    assert_eq!(commit(Source::Api), Commit::Unchanged);
    assert_eq!((disk.steps(), store.written()), (steps, written));
    assert_eq!(commit(Source::Mqtt), Commit::Written, "another owner is a change");
    let (store, _) = open(&disk).unwrap();
    let opened = store.written();
    assert_eq!(
        store.commit_object(Pod, "ns", "web", &Source::Mqtt, b"{}").unwrap(),
        Commit::Unchanged,
        "nor after a restart"
    );
    assert_eq!(store.written(), opened);
}

#[test]
fn a_pod_change_costs_at_most_six_fsyncs() {
    let disk = Unlucky::new(Path::new(ROOT));
    let (store, _) = open(&disk).unwrap();
    let cost = |act: &dyn Fn()| {
        let before = disk.syncs();
        let counted = store.written().fsyncs;
        act();
        assert_eq!(store.written().fsyncs - counted, disk.syncs() - before, "all are counted");
        disk.syncs() - before
    };
    let commit =
        |text: &str| store.commit_object(Pod, "ns", "web", &Source::Api, text.as_bytes()).unwrap();
    let uid = PodUid::new("uid");
    assert_eq!(cost(&|| assert_eq!(commit("1"), Commit::Written)), 2);
    assert_eq!(cost(&|| assert_eq!(commit("2"), Commit::Written)), 2);
    assert_eq!(cost(&|| drop(store.commit_runtime(&uid, b"{}"))), 2);
    // A pod's removal, with its restart counts.
    let removal = cost(&|| {
        store.delete_object(Pod, "ns", "web").unwrap();
        store.delete_runtime(&uid).unwrap();
    });
    assert_eq!(removal, 3);
}

/// Rots some files of a store with one pod in two generations, and opens it.
fn open_rotten(rot: impl Fn(&Unlucky)) -> (Unlucky, View, Vec<Damage>) {
    let disk = Unlucky::new(Path::new(ROOT));
    let (store, _) = open(&disk).unwrap();
    for (name, text) in [("web", "1"), ("web", "2"), ("other", "1")] {
        store.commit_object(Pod, "ns", name, &Source::Api, text.as_bytes()).unwrap();
    }
    rot(&disk);
    let (_, loaded, damage) = Store::open_on(Arc::new(disk.clone()), Path::new(ROOT)).unwrap();
    (disk, view(&loaded), damage)
}

fn spoil(disk: &Unlucky, file: &str) {
    disk.rot(&Path::new(ROOT).join(file), |bytes| {
        let last = bytes.len() - 1;
        bytes[last] ^= 4;
    });
}

#[test]
fn a_damaged_newest_copy_falls_back_to_the_older_one_and_says_so() {
    let (disk, found, damage) = open_rotten(|disk| spoil(disk, "pods/ns.web.b"));
    assert_eq!(found["Pod web"], "1");
    assert_eq!(
        damage[0].to_string(),
        concat!(
            "record /state/pods/ns.web.b does not match its checksum; ",
            "its copy of generation 1 is used; moved to /state/.corrupt/pods.ns.web.b"
        )
    );
    let (_, loaded, damage) = Store::open_on(Arc::new(disk), Path::new(ROOT)).unwrap();
    assert_eq!((view(&loaded), damage), (found, vec![]), "it is reported once");
}

#[test]
fn a_record_damaged_twice_costs_one_object_and_nothing_else() {
    let rot = |disk: &Unlucky| {
        spoil(disk, "pods/ns.web.a");
        disk.rot(Path::new("/state/pods/ns.web.b"), Vec::clear);
    };
    let (disk, found, damage) = open_rotten(rot);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["Pod other"]);
    assert_eq!(damage.len(), 2);
    assert!(damage.iter().all(|d| d.recovered_generation.is_none() && d.quarantined.is_some()));
    // The name can be used again, and the bad copies do not come back.
    let (store, _) = open(&disk).unwrap();
    store.commit_object(Pod, "ns", "web", &Source::Api, b"3").unwrap();
    let (_, found) = open(&disk.reboot(Survival::Nothing)).unwrap();
    assert_eq!(found["Pod web"], "3");
}

#[test]
fn a_bad_copy_that_cannot_be_moved_never_wins_later() {
    let disk = Unlucky::new(Path::new(ROOT));
    let (store, _) = open(&disk).unwrap();
    for text in ["1", "2", "3", "4"] {
        store.commit_object(Pod, "ns", "web", &Source::Api, text.as_bytes()).unwrap();
    }
    // Both copies unreadable for now, and no room to move them.
    spoil(&disk, "pods/ns.web.a");
    spoil(&disk, "pods/ns.web.b");
    disk.plan(Fault::Full { step: disk.steps() });
    let opened = Store::open_on(Arc::new(disk.clone()), Path::new(ROOT));
    // The folders exist, so that a full disk does not keep the store from opening.
    let (store, _, damage) = opened.unwrap();
    assert!(damage.iter().all(|damage| damage.quarantined.is_none()));
    disk.mend();
    store.commit_object(Pod, "ns", "web", &Source::Api, b"new").unwrap();
    let disk = disk.reboot(Survival::Nothing);
    for file in disk.files() {
        // Readable again after all.
        if file.ends_with("ns.web.b") {
            spoil(&disk, "pods/ns.web.b");
        }
    }
    let (_, loaded, _) = Store::open_on(Arc::new(disk), Path::new(ROOT)).unwrap();
    assert_eq!(view(&loaded)["Pod web"], "new");
}

#[test]
fn a_record_under_a_foreign_name_is_refused() {
    let (_, found, damage) = open_rotten(|disk| {
        disk.rename(Path::new("/state/pods/ns.other.a"), Path::new("/state/pods/ns.alias.a"))
            .unwrap();
    });
    assert_eq!(found.keys().collect::<Vec<_>>(), ["Pod web"]);
    assert_eq!(damage[0].fault, "is the record of Pod Pod ns/other, not of this name");
}

#[test]
fn damaged_files_do_not_gather_without_end() {
    let disk = Unlucky::new(Path::new(ROOT));
    let (store, _) = open(&disk).unwrap();
    let names: Vec<String> = (0..CORRUPT_FILES_MAX + 8).map(|n| format!("pod-{n}")).collect();
    for name in &names {
        store.commit_object(Pod, "ns", name, &Source::Api, b"{}").unwrap();
        spoil(&disk, &format!("pods/ns.{name}.a"));
    }
    let (_, _, damage) = Store::open_on(Arc::new(disk.clone()), Path::new(ROOT)).unwrap();
    assert_eq!(damage.len(), names.len());
    assert_eq!(disk.files().len(), CORRUPT_FILES_MAX);
}

#[test]
fn a_real_folder_keeps_everything_private_and_lets_one_daemon_in() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("var/lib/podling");
    let long = "n".repeat(253);
    {
        let (store, loaded, damage) = Store::open(&dir).unwrap();
        assert_eq!((loaded, damage), (Loaded::default(), vec![]));
        store.commit_object(Secret, "default", &long, &Source::Mqtt, b"{\"s\":1}").unwrap();
        store.commit_object(Secret, "default", &long, &Source::Mqtt, b"{\"s\":2}").unwrap();
        store.commit_object(Pod, &"a".repeat(63), &long, &Source::Api, b"{}").unwrap();
        store.commit_object(Pod, "..", "../../../escape", &Source::Api, b"{}").unwrap();
        match Store::open(&dir) {
            Err(OpenError::InUse { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("opened twice: {other:?}"),
        }
    }
    let mut pending = vec![dir.clone()];
    let mut files = 0;
    while let Some(path) = pending.pop() {
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(meta.permissions().mode() & 0o077, 0, "{}", path.display());
        if meta.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            files += 1;
        }
    }
    assert_eq!(files, 5, "two slots of the secret, two pods, the lock");
    let (_store, loaded, damage) = Store::open(&dir).unwrap();
    assert_eq!(damage, vec![]);
    let secret = loaded.objects.iter().find(|object| object.kind == Secret).unwrap();
    assert_eq!(
        (secret.name.as_str(), secret.json.as_slice(), secret.generation, &secret.source),
        (long.as_str(), &b"{\"s\":2}"[..], 2, &Source::Mqtt)
    );
    assert!(loaded.objects.iter().any(|object| object.name == "../../../escape"));
}

#[test]
fn too_large_an_object_is_refused_before_anything_is_written() {
    let disk = Unlucky::new(Path::new(ROOT));
    let (store, _) = open(&disk).unwrap();
    let steps = disk.steps();
    let huge = vec![b' '; usize::try_from(record::RECORD_BYTES_MAX).unwrap()];
    let error = store.commit_object(Pod, "ns", "web", &Source::Api, &huge).unwrap_err();
    assert_eq!((error.cause.kind(), disk.steps()), (ErrorKind::FileTooLarge, steps));
}

#[test]
fn many_threads_may_commit_at_once() {
    let disk = Unlucky::new(Path::new(ROOT));
    let (store, _) = open(&disk).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..50 {
                    let text = format!("{thread}-{round}");
                    let shared = store
                        .commit_object(Pod, "ns", "shared", &Source::Api, text.as_bytes())
                        .unwrap();
                    assert_eq!(shared, Commit::Written);
                    let own = format!("own-{thread}");
                    store.commit_object(Pod, "ns", &own, &Source::Api, text.as_bytes()).unwrap();
                    if round % 7 == 0 {
                        store.delete_object(Pod, "ns", "shared").unwrap();
                    }
                }
            });
        }
    });
    let (_, found) = open(&disk.reboot(Survival::Nothing)).unwrap();
    for thread in 0..4 {
        assert_eq!(found[&format!("Pod own-{thread}")], format!("{thread}-49"));
    }
}
