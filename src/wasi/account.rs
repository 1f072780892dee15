//! What the host holds and does for a module, on the module's account.
//!
//! Owns: the interface between what modules import and who counts. Is not: the counting, nor the choice between refusing and ending
//! (`runtime`).

use std::fmt;
use std::sync::Arc;

/// Memory was refused.
#[derive(Debug)]
pub struct Refused {
    /// The call may fail as one does where memory is short, if it has a way to; else the module ends.
    pub may_go_on: bool,
    /// What to end the module with.
    pub end: wasmtime::Error,
}

impl From<Refused> for wasmtime::Error {
    fn from(refused: Refused) -> Self {
        refused.end
    }
}

/// A module's account.
pub trait Account: fmt::Debug + Send + Sync {
    /// Takes bytes of the module's memory.
    ///
    /// # Errors
    /// [`Refused`], and nothing is taken: its limit, or its pod's, is reached.
    fn take(&self, bytes: u64) -> Result<(), Refused>;

    /// Gives bytes back.
    fn give_back(&self, bytes: u64);

    /// Does something on this thread and counts its CPU time as the module's. Not on a guest's thread, whose time is counted anyway.
    fn work(&self, work: &mut dyn FnMut());

    /// Whether another module waits for this thread, on which the module has its turn.
    fn others_wait(&self) -> bool {
        false
    }
}

/// Bytes on an account for as long as this lives.
#[derive(Debug)]
pub struct Held {
    account: Arc<dyn Account>,
    bytes: u64,
}

impl Held {
    /// Takes `bytes`.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn take(account: &Arc<dyn Account>, bytes: u64) -> Result<Self, Refused> {
        account.take(bytes)?;
        Ok(Self { account: Arc::clone(account), bytes })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.account.give_back(self.bytes);
    }
}

/// A store whose module has an account.
pub trait AccountView: Send {
    fn account(&self) -> &Arc<dyn Account>;
}

/// Nobody's account, without an end.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl Account for Nobody {
    fn take(&self, _bytes: u64) -> Result<(), Refused> {
        Ok(())
    }

    fn give_back(&self, _bytes: u64) {}

    fn work(&self, work: &mut dyn FnMut()) {
        work();
    }
}
