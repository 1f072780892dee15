//! TLS below MQTT: our own rustls, the files that it lives on, and their renewal.
//!
//! Owns: reading the CA, certificate and key; noticing that they changed; which set of them the next connection uses; faults in words
//! for people. Not: sockets (`link::dial`). `rumqttc`'s own TLS is left out: it pins a certificate parser with known advisories.
//!
//! ```text
//!  files changed ─► newest (loaded, untried) ── connected once ──► proven
//!                        └─ refused ─► the next attempt uses the proven one again, and so in turn
//! ```
//!
//! So a wrong certificate put on a gateway costs no contact, and a right one needs no restart. Only TLS 1.3 is spoken unless 1.2 is
//! allowed in the configuration. The authorities are those of the CA file; the system's only where asked for.
//!
//! A gateway without a clock starts in 1970. So that it can tell a certificate that is "not yet valid" from its own ignorance, the time that
//! certificates are checked against is never before the newest of the TLS files and of this program's own file.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};

use crate::clock::Clock;
use crate::error::chain;
use crate::limits::PROGRAM_LIFE_MS;
use crate::mqtt::transport::TlsFault;

/// Sessions remembered for a quicker handshake. There is one broker, or a few.
const SESSIONS_MAX: usize = 4;

/// Largest TLS file. A bundle of all public authorities is a quarter of this.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What the configuration says of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// Authorities that may sign the broker's certificate, PEM.
    pub ca: Option<PathBuf>,
    /// The system's authorities as well.
    pub system_roots: bool,
    /// This node's certificate with its chain, PEM, and its key.
    pub identity: Option<Identity>,
    /// The name that the broker's certificate must have, where it is not the host of the URL.
    pub server_name: Option<String>,
    pub allow_tls12: bool,
}

/// This node's certificate and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Why the TLS files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} has {size} bytes; at most {FILE_BYTES_MAX} are read")]
    TooLarge { path: PathBuf, size: u64 },
    #[error("{path} holds no PEM that can be read: {cause}")]
    Pem { path: PathBuf, cause: String },
    #[error("{path} holds no certificate")]
    NoCertificate { path: PathBuf },
    #[error("{path} can be read by everybody: chmod 600")]
    KeyIsOpen { path: PathBuf },
    #[error("a certificate of {path} is not valid")]
    BadAuthority { path: PathBuf, source: rustls::Error },
    #[error("the key of {key} does not belong to the certificate of {certificate}")]
    Mismatch { certificate: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("the system has no certificate authorities: {0}")]
    NoSystemRoots(String),
    #[error("TLS cannot be set up")]
    Setup { source: rustls::Error },
}

/// Whether a certificate can be for that name.
#[must_use]
pub fn is_server_name(name: &str) -> bool {
    rustls::pki_types::ServerName::try_from(name).is_ok()
}

/// What tells a changed file from an unchanged one without reading it.
type Stamp = (u64, u64, u64, i64, i64);

/// One set of files as it was read.
#[derive(Clone, Debug)]
struct Loaded {
    config: Arc<ClientConfig>,
    stamps: Vec<Stamp>,
}

/// A configuration to connect with, and which set of files it came from.
#[derive(Clone, Debug)]
pub struct Choice {
    pub config: Arc<ClientConfig>,
    is_newest: bool,
}

/// The TLS files in use. Blocking: call from where the disk may be waited for.
#[derive(Debug)]
pub struct TlsFiles {
    settings: TlsSettings,
    clock: Clock,
    newest: Option<Loaded>,
    proven: Option<Loaded>,
    /// The newest was refused, and the proven one is due.
    fall_back: bool,
    /// What was last said of files that cannot be used.
    complaint: Option<String>,
}

impl TlsFiles {
    #[must_use]
    pub fn new(settings: TlsSettings, clock: Clock) -> Self {
        Self { settings, clock, newest: None, proven: None, fall_back: false, complaint: None }
    }

    /// The configuration for the next connection; reads the files if they have changed.
    ///
    /// # Errors
    /// If the files cannot be used and there is no earlier set that could.
    pub fn choose(&mut self) -> Result<Choice, LoadError> {
        if let Err(error) = self.refresh()
            && self.newest.is_none()
        {
            return Err(error);
        }
        let differ = |a: &Loaded, b: &Loaded| !Arc::ptr_eq(&a.config, &b.config);
        match (&self.newest, &self.proven) {
            (Some(newest), Some(proven)) if self.fall_back && differ(newest, proven) => {
                Ok(Choice { config: Arc::clone(&proven.config), is_newest: false })
            }
            (Some(newest), _) => Ok(Choice { config: Arc::clone(&newest.config), is_newest: true }),
            // `refresh` has loaded one, or failed.
            (None, _) => {
                Err(LoadError::Setup { source: rustls::Error::General("no files".into()) })
            }
        }
    }

    /// A connection with this choice came about.
    pub fn worked(&mut self, choice: &Choice) {
        if choice.is_newest {
            self.proven.clone_from(&self.newest);
        }
        // The broker may have learnt to like the newest by the next time.
        self.fall_back = false;
    }

    /// A connection with this choice was refused for what is in the files: the next one uses the other set, if there is one.
    pub fn failed(&mut self, choice: &Choice) {
        self.fall_back = choice.is_newest;
    }

    /// Whether the files on disk are others than the newest that were read, and can be used.
    pub fn renewal_due(&mut self) -> bool {
        matches!(self.refresh(), Ok(true))
    }

    /// What is wrong with the files on disk while an earlier set is in use.
    #[must_use]
    pub fn complaint(&self) -> Option<&str> {
        self.complaint.as_deref()
    }

    /// Reads the files if they have changed; whether they had, and could be used.
    fn refresh(&mut self) -> Result<bool, LoadError> {
        let loaded = self.stamps().and_then(|(stamps, floor)| {
            if self.newest.as_ref().is_some_and(|newest| newest.stamps == stamps) {
                return Ok(None);
            }
            let time = Arc::new(FlooredTime { clock: self.clock, floor });
            let config = Arc::new(load(&self.settings, time)?);
            Ok(Some(Loaded { config, stamps }))
        });
        match loaded {
            Ok(None) => {
                self.complaint = None;
                Ok(false)
            }
            Ok(Some(loaded)) => {
                self.newest = Some(loaded);
                self.fall_back = false;
                self.complaint = None;
                Ok(true)
            }
            Err(error) => {
                self.complaint = Some(chain(&error));
                Err(error)
            }
        }
    }

    /// The stamps of all files, and the time that it is at least.
    fn stamps(&self) -> Result<(Vec<Stamp>, Duration), LoadError> {
        let identity = self.settings.identity.iter().flat_map(|i| [&i.certificate, &i.key]);
        let program = std::fs::metadata("/proc/self/exe").map_or(0, |meta| meta.mtime());
        let latest = program.saturating_add(PROGRAM_LIFE_MS / 1000);
        let (mut stamps, mut newest) = (vec![], program);
        for path in self.settings.ca.iter().chain(identity) {
            let meta = std::fs::metadata(path)
                .map_err(|source| LoadError::Read { path: path.clone(), source })?;
            let times = (meta.mtime(), meta.mtime_nsec());
            stamps.push((meta.dev(), meta.ino(), meta.len(), times.0, times.1));
            // One that was put there while the clock was far ahead says nothing of the time.
            if meta.mtime() <= latest {
                newest = newest.max(meta.mtime());
            }
        }
        let floor = u64::try_from(newest).unwrap_or(0);
        Ok((stamps, Duration::from_secs(floor)))
    }
}

/// The wall clock, but never before a time that has certainly passed.
struct FlooredTime {
    clock: Clock,
    floor: Duration,
}

impl fmt::Debug for FlooredTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlooredTime({}s)", self.floor.as_secs())
    }
}

impl TimeProvider for FlooredTime {
    fn current_time(&self) -> Option<UnixTime> {
        let now = u64::try_from(self.clock.now().wall_ms()).unwrap_or(0);
        Some(UnixTime::since_unix_epoch(Duration::from_millis(now).max(self.floor)))
    }
}

fn load(settings: &TlsSettings, time: Arc<FlooredTime>) -> Result<ClientConfig, LoadError> {
    let roots = roots(settings)?;
    let setup = |source| LoadError::Setup { source };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let only_13 = &[&rustls::version::TLS13][..];
    let versions = if settings.allow_tls12 { rustls::ALL_VERSIONS } else { only_13 };
    let builder = ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(versions)
        .map_err(setup)?
        .with_root_certificates(roots);
    let mut config = match &settings.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = certificates(&identity.certificate)?;
            let key = private_key(&identity.key)?;
            let mismatch = |source| LoadError::Mismatch {
                certificate: identity.certificate.clone(),
                key: identity.key.clone(),
                source,
            };
            builder.with_client_auth_cert(chain, key).map_err(mismatch)?
        }
    };
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    Ok(config)
}

fn roots(settings: &TlsSettings) -> Result<RootCertStore, LoadError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &settings.ca {
        for certificate in certificates(path)? {
            let bad = |source| LoadError::BadAuthority { path: path.clone(), source };
            roots.add(certificate).map_err(bad)?;
        }
    }
    if settings.system_roots {
        let found = rustls_native_certs::load_native_certs();
        // A damaged one among a hundred is the distribution's trouble, not ours.
        let (added, _ignored) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let causes: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
            return Err(LoadError::NoSystemRoots(causes.join("; ")));
        }
    }
    Ok(roots)
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > FILE_BYTES_MAX {
        return Err(LoadError::TooLarge { path: path.to_owned(), size });
    }
    std::fs::read(path).map_err(failed)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let pem = read(path)?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let bad = |e: rustls::pki_types::pem::Error| LoadError::Pem {
        path: path.to_owned(),
        cause: e.to_string(),
    };
    let certificates = parsed.map_err(bad)?;
    if certificates.is_empty() {
        return Err(LoadError::NoCertificate { path: path.to_owned() });
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, LoadError> {
    let meta = std::fs::metadata(path)
        .map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    if meta.mode() & 0o004 != 0 {
        return Err(LoadError::KeyIsOpen { path: path.to_owned() });
    }
    let pem = read(path)?;
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|e| LoadError::Pem { path: path.to_owned(), cause: e.to_string() })
}

/// What went wrong with TLS on a socket; `None` if it was no matter of TLS.
#[must_use]
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "rustls' own list grows; what has no words of ours keeps its own"
)]
pub fn fault(error: &io::Error, server_name: &str) -> Option<TlsFault> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match inner {
        rustls::Error::InvalidCertificate(certificate) => their_fault(certificate, server_name),
        rustls::Error::AlertReceived(alert) => alert_fault(*alert),
        rustls::Error::InvalidMessage(_) => TlsFault::NotTls,
        rustls::Error::PeerIncompatible(what) => match what {
            rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13
            | rustls::PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => {
                TlsFault::OldVersion
            }
            other => TlsFault::Other(format!("the broker cannot do what TLS needs: {other:?}")),
        },
        other => TlsFault::Other(other.to_string()),
    })
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "rustls' own list grows; what has no words of ours keeps its own"
)]
fn their_fault(error: &CertificateError, server_name: &str) -> TlsFault {
    use CertificateError as E;
    let asked = server_name.to_owned();
    match error {
        E::UnknownIssuer | E::BadSignature => TlsFault::UnknownAuthority,
        E::ExpiredContext { time, .. } => TlsFault::Expired { now: date(*time) },
        E::Expired => TlsFault::Expired { now: "?".to_owned() },
        E::NotValidYetContext { time, .. } => TlsFault::NotYetValid { now: date(*time) },
        E::NotValidYet => TlsFault::NotYetValid { now: "?".to_owned() },
        E::NotValidForNameContext { presented, .. } => {
            TlsFault::WrongName { asked, presented: presented.iter().take(8).cloned().collect() }
        }
        E::NotValidForName => TlsFault::WrongName { asked, presented: vec![] },
        E::Revoked => TlsFault::Revoked,
        other => TlsFault::Other(format!("the broker's certificate is not accepted: {other}")),
    }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "rustls' own list grows; what has no words of ours keeps its own"
)]
fn alert_fault(alert: AlertDescription) -> TlsFault {
    use AlertDescription as A;
    TlsFault::OurCertificate(match alert {
        A::CertificateRequired | A::NoCertificate => return TlsFault::NoCertificate,
        A::ProtocolVersion => return TlsFault::OldVersion,
        A::CertificateExpired => "it has expired",
        A::CertificateRevoked => "it has been revoked",
        A::UnknownCA => "it is signed by no authority that the broker knows",
        A::BadCertificate | A::CertificateUnknown | A::UnsupportedCertificate => "it is not valid",
        A::AccessDenied => "it gives no access",
        A::DecryptError => "its signature does not match",
        other => return TlsFault::Other(format!("the broker ended it with the alert {other:?}")),
    })
}

/// A time for people.
fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "?".to_owned(), |t| t.to_string())
}

#[cfg(test)]
pub(crate) mod tests;
