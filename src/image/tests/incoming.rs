//! Content that comes piece by piece: power cuts, damage, two at once, and no room.

use sha2::{Digest as _, Sha256};

use super::*;
use crate::image::incoming::SYNC_BYTES;

const MIB: usize = 1024 * 1024;

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::new(Sha256::digest(bytes).into())
}

fn expected(bytes: &[u8]) -> Expected {
    Expected { digest: digest_of(bytes), content: Content::Module, bytes_max: 64 << 20 }
}

fn part(store: &ImageStore, expected: Expected) -> Part {
    match store.begin(expected).unwrap() {
        Begun::Part(part) => *part,
        other @ (Begun::Here(_) | Begun::Busy) => panic!("{other:?}"),
    }
}

fn size(bytes: &[u8]) -> u64 {
    bytes.len() as u64
}

fn fake(disk: &Unlucky) -> ImageStore {
    ImageStore::prepare(Arc::new(disk.clone()), Path::new("/state/images"), false).unwrap().0
}

/// Takes in what is missing; the resumed offset.
fn bring(store: &ImageStore, bytes: &[u8]) -> Result<u64, IncomingError> {
    let mut part = match store.begin(expected(bytes))? {
        Begun::Part(part) => *part,
        Begun::Here(_) => return Ok(size(bytes)),
        Begun::Busy => panic!("nobody else is here"),
    };
    store.admit(&mut part, size(bytes))?;
    let from = part.length();
    for chunk in bytes[usize::try_from(from).unwrap()..].chunks(300_000) {
        part.write(chunk)?;
    }
    store.finish(part)?;
    Ok(from)
}

#[test]
fn content_is_visible_when_it_is_whole_and_not_before() {
    let bench = Bench::new();
    let bytes = module(CORE, 3, 3 * MIB);
    let digest = digest_of(&bytes);
    let by_digest = name(&digest.to_string());
    let mut part = part(&bench.store, expected(&bytes));
    bench.store.admit(&mut part, size(&bytes)).unwrap();
    for chunk in bytes.chunks(70_000) {
        assert!(bench.store.resolve(&by_digest, later()).is_err());
        part.write(chunk).unwrap();
    }
    assert_eq!(bench.blobs(), [format!("{}.part", digest.hex())]);
    let here = bench.store.finish(part).unwrap();
    assert_eq!(fs::read(&here.path).unwrap(), bytes);
    assert_eq!(bench.blobs(), [digest.hex()]);
    assert_eq!(bench.store.resolve(&by_digest, later()).unwrap().path, here.path);
    // Three whole MiB, the rest, the folder twice.
    assert_eq!(bench.store.written().fsyncs, 6 + opening_fsyncs());
    assert!(matches!(bench.store.begin(expected(&bytes)).unwrap(), Begun::Here(_)));
}

fn opening_fsyncs() -> u64 {
    Bench::new().store.written().fsyncs
}

#[test]
fn a_part_is_gone_on_with_by_the_next_process() {
    let bench = Bench::new();
    let bytes = module(CORE, 3, 3 * MIB);
    let mut first = part(&bench.store, expected(&bytes));
    first.write(&bytes[..2 * MIB + 5000]).unwrap();
    drop(first);
    // What came after the last sync is not trusted.
    let (store, _) = bench.again();
    assert_eq!(part(&store, expected(&bytes)).length(), 2 * SYNC_BYTES);
    assert_eq!(bring(&store, &bytes).unwrap(), 2 * SYNC_BYTES);
}

#[test]
fn a_damaged_part_never_wins() {
    let bench = Bench::new();
    let bytes = module(CORE, 3, 3 * MIB);
    let path = bench.store.part_of(&digest_of(&bytes));
    let leave = |damage: &dyn Fn(&mut Vec<u8>)| {
        let mut beginning = bytes[..=2 * MIB].to_vec();
        damage(&mut beginning);
        fs::write(&path, beginning).unwrap();
    };
    // Zeros where a module begins are noticed at once.
    leave(&|beginning| beginning[..4096].fill(0));
    assert_eq!(part(&bench.store, expected(&bytes)).length(), 0);
    // A flipped bit in the middle is noticed at the end; then it starts over.
    leave(&|beginning| beginning[MIB] ^= 1);
    let error = bring(&bench.store, &bytes).unwrap_err();
    assert!(matches!(error, IncomingError::Mismatch { .. }), "{error}");
    assert_eq!(bench.blobs(), Vec::<String>::new());
    assert_eq!(bring(&bench.store, &bytes).unwrap(), 0);
    // One that is longer than the whole is none of it.
    fs::remove_file(bench.store.blob(&digest_of(&bytes))).unwrap();
    fs::write(&path, vec![0; 5 * MIB]).unwrap();
    assert_eq!(bring(&bench.store, &bytes).unwrap(), 0);
}

#[test]
fn a_blob_that_has_rotted_is_brought_again() {
    let bench = Bench::new();
    let bytes = module(CORE, 3, 5000);
    bring(&bench.store, &bytes).unwrap();
    let blob = bench.store.blob(&digest_of(&bytes));
    let mut rotten = bytes.clone();
    rotten[100] ^= 1;
    fs::write(&blob, rotten).unwrap();
    assert_eq!(bring(&bench.store, &bytes).unwrap(), 0);
    assert_eq!(fs::read(&blob).unwrap(), bytes);
}

#[test]
fn what_is_not_wanted_is_refused_before_it_costs_anything() {
    let bench = Bench::new();
    let bytes = module(CORE, 3, 5000);
    let small = Expected { bytes_max: 4000, ..expected(&bytes) };
    let mut too_large = part(&bench.store, small);
    assert_eq!(
        bench.store.admit(&mut too_large, 5012).unwrap_err().to_string(),
        format!("{} has 5012 bytes; this node takes at most 4000", digest_of(&bytes))
    );
    // One that lies about its size is stopped where it passes it.
    assert!(matches!(too_large.write(&bytes), Err(IncomingError::Length { .. })));
    drop(too_large);
    let mut page = part(&bench.store, expected(b"<html>"));
    let error = page.write(b"<html>\n<body>").unwrap_err();
    assert!(error.to_string().contains("is not WebAssembly: it begins with 3c 68 74"), "{error}");
    assert_eq!(page.length(), 0);
    let other = Expected { content: Content::Other, ..expected(b"<html>") };
    drop(page);
    let mut patch = part(&bench.store, other);
    patch.write(b"<html>").unwrap();
    bench.store.finish(patch).unwrap();
}

#[test]
fn content_that_ends_early_is_kept_and_not_taken() {
    let bench = Bench::new();
    let bytes = module(CORE, 3, 2 * MIB);
    let mut short = part(&bench.store, expected(&bytes));
    bench.store.admit(&mut short, size(&bytes)).unwrap();
    short.write(&bytes[..MIB + 5]).unwrap();
    let error = bench.store.finish(short).unwrap_err();
    assert!(
        matches!(error, IncomingError::Length { found, .. } if found == size(&bytes[..MIB + 5]))
    );
    assert_eq!(bring(&bench.store, &bytes).unwrap(), SYNC_BYTES);
}

#[test]
fn two_processes_do_not_write_one_part() {
    let bench = Bench::new();
    let bytes = module(CORE, 3, 5000);
    let mut first = part(&bench.store, expected(&bytes));
    let (other, _) = bench.again();
    assert!(matches!(other.begin(expected(&bytes)).unwrap(), Begun::Busy));
    first.write(&bytes).unwrap();
    bench.store.finish(first).unwrap();
    assert!(matches!(other.begin(expected(&bytes)).unwrap(), Begun::Here(_)));
    assert_eq!(bench.blobs(), [digest_of(&bytes).hex()]);
}

#[test]
fn a_power_cut_at_any_step_costs_at_most_what_was_not_synced() {
    let bytes = module(CORE, 3, 2 * MIB + 700_000);
    let whole = Unlucky::new(Path::new("/state/images"));
    bring(&fake(&whole), &bytes).unwrap();
    for step in 0..whole.steps() {
        let disk = Unlucky::new(Path::new("/state/images"));
        disk.plan(Fault::PowerCut { step });
        let synced = (|| {
            let (store, _) =
                ImageStore::prepare(Arc::new(disk.clone()), Path::new("/state/images"), false)
                    .ok()?;
            let error = bring(&store, &bytes).unwrap_err();
            assert!(matches!(error, IncomingError::Store { .. }), "{error}");
            Some(store.written())
        })();
        for seed in 0..6 {
            let survival = match seed {
                0 => Survival::Nothing,
                1 => Survival::Everything,
                seed => Survival::Random(seed),
            };
            let disk = disk.reboot(survival);
            let store = fake(&disk);
            let by_digest = name(&digest_of(&bytes).to_string());
            if let Ok(found) = store.resolve(&by_digest, later()) {
                assert!(disk.read(&found.path, 1 << 30).unwrap() == Some(bytes.clone()), "{step}");
            }
            let from = bring(&store, &bytes).unwrap();
            // A sync that came back has saved its mebibyte; whether it did is in doubt if nothing came after it.
            let saved = synced.map_or(0, |written| written.bytes / SYNC_BYTES).saturating_sub(2);
            assert!(from >= saved * SYNC_BYTES, "step {step}, {survival:?}: from {from}");
            let found = store.resolve(&by_digest, later()).unwrap();
            assert!(disk.read(&found.path, 1 << 30).unwrap() == Some(bytes.clone()));
        }
    }
}

#[test]
fn a_full_disk_fails_the_write_and_the_part_can_be_gone_on_with() {
    let bytes = module(CORE, 3, 400_000);
    let disk = Unlucky::new(Path::new("/state/images"));
    let store = fake(&disk);
    let mut part = part(&store, expected(&bytes));
    part.write(&bytes[..1000]).unwrap();
    disk.plan(Fault::Full { step: disk.steps() });
    let error = part.write(&bytes[1000..]).unwrap_err();
    assert!(error.is_lack_of_space(), "{error}");
    assert_eq!(part.length(), 1000);
    disk.mend();
    part.write(&bytes[1000..]).unwrap();
    assert_eq!(store.finish(part).unwrap().size, size(&bytes));
}

/// A store of four modules: loaded, pulled long ago, pulled lately, and pulled by digest for nobody.
struct Shelf {
    disk: Unlucky,
    store: ImageStore,
    loaded: Vec<u8>,
    old: Vec<u8>,
    new: Vec<u8>,
    loose: Vec<u8>,
}

impl Shelf {
    const EACH: usize = 2_000_000;

    fn new() -> Self {
        let disk = Unlucky::new(Path::new("/state/images"));
        let store = fake(&disk);
        let [loaded, old, new, loose] = [1, 2, 3, 4].map(|fill| module(CORE, fill, Self::EACH));
        for bytes in [&loaded, &old, &new, &loose] {
            bring(&store, bytes).unwrap();
        }
        let named = Named {
            repository: "web".into(),
            tag: "1".into(),
            digest: digest_of(&loaded),
            size: size(&loaded),
            kind: ModuleKind::Core,
            created_ms: 0,
            manifest: None,
            pulled: false,
        };
        store.records.put_name(&store.io, &named).unwrap();
        for (tag, bytes, created_ms) in [("old", &old, 5), ("new", &new, 9)] {
            let repository = "registry.example/web".to_owned();
            let name = PulledName { repository, tag: tag.into(), manifest: None, created_ms };
            store.put_pulled(&name, &digest_of(bytes)).unwrap();
        }
        Self { disk, store, loaded, old, new, loose }
    }

    /// Which of the four are there when one more of `bytes` has come in, with so much room for all.
    fn left_after(&self, modules: usize, bytes: &[u8]) -> (bool, [bool; 4]) {
        // 5 % of the disk stay in reserve.
        let reserve = (1_u64 << 30) / 20;
        self.disk.limit(reserve + (modules * (Self::EACH + 10_000)) as u64);
        let came = bring(&self.store, bytes).is_ok();
        let left = [&self.loaded, &self.old, &self.new, &self.loose]
            .map(|bytes| self.store.resolve(&name(&digest_of(bytes).to_string()), later()).is_ok());
        (came, left)
    }
}

#[test]
fn room_is_made_from_what_nobody_needs_oldest_first() {
    let more = module(CORE, 5, Shelf::EACH);
    for (modules, left) in [
        (5, (true, [true, true, true, true])),
        (4, (true, [true, true, true, false])),
        (3, (true, [true, false, true, false])),
        (2, (true, [true, false, false, false])),
        // What was loaded by hand stays.
        (1, (false, [true, false, false, false])),
    ] {
        let shelf = Shelf::new();
        shelf.store.pins().settle();
        assert_eq!(shelf.left_after(modules, &more), left, "room for {modules}");
    }
}

#[test]
fn nothing_is_collected_before_the_node_knows_what_it_needs() {
    let shelf = Shelf::new();
    let (came, left) = shelf.left_after(4, &module(CORE, 5, Shelf::EACH));
    assert_eq!((came, left), (false, [true; 4]));
}

#[test]
fn what_is_held_stays() {
    let more = module(CORE, 5, Shelf::EACH);
    let shelf = Shelf::new();
    let pins = shelf.store.pins();
    pins.settle();
    let by_name = name("registry.example/web:old");
    let held = [pins.hold([digest_of(&shelf.loose)]), pins.hold_images([&by_name])];
    let again = pins.hold([digest_of(&shelf.loose)]);
    drop(again);
    let (came, left) = shelf.left_after(3, &more);
    assert_eq!((came, left), (false, [true, true, false, true]));
    drop(held);
    let (came, left) = shelf.left_after(3, &more);
    assert_eq!((came, left), (true, [true, true, false, false]));
}

#[test]
fn parts_that_nobody_brings_any_more_go_first() {
    let shelf = Shelf::new();
    shelf.store.pins().settle();
    let abandoned = module(CORE, 6, Shelf::EACH);
    let mut part = part(&shelf.store, expected(&abandoned));
    part.write(&abandoned[..MIB + MIB / 2]).unwrap();
    drop(part);
    let (came, left) = shelf.left_after(5, &module(CORE, 5, Shelf::EACH));
    assert_eq!((came, left), (true, [true; 4]));
    assert!(shelf.disk.files().iter().all(|file| !file.to_string_lossy().ends_with(".part")));
}

#[test]
fn pulled_names_tell_where_their_content_came_from() {
    let bench = Bench::new();
    let bytes = module(COMPONENT, 3, 5000);
    bring(&bench.store, &bytes).unwrap();
    let (digest, manifest) = (digest_of(&bytes), Digest::new([7; 32]));
    let pulled = |tag: &str| PulledName {
        repository: "registry.example/web".into(),
        tag: tag.into(),
        manifest: Some(manifest),
        created_ms: 5,
    };
    bench.store.put_pulled(&pulled("2"), &digest).unwrap();
    bench.store.put_pulled(&pulled(&manifest_tag(&manifest)), &digest).unwrap();
    let (store, _) = bench.again();
    for text in ["registry.example/web:2", &format!("registry.example/web:9@{manifest}")] {
        let found = store.resolve(&name(text), later()).unwrap();
        assert_eq!(found.digest, digest);
        assert_eq!(found.image_id, format!("registry.example/web@{manifest}"));
    }
    // A manifest's digest says nothing without its repository.
    assert!(store.resolve(&name(&manifest.to_string()), later()).is_err());
    assert!(store.resolve(&name(&format!("other.example/web@{manifest}")), later()).is_err());
    let tags: Vec<String> = store.ls().unwrap().into_iter().map(|row| row.tag).collect();
    assert_eq!(tags, ["2", "<none>"].map(str::to_owned));
    let removed = store.rm(&name(&format!("registry.example/web@{manifest}"))).unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted), (2, vec![digest]));
}
