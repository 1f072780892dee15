//! The networks of the pods that are here: what metrics, `podling net` and port-forward are given.
//!
//! Owns: who has a network now, under which name. Not: the networks; each goes with its sandbox, which keeps the entry. Written when
//! a sandbox comes and goes; read when somebody asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::net::{Member, PodNet};
use crate::outside::PodOutside;
use crate::outside::stats::Traffic;
use crate::pod::host_port::PublishedPort;
use crate::spec::{PodKey, PodUid};

/// One pod's network, and all its ways to and from the host's.
#[derive(Debug)]
pub struct PodNetwork {
    pub key: PodKey,
    pub uid: PodUid,
    pub net: PodNet,
    /// On whose behalf connections from the host are made.
    pub host: Arc<Member>,
    pub published: Vec<Arc<PublishedPort>>,
    pub outside: Arc<PodOutside>,
    /// What went through `port-forward`.
    pub forwarded: Arc<Traffic>,
}

/// See the header. One per node; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct NetworkBook(Arc<Mutex<BTreeMap<PodUid, Arc<PodNetwork>>>>);

/// An entry of the book, for as long as it is held.
#[derive(Debug)]
pub struct Listed {
    book: NetworkBook,
    network: Arc<PodNetwork>,
}

impl NetworkBook {
    /// Enters a network.
    #[must_use]
    pub fn list(&self, network: PodNetwork) -> Listed {
        let network = Arc::new(network);
        self.lock().insert(network.uid.clone(), Arc::clone(&network));
        Listed { book: self.clone(), network }
    }

    /// The network of the pod of that name. Where an old pod is ending and its successor is there, the successor's.
    #[must_use]
    pub fn get(&self, key: &PodKey) -> Option<Arc<PodNetwork>> {
        let book = self.lock();
        let mut found = book.values().filter(|network| network.key == *key);
        found.next().map(Arc::clone)
    }

    /// All of them, in the order of their names.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<PodNetwork>> {
        let mut all: Vec<_> = self.lock().values().map(Arc::clone).collect();
        all.sort_by(|a, b| (&a.key, &a.uid).cmp(&(&b.key, &b.uid)));
        all
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PodUid, Arc<PodNetwork>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listed {
    #[must_use]
    pub fn network(&self) -> &Arc<PodNetwork> {
        &self.network
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut book = self.book.lock();
        let ours = book.get(&self.network.uid).is_some_and(|it| Arc::ptr_eq(it, &self.network));
        if ours {
            book.remove(&self.network.uid);
        }
    }
}
