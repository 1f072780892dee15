//! Makes room: removes what nobody on this node needs, in the order in which it is missed least.
//!
//! Owns: that order. Not: who needs what (`pins`), nor the space to be had (`import::check_space`). Needs no free space itself.
//!
//! ```text
//!  1. parts that nobody is bringing and nobody holds
//!  2. content that no name and no pin holds
//!  3. names that came from a registry and that no pod uses, oldest first (they can be had again), with their content
//! ```
//!
//! What was loaded by hand is never removed: nobody else may have it. Nothing at all is, before the pins are settled.

use std::io;
use std::path::Path;

use super::digest::Digest;
use super::import::check_space;
use super::incoming::{PART_SUFFIX, lock_part};
use super::pins::Held;
use super::{ImageStore, RemoveError};

impl ImageStore {
    /// Frees space until `needed` bytes fit beside the reserve, or nothing more can go. `ours`: a part that stays. What was
    /// removed; it may be too little.
    ///
    /// # Errors
    ///
    /// The disk fails.
    pub fn make_room(&self, needed: u64, ours: Option<&Path>) -> io::Result<Vec<Digest>> {
        let Some(held) = self.pins.held() else { return Ok(Vec::new()) };
        let fits = || check_space(&self.io, &self.blobs, needed).is_ok();
        let mut removed = self.remove_parts(&held, ours)?;
        let store = |error| match error {
            RemoveError::Store { cause } => cause,
            error @ RemoveError::NotFound { .. } => io::Error::other(error),
        };
        if !fits() {
            removed.extend(self.collect(&|digest| held.content(digest)).map_err(store)?);
        }
        while !fits() {
            if !self.forget_oldest(&held)? {
                break;
            }
            removed.extend(self.collect(&|digest| held.content(digest)).map_err(store)?);
        }
        Ok(removed)
    }

    /// Removes content that no name and no pin holds. Nothing before the pins are settled.
    ///
    /// # Errors
    ///
    /// The disk fails; what was removed so far stays removed.
    pub fn collect_unneeded(&self) -> Result<Vec<Digest>, RemoveError> {
        match self.pins.held() {
            Some(held) => self.collect(&|digest| held.content(digest)),
            None => Ok(Vec::new()),
        }
    }

    fn remove_parts(&self, held: &Held, ours: Option<&Path>) -> io::Result<Vec<Digest>> {
        let mut removed = Vec::new();
        for name in self.io.disk().list(&self.blobs)? {
            let Some(hex) = name.strip_suffix(PART_SUFFIX) else { continue };
            let Ok(digest) = Digest::from_hex(hex) else { continue };
            let path = self.part_of(&digest);
            if held.content(&digest) || ours == Some(path.as_path()) {
                continue;
            }
            let _lock = if self.locking {
                let Some(lock) = lock_part(&path)? else { continue };
                Some(lock)
            } else {
                None
            };
            self.io.disk().remove(&path)?;
            removed.push(digest);
        }
        Ok(removed)
    }

    /// Takes the oldest pulled name away that no pod uses. False: there is none.
    fn forget_oldest(&self, held: &Held) -> io::Result<bool> {
        let _lock = self.lock()?;
        let names = self.records.names(&self.io)?;
        let oldest = names
            .iter()
            .filter(|named| named.pulled && !held.content(&named.digest))
            .filter(|named| !held.name(&named.repository, &named.tag))
            .min_by_key(|named| named.created_ms);
        match oldest {
            Some(named) => self.records.remove_name(&self.io, &named.repository, &named.tag),
            None => Ok(false),
        }
    }
}
