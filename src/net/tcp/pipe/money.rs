//! Who pays for what a pipe holds.
//!
//! Owns: paying in steps, giving back, and what becomes of the bytes when the writer is gone or there is no memory for them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use bytes::{Bytes, BytesMut};

use super::{CHARGE_STEP, Pipe, WriteError};
use crate::net::member::MemberState;

impl Pipe {
    /// Bytes of memory that are held: what waits, what goes with it, and what the tail has room for.
    fn held(&self) -> usize {
        self.buffered + self.spent + (self.tail.capacity() - self.tail.len())
    }

    /// Pays for `more` bytes beyond what is held, if they are to be had.
    pub(super) fn afford(&mut self, more: usize) -> bool {
        let after = self.held() + more;
        if after <= self.charged {
            return true;
        }
        let price = after.next_multiple_of(CHARGE_STEP) - self.charged;
        let paid = self.payer.charge(price);
        if paid {
            self.charged += price;
        }
        paid
    }

    /// The same where there is no memory for all of it: a window is made as small as it can be.
    pub(super) fn admit_least(&mut self, wanted: usize) -> Result<usize, WriteError> {
        // With bytes under way, their being read will free memory, so waiting is right.
        if self.buffered > 0 {
            self.full = true;
            return Ok(0);
        }
        if self.charged == 0 {
            // Nothing would ever end a wait. What others send is no call of the payer's, and ends it not.
            if self.own && !self.payer.charge_own(CHARGE_STEP) {
                self.payer.missed(CHARGE_STEP);
                return Err(WriteError::NoMemory);
            }
            if !self.own && !self.payer.charge(CHARGE_STEP) {
                return Err(WriteError::NoMemory);
            }
            self.charged = CHARGE_STEP;
        }
        Ok(wanted.min(self.charged))
    }

    /// The writer is gone: `heir`, the reader's member, pays for what is left. `Some` if it cannot:
    /// then all of it is lost, and whoever waits is returned.
    #[must_use]
    pub(crate) fn hand_over(&mut self, heir: &Arc<MemberState>) -> Option<[Option<Waker>; 2]> {
        if self.charged == 0 || Arc::ptr_eq(&self.payer, heir) {
            return None;
        }
        let charged = std::mem::take(&mut self.charged);
        self.payer.release(charged);
        self.payer = Arc::clone(heir);
        if self.payer.charge(charged) {
            self.charged = charged;
            return None;
        }
        self.discard();
        Some(self.cut())
    }

    /// Gives back what was paid beyond need: all of it at the end, and beyond one spare step before
    /// that.
    pub(super) fn settle(&mut self) {
        let needed = self.held().next_multiple_of(CHARGE_STEP);
        let spare = if self.is_finished() { 0 } else { CHARGE_STEP };
        if self.charged > needed + spare {
            self.payer.release(self.charged - needed);
            self.charged = needed;
        }
    }

    pub(super) fn discard(&mut self) {
        if self.buffered == 0 && self.charged == 0 {
            return;
        }
        self.lost |= self.buffered > 0;
        self.front = Bytes::new();
        self.chunks = VecDeque::new();
        self.tail = BytesMut::new();
        self.spent = 0;
        self.buffered = 0;
        self.withheld = 0;
        self.payer.release(std::mem::take(&mut self.charged));
    }
}
