//! Nothing leads out of a volume, whatever a guest left in it.

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use rustix::fs::{FileType, RenameFlags, mknodat, renameat_with};
use rustix::io::Errno;

use super::super::beneath::{self, FileId};
use super::*;

fn folder(path: &Path) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    openat(CWD, path, flags, Mode::empty()).unwrap()
}

type Open = fn(&OwnedFd, &Path, OFlags) -> io::Result<OwnedFd>;

/// By the kernel, and by hand as on a kernel that cannot.
const WAYS: [(&str, Open); 2] = [
    ("openat2", |dir, path, flags| beneath::open(dir, path, flags)),
    ("walk", |dir, path, flags| beneath::walk(dir.as_fd(), path, flags)),
];

#[test]
fn links_are_followed_inside_and_refused_when_they_lead_out() {
    let temp = tempfile::tempdir().unwrap();
    let volume = temp.path().join("volume");
    fs::create_dir_all(volume.join("a/b")).unwrap();
    fs::write(temp.path().join("outside"), "outside").unwrap();
    fs::write(volume.join("a/file"), "inside").unwrap();
    for (link, target) in [
        ("in", "a/file"),
        ("a/up", "../a/file"),
        ("dir", "a"),
        ("chain", "dir/up"),
        ("self", "self"),
        ("out", "../outside"),
        ("a/b/far", "../../../outside"),
        ("abs", "/etc/passwd"),
        ("root", "/"),
        ("round", "a/../../volume/a/file"),
        ("magic", "/proc/self/root/etc/passwd"),
    ] {
        symlink(target, volume.join(link)).unwrap();
    }
    let inside = FileId::of(folder(&volume).as_fd()).unwrap();
    let file = fs::metadata(volume.join("a/file")).unwrap().ino();
    let dir = folder(&volume);
    for (way, open) in WAYS {
        for path in ["a/file", "in", "a/up", "dir/file", "chain", "a/b/../file", "./a//file"] {
            let opened = open(&dir, Path::new(path), OFlags::PATH).unwrap();
            assert_eq!(FileId::of(&opened).unwrap().ino, file, "{way} {path}");
        }
        for path in ["", ".", "a/..", "a/b/../.."] {
            let opened = open(&dir, Path::new(path), OFlags::PATH).unwrap();
            assert_eq!(FileId::of(&opened).unwrap(), inside, "{way} {path:?}");
        }
        for path in ["out", "a/b/far", "abs", "root/etc", "round", "magic", "..", "a/../..", "/etc"]
        {
            let error = open(&dir, Path::new(path), OFlags::PATH).unwrap_err();
            assert_eq!(Errno::from_io_error(&error), Some(Errno::XDEV), "{way} {path}");
        }
        let error = open(&dir, Path::new("self"), OFlags::PATH).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::LOOP), "{way}");
        let error = open(&dir, Path::new("none/x"), OFlags::PATH).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{way}");
        let error = open(&dir, Path::new("in"), OFlags::RDONLY | OFlags::NOFOLLOW).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::LOOP), "{way}: no link at the end");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_walk_by_hand_agrees_with_the_kernel(
        links in proptest::collection::vec(("[abc]", "(\\.\\./|[abc]/|\\./){0,3}[abc]"), 0..6),
        paths in proptest::collection::vec("(\\.\\./|[abc]/|\\./){0,4}[abc.]", 1..12),
    ) {
        let temp = tempfile::tempdir().unwrap();
        let volume = temp.path().join("volume");
        fs::create_dir_all(volume.join("a/b/c")).unwrap();
        fs::write(volume.join("a/a"), "").unwrap();
        for (at, (name, target)) in links.iter().enumerate() {
            let place = [volume.clone(), volume.join("a"), volume.join("a/b")][at % 3].join(name);
            let _ = symlink(target, place); // Some names are taken.
        }
        let dir = folder(&volume);
        for path in &paths {
            let [kernel, walk] = WAYS.map(|(_, open)| {
                open(&dir, Path::new(path), OFlags::PATH)
                    .map(|fd| FileId::of(fd).unwrap())
                    .map_err(|error| Errno::from_io_error(&error))
            });
            prop_assert_eq!(kernel, walk, "{} with {:?}", path, links);
        }
    }
}

/// Ends the other thread also when an assertion fails.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_folder_swapped_for_a_link_during_the_walk_never_leads_out() {
    let temp = tempfile::tempdir().unwrap();
    let volume = temp.path().join("volume");
    fs::create_dir_all(volume.join("a/b")).unwrap();
    fs::create_dir_all(temp.path().join("outside/b")).unwrap();
    fs::write(volume.join("a/b/file"), "inside").unwrap();
    fs::write(temp.path().join("outside/b/file"), "outside").unwrap();
    symlink("../outside", volume.join("link")).unwrap();
    let outside: BTreeSet<u64> = ["outside", "outside/b", "outside/b/file"]
        .map(|path| fs::metadata(temp.path().join(path)).unwrap().ino())
        .into();
    let dir = folder(&volume);
    let done = AtomicBool::new(false);
    let (mut opened, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                renameat_with(&dir, "a", &dir, "link", RenameFlags::EXCHANGE).unwrap();
            }
        });
        let _end = SetOnDrop(&done);
        let mut round = 0;
        // Until both outcomes were had often: on a busy machine the threads take long turns.
        while round < 2000 || ((opened < 20 || refused < 20) && round < 2_000_000) {
            round += 1;
            let (_, open) = WAYS[round % 2];
            match open(&dir, Path::new("a/b/file"), OFlags::PATH) {
                Ok(file) => {
                    opened += 1;
                    assert!(!outside.contains(&FileId::of(file).unwrap().ino), "round {round}");
                }
                Err(_) => refused += 1,
            }
            if let Ok(made) = beneath::make_dirs(&dir, Path::new("a/b/new/deep"), 0o755) {
                assert!(!outside.contains(&FileId::of(made).unwrap().ino));
            }
        }
    });
    assert!(opened >= 20 && refused >= 20, "the race was run: {opened} opened, {refused} refused");
    assert!(!temp.path().join("outside/b/new").exists());
}

#[test]
fn removal_follows_no_link_and_stops_at_no_depth_or_width() {
    let temp = tempfile::tempdir().unwrap();
    let outside = temp.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    let volume = temp.path().join("volume");
    fs::create_dir(&volume).unwrap();
    for (link, target) in [("out", "../outside"), ("abs", "/"), ("file", "../outside/precious")] {
        symlink(target, volume.join(link)).unwrap();
    }
    fs::hard_link(outside.join("precious"), volume.join("hard")).unwrap();
    mknodat(CWD, volume.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    // Deeper than any path may be long, with side branches on the way.
    let mut here = folder(&volume);
    for depth in 0..700 {
        if depth % 50 == 0 {
            let side = beneath::make_dir(&here, "side", 0o777).unwrap();
            beneath::make_dir(&side, "x", 0o777).unwrap();
        }
        here = beneath::make_dir(&here, "directory-with-a-long-name", 0o777).unwrap();
    }
    // Names that the removal itself would like to use.
    fs::write(volume.join(".podling-removing-1"), "").unwrap();
    fs::create_dir_all(volume.join(".podling-removing-2/full")).unwrap();
    // Wide: files, and folders that are not empty.
    let wide = beneath::make_dir(folder(&volume), "wide", 0o777).unwrap();
    for number in 0..600 {
        let one = beneath::make_dir(&wide, format!("d{number}"), 0o777).unwrap();
        if number % 2 == 0 {
            beneath::make_dir(&one, "inner", 0o777).unwrap();
        }
        let flags = OFlags::WRONLY | OFlags::CREATE;
        openat(&wide, format!("f{number}"), flags, Mode::from_raw_mode(0o644)).unwrap();
    }
    beneath::remove_tree(folder(temp.path()), "volume").unwrap();
    assert!(!volume.exists());
    assert_eq!(fs::read_to_string(outside.join("precious")).unwrap(), "x");
    beneath::remove_tree(folder(temp.path()), "volume").unwrap();
    // Something that is no folder at all.
    symlink("outside", temp.path().join("volume")).unwrap();
    beneath::remove_tree(folder(temp.path()), "volume").unwrap();
    assert!(outside.join("precious").exists() && fs::symlink_metadata(&volume).is_err());
}

#[test]
fn folders_are_made_with_their_mode_and_only_where_they_are_missing() {
    let temp = tempfile::tempdir().unwrap();
    let dir = folder(temp.path());
    beneath::make_dirs(&dir, Path::new("a/b"), 0o777).unwrap();
    beneath::make_dirs(&dir, Path::new("a/b/./c"), 0o750).unwrap();
    let mode = |path: &str| fs::metadata(temp.path().join(path)).unwrap().mode() & 0o777;
    assert_eq!((mode("a"), mode("a/b"), mode("a/b/c")), (0o777, 0o777, 0o750));
    fs::write(temp.path().join("file"), "").unwrap();
    assert!(beneath::make_dirs(&dir, Path::new("file/x"), 0o777).is_err());
    symlink("/", temp.path().join("out")).unwrap();
    assert!(beneath::make_dirs(&dir, Path::new("out/tmp/x"), 0o777).is_err());
}
