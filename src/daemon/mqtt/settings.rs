//! The `mqtt:` section of the configuration.
//!
//! Owns: names, defaults, validation, and what the link and the protocol get of it. Not: reading trust anchors (`restore`), which may fail
//! without stopping the daemon. `docs/configuration.md` describes each setting.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::error::chain;
use crate::mqtt::command::Verb;
use crate::mqtt::link::{Endpoint, Password, Settings, Speak};
use crate::mqtt::tls::{Identity, TlsSettings};
use crate::mqtt::topic::{DEFAULT_ROOT, Topics, check_groups};
use crate::mqtt::transport::Version;
use crate::mqtt::trust::Mode;

/// Where trust anchors are looked for by default.
const ANCHORS: &str = "/etc/podling/trust.d";

/// How long a link may be broken before readers are told that the node is offline: several attempts to connect again.
const WILL_DELAY: Duration = Duration::from_secs(20);

/// Longest that may be asked for, seconds: what a broker keeps for a node that is gone for good has an end.
const WILL_DELAY_MAX: u64 = 3600;

/// Longest password, bytes (MQTT's own limit).
const PASSWORD_BYTES_MAX: usize = 65_535;

/// The section as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct MqttFile {
    /// `mqtts://HOST[:8883]` or `mqtt://HOST[:1883]`; the next one is tried when one cannot be reached.
    pub urls: Vec<String>,
    pub tenant: Option<String>,
    /// First levels of every topic.
    pub root: Option<String>,
    /// Groups that this node is in; earlier ones lead.
    pub groups: Vec<String>,
    pub client_id: Option<String>,
    pub keep_alive_seconds: Option<u64>,
    /// How long a broken link is no news to readers.
    pub will_delay_seconds: Option<u64>,
    pub protocol: ProtocolFile,
    pub user_name: Option<String>,
    pub password_file: Option<PathBuf>,
    /// What becomes of what is not signed as it should be.
    pub trust: Mode,
    /// Files, or folders of `*.yaml` files, with the keys that this node trusts.
    pub trust_anchors: Option<Vec<PathBuf>>,
    /// Commands that this node carries out.
    pub commands: Option<Vec<Verb>>,
    pub tls: TlsFile,
}

/// Versions of MQTT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ProtocolFile {
    /// 5, and 3.1.1 where the broker knows no better.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    #[serde(rename = "5")]
    V5,
    #[serde(rename = "3.1.1")]
    V311,
}

/// `mqtt.tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct TlsFile {
    pub ca: Option<PathBuf>,
    pub system_roots: bool,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub server_name: Option<String>,
    pub min_version: MinVersion,
}

/// `mqtt.tls.minVersion`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum MinVersion {
    #[serde(rename = "1.2")]
    V12,
    #[default]
    #[serde(rename = "1.3")]
    V13,
}

/// The section in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MqttConfig {
    pub link: Settings,
    pub will_delay: Duration,
    pub topics: Topics,
    pub groups: Vec<Arc<str>>,
    pub trust: Mode,
    pub anchors: Vec<PathBuf>,
    pub verbs: BTreeSet<Verb>,
    /// Where the password stands; read at start.
    pub password: Option<(String, PathBuf)>,
}

/// What is wrong with the section: the setting, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("mqtt{}{setting} of the configuration {why}", if .setting.is_empty() { "" } else { "." })]
pub struct MqttError {
    setting: String,
    why: String,
}

fn wrong(setting: &str, why: impl ToString) -> MqttError {
    MqttError { setting: setting.to_owned(), why: why.to_string() }
}

impl MqttFile {
    /// Fills in defaults and checks.
    ///
    /// # Errors
    /// With the first setting that cannot be used.
    pub fn resolve(self, node_name: &str) -> Result<MqttConfig, MqttError> {
        let mut endpoints = vec![];
        for url in &self.urls {
            let endpoint = Endpoint::parse(url);
            endpoints.push(endpoint.map_err(|e| wrong("urls", format!("has {url:?}, which {e}")))?);
        }
        let tenant = self.tenant.as_deref().ok_or_else(|| wrong("tenant", "must be set"))?;
        let root = self.root.as_deref().unwrap_or(DEFAULT_ROOT);
        let topics = Topics::new(root, tenant, node_name)
            .map_err(|e| wrong("", format!("is wrong: {e}")))?;
        let groups: Vec<Arc<str>> = self.groups.iter().map(|g| g.as_str().into()).collect();
        check_groups(&groups).map_err(|e| wrong("groups", format!("is wrong: {e}")))?;
        let mut link = Settings::new(self.client_id.as_deref().unwrap_or(node_name), endpoints);
        link.keep_alive = self.keep_alive_seconds.map_or(link.keep_alive, Duration::from_secs);
        link.speak = match self.protocol {
            ProtocolFile::Auto => Speak::Either,
            ProtocolFile::V5 => Speak::Only(Version::V5),
            ProtocolFile::V311 => Speak::Only(Version::V311),
        };
        let will_delay = self.will_delay_seconds.map_or(WILL_DELAY, Duration::from_secs);
        if will_delay.as_secs() > WILL_DELAY_MAX {
            let why = format!("must be 0 to {WILL_DELAY_MAX}, but is {}", will_delay.as_secs());
            return Err(wrong("willDelaySeconds", why));
        }
        let says_tls = self.tls != TlsFile::default();
        link.tls = self.tls.resolve()?;
        if says_tls && !link.endpoints.is_empty() && !link.endpoints.iter().any(|e| e.tls) {
            let why = "is set, but no URL begins with mqtts://, so that nothing would be encrypted";
            return Err(wrong("tls", why));
        }
        link.check().map_err(|e| wrong("", format!("is wrong: {e}")))?;
        let anchors = self.trust_anchors.unwrap_or_else(|| vec![ANCHORS.into()]);
        for path in anchors.iter().chain(&self.password_file) {
            absolute("trustAnchors or passwordFile", path)?;
        }
        let password = match (self.user_name, self.password_file) {
            (Some(user), Some(file)) => Some((user, file)),
            (None, None) => None,
            (Some(_), None) => return Err(wrong("passwordFile", "must be set, as userName is")),
            (None, Some(_)) => return Err(wrong("userName", "must be set, as passwordFile is")),
        };
        let verbs = self.commands.unwrap_or_else(|| Verb::DEFAULT.to_vec());
        let (trust, verbs) = (self.trust, verbs.into_iter().collect());
        Ok(MqttConfig { link, will_delay, topics, groups, trust, anchors, verbs, password })
    }
}

impl TlsFile {
    fn resolve(self) -> Result<TlsSettings, MqttError> {
        for path in [&self.ca, &self.certificate, &self.key].into_iter().flatten() {
            absolute("tls", path)?;
        }
        let identity = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
            (None, None) => None,
            (Some(_), None) => return Err(wrong("tls.key", "must be set, as tls.certificate is")),
            (None, Some(_)) => return Err(wrong("tls.certificate", "must be set, as tls.key is")),
        };
        Ok(TlsSettings {
            ca: self.ca,
            system_roots: self.system_roots,
            identity,
            server_name: self.server_name,
            allow_tls12: self.min_version == MinVersion::V12,
        })
    }
}

fn absolute(setting: &str, path: &Path) -> Result<(), MqttError> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(wrong(setting, format!("must be an absolute path, but is {}", path.display())))
}

impl MqttConfig {
    /// The link's settings with the password in them.
    ///
    /// # Errors
    /// If the password cannot be read.
    pub fn link_with_password(&self) -> Result<Settings, String> {
        let mut link = self.link.clone();
        if let Some((user, path)) = &self.password {
            let text = std::fs::read_to_string(path).map_err(|e| {
                format!("cannot read the password file {}: {}", path.display(), chain(&e))
            })?;
            // What an editor leaves at the end of a file is no part of it.
            let password = text.trim_end_matches(['\r', '\n']);
            if password.len() > PASSWORD_BYTES_MAX {
                return Err(format!("the password of {} is too long", path.display()));
            }
            link.credentials = Some((user.clone(), Password::new(password.to_owned())));
        }
        Ok(link)
    }

    /// The brokers, for people.
    #[must_use]
    pub fn brokers(&self) -> String {
        let shown: Vec<String> = self.link.endpoints.iter().map(ToString::to_string).collect();
        shown.join(", ")
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn resolve(text: &str) -> Result<MqttConfig, String> {
        let file: MqttFile = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
        file.resolve("gw-17").map_err(|e| e.to_string())
    }

    #[test]
    fn two_settings_are_enough() {
        let config = resolve("{urls: ['mqtt://broker'], tenant: acme}").unwrap();
        assert_eq!(config.link.client_id, "gw-17");
        assert_eq!(config.will_delay, WILL_DELAY);
        assert_eq!((config.trust, config.anchors), (Mode::Require, vec![PathBuf::from(ANCHORS)]));
        assert!(config.verbs.contains(&Verb::Logs) && !config.verbs.contains(&Verb::Exec));
        assert_eq!(config.topics.index(), "pods/v1/acme/n/gw-17/desired");
    }

    #[test]
    fn everything_can_be_said() {
        let config = resolve(
            "urls: ['mqtts://a:8884', 'mqtts://[::1]']\ntenant: acme\nroot: x\ngroups: [line-a]\n\
             clientId: other\nkeepAliveSeconds: 30\nwillDelaySeconds: 0\nprotocol: '3.1.1'\nuserName: u\n\
             passwordFile: /p\ntrust: off\ntrustAnchors: [/etc/a.yaml]\ncommands: [ping, exec]\n\
             tls: {ca: /ca, certificate: /c, key: /k, serverName: s, minVersion: '1.2'}",
        )
        .unwrap();
        assert_eq!(config.brokers(), "mqtts://a:8884, mqtts://[::1]:8883");
        assert_eq!((config.trust, config.verbs.len()), (Mode::Off, 2));
        assert_eq!(config.will_delay, Duration::ZERO);
        assert!(config.link.tls.allow_tls12 && config.link.tls.identity.is_some());
        assert_eq!(config.link.speak, Speak::Only(Version::V311));
    }

    #[test]
    fn mistakes_are_named() {
        let rows = [
            ("{tenant: acme}", "1 to 8 URLs"),
            ("{urls: ['mqtt://b']}", "mqtt.tenant of the configuration must be set"),
            ("{urls: ['http://b'], tenant: a}", "mqtt.urls of the configuration has \"http://b\""),
            ("{urls: ['mqtts://b'], tenant: a}", "tls.ca"),
            ("{urls: ['mqtt://b'], tenant: 'A/B'}", "cannot be a level"),
            ("{urls: ['mqtt://b'], tenant: a, root: 'a/b/c'}", "topic root"),
            ("{urls: ['mqtt://b'], tenant: a, groups: [g, g]}", "listed twice"),
            ("{urls: ['mqtt://b'], tenant: a, keepAliveSeconds: 4}", "5 to 1200 seconds"),
            ("{urls: ['mqtt://b'], tenant: a, willDelaySeconds: 3601}", "0 to 3600, but is 3601"),
            ("{urls: ['mqtt://b'], tenant: a, tls: {certificate: /c}}", "mqtt.tls.key"),
            ("{urls: ['mqtt://b'], tenant: a, tls: {ca: c}}", "absolute path"),
            ("{urls: ['mqtt://b'], tenant: a, tls: {ca: /c}}", "nothing would be encrypted"),
            ("{urls: ['mqtt://b'], tenant: a, userName: u}", "mqtt.passwordFile"),
            ("{urls: ['mqtt://b'], tenant: a, trust: maybe}", "unknown variant `maybe`"),
            ("{url: 'mqtt://b'}", "unknown field `url`"),
            ("{urls: ['mqtt://b'], tenant: a, commands: [shell]}", "unknown variant `shell`"),
        ];
        for (text, expected) in rows {
            let error = resolve(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_is_read_without_its_line_end_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        std::fs::write(&path, "s3cret\n").unwrap();
        let text = format!(
            "{{urls: ['mqtt://b'], tenant: a, userName: u, passwordFile: {}}}",
            path.display()
        );
        let link = resolve(&text).unwrap().link_with_password().unwrap();
        assert_eq!(link.credentials, Some(("u".into(), Password::new("s3cret".into()))));
        assert!(!format!("{link:?}").contains("s3cret"));
        std::fs::remove_file(&path).unwrap();
        assert!(resolve(&text).unwrap().link_with_password().is_err());
    }
}
