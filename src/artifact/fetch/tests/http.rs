//! Registries and file servers.

use rcgen::{CertificateParams, Issuer, KeyPair};
use tokio_rustls::TlsAcceptor;

use super::*;

fn keyring(host: &str, (user, password): (&str, &str)) -> Keyring {
    let json =
        format!(r#"{{"auths":{{"{host}":{{"username":"{user}","password":"{password}"}}}}}}"#);
    Keyring::parse(json.as_bytes()).unwrap()
}

#[tokio::test]
async fn a_registry_is_shown_what_it_asks_for() {
    let bytes = module(1, 50_000);
    for door in [Door::Open, Door::Basic, Door::Token] {
        let registry = Registry::start().await;
        registry.put_blob("acme/web", &bytes);
        registry.lock(door);
        let source = format!("oci://{}/acme/web", registry.host());
        let known = Node::with(ArtifactSettings::default(), keyring(&registry.host(), USER));
        came(known.fetch(&bytes, &[&source]).await, &bytes);
        let stranger = Node::new().fetch(&bytes, &[&source]).await;
        let wrong = keyring(&registry.host(), ("ana", "falsch"));
        let liar = Node::with(ArtifactSettings::default(), wrong).fetch(&bytes, &[&source]).await;
        match door {
            Door::Open => assert!(stranger.is_ok() && liar.is_ok()),
            Door::Basic => {
                let said = liar.unwrap_err().to_string();
                assert!(said.ends_with("denies access (401): who are you?"), "{said}");
                assert!(stranger.unwrap_err().to_string().contains("denies access (401)"));
            }
            Door::Token => {
                for error in [stranger.unwrap_err(), liar.unwrap_err()] {
                    let said = error.to_string();
                    assert!(
                        said.contains("/token denies access (401): incorrect username"),
                        "{said}"
                    );
                    assert!(!said.contains("falsch"));
                }
            }
        }
    }
}

#[tokio::test]
async fn a_file_may_need_a_password_too() {
    let (registry, bytes) = (Registry::start().await, module(1, 5000));
    let file = registry.put_file("/private/web.wasm", &bytes);
    registry.lock(Door::Basic);
    let said = Node::new().fetch(&bytes, &[&file]).await.unwrap_err().to_string();
    assert!(said.contains("denies access (401)"), "{said}");
    let keyring = keyring(&format!("{}/private", registry.host()), USER);
    let node = Node::with(ArtifactSettings::default(), keyring);
    came(node.fetch(&bytes, &[&file]).await, &bytes);
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke_off_as_long_as_something_comes() {
    let (registry, node, bytes) = (Registry::start().await, Node::new(), module(1, 600_000));
    let file = registry.put_file("/web.wasm", &bytes);
    // More breaks than attempts in vain are allowed: each brings something.
    registry.plan([100_000; 5].map(Fault::CutAfter));
    came(node.fetch(&bytes, &[&file]).await, &bytes);
    let log = registry.log();
    assert_eq!(log.len(), 6);
    assert_eq!(log[3], "GET /web.wasm bytes=300000-");
}

#[tokio::test]
async fn attempts_in_vain_are_counted() {
    let (registry, node, bytes) = (Registry::start().await, Node::new(), module(1, 600_000));
    let file = registry.put_file("/web.wasm", &bytes);
    registry.plan(vec![Fault::Status(503, "over capacity"); 9]);
    let error = node.fetch(&bytes, &[&file]).await.unwrap_err();
    assert!(error.to_string().ends_with("says 503: over capacity"), "{error}");
    assert_eq!(registry.log().len(), 4);
    // A refusal is final at once.
    registry.plan(vec![Fault::Status(403, "no"); 9]);
    node.fetch(&bytes, &[&file]).await.unwrap_err();
    assert_eq!(registry.log().len(), 1);
}

#[tokio::test]
async fn servers_without_ranges_are_read_from_the_start() {
    let (registry, node, bytes) = (Registry::start().await, Node::new(), module(1, 600_000));
    let file = registry.put_file("/web.wasm", &bytes);
    registry.plan([Fault::CutAfter(400_000), Fault::IgnoreRange]);
    came(node.fetch(&bytes, &[&file]).await, &bytes);
    assert_eq!(registry.log().len(), 2);
}

#[tokio::test]
async fn a_server_that_tells_no_size_is_read_if_the_size_is_known() {
    let (registry, node, bytes) = (Registry::start().await, Node::new(), module(1, 60_000));
    let file = registry.put_file("/web.wasm", &bytes);
    registry.plan([Fault::NoLength]);
    let unknown = Want { size: None, ..want(&bytes, &[&file]) };
    let error = node.fetcher.fetch(unknown.clone(), &|_| {}).await.unwrap_err();
    assert!(error.to_string().contains("does not tell the size"), "{error}");
    registry.plan([Fault::NoLength]);
    came(node.fetch(&bytes, &[&file]).await, &bytes);
    let other = Node::new();
    came(other.fetcher.fetch(unknown, &|_| {}).await, &bytes);
}

#[tokio::test]
async fn another_size_is_another_thing() {
    let (registry, node, bytes) = (Registry::start().await, Node::new(), module(1, 6000));
    let file = registry.put_file("/web.wasm", &bytes[..5000]);
    let said = node.fetch(&bytes, &[&file]).await.unwrap_err().to_string();
    assert!(said.ends_with("has one of 5000 bytes, not of 6014"), "{said}");
}

/// An authority's certificate as PEM, and a server's door with one signed by it.
fn tls() -> (String, TlsAcceptor) {
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let server = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], key)
        .unwrap();
    (ca.pem(), TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test]
async fn the_configurations_authorities_are_trusted_and_no_others() {
    let (ca, acceptor) = tls();
    let (registry, bytes) = (Registry::start_tls(acceptor).await, module(1, 60_000));
    let file = registry.put_file("/web.wasm", &bytes);
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, ca).unwrap();
    let trusting = ArtifactSettings {
        ca_file: Some(ca_file.clone()),
        system_roots: Some(false),
        ..ArtifactSettings::default()
    };
    let node = Node::with(trusting.clone(), Keyring::default());
    came(node.fetch(&bytes, &[&file]).await, &bytes);
    let error = Node::new().fetch(&bytes, &[&file]).await.unwrap_err();
    assert!(error.to_string().contains("invalid peer certificate: UnknownIssuer"), "{error}");
    std::fs::write(&ca_file, "rubbish").unwrap();
    let said = Node::with(trusting, Keyring::default()).fetch(&bytes, &[&file]).await;
    let said = said.unwrap_err().to_string();
    assert!(said.ends_with("ca.pem holds no certificate"), "{said}");
}

#[tokio::test]
async fn a_redirect_does_not_lead_away_from_tls() {
    let (ca, acceptor) = tls();
    let (safe, plain) = (Registry::start_tls(acceptor).await, Registry::start().await);
    let bytes = module(1, 60_000);
    let file = safe.put_file("/web.wasm", &bytes);
    let elsewhere = safe.put_file("/elsewhere.wasm", &bytes);
    let in_the_open = plain.put_file("/web.wasm", &bytes);
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, ca).unwrap();
    let settings = ArtifactSettings { ca_file: Some(ca_file), ..ArtifactSettings::default() };
    let node = Node::with(settings, Keyring::default());
    safe.plan(vec![Fault::Redirect(in_the_open.clone()); 9]);
    let said = node.fetch(&bytes, &[&file]).await.unwrap_err().to_string();
    assert!(said.contains("a redirect leads away from TLS"), "{said}");
    assert_eq!(plain.log(), Vec::<String>::new());
    safe.plan([Fault::Redirect(elsewhere)]);
    came(node.fetch(&bytes, &[&file]).await, &bytes);
    // Between servers that may be asked in the open, it may.
    plain.plan([Fault::Redirect(in_the_open.clone())]);
    came(Node::new().fetch(&bytes, &[&in_the_open]).await, &bytes);
}

#[tokio::test]
async fn what_is_not_allowed_is_not_asked() {
    let (registry, bytes) = (Registry::start().await, module(1, 60_000));
    registry.put_blob("acme/web", &bytes);
    let file = registry.put_file("/web.wasm", &bytes);
    let image = format!("oci://{}/acme/web", registry.host());
    let allowed = |list: &[&str]| ArtifactSettings {
        allowed_registries: Some(list.iter().map(|text| (*text).to_owned()).collect()),
        ..ArtifactSettings::default()
    };
    let node = Node::with(allowed(&["ghcr.io"]), Keyring::default());
    for source in [&image, &file] {
        let said = node.fetch(&bytes, &[source]).await.unwrap_err().to_string();
        assert!(said.contains("is not among the allowedRegistries"), "{said}");
    }
    let said = Node::new().fetch(&bytes, &["http://web.example/a"]).await.unwrap_err().to_string();
    assert!(said.contains("web.example would have to be spoken to without TLS"), "{said}");
    assert_eq!(registry.log(), Vec::<String>::new());
    let node = Node::with(allowed(&[&format!("{}/acme", registry.host())]), Keyring::default());
    came(node.fetch(&bytes, &[&image]).await, &bytes);
}
