//! Where a pod's modules are, and how a node gets them.
//!
//! Owns: digest, size and sources of each image, in the order in which a node shall try them. Not: asking registries (the caller
//! hands in how), nor the transfer.
//!
//! ```text
//!  file:./web.wasm        hashed here; the node knows it as web@sha256:…       mqtt:
//!  NAME in the store      as it was loaded                                     mqtt:
//!  REGISTRY/NAME:TAG      in the store as it was pulled, or asked of there     oci://REGISTRY/NAME, mqtt: if it is here
//!  any of them            --source IMAGE=URL                                   URL before the others
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use thiserror::Error;

#[cfg(feature = "compiler")]
use crate::artifact::delta;
use crate::artifact::{InvalidSource, Repository, Source};
use crate::clock::Timestamp;
use crate::image::import::{Origin, Stamp};
use crate::image::{Digest, ImageStore, ImportError, ResolveError, name};
use crate::mqtt::intent::Artifact;
#[cfg(feature = "compiler")]
use crate::mqtt::intent::{DELTAS_MAX, Delta};
use crate::spec::ImageRef;

/// Longest part of a module's file name in the name that nodes show.
const STEM_MAX: usize = 60;

/// An image with everything that a document says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    pub artifact: Artifact,
    /// What the manifest calls it.
    pub text: String,
    /// The file that has it, to be offered.
    pub file: Option<(PathBuf, Stamp)>,
    /// Differences from other modules, as the artifact names them.
    pub differences: Vec<(Digest, Vec<u8>)>,
}

/// Why an image cannot be published.
#[derive(Debug, Error)]
pub enum ImageError {
    #[error("image {text:?}")]
    File { text: String, source: ImportError },
    #[error("image {text:?}")]
    Store { text: String, source: ResolveError },
    #[error(
        "image {0:?} is neither in the local store nor at a registry: load it (podling image load FILE --name NAME), begin its name \
         with a registry, or write file:PATH"
    )]
    Unknown(String),
    #[error("--source {image}={url}")]
    Source { image: String, url: String, source: InvalidSource },
    #[error("--source {0}: no pod has that image")]
    NoSuchImage(String),
    #[error("cannot ask for image {text:?}: {why}")]
    Registry { text: String, why: String },
}

/// Who knows images that are not files.
#[async_trait]
pub trait Images: Send + Sync {
    /// The local store, if there is one.
    ///
    /// # Errors
    /// It cannot be opened.
    fn store(&self) -> Result<Option<&ImageStore>, ImageError>;

    /// Digest and size of what a reference stands for at its registry.
    ///
    /// # Errors
    /// In words, why it does not say.
    async fn ask(&self, image: &ImageRef) -> Result<(Digest, u64), String>;
}

/// Finds the modules of some images. `sources`: places of the operator's own for some of them.
///
/// # Errors
/// The first image that cannot be had.
pub async fn find(
    images: &[ImageRef],
    sources: &BTreeMap<String, Vec<String>>,
    known: &dyn Images,
    now: Timestamp,
) -> Result<Vec<Module>, ImageError> {
    let mut modules = vec![];
    for image in images {
        let text = image.text();
        let Some(mut module) = find_one(image, known, now).await? else { continue };
        let own = sources.get(text).into_iter().flatten();
        let own = own.map(|url| checked(text, url)).collect::<Result<Vec<_>, _>>()?;
        module.artifact.sources.splice(0..0, own);
        modules.push(module);
    }
    Ok(modules)
}

/// Adds the differences from an older module, for nodes that have that one, wherever it is worth it; whether it was for any.
///
/// # Errors
/// A file cannot be read.
#[cfg(feature = "compiler")]
pub fn differences_from(base: &Path, modules: &mut [Module]) -> Result<bool, ImageError> {
    let old = bytes(base)?;
    let base = crate::mqtt::envelope::digest(&old);
    let mut used = false;
    for module in modules {
        let Some((path, _)) = &module.file else { continue };
        let new = bytes(path)?;
        let is_new = base != module.artifact.digest;
        let has_room = module.artifact.deltas.len() < DELTAS_MAX;
        // One that is hardly smaller than the whole is none.
        let Ok(difference) = delta::make(&old, &new) else { continue };
        if !is_new || !has_room {
            continue;
        }
        let digest = crate::mqtt::envelope::digest(&difference);
        module.artifact.deltas.push(Delta {
            base,
            format: delta::FORMAT.to_owned(),
            digest,
            size: difference.len() as u64,
            sources: vec!["mqtt:".to_owned()],
        });
        module.differences.push((digest, difference));
        used = true;
    }
    Ok(used)
}

/// A module that is small enough to be compared: what `Origin` takes.
#[cfg(feature = "compiler")]
fn bytes(path: &Path) -> Result<Vec<u8>, ImageError> {
    let text = || path.display().to_string();
    let error = |source| ImageError::File { text: text(), source };
    Origin::open(path).map_err(error)?;
    std::fs::read(path).map_err(|cause| error(ImportError::Read { path: path.to_owned(), cause }))
}

fn checked(image: &str, url: &str) -> Result<String, ImageError> {
    match Source::parse(url) {
        Ok(_) => Ok(url.to_owned()),
        Err(source) => {
            Err(ImageError::Source { image: image.to_owned(), url: url.to_owned(), source })
        }
    }
}

/// `None`: it is named by its content alone, and must be on the node already.
async fn find_one(
    image: &ImageRef,
    known: &dyn Images,
    now: Timestamp,
) -> Result<Option<Module>, ImageError> {
    let text = image.text().to_owned();
    if let ImageRef::File { path, .. } = image {
        return file(text, path).map(Some);
    }
    let registry = repository(image);
    if let Some(store) = known.store()? {
        match store.resolve(image, now) {
            Ok(found) => {
                // What was loaded by hand under a registry's name need not be there.
                let oci = registry.filter(|_| found.pulled);
                let stamp = stamp(&found.path, &text)?;
                let sources = oci.map(|r| format!("oci://{r}")).into_iter();
                let sources = sources.chain(["mqtt:".to_owned()]).collect();
                let artifact = artifact(&text, found.digest, found.size, sources);
                return Ok(Some(Module {
                    artifact,
                    text,
                    file: Some((found.path, stamp)),
                    differences: vec![],
                }));
            }
            Err(ResolveError::NotFound { .. } | ResolveError::Missing { .. }) => {}
            Err(source) => return Err(ImageError::Store { text, source }),
        }
    }
    let Some(registry) = registry else {
        let is_content = matches!(image, ImageRef::Digest { .. });
        return if is_content { Ok(None) } else { Err(ImageError::Unknown(text)) };
    };
    let asked = known.ask(image).await;
    let (digest, size) = asked.map_err(|why| ImageError::Registry { text: text.clone(), why })?;
    let artifact = artifact(&text, digest, size, vec![format!("oci://{registry}")]);
    Ok(Some(Module { artifact, text, file: None, differences: vec![] }))
}

fn repository(image: &ImageRef) -> Option<Repository> {
    match image {
        ImageRef::Named { name, .. } => Repository::of(name),
        ImageRef::Digest { text, .. } => Repository::of(name::repository_of(text)?),
        ImageRef::File { .. } => None,
    }
}

fn file(text: String, path: &Path) -> Result<Module, ImageError> {
    let error = |source| ImageError::File { text: text.clone(), source };
    let mut origin = Origin::open(path).map_err(error)?;
    let survey = origin.survey(&mut |_| {}).map_err(error)?;
    let name = format!("{}@{}", stem(path), survey.digest);
    let artifact = artifact(&name, survey.digest, survey.size, vec!["mqtt:".to_owned()]);
    Ok(Module { artifact, text, file: Some((path.to_owned(), origin.stamp)), differences: vec![] })
}

fn artifact(image: &str, digest: Digest, size: u64, sources: Vec<String>) -> Artifact {
    let (image, media_type) = (image.to_owned(), "application/wasm".to_owned());
    Artifact { image, digest, size, media_type, sources, deltas: vec![] }
}

fn stamp(path: &Path, text: &str) -> Result<Stamp, ImageError> {
    let origin = Origin::open(path);
    let origin = origin.map_err(|source| ImageError::File { text: text.to_owned(), source })?;
    Ok(origin.stamp)
}

/// A file's name as an image may have it: what statuses show.
fn stem(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let parts: String = stem.chars().map(plain).take(STEM_MAX).collect();
    let words: Vec<&str> = parts.split('-').filter(|word| !word.is_empty()).collect();
    if words.is_empty() { "module".to_owned() } else { words.join("-") }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::image::parse_reference;

    struct Known(Option<ImageStore>);

    #[async_trait]
    impl Images for Known {
        fn store(&self) -> Result<Option<&ImageStore>, ImageError> {
            Ok(self.0.as_ref())
        }

        async fn ask(&self, image: &ImageRef) -> Result<(Digest, u64), String> {
            match image.text().contains("gone") {
                true => Err("no such manifest".to_owned()),
                false => Ok((Digest::new([3; 32]), 99)),
            }
        }
    }

    fn reference(text: &str, base: &Path) -> ImageRef {
        parse_reference(text, Some(base)).unwrap()
    }

    #[tokio::test]
    async fn every_image_has_a_way_to_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let module = wat::parse_str("(module)").unwrap();
        std::fs::write(dir.path().join("Web Page.wasm"), &module).unwrap();
        let (store, _) = ImageStore::open(&dir.path().join("images")).unwrap();
        let now = Timestamp::simulated(std::time::Duration::ZERO);
        for name in ["db:1", "ghcr.io/acme/own:1"] {
            let image = reference(name, dir.path());
            store.load(&dir.path().join("Web Page.wasm"), &image, now, &mut |_, _| {}).unwrap();
        }
        let known = Known(Some(store));
        let images: Vec<ImageRef> =
            ["file:Web Page.wasm", "db:1", "ghcr.io/acme/own:1", "ghcr.io/acme/far:2"]
                .iter()
                .map(|text| reference(text, dir.path()))
                .collect();
        let sources =
            BTreeMap::from([("db:1".to_owned(), vec!["https://files.example/db.wasm".to_owned()])]);
        let found = find(&images, &sources, &known, now).await.unwrap();
        let digest = crate::mqtt::envelope::digest(&module);
        let rows: Vec<(&str, Vec<&str>, bool)> = found
            .iter()
            .map(|m| {
                let sources = m.artifact.sources.iter().map(String::as_str).collect();
                (&*m.artifact.image, sources, m.file.is_some())
            })
            .collect();
        assert_eq!(
            rows,
            [
                (&*format!("web-page@{digest}"), vec!["mqtt:"], true),
                ("db:1", vec!["https://files.example/db.wasm", "mqtt:"], true),
                ("ghcr.io/acme/own:1", vec!["mqtt:"], true),
                ("ghcr.io/acme/far:2", vec!["oci://ghcr.io/acme/far"], false),
            ]
        );
        assert_eq!((found[0].artifact.size, found[3].artifact.size), (module.len() as u64, 99));
    }

    #[cfg(feature = "compiler")]
    #[test]
    fn a_difference_is_made_where_it_is_worth_it() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old.wasm"), dir.path().join("new.wasm"));
        let noise: Vec<u8> = (0..40_000_u32).map(|n| ((n * n) >> 7).to_le_bytes()[0]).collect();
        std::fs::write(&old, &noise).unwrap();
        std::fs::write(&new, [&noise[..], b"and a little more"].concat()).unwrap();
        let digest = |path: &Path| crate::mqtt::envelope::digest(&std::fs::read(path).unwrap());
        let module = |path: &Path| Module {
            artifact: artifact("x", digest(path), 1, vec![]),
            text: "x".to_owned(),
            file: Some((path.to_owned(), Origin::open(path).unwrap().stamp)),
            differences: vec![],
        };
        let mut modules = [module(&new), module(&old)];
        assert!(differences_from(&old, &mut modules).unwrap());
        let [delta] = &modules[0].artifact.deltas[..] else { panic!("{modules:?}") };
        assert_eq!(delta.base, digest(&old));
        assert!(delta.size < 1000 && modules[0].differences[0].1.len() as u64 == delta.size);
        assert!(modules[1].artifact.deltas.is_empty(), "not from itself");
        std::fs::write(&old, b"nothing in common").unwrap();
        assert!(!differences_from(&old, &mut [module(&new)]).unwrap());
    }

    #[tokio::test]
    async fn an_image_that_nobody_has_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let rows = [
            ("web:1", "podling image load"),
            ("file:none.wasm", "none.wasm"),
            ("ghcr.io/acme/gone:1", "no such manifest"),
        ];
        for (text, expected) in rows {
            let images = [reference(text, dir.path())];
            let found = find(
                &images,
                &BTreeMap::new(),
                &Known(None),
                Timestamp::simulated(std::time::Duration::ZERO),
            )
            .await;
            let said = crate::error::chain(&found.unwrap_err());
            assert!(said.contains(expected), "{said}");
        }
        let content = [reference(&format!("sha256:{}", "0".repeat(64)), dir.path())];
        let found = find(
            &content,
            &BTreeMap::new(),
            &Known(None),
            Timestamp::simulated(std::time::Duration::ZERO),
        )
        .await;
        assert_eq!(found.unwrap(), [], "it must be on the node");
    }
}
