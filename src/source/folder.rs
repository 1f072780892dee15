//! A watched folder of manifests: Kubernetes' static pods (`KUBELET.md` 17).
//!
//! Owns: noticing changes and reading files, bounded. Not: parsing them.
//!
//! Emits a *full snapshot* whenever the folder's content changed. An empty folder is a statement ("no pods"); a folder that
//! cannot be read is not: nothing is sent, and the reason is reported. Files are those that end in `.yaml`, `.yml` or
//! `.json` and do not begin with a dot, in this folder only; modules may lie beside them.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, Watcher};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error::Chain;
use crate::limits::MANIFEST_BYTES_MAX;

/// How often the folder is read even if no change was noticed; Kubernetes' `fileCheckFrequency`.
const POLL: Duration = Duration::from_secs(20);

/// How long the folder must have been quiet before it is read: an editor writes in several steps.
const QUIET: Duration = Duration::from_millis(100);

/// It is read after this long even if it is never quiet.
const RESTLESS_MAX: Duration = Duration::from_secs(2);

/// Manifest files in one folder. A node runs at most `PODS_MAX` pods; more files than that is a wrong folder.
const FILES_MAX: usize = 4096;

/// One manifest file as it was read.
#[derive(Clone, Debug)]
pub struct FolderFile {
    pub path: PathBuf,
    pub content: Result<Arc<[u8]>, Arc<ReadFileError>>,
}

/// All manifest files, in the order of their names.
pub type Snapshot = Vec<FolderFile>;

/// Why one file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadFileError {
    #[error("cannot read manifest {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("manifest {path} has {size} bytes; at most {MANIFEST_BYTES_MAX} are read")]
    TooLarge { path: PathBuf, size: u64 },
    #[error("manifest {path} is not a regular file")]
    NotAFile { path: PathBuf },
}

/// Why the folder could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadFolderError {
    #[error("cannot list manifest folder {path}")]
    List { path: PathBuf, source: io::Error },
    #[error("manifest folder {path} holds more than {FILES_MAX} manifests")]
    TooMany { path: PathBuf },
}

/// What tells a changed file from an unchanged one without reading it.
type Stamp = (u64, u64, u64, i64, i64);

fn stamp(meta: &Metadata) -> Stamp {
    (meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec())
}

/// Reads a folder again and again, and reads only what changed.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    seen: BTreeMap<PathBuf, (Stamp, FolderFile)>,
    /// Whether a snapshot has been taken at all: the first one is always news.
    begun: bool,
}

impl Folder {
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, seen: BTreeMap::new(), begun: false }
    }

    /// Reads the folder; `Some` if anything changed since the last call. Blocks on the disk.
    ///
    /// # Errors
    /// If the folder itself cannot be listed. A single bad file is part of the snapshot instead.
    pub fn scan(&mut self) -> Result<Option<Snapshot>, ReadFolderError> {
        let names = self.list()?;
        let mut next = BTreeMap::new();
        let mut changed = !self.begun || names.len() != self.seen.len();
        for path in names {
            let (stamp, file) = match self.reread(&path) {
                Some(unchanged) => unchanged,
                None => {
                    changed = true;
                    read_file(&path)
                }
            };
            next.insert(path, (stamp, file));
        }
        changed |= next.keys().ne(self.seen.keys());
        self.seen = next;
        self.begun = true;
        Ok(changed.then(|| self.seen.values().map(|(_, file)| file.clone()).collect()))
    }

    fn list(&self) -> Result<Vec<PathBuf>, ReadFolderError> {
        let failed = |source| ReadFolderError::List { path: self.path.clone(), source };
        let mut names = vec![];
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if is_manifest(&path) {
                names.push(path);
            }
            if names.len() > FILES_MAX {
                return Err(ReadFolderError::TooMany { path: self.path.clone() });
            }
        }
        names.sort();
        Ok(names)
    }

    /// The earlier reading of this file, if its stamp says that it still holds.
    fn reread(&self, path: &Path) -> Option<(Stamp, FolderFile)> {
        let (old, file) = self.seen.get(path)?;
        let now = stamp(&std::fs::metadata(path).ok()?);
        // A file that could not be read is tried again each time: its stamp says nothing about permissions.
        (*old == now && file.content.is_ok()).then(|| (*old, file.clone()))
    }
}

fn is_manifest(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else { return false };
    let extension = path.extension().and_then(|e| e.to_str());
    !name.starts_with('.') && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// Reads one manifest file, within the bound.
#[must_use]
pub fn read(path: &Path) -> FolderFile {
    read_file(path).1
}

fn read_file(path: &Path) -> (Stamp, FolderFile) {
    let (stamp, content) = match read_bounded(path) {
        Ok((stamp, bytes)) => (stamp, Ok(bytes.into())),
        Err(error) => (Stamp::default(), Err(Arc::new(error))),
    };
    (stamp, FolderFile { path: path.to_owned(), content })
}

/// Reads a manifest file whole, within the bound of [`MANIFEST_BYTES_MAX`].
fn read_bounded(path: &Path) -> Result<(Stamp, Vec<u8>), ReadFileError> {
    let failed = |source| ReadFileError::Io { path: path.to_owned(), source };
    // Opening a FIFO would block for ever, so the kind is looked at first.
    let meta = std::fs::metadata(path).map_err(failed)?;
    if !meta.is_file() {
        return Err(ReadFileError::NotAFile { path: path.to_owned() });
    }
    let too_large = |size| ReadFileError::TooLarge { path: path.to_owned(), size };
    if meta.len() > MANIFEST_BYTES_MAX {
        return Err(too_large(meta.len()));
    }
    let mut bytes = vec![];
    let mut file = File::open(path).map_err(failed)?.take(MANIFEST_BYTES_MAX + 1);
    file.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(too_large(bytes.len() as u64));
    }
    Ok((stamp(&meta), bytes))
}

/// Watches `path` and sends a snapshot after each change, until cancelled or the receiver is gone.
pub async fn run(path: PathBuf, out: mpsc::Sender<Snapshot>, stop: CancellationToken) {
    let changed = Arc::new(Notify::new());
    let mut watcher = None;
    let mut folder = Folder::new(path.clone());
    let mut complaint = String::new();
    loop {
        if watcher.is_none() {
            watcher = watch(&path, &changed);
        }
        let (back, result) = match tokio::task::spawn_blocking(move || {
            let result = folder.scan();
            (folder, result)
        })
        .await
        {
            Ok(scanned) => scanned,
            // The scan panicked: a bug of ours; say so and start over rather than going blind.
            Err(error) => {
                warn!(folder = %path.display(), %error, "reading the manifest folder failed");
                (Folder::new(path.clone()), Ok(None))
            }
        };
        folder = back;
        match result {
            Ok(Some(snapshot)) => {
                complaint.clear();
                if out.send(snapshot).await.is_err() {
                    return;
                }
            }
            Ok(None) => complaint.clear(),
            Err(error) => {
                let text = Chain(&error).to_string();
                if text != complaint {
                    warn!("{text}: running pods go on; the folder is tried again");
                    complaint = text;
                }
                watcher = None;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed.notified() => quiet(&changed).await,
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

/// Waits until nothing has changed for a while, so that a file which is being copied is not read in halves: half a file
/// of many documents may well be valid.
async fn quiet(changed: &Notify) {
    let all_quiet =
        async { while tokio::time::timeout(QUIET, changed.notified()).await.is_ok() {} };
    // Whichever it was, the folder is read now.
    let _ = tokio::time::timeout(RESTLESS_MAX, all_quiet).await;
}

/// Whether an event can mean that the folder's content is another one. Our own reading opens and closes files, which the
/// kernel tells as well: heeding that would wake us for ever.
fn is_news(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}

/// Starts the kernel's notification; without it the folder is still polled.
fn watch(path: &Path, changed: &Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let signal = Arc::clone(changed);
    let wake = move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !is_news(&event.kind)) {
            return;
        }
        signal.notify_one();
    };
    let watched =
        notify::recommended_watcher(wake).and_then(|mut watcher: notify::RecommendedWatcher| {
            watcher.watch(path, notify::RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
    match watched {
        Ok(watcher) => {
            info!(folder = %path.display(), "watching manifests");
            Some(watcher)
        }
        Err(error) => {
            warn!(folder = %path.display(), %error, "cannot watch; polling every {POLL:?}");
            None
        }
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn names(snapshot: &Snapshot) -> Vec<&str> {
        snapshot.iter().map(|f| f.path.file_name().unwrap().to_str().unwrap()).collect()
    }

    #[test]
    fn only_manifests_are_read_and_only_changes_are_news() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("b.yaml", "1");
        write("a.json", "2");
        write(".hidden.yaml", "3");
        write("web.wasm", "4");
        let mut folder = Folder::new(dir.path().to_owned());
        assert_eq!(names(&folder.scan().unwrap().unwrap()), ["a.json", "b.yaml"]);
        assert!(folder.scan().unwrap().is_none());
        write("b.yaml", "changed");
        let snapshot = folder.scan().unwrap().unwrap();
        assert_eq!(&**snapshot[1].content.as_ref().unwrap(), b"changed");
        std::fs::remove_file(dir.path().join("a.json")).unwrap();
        assert_eq!(names(&folder.scan().unwrap().unwrap()), ["b.yaml"]);
    }

    #[test]
    fn an_empty_folder_is_a_statement_and_a_missing_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Folder::new(dir.path().to_owned()).scan().unwrap().unwrap().len(), 0);
        assert!(Folder::new(dir.path().join("absent")).scan().is_err());
    }

    #[test]
    fn a_huge_file_costs_its_refusal_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("huge.yaml")).unwrap();
        file.set_len(100 * 1024 * 1024).unwrap();
        let snapshot = Folder::new(dir.path().to_owned()).scan().unwrap().unwrap();
        let error = snapshot[0].content.as_ref().unwrap_err().to_string();
        assert!(error.contains("has 104857600 bytes"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_is_read_when_it_has_become_quiet_or_never_does() {
        for (writes, expected) in [(0, QUIET), (5, QUIET / 2 * 5 + QUIET), (1000, RESTLESS_MAX)] {
            let changed = Notify::new();
            let start = tokio::time::Instant::now();
            let write = async {
                for _ in 0..writes {
                    tokio::time::sleep(QUIET / 2).await;
                    changed.notify_one();
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = quiet(&changed) => {}
                () = write => {}
            }
            let waited = start.elapsed();
            let late = Duration::from_millis(2);
            assert!(waited >= expected && waited <= expected + late, "{writes}: {waited:?}");
        }
    }

    #[test]
    fn reading_the_folder_is_no_news_of_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.yaml"), "1").unwrap();
        let (tell, told) = std::sync::mpsc::sync_channel(1024);
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                let kind = event.unwrap().kind;
                // The channel closes when the test has seen enough.
                let _ = tell.send(kind);
            })
            .unwrap();
        watcher.watch(dir.path(), notify::RecursiveMode::NonRecursive).unwrap();
        Folder::new(dir.path().to_owned()).scan().unwrap();
        std::fs::write(dir.path().join("b.yaml"), "2").unwrap();
        // Everything before the new file came from the reading.
        let mut reading = 0;
        loop {
            let kind = told.recv_timeout(Duration::from_secs(60)).unwrap();
            if matches!(kind, EventKind::Create(_)) {
                assert!(is_news(&kind));
                break;
            }
            reading += 1;
            assert!(!is_news(&kind), "{kind:?}");
        }
        assert!(reading > 0, "the kernel tells of reading, or this test shows nothing");
    }

    #[test]
    fn a_fifo_named_like_a_manifest_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe.yaml");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let snapshot = Folder::new(dir.path().to_owned()).scan().unwrap().unwrap();
        assert!(matches!(
            snapshot[0].content.as_deref(),
            Err(error) if matches!(**error, ReadFileError::NotAFile { .. })
        ));
    }
}
