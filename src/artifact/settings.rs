//! What an operator may configure about artifacts: the section `artifacts:` of the node's configuration.
//!
//! Owns: the names, defaults, and what they permit. Not: acting on them.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;

use crate::image::import::MODULE_BYTES_MAX;

/// The section's form. Every field is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ArtifactSettings {
    /// Where artifacts may come from over HTTP: `HOST[:PORT][/PATH]`, or `*.DOMAIN`. Absent: from anywhere.
    pub allowed_registries: Option<Vec<String>>,
    /// `HOST[:PORT]`s that are spoken to without TLS. Loopback always may.
    pub insecure_registries: Vec<String>,
    /// Certificate authorities (PEM) beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether the system's authorities count; they do by default.
    pub system_roots: Option<bool>,
    /// Credentials in the form of Docker's `config.json`.
    pub registry_auth_file: Option<PathBuf>,
    /// Largest module that is fetched, bytes. Default and most: what the image store takes.
    pub max_bytes: Option<u64>,
}

/// Why settings are not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error(
        "artifacts.{setting} of the configuration names {text:?}, which is no HOST[:PORT]{path}"
    )]
    Pattern { setting: &'static str, text: String, path: &'static str },
    #[error("artifacts.maxBytes of the configuration must be 1 to {MODULE_BYTES_MAX}, but is {0}")]
    MaxBytes(u64),
    #[error("artifacts.{setting} of the configuration must be an absolute path, but is {path}")]
    NotAbsolute { setting: &'static str, path: PathBuf },
}

impl ArtifactSettings {
    /// # Errors
    ///
    /// The first value that is out of its range.
    pub fn check(&self) -> Result<(), SettingsError> {
        for text in self.allowed_registries.iter().flatten() {
            if !is_pattern(text) {
                let (setting, path) = ("allowedRegistries", "[/PATH]");
                return Err(SettingsError::Pattern { setting, text: text.clone(), path });
            }
        }
        for text in &self.insecure_registries {
            if !is_pattern(text) || text.contains(['/', '*']) {
                let (setting, path) = ("insecureRegistries", "");
                return Err(SettingsError::Pattern { setting, text: text.clone(), path });
            }
        }
        let files = [("caFile", &self.ca_file), ("registryAuthFile", &self.registry_auth_file)];
        for (setting, path) in files {
            if let Some(path) = path.clone().filter(|path| !path.is_absolute()) {
                return Err(SettingsError::NotAbsolute { setting, path });
            }
        }
        match self.max_bytes {
            Some(bytes) if !(1..=MODULE_BYTES_MAX).contains(&bytes) => {
                Err(SettingsError::MaxBytes(bytes))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Largest artifact, bytes.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        self.max_bytes.unwrap_or(MODULE_BYTES_MAX)
    }

    /// Whether artifacts may come from there. `path` has no leading slash.
    #[must_use]
    pub fn allows(&self, host: &str, path: &str) -> bool {
        let Some(allowed) = &self.allowed_registries else { return true };
        allowed.iter().any(|pattern| {
            let (pattern, below) = pattern.split_once('/').unwrap_or((pattern, ""));
            let below = below.trim_end_matches('/');
            let is_below = path
                .strip_prefix(below)
                .is_some_and(|rest| below.is_empty() || rest.is_empty() || rest.starts_with('/'));
            is_below && host_matches(pattern, host)
        })
    }

    /// Whether a host may be spoken to without TLS. `host` may have a port.
    #[must_use]
    pub fn allows_plain(&self, host: &str) -> bool {
        is_loopback(host) || self.insecure_registries.iter().any(|own| own == host)
    }
}

fn host_matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(domain) => {
            host.strip_suffix(domain).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        }
        None => pattern.eq_ignore_ascii_case(host),
    }
}

/// Whether a host, with or without port, is this machine itself.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let name = if let Some(rest) = host.strip_prefix('[') {
        rest.split(']').next().unwrap_or(rest)
    } else {
        host.split(':').next().unwrap_or(host)
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_pattern(text: &str) -> bool {
    let host = text.split('/').next().unwrap_or(text);
    let host = host.strip_prefix("*.").unwrap_or(host);
    !host.is_empty()
        && !text.contains("://")
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b))
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn settings(text: &str) -> ArtifactSettings {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_list_of_registries_lets_in_what_is_below_them() {
        let all = settings("{}");
        let none = settings(r#"{"allowedRegistries": []}"#);
        let some = settings(
            r#"{"allowedRegistries": ["ghcr.io/acme", "registry.example:5000", "*.plant.example"]}"#,
        );
        some.check().unwrap();
        for (host, path, allowed) in [
            ("ghcr.io", "acme/web", true),
            ("ghcr.io", "acme", true),
            ("ghcr.io", "acme-evil/web", false),
            ("ghcr.io", "other/web", false),
            ("registry.example:5000", "any/thing", true),
            ("registry.example", "any/thing", false),
            ("a.plant.example", "x", true),
            ("plant.example", "x", false),
            ("evilplant.example", "x", false),
        ] {
            assert_eq!(some.allows(host, path), allowed, "{host}/{path}");
            assert!(all.allows(host, path) && !none.allows(host, path));
        }
    }

    #[test]
    fn plain_http_is_for_this_machine_and_for_what_is_named() {
        let settings = settings(r#"{"insecureRegistries": ["registry.lan:5000"]}"#);
        for (host, allowed) in [
            ("localhost:5000", true),
            ("127.0.0.1", true),
            ("127.8.9.1:80", true),
            ("[::1]:5000", true),
            ("registry.lan:5000", true),
            ("registry.lan", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(settings.allows_plain(host), allowed, "{host}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, said) in [
            (
                r#"{"allowedRegistries": ["https://ghcr.io"]}"#,
                "artifacts.allowedRegistries of the configuration names \"https://ghcr.io\", which \
                 is no HOST[:PORT][/PATH]",
            ),
            (
                r#"{"insecureRegistries": ["a/b"]}"#,
                "artifacts.insecureRegistries of the configuration names \"a/b\", which is no HOST[:PORT]",
            ),
            (
                r#"{"maxBytes": 0}"#,
                "artifacts.maxBytes of the configuration must be 1 to 268435456, but is 0",
            ),
            (
                r#"{"caFile": "ca.pem"}"#,
                "artifacts.caFile of the configuration must be an absolute path, but is ca.pem",
            ),
        ] {
            assert_eq!(settings(text).check().unwrap_err().to_string(), said);
        }
        assert!(serde_json::from_str::<ArtifactSettings>(r#"{"allowed": []}"#).is_err());
    }
}
