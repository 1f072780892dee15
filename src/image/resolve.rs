//! From a reference to the module that it stands for now.
//!
//! Owns: the look-up by name, digest and file. Not: fetching what is not here (`artifact`).

use std::path::Path;

use super::digest::Digest;
use super::import::{ImportError, Origin, is_whole};
use super::records::{Hashed, Named};
use super::{ImageStore, ResolveError, ResolvedImage, manifest_tag, name};
use crate::clock::Timestamp;
use crate::spec::ImageRef;

impl ImageStore {
    /// Finds the module of a reference. A `file:` reference is hashed and copied in, unless it is known unchanged.
    ///
    /// # Errors
    ///
    /// See [`ResolveError`]; [`pull_failure`](crate::image::pull_failure) has Kubernetes' words for it.
    pub fn resolve(&self, image: &ImageRef, now: Timestamp) -> Result<ResolvedImage, ResolveError> {
        let text = || image.text().to_owned();
        match image {
            ImageRef::Named { name, tag, .. } => {
                let named = self
                    .records
                    .name(&self.io, name, tag)
                    .ok_or_else(|| ResolveError::NotFound { text: text() })?;
                self.resolve_named(named, image)
            }
            ImageRef::Digest { hex, .. } => {
                let not_found = || ResolveError::NotFound { text: text() };
                let digest = Digest::from_hex(hex).map_err(|_| not_found())?;
                if let Some(size) = self.blob_size(&digest)? {
                    return Ok(self.resolved(digest, size));
                }
                // A registry's digest is that of a manifest, which names the content.
                let repository = name::repository_of(image.text()).ok_or_else(not_found)?;
                let tag = manifest_tag(&digest);
                let named = self.records.name(&self.io, repository, &tag);
                self.resolve_named(named.ok_or_else(not_found)?, image)
            }
            ImageRef::File { path, .. } => self.resolve_file(path, now),
        }
    }

    /// Whether a module is still what its digest says: flash rots. To be asked before it is compiled.
    ///
    /// # Errors
    ///
    /// It is not ([`ResolveError::Damaged`]), or cannot be read.
    pub fn verify(&self, image: &ResolvedImage) -> Result<(), ResolveError> {
        match is_whole(&image.path, &image.digest) {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err(ResolveError::Damaged { text: image.image_id.clone(), digest: image.digest })
            }
            Err(cause) => Err(ResolveError::Store { cause }),
        }
    }

    fn resolve_file(&self, path: &Path, now: Timestamp) -> Result<ResolvedImage, ResolveError> {
        let mut origin = Origin::open(path)?;
        let known = self.records.file(&self.io, path);
        if let Some(known) = &known
            && known.stamp == origin.stamp
            && self.blob_size(&known.digest)? == Some(known.size)
        {
            return Ok(self.resolved(known.digest, known.size));
        }
        let stamp = origin.stamp;
        let (survey, _new) = self.import(&mut origin, &mut |_, _| {}, |survey| {
            let hashed =
                Hashed { path: path.to_owned(), stamp, digest: survey.digest, size: survey.size };
            // A file changed a moment ago may change again within the same tick of its clock: then the record would
            // vouch for content that it never saw. Such a file is hashed again next time; the record that keeps its
            // blob from being collected is written all the same, under a stamp that matches nothing.
            let hashed =
                if stamp.is_older_than(now.wall_ms()) { hashed } else { hashed.doubtful() };
            if known.as_ref() == Some(&hashed) {
                return Ok(());
            }
            self.records.put_file(&self.io, &hashed).map_err(|cause| ImportError::Write { cause })
        })?;
        Ok(self.resolved(survey.digest, survey.size))
    }

    fn resolve_named(&self, named: Named, image: &ImageRef) -> Result<ResolvedImage, ResolveError> {
        let (text, digest) = (image.text().to_owned(), named.digest);
        match self.blob_size(&digest)? {
            Some(size) if size == named.size => {
                let mut resolved = self.resolved(digest, size);
                if let Some(manifest) = named.manifest {
                    resolved.image_id = format!("{}@{manifest}", named.repository);
                }
                resolved.pulled = named.pulled;
                Ok(resolved)
            }
            Some(_) => Err(ResolveError::Damaged { text, digest }),
            None => Err(ResolveError::Missing { text, digest }),
        }
    }
}
