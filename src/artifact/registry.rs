//! An OCI registry, as far as a node needs one: what a reference stands for, and a blob.
//!
//! Owns: the questions of the distribution specification. Not: HTTP (`http`), nor what a manifest says (`manifest`). Pulling
//! only. `oci_client` has the types and does the pushing (`podling image push`); its own pulling reads answers of any
//! length into memory, which a node of 64 MB cannot afford, and cannot share this one's client.

use reqwest::{StatusCode, Url};
use sha2::{Digest as _, Sha256};

use crate::image::Digest;

use super::failure::SourceError;
use super::http::{Access, Answer, Http, refusal};
use super::intake::Intake;
use super::keyring::Keyring;
use super::manifest::{ACCEPT, Choice, MANIFEST_BYTES_MAX, choose};
use super::source::Repository;

/// Steps from a reference to an image: an index, and the manifest that it names. (An index of indexes is allowed, and
/// nobody has one.)
const STEPS_MAX: usize = 3;

/// What a reference stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Of the manifest, or index, that the reference names.
    pub manifest: Digest,
    /// Of the module.
    pub content: Digest,
    pub size: u64,
}

/// A repository, and who asks.
#[derive(Debug)]
pub(super) struct Registry<'a> {
    http: &'a Http,
    repository: &'a Repository,
    access: Access,
}

impl<'a> Registry<'a> {
    /// # Errors
    ///
    /// The configuration does not let anything come from there.
    pub(super) fn new(
        http: &'a Http,
        repository: &'a Repository,
        keyring: &Keyring,
    ) -> Result<Self, SourceError> {
        if !http.settings().allows(&repository.host, &repository.path) {
            return Err(SourceError::NotAllowed(repository.to_string()));
        }
        let (_, path) = repository.endpoint();
        let access = Access::to_repository(keyring.find(repository), &path);
        Ok(Self { http, repository, access })
    }

    /// Asks what a tag, or a manifest's digest, stands for.
    pub(super) async fn resolve(&mut self, reference: &str) -> Result<Found, SourceError> {
        let mut named = None;
        let mut reference = reference.to_owned();
        for _ in 0..STEPS_MAX {
            let (manifest, json) = self.manifest(&reference).await?;
            let named = *named.get_or_insert(manifest);
            let choice = choose(&json).map_err(|what| SourceError::NotAModule {
                place: self.repository.to_string(),
                what,
            });
            match choice? {
                Choice::Layer { digest, size } => {
                    return Ok(Found { manifest: named, content: digest, size });
                }
                Choice::Manifest(digest) => reference = digest.to_string(),
            }
        }
        Err(self.protocol("its indexes name indexes"))
    }

    /// Brings a blob.
    pub(super) async fn blob(&mut self, intake: &mut Intake) -> Result<(), SourceError> {
        let url = self.url("blobs", &intake.digest().to_string())?;
        self.access.accepted();
        self.http.download(&url, &mut self.access, intake).await
    }

    /// A manifest and its digest.
    async fn manifest(&mut self, reference: &str) -> Result<(Digest, Vec<u8>), SourceError> {
        let url = self.url("manifests", reference)?;
        let mut answer = self.ask(&url).await?;
        if answer.status == StatusCode::UNAUTHORIZED
            && self.access.challenged(self.http, &answer.headers).await?
        {
            answer = self.ask(&url).await?;
        }
        if !answer.status.is_success() {
            let place = format!("{}:{reference}", self.repository);
            return Err(refusal(place, answer.status, &answer.body));
        }
        self.access.accepted();
        let digest = Digest::new(Sha256::digest(&answer.body).into());
        // A tag may stand for anything; a digest for one thing.
        if let Ok(expected) = reference.parse::<Digest>()
            && expected != digest
        {
            return Err(self.protocol(&format!("its manifest {expected} is {digest}")));
        }
        Ok((digest, answer.body.to_vec()))
    }

    async fn ask(&mut self, url: &Url) -> Result<Answer, SourceError> {
        self.http.ask(url, ACCEPT, &mut self.access, MANIFEST_BYTES_MAX).await
    }

    fn url(&self, kind: &str, reference: &str) -> Result<Url, SourceError> {
        let (host, path) = self.repository.endpoint();
        let scheme = if self.http.settings().allows_plain(host) { "http" } else { "https" };
        let url = Url::parse(&format!("{scheme}://{host}/v2/{path}/{kind}/{reference}"));
        url.map_err(|_| self.protocol("its name makes no URL"))
    }

    fn protocol(&self, what: &str) -> SourceError {
        SourceError::Protocol { place: self.repository.to_string(), what: what.to_owned() }
    }
}
