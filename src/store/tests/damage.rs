//! Records that rot.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::store::slots::CORRUPT_FILES_MAX;

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
fn a_record_that_this_process_may_not_read_is_not_taken_for_damaged() {
    let disk = Unlucky::new(Path::new(ROOT));
    let (store, _) = open(&disk).unwrap();
    for (name, text) in [("web", "1"), ("web", "2"), ("other", "1")] {
        store.commit_object(Pod, "ns", name, &Source::Api, text.as_bytes()).unwrap();
    }
    let begun = disk.steps();
    let (_, whole) = open(&disk).unwrap();
    let steps = disk.steps() - begun;
    let mut denied = 0;
    for kind in [ErrorKind::PermissionDenied, ErrorKind::OutOfMemory] {
        for step in 0..steps {
            disk.plan(Fault::Error { step: disk.steps() + step, kind });
            let opened = Store::open_on(Arc::new(disk.clone()), Path::new(ROOT));
            disk.mend();
            if let Err(OpenError::Denied { file, cause }) = &opened {
                denied += 1;
                assert!(file.starts_with("/state/pods"), "{}", file.display());
                assert_eq!(cause.kind(), kind);
            }
            let (_, found) = open(&disk).unwrap();
            assert_eq!(found, whole, "{kind} at step {step} has cost a record");
            assert!(disk.files().iter().all(|file| !file.to_string_lossy().contains(".corrupt")));
        }
    }
    assert_eq!(denied, 2 * 4, "each place of each record, for each reason");
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
