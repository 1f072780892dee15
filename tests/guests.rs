//! The committed guests are what their sources say.
//!
//! Modules are built by `wasm-examples/build` and committed, so that no test needs a Wasm compiler; `built/SOURCES`
//! records what each was built from (its header tells the columns). These tests recompute that record, and see to it
//! that no guest is forgotten: neither by the record nor by those that could use it.
//!
//! Not: whether the guests still build (`wasm-examples/build --verify`, run by CI).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Largest module, bytes: they are carried by every clone of the repository.
const MODULE_BYTES_MAX: usize = 200_000;

/// What counts as a guest's source, as in `wasm-examples/build`.
const SOURCE_EXTENSIONS: [&str; 4] = ["rs", "toml", "wit", "wat"];

/// One line of the record.
struct Recorded {
    name: String,
    kind: String,
    sources_hash: String,
    module_hash: String,
    module_bytes: usize,
    /// Relative to `wasm-examples/`; the first is the guest's own.
    sources: Vec<String>,
}

impl Recorded {
    fn parse(line: &str) -> Self {
        let columns: Vec<&str> = line.split(' ').collect();
        let [name, kind, sources_hash, module_hash, bytes, _compiler, sources] = columns[..] else {
            panic!("the record has a line with {} columns: {line}", columns.len());
        };
        Self {
            name: name.to_owned(),
            kind: kind.to_owned(),
            sources_hash: sources_hash.to_owned(),
            module_hash: module_hash.to_owned(),
            module_bytes: bytes.parse().unwrap(),
            sources: sources.split(',').map(str::to_owned).collect(),
        }
    }

    fn module(&self) -> Vec<u8> {
        let path = guests().join("built").join(format!("{}.wasm", self.name));
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn guests() -> PathBuf {
    repository().join("wasm-examples")
}

fn record() -> Vec<Recorded> {
    let text = fs::read_to_string(guests().join("built/SOURCES")).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).map(Recorded::parse).collect()
}

#[test]
fn every_module_was_built_from_the_sources_that_stand_here() {
    let mut wrong = Vec::new();
    for guest in record() {
        if guest.sources_hash != hash_of_sources(&guest.sources) {
            wrong.push(format!("{}: its sources have changed since it was built", guest.name));
        }
        let module = guest.module();
        if guest.module_hash != hex(&Sha256::digest(&module)) || guest.module_bytes != module.len()
        {
            wrong.push(format!("{}: the module is not the one recorded", guest.name));
        }
    }
    assert!(wrong.is_empty(), "run wasm-examples/build and commit the outcome:\n{}", list(&wrong));
}

#[test]
fn every_module_is_of_its_kind_and_small() {
    for guest in record() {
        let module = guest.module();
        // Bytes 4..8 tell a component from a core module (component model, Binary.md).
        let layer: &[u8] = if guest.kind == "wasip2" { &[13, 0, 1, 0] } else { &[1, 0, 0, 0] };
        assert_eq!(&module[..8], [b"\0asm", layer].concat(), "{} is no {}", guest.name, guest.kind);
        assert!(module.len() <= MODULE_BYTES_MAX, "{}: {} bytes", guest.name, module.len());
    }
}

#[test]
fn no_crate_and_no_text_module_is_missing_from_the_record() {
    let recorded: BTreeSet<String> =
        record().iter().flat_map(|guest| guest.sources.iter().cloned()).collect();
    let present = names_in(&guests(), |path| path.join("Cargo.toml").is_file())
        .into_iter()
        .chain(names_in(&guests().join("wat"), |_| true).into_iter().map(|n| format!("wat/{n}")));
    let missing: Vec<String> = present.filter(|name| !recorded.contains(name)).collect();
    assert!(
        missing.is_empty(),
        "add these to the table in wasm-examples/build:\n{}",
        list(&missing)
    );
}

#[test]
fn the_record_names_every_crate_a_guest_depends_on() {
    for guest in record().iter().filter(|guest| guest.kind != "wat") {
        let manifest =
            fs::read_to_string(guests().join(&guest.sources[0]).join("Cargo.toml")).unwrap();
        for line in manifest.lines() {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if !name.is_empty() && guests().join(name).join("Cargo.toml").is_file() {
                let known = guest.sources.iter().any(|source| source == name);
                assert!(known, "{} depends on {name}, and its record does not say so", guest.name);
            }
        }
    }
}

#[test]
fn the_record_and_the_folder_hold_the_same_modules() {
    let recorded: BTreeSet<String> =
        record().iter().map(|guest| format!("{}.wasm", guest.name)).collect();
    let is_module = |path: &Path| path.extension().is_some_and(|extension| extension == "wasm");
    let present = names_in(&guests().join("built"), is_module);
    assert_eq!(present, recorded);
}

#[test]
fn every_guest_is_used_by_a_test_a_benchmark_or_a_manifest() {
    let mut users = String::new();
    for folder in ["tests", "benches", "manifests", "src"] {
        for path in files_below(&repository().join(folder)) {
            // This file names guests only to speak of them.
            if path.file_name() != Path::new(file!()).file_name() {
                users.push_str(&fs::read_to_string(&path).unwrap_or_default());
            }
        }
    }
    let is_named = |name: &str| {
        users.contains(&format!("/{name}.wasm")) || users.contains(&format!("\"{name}\""))
    };
    let unused: Vec<String> =
        record().into_iter().map(|guest| guest.name).filter(|name| !is_named(name)).collect();
    assert!(unused.is_empty(), "nothing uses these guests:\n{}", list(&unused));
}

/// SHA-256 of the text `SHA-256  PATH`, one line a source file, sorted by path.
fn hash_of_sources(sources: &[String]) -> String {
    let root = guests();
    let mut names: Vec<String> = Vec::new();
    for source in sources {
        for path in files_below(&root.join(source)) {
            let is_source = path
                .extension()
                .and_then(|extension| extension.to_str())
                .is_some_and(|extension| SOURCE_EXTENSIONS.contains(&extension));
            if is_source {
                names.push(path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    names.sort();
    let mut text = String::new();
    for name in &names {
        let bytes = fs::read(root.join(name)).unwrap();
        let _ = writeln!(text, "{}  {name}", hex(&Sha256::digest(&bytes)));
    }
    hex(&Sha256::digest(text.as_bytes()))
}

/// The files below `path`, or `path` itself where it is one; a build's leavings are passed over.
fn files_below(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().is_none_or(|name| name != "target"))
        .flat_map(|path| files_below(&path))
        .collect()
}

/// The names of the entries of `folder` that `wanted` picks.
fn names_in(folder: &Path, wanted: impl Fn(&Path) -> bool) -> BTreeSet<String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| wanted(path))
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn list(lines: &[String]) -> String {
    lines.iter().map(|line| format!("  {line}\n")).collect()
}
