//! Folders with walls, as guests of either kind meet them.

use std::path::Path;
use std::sync::Arc;

use super::super::Room;
use super::lab::{Paper, Trial};
use crate::clock::Clock;
use crate::spec::Exit;
use crate::volume::space;

/// A folder with so many KiB of room.
struct Folder {
    dir: tempfile::TempDir,
    room: Arc<dyn Room>,
}

impl Folder {
    fn new(kib: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let open = std::fs::File::open(dir.path()).unwrap().into();
        let room = space::Room::of_run(&open, kib << 10, Clock::start()).unwrap();
        Self { dir, room: Arc::new(crate::pod::space::Room(room)) }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// How a program sees a write that the wall stopped. WASI says `insufficient-space` either way; the C library of WASI 0.2 keeps nothing
/// of a stream's error but that there was one (EIO).
fn full(image: &str) -> &'static str {
    if image == "files" { "error Uncategorized" } else { "error StorageFull" }
}

/// Runs `files` with the folders mounted at `/a`, `/b`.
async fn files(image: &str, folders: &[&Folder], operations: &str) -> (Exit, Arc<Paper>) {
    let words: Vec<&str> = operations.split_whitespace().collect();
    let mut trial = Trial::of(image, &words).await;
    for (folder, guest) in folders.iter().zip(["/a", "/b"]) {
        trial = trial.mount(folder.path(), guest, false);
        trial.run.mounts.last_mut().unwrap().room = Some(Arc::clone(&folder.room));
    }
    trial.finish().await
}

#[tokio::test]
async fn components_of_0_3_meet_the_same_walls() {
    const FULL: &str = "error insufficient-space";
    for (operations, outcome) in [
        ("fill /a/f 60000", "ok"),
        ("fill /a/f 70000", FULL),
        ("fill /a/f 200000", FULL),
        ("fill /a/f 40000 then append /a/f 10000 then append /a/f 20000", FULL),
        ("resize /a/f 60000 then resize /a/g 10000", FULL),
        ("resize /a/f 60000 then resize /a/f 10 then fill /a/g 50000", "ok"),
        ("fill /a/f 60000 then mkdir /a/d", FULL),
        ("fill /a/f 60000 then symlink f /a/l", FULL),
        ("fill /a/f 60000 then link /a/f /a/g then link /a/f /a/h then list /a", "ok"),
        ("fill /a/f 60000 then delete /a/f then fill /a/g 60000", "ok"),
        ("hold /a/f 50000 then fill /a/g 50000", FULL),
        ("fill /a/f 10 then rename /a/f /b/f", "error cross-device"),
        ("fill /a/f 10 then link /a/f /b/f", "error cross-device"),
        ("fill /a/f 50000 then fill /a/g 10 then rename /a/g /a/f then fill /a/h 50000", "ok"),
    ] {
        let folders = [&Folder::new(64), &Folder::new(64)];
        let (exit, paper) = files("files-p3", &folders, operations).await;
        let text = paper.stdout();
        let last = text.lines().rfind(|line| !line.contains("[flushed]")).unwrap_or_default();
        assert!(last.starts_with(outcome), "{operations}: {exit:?}: {text}");
    }
}

const IMAGES: [&str; 2] = ["files", "files-p1"];

#[tokio::test]
async fn every_way_to_take_space_ends_at_the_wall() {
    for image in IMAGES {
        for (operations, outcome) in [
            ("fill /a/f 60000", "ok filled"),
            ("fill /a/f 70000", full(image)),
            ("fill /a/f 60000 then append /a/f x then append /a/g x", full(image)),
            ("fill /a/f 60000 then mkdir /a/d", "error StorageFull mkdir"),
            ("fill /a/f 60000 then symlink f /a/l", "error StorageFull symlink"),
            ("fill /a/f 50000 then fill /a/f 60000", "ok filled /a/f with 60000"),
            ("fill /a/f 60000 then delete /a/f then fill /a/g 60000", "ok filled /a/g"),
            (
                "fill /a/f 50000 then write /a/g x then rename /a/g /a/f then fill /a/h 50000",
                "ok filled /a/h",
            ),
        ] {
            let (_, paper) = files(image, &[&Folder::new(64)], operations).await;
            let text = paper.stdout();
            let last = text.lines().rfind(|line| !line.contains("[flushed]")).unwrap_or_default();
            assert!(last.starts_with(outcome), "{image}: {operations}: {text}");
        }
    }
}

#[tokio::test]
async fn a_file_stays_in_the_folder_that_pays_for_it() {
    for image in IMAGES {
        let folders = [&Folder::new(64), &Folder::new(64)];
        let (_, paper) =
            files(image, &folders, "write /a/f x then rename /a/f /b/f then rename /a/f /a/g")
                .await;
        let text = paper.stdout();
        assert!(text.contains("error CrossesDevices rename /a/f /b/f"), "{image}: {text}");
        assert!(text.contains("ok renamed /a/f to /a/g"), "{image}: {text}");
    }
}

#[tokio::test]
async fn many_small_files_end_at_the_wall_too() {
    for image in IMAGES {
        let folder = Folder::new(64);
        let operations: Vec<String> = (0..20).map(|n| format!("write /a/{n} x")).collect();
        let (exit, paper) = files(image, &[&folder], &operations.join(" then ")).await;
        assert_eq!(exit, Exit::Code(1));
        let made = paper.stdout().matches("ok wrote").count();
        assert_eq!(made, 12, "{image}: a block and a name each: {}", paper.stdout());
    }
}
