//! Puts a module into a registry: the author's side, on a machine with memory to spare.
//!
//! Owns: the layout (the CNCF's: one layer `application/wasm`, an empty `application/vnd.wasm.config.v0+json`). Not: the protocol
//! (`oci_client`).

use oci_client::Reference;
use oci_client::client::{Certificate, CertificateEncoding, Client, ClientConfig, ClientProtocol};
use oci_client::client::{Config, ImageLayer};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::OciImageManifest;
use oci_client::secrets::RegistryAuth;
use thiserror::Error;

use crate::image::NotWasm;
use crate::image::wasm::Checker;

use super::images::Remote;
use super::keyring::Keyring;
use super::manifest::{CONFIG_WASM, LAYER_WASM};
use super::settings::ArtifactSettings;

/// Why a module was not pushed.
#[derive(Debug, Error)]
pub enum PushError {
    #[error("the file {0}")]
    NotWasm(NotWasm),
    #[error("cannot read the certificate authorities in {0}")]
    Authorities(std::path::PathBuf, #[source] std::io::Error),
    #[error("cannot push to {place}")]
    Registry {
        place: String,
        #[source]
        cause: OciDistributionError,
    },
}

/// Pushes; the digest of the manifest, as the registry tells it.
///
/// # Errors
///
/// It is no module, or the registry does not take it.
pub async fn push(
    settings: &ArtifactSettings,
    keyring: &Keyring,
    remote: &Remote,
    module: Vec<u8>,
) -> Result<String, PushError> {
    let mut checker = Checker::default();
    checker.feed(&module).and_then(|()| checker.finish()).map_err(PushError::NotWasm)?;
    // The library's own client asks for the process' provider. Another one may be set already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (host, path) = remote.repository.endpoint();
    let place = format!("{host}/{path}");
    let failed = |cause| PushError::Registry { place: place.clone(), cause };
    let plain = settings.allows_plain(host);
    let protocol = if plain { ClientProtocol::Http } else { ClientProtocol::Https };
    let config = ClientConfig {
        protocol,
        extra_root_certificates: authorities(settings)?,
        // In one piece: fewer round trips, and every registry can.
        use_monolithic_push: true,
        ..ClientConfig::default()
    };
    let client = Client::try_from(config).map_err(failed)?;
    let reference = Reference::with_tag(host.to_owned(), path.clone(), remote.reference.clone());
    let auth = match keyring.find(&remote.repository) {
        Some(credential) => credential.for_push(),
        None => RegistryAuth::Anonymous,
    };
    let layers = [ImageLayer::new(module, LAYER_WASM.to_owned(), None)];
    let config = Config::new(&b"{}"[..], CONFIG_WASM.to_owned(), None);
    let manifest = OciImageManifest::build(&layers, &config, None);
    let pushed = client.push(&reference, &layers, config, &auth, Some(manifest)).await;
    pushed.map_err(failed)?;
    client.fetch_manifest_digest(&reference, &auth).await.map_err(failed)
}

fn authorities(settings: &ArtifactSettings) -> Result<Vec<Certificate>, PushError> {
    let Some(path) = &settings.ca_file else { return Ok(Vec::new()) };
    let data = std::fs::read(path).map_err(|cause| PushError::Authorities(path.clone(), cause))?;
    Ok(vec![Certificate { encoding: CertificateEncoding::Pem, data }])
}
