//! The file of known nodes: which key each node was first seen with, as SSH's known hosts; and beside it, how far each was heard.
//!
//! Owns: the two files.
//!
//! - Known nodes: one line for each, `TENANT/NODE ed25519:KEY`; empty lines and those that begin with `#` are left alone. Lines are only ever
//!   added, in one write each time, so that two runs side by side spoil nothing; of two lines for one node the first counts. A person takes
//!   lines away.
//! - The same name with `.seen` at its end: `TENANT/NODE ed25519:KEY CONN SEQ WHEN`, the newest that was seen of each under that key. It changes
//!   with nearly every run, so it is replaced as a whole, by one run at a time. A person who takes a line away, or the file, loses nothing but
//!   the memory: the next run begins anew.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use ed25519_dalek::VerifyingKey;

use crate::controller::known::{KnownNodes, Mark, Seen};
use crate::mqtt::trust::{public_key, public_key_text};
use crate::secret::write_private;

use super::complain;

/// Largest file: 100,000 nodes with long names.
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// What the file of how far nodes were heard has at the end of its name.
const SEEN: &str = ".seen";

/// Its first line.
const SEEN_HEAD: &str = "# The newest that was seen of each node: what is older is not believed. A line that is taken away is forgotten.\n";

/// New nodes that are named one by one.
const NAMED_MAX: usize = 3;

/// Reads the nodes of a tenant. A line that cannot be read is an error: left out, its node would be seen for the first time once more.
///
/// # Errors
/// The file is there and cannot be read.
pub(super) fn read(path: &Path, tenant: &str, into: &mut KnownNodes) -> anyhow::Result<()> {
    let shown = path.display();
    for (number, line) in lines(&text(path)?) {
        let (of, node, key) = parsed(line).with_context(|| {
            format!(
                "line {number} of {shown} is no known node: TENANT/NODE ed25519:KEY is expected"
            )
        })?;
        if of == tenant {
            into.add(node, key, &format!("line {number} of {shown}"));
        }
    }
    let path = seen_path(path);
    for (name, line) in seen_lines(&path)? {
        if let Some(node) = name.strip_prefix(tenant).and_then(|rest| rest.strip_prefix('/')) {
            let place = format!("line {} of {}", line.number, path.display());
            into.add_seen(node, line.key, Seen { mark: line.mark, when: line.when, place });
        }
    }
    Ok(())
}

/// What a file holds; nothing, if it is not there.
fn text(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let mut text = String::new();
    let found =
        File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    match found {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        other => other.with_context(|| format!("cannot read known nodes {shown}"))?,
    };
    ensure!(
        text.len() as u64 <= FILE_BYTES_MAX,
        "known nodes {shown}: more than {FILE_BYTES_MAX} bytes"
    );
    Ok(text)
}

/// Lines that say something, with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let trimmed = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    trimmed.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn parsed(line: &str) -> Option<(&str, &str, VerifyingKey)> {
    let (name, key) = line.split_once(' ')?;
    let (tenant, node) = name.split_once('/')?;
    Some((tenant, node, of_node(key)?))
}

fn of_node(key: &str) -> Option<VerifyingKey> {
    public_key(key.trim()).filter(|key| !key.is_weak())
}

/// A line of the other file.
#[derive(Debug)]
struct SeenLine {
    number: usize,
    key: VerifyingKey,
    mark: Mark,
    when: String,
}

fn seen_path(known_nodes: &Path) -> PathBuf {
    let mut path = known_nodes.as_os_str().to_owned();
    path.push(SEEN);
    path.into()
}

/// How far nodes were heard, by `TENANT/NODE`.
fn seen_lines(path: &Path) -> anyhow::Result<BTreeMap<String, SeenLine>> {
    let mut all = BTreeMap::new();
    for (number, line) in lines(&text(path)?) {
        let (name, seen) = seen_line(number, line).with_context(|| {
            format!(
                "line {number} of {} does not say how far a node was heard (TENANT/NODE ed25519:KEY CONN SEQ WHEN): take it away",
                path.display()
            )
        })?;
        all.insert(name.to_owned(), seen);
    }
    Ok(all)
}

fn seen_line(number: usize, line: &str) -> Option<(&str, SeenLine)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [name, key, conn, seq, when] = words[..] else { return None };
    name.split_once('/')?;
    let mark = Mark { conn: conn.parse().ok()?, seq: seq.parse().ok()? };
    Some((name, SeenLine { number, key: of_node(key)?, mark, when: when.to_owned() }))
}

/// Keeps how far nodes were heard; `when`: now, as one word.
pub(super) fn keep_seen(
    known_nodes: &Path,
    tenant: &str,
    heard: &[(String, VerifyingKey, Mark)],
    when: &str,
) {
    if heard.is_empty() {
        return;
    }
    // Beside nothing at all there is no directory to sync.
    let path = Path::new(".").join(seen_path(known_nodes));
    if let Err(error) = raise(&path, tenant, heard, when) {
        complain(&format!(
            "Warning: how far nodes were heard is not remembered, so an old word of theirs would not be noticed: {error:#}"
        ));
    }
}

fn raise(
    path: &Path,
    tenant: &str,
    heard: &[(String, VerifyingKey, Mark)],
    when: &str,
) -> anyhow::Result<()> {
    let dir = path.parent().unwrap_or(path);
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let lock = File::open(dir).with_context(|| format!("cannot open {}", dir.display()))?;
    // Of two runs at the same time one writes; what only the other has heard is heard by the next. A file system without locks has none.
    if matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
        return Ok(());
    }
    let mut all = seen_lines(path)?;
    for (node, key, mark) in heard {
        let name = format!("{tenant}/{node}");
        // Under another key the numbers are another node's.
        let is_known = all.get(&name).is_some_and(|seen| seen.key == *key && seen.mark >= *mark);
        if !is_known {
            all.insert(name, SeenLine { number: 0, key: *key, mark: *mark, when: when.to_owned() });
        }
    }
    let line = |(name, seen): (&String, &SeenLine)| {
        let SeenLine { key, mark: Mark { conn, seq }, when, .. } = seen;
        format!("{name} {} {conn} {seq} {when}\n", public_key_text(key))
    };
    let text: String = std::iter::once(SEEN_HEAD.to_owned()).chain(all.iter().map(line)).collect();
    write_private(path, &text).with_context(|| format!("cannot write {}", path.display()))
}

/// Adds nodes, and tells of them. That they cannot be written is no reason to fail: they are seen for the first time again.
pub(super) fn keep(path: &Path, tenant: &str, nodes: &[(String, VerifyingKey)]) {
    if nodes.is_empty() {
        return;
    }
    let shown = path.display();
    let kept = match add(path, tenant, nodes) {
        Ok(()) => format!("remembered in {shown}"),
        Err(error) => format!("NOT remembered: cannot write {shown}: {error}"),
    };
    for (node, key) in nodes.iter().take(NAMED_MAX) {
        let key = public_key_text(key);
        complain(&format!("{node} is seen for the first time, with the key {key}: {kept}"));
    }
    if let Some(more) = nodes.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        complain(&format!("{more} more nodes are seen for the first time: {kept}"));
    }
}

/// What is said of a node whose word may be anybody's.
pub(super) fn does_not_sign(node: &str) -> String {
    format!(
        "Note: {node} does not sign what it says (an older podling): its word is worth what the broker's access list is worth"
    )
}

fn add(path: &Path, tenant: &str, nodes: &[(String, VerifyingKey)]) -> std::io::Result<()> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir)?;
    }
    let mut file = File::options().read(true).append(true).create(true).open(path)?;
    let lines =
        nodes.iter().map(|(node, key)| format!("{tenant}/{node} {}\n", public_key_text(key)));
    let mut text: String = lines.collect();
    if !ends_with_newline(&mut file)? {
        text.insert(0, '\n');
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// An editor may leave a last line open.
fn ends_with_newline(file: &mut File) -> std::io::Result<bool> {
    use std::io::{Seek as _, SeekFrom};
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::mqtt::controller::SecretKey;

    fn key(n: u8) -> VerifyingKey {
        SecretKey::from_seed(&[n; 32]).public()
    }

    fn known(path: &Path, tenant: &str) -> anyhow::Result<KnownNodes> {
        let mut known = KnownNodes::default();
        read(path, tenant, &mut known).map(|()| known)
    }

    #[test]
    fn what_was_kept_is_known_in_the_next_run_and_of_its_tenant_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/known-nodes");
        assert_eq!(known(&path, "acme").unwrap().key("gw"), None, "no file is no node");
        keep(&path, "acme", &[("gw".to_owned(), key(1))]);
        keep(&path, "acme", &[]);
        // What a person leaves behind: a remark, and no newline at the end.
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("# ours\n\n{}", text.trim_end())).unwrap();
        keep(&path, "acme", &[("gw".to_owned(), key(3)), ("gw-2".to_owned(), key(2))]);
        let nodes = known(&path, "acme").unwrap();
        assert_eq!(nodes.key("gw"), Some(&key(1)), "the first line counts");
        assert_eq!(nodes.key("gw-2"), Some(&key(2)));
        assert_eq!(known(&path, "other").unwrap().key("gw"), None);
    }

    fn heard(n: u8, conn: u64, seq: u64) -> [(String, VerifyingKey, Mark); 1] {
        [("gw".to_owned(), key(n), Mark { conn, seq })]
    }

    #[test]
    fn how_far_a_node_was_heard_is_known_in_the_next_run_and_never_falls_under_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/known-nodes");
        let standing = |tenant: &str, n: u8, conn: u64, seq: u64| {
            let mut known = known(&path, tenant).unwrap();
            known.add("gw", key(n), "settings");
            let proof = crate::mqtt::signature::Proof::Signed(key(n));
            known.judge("gw", proof, Some(Mark { conn, seq })).standing.as_str()
        };
        assert_eq!(standing("acme", 1, 1, 1), "verified");
        keep_seen(&path, "acme", &heard(1, 10, 7), "2026-11-21T07:00:00Z");
        keep_seen(&path, "acme", &[], "never");
        assert_eq!((standing("acme", 1, 9, 8), standing("acme", 1, 10, 7)), ("old", "verified"));
        // Of another tenant's node of that name, and of a node with a new disk, nothing was seen.
        assert_eq!(
            (standing("other", 1, 1, 1), standing("acme", 2, 1, 1)),
            ("verified", "verified")
        );
        // A run that began earlier ends later.
        keep_seen(&path, "acme", &heard(1, 10, 3), "2026-11-21T08:00:00Z");
        keep_seen(&path, "other", &heard(1, 4, 4), "2026-11-21T08:00:00Z");
        assert_eq!((standing("acme", 1, 10, 6), standing("other", 1, 3, 9)), ("old", "old"));
        let seen = dir.path().join("new/known-nodes.seen");
        let text = std::fs::read_to_string(&seen).unwrap();
        assert!(
            text.contains(" 10 7 2026-11-21T07:00:00Z\n") && text.lines().count() == 3,
            "{text}"
        );
        keep_seen(&path, "acme", &heard(2, 1, 1), "2026-11-21T09:00:00Z");
        assert_eq!(
            (standing("acme", 2, 1, 0), standing("acme", 1, 1, 1)),
            ("verified", "verified")
        );
        // Whoever takes the line away begins anew.
        std::fs::write(&seen, "# nothing\n\n").unwrap();
        assert_eq!(
            (standing("acme", 2, 1, 0), standing("other", 1, 3, 9)),
            ("verified", "verified")
        );
    }

    #[test]
    fn while_another_run_writes_this_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known-nodes");
        let other = File::open(dir.path()).unwrap();
        other.lock().unwrap();
        keep_seen(&path, "acme", &heard(1, 10, 7), "now");
        assert!(!dir.path().join("known-nodes.seen").exists());
        drop(other);
        keep_seen(&path, "acme", &heard(1, 10, 7), "now");
        assert!(dir.path().join("known-nodes.seen").exists());
    }

    #[test]
    fn a_line_that_cannot_be_read_is_not_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known-nodes");
        for line in ["gw ed25519:x", "acme/gw", "acme/gw ed25519:AAAA", "acme/gw  "] {
            std::fs::write(&path, format!("# x\n{line}\n")).unwrap();
            let error = format!("{:#}", known(&path, "acme").unwrap_err());
            assert!(
                error.contains("line 2 of") && error.contains("TENANT/NODE"),
                "{line}: {error}"
            );
        }
        std::fs::remove_file(&path).unwrap();
        let own = public_key_text(&key(1));
        for rest in ["", " 1", " 1 2", " x 2 now", " 1 -2 now", " 1 2 3 4"] {
            let text = format!("# x\nacme/gw {own}{rest}\n");
            std::fs::write(dir.path().join("known-nodes.seen"), text).unwrap();
            let error = format!("{:#}", known(&path, "acme").unwrap_err());
            assert!(error.contains("line 2 of") && error.contains("take it away"), "{error}");
        }
    }
}
