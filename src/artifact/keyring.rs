//! Names and passwords for registries: Docker's `config.json`, and Kubernetes' pull secrets, which have its form.
//!
//! Owns: reading them, and which is for whom. Not: sending them (`access`). Passwords appear in no output of `Debug`.
//!
//! Of several entries that fit a repository the one with the longest path wins, and a pod's before the node's. Helpers
//! (`credHelpers`, `credsStore`) are programs of a desktop and are not run.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::BTreeMap;
use thiserror::Error;

use super::source::Repository;

/// Longest file of credentials, bytes: Kubernetes' bound for a Secret.
const KEYRING_BYTES_MAX: u64 = 1024 * 1024;

/// One name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    user: String,
    password: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Credential {
    #[must_use]
    pub fn new(user: &str, password: &str) -> Self {
        Self { user: user.to_owned(), password: password.to_owned() }
    }

    /// The same, as the pushing library wants it.
    pub(super) fn for_push(&self) -> oci_client::secrets::RegistryAuth {
        let (user, password) = (self.user.clone(), self.password.clone());
        oci_client::secrets::RegistryAuth::Basic(user, password)
    }

    /// The value of an `Authorization` header.
    pub(super) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)))
    }
}

/// Credentials, in the order in which they are looked through. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Keyring(Arc<Vec<Key>>);

#[derive(Clone, Debug)]
struct Key {
    host: String,
    path: String,
    credential: Credential,
}

/// Why there are no credentials where some should be.
#[derive(Debug, Error)]
pub enum KeyringError {
    #[error("cannot read registry credentials {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("the registry credentials are not in the form of Docker's config.json")]
    Form,
    #[error("the registry credentials for {0} are not base64 of USER:PASSWORD")]
    Entry(String),
}

#[derive(Deserialize)]
struct ConfigJson {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

impl Keyring {
    /// Reads a file. That it is not there means that nothing is.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is no such file.
    pub fn read(path: &Path) -> Result<Self, KeyringError> {
        use std::io::Read as _;
        let read = |cause| KeyringError::Read { path: path.to_owned(), cause };
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(cause) => return Err(read(cause)),
        };
        let mut bytes = Vec::new();
        file.take(KEYRING_BYTES_MAX).read_to_end(&mut bytes).map_err(read)?;
        Self::parse(&bytes)
    }

    /// Reads `config.json` (`auths: {…}`), or its older form, which is what is inside of `auths`.
    ///
    /// # Errors
    ///
    /// It is neither. What it says appears in no error.
    pub fn parse(json: &[u8]) -> Result<Self, KeyringError> {
        // Serde's words would quote the text.
        let config = serde_json::from_slice::<ConfigJson>(json).map_err(|_| KeyringError::Form)?;
        let auths = if config.auths.is_empty() {
            serde_json::from_slice(json).unwrap_or_default()
        } else {
            config.auths
        };
        let mut keys = Vec::new();
        for (place, auth) in auths {
            let entry = || KeyringError::Entry(place.clone());
            let credential = match auth {
                Auth { auth: Some(auth), .. } if !auth.is_empty() => {
                    let bytes = STANDARD.decode(auth.trim()).map_err(|_| entry())?;
                    let text = String::from_utf8(bytes).map_err(|_| entry())?;
                    let (user, password) = text.split_once(':').ok_or_else(entry)?;
                    Credential::new(user, password.trim_end_matches('\0'))
                }
                Auth { username: Some(user), password: Some(password), .. } => {
                    Credential { user, password }
                }
                // What a helper would know.
                Auth { .. } => continue,
            };
            let (host, path) = split_place(&place);
            keys.push(Key { host, path, credential });
        }
        keys.sort_by_key(|key| std::cmp::Reverse(key.path.len()));
        Ok(Self(Arc::new(keys)))
    }

    /// These before those.
    #[must_use]
    pub fn before(&self, others: &Self) -> Self {
        if others.0.is_empty() {
            return self.clone();
        }
        Self(Arc::new(self.0.iter().chain(others.0.iter()).cloned().collect()))
    }

    /// What to say to a registry about a repository.
    #[must_use]
    pub fn find(&self, repository: &Repository) -> Option<&Credential> {
        let (host, path) = (hub_name(&repository.host), &repository.path);
        let fits = |key: &&Key| {
            let rest = path.strip_prefix(key.path.as_str());
            let is_below = rest.is_some_and(|rest| {
                key.path.is_empty() || rest.is_empty() || rest.starts_with('/')
            });
            is_below && key.host == host
        };
        self.0.iter().find(fits).map(|key| &key.credential)
    }
}

/// `https://HOST/v1/`, `HOST/PATH`, `HOST` → host and path.
fn split_place(place: &str) -> (String, String) {
    let place = place.trim_start_matches("https://").trim_start_matches("http://");
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let path = path.trim_end_matches('/');
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    (hub_name(host).to_owned(), path.to_owned())
}

/// Docker Hub goes by many names.
fn hub_name(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn find(keyring: &Keyring, name: &str) -> Option<String> {
        keyring.find(&Repository::of(name).unwrap()).map(|found| found.user.clone())
    }

    #[test]
    fn the_entry_with_the_longest_path_wins() {
        let auth = STANDARD.encode("ana:pa:ss");
        let json = format!(
            r#"{{"auths": {{
                "ghcr.io": {{"auth": "{auth}"}},
                "ghcr.io/acme/": {{"username": "acme", "password": "x"}},
                "https://index.docker.io/v1/": {{"username": "hub", "password": "x"}},
                "empty.example": {{}}
            }}, "credsStore": "desktop"}}"#
        );
        let keyring = Keyring::parse(json.as_bytes()).unwrap();
        for (name, user) in [
            ("ghcr.io/web", Some("ana")),
            ("ghcr.io/acme/web", Some("acme")),
            ("ghcr.io/acmeish/web", Some("ana")),
            ("docker.io/web", Some("hub")),
            ("ghcr.io:443/web", None),
            ("empty.example/web", None),
        ] {
            assert_eq!(find(&keyring, name).as_deref(), user, "{name}");
        }
        let ana = keyring.find(&Repository::of("ghcr.io/x").unwrap()).unwrap();
        assert_eq!(ana.basic(), format!("Basic {auth}"));
        let old = Keyring::parse(br#"{"ghcr.io": {"username": "old", "password": "x"}}"#).unwrap();
        assert_eq!(find(&old.before(&keyring), "ghcr.io/acme/web").as_deref(), Some("old"));
    }

    #[test]
    fn no_password_is_ever_shown() {
        let auth = STANDARD.encode("ana:geheim");
        let json = format!(r#"{{"auths": {{"a.example": {{"auth": "{auth}"}}}}}}"#);
        let keyring = Keyring::parse(json.as_bytes()).unwrap();
        let shown = format!("{keyring:?}");
        assert!(shown.contains("ana") && !shown.contains("geheim") && !shown.contains(&auth));
        for wrong in [
            &br#"{"auths": {"a": {"auth": "Z2VoZWlt"}}}"#[..],
            br#"{"auths": {"a": {"auth": "geheim!"}}}"#,
            br#"{"auths": "geheim"}"#,
            b"geheim",
        ] {
            let error = Keyring::parse(wrong).unwrap_err().to_string();
            assert!(!error.contains("geheim") && !error.contains("Z2Vo"), "{error}");
        }
        let missing = Path::new("/nonexistent/config.json");
        assert!(find(&Keyring::read(missing).unwrap(), "a.example/x").is_none());
    }
}
