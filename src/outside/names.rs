//! Names of the outside, asked of the host's own resolvers.
//!
//! Owns: the resolver and its cache, and following `resolv.conf` when it changes, as a gateway's
//! does with every network it joins. Is not: who may look up what (`fabric`), how often
//! (`pod`), nor names of pods and Services.
//! `/etc/hosts` of the host is not read: as in Kubernetes, it is not the pods' business.
//! Limits: `CACHE_ENTRIES_MAX` for the whole node (entries go by use, so one pod's names can cost
//! another's a repeated question and nothing else), `ADDRESSES_MAX` for one answer.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
    ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;

use crate::net::ResolveError;

/// Answers kept for their time. A gateway's modules know a few dozen names; an entry takes about a
/// kilobyte.
const CACHE_ENTRIES_MAX: u64 = 512;

/// Addresses of one answer that are told. A program tries them one after another.
const ADDRESSES_MAX: usize = 16;

/// The longest that an answer is kept, whatever its server says: a mistake in a zone must end.
const TTL_MAX: Duration = Duration::from_secs(3600);

/// The longest that "no such name" is kept: a name that is about to be made is asked for again and
/// again.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(30);

/// How long one server may take, and how often each is asked. Together well below what programs
/// take for a hang.
const TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPTS: usize = 2;

/// Largest `resolv.conf` that is read; glibc uses three name servers of it.
const RESOLV_CONF_BYTES_MAX: u64 = 64 * 1024;

/// An answer, and how long it may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// At least one; IPv4 first, since more networks carry it.
    pub addresses: Vec<IpAddr>,
    /// How long they hold.
    pub ttl: Duration,
}

/// A look-up under way.
pub type Finding = Pin<Box<dyn Future<Output = Result<Found, ResolveError>> + Send>>;

/// Looks names up. To be called, and its futures to be polled, on the control plane.
pub trait Names: fmt::Debug + Send + Sync + 'static {
    /// The addresses of `name`.
    fn find(&self, name: String) -> Finding;
}

/// Where the resolvers of the host are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameServers {
    /// In a file of the form of `resolv.conf(5)`, which is read again when it changes.
    File(PathBuf),
    /// Here; for tests.
    At(SocketAddr),
}

impl Default for NameServers {
    fn default() -> Self {
        Self::File("/etc/resolv.conf".into())
    }
}

/// The host's resolvers.
pub struct SystemNames {
    servers: NameServers,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the file was when it was last read.
    seen: Option<Stamp>,
    resolver: Option<TokioResolver>,
}

/// Tells one state of a file from another without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl SystemNames {
    /// Reads nothing yet.
    #[must_use]
    pub fn new(servers: NameServers) -> Self {
        Self { servers, state: Mutex::default() }
    }

    /// Whether any name server is known.
    #[must_use]
    pub fn has_resolver(&self) -> bool {
        self.resolver().is_some()
    }

    /// The resolver as the file has it now.
    fn resolver(&self) -> Option<TokioResolver> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.servers {
            NameServers::At(server) => {
                if state.resolver.is_none() {
                    state.resolver = made(build(one_server(*server), ResolverOpts::default()));
                }
            }
            NameServers::File(path) => {
                let now = stamp(path);
                if now.is_none() || now != state.seen {
                    state.seen = now;
                    state.resolver = made(read(path));
                }
            }
        }
        state.resolver.clone()
    }
}

fn made(built: Result<TokioResolver, NetError>) -> Option<TokioResolver> {
    built
        .inspect_err(|error| {
            tracing::warn!(%error, "no name server is known; names of the outside are not found");
        })
        .ok()
}

fn stamp(path: &std::path::Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::metadata(path).ok()?;
    Some(Stamp { modified: meta.modified().ok(), bytes: meta.len(), inode: meta.ino() })
}

fn read(path: &std::path::Path) -> Result<TokioResolver, NetError> {
    use std::io::Read as _;
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(RESOLV_CONF_BYTES_MAX).read_to_end(&mut text)?;
    let (config, options) = parse_resolv_conf(&text)?;
    build(config, options)
}

fn one_server(server: SocketAddr) -> ResolverConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    let connections = connections.map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let server = NameServerConfig::new(server.ip(), true, connections.to_vec());
    ResolverConfig::from_name_servers(vec![server])
}

fn build(config: ResolverConfig, mut options: ResolverOpts) -> Result<TokioResolver, NetError> {
    options.cache_size = CACHE_ENTRIES_MAX;
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.positive_max_ttl = Some(TTL_MAX);
    options.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
    options.timeout = options.timeout.clamp(Duration::from_secs(1), TIMEOUT);
    options.attempts = options.attempts.clamp(1, ATTEMPTS);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build()
}

impl Names for SystemNames {
    fn find(&self, name: String) -> Finding {
        let Some(resolver) = self.resolver() else {
            return Box::pin(std::future::ready(Err(ResolveError::Temporary)));
        };
        Box::pin(async move {
            let answer = resolver.lookup_ip(name).await.map_err(|error| failure(&error))?;
            let mut addresses: Vec<IpAddr> = Vec::new();
            for ip in answer.iter() {
                if !addresses.contains(&ip) && addresses.len() < ADDRESSES_MAX {
                    addresses.push(ip);
                }
            }
            addresses.sort_by_key(IpAddr::is_ipv6);
            let ttl = answer.as_lookup().answers().iter().map(|record| record.ttl).min();
            let ttl = Duration::from_secs(ttl.unwrap_or_default().into());
            match addresses.is_empty() {
                false => Ok(Found { addresses, ttl }),
                true => Err(ResolveError::NotFound),
            }
        })
    }
}

/// What a program is told: whether asking again may help.
fn failure(error: &NetError) -> ResolveError {
    if error.is_no_records_found() { ResolveError::NotFound } else { ResolveError::Temporary }
}

impl fmt::Debug for SystemNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemNames").field("servers", &self.servers).finish_non_exhaustive()
    }
}
