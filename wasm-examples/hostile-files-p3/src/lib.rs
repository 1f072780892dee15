//! Makes the host hold as much as it can be made to through the files of WASI 0.3: for the tests of what is on a module's account.
//!
//! args: ATTACK [NUMBER], as `hostile-p3`; files are below `/data`, a folder with many entries is `/full`.

use guest_p3::wasip3::filesystem::preopens::get_directories;
use guest_p3::wasip3::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};
use guest_p3::*;

use hoard_p3::{held, hold_all, told, wait_for_all};

struct Hostile;

export!(Hostile);

impl Guest for Hostile {
    async fn run() -> Result<(), ()> {
        let (attack, number) = told();
        match attack.as_str() {
            "open" => open(number).await,
            "readers" => readers(number).await,
            "writers" => writers(number).await,
            "listings" => listings(number).await,
            "paths" => paths().await,
            "folders" => hold_all(number, || Some(get_directories())).await,
            _ => return Err(()),
        }
        Ok(())
    }
}

fn folder(guest: &str) -> Descriptor {
    let found = get_directories().into_iter().find(|(_, name)| name == guest);
    found.expect("the folder is mounted").0
}

async fn file() -> Descriptor {
    let (folder, flags) = (folder("/data"), DescriptorFlags::READ | DescriptorFlags::WRITE);
    let file = folder.open_at(PathFlags::empty(), "f".into(), OpenFlags::CREATE, flags);
    let Ok(file) = file.await else { panic!("no file") };
    file.set_size(1 << 20).await.expect("a disk");
    file
}

/// Opens one file very often.
async fn open(number: usize) {
    let (_file, folder) = (file().await, folder("/data"));
    let mut all = Vec::new();
    while all.len() < number {
        let opened = folder.open_at(
            PathFlags::empty(),
            "f".into(),
            OpenFlags::empty(),
            DescriptorFlags::READ,
        );
        match opened.await {
            Ok(file) => all.push(file),
            Err(code) => {
                let words = format!("{} files, then {code:?}", all.len());
                return held(all, &words).await;
            }
        }
    }
    held(all, "all of them").await;
}

/// Streams from a file, that nothing is read from.
async fn readers(number: usize) {
    let file = file().await;
    hold_all(number, || Some(file.read_via_stream(0))).await;
}

/// Streams into a file, that nothing is written to.
async fn writers(number: usize) {
    let file = file().await;
    let writer = || {
        let (output, source) = wit_stream::new::<u8>();
        (output, file.write_via_stream(source, 0))
    };
    hold_all(number, || Some(writer())).await;
}

/// Lists of a large folder, begun and not read to their ends.
async fn listings(number: usize) {
    let folder = folder("/full");
    let mut all = Vec::new();
    while all.len() < number {
        let (mut entries, ended) = folder.read_directory();
        if entries.next().await.is_none() {
            let words = format!("{} lists, then {:?}", all.len(), ended.await);
            return held(all, &words).await;
        }
        all.push((entries, ended));
    }
    held(all, "all of them").await;
}

/// Paths of a mebibyte, as many calls at once as there may be.
async fn paths() {
    let folder = folder("/data");
    let folder = &folder;
    wait_for_all(usize::MAX, |_| folder.stat_at(PathFlags::empty(), "x/".repeat(1 << 19))).await;
}
