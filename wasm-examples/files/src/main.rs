//! Does to files what it is told, and says what came of it: for tests of volumes and of what a module must not reach.
//!
//! args: one or more operations, separated by `then`:
//!   write PATH TEXT · append PATH TEXT · read PATH · stat PATH · list DIR · mkdir DIR · rename FROM TO · delete PATH
//!   rmdir DIR · symlink TARGET PATH · fill PATH BYTES · touch PATH · wait PATH SECONDS · escape DIR
//! `escape` tries every way it knows to read or write outside of DIR, a mount, and reports each.
//! Prints one line an operation: `ok …` or `error KIND …`.
//! exit codes: 0 all worked (for `escape`: nothing got out); 1 one failed; 2 wrong arguments.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::time::{Duration, Instant};
use std::{env, thread};

mod escape;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut code = 0;
    for operation in words.split(|word| *word == "then") {
        match perform(operation) {
            Some(Ok(text)) => println!("ok {text}"),
            Some(Err(error)) => {
                println!("error {:?} {}", error.kind(), operation.join(" "));
                code = 1;
            }
            None => {
                eprintln!("files: no such operation: {}", operation.join(" "));
                podling_guest::exit(2);
            }
        }
    }
    podling_guest::exit(code)
}

/// None when it is no operation at all.
fn perform(operation: &[&str]) -> Option<io::Result<String>> {
    let outcome = match operation {
        ["write", path, text] => fs::write(path, text).map(|()| format!("wrote {path}")),
        ["append", path, text] => append(path, text).map(|()| format!("appended {path}")),
        ["read", path] => fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        ["stat", path] => stat(path),
        ["list", path] => list(path),
        ["mkdir", path] => fs::create_dir(path).map(|()| format!("made {path}")),
        ["rename", from, to] => fs::rename(from, to).map(|()| format!("renamed {from} to {to}")),
        ["delete", path] => fs::remove_file(path).map(|()| format!("deleted {path}")),
        ["rmdir", path] => fs::remove_dir(path).map(|()| format!("removed {path}")),
        ["symlink", target, path] => symlink(target, path).map(|()| format!("linked {path}")),
        ["fill", path, bytes] => fill(path, bytes.parse().ok()?),
        ["touch", path] => touch(path).map(|()| format!("touched {path}")),
        ["wait", path, seconds] => wait(path, seconds.parse().ok()?),
        ["escape", path] => escape::attempt_all(path),
        _ => return None,
    };
    Some(outcome)
}

fn append(path: &str, text: &str) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).open(path)?.write_all(text.as_bytes())
}

fn stat(path: &str) -> io::Result<String> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = match metadata.file_type() {
        kind if kind.is_symlink() => "symlink",
        kind if kind.is_dir() => "directory",
        kind if kind.is_file() => "file",
        _ => "other",
    };
    Ok(format!("{kind} {}", metadata.len()))
}

fn list(path: &str) -> io::Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names.join(" "))
}

/// std offers this for WASI only in unstable form.
fn symlink(target: &str, path: &str) -> io::Result<()> {
    let (target, path) = (CString::new(target)?, CString::new(path)?);
    // SAFETY: both are live C strings, and `symlink` keeps neither.
    match unsafe { libc::symlink(target.as_ptr(), path.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets its times to now.
fn touch(path: &str) -> io::Result<()> {
    let path = CString::new(path)?;
    // SAFETY: the path is a live C string that is not kept, and no times are given to be read.
    match unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), std::ptr::null(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Writes in pieces, so that a full disk is met part of the way.
fn fill(path: &str, bytes: u64) -> io::Result<String> {
    let piece = [b'x'; 16 * 1024];
    let mut file = fs::File::create(path)?;
    let mut left = bytes;
    while left > 0 {
        let count = left.min(piece.len() as u64) as usize;
        file.write_all(&piece[..count])?;
        left -= count as u64;
    }
    file.sync_all()?;
    Ok(format!("filled {path} with {bytes}"))
}

fn wait(path: &str, seconds: u64) -> io::Result<String> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !fs::exists(path)? {
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(format!("found {path}"))
}
