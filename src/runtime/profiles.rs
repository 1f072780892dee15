//! The engines there are: one for each way in which code is compiled, made when the first module needs it.
//!
//! Owns: which settings differ between modules, and the engines with their linkers. Is not: the settings that the machine decides
//! (`engine.rs`).
//!
//! Two things differ. Counting instructions costs 10–30 %, so only modules with a fuel limit are compiled so. The tasks of the component model
//! (WASI 0.3) make each host call of a component a third dearer, so only components that know of them are compiled with them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::artifact::Profile;
use super::pool::PoolPlan;
use super::sched::Epochs;
use super::{EngineSettings, PrepareError};

/// What a module needs of its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Needs {
    /// Its instructions counted.
    pub(crate) fuel: bool,
    /// Tasks of the component model.
    pub(crate) tasks: bool,
}

/// All engines.
pub(crate) struct Profiles {
    base: EngineSettings,
    epochs: Epochs,
    /// How large its pools are, if this machine has any.
    pool: Option<PoolPlan>,
    made: Mutex<HashMap<Needs, Arc<Profile>>>,
}

impl Profiles {
    /// Makes the plainest engine, so that a machine that cannot have it says so at the start; each turns with `epochs`.
    ///
    /// # Errors
    /// wasmtime's.
    pub(crate) fn new(
        base: EngineSettings,
        pool: Option<PoolPlan>,
        epochs: Epochs,
    ) -> wasmtime::Result<Self> {
        let profiles = Self { base, epochs, pool, made: Mutex::default() };
        profiles.make(Needs { fuel: false, tasks: false })?;
        Ok(profiles)
    }

    /// What code for `needs` is compiled with.
    pub(crate) fn settings(&self, needs: Needs) -> EngineSettings {
        let Needs { fuel, tasks } = needs;
        EngineSettings { fuel, tasks, ..self.base.clone() }
    }

    /// Names that code in the cache.
    pub(crate) fn mark(&self, needs: Needs) -> String {
        self.settings(needs).mark()
    }

    /// The engine for `needs`. Takes a millisecond the first time.
    ///
    /// # Errors
    /// [`PrepareError::Internal`], if the machine cannot have one more engine.
    pub(crate) fn get(&self, needs: Needs) -> Result<Arc<Profile>, PrepareError> {
        self.make(needs).map_err(|error| {
            let message = format!("set up the engine ({}): {error:#}", self.settings(needs));
            PrepareError::Internal { message }
        })
    }

    fn make(&self, needs: Needs) -> wasmtime::Result<Arc<Profile>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(profile) = made.get(&needs) {
            return Ok(Arc::clone(profile));
        }
        let (settings, epochs) = (self.settings(needs), self.epochs.clone());
        let profile = Arc::new(Profile::new(settings, self.pool, epochs)?);
        made.insert(needs, Arc::clone(&profile));
        Ok(profile)
    }
}

impl std::fmt::Debug for Profiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Profiles")
            .field("base", &self.base)
            .field("made", &made.keys())
            .finish_non_exhaustive()
    }
}
