//! How `publish` and `fleet` reach the broker: a small file, the command line over it, defaults under both.
//!
//! Owns: names, defaults and checks of these settings. `docs/publish.md` describes each. Paths in the file are relative to it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use ed25519_dalek::VerifyingKey;
use serde::Deserialize;

use crate::clock::Clock;
use crate::controller::session::Session;
use crate::daemon::config::in_words;
use crate::mqtt::controller::SecretKey;
use crate::mqtt::intent::time_text;
use crate::mqtt::link::{Endpoint, Link, Password, Settings, Speak};
use crate::mqtt::tls::{Identity, TlsFiles, TlsSettings, is_server_name};
use crate::mqtt::topic::{DEFAULT_ROOT, Tree};
use crate::mqtt::transport::{Transport, Version};
use crate::mqtt::trust::public_key;

use super::args::BrokerArgs;
use super::known;

/// The file's name in the places where it is looked for.
const FILE: &str = "podling/controller.yaml";

/// The file of known nodes, beside the settings.
const KNOWN_NODES: &str = "known-nodes";

/// Largest file of settings, or key.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A dead broker is noticed within twice this. Shorter than a node's: somebody sits there and waits.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The file as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct ControllerFile {
    urls: Vec<String>,
    tenant: Option<String>,
    root: Option<String>,
    client_id: Option<String>,
    keep_alive_seconds: Option<u64>,
    protocol: Option<String>,
    user_name: Option<String>,
    password_file: Option<PathBuf>,
    signing_key: Option<PathBuf>,
    tls: TlsFile,
    /// To whom secrets for each node are encrypted, so that the broker need not be believed.
    recipients: BTreeMap<String, String>,
    /// What each node signs with, for the same reason.
    node_keys: BTreeMap<String, String>,
    /// Where the keys of nodes are remembered that were seen once.
    known_nodes: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct TlsFile {
    ca: Option<PathBuf>,
    /// Default: where no `ca` is named.
    system_roots: Option<bool>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    server_name: Option<String>,
    min_version: Option<String>,
}

/// Where settings come from if there is no file.
const COMMAND_LINE: &str = "the command line";

/// The file that a setting from `origin` is written in: where there is none yet, the user's own.
fn file_of(origin: &str) -> String {
    if origin != COMMAND_LINE {
        return origin.to_owned();
    }
    places(|name| std::env::var_os(name).map(PathBuf::from))[0].display().to_string()
}

/// The settings in force.
#[derive(Clone, Debug)]
pub(super) struct Controller {
    pub(super) link: Settings,
    pub(super) tree: Tree,
    pub(super) signing_key: Option<PathBuf>,
    pub(super) recipients: BTreeMap<String, String>,
    pub(super) node_keys: BTreeMap<String, VerifyingKey>,
    pub(super) known_nodes: PathBuf,
    /// Where they come from, for messages.
    pub(super) origin: String,
}

/// The places where the file may be, first to last.
fn places(env: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let absolute = |name: &str| env(name).filter(|path| path.is_absolute());
    let own = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    own.into_iter().chain([PathBuf::from("/etc")]).map(|dir| dir.join(FILE)).collect()
}

impl Controller {
    /// The settings of this process' user with those of the command line over them.
    pub(super) fn of(args: &BrokerArgs) -> anyhow::Result<Self> {
        let found = match &args.controller {
            Some(path) => Some(path.clone()),
            None => {
                let places = places(|name| std::env::var_os(name).map(PathBuf::from));
                places.into_iter().find(|path| path.is_file())
            }
        };
        let (file, origin) = match &found {
            Some(path) => (read(path)?, path.display().to_string()),
            None => (ControllerFile::default(), COMMAND_LINE.to_owned()),
        };
        overlaid(file, args).resolve(origin)
    }

    /// A session that is not connected yet.
    ///
    /// # Errors
    /// A setting that no broker is needed to find wrong: TLS files that cannot be used, for instance.
    pub(super) fn session(&self) -> anyhow::Result<Session<Link>> {
        let clock = Clock::start();
        self.check_tls(clock)?;
        let shown: Vec<String> = self.link.endpoints.iter().map(ToString::to_string).collect();
        let link = Link::new(self.link.clone(), clock)?;
        let (tree, brokers) = (self.tree.clone(), self.link.endpoints.len());
        let mut session = Session::new(link, tree, clock, shown.join(", "), brokers);
        for (node, key) in &self.node_keys {
            session.known.add(node, *key, &format!("nodeKeys of {}", self.origin));
        }
        known::read(&self.known_nodes, self.tree.tenant(), &mut session.known)?;
        Ok(session)
    }

    /// Keeps the keys of nodes that were seen for the first time, and how far each was heard.
    pub(super) fn remember<T: Transport>(&self, session: &mut Session<T>) {
        let learnt = session.known.take_learnt();
        known::keep(&self.known_nodes, self.tree.tenant(), &learnt);
        let (heard, when) = (session.known.take_heard(), time_text(session.now().wall_ms()));
        known::keep_seen(&self.known_nodes, self.tree.tenant(), &heard, &when);
    }

    /// A node goes on with files that are put right later; here somebody waits, and a mistake of his own is no broker that is away.
    fn check_tls(&self, clock: Clock) -> anyhow::Result<()> {
        let tls = &self.link.tls;
        let mut over_tls = self.link.endpoints.iter().filter(|endpoint| endpoint.tls).peekable();
        if over_tls.peek().is_none() {
            return Ok(());
        }
        TlsFiles::new(tls.clone(), clock)
            .choose()
            .with_context(|| format!("the TLS files of {} cannot be used", self.origin))?;
        for endpoint in over_tls {
            let name = tls.server_name.as_ref().unwrap_or(&endpoint.host);
            ensure!(
                is_server_name(name),
                "{name:?} is no name that a certificate can have ({endpoint}, {})",
                self.origin
            );
        }
        Ok(())
    }

    /// The key that documents are signed with.
    pub(super) fn key(&self) -> anyhow::Result<SecretKey> {
        let path = self.signing_key.as_ref().with_context(|| {
            format!(
                "no signing key is known: name it with --signing-key, or as signingKey in {} (podling key generate FILE makes one; \
                 --unsigned publishes without, for nodes whose trust is off)",
                file_of(&self.origin)
            )
        })?;
        read_key(path)
    }
}

/// Reads a private key that nobody else can read.
pub(super) fn read_key(path: &Path) -> anyhow::Result<SecretKey> {
    let shown = path.display();
    let meta =
        std::fs::metadata(path).with_context(|| format!("cannot read signing key {shown}"))?;
    ensure!(
        meta.mode() & 0o077 == 0,
        "signing key {shown} can be read by others: chmod 600 {shown}"
    );
    let text = text(path).with_context(|| format!("cannot read signing key {shown}"))?;
    SecretKey::from_pem(&text).with_context(|| format!("signing key {shown}"))
}

fn text(path: &Path) -> anyhow::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn read(path: &Path) -> anyhow::Result<ControllerFile> {
    let shown = path.display();
    let text = text(path).with_context(|| format!("cannot read {shown}"))?;
    let file: ControllerFile = serde_yaml::from_str(&text)
        .map_err(|e| anyhow::anyhow!("{shown} is not valid: {}", in_words(&e)))?;
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    let join = |named: Option<PathBuf>| named.map(|named| base.join(named));
    Ok(ControllerFile {
        password_file: join(file.password_file),
        signing_key: join(file.signing_key),
        known_nodes: join(file.known_nodes),
        tls: TlsFile {
            ca: join(file.tls.ca),
            certificate: join(file.tls.certificate),
            key: join(file.tls.key),
            ..file.tls
        },
        ..file
    })
}

fn overlaid(file: ControllerFile, args: &BrokerArgs) -> ControllerFile {
    let over = |own: Option<PathBuf>, given: &Option<PathBuf>| given.clone().or(own);
    let said = |own: Option<String>, given: &Option<String>| given.clone().or(own);
    let mut node_keys = file.node_keys;
    node_keys.extend(args.node_key.iter().cloned());
    ControllerFile {
        node_keys,
        urls: if args.broker.is_empty() { file.urls } else { args.broker.clone() },
        tenant: said(file.tenant, &args.tenant),
        root: said(file.root, &args.topic_root),
        user_name: said(file.user_name, &args.username),
        password_file: over(file.password_file, &args.password_file),
        signing_key: over(file.signing_key, &args.signing_key),
        tls: TlsFile {
            ca: over(file.tls.ca, &args.certificate_authority),
            certificate: over(file.tls.certificate, &args.client_certificate),
            key: over(file.tls.key, &args.client_key),
            server_name: said(file.tls.server_name, &args.tls_server_name),
            ..file.tls
        },
        ..file
    }
}

impl ControllerFile {
    fn resolve(self, origin: String) -> anyhow::Result<Controller> {
        ensure!(
            !self.urls.is_empty(),
            "no broker is known: name it with --broker mqtts://HOST, or as urls in {} (docs/publish.md)",
            file_of(&origin)
        );
        let tenant = self.tenant.as_deref().with_context(|| {
            format!(
                "no tenant is known: name it with --tenant, or as tenant in {}",
                file_of(&origin)
            )
        })?;
        let tree = Tree::new(self.root.as_deref().unwrap_or(DEFAULT_ROOT), tenant)?;
        let mut endpoints = vec![];
        for url in &self.urls {
            let endpoint =
                Endpoint::parse(url).map_err(|e| anyhow::anyhow!("broker {url:?} {e}"))?;
            endpoints.push(endpoint);
        }
        // Two runs at the same time must not take the connection from each other.
        let serial = uuid::Uuid::new_v4().simple().to_string();
        let client_id = self.client_id.unwrap_or_else(|| format!("podling-{}", &serial[..8]));
        let mut link = Settings::new(&client_id, endpoints);
        link.keep_alive = self.keep_alive_seconds.map_or(KEEP_ALIVE, Duration::from_secs);
        link.speak = match self.protocol.as_deref() {
            None | Some("auto") => Speak::Either,
            Some("5") => Speak::Only(Version::V5),
            Some("3.1.1") => Speak::Only(Version::V311),
            Some(other) => bail!("protocol {other:?} of {origin}: auto, 5 or 3.1.1 is expected"),
        };
        link.credentials = match (self.user_name, self.password_file) {
            (Some(user), Some(path)) => {
                let text = text(&path);
                let text = text.with_context(|| format!("cannot read {}", path.display()))?;
                // What an editor leaves at the end of a file is no part of it.
                let password = text.trim_end_matches(['\r', '\n']).to_owned();
                Some((user, Password::new(password)))
            }
            (None, None) => None,
            _ => bail!("user name and password file must be named together ({origin})"),
        };
        link.tls = self.tls.resolve(&origin)?;
        link.check().with_context(|| format!("settings of {origin}"))?;
        let mut node_keys = BTreeMap::new();
        for (node, text) in self.node_keys {
            let key = public_key(&text).filter(|key| !key.is_weak()).with_context(|| {
                format!(
                    "{text:?} is no key of node {node} (nodeKeys of {origin}, or --node-key): `podling key node --status-key` prints it there"
                )
            })?;
            node_keys.insert(node, key);
        }
        let known_nodes = self.known_nodes.unwrap_or_else(|| {
            let own = places(|name| std::env::var_os(name).map(PathBuf::from)).swap_remove(0);
            // Settings for everybody have a file of known nodes for each.
            let is_own =
                origin != COMMAND_LINE && Path::new(&origin) != Path::new("/etc").join(FILE);
            let beside = if is_own { PathBuf::from(&origin) } else { own };
            beside.with_file_name(KNOWN_NODES)
        });
        let (signing_key, recipients) = (self.signing_key, self.recipients);
        Ok(Controller { link, tree, signing_key, recipients, node_keys, known_nodes, origin })
    }
}

impl TlsFile {
    fn resolve(self, origin: &str) -> anyhow::Result<TlsSettings> {
        let identity = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
            (None, None) => None,
            _ => bail!("the client's certificate and its key must be named together ({origin})"),
        };
        let allow_tls12 = match self.min_version.as_deref() {
            None | Some("1.3") => false,
            Some("1.2") => true,
            Some(other) => bail!("tls.minVersion {other:?} of {origin}: 1.2 or 1.3 is expected"),
        };
        Ok(TlsSettings {
            // As browsers do, where nothing else is said.
            system_roots: self.system_roots.unwrap_or(self.ca.is_none()),
            ca: self.ca,
            identity,
            server_name: self.server_name,
            allow_tls12,
        })
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use clap::Parser as _;

    use super::*;
    use crate::mqtt::trust::public_key_text;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        broker: BrokerArgs,
    }

    fn controller(file: &str, args: &[&str]) -> anyhow::Result<Controller> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("controller.yaml");
        std::fs::write(&path, file).unwrap();
        let mut words = vec!["x", "--controller", path.to_str().unwrap()];
        words.extend(args);
        let found = Controller::of(&Line::parse_from(words).broker);
        found.map_err(|error| anyhow::anyhow!("{error:#}"))
    }

    fn public_text(n: u8) -> String {
        SecretKey::from_seed(&[n; 32]).public_text()
    }

    #[test]
    fn a_small_file_and_a_few_words_are_enough() {
        let text =
            "{urls: ['mqtts://broker'], tenant: acme, signingKey: keys/c.pem, tls: {ca: ca.pem}}";
        let found = controller(text, &[]).unwrap();
        assert_eq!((found.tree.root(), found.tree.tenant()), ("pods/v1", "acme"));
        let key = found.signing_key.unwrap();
        assert!(key.is_absolute() && key.ends_with("keys/c.pem"), "beside the file: {key:?}");
        assert!(!found.link.tls.system_roots && found.link.tls.ca.unwrap().is_absolute());
        let over = ["--broker", "mqtt://other", "--tenant", "b", "--topic-root", "x"];
        let found = controller(text, &over).unwrap();
        assert_eq!(found.link.endpoints[0].to_string(), "mqtt://other:1883");
        assert_eq!((found.tree.root(), found.tree.tenant()), ("x", "b"));
        // Each with an own file has own known nodes.
        assert!(found.known_nodes.ends_with("known-nodes"));
        let (one, two) = (public_text(1), public_text(2));
        let text = format!(
            "{{urls: ['mqtt://b'], tenant: a, knownNodes: seen, nodeKeys: {{gw-17: '{one}'}}}}"
        );
        let over = ["--node-key", &format!("gw-17={two}"), "--node-key", &format!("gw-18={one}")];
        let found = controller(&text, &over).unwrap();
        assert!(found.known_nodes.is_absolute() && found.known_nodes.ends_with("seen"));
        let keys = found.node_keys.values().map(public_key_text).collect::<Vec<_>>();
        assert_eq!(keys, [two, one], "the command line's win");
        // Public brokers need no CA file.
        assert!(controller("{urls: ['mqtts://b'], tenant: a}", &[]).unwrap().link.tls.system_roots);
    }

    #[test]
    fn what_is_missing_is_said_with_what_to_do() {
        let rows = [
            ("{}", "--broker mqtts://HOST"),
            ("{urls: ['mqtt://b']}", "--tenant"),
            ("{urls: ['http://b'], tenant: a}", "broker \"http://b\""),
            ("{url: x}", "unknown field `url`"),
            ("{urls: ['mqtt://b'], tenant: a, userName: u}", "together"),
            ("{urls: ['mqtt://b'], tenant: a, tls: {key: k}}", "together"),
            ("{urls: ['mqtt://b'], tenant: a, protocol: '4'}", "auto, 5 or 3.1.1"),
            ("{urls: ['mqtt://b'], tenant: a, nodeKeys: {gw-17: age1}}", "no key of node gw-17"),
        ];
        for (text, expected) in rows {
            let error = controller(text, &[]).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let no_key = controller("{urls: ['mqtt://b'], tenant: a}", &[]).unwrap().key().unwrap_err();
        assert!(no_key.to_string().contains("podling key generate"), "{no_key}");
    }

    #[test]
    fn a_key_that_others_can_read_is_not_used() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.pem");
        std::fs::write(&path, SecretKey::from_seed(&[1; 32]).to_pem()).unwrap();
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode));
        mode(0o644).unwrap();
        assert!(read_key(&path).unwrap_err().to_string().contains("chmod 600"));
        mode(0o600).unwrap();
        assert_eq!(read_key(&path).unwrap().id(), SecretKey::from_seed(&[1; 32]).id());
    }

    #[test]
    fn a_users_own_file_comes_before_the_systems() {
        let env = |name: &str| (name == "HOME").then(|| PathBuf::from("/home/ana"));
        let found = places(env);
        assert_eq!(found[0], Path::new("/home/ana/.config/podling/controller.yaml"));
        assert_eq!(found[1], Path::new("/etc/podling/controller.yaml"));
    }
}
