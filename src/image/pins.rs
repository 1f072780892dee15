//! What must not be collected, since somebody on this node needs it.
//!
//! Owns: who holds what. Not: removing anything (`room`). A pin is a guard: dropped, it lets go. As long as the node has not
//! said that everybody who needs something has spoken ([`Pins::settle`]), everything counts as needed: at start, the
//! pods come back one after the other, and none may find its module collected for another's sake.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::spec::ImageRef;

use super::digest::Digest;

/// Shared by everybody who needs content. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Pins(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// With the number of pins.
    held: BTreeMap<Key, usize>,
    settled: bool,
}

/// What is held.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Content(Digest),
    /// Repository and tag: whatever content they stand for.
    Name(String, String),
}

/// Keeps something from being collected; lets go when dropped.
#[derive(Debug)]
pub struct Pin {
    pins: Pins,
    keys: Vec<Key>,
}

impl Pins {
    /// Holds contents, which need not be here yet.
    #[must_use]
    pub fn hold(&self, digests: impl IntoIterator<Item = Digest>) -> Pin {
        self.take(digests.into_iter().map(Key::Content).collect())
    }

    /// Holds what a pod's containers name.
    #[must_use]
    pub fn hold_images<'a>(&self, images: impl IntoIterator<Item = &'a ImageRef>) -> Pin {
        self.take(images.into_iter().flat_map(keys_of).collect())
    }

    /// Everybody who needs something has spoken: what nobody holds may go from now on.
    pub fn settle(&self) {
        self.lock().settled = true;
    }

    /// What is held now; `None` while nobody knows.
    pub(super) fn held(&self) -> Option<Held> {
        let state = self.lock();
        state.settled.then(|| Held(state.held.keys().cloned().collect()))
    }

    fn take(&self, keys: Vec<Key>) -> Pin {
        let mut state = self.lock();
        for key in &keys {
            *state.held.entry(key.clone()).or_default() += 1;
        }
        Pin { pins: self.clone(), keys }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.pins.lock();
        for key in &self.keys {
            if let Some(count) = state.held.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    state.held.remove(key);
                }
            }
        }
    }
}

/// What was held at one moment.
#[derive(Debug)]
pub(super) struct Held(std::collections::BTreeSet<Key>);

impl Held {
    pub(super) fn content(&self, digest: &Digest) -> bool {
        self.0.contains(&Key::Content(*digest))
    }

    pub(super) fn name(&self, repository: &str, tag: &str) -> bool {
        self.0.contains(&Key::Name(repository.to_owned(), tag.to_owned()))
    }
}

fn keys_of(image: &ImageRef) -> Vec<Key> {
    match image {
        ImageRef::Named { name, tag, .. } => vec![Key::Name(name.to_string(), tag.to_string())],
        ImageRef::Digest { text, hex } => {
            let Ok(digest) = Digest::from_hex(hex) else { return Vec::new() };
            let by_manifest = super::name::repository_of(text)
                .map(|repository| Key::Name(repository.to_owned(), super::manifest_tag(&digest)));
            [Some(Key::Content(digest)), by_manifest].into_iter().flatten().collect()
        }
        // Its record of the file keeps it.
        ImageRef::File { .. } => Vec::new(),
    }
}
