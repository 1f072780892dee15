//! Files and folders below `/data`.

use std::fs::{self, File};
use std::io::{self, Write};

use wasi::filesystem::preopens::get_directories;
use wasi::filesystem::types::{DescriptorFlags, OpenFlags, PathFlags};

use crate::{begins, held};

const DATA: &str = "/data";

/// Opens one file very often.
pub(crate) fn open(number: usize) -> io::Result<()> {
    let path = format!("{DATA}/file");
    fs::write(&path, "x")?;
    begins();
    let mut files = Vec::new();
    for count in 0..number {
        match File::open(&path) {
            Ok(file) => files.push(file),
            Err(error) => held(files, &format!("{count} files, then {error}")),
        }
    }
    held(files, &format!("{number} files"))
}

/// Asks for 4 GiB of a file at once, in each way there is.
pub(crate) fn read() -> io::Result<()> {
    const HUGE: u64 = 4 << 30;
    File::create(format!("{DATA}/huge"))?.set_len(16 << 20)?;
    let (folder, _) = get_directories().pop().ok_or(io::ErrorKind::NotFound)?;
    let file = folder
        .open_at(PathFlags::empty(), "huge", OpenFlags::empty(), DescriptorFlags::READ)
        .map_err(|_| io::ErrorKind::Other)?;
    begins();
    loop {
        let read = file.read(HUGE, 0).map_or(0, |(bytes, _)| bytes.len());
        let stream = file.read_via_stream(0).map_err(|_| io::ErrorKind::Other)?;
        let streamed = stream.blocking_read(HUGE).map_or(0, |bytes| bytes.len());
        let skipped = stream.blocking_skip(HUGE).unwrap_or(0);
        println!("read {read}, streamed {streamed}, skipped {skipped}");
    }
}

/// Paths of four mebibytes.
pub(crate) fn paths() -> io::Result<()> {
    let (folder, _) = get_directories().pop().ok_or(io::ErrorKind::NotFound)?;
    let path = "x/".repeat(2 << 20);
    begins();
    loop {
        let flags = DescriptorFlags::READ;
        let opened = folder.open_at(PathFlags::empty(), &path, OpenFlags::CREATE, flags);
        assert!(opened.is_err() && folder.symlink_at(&path, &path).is_err());
    }
}

/// Many entries in one folder, and lists of them.
pub(crate) fn directory(number: usize) -> io::Result<()> {
    begins();
    let folder = format!("{DATA}/many");
    fs::create_dir(&folder)?;
    for count in 0..number {
        if let Err(error) = File::create(format!("{folder}/{count}")) {
            println!("{count} entries, then {error}");
            break;
        }
    }
    let mut listed = 0;
    for _ in 0..3 {
        listed = fs::read_dir(&folder)?.count();
    }
    held((), &format!("{listed} entries listed"))
}

/// Many lists of the same folder, begun and never read to their end.
pub(crate) fn listings(number: usize) -> io::Result<()> {
    begins();
    let folder = format!("{DATA}/many");
    fs::create_dir(&folder)?;
    for count in 0..number {
        if File::create(format!("{folder}/{count}")).is_err() {
            break;
        }
    }
    let mut lists = Vec::new();
    for count in 0..100 {
        match fs::read_dir(&folder) {
            Ok(list) => lists.push(list),
            Err(error) => held(lists, &format!("{count} lists, then {error}")),
        }
    }
    held(lists, &"100 lists")
}

/// Folders in folders.
pub(crate) fn deep(number: usize) -> io::Result<()> {
    begins();
    let (mut folder, _) = get_directories().pop().ok_or(io::ErrorKind::NotFound)?;
    for count in 0..number {
        let made = folder.create_directory_at("d").and_then(|()| {
            let flags = DescriptorFlags::READ | DescriptorFlags::MUTATE_DIRECTORY;
            folder.open_at(PathFlags::empty(), "d", OpenFlags::DIRECTORY, flags)
        });
        match made {
            Ok(inner) => folder = inner,
            Err(error) => held(folder, &format!("{count} levels, then error {}", error as u8)),
        }
    }
    held(folder, &format!("{number} levels"))
}

/// Writes until there is no room, and goes on trying. Bounded all the same: where nothing stops it, the disk is somebody's.
pub(crate) fn disk(blocks: usize) -> io::Result<()> {
    begins();
    let block = vec![b'x'; 64 << 10];
    let mut file = File::create(format!("{DATA}/disk"))?;
    let mut written = 0;
    let refusal = loop {
        match file.write_all(&block) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        if written == blocks {
            println!("nothing stopped it");
            return Ok(());
        }
    };
    println!("full after {written} blocks: {refusal}");
    loop {
        // Still none.
        let _ = File::create(format!("{DATA}/more")).and_then(|mut more| more.write_all(&block));
    }
}
