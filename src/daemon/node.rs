//! Opens the parts of a node: directories, images, volumes, engine. Shared by the daemon and `play`.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use crate::artifact::{Fetcher, Keyring};
use crate::board::Board;
use crate::clock::{Clock, Timestamp};
use crate::daemon::config::{Amounts, Config};
use crate::daemon::network::NetworkConfig;
use crate::fabric::Fabric;
use crate::image::ImageStore;
use crate::net::faults::Faults;
use crate::outside::Gateway;
use crate::outside::dialer::{Dialer, Kernel};
use crate::outside::names::SystemNames;
use crate::pod::context::PodAddresses;
use crate::pod::environment::Allocatable;
use crate::pod::host_port::Shelf;
use crate::pod::networks::NetworkBook;
use crate::pod::usage::UsageBook;
use crate::pod::{Keeper, NodeContext, NodeFacts};
use crate::runtime::{CompileMode, Runtime, RuntimeConfig};
use crate::secret::{Decryptor, NodeKey, NodeKeyError};
use crate::volume::{HostPathPolicy, VolumeRoot, find_memory_dir};

/// Descriptors that this process plans with, however many more it may have.
const DESCRIPTORS_MAX: u64 = 65_536;

/// What a node is made of, before it has a memory.
#[derive(Debug)]
pub struct NodeParts {
    clock: Clock,
    runtime: Runtime,
    images: Arc<ImageStore>,
    fetcher: Fetcher,
    secrets: Option<Decryptor>,
    volumes: VolumeRoot,
    host_paths: HostPathPolicy,
    node: NodeFacts,
    gateway: Gateway,
    faults: Option<Faults>,
}

impl NodeParts {
    /// Opens everything that the configuration names.
    ///
    /// # Errors
    /// If a directory is not ours, or the engine cannot start here.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let mut parts = Self::open_with_images(config, &config.state_dir)?;
        let key = NodeKey::open_or_make(&config.node_key_file)?;
        tracing::info!(recipient = %key.recipient(), "secrets for this node are encrypted to");
        parts.secrets = Some(key.decryptor());
        Ok(parts)
    }

    /// The same with the images of another state directory, and with a node key only if there is one already: `play` uses
    /// the person's own.
    ///
    /// # Errors
    /// As [`NodeParts::open`].
    pub fn open_with_images(config: &Config, images: &Path) -> anyhow::Result<Self> {
        raise_descriptor_limit();
        private_dir(&config.state_dir)?;
        private_dir(&config.cache_dir)?;
        private_dir(images)?;
        let (images, damage) =
            ImageStore::open(&images.join("images")).context("cannot open the image store")?;
        for fault in &damage {
            tracing::warn!("image store: {fault}");
        }
        let (images, clock) = (Arc::new(images), Clock::start());
        let fetcher = fetcher(config, &images, clock)?;
        let secrets = match NodeKey::open(&config.node_key_file) {
            Ok(key) => Some(key.decryptor()),
            Err(NodeKeyError::Read { cause, .. }) if cause.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let memory = memory_dir(&config.state_dir);
        let volumes = VolumeRoot::open(&config.state_dir.join("volumes"), memory.as_deref())
            .context("cannot open the volumes' folder")?;
        let runtime = Runtime::new(runtime_config(config)).context("cannot start the engine")?;
        let socket_dir = config.socket.parent().map(Path::to_owned);
        let own = [Some(config.state_dir.clone()), Some(config.cache_dir.clone()), socket_dir];
        let host_paths = HostPathPolicy {
            own: own.into_iter().flatten().chain(memory).collect(),
            allow: config.host_path_allow_list.clone(),
        };
        let node = NodeFacts {
            name: config.node_name.clone(),
            host_ips: host_ips(),
            total: total(config),
            allocatable: less(total(config), config.reserved),
            pods_max: config.max_pods,
        };
        let gateway = gateway(clock, &config.network);
        let faults = config.network.test_faults.as_ref().map(|faults| Faults::new(faults.seed));
        Ok(Self {
            clock,
            runtime,
            images,
            fetcher,
            secrets,
            volumes,
            host_paths,
            node,
            gateway,
            faults,
        })
    }

    /// Now, by the node's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The context of the node's workers. `first_version`: see [`Board::new`].
    #[must_use]
    pub fn context(self, keeper: Arc<dyn Keeper>, first_version: u64) -> Arc<NodeContext> {
        // Until the node's memory is first looked at.
        self.runtime.bound_unlimited(self.node.allocatable.memory_bytes, u64::MAX);
        let now = self.clock.now();
        Arc::new(NodeContext {
            clock: self.clock,
            runtime: self.runtime,
            images: self.images,
            fetcher: self.fetcher,
            secrets: self.secrets,
            volumes: self.volumes,
            host_paths: self.host_paths,
            board: Board::new(first_version, now),
            fabric: Fabric::new(self.clock),
            node: self.node,
            addresses: PodAddresses::default(),
            usage: UsageBook::default(),
            gateway: self.gateway,
            networks: NetworkBook::default(),
            faults: self.faults,
            shelf: Shelf::default(),
            keeper,
        })
    }
}

/// What brings images that are not here. Credentials are read now: a mistake in them shall show at the start.
///
/// # Errors
/// If the file of credentials is not usable.
pub fn fetcher(config: &Config, images: &Arc<ImageStore>, clock: Clock) -> anyhow::Result<Fetcher> {
    let keyring = match &config.artifacts.registry_auth_file {
        Some(path) => Keyring::read(path)?,
        None => Keyring::default(),
    };
    Ok(Fetcher::new(Arc::clone(images), config.artifacts.clone(), keyring, clock))
}

/// Each volume and each preopened folder holds a descriptor; the soft limit of a shell is for programs that use `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// The way out of the node, on the runtime this is called from.
fn gateway(clock: Clock, config: &NetworkConfig) -> Gateway {
    use rustix::process::{Resource, getrlimit};
    // Half of what this process may open: the rest is for the node's own files, volumes and sockets.
    let all = getrlimit(Resource::Nofile).current.unwrap_or(DESCRIPTORS_MAX);
    let descriptors = usize::try_from(all.min(DESCRIPTORS_MAX) / 2).unwrap_or(0);
    let names = SystemNames::new(config.name_servers.clone());
    let control = tokio::runtime::Handle::current();
    let dialer: Arc<dyn Dialer> = match &config.test_net {
        Some(test_net) => {
            tracing::warn!("addresses kept for documentation lead to this machine: a test");
            Arc::new(test_net.clone())
        }
        None => Arc::new(Kernel),
    };
    let gateway = Gateway::new(dialer, Arc::new(names), control, clock, descriptors);
    gateway.set_loopback_for_all(config.host_loopback_allow_list.clone());
    gateway
}

/// Makes a directory that only this user may enter, or checks that it is one.
fn private_dir(path: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot make the private directory {}", path.display()))?;
    let meta = std::fs::metadata(path)
        .with_context(|| format!("cannot look at the directory {}", path.display()))?;
    anyhow::ensure!(
        meta.permissions().mode() & 0o077 == 0,
        "the directory {} must be private: chmod 700 {0}",
        path.display()
    );
    Ok(())
}

/// Where volumes that must not touch flash may lie: a memory file system that is ours.
#[must_use]
pub fn memory_dir(state_dir: &Path) -> Option<PathBuf> {
    find_memory_dir(&memory_candidates(), state_dir)
}

fn memory_candidates() -> Vec<PathBuf> {
    let from_env = |name| std::env::var_os(name).map(PathBuf::from);
    let shm = Some(PathBuf::from("/dev/shm"));
    [from_env("RUNTIME_DIRECTORY"), from_env("XDG_RUNTIME_DIR"), shm]
        .into_iter()
        .flatten()
        .collect()
}

fn runtime_config(config: &Config) -> RuntimeConfig {
    let mut runtime = RuntimeConfig::new(config.cache_dir.join("code"));
    if let Some(command) = &config.compile_command {
        runtime.compile = CompileMode::Child(command.iter().map(OsString::from).collect());
    }
    runtime.guest_threads = config.guest_threads;
    runtime.extra_authorities.clone_from(&config.module_ca_file);
    runtime
}

/// The host's addresses as pods learn them (`status.hostIP`). The daemon asks no network for it: loopback, unless an
/// interface is found without one.
fn host_ips() -> Vec<IpAddr> {
    vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]
}

/// What the node has: all cores and all memory as found at start, or what the configuration says.
fn total(config: &Config) -> Allocatable {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let Amounts { cpu_millis, memory_bytes } = config.capacity;
    Allocatable {
        cpu_millis: cpu_millis.unwrap_or(cores as u64 * 1000),
        memory_bytes: memory_bytes.unwrap_or_else(found_memory),
        ephemeral_storage_bytes: 0,
    }
}

fn found_memory() -> u64 {
    let info = rustix::system::sysinfo();
    #[allow(clippy::useless_conversion, reason = "the field is 32 bits wide on 32-bit machines")]
    let total = u64::from(info.totalram);
    total.saturating_mul(u64::from(info.mem_unit))
}

/// What pods may have.
fn less(total: Allocatable, reserved: Amounts) -> Allocatable {
    Allocatable {
        cpu_millis: total.cpu_millis.saturating_sub(reserved.cpu_millis.unwrap_or(0)),
        memory_bytes: total.memory_bytes.saturating_sub(reserved.memory_bytes.unwrap_or(0)),
        ..total
    }
}
