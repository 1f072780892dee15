//! Compiled modules on disk.
//!
//! Owns: one private directory of files, each code made by our own compiler from a module of a known digest for a known engine. Is not:
//! loading them (`artifact.rs`).
//!
//! ```text
//! DIGEST-of-the-module . MARK-of-the-engine . DIGEST-of-the-contents .cwasm
//! ```
//! The name says what the contents must hash to, so one rename publishes file and checksum together, and a torn or rotten file
//! is found before it is mapped, removed, and compiled again. What is in these files runs as native code in this process:
//! so the directory must be ours alone, and nobody's claim about a file but its own name and our hash counts.
//!
//! Limits: [`Cache::open`]'s `bytes_max`; the files longest unused go first. When a file was used is kept in memory only: a restart
//! forgets it rather than write to flash at each start of a module.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};

use super::CacheError;

const SUFFIX: &str = ".cwasm";
const TEMPORARY: &str = ".tmp";

/// The directory.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    bytes_max: u64,
    uses: Mutex<Uses>,
    temporaries: AtomicU64,
}

#[derive(Debug, Default)]
struct Uses {
    clock: u64,
    last: HashMap<String, u64>,
}

/// A file that the compiler is to write; removed unless it is kept.
#[derive(Debug)]
pub(crate) struct Temporary(PathBuf);

impl Temporary {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Cache {
    /// Opens the directory, makes it if it is absent, and clears away what an interrupted compilation left.
    ///
    /// # Errors
    /// [`CacheError::NotPrivate`] if others could have put something there.
    pub(crate) fn open(dir: &Path, bytes_max: u64) -> Result<Self, CacheError> {
        let failed = |source| CacheError::Io { deed: "create", path: dir.to_owned(), source };
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        let dir = fs::canonicalize(dir).map_err(failed)?;
        check_private(&dir)?;
        let cache = Self { dir, bytes_max, uses: Mutex::default(), temporaries: AtomicU64::new(0) };
        for (name, _) in cache.files().map_err(|source| cache.error("look", source))? {
            if name.ends_with(TEMPORARY) {
                cache.remove(&name);
            }
        }
        Ok(cache)
    }

    /// The compiled form of module `digest` for engine `mark`, its contents verified; rewound, ready to map.
    pub(crate) fn find(&self, digest: &str, mark: &str) -> Result<Option<File>, CacheError> {
        let prefix = format!("{digest}.{mark}.");
        let files = self.files().map_err(|source| self.error("look", source))?;
        for (name, _) in files {
            let Some(sum) = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(SUFFIX))
            else {
                continue;
            };
            match self.verified(&name, sum) {
                Ok(file) => {
                    self.touch(&name);
                    return Ok(Some(file));
                }
                Err(fault) => {
                    tracing::warn!(file = name, fault, "removed a damaged compiled module");
                    self.remove(&name);
                }
            }
        }
        Ok(None)
    }

    fn verified(&self, name: &str, sum: &str) -> Result<File, String> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(no_follow())
            .open(self.dir.join(name))
            .map_err(|error| error.to_string())?;
        let about = file.metadata().map_err(|error| error.to_string())?;
        if !about.is_file() || about.uid() != rustix::process::geteuid().as_raw() {
            return Err("not a file of this user".to_owned());
        }
        let found = hash(&mut file).map_err(|error| error.to_string())?;
        if found != sum {
            return Err("its contents do not match its name".to_owned());
        }
        Ok(file)
    }

    /// A new file for the compiler's output, empty and private.
    pub(crate) fn temporary(&self) -> Result<Temporary, CacheError> {
        let n = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{}-{n}{TEMPORARY}", std::process::id()));
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| self.error("create a file", source))?;
        Ok(Temporary(path))
    }

    /// Publishes what the compiler wrote, and makes room. `in_use` names files that must stay (by digest and mark).
    pub(crate) fn keep(
        &self,
        temporary: &Temporary,
        digest: &str,
        mark: &str,
        in_use: &dyn Fn(&str, &str) -> bool,
    ) -> Result<File, CacheError> {
        let publish = || -> io::Result<(File, String)> {
            let mut file = File::open(&temporary.0)?;
            let name = format!("{digest}.{mark}.{}{SUFFIX}", hash(&mut file)?);
            file.sync_all()?;
            #[allow(clippy::disallowed_methods, reason = "synced before and after, as there")]
            fs::rename(&temporary.0, self.dir.join(&name))?;
            File::open(&self.dir)?.sync_all()?;
            Ok((file, name))
        };
        let (file, name) = publish().map_err(|source| self.error("write", source))?;
        self.touch(&name);
        self.evict(&name, mark, in_use);
        Ok(file)
    }

    /// Removes the module's compiled form for one engine: it did not load.
    pub(crate) fn discard(&self, digest: &str, mark: &str) {
        let prefix = format!("{digest}.{mark}.");
        for (name, _) in self.files().unwrap_or_default() {
            if name.starts_with(&prefix) {
                self.remove(&name);
            }
        }
    }

    /// Removes files until the rest fits: other engines' first, then those longest unused.
    fn evict(&self, new: &str, mark: &str, in_use: &dyn Fn(&str, &str) -> bool) {
        let Ok(files) = self.files() else { return };
        let mut total: u64 = files.iter().map(|(_, about)| about.len()).sum();
        if total <= self.bytes_max {
            return;
        }
        let uses = self.uses();
        let mut candidates: Vec<_> = files
            .into_iter()
            .filter(|(name, _)| name != new && name.ends_with(SUFFIX))
            .filter_map(|(name, about)| {
                let (digest, rest) = name.split_once('.')?;
                let (whose, _) = rest.split_once('.')?;
                if in_use(digest, whose) {
                    return None;
                }
                let used = uses.last.get(&name).copied().unwrap_or(0);
                Some(((whose == mark, used, about.mtime()), about.len(), name))
            })
            .collect();
        drop(uses);
        candidates.sort();
        for (_, len, name) in candidates {
            if total <= self.bytes_max {
                break;
            }
            self.remove(&name);
            total = total.saturating_sub(len);
        }
    }

    fn touch(&self, name: &str) {
        let mut uses = self.uses();
        uses.clock += 1;
        let now = uses.clock;
        uses.last.insert(name.to_owned(), now);
    }

    fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.dir.join(name));
        self.uses().last.remove(name);
    }

    fn files(&self) -> io::Result<Vec<(String, fs::Metadata)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            // A file may go between the two calls; a name that is not text is none of ours.
            if let (Ok(name), Ok(about)) = (entry.file_name().into_string(), entry.metadata()) {
                files.push((name, about));
            }
        }
        Ok(files)
    }

    fn uses(&self) -> MutexGuard<'_, Uses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, deed: &'static str, source: io::Error) -> CacheError {
        CacheError::Io { deed, path: self.dir.clone(), source }
    }
}

fn check_private(dir: &Path) -> Result<(), CacheError> {
    let refuse = |why: String| CacheError::NotPrivate { path: dir.to_owned(), why };
    let about = fs::symlink_metadata(dir).map_err(|error| refuse(error.to_string()))?;
    if !about.is_dir() {
        return Err(refuse("it is a file".to_owned()));
    }
    let us = rustix::process::geteuid().as_raw();
    if about.uid() != us {
        return Err(refuse(format!("it belongs to user {}, and this is user {us}", about.uid())));
    }
    if about.mode() & 0o077 != 0 {
        return Err(refuse(format!("its mode is {:04o}", about.mode() & 0o7777)));
    }
    Ok(())
}

fn no_follow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()
}

/// Lower-case hexadecimal SHA-256 of a file, from its beginning.
pub(crate) fn hash(file: &mut File) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hasher.finalize())),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn put(cache: &Cache, digest: &str, mark: &str, contents: &[u8]) {
        let temporary = cache.temporary().unwrap();
        fs::write(temporary.path(), contents).unwrap();
        cache.keep(&temporary, digest, mark, &|_, _| false).unwrap();
    }

    fn names(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn what_is_kept_is_found_again_by_a_later_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/cache");
        let cache = Cache::open(&path, 1 << 20).unwrap();
        put(&cache, "d1", "m1", b"code");
        let cache = Cache::open(&path, 1 << 20).unwrap();
        let mut text = String::new();
        let mut file = cache.find("d1", "m1").unwrap().unwrap();
        io::Seek::rewind(&mut file).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "code");
        assert!(cache.find("d1", "m2").unwrap().is_none());
        assert!(cache.find("d2", "m1").unwrap().is_none());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_damaged_file_is_removed_and_never_returned() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        let cache = Cache::open(&path, 1 << 20).unwrap();
        let damages: [&dyn Fn(&Path); 4] = [
            &|file| fs::write(file, b"cod").unwrap(),
            &|file| fs::write(file, b"coda").unwrap(),
            &|file| fs::write(file, b"").unwrap(),
            &|file| {
                fs::copy(file, file.with_extension("old")).unwrap();
                fs::remove_file(file).unwrap();
                std::os::unix::fs::symlink(file.with_extension("old"), file).unwrap();
            },
        ];
        for damage in damages {
            put(&cache, "d", "m", b"code");
            let file = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
            let file = file.into_iter().find(|file| file.to_string_lossy().ends_with(SUFFIX));
            damage(&file.unwrap());
            assert!(cache.find("d", "m").unwrap().is_none());
            assert!(cache.find("d", "m").unwrap().is_none());
        }
    }

    #[test]
    fn a_directory_open_to_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o755, 0o770, 0o701] {
            let path = dir.path().join(format!("{mode:o}"));
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = Cache::open(&path, 1).unwrap_err();
            assert!(matches!(error, CacheError::NotPrivate { .. }), "{error}");
        }
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(Cache::open(&file, 1), Err(CacheError::NotPrivate { .. })));
    }

    #[test]
    fn the_longest_unused_goes_first_and_what_runs_stays() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().join("c").as_path(), 35).unwrap();
        for digest in ["a", "b", "c"] {
            put(&cache, digest, "m", &[b'x'; 10]);
        }
        cache.find("a", "m").unwrap().unwrap();
        let temporary = cache.temporary().unwrap();
        fs::write(temporary.path(), [b'y'; 10]).unwrap();
        // "b" is the longest unused, but runs.
        cache.keep(&temporary, "d", "m", &|digest, _| digest == "b").unwrap();
        let there: Vec<_> = ["a", "b", "c", "d"]
            .into_iter()
            .filter(|digest| cache.find(digest, "m").unwrap().is_some())
            .collect();
        assert_eq!(there, ["a", "b", "d"]);
    }

    #[test]
    fn other_engines_files_go_before_our_own() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().join("c").as_path(), 25).unwrap();
        put(&cache, "ours", "new", &[1; 10]);
        put(&cache, "theirs", "old", &[2; 10]);
        put(&cache, "third", "new", &[3; 10]);
        assert!(cache.find("ours", "new").unwrap().is_some());
        assert!(cache.find("theirs", "old").unwrap().is_none());
    }

    #[test]
    fn what_an_interrupted_compilation_left_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        let cache = Cache::open(&path, 100).unwrap();
        std::mem::forget(cache.temporary().unwrap());
        drop(cache.temporary().unwrap());
        assert_eq!(names(&path), 1);
        Cache::open(&path, 100).unwrap();
        assert_eq!(names(&path), 0);
    }
}
