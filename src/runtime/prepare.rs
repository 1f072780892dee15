//! From a module's digest to code that is ready to run.
//!
//! Owns: the order of looking (memory, disk, compiler), and what is remembered about modules that are no good, or too much for this machine. Is not: any of
//! the three, nor when a pod tries again (`lifecycle`).
//!
//! ```text
//!  in memory? ──yes──► Artifact
//!    │no
//!  known bad? ──yes──► the same error again
//!    │no
//!  on disk, undamaged, loadable? ──yes──► Artifact
//!    │no
//!  wait for the compiler; look again; compile; keep; load
//! ```

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::artifact::{Artifact, LoadError, Loaded, load};
use super::cache::{Cache, hex};
use super::compile::{Compiler, Turn, sniff};
use super::cputime::monotonic_ns;
use super::profiles::{Needs, Profiles};
use super::{CacheError, ModuleFile, PrepareError};

/// Artifacts kept although nothing runs them: the next restart then starts at once. Their code is mapped from a file, so
/// each costs a few hundred kilobytes at most.
const KEPT_MAX: usize = 16;

/// Modules remembered as bad, so that a pod that tries again and again does not cost a compilation each time.
const REFUSED_MAX: usize = 64;

/// How long a module is remembered that was too much for the compiler, nanoseconds. Not for ever: the machine may have been short of memory for
/// another reason. Long: each try takes a minute of a core, or a gigabyte of addresses.
const BEYOND_US_NS: u64 = 3_600_000_000_000;

/// Files verified and mapped at once. After a start of the node a thousand pods may want the same few modules: who waits here finds
/// them in memory afterwards.
const LOADS_AT_ONCE: usize = 2;

type Key = ([u8; 32], bool);

/// A module that is ready to run.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub artifact: Artifact,
    /// How long it was compiled; nothing, if that had been done before, or for somebody else.
    pub compiled: Option<Duration>,
}

impl From<Artifact> for Prepared {
    fn from(artifact: Artifact) -> Self {
        Self { artifact, compiled: None }
    }
}

/// All prepared modules.
pub(crate) struct Library {
    profiles: Profiles,
    cache: Arc<Cache>,
    compiler: Compiler,
    loads: Semaphore,
    shelf: Arc<Mutex<Shelf>>,
}

#[derive(Default)]
struct Shelf {
    loaded: HashMap<Key, Weak<Loaded>>,
    kept: VecDeque<Artifact>,
    refused: VecDeque<Refused>,
}

/// A module that is no good, or not for this machine.
struct Refused {
    key: Key,
    error: Arc<PrepareError>,
    /// Until when, monotonic nanoseconds.
    until: u64,
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Library")
            .field("profiles", &self.profiles)
            .field("cache", &self.cache)
            .field("compiler", &self.compiler)
            .finish_non_exhaustive()
    }
}

impl Library {
    pub(crate) fn new(profiles: Profiles, cache: Cache, compiler: Compiler) -> Self {
        Self {
            profiles,
            cache: Arc::new(cache),
            compiler,
            loads: Semaphore::new(LOADS_AT_ONCE),
            shelf: Arc::default(),
        }
    }

    pub(crate) fn hold_compiles(&self, hold: bool) {
        self.compiler.hold(hold);
    }

    /// `compiling` is awaited before the compiler is waited for, if it is needed; `held` hears whether memory is what it waits for.
    pub(crate) async fn prepare(
        &self,
        module: ModuleFile,
        fuel: bool,
        compiling: impl Future<Output = ()>,
        held: &(dyn Fn(bool) + Send + Sync),
    ) -> Result<Prepared, PrepareError> {
        let key = (module.sha256, fuel);
        if let Some(known) = self.known(&key)? {
            return Ok(known.into());
        }
        let load = self.loads.acquire().await;
        if let Some(known) = self.known(&key)? {
            return Ok(known.into());
        }
        for tasks in [false, true] {
            if let Some(artifact) = self.on_disk(&module, Needs { fuel, tasks }).await? {
                return Ok(artifact.into());
            }
        }
        drop(load);
        let path = module.path.clone();
        let sniffed = blocking(move || sniff(&path)).await?;
        let sniffed = sniffed.map_err(|error| self.refuse(key, error))?;
        let needs = Needs { fuel, tasks: sniffed.tasks };
        if !cfg!(feature = "compiler") {
            let mark = self.profiles.mark(needs);
            return Err(PrepareError::NoCompiler { digest: hex(&module.sha256), mark });
        }
        compiling.await;
        let turn = self.compiler.turn(held).await?;
        // Whoever had the turn before us may have wanted the same module.
        if let Some(known) = self.known(&key)? {
            return Ok(known.into());
        }
        let began = monotonic_ns();
        let mut made = self.make(&module, needs, sniffed.bytes, &turn).await;
        if let Err(error) = &made
            && error.is_modules_fault()
            && sniffed.component
            && !needs.tasks
        {
            // It does not look like it, and uses tasks after all; if that was not it, the second verdict is the same.
            made = self.make(&module, Needs { fuel, tasks: true }, sniffed.bytes, &turn).await;
        }
        let artifact = made.map_err(|error| self.refuse(key, error))?;
        let took = Duration::from_nanos(monotonic_ns().saturating_sub(began));
        Ok(Prepared { artifact, compiled: Some(took) })
    }

    /// Compiles, keeps and loads.
    async fn make(
        &self,
        module: &ModuleFile,
        needs: Needs,
        size: u64,
        turn: &Turn<'_>,
    ) -> Result<Artifact, PrepareError> {
        let temporary = self.cache.temporary()?;
        let settings = self.profiles.settings(needs);
        self.compiler.compile(&settings, module, size, temporary.path(), turn).await?;
        let (cache, shelf) = (Arc::clone(&self.cache), Arc::clone(&self.shelf));
        let (digest, mark) = (hex(&module.sha256), settings.mark());
        let in_use = move |digest: &str, mark: &str| lock(&shelf).in_use(digest, mark);
        let file = blocking(move || cache.keep(&temporary, &digest, &mark, &in_use)).await??;
        match self.load(module, needs, file).await? {
            Ok(artifact) => Ok(artifact),
            Err(LoadError::Module(error)) => Err(error),
            Err(LoadError::NeedsTasks) => {
                self.cache.discard(&hex(&module.sha256), &settings.mark());
                let message = "it uses tasks of the component model".to_owned();
                Err(PrepareError::Incompatible { message })
            }
            Err(LoadError::Unusable(message)) => {
                // The compile command is another version of this program.
                self.cache.discard(&hex(&module.sha256), &settings.mark());
                Err(PrepareError::ChildFailed { status: "unusable output".into(), message })
            }
        }
    }

    /// What is in memory about a module.
    fn known(&self, key: &Key) -> Result<Option<Artifact>, PrepareError> {
        let mut shelf = lock(&self.shelf);
        if let Some(loaded) = shelf.loaded.get(key).and_then(Weak::upgrade) {
            let artifact = Artifact(loaded);
            shelf.keep(&artifact);
            return Ok(Some(artifact));
        }
        shelf.refusal(key, monotonic_ns()).map_or(Ok(None), |error| Err(again(&error)))
    }

    async fn on_disk(
        &self,
        module: &ModuleFile,
        needs: Needs,
    ) -> Result<Option<Artifact>, PrepareError> {
        let (cache, digest) = (Arc::clone(&self.cache), hex(&module.sha256));
        let mark = self.profiles.mark(needs);
        let found: Result<_, CacheError> = blocking(move || cache.find(&digest, &mark)).await?;
        let Some(file) = found? else { return Ok(None) };
        match self.load(module, needs, file).await? {
            Ok(artifact) => Ok(Some(artifact)),
            Err(LoadError::Module(error)) => Err(self.refuse((module.sha256, needs.fuel), error)),
            Err(LoadError::NeedsTasks) => Ok(None),
            Err(LoadError::Unusable(why)) => {
                tracing::warn!(module = hex(&module.sha256), why, "discarded a compiled module");
                self.cache.discard(&hex(&module.sha256), &self.profiles.mark(needs));
                Ok(None)
            }
        }
    }

    async fn load(
        &self,
        module: &ModuleFile,
        needs: Needs,
        file: File,
    ) -> Result<Result<Artifact, LoadError>, PrepareError> {
        let (profile, sha256) = (self.profiles.get(needs)?, module.sha256);
        let origin = module.path.clone();
        let loaded = blocking(move || load(&profile, sha256, &file, &origin)).await?;
        Ok(loaded.map(|artifact| lock(&self.shelf).put((sha256, needs.fuel), artifact)))
    }

    /// Remembers a module that is no good; hands the error on.
    fn refuse(&self, key: Key, error: PrepareError) -> PrepareError {
        let error = Arc::new(error);
        lock(&self.shelf).refuse(key, &error, monotonic_ns());
        Arc::try_unwrap(error).unwrap_or_else(|error| again(&error))
    }
}

impl Shelf {
    /// Puts an artifact on the shelf, unless its like is there already; returns the one that is.
    fn put(&mut self, key: Key, artifact: Artifact) -> Artifact {
        self.loaded.retain(|_, loaded| loaded.strong_count() > 0);
        let artifact = match self.loaded.get(&key).and_then(Weak::upgrade) {
            Some(earlier) => Artifact(earlier),
            None => artifact,
        };
        self.loaded.insert(key, Arc::downgrade(&artifact.0));
        self.keep(&artifact);
        artifact
    }

    fn keep(&mut self, artifact: &Artifact) {
        self.kept.retain(|kept| !Arc::ptr_eq(&kept.0, &artifact.0));
        self.kept.push_back(artifact.clone());
        if self.kept.len() > KEPT_MAX {
            self.kept.pop_front();
        }
    }

    /// Remembers why a module is refused, if trying again would change nothing.
    fn refuse(&mut self, key: Key, error: &Arc<PrepareError>, now: u64) {
        let until = if error.is_modules_fault() {
            u64::MAX
        } else if error.is_beyond_this_machine() {
            now.saturating_add(BEYOND_US_NS)
        } else {
            return;
        };
        self.refused.retain(|refused| refused.key != key);
        self.refused.push_back(Refused { key, error: Arc::clone(error), until });
        if self.refused.len() > REFUSED_MAX {
            self.refused.pop_front();
        }
    }

    /// What is remembered of a module.
    fn refusal(&mut self, key: &Key, now: u64) -> Option<Arc<PrepareError>> {
        self.refused.retain(|refused| now < refused.until);
        let refused = self.refused.iter().find(|refused| refused.key == *key);
        refused.map(|refused| Arc::clone(&refused.error))
    }

    fn in_use(&self, digest: &str, mark: &str) -> bool {
        self.loaded
            .values()
            .filter_map(Weak::upgrade)
            .any(|loaded| loaded.profile.mark == mark && hex(&loaded.sha256) == digest)
    }
}

/// The same error once more. Those that are remembered hold nothing but text and numbers.
fn again(error: &PrepareError) -> PrepareError {
    use PrepareError as E;
    match error {
        E::TooBig { bytes, limit } => E::TooBig { bytes: *bytes, limit: *limit },
        E::NotWasm { begins } => E::NotWasm { begins: begins.clone() },
        E::Truncated { message } => E::Truncated { message: message.clone() },
        E::Invalid { message } => E::Invalid { message: message.clone() },
        E::MissingImports { imports } => E::MissingImports { imports: imports.clone() },
        E::Incompatible { message } => E::Incompatible { message: message.clone() },
        E::NotACommand { message } => E::NotACommand { message: message.clone() },
        E::CompilerCpu { limit } => E::CompilerCpu { limit: *limit },
        E::CompilerMemory { limit } => E::CompilerMemory { limit: *limit },
        E::Read { .. }
        | E::DigestMismatch { .. }
        | E::NoCompiler { .. }
        | E::CompilerClock { .. }
        | E::CompilerKilled { .. }
        | E::ChildFailed { .. }
        | E::Spawn { .. }
        | E::Cache(_)
        | E::Busy { .. }
        | E::Internal { .. } => E::Internal { message: error.to_string() },
    }
}

fn lock(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, PrepareError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| PrepareError::Internal { message: error.to_string() })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn what_was_too_much_for_the_compiler_is_tried_again_after_an_hour() {
        let mut shelf = Shelf::default();
        let key = |n: u8| ([n; 32], false);
        let refuse = |shelf: &mut Shelf, n, error| shelf.refuse(key(n), &Arc::new(error), 5);
        refuse(&mut shelf, 1, PrepareError::CompilerMemory { limit: 1 });
        refuse(&mut shelf, 2, PrepareError::Invalid { message: String::new() });
        refuse(&mut shelf, 3, PrepareError::Busy { waiting: 9 });
        let mut known = |n, now| shelf.refusal(&key(n), now).is_some();
        let later = 5 + BEYOND_US_NS;
        assert_eq!([known(1, 5), known(1, later - 1), known(1, later)], [true, true, false]);
        assert_eq!([known(2, later), known(3, 5)], [true, false]);
        for n in 0..u8::MAX {
            refuse(&mut shelf, n, PrepareError::CompilerMemory { limit: 1 });
        }
        assert_eq!(shelf.refused.len(), REFUSED_MAX);
    }
}
