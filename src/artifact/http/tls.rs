//! The TLS of downloads: rustls with ring, the system's authorities and the configuration's.
//!
//! Owns: making its configuration. Not: the broker's TLS, which trusts other authorities.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

use crate::artifact::settings::ArtifactSettings;

/// Why there is no HTTPS.
#[derive(Debug, Error)]
pub enum SetupError {
    #[error("cannot read the certificate authorities in {path}")]
    Authorities {
        path: PathBuf,
        #[source]
        cause: rustls::pki_types::pem::Error,
    },
    #[error("{path} holds no certificate")]
    NoAuthority { path: PathBuf },
    #[error("{path} holds a certificate that cannot be an authority")]
    Authority {
        path: PathBuf,
        #[source]
        cause: rustls::Error,
    },
    #[error("the TLS library refuses its own configuration")]
    Tls(#[source] rustls::Error),
    #[error("the HTTP library refuses its configuration")]
    Client(#[source] reqwest::Error),
}

pub(super) fn client_config(settings: &ArtifactSettings) -> Result<ClientConfig, SetupError> {
    let mut roots = RootCertStore::empty();
    if settings.system_roots.unwrap_or(true) {
        let system = rustls_native_certs::load_native_certs();
        for error in system.errors {
            tracing::debug!(%error, "a file of the system's certificate authorities is not usable");
        }
        // A gateway without any still speaks to its own authorities, and to loopback.
        roots.add_parsable_certificates(system.certs);
    }
    if let Some(path) = &settings.ca_file {
        let authorities = |cause| SetupError::Authorities { path: path.clone(), cause };
        let before = roots.len();
        for certificate in CertificateDer::pem_file_iter(path).map_err(authorities)? {
            roots
                .add(certificate.map_err(authorities)?)
                .map_err(|cause| SetupError::Authority { path: path.clone(), cause })?;
        }
        if roots.len() == before {
            return Err(SetupError::NoAuthority { path: path.clone() });
        }
    }
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(SetupError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
