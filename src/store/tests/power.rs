//! The power goes, the process is killed, a step fails: at every step of everything.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;

use super::*;

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
            // Removing a leftover is the one thing whose failure needs no telling; the story has none. And where there was no room
            // for a moment, an older copy may have given way.
            let told = failures == 1 || (failures == 0 && kind == ErrorKind::StorageFull);
            assert!(told, "{failures}: {kind:?} at step {step}");
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

/// A disk with one pod in two copies, another in one, and no room for one more file.
fn tight() -> (Unlucky, Store) {
    let disk = Unlucky::new(Path::new(ROOT));
    let (store, _) = open(&disk).unwrap();
    for op in
        [Op::Commit(Pod, "other", "1"), Op::Commit(Pod, "web", "1"), Op::Commit(Pod, "web", "2")]
    {
        op.apply(&store).unwrap();
    }
    disk.plan(Fault::Tight { files: disk.files().len() });
    (disk, store)
}

#[test]
fn on_a_full_disk_what_is_there_can_be_changed_and_nothing_added() {
    let (disk, store) = tight();
    for text in ["3", "4", "5"] {
        Op::Commit(Pod, "web", text).apply(&store).unwrap();
        let (_, found) = open(&disk.reboot(Survival::Nothing)).unwrap();
        assert_eq!(found["Pod web"], Op::content(text));
    }
    Op::Commit(Pod, "new", "1").apply(&store).unwrap_err();
    // One copy: it has nothing to give, and is kept.
    Op::Commit(Pod, "other", "2").apply(&store).unwrap_err();
    Op::Delete(Pod, "web").apply(&store).unwrap();
    Op::Commit(Pod, "other", "2").apply(&store).unwrap();
    let (_, found) = open(&disk.reboot(Survival::Nothing)).unwrap();
    assert_eq!(found, View::from([("Pod other".to_owned(), Op::content("2"))]));
}

#[test]
fn a_power_cut_while_the_older_copy_gives_way_leaves_the_newest_or_the_new_one() {
    let start = tight().0.steps();
    let steps = {
        let (disk, store) = tight();
        Op::Commit(Pod, "web", "3").apply(&store).unwrap();
        disk.steps() - start
    };
    assert!(steps >= 7, "{steps}: nothing gave way");
    let before = View::from([
        ("Pod other".to_owned(), Op::content("1")),
        ("Pod web".to_owned(), Op::content("2")),
    ]);
    let next = Op::Commit(Pod, "web", "3");
    for step in start..=start + steps {
        let (disk, store) = tight();
        disk.plan(Fault::PowerCut { step });
        let acknowledged = next.apply(&store).is_ok();
        let mut expected = before.clone();
        if acknowledged {
            next.expect(&mut expected);
        }
        let in_flight = (!acknowledged).then_some(next);
        check_reboot(&disk, &expected, in_flight).unwrap_or_else(|e| panic!("step {step}: {e}"));
    }
    // And a removal after it, which must not let the older copy come back.
    for step in start..=start + steps + 4 {
        let (disk, store) = tight();
        disk.plan(Fault::PowerCut { step });
        if next.apply(&store).is_err() {
            continue;
        }
        let delete = Op::Delete(Pod, "web");
        let gone = delete.apply(&store).is_ok();
        let mut expected = before.clone();
        next.expect(&mut expected);
        if gone {
            delete.expect(&mut expected);
        }
        let in_flight = (!gone).then_some(delete);
        check_reboot(&disk, &expected, in_flight).unwrap_or_else(|e| panic!("step {step}: {e}"));
    }
}
