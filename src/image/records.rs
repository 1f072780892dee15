//! What images are called: one small durable record per name, and one per module file that a manifest named.
//!
//! Owns: the folders `names` and `files`, and what their records say. Not: the blobs (`mod`), nor the lock: whoever
//! changes a record here holds the store's. One record per name, not one list, so that damage costs one name and a
//! removal needs no space.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::store::record::{Label, PathLabel, file_name};
use crate::store::slots::{self, Metered, Slots};

use super::digest::Digest;
use super::import::Stamp;
use super::wasm::ModuleKind;

/// A name and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) repository: String,
    pub(super) tag: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) kind: ModuleKind,
    /// When it was loaded, in milliseconds since 1970.
    pub(super) created_ms: i64,
    /// Digest of the registry's manifest, if it came from a registry.
    pub(super) manifest: Option<Digest>,
    /// It can be had again from where it came.
    pub(super) pulled: bool,
}

/// A module file that was hashed: as long as its stamp stays, so does its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hashed {
    pub(super) path: PathBuf,
    pub(super) stamp: Stamp,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

impl Hashed {
    /// The same, vouching for nothing: it only keeps the content from being collected.
    #[must_use]
    pub(super) fn doubtful(self) -> Self {
        Self { stamp: Stamp::never(), ..self }
    }
}

#[derive(Serialize, Deserialize)]
struct NameRecord {
    digest: String,
    size: u64,
    kind: String,
    created_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    manifest: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pulled: bool,
}

#[derive(Serialize, Deserialize)]
struct FileRecord {
    path: PathLabel,
    stamp: Stamp,
    digest: String,
    size: u64,
}

/// The two folders of records.
#[derive(Debug)]
pub(super) struct Records {
    base: PathBuf,
}

/// One folder of records: its name, and the `kind` in its labels.
#[derive(Clone, Copy)]
struct Folder {
    name: &'static str,
    kind: &'static str,
}

const NAMES: Folder = Folder { name: "names", kind: "ImageName" };
const FILES: Folder = Folder { name: "files", kind: "ModuleFile" };

impl Records {
    /// Makes the folders below `base`; moves damaged records out of the way. What was damaged, in words.
    pub(super) fn open(io: &Metered, base: &Path) -> io::Result<(Self, Vec<String>)> {
        let records = Self { base: base.to_owned() };
        let mut damage = Vec::new();
        for folder in [NAMES, FILES] {
            let dir = records.dir(folder);
            io.disk().create_dir(&dir)?;
            for name in io.disk().list(&dir)?.iter().filter(|name| Slots::is_leftover(name)) {
                // Harmless where it is.
                let _ = io.disk().remove(&dir.join(name));
            }
            for stem in records.stems(io, folder)? {
                records.repair(io, folder, &stem, &mut damage);
            }
        }
        Ok((records, damage))
    }

    /// What a name stands for.
    pub(super) fn name(&self, io: &Metered, repository: &str, tag: &str) -> Option<Named> {
        let (_, named) = self.load(io, NAMES, &name_stem(repository, tag));
        named.and_then(|(label, record)| named_of(&label, record))
    }

    /// Every name, sorted.
    pub(super) fn names(&self, io: &Metered) -> io::Result<Vec<Named>> {
        let stems = self.stems(io, NAMES)?;
        let load = |stem: &String| {
            let (label, record) = self.load(io, NAMES, stem).1?;
            named_of(&label, record)
        };
        let mut names: Vec<Named> = stems.iter().filter_map(load).collect();
        names.sort_by(|a, b| (&a.repository, &a.tag).cmp(&(&b.repository, &b.tag)));
        Ok(names)
    }

    pub(super) fn put_name(&self, io: &Metered, named: &Named) -> io::Result<()> {
        let record = NameRecord {
            digest: named.digest.hex(),
            size: named.size,
            kind: named.kind.as_str().to_owned(),
            created_ms: named.created_ms,
            manifest: named.manifest.map(|manifest| manifest.hex()),
            pulled: named.pulled,
        };
        let stem = name_stem(&named.repository, &named.tag);
        self.put(io, NAMES, &stem, (&named.repository, &named.tag), &record)
    }

    /// `false`: there was no such name.
    pub(super) fn remove_name(
        &self,
        io: &Metered,
        repository: &str,
        tag: &str,
    ) -> io::Result<bool> {
        self.remove(io, NAMES, &name_stem(repository, tag))
    }

    /// What is known of a module file.
    pub(super) fn file(&self, io: &Metered, path: &Path) -> Option<Hashed> {
        let (_, record) = self.load(io, FILES, &file_stem(path));
        hashed_of(record?.1).filter(|hashed| hashed.path == path)
    }

    /// Every module file that is known.
    pub(super) fn files(&self, io: &Metered) -> io::Result<Vec<Hashed>> {
        let stems = self.stems(io, FILES)?;
        Ok(stems.iter().filter_map(|stem| hashed_of(self.load(io, FILES, stem).1?.1)).collect())
    }

    pub(super) fn put_file(&self, io: &Metered, hashed: &Hashed) -> io::Result<()> {
        let record = FileRecord {
            path: PathLabel::from(hashed.path.as_path()),
            stamp: hashed.stamp,
            digest: hashed.digest.hex(),
            size: hashed.size,
        };
        let stem = file_stem(&hashed.path);
        self.put(io, FILES, &stem, ("", &stem), &record)
    }

    pub(super) fn remove_file(&self, io: &Metered, path: &Path) -> io::Result<bool> {
        self.remove(io, FILES, &file_stem(path))
    }

    fn dir(&self, folder: Folder) -> PathBuf {
        self.base.join(folder.name)
    }

    fn stems(&self, io: &Metered, folder: Folder) -> io::Result<BTreeSet<String>> {
        let names = io.disk().list(&self.dir(folder))?;
        Ok(names.iter().filter_map(|name| Slots::stem_of(name)).map(str::to_owned).collect())
    }

    fn find(&self, io: &Metered, folder: Folder, stem: &str) -> slots::Found {
        let accept = |label: &Label| {
            let own = match folder.kind {
                kind if kind != label.kind => None,
                _ if folder.kind == NAMES.kind => Some(name_stem(&label.namespace, &label.name)),
                _ => Some(label.name.clone()),
            };
            if own.as_deref() == Some(stem) {
                Ok(())
            } else {
                Err(format!("is the record of {} {}, not of this name", label.kind, label.name))
            }
        };
        Slots::load(io.disk(), &self.dir(folder), stem, accept)
    }

    fn load<T: DeserializeOwned>(
        &self,
        io: &Metered,
        folder: Folder,
        stem: &str,
    ) -> (Slots, Option<(Label, T)>) {
        let found = self.find(io, folder, stem);
        let record = found
            .newest
            .and_then(|copy| Some((copy.label, serde_json::from_slice(&copy.payload).ok()?)));
        (found.slots, record)
    }

    fn put<T: Serialize>(
        &self,
        io: &Metered,
        folder: Folder,
        stem: &str,
        (namespace, name): (&str, &str),
        record: &T,
    ) -> io::Result<()> {
        let payload = serde_json::to_vec(record)?;
        let label = Label {
            generation: 0,
            kind: folder.kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            source: None,
        };
        self.known(io, folder, stem)?.commit(io, label, &payload).map(drop)
    }

    fn remove(&self, io: &Metered, folder: Folder, stem: &str) -> io::Result<bool> {
        self.known(io, folder, stem)?.remove(io)
    }

    /// The record, unless this process may not look at what is there: it must not be written over.
    fn known(&self, io: &Metered, folder: Folder, stem: &str) -> io::Result<Slots> {
        let found = self.find(io, folder, stem);
        found.denied.map_or(Ok(found.slots), |denied| Err(denied.cause))
    }

    fn repair(&self, io: &Metered, folder: Folder, stem: &str, damage: &mut Vec<String>) {
        let found = self.find(io, folder, stem);
        for bad in found.bad {
            let moved = slots::quarantine(io, &self.base, folder.name, &bad.path);
            let kept = if found.newest.is_some() { "; its older copy is used" } else { "" };
            let moved = match moved {
                Ok(Some(path)) => format!("; moved to {}", path.display()),
                Ok(None) => "; removed".to_owned(),
                Err(error) => format!("; it cannot be moved away: {error}"),
            };
            damage.push(format!("record {} {}{kept}{moved}", bad.path.display(), bad.fault));
        }
    }
}

/// Repository and tag; a repository holds no colon after its last slash, so the last one parts them.
fn name_stem(repository: &str, tag: &str) -> String {
    file_name(&format!("{repository}:{tag}"))
}

fn file_stem(path: &Path) -> String {
    // Any path holds a slash, so this is always a hash of all its bytes.
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt as _;
    let mut text = String::from("file:/");
    for byte in path.as_os_str().as_bytes() {
        write!(text, "{byte:02x}").expect("a String takes any text");
    }
    file_name(&text)
}

fn named_of(label: &Label, record: NameRecord) -> Option<Named> {
    Some(Named {
        repository: label.namespace.clone(),
        tag: label.name.clone(),
        digest: Digest::from_hex(&record.digest).ok()?,
        size: record.size,
        kind: ModuleKind::from_word(&record.kind)?,
        created_ms: record.created_ms,
        manifest: record.manifest.and_then(|hex| Digest::from_hex(&hex).ok()),
        pulled: record.pulled,
    })
}

fn hashed_of(record: FileRecord) -> Option<Hashed> {
    Some(Hashed {
        path: record.path.into(),
        stamp: record.stamp,
        digest: Digest::from_hex(&record.digest).ok()?,
        size: record.size,
    })
}
