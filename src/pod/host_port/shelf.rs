//! Published ports of pods that are being replaced by themselves in another form: they stay open in between.
//!
//! Owns: the sockets while nobody serves them. A client that comes meanwhile is in the kernel's queue, and gets the new form; a
//! connection that the old form had is over with it. Not: who is replaced (`reconciler`).
//!
//! ```text
//!  old sandbox ── keeps a second descriptor of each socket ──► put ──► take ──► new sandbox
//!                                                               └────► forget: closed (not replaced after all, or not published any more)
//! ```
//!
//! Bounded by the ports of the pods that there are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::spec::{PodUid, Protocol};

/// A socket, apart from whoever serves it.
#[derive(Debug)]
pub struct Kept {
    pub(super) protocol: Protocol,
    pub(super) address: SocketAddr,
    pub(super) socket: OwnedFd,
}

/// See the header.
#[derive(Debug, Default)]
pub struct Shelf(Mutex<BTreeMap<PodUid, Vec<Kept>>>);

impl Shelf {
    fn all(&self) -> MutexGuard<'_, BTreeMap<PodUid, Vec<Kept>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a pod's sockets for its next form.
    pub fn put(&self, uid: &PodUid, kept: Vec<Kept>) {
        if !kept.is_empty() {
            self.all().insert(uid.clone(), kept);
        }
    }

    pub(super) fn take(
        &self,
        uid: &PodUid,
        protocol: Protocol,
        address: SocketAddr,
    ) -> Option<OwnedFd> {
        let mut all = self.all();
        let kept = all.get_mut(uid)?;
        let at = kept.iter().position(|k| (k.protocol, k.address) == (protocol, address))?;
        Some(kept.swap_remove(at).socket)
    }

    /// Closes what is left of a pod's.
    pub fn forget(&self, uid: &PodUid) {
        let left = self.all().remove(uid);
        drop(left);
    }
}
