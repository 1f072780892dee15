//! Bytes on a module's account for as long as something lives.

use std::sync::Arc;

use crate::net::Ledger;

/// A charge; given back on drop.
#[derive(Debug)]
pub struct Charge {
    ledger: Arc<dyn Ledger>,
    bytes: usize,
}

impl Charge {
    /// Takes `bytes`; `None` if they are not to be had.
    #[must_use]
    pub fn take(ledger: &Arc<dyn Ledger>, bytes: usize) -> Option<Self> {
        ledger.try_charge(bytes).then(|| Self { ledger: Arc::clone(ledger), bytes })
    }

    /// The same for what others cause: `None` also where only what is kept for the module's own calls is left.
    #[must_use]
    pub fn take_for_others(ledger: &Arc<dyn Ledger>, bytes: usize) -> Option<Self> {
        ledger.try_charge_for_others(bytes).then(|| Self { ledger: Arc::clone(ledger), bytes })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.ledger.release(self.bytes);
    }
}
