//! What a volume takes and what it does not, measured on real folders.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use super::excess::quantity;
use super::walk::DEPTH_MAX;
use super::*;
use crate::testkit::pods;

const KIB: u64 = 1024;

#[derive(Debug, Default)]
struct Purse {
    left: AtomicU64,
}

impl Memory for Purse {
    fn take(&self, bytes: u64) -> bool {
        let take = |left: u64| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    pod: Pod,
    purse: Arc<Purse>,
}

impl Fixture {
    fn new(volumes: &[(&str, VolumeMedium, Option<u64>)], ephemeral: Option<u64>) -> Self {
        let mut container = pods::regular("c");
        container.resources.ephemeral_storage_limit_bytes = ephemeral;
        let mut pod = pods::pod([container]);
        let dir = tempfile::tempdir().unwrap();
        for &(name, medium, size_limit_bytes) in volumes {
            fs::create_dir(dir.path().join(name)).unwrap();
            let source = VolumeSource::EmptyDir { medium, size_limit_bytes };
            pod.volumes.push(crate::spec::Volume { name: name.to_owned(), source });
        }
        Self { dir, pod, purse: Arc::default() }
    }

    /// One volume on disk, `v`, of so many KiB.
    fn one(kib: u64) -> Self {
        Self::new(&[("v", VolumeMedium::Default, Some(kib * KIB))], None)
    }

    fn space(&self) -> Arc<Space> {
        let open = |volume: &crate::spec::Volume| {
            let dir = File::open(self.path(&volume.name)).unwrap();
            (volume.name.clone(), OwnedFd::from(dir))
        };
        let dirs: Vec<(String, OwnedFd)> = self.pod.volumes.iter().map(open).collect();
        let dirs = dirs.iter().map(|(name, dir)| (name.as_str(), dir));
        let purse = Arc::<Purse>::clone(&self.purse);
        Space::new(&self.pod, dirs, purse, 1 << 30, Clock::start()).unwrap()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Writes a file as a module does: asks for the name and for the bytes.
    fn write(&self, room: &Room, path: &str, bytes: usize) -> bool {
        let fits = grow(room, room.cost(bytes as u64) + ENTRY_BYTES);
        if fits {
            fs::write(self.path(path), vec![7; bytes]).unwrap();
        }
        fits
    }

    fn remove(&self, room: &Room, path: &str) {
        fs::remove_file(self.path(path)).unwrap();
        room.freed();
    }
}

fn grow(room: &Room, bytes: u64) -> bool {
    match room.take(bytes) {
        Grant::Yes => true,
        Grant::No => false,
        Grant::Unsure => room.take_measured(bytes),
    }
}

#[test]
fn a_volume_takes_its_limit_and_not_a_byte_more() {
    let fixture = Fixture::one(64);
    let room = fixture.space().room("v").unwrap();
    assert!(fixture.write(&room, "v/file", 40 << 10));
    assert!(!fixture.write(&room, "v/other", 24 << 10), "its name counts too");
    assert!(fixture.write(&room, "v/other", 20 << 10));
    assert!(!grow(&room, 3 * KIB));
    assert!(grow(&room, 2 * KIB));
}

#[test]
fn what_was_removed_may_be_written_again_at_once() {
    let fixture = Fixture::one(64);
    let room = fixture.space().room("v").unwrap();
    for turn in 0..20 {
        assert!(fixture.write(&room, "v/file", 48 << 10), "turn {turn}");
        assert!(!fixture.write(&room, "v/other", 48 << 10), "turn {turn}");
        fixture.remove(&room, "v/file");
    }
}

#[test]
fn asking_and_measuring_reckon_alike() {
    let fixture = Fixture::one(1024);
    let space = fixture.space();
    let room = space.room("v").unwrap();
    let mut files = 0;
    while fixture.write(&room, &format!("v/{files}"), files) {
        files += 1;
    }
    assert!(files > 100, "{files}");
    assert_eq!(space.measure(), None, "who heeds the answer is never over the limit");
    let asked = space.used()[0].1;
    assert!((1019 * KIB..=1024 * KIB).contains(&asked), "{asked}");
}

#[test]
fn a_full_volume_is_not_measured_at_each_write() {
    let fixture = Fixture::one(8);
    let space = fixture.space();
    let room = space.room("v").unwrap();
    assert!(grow(&room, 8 * KIB));
    room.freed();
    let _ = grow(&room, 8 * KIB);
    let first = space.lock().measured.unwrap().at;
    for _ in 0..1000 {
        assert_eq!(
            room.take(16 * KIB),
            Grant::No,
            "more than the limit: no measurement tells otherwise"
        );
    }
    assert_eq!(space.lock().measured.unwrap().at, first);
}

#[test]
fn what_is_removed_counts_as_long_as_it_is_open() {
    let fixture = Fixture::one(64);
    let room = fixture.space().room("v").unwrap();
    assert!(fixture.write(&room, "v/file", 48 << 10));
    let open = Arc::new(File::open(fixture.path("v/file")).unwrap());
    room.opened(&open);
    room.opened(&Arc::clone(&open));
    fixture.remove(&room, "v/file");
    assert!(!fixture.write(&room, "v/other", 48 << 10));
    drop(open);
    room.freed();
    assert!(fixture.write(&room, "v/other", 48 << 10));
}

#[test]
fn the_list_of_open_files_does_not_grow_with_time() {
    let fixture = Fixture::one(64);
    let space = fixture.space();
    let room = space.room("v").unwrap();
    for _ in 0..10_000 {
        room.opened(&Arc::new(File::open(fixture.dir.path()).unwrap()));
    }
    assert!(lock(&space.opened).capacity() < 100);
}

#[test]
fn volumes_without_a_limit_share_that_of_the_pod() {
    let volumes = [("a", VolumeMedium::Default, None), ("b", VolumeMedium::Default, None)];
    let fixture = Fixture::new(&volumes, Some(64 * KIB));
    let space = fixture.space();
    let (a, b) = (space.room("a").unwrap(), space.room("b").unwrap());
    assert!(fixture.write(&a, "a/file", 40 << 10));
    assert!(!fixture.write(&b, "b/file", 40 << 10));
    fs::write(fixture.path("b/unasked"), vec![7; 40 << 10]).unwrap();
    let excess = space.measure().unwrap();
    assert_eq!(
        excess.to_string(),
        "Pod ephemeral local storage usage exceeds the total limit of containers 64Ki. "
    );
}

#[test]
fn nothing_is_counted_where_nothing_is_limited() {
    let fixture = Fixture::new(&[("v", VolumeMedium::Default, None)], None);
    assert!(fixture.space().room("v").is_none());
    assert!(!fixture.space().is_counted());
}

#[test]
fn a_memory_volume_is_paid_from_the_pods_memory_and_gives_it_back() {
    let fixture = Fixture::new(&[("m", VolumeMedium::Memory, None)], None);
    fixture.purse.left.store(100 * KIB, Ordering::Relaxed);
    let space = fixture.space();
    let room = space.room("m").unwrap();
    assert!(fixture.write(&room, "m/file", 64 << 10));
    assert!(!grow(&room, 64 * KIB), "not that much memory");
    fixture.remove(&room, "m/file");
    assert!(grow(&room, 64 * KIB));
    drop((room, space));
    assert_eq!(fixture.purse.left.load(Ordering::Relaxed), 100 * KIB);
}

#[test]
fn a_memory_volume_without_a_limit_has_the_nodes_memory() {
    let fixture = Fixture::new(&[("m", VolumeMedium::Memory, None)], None);
    fixture.purse.left.store(u64::MAX, Ordering::Relaxed);
    let space = fixture.space();
    assert_eq!(space.volumes[0].limit, Some(1 << 30));
    assert!(!grow(&space.room("m").unwrap(), 2 << 30));
}

#[test]
fn empty_files_count_too() {
    let fixture = Fixture::one(10);
    for n in 0..11 {
        fs::write(fixture.path(&format!("v/{n}")), "").unwrap();
    }
    let excess = fixture.space().measure().unwrap();
    assert!(matches!(&excess, Excess::Volume { used, .. } if *used == 11 * KIB), "{excess:?}");
    assert_eq!(excess.to_string(), "Usage of EmptyDir volume \"v\" exceeds the limit \"10Ki\". ");
}

#[test]
fn a_file_counts_once_whatever_it_is_called_and_a_hole_counts() {
    let fixture = Fixture::one(1024);
    fs::write(fixture.path("v/one"), vec![7; 100 << 10]).unwrap();
    fs::hard_link(fixture.path("v/one"), fixture.path("v/two")).unwrap();
    let space = fixture.space();
    assert_eq!(space.used()[0].1, 102 * KIB);
    File::create(fixture.path("v/sparse")).unwrap().set_len(500 << 10).unwrap();
    assert_eq!(space.measure(), None);
    assert_eq!(space.used()[0].1, 603 * KIB);
}

#[test]
fn a_tree_that_is_too_deep_counts_as_full() {
    let fixture = Fixture::new(&[("v", VolumeMedium::Default, Some(1 << 40))], None);
    let deep: PathBuf = std::iter::repeat_n("d", DEPTH_MAX + 2).collect();
    fs::create_dir_all(fixture.path("v").join(deep)).unwrap();
    let excess = fixture.space().measure();
    assert!(matches!(excess, Some(Excess::Volume { used: u64::MAX, .. })));
}

#[test]
fn what_was_there_before_the_daemon_counts() {
    let fixture = Fixture::one(64);
    fs::write(fixture.path("v/old"), vec![7; 60 << 10]).unwrap();
    assert!(!grow(&fixture.space().room("v").unwrap(), 8 * KIB));
}

#[test]
fn init_containers_add_nothing_to_those_that_run_together() {
    let with = |kind, bytes| {
        let mut container = pods::regular("c");
        container.kind = kind;
        container.resources.ephemeral_storage_limit_bytes = bytes;
        container
    };
    let limit = |init: [Container; 2], regular: [Container; 2]| {
        let mut pod = pods::pod(regular);
        pod.init_containers = init.into();
        ephemeral_limit(&pod)
    };
    use ContainerKind::{Init, Regular, Sidecar};
    let none = || [with(Init, None), with(Sidecar, None)];
    assert_eq!(limit(none(), [with(Regular, None), with(Regular, None)]), None);
    let both = || [with(Regular, Some(10)), with(Regular, Some(20))];
    assert_eq!(limit(none(), both()), Some(30));
    assert_eq!(limit([with(Init, Some(40)), with(Sidecar, Some(5))], both()), Some(40));
    assert_eq!(limit([with(Init, Some(34)), with(Sidecar, Some(5))], both()), Some(35));
}

#[test]
fn quantities_are_written_as_kubernetes_writes_them() {
    for (bytes, text) in
        [(0, "0"), (1 << 20, "1Mi"), (3 << 29, "1536Mi"), (1_000_000, "1M"), (1001, "1001")]
    {
        assert_eq!(quantity(bytes), text);
    }
}
