//! Where an artifact may be had: one line of text for each place.
//!
//! Owns: the grammar. Not: going there. Pure.
//!
//! ```text
//!  oci://HOST[:PORT]/REPOSITORY      a registry's blob of that digest
//!  https://HOST[:PORT]/PATH          a file; http:// only where it is allowed
//!  mqtt:                             the broker that the intent came from
//!  data:[TYPE];base64,…              the artifact itself, if it is small
//! ```

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::image::parse_reference;
use crate::spec::ImageRef;

/// Longest text of a source, bytes.
const SOURCE_BYTES_MAX: usize = 2048;

/// A place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Source {
    Registry(Repository),
    Http(Url),
    Broker,
    /// The very bytes.
    Inline(Arc<[u8]>),
}

/// Longest artifact in a `data:` source, bytes: for demonstrations and tests, where a message must stay small.
const INLINE_BYTES_MAX: usize = 16 * 1024;

/// A repository of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// `HOST[:PORT]`, as it is written.
    pub host: String,
    /// Without leading slash.
    pub path: String,
}

/// Text that names no place.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is no source of an artifact: {fault}")]
pub struct InvalidSource {
    text: String,
    fault: &'static str,
}

impl Repository {
    /// The repository that an image's name stands for. `None`: the name has no registry, and stands for something in this
    /// node's own store only.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        let host = crate::image::name::registry_of(name)?;
        let path = name.get(host.len() + 1..)?;
        Some(Self { host: host.to_owned(), path: path.to_owned() })
    }

    /// The host that answers for it, and the path there. Docker Hub has other names inside than outside.
    #[must_use]
    pub fn endpoint(&self) -> (&str, String) {
        match self.host.as_str() {
            "docker.io" | "index.docker.io" => {
                let is_official = !self.path.contains('/');
                let path =
                    if is_official { format!("library/{}", self.path) } else { self.path.clone() };
                ("registry-1.docker.io", path)
            }
            host => (host, self.path.clone()),
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)
    }
}

impl Source {
    /// Reads a source.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the text; never whether anything is there.
    pub fn parse(text: &str) -> Result<Self, InvalidSource> {
        let invalid = |fault| InvalidSource { text: text.chars().take(100).collect(), fault };
        if let Some(rest) = text.strip_prefix("data:") {
            return inline(rest).map(Self::Inline).map_err(invalid);
        }
        if text.len() > SOURCE_BYTES_MAX {
            return Err(invalid("it is longer than 2048 bytes"));
        }
        if text == "mqtt:" {
            return Ok(Self::Broker);
        }
        if let Some(name) = text.strip_prefix("oci://") {
            let named = match parse_reference(name, None) {
                Ok(ImageRef::Named { name, .. }) => name.to_string(),
                // The digest of the artifact is given elsewhere; whoever writes it here, too, means the repository.
                Ok(ImageRef::Digest { text, .. }) => {
                    crate::image::name::repository_of(&text).unwrap_or_default().to_owned()
                }
                Ok(ImageRef::File { .. }) | Err(_) => {
                    return Err(invalid("after oci:// comes HOST[:PORT]/REPOSITORY"));
                }
            };
            let repository = Repository::of(&named);
            return repository
                .map(Self::Registry)
                .ok_or_else(|| invalid("after oci:// comes HOST[:PORT]/REPOSITORY"));
        }
        let url = Url::parse(text).map_err(|_| invalid("oci://, https:// or mqtt: is expected"))?;
        match url.scheme() {
            "https" | "http" if !url.username().is_empty() || url.password().is_some() => {
                Err(invalid("credentials belong into the node's registryAuthFile"))
            }
            "https" | "http" if url.has_host() => Ok(Self::Http(url)),
            _ => Err(invalid("oci://, https:// or mqtt: is expected")),
        }
    }
}

impl fmt::Display for Source {
    /// Without a URL's query: some services put keys there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(repository) => write!(f, "oci://{repository}"),
            Self::Http(url) => f.write_str(&shown(url)),
            Self::Broker => f.write_str("mqtt:"),
            Self::Inline(_) => f.write_str("data:"),
        }
    }
}

impl TryFrom<String> for Source {
    type Error = InvalidSource;

    fn try_from(text: String) -> Result<Self, InvalidSource> {
        Self::parse(&text)
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        match source {
            Source::Http(url) => url.into(),
            Source::Inline(bytes) => format!("data:;base64,{}", STANDARD.encode(bytes)),
            source @ (Source::Registry(_) | Source::Broker) => source.to_string(),
        }
    }
}

/// The bytes behind `data:`.
fn inline(text: &str) -> Result<Arc<[u8]>, &'static str> {
    let (head, data) = text.split_once(',').ok_or("data: needs a comma before its data")?;
    if !head.ends_with(";base64") {
        return Err("data: is expected in base64");
    }
    if data.len() > INLINE_BYTES_MAX.div_ceil(3) * 4 {
        return Err("data: may hold 16 KiB");
    }
    let bytes = STANDARD.decode(data).map_err(|_| "its data is no base64")?;
    Ok(bytes.into())
}

/// A URL as it may be shown: without what may be a secret.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Neither can fail on a URL with a host; one without has none of them.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

/// `HOST[:PORT]` of a URL.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn places_read_back_and_show_no_secret() {
        let hex = "0".repeat(64);
        for (text, shown) in [
            ("mqtt:", "mqtt:"),
            ("data:application/wasm;base64,AGFzbQ==", "data:"),
            ("oci://ghcr.io/acme/web", "oci://ghcr.io/acme/web"),
            ("oci://ghcr.io/acme/web:1", "oci://ghcr.io/acme/web"),
            (&format!("oci://localhost:5000/web@sha256:{hex}"), "oci://localhost:5000/web"),
            ("https://cdn.example/a/web.wasm?sig=abc#x", "https://cdn.example/a/web.wasm"),
            ("http://127.0.0.1:8000/web.wasm", "http://127.0.0.1:8000/web.wasm"),
        ] {
            let source = Source::parse(text).unwrap();
            assert_eq!(source.to_string(), shown);
            let json = serde_json::to_string(&source).unwrap();
            assert_eq!(serde_json::from_str::<Source>(&json).unwrap(), source);
        }
    }

    #[test]
    fn what_names_no_place_is_refused_with_a_reason() {
        for (text, fault) in [
            ("", "oci://, https:// or mqtt: is expected"),
            ("web.wasm", "oci://, https:// or mqtt: is expected"),
            ("data:AGFzbQ==", "data: needs a comma before its data"),
            ("data:application/wasm,AGFzbQ==", "data: is expected in base64"),
            ("data:;base64,?", "its data is no base64"),
            ("ftp://a/b", "oci://, https:// or mqtt: is expected"),
            ("file:///etc/passwd", "oci://, https:// or mqtt: is expected"),
            ("oci://web", "after oci:// comes HOST[:PORT]/REPOSITORY"),
            ("oci://ghcr.io/UP", "after oci:// comes HOST[:PORT]/REPOSITORY"),
            ("oci://sha256:00", "after oci:// comes HOST[:PORT]/REPOSITORY"),
            ("https://me:secret@a/b", "credentials belong into the node's registryAuthFile"),
        ] {
            let error = Source::parse(text).unwrap_err();
            assert_eq!(error.fault, fault, "{text}");
        }
        let long = format!("https://a/{}", "b".repeat(3000));
        assert!(Source::parse(&long).unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn the_hub_is_found_under_its_own_name() {
        for (name, host, path) in [
            ("docker.io/web", "registry-1.docker.io", "library/web"),
            ("docker.io/acme/web", "registry-1.docker.io", "acme/web"),
            ("ghcr.io/acme/web", "ghcr.io", "acme/web"),
        ] {
            let repository = Repository::of(name).unwrap();
            assert_eq!(repository.endpoint(), (host, path.to_owned()));
        }
        assert_eq!(Repository::of("acme/web"), None);
    }
}
