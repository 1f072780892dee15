//! Images by reference: what a tag stands for today, brought here and named.
//!
//! Owns: the way from a reference to a named module. Not: whether it should be gone at all (`imagePullPolicy`: `pod::images`).
//!
//! A registry that could not be reached is remembered for [`AWAY`]: a hundred pods that come back after a power cut, with no
//! network, shall not wait for it one after the other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::image::{Content, ImageStore, PulledName, ResolvedImage, manifest_tag, repository_of};
use crate::spec::ImageRef;

use super::failure::{FetchError, FetchFault, SourceError};
use super::fetch::{Fetcher, Want};
use super::intake::{Progress, blocking};
use super::keyring::Keyring;
use super::registry::{Found, Registry};
use super::source::{Repository, Source};

/// How long a registry counts as away after it could not be reached.
const AWAY: Duration = Duration::from_secs(30);

/// Registries that are remembered as away. A node knows a handful.
const AWAY_MAX: usize = 64;

/// Registries that could not be reached, with the time until which they count as away.
#[derive(Debug, Default)]
pub(super) struct Away(Mutex<BTreeMap<String, Timestamp>>);

impl Away {
    fn is_away(&self, host: &str, now: Timestamp) -> bool {
        let away = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        away.get(host).is_some_and(|until| now < *until)
    }

    fn note(&self, host: &str, unreachable: bool, now: Timestamp) {
        let mut away = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        away.retain(|_, until| now < *until);
        if !unreachable {
            away.remove(host);
        } else if away.len() < AWAY_MAX {
            away.insert(host.to_owned(), now.plus(AWAY));
        }
    }
}

/// A reference that a registry can be asked about.
#[derive(Clone, Debug)]
pub struct Remote {
    pub repository: Repository,
    /// A tag, or a manifest's digest.
    pub reference: String,
    /// Under which tag it is remembered here.
    tag: String,
}

impl Remote {
    /// `None`: it names something of this node's own store, or a file.
    #[must_use]
    pub fn of(image: &ImageRef) -> Option<Self> {
        match image {
            ImageRef::Named { name, tag, .. } => Some(Self {
                repository: Repository::of(name)?,
                reference: tag.to_string(),
                tag: tag.to_string(),
            }),
            ImageRef::Digest { text, hex } => {
                let digest = crate::image::Digest::from_hex(hex).ok()?;
                Some(Self {
                    repository: Repository::of(repository_of(text)?)?,
                    reference: digest.to_string(),
                    tag: manifest_tag(&digest),
                })
            }
            ImageRef::File { .. } => None,
        }
    }
}

impl Fetcher {
    /// Whether the registry could not be reached a moment ago.
    #[must_use]
    pub fn is_away(&self, remote: &Remote) -> bool {
        self.away().is_away(&remote.repository.host, self.clock().now())
    }

    /// The registry did not answer in the time that somebody had for it.
    pub fn note_away(&self, remote: &Remote) {
        self.away().note(&remote.repository.host, true, self.clock().now());
    }

    /// Asks what a reference stands for. `keyring`: before the node's own credentials.
    ///
    /// # Errors
    ///
    /// The registry does not say.
    pub async fn ask(
        &self,
        image: &ImageRef,
        remote: &Remote,
        keyring: &Keyring,
    ) -> Result<Found, FetchError> {
        let keyring = keyring.before(self.keyring());
        let asked = async {
            let mut registry = Registry::new(self.http(), &remote.repository, &keyring)?;
            registry.resolve(&remote.reference).await
        };
        let found = asked.await;
        let unreachable = found.as_ref().is_err_and(SourceError::is_unreachable);
        self.away().note(&remote.repository.host, unreachable, self.clock().now());
        let text = image.text().to_owned();
        found.map_err(|cause| FetchError::new(FetchFault::Reference { text, cause }))
    }

    /// Brings what [`Fetcher::ask`] has found, and gives it the reference's name here.
    ///
    /// # Errors
    ///
    /// It cannot be had.
    pub async fn bring(
        &self,
        image: &ImageRef,
        remote: &Remote,
        found: Found,
        keyring: &Keyring,
        progress: &(dyn Fn(&Progress) + Send + Sync),
    ) -> Result<ResolvedImage, FetchError> {
        let digest = found.content;
        let store = Arc::clone(self.store());
        // Between its coming and its having a name, nobody may collect it.
        let _pin = store.pins().hold([digest]);
        let want = Want {
            digest,
            size: Some(found.size),
            content: Content::Module,
            deltas: Vec::new(),
            sources: vec![Source::Registry(remote.repository.clone())],
            keyring: keyring.clone(),
        };
        let fetched = self.fetch(want, progress).await?;
        let name = PulledName {
            repository: repository_name(image).to_owned(),
            tag: remote.tag.clone(),
            manifest: Some(found.manifest),
            created_ms: self.clock().now().wall_ms(),
        };
        let named = blocking(move || put_name(&store, &name, fetched)).await;
        named.map_err(|cause| FetchError::new(FetchFault::Local { digest, cause }))
    }
}

/// The name as the manifest spells it, without tag and digest.
fn repository_name(image: &ImageRef) -> &str {
    match image {
        ImageRef::Named { name, .. } => name,
        ImageRef::Digest { text, .. } => repository_of(text).unwrap_or(text),
        ImageRef::File { text, .. } => text,
    }
}

fn put_name(
    store: &ImageStore,
    name: &PulledName,
    fetched: super::fetch::Fetched,
) -> Result<ResolvedImage, crate::image::IncomingError> {
    store.put_pulled(name, &fetched.digest)?;
    let image_id = match name.manifest {
        Some(manifest) => format!("{}@{manifest}", name.repository),
        None => fetched.digest.to_string(),
    };
    let (digest, path, size) = (fetched.digest, fetched.path, fetched.size);
    Ok(ResolvedImage { digest, path, image_id, size, pulled: true })
}
