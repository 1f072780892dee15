//! A folder of the real file system; sizes, threads.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

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
