//! Does to files what it is told, through WASI 0.3: for tests of how much a module may write.
//!
//! args: one or more operations, separated by `then`; the first part of each path names the mounted folder:
//!   fill /M/NAME BYTES · append /M/NAME BYTES · resize /M/NAME BYTES · hold /M/NAME BYTES · open /M/NAME · touch /M/NAME · mkdir /M/NAME · symlink TARGET /M/NAME
//!   link /M/NAME /M/NAME · rename /M/NAME /M/NAME · delete /M/NAME · list /M
//! `hold` fills, deletes, and keeps the file open. Prints one line an operation: `ok OPERATION` or `error CODE OPERATION`.
//! exit codes: 0 all worked; 1 one failed, or made no sense.

use guest_p3::wasip3::filesystem::preopens::get_directories;
use guest_p3::wasip3::filesystem::types::{
    Descriptor, DescriptorFlags, ErrorCode, NewTimestamp, OpenFlags, PathFlags,
};
use guest_p3::*;

struct Files;

export!(Files);

impl Guest for Files {
    async fn run() -> Result<(), ()> {
        let arguments = arguments();
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let folders = get_directories();
        // What is to stay open.
        let mut held = Vec::new();
        let mut outcome = Ok(());
        for operation in words.split(|word| *word == "then") {
            let said = operation.join(" ");
            match perform(&folders, operation, &mut held).await {
                Ok(()) => println!("ok {said}"),
                Err(code) => {
                    println!("error {} {said}", name(&code));
                    outcome = Err(());
                }
            }
        }
        outcome
    }
}

type Folders = [(Descriptor, String)];

async fn perform(
    folders: &Folders,
    operation: &[&str],
    held: &mut Vec<Descriptor>,
) -> Result<(), ErrorCode> {
    let place = |path: &str| find(folders, path);
    match operation {
        ["fill", path, bytes] => {
            let file = open(folders, path, OpenFlags::CREATE | OpenFlags::TRUNCATE).await?;
            write(&file, number(bytes)?, false).await
        }
        ["append", path, bytes] => {
            let file = open(folders, path, OpenFlags::CREATE).await?;
            write(&file, number(bytes)?, true).await
        }
        ["hold", path, bytes] => {
            let file = open(folders, path, OpenFlags::CREATE | OpenFlags::TRUNCATE).await?;
            let (folder, name) = place(path)?;
            let written = write(&file, number(bytes)?, false).await;
            folder.unlink_file_at(name).await?;
            held.push(file);
            written
        }
        ["resize", path, bytes] => {
            let file = open(folders, path, OpenFlags::CREATE).await?;
            file.set_size(number(bytes)? as u64).await
        }
        ["open", path] => {
            let (folder, name) = place(path)?;
            let flags = DescriptorFlags::READ;
            folder.open_at(PathFlags::SYMLINK_FOLLOW, name, OpenFlags::empty(), flags).await?;
            Ok(())
        }
        ["touch", path] => {
            let (folder, name) = place(path)?;
            let (now, flags) = (NewTimestamp::Now, PathFlags::SYMLINK_FOLLOW);
            folder.set_times_at(flags, name, now, now).await
        }
        ["mkdir", path] => {
            let (folder, name) = place(path)?;
            folder.create_directory_at(name).await
        }
        ["symlink", target, path] => {
            let (folder, name) = place(path)?;
            folder.symlink_at((*target).to_owned(), name).await
        }
        ["link", from, to] => {
            let ((folder, name), (into, new)) = (place(from)?, place(to)?);
            folder.link_at(PathFlags::empty(), name, into, new).await
        }
        ["rename", from, to] => {
            let ((folder, name), (into, new)) = (place(from)?, place(to)?);
            folder.rename_at(name, into, new).await
        }
        ["delete", path] => {
            let (folder, name) = place(path)?;
            folder.unlink_file_at(name).await
        }
        ["list", path] => {
            let (folder, _) = place(&format!("{path}/"))?;
            let (mut entries, ended) = folder.read_directory();
            let mut names = Vec::new();
            while let Some(entry) = entries.next().await {
                names.push(entry.name);
            }
            names.sort();
            println!("{}", names.join(" "));
            ended.await
        }
        _ => Err(ErrorCode::Invalid),
    }
}

fn number(text: &str) -> Result<usize, ErrorCode> {
    text.parse().map_err(|_| ErrorCode::Invalid)
}

/// The mounted folder and the rest of a path.
fn find<'a>(folders: &'a Folders, path: &str) -> Result<(&'a Descriptor, String), ErrorCode> {
    let (mount, rest) = path[1..].split_once('/').ok_or(ErrorCode::Invalid)?;
    let found = folders.iter().find(|(_, guest)| guest.trim_start_matches('/') == mount);
    let (folder, _) = found.ok_or(ErrorCode::NoEntry)?;
    Ok((folder, rest.to_owned()))
}

async fn open(folders: &Folders, path: &str, how: OpenFlags) -> Result<Descriptor, ErrorCode> {
    let (folder, name) = find(folders, path)?;
    let flags = DescriptorFlags::READ | DescriptorFlags::WRITE;
    folder.open_at(PathFlags::empty(), name, how, flags).await
}

async fn write(file: &Descriptor, bytes: usize, append: bool) -> Result<(), ErrorCode> {
    let (mut output, source) = wit_stream::new();
    let ended =
        if append { file.append_via_stream(source) } else { file.write_via_stream(source, 0) };
    let feed = async {
        let rest = output.write_all(vec![b'x'; bytes]).await;
        drop(output);
        rest.len()
    };
    let (_, written) = both(feed, async { ended.await }).await;
    written
}

fn name(code: &ErrorCode) -> &'static str {
    match code {
        ErrorCode::InsufficientSpace => "insufficient-space",
        ErrorCode::CrossDevice => "cross-device",
        ErrorCode::NoEntry => "no-entry",
        ErrorCode::Invalid => "invalid",
        ErrorCode::Io => "io",
        ErrorCode::NoSuchDevice => "no-such-device",
        ErrorCode::NameTooLong => "name-too-long",
        _ => "another",
    }
}
