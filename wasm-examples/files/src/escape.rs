//! Every way this guest knows out of a mounted directory. All must fail.

use std::fs;
use std::io;

use crate::symlink;

/// Files that some host has and a module must not see.
const TREASURES: [&str; 3] = ["etc/passwd", "etc/hostname", "proc/self/environ"];

/// Tries them all, prints one line each, and leaves its symbolic links where they are: whoever walks the directory from
/// outside must not follow them either.
pub(crate) fn attempt_all(mount: &str) -> io::Result<String> {
    let up = "../".repeat(12);
    let mut attempts: Vec<(String, io::Result<()>)> = Vec::new();
    for treasure in TREASURES {
        attempts.push(read(&format!("{mount}/{up}{treasure}")));
        attempts.push(read(&format!("/{treasure}")));
        attempts.push(read(&format!("{mount}/./x/../{up}{treasure}")));
    }
    for (name, target) in [
        ("escape-relative", format!("{up}etc/passwd")),
        ("escape-absolute", "/etc/passwd".to_owned()),
        ("escape-directory", "..".to_owned()),
        ("escape-proc", "/proc/self/root".to_owned()),
    ] {
        let link = format!("{mount}/{name}");
        // The link may be refused, or may already be there from an earlier run; following it is what counts.
        let _ = symlink(&target, &link);
        attempts.push(read(&link));
        attempts.push(read(&format!("{link}/etc/passwd")));
        attempts.push(write(&format!("{link}/escaped.txt")));
    }
    attempts.push(write(&format!("{mount}/../escaped.txt")));
    attempts.push(moved(mount));
    report(&attempts)
}

fn read(path: &str) -> (String, io::Result<()>) {
    (format!("read {path}"), fs::read(path).map(drop))
}

fn write(path: &str) -> (String, io::Result<()>) {
    (format!("write {path}"), fs::write(path, "escaped"))
}

fn moved(mount: &str) -> (String, io::Result<()>) {
    let inside = format!("{mount}/escape-cargo");
    let outside = format!("{mount}/../escape-cargo");
    let outcome = fs::write(&inside, "cargo").and_then(|()| fs::rename(&inside, &outside));
    let _ = fs::remove_file(&inside);
    (format!("rename {inside} {outside}"), outcome)
}

fn report(attempts: &[(String, io::Result<()>)]) -> io::Result<String> {
    let mut escaped = 0;
    for (what, outcome) in attempts {
        match outcome {
            Ok(()) => {
                escaped += 1;
                println!("ESCAPED {what}");
            }
            Err(error) => println!("held {what}: {:?}", error.kind()),
        }
    }
    if escaped == 0 {
        Ok(format!("{} attempts held", attempts.len()))
    } else {
        Err(io::Error::from(io::ErrorKind::PermissionDenied))
    }
}
