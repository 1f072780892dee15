//! Whom a module's `https` requests trust.
//!
//! Owns: the machine's certificate authorities, read once when the first module needs them, and those that the node's configuration
//! adds; the TLS settings of one module. Is not: certificates of our own; a module does not authenticate itself by one.
//!
//! Read once: a node that changes its authorities restarts podling. What a session leaves for the next one (tickets) stays with
//! the module: modules share authorities, and nothing else.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

/// Certificates read, of all sources together. A distribution has some 150; a directory with thousands is a mistake.
const CERTIFICATES_MAX: usize = 2000;

/// Why there is nobody to trust.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The configured file cannot be used.
    #[error("read the certificate authorities in {}", path.display())]
    Extra {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error(
        "the machine has no certificate authorities (looked where OpenSSL does; SSL_CERT_FILE names another place)"
    )]
    Nobody,
    #[error("set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A bug of ours.
    #[error("reading the certificate authorities failed: {0}")]
    Broken(String),
}

/// The authorities of a node; clones are the same.
#[derive(Clone, Default)]
pub struct Trust(Arc<Authorities>);

#[derive(Default)]
struct Authorities {
    extra: Option<PathBuf>,
    roots: OnceCell<Arc<RootCertStore>>,
}

impl Trust {
    /// The machine's authorities, and those in `extra` (PEM). Reads nothing yet.
    #[must_use]
    pub fn new(extra: Option<PathBuf>) -> Self {
        Self(Arc::new(Authorities { extra, roots: OnceCell::new() }))
    }

    async fn roots(&self) -> Result<Arc<RootCertStore>, TrustError> {
        let read = || async {
            let extra = self.0.extra.clone();
            let read = tokio::task::spawn_blocking(move || read(extra.as_deref())).await;
            read.map_err(|error| TrustError::Broken(error.to_string()))?.map(Arc::new)
        };
        self.0.roots.get_or_try_init(read).await.cloned()
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = self.0.roots.get().map(|roots| roots.len());
        f.debug_struct("Trust").field("extra", &self.0.extra).field("read", &read).finish()
    }
}

fn read(extra: Option<&Path>) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "some certificate authorities of this machine cannot be read");
    }
    // Old distributions carry some that cannot be parsed; those are passed over.
    roots.add_parsable_certificates(found.certs.into_iter().take(CERTIFICATES_MAX));
    if let Some(path) = extra {
        let failed = |source| TrustError::Extra { path: path.to_owned(), source };
        for certificate in CertificateDer::pem_file_iter(path).map_err(failed)? {
            roots.add(certificate.map_err(failed)?)?;
        }
    }
    if roots.is_empty() {
        return Err(TrustError::Nobody);
    }
    Ok(roots)
}

/// The TLS settings of one module, made when it first needs them.
#[derive(Default)]
pub(super) struct Tls(OnceLock<TlsConnector>);

impl Tls {
    pub(super) async fn connector(&self, trust: &Trust) -> Result<TlsConnector, TrustError> {
        if let Some(connector) = self.0.get() {
            return Ok(connector.clone());
        }
        let roots = trust.roots().await?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(self.0.get_or_init(|| TlsConnector::from(Arc::new(config))).clone())
    }
}
