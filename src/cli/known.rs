//! The file of known nodes: which key each node was first seen with, as SSH's known hosts.
//!
//! Owns: the file. One line for each node, `TENANT/NODE ed25519:KEY`; empty lines and those that begin with `#` are left alone. Lines are only ever
//! added, in one write each time, so that two runs side by side spoil nothing; of two lines for one node the first counts. A person takes lines away.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, ensure};
use ed25519_dalek::VerifyingKey;

use crate::controller::known::KnownNodes;
use crate::mqtt::trust::{public_key, public_key_text};

use super::complain;

/// Largest file: 100,000 nodes with long names.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// New nodes that are named one by one.
const NAMED_MAX: usize = 3;

/// Reads the nodes of a tenant. A line that cannot be read is an error: left out, its node would be seen for the first time once more.
///
/// # Errors
/// The file is there and cannot be read.
pub(super) fn read(path: &Path, tenant: &str, into: &mut KnownNodes) -> anyhow::Result<()> {
    let shown = path.display();
    let mut text = String::new();
    let found =
        File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    match found {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("cannot read known nodes {shown}"))?,
    };
    ensure!(
        text.len() as u64 <= FILE_BYTES_MAX,
        "known nodes {shown}: more than {FILE_BYTES_MAX} bytes"
    );
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = at + 1;
        let (of, node, key) = parsed(line).with_context(|| {
            format!(
                "line {number} of {shown} is no known node: TENANT/NODE ed25519:KEY is expected"
            )
        })?;
        if of == tenant {
            into.add(node, key, &format!("line {number} of {shown}"));
        }
    }
    Ok(())
}

fn parsed(line: &str) -> Option<(&str, &str, VerifyingKey)> {
    let (name, key) = line.split_once(' ')?;
    let (tenant, node) = name.split_once('/')?;
    let key = public_key(key.trim()).filter(|key| !key.is_weak())?;
    Some((tenant, node, key))
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
    }
}
