#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::time::Duration;

use tempfile::TempDir;

mod incoming;

use super::*;
use crate::error::chain;
use crate::spec::PullPolicy;
use crate::store::unlucky::{Fault, Survival, Unlucky};

const CORE: &[u8] = b"\0asm\x01\0\0\0";
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// A module with one custom section of `size` bytes.
fn module(preamble: &[u8], fill: u8, size: usize) -> Vec<u8> {
    let mut bytes = preamble.to_vec();
    bytes.push(0);
    let mut length = size;
    while length >= 0x80 {
        bytes.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap());
    bytes.resize(bytes.len() + size, fill);
    bytes
}

fn name(text: &str) -> ImageRef {
    parse_reference(text, None).unwrap()
}

/// A time when files made by this test are long since settled.
fn later() -> Timestamp {
    Timestamp::new(Duration::ZERO, i64::MAX / 2)
}

/// A time at which every file might still change within its clock's tick.
fn at_once() -> Timestamp {
    Timestamp::new(Duration::ZERO, 0)
}

struct Bench {
    folder: TempDir,
    store: ImageStore,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, damage) = ImageStore::open(&folder.path().join("state/images")).unwrap();
        assert_eq!(damage, Vec::<String>::new());
        Self { folder, store }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn load(&self, text: &str, bytes: &[u8]) -> LoadedImage {
        let file = self.file("in.wasm", bytes);
        self.store.load(&file, &name(text), later(), &mut |_, _| {}).unwrap()
    }

    fn file_ref(&self, file: &str) -> ImageRef {
        parse_reference(&format!("file:{file}"), Some(self.folder.path())).unwrap()
    }

    fn again(&self) -> (ImageStore, Vec<String>) {
        ImageStore::open(&self.folder.path().join("state/images")).unwrap()
    }

    fn blobs(&self) -> Vec<String> {
        let folder = self.folder.path().join("state/images/blobs/sha256");
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn a_loaded_module_is_found_by_name_and_by_digest() {
    let bench = Bench::new();
    let bytes = module(COMPONENT, 7, 300_000);
    let file = bench.file("web.wasm", &bytes);
    let mut heard = Vec::new();
    let loaded = bench
        .store
        .load(&file, &name("green/web:1"), later(), &mut |done, total| heard.push((done, total)))
        .unwrap();
    let size = u64::try_from(bytes.len()).unwrap();
    assert_eq!((loaded.size, loaded.kind, loaded.new), (size, ModuleKind::Component, true));
    assert!(heard.len() > 8 && heard.is_sorted(), "progress goes forward: {heard:?}");
    assert_eq!(heard.last(), Some(&(2 * size, 2 * size)));
    let (store, _) = bench.again();
    for text in ["green/web:1".to_owned(), loaded.digest.to_string()] {
        let found = store.resolve(&name(&text), later()).unwrap();
        assert_eq!((found.digest, found.size), (loaded.digest, size));
        assert_eq!(found.image_id, format!("sha256:{}", loaded.digest.hex()));
        assert_eq!(fs::read(&found.path).unwrap(), bytes);
        assert_eq!(fs::metadata(&found.path).unwrap().permissions().mode() & 0o777, 0o600);
        store.verify(&found).unwrap();
    }
    let written = bench.store.written();
    assert!(!bench.load("green/web:1", &bytes).new);
    assert_eq!(bench.store.written(), written, "loading the same again writes nothing");
}

#[test]
fn what_is_no_module_is_refused_and_leaves_nothing() {
    let bench = Bench::new();
    let truncated = &module(CORE, 1, 1000)[..500];
    let rubbish: Vec<u8> = (0..2000u32).map(|n| n.to_le_bytes()[0].wrapping_mul(37)).collect();
    for (bytes, words) in [
        (truncated, "in.wasm is truncated: section 0 at byte 8 lacks 511 of its bytes"),
        (&rubbish, "in.wasm is not WebAssembly: it begins with 00 25 4a 6f"),
        (b"", "in.wasm is empty"),
        (b"(module)", "in.wasm is WebAssembly text"),
    ] {
        let file = bench.file("in.wasm", bytes);
        let error = bench.store.load(&file, &name("x"), later(), &mut |_, _| {}).unwrap_err();
        assert!(chain(&error).contains(words), "{}", chain(&error));
    }
    for (path, words) in [("missing", "cannot open module file"), (".", "not a regular file")] {
        let path = bench.folder.path().join(path);
        let error = bench.store.load(&path, &name("x"), later(), &mut |_, _| {}).unwrap_err();
        assert!(chain(&error).contains(words), "{}", chain(&error));
    }
    let large = bench.file("large.wasm", CORE);
    fs::File::options()
        .write(true)
        .open(&large)
        .unwrap()
        .set_len(import::MODULE_BYTES_MAX + 1)
        .unwrap();
    let error = bench.store.load(&large, &name("x"), later(), &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, LoadError::Import(ImportError::TooLarge { .. })), "{error}");
    let fifo = bench.folder.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let error = bench.store.load(&fifo, &name("x"), later(), &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, LoadError::Import(ImportError::NotAFile { .. })), "{error}");
    assert_eq!((bench.blobs(), bench.store.ls().unwrap()), (vec![], vec![]));
}

#[test]
fn one_content_may_have_many_names_and_goes_with_the_last() {
    let bench = Bench::new();
    let bytes = module(CORE, 1, 100);
    let digest = bench.load("b/web:2", &bytes).digest;
    bench.load("web", &bytes);
    bench.load("b/web:1", &bytes);
    let other = bench.load("other", &module(CORE, 2, 100)).digest;
    let rows: Vec<String> = bench
        .store
        .ls()
        .unwrap()
        .iter()
        .map(|row| format!("{}:{} {} {}", row.repository, row.tag, row.kind.as_str(), row.size))
        .collect();
    assert_eq!(
        rows,
        ["b/web:1", "b/web:2", "other:latest", "web:latest"].map(|n| format!("{n} module 110"))
    );
    let removed = bench.store.rm(&name("web")).unwrap();
    assert_eq!(removed, Removed { untagged: vec!["web:latest".to_owned()], deleted: vec![] });
    let removed = bench.store.rm(&name(&digest.to_string())).unwrap();
    assert_eq!(removed.untagged, ["b/web:1", "b/web:2"]);
    assert_eq!(removed.deleted, [digest]);
    assert_eq!(bench.blobs(), [other.hex()]);
    for gone in ["web".to_owned(), digest.to_string()] {
        let error = bench.store.rm(&name(&gone)).unwrap_err();
        assert_eq!(error.to_string(), format!("no such image: {gone}"));
    }
    // A name may move on to other content.
    assert_eq!(bench.load("other", &bytes).digest, digest);
    assert_eq!(bench.store.resolve(&name("other"), later()).unwrap().digest, digest);
    assert_eq!(bench.store.collect(&|_| false).unwrap(), [other], "what lost its name");
}

#[test]
fn a_file_reference_runs_what_was_hashed_and_is_hashed_once() {
    let bench = Bench::new();
    let (one, two) = (module(CORE, 1, 5000), module(CORE, 2, 5000));
    let file = bench.file("web.wasm", &one);
    let image = bench.file_ref("web.wasm");
    let first = bench.store.resolve(&image, later()).unwrap();
    assert_eq!(fs::read(&first.path).unwrap(), one);
    // Known: not opened for reading a second time, nothing written.
    let written = bench.store.written();
    let (again, _) = bench.again();
    let opened = again.written();
    assert_eq!(again.resolve(&image, later()).unwrap(), first);
    assert_eq!((bench.store.written(), again.written()), (written, opened));
    // An edit, of the same length, with the old time put back, is noticed.
    let times = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, &two).unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(times).unwrap();
    let second = bench.store.resolve(&image, later()).unwrap();
    assert_ne!(second.digest, first.digest);
    assert_eq!(fs::read(&first.path).unwrap(), one, "what runs is not touched");
    // Nobody refers to the old content now; the new one is kept for its file.
    assert_eq!(bench.store.collect(&|digest| *digest == first.digest).unwrap(), []);
    assert_eq!(bench.store.collect(&|_| false).unwrap(), [first.digest]);
    fs::remove_file(&file).unwrap();
    assert_eq!(bench.store.collect(&|_| false).unwrap(), [second.digest]);
}

#[test]
fn a_file_changed_a_moment_ago_is_never_taken_for_known() {
    let bench = Bench::new();
    let one = module(CORE, 1, 500);
    bench.file("web.wasm", &one);
    let image = bench.file_ref("web.wasm");
    let first = bench.store.resolve(&image, at_once()).unwrap();
    let stored = bench.store.records.file(&bench.store.io, &bench.folder.path().join("web.wasm"));
    assert_eq!(stored.unwrap().stamp, import::Stamp::never());
    let written = bench.store.written();
    assert_eq!(bench.store.resolve(&image, at_once()).unwrap(), first);
    assert_eq!(bench.store.written(), written, "hashed again, but not written again");
    assert_eq!(bench.store.collect(&|_| false).unwrap(), [], "its content is kept for it");
}

#[test]
fn a_file_reference_that_cannot_be_read_says_why() {
    let bench = Bench::new();
    bench.file("bad.wasm", b"MZ rubbish, more than eight bytes");
    symlink("/proc/self/mem", bench.folder.path().join("link.wasm")).unwrap();
    for (file, words) in [
        ("none.wasm", "none.wasm: No such file or directory"),
        ("bad.wasm", "bad.wasm is not WebAssembly: it begins with 4d 5a"),
        ("link.wasm", "cannot read module file"),
    ] {
        let image = bench.file_ref(file);
        let error = bench.store.resolve(&image, later()).unwrap_err();
        let failure = pull_failure(&image, PullPolicy::IfNotPresent, &error);
        assert_eq!(failure.reason, "ErrImagePull");
        assert!(failure.message.contains(words), "{}", failure.message);
    }
}

#[test]
fn a_missing_image_is_told_in_kubernetes_words() {
    let bench = Bench::new();
    let error = |text: &str| bench.store.resolve(&name(text), later()).unwrap_err();
    for (policy, reason, message) in [
        (
            PullPolicy::Always,
            "ErrImagePull",
            "image \"web:1\" is not in the local store: load it with podling image load FILE --name web:1",
        ),
        (
            PullPolicy::Never,
            "ErrImageNeverPull",
            "Container image \"web:1\" is not present with pull policy of Never",
        ),
    ] {
        let failure = pull_failure(&name("web:1"), policy, &error("web:1"));
        assert_eq!((failure.reason, failure.message.as_str()), (reason, message));
    }
    let failure = invalid_name("Web", &parse_reference("Web", None).unwrap_err());
    assert_eq!(failure.reason, "InvalidImageName");
    assert_eq!(
        failure.message,
        "Failed to apply default image tag \"Web\": couldn't parse image name \"Web\": invalid \
         reference format: repository name (Web) must be lowercase"
    );
}

#[test]
fn rot_is_noticed_and_loading_again_repairs_it() {
    let bench = Bench::new();
    let bytes = module(CORE, 3, 2000);
    bench.load("web", &bytes);
    let image = bench.store.resolve(&name("web"), later()).unwrap();
    let mut rotten = bytes.clone();
    rotten[700] ^= 1;
    fs::write(&image.path, &rotten).unwrap();
    let error = bench.store.verify(&image).unwrap_err();
    assert!(matches!(error, ResolveError::Damaged { .. }), "{error}");
    assert!(bench.load("web", &bytes).new);
    bench.store.verify(&image).unwrap();
    // One that lost its end does not even resolve.
    fs::write(&image.path, &bytes[..100]).unwrap();
    let error = bench.store.resolve(&name("web"), later()).unwrap_err();
    assert!(matches!(error, ResolveError::Damaged { .. }), "{error}");
    fs::remove_file(&image.path).unwrap();
    let error = bench.store.resolve(&name("web"), later()).unwrap_err();
    let failure = pull_failure(&name("web"), PullPolicy::Never, &error);
    assert_eq!(failure.reason, "ErrImagePull");
    assert!(failure.message.contains("is missing: load it again"), "{}", failure.message);
}

#[test]
fn a_damaged_name_costs_that_name_and_is_reported_once() {
    let bench = Bench::new();
    bench.load("web:1", &module(CORE, 1, 10));
    bench.load("web:2", &module(CORE, 2, 10));
    let names = bench.folder.path().join("state/images/names");
    let record = fs::read_dir(&names)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| fs::read_to_string(path).unwrap().contains("\"name\":\"1\""))
        .unwrap();
    fs::write(&record, b"podling-record 1 00\n{}\n").unwrap();
    let (store, damage) = bench.again();
    assert!(damage[0].contains("does not match its checksum"), "{damage:?}");
    assert!(matches!(store.resolve(&name("web:1"), later()), Err(ResolveError::NotFound { .. })));
    store.resolve(&name("web:2"), later()).unwrap();
    assert_eq!(bench.again().1, Vec::<String>::new());
}

#[test]
fn old_parts_go_but_never_those_of_a_load_that_is_under_way() {
    let bench = Bench::new();
    let part = bench.store.part();
    fs::write(&part, b"half").unwrap();
    let loading = bench.store.share_loading().unwrap();
    bench.again();
    assert!(part.exists(), "somebody is loading");
    drop(loading);
    bench.again();
    assert!(!part.exists());
}

#[test]
fn two_processes_may_change_the_store_at_once() {
    let bench = Bench::new();
    let (other, _) = bench.again();
    let files: Vec<PathBuf> =
        (0..8u8).map(|n| bench.file(&format!("{n}.wasm"), &module(CORE, n % 3, 4000))).collect();
    std::thread::scope(|scope| {
        for store in [&bench.store, &other] {
            let files = &files;
            scope.spawn(move || {
                for (n, file) in files.iter().enumerate() {
                    let image = name(&format!("web:{n}"));
                    store.load(file, &image, later(), &mut |_, _| {}).unwrap();
                    // The other one may have been quicker, or have removed what was just loaded.
                    let _ = store.rm(&name(&format!("web:{}", n / 2)));
                    store.collect(&|_| false).unwrap();
                }
            });
        }
    });
    // Whatever the outcome of the races: every name has its content.
    for row in other.ls().unwrap() {
        let image = other.resolve(&name(&format!("{}:{}", row.repository, row.tag)), later());
        other.verify(&image.unwrap()).unwrap();
    }
    assert!(bench.blobs().iter().all(|blob| !blob.starts_with(PART)));
}

#[test]
fn a_name_never_outlives_a_power_cut_without_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (module(CORE, 1, 3000), module(CORE, 2, 3000));
    let root = Path::new("/images");
    let paths = [("one.wasm", &one), ("two.wasm", &two)].map(|(name, bytes)| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    });
    let open = |disk: &Unlucky| ImageStore::prepare(Arc::new(disk.clone()), root, false);
    let story = |disk: &Unlucky| -> Result<(), Box<dyn std::error::Error>> {
        let (store, _) = open(disk)?;
        store.load(&paths[0], &name("web"), later(), &mut |_, _| {})?;
        store.load(&paths[1], &name("web"), later(), &mut |_, _| {})?;
        store.rm(&name("web"))?;
        store.load(&paths[0], &name("web"), later(), &mut |_, _| {})?;
        Ok(())
    };
    let whole = Unlucky::new(root);
    story(&whole).unwrap();
    for step in 0..whole.steps() {
        let disk = Unlucky::new(root);
        disk.plan(Fault::PowerCut { step });
        story(&disk).unwrap_err();
        for seed in 0..12 {
            let survival = match seed {
                0 => Survival::Nothing,
                1 => Survival::Everything,
                seed => Survival::Random(seed),
            };
            let disk = disk.reboot(survival);
            let (store, damage) = open(&disk).unwrap();
            assert_eq!(damage, Vec::<String>::new(), "step {step}, {survival:?}");
            if let Some(row) = store.ls().unwrap().first() {
                let blob = store.blob(&row.digest);
                let bytes = disk.read(&blob, 1 << 20).unwrap();
                assert!(
                    bytes.as_ref() == Some(&one) || bytes.as_ref() == Some(&two),
                    "step {step}, {survival:?}: a name without its content"
                );
            }
            assert!(disk.files().iter().all(|file| !file.to_string_lossy().contains(PART)));
        }
    }
    // A full disk: the load fails and leaves nothing behind, names can still be taken away.
    let disk = Unlucky::new(root);
    let (store, _) = open(&disk).unwrap();
    store.load(&paths[0], &name("web"), later(), &mut |_, _| {}).unwrap();
    let files = disk.files();
    // At each step in turn: no room for the part's name, its content, the record's name, its content.
    let mut failures = 0;
    let room_at = (0..).find(|later_step| {
        disk.plan(Fault::Full { step: disk.steps() + later_step });
        let Err(error) = store.load(&paths[1], &name("web:2"), later(), &mut |_, _| {}) else {
            return true;
        };
        assert!(chain(&error).contains("the image store"), "{}", chain(&error));
        failures += 1;
        disk.mend();
        store.collect(&|_| false).unwrap();
        assert_eq!(disk.files(), files, "no room from step {later_step} on");
        false
    });
    assert!(failures >= 4 && room_at.is_some());
    disk.mend();
    store.rm(&name("web:2")).unwrap();
    disk.plan(Fault::Full { step: disk.steps() });
    assert_eq!(store.rm(&name("web")).unwrap().deleted.len(), 1);
    assert_eq!(disk.files(), Vec::<PathBuf>::new());
}

#[test]
fn space_is_checked_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Unlucky::new(folder.path());
    let (store, _) = ImageStore::prepare(Arc::new(disk.clone()), folder.path(), false).unwrap();
    // The fake disk has 1 GiB; 5 % of it, 51 MiB, stay reserved.
    check_space(&store.io, folder.path(), 900 << 20).unwrap();
    let error = check_space(&store.io, folder.path(), 1000 << 20).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no space for 1048576000 bytes in the image store: 1073741824 bytes are free, 53687091 are \
         kept in reserve"
    );
}

#[test]
fn a_module_is_one_file_with_one_link() {
    // Hard links would let an edit of the original reach what runs.
    let bench = Bench::new();
    bench.file("web.wasm", &module(CORE, 1, 50));
    let image = bench.store.resolve(&bench.file_ref("web.wasm"), later()).unwrap();
    assert_eq!(fs::metadata(image.path).unwrap().nlink(), 1);
}
