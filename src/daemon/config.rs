//! What an operator may configure: a file, the command line over it, defaults under both.
//!
//! Owns: the names, defaults and validation of settings. Not: acting on them (`wiring`). An unknown setting is an error, so that a
//! misspelt one cannot be silently without effect. `docs/configuration.md` describes each.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::artifact::{ArtifactSettings, SettingsError};
use crate::daemon::mqtt::{MqttConfig, MqttError, MqttFile};
use crate::daemon::network::{NetworkConfig, NetworkError, NetworkFile};
use crate::limits::PODS_MAX;
use crate::manifest::quantity::Quantity;
use crate::manifest::rules::{dns_subdomain, label_value, qualified_name};

/// The configuration file's form (YAML). Every field is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ConfigFile {
    pub node_name: Option<String>,
    pub state_dir: Option<PathBuf>,
    pub cache_dir: Option<PathBuf>,
    pub manifest_dir: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    /// Command that compiles modules; `compile …` is appended. Default: this program.
    pub compile_command: Option<Vec<String>>,
    /// Threads that run modules. Default: one for each core, at least two.
    pub guest_threads: Option<usize>,
    /// Certificate authorities (PEM) that modules trust in their requests, beside the system's.
    pub module_ca_file: Option<PathBuf>,
    /// Host paths that pods from the API and from MQTT may mount; nothing by default.
    pub host_path_allow_list: Vec<PathBuf>,
    /// Labels of the node object.
    pub node_labels: BTreeMap<String, String>,
    /// What the node has, where that is not what is found: a machine shared with others.
    pub capacity: ResourcesFile,
    /// What of it is not for pods.
    pub reserved: ResourcesFile,
    /// Pods that may be here and not have ended.
    pub max_pods: Option<usize>,
    /// Where `meminfo` and `pressure/memory` are read.
    pub proc_dir: Option<PathBuf>,
    /// Pods over MQTT; absent: none.
    pub mqtt: Option<MqttFile>,
    /// Ways to other hosts and to the host's own loopback.
    pub network: NetworkFile,
    /// The key that secrets are encrypted to; made at the first start. Default: `node.key` in the state directory.
    pub node_key_file: Option<PathBuf>,
    /// Where modules may come from, and how.
    pub artifacts: ArtifactSettings,
    /// A file that sets the wall clock: for tests.
    pub test_clock: Option<PathBuf>,
}

/// An amount of each resource, in Kubernetes' quantities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ResourcesFile {
    pub cpu: Option<String>,
    pub memory: Option<String>,
}

/// The same, understood: thousandths of a core, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    pub cpu_millis: Option<u64>,
    pub memory_bytes: Option<u64>,
}

/// Why a configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read configuration {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("configuration {path} is not valid: {why}")]
    Parse { path: PathBuf, why: String },
    #[error(
        "nodeName of the configuration must be a name as of a host (lower-case letters, digits, '-' and '.'), but is {0:?}"
    )]
    NodeName(String),
    #[error("nodeLabels of the configuration has {key:?}: {why}")]
    NodeLabel { key: String, why: String },
    #[error("{setting} of the configuration must be an absolute path, but is {path}")]
    NotAbsolute { setting: &'static str, path: PathBuf },
    #[error("guestThreads of the configuration must be 1 to 64, but is {0}")]
    GuestThreads(usize),
    #[error("compileCommand of the configuration must name a program")]
    CompileCommand,
    #[error("{setting} of the configuration is no quantity (for instance 500m, 64Mi): {text:?}")]
    Quantity { setting: &'static str, text: String },
    #[error("maxPods of the configuration must be 1 to {PODS_MAX}, but is {0}")]
    MaxPods(usize),
    #[error(transparent)]
    Mqtt(#[from] MqttError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Artifacts(#[from] SettingsError),
    #[error("testClock of the configuration is for tests; a release build does not take it")]
    TestClock,
    #[error("no home folder is known; set HOME, or stateDir and cacheDir in the configuration")]
    NoHome,
}

/// The settings in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub node_name: String,
    /// Desired state, images, volumes. Survives.
    pub state_dir: PathBuf,
    /// Compiled modules. May be lost at any time.
    pub cache_dir: PathBuf,
    pub manifest_dir: Option<PathBuf>,
    pub socket: PathBuf,
    pub compile_command: Option<Vec<String>>,
    pub guest_threads: Option<usize>,
    pub module_ca_file: Option<PathBuf>,
    pub host_path_allow_list: Vec<PathBuf>,
    pub node_labels: BTreeMap<String, String>,
    pub capacity: Amounts,
    pub reserved: Amounts,
    pub max_pods: usize,
    pub proc_dir: PathBuf,
    pub mqtt: Option<MqttConfig>,
    pub network: NetworkConfig,
    pub node_key_file: PathBuf,
    pub artifacts: ArtifactSettings,
    pub test_clock: Option<PathBuf>,
}

impl ResourcesFile {
    fn overlaid_by(self, over: Self) -> Self {
        Self { cpu: over.cpu.or(self.cpu), memory: over.memory.or(self.memory) }
    }

    fn understood(&self, cpu: &'static str, memory: &'static str) -> Result<Amounts, ConfigError> {
        let parsed = |setting: &'static str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => match Quantity::parse(text) {
                Ok(amount) if !amount.is_negative() => Ok(Some(amount)),
                Ok(_) | Err(_) => Err(ConfigError::Quantity { setting, text: text.clone() }),
            },
        };
        Ok(Amounts {
            cpu_millis: parsed(cpu, &self.cpu)?.map(|amount| amount.millis_u64()),
            memory_bytes: parsed(memory, &self.memory)?.map(|amount| amount.units_u64()),
        })
    }
}

/// What is wrong with a file of settings, in an operator's words: serde names the types of our own program.
#[must_use]
pub fn in_words(error: &serde_yaml::Error) -> String {
    let mut words = error.to_string();
    for number in ["usize", "u64", "u32", "u16", "u8"] {
        words = words.replace(&format!("expected {number}"), "expected a whole number, 0 or more");
    }
    words
        .replace("unknown variant", "unknown word")
        .replace("expected a sequence", "expected a list")
        .replace("invalid type: sequence", "invalid type: list")
}

impl ConfigFile {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// If it cannot be read, is no YAML, or names a setting that does not exist.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        // An empty file, or one of comments only, is a configuration that sets nothing.
        let file: Option<Self> = serde_yaml::from_str(&text)
            .map_err(|error| ConfigError::Parse { path: path.to_owned(), why: in_words(&error) })?;
        Ok(file.unwrap_or_default())
    }

    /// `over` wins where it says something.
    #[must_use]
    pub fn overlaid_by(self, over: Self) -> Self {
        let or_list = |a: Vec<_>, b: Vec<_>| if b.is_empty() { a } else { b };
        Self {
            node_name: over.node_name.or(self.node_name),
            state_dir: over.state_dir.or(self.state_dir),
            cache_dir: over.cache_dir.or(self.cache_dir),
            manifest_dir: over.manifest_dir.or(self.manifest_dir),
            socket: over.socket.or(self.socket),
            compile_command: over.compile_command.or(self.compile_command),
            guest_threads: over.guest_threads.or(self.guest_threads),
            module_ca_file: over.module_ca_file.or(self.module_ca_file),
            host_path_allow_list: or_list(self.host_path_allow_list, over.host_path_allow_list),
            node_labels: if over.node_labels.is_empty() {
                self.node_labels
            } else {
                over.node_labels
            },
            capacity: self.capacity.overlaid_by(over.capacity),
            reserved: self.reserved.overlaid_by(over.reserved),
            max_pods: over.max_pods.or(self.max_pods),
            proc_dir: over.proc_dir.or(self.proc_dir),
            mqtt: over.mqtt.or(self.mqtt),
            network: if over.network == NetworkFile::default() {
                self.network
            } else {
                over.network
            },
            node_key_file: over.node_key_file.or(self.node_key_file),
            // The command line has no word for it.
            artifacts: self.artifacts,
            test_clock: over.test_clock.or(self.test_clock),
        }
    }

    /// Fills in defaults and checks.
    ///
    /// # Errors
    /// If a value is out of its range, or a default needs a home folder and there is none.
    pub fn resolve(self, places: &Places) -> Result<Config, ConfigError> {
        let or_default = |set: Option<PathBuf>, default: &Option<PathBuf>| {
            set.or_else(|| default.clone()).ok_or(ConfigError::NoHome)
        };
        let node_name = self.node_name.unwrap_or_else(|| places.host_name.clone());
        if !dns_subdomain(&node_name).is_empty() {
            return Err(ConfigError::NodeName(node_name));
        }
        let state_dir = or_default(self.state_dir, &places.state)?;
        let config = Config {
            mqtt: self.mqtt.map(|mqtt| mqtt.resolve(&node_name)).transpose()?,
            network: self.network.resolve(!cfg!(debug_assertions))?,
            node_name,
            node_key_file: self.node_key_file.unwrap_or_else(|| state_dir.join("node.key")),
            state_dir,
            cache_dir: or_default(self.cache_dir, &places.cache)?,
            manifest_dir: self.manifest_dir,
            socket: or_default(self.socket, &places.socket)?,
            compile_command: self.compile_command,
            guest_threads: self.guest_threads,
            module_ca_file: self.module_ca_file,
            host_path_allow_list: self.host_path_allow_list,
            node_labels: self.node_labels,
            capacity: self.capacity.understood("capacity.cpu", "capacity.memory")?,
            reserved: self.reserved.understood("reserved.cpu", "reserved.memory")?,
            max_pods: self.max_pods.unwrap_or(PODS_MAX),
            proc_dir: self.proc_dir.unwrap_or_else(|| "/proc".into()),
            artifacts: self.artifacts,
            test_clock: self.test_clock,
        };
        config.check()?;
        Ok(config)
    }
}

impl Config {
    fn check(&self) -> Result<(), ConfigError> {
        let paths = [
            ("stateDir", Some(&self.state_dir)),
            ("cacheDir", Some(&self.cache_dir)),
            ("manifestDir", self.manifest_dir.as_ref()),
            ("socket", Some(&self.socket)),
            ("nodeKeyFile", Some(&self.node_key_file)),
            ("moduleCaFile", self.module_ca_file.as_ref()),
        ];
        let listed = self.host_path_allow_list.iter().map(|p| ("hostPathAllowList", Some(p)));
        for (setting, path) in paths.into_iter().chain(listed) {
            if let Some(path) = path.filter(|p| !p.is_absolute()) {
                return Err(ConfigError::NotAbsolute { setting, path: path.clone() });
            }
        }
        for (key, value) in &self.node_labels {
            let faults = [qualified_name(key), label_value(value)].concat();
            if let Some(why) = faults.into_iter().next() {
                return Err(ConfigError::NodeLabel { key: key.clone(), why });
            }
        }
        self.artifacts.check()?;
        if self.test_clock.is_some() && !cfg!(debug_assertions) {
            return Err(ConfigError::TestClock);
        }
        if !(1..=PODS_MAX).contains(&self.max_pods) {
            return Err(ConfigError::MaxPods(self.max_pods));
        }
        match self.guest_threads {
            Some(n) if !(1..=64).contains(&n) => return Err(ConfigError::GuestThreads(n)),
            Some(_) | None => {}
        }
        match &self.compile_command {
            Some(words) if words.is_empty() => Err(ConfigError::CompileCommand),
            Some(_) | None => Ok(()),
        }
    }
}

/// Where a daemon that is root's, or the system's, listens.
pub const SYSTEM_SOCKET: &str = "/run/podling/podling.sock";

/// Where things are by default on this machine, for this user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    pub state: Option<PathBuf>,
    pub cache: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    pub host_name: String,
}

impl Places {
    /// Root's are the system's folders, a user's those of the XDG base directory specification.
    #[must_use]
    pub fn of_this_process() -> Self {
        let root = rustix::process::geteuid().is_root();
        let uname = rustix::system::uname();
        let host_name = uname.nodename().to_string_lossy().to_lowercase();
        Self::new(root, &host_name, |name| std::env::var_os(name).map(PathBuf::from))
    }

    /// The same from given facts.
    #[must_use]
    pub fn new(root: bool, host_name: &str, env: impl Fn(&str) -> Option<PathBuf>) -> Self {
        // A board that was never named is called "(none)" by its kernel; some are called what Kubernetes cannot say.
        let usable = dns_subdomain(host_name).is_empty();
        let host_name = if usable { host_name } else { "localhost" }.to_owned();
        if root {
            return Self {
                state: Some("/var/lib/podling".into()),
                cache: Some("/var/cache/podling".into()),
                socket: Some(SYSTEM_SOCKET.into()),
                host_name,
            };
        }
        let absolute = |name: &str| env(name).filter(|p| p.is_absolute());
        let under_home = |xdg: &str, below: &str| {
            let base = absolute(xdg).or_else(|| absolute("HOME").map(|h| h.join(below)));
            base.map(|b| b.join("podling"))
        };
        let state = under_home("XDG_STATE_HOME", ".local/state");
        let runtime = absolute("XDG_RUNTIME_DIR").map(|r| r.join("podling"));
        let socket = runtime.or_else(|| state.clone()).map(|dir| dir.join("podling.sock"));
        Self { cache: under_home("XDG_CACHE_HOME", ".cache"), socket, state, host_name }
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn user() -> Places {
        Places::new(false, "gw-17", |name| (name == "HOME").then(|| "/home/ana".into()))
    }

    #[test]
    fn a_user_needs_no_configuration() {
        let config = ConfigFile::default().resolve(&user()).unwrap();
        assert_eq!(config.state_dir, Path::new("/home/ana/.local/state/podling"));
        assert_eq!(config.cache_dir, Path::new("/home/ana/.cache/podling"));
        assert_eq!(config.socket, Path::new("/home/ana/.local/state/podling/podling.sock"));
        assert_eq!(config.node_name, "gw-17");
    }

    #[test]
    fn a_host_without_a_usable_name_is_localhost() {
        for name in ["(none)", "", "a board", "UPPER"] {
            assert_eq!(Places::new(true, name, |_| None).host_name, "localhost", "{name:?}");
        }
        assert_eq!(Places::new(true, "gw-17.lan", |_| None).host_name, "gw-17.lan");
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file: ConfigFile = serde_yaml::from_str("nodeName: a\nsocket: /run/x.sock").unwrap();
        let over = ConfigFile { node_name: Some("b".into()), ..ConfigFile::default() };
        let config = file.overlaid_by(over).resolve(&user()).unwrap();
        assert_eq!(
            (config.node_name.as_str(), config.socket.to_str().unwrap()),
            ("b", "/run/x.sock")
        );
    }

    #[test]
    fn mistakes_are_named() {
        let rows = [
            ("manifestDir: m", "manifestDir of the configuration must be an absolute path"),
            ("nodeName: GW 17", "nodeName of the configuration must be a name as of a host"),
            ("stateDir: relative", "stateDir of the configuration must be an absolute path"),
            ("nodeKeyFile: k", "nodeKeyFile of the configuration must be an absolute path"),
            (
                "artifacts: {maxBytes: 0}",
                "artifacts.maxBytes of the configuration must be 1 to 268435456, but is 0",
            ),
            ("nodeLabels: {a b: c}", "nodeLabels of the configuration has \"a b\": "),
            ("nodeLabels: {a: b c}", "nodeLabels of the configuration has \"a\": "),
            ("guestThreads: 0", "guestThreads of the configuration must be 1 to 64"),
            ("maxPods: 0", "maxPods of the configuration must be 1 to 1024, but is 0"),
            ("reserved: {memory: lots}", "reserved.memory of the configuration is no quantity"),
            ("capacity: {cpu: 2x}", "capacity.cpu of the configuration is no quantity"),
            ("compileCommand: []", "compileCommand of the configuration must name a program"),
            (
                "hostPathAllowList: [a/b]",
                "hostPathAllowList of the configuration must be an absolute",
            ),
        ];
        for (text, expected) in rows {
            let file: ConfigFile = serde_yaml::from_str(text).unwrap();
            let error = file.resolve(&user()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        let error = serde_yaml::from_str::<ConfigFile>("nodename: x").unwrap_err().to_string();
        assert!(error.contains("unknown field `nodename`"), "{error}");
        for (text, expected) in [
            (
                "guestThreads: -1",
                "guestThreads: invalid type: integer `-1`, expected a whole number",
            ),
            ("hostPathAllowList: /srv", "expected a list"),
            ("{mqtt: {trust: none}}", "mqtt.trust: unknown word `none`, expected one of `require`"),
        ] {
            let error = in_words(&serde_yaml::from_str::<ConfigFile>(text).unwrap_err());
            assert!(error.contains(expected) && !error.contains("usize"), "{text}: {error}");
        }
    }
}
