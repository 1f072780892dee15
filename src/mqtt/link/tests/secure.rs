//! TLS: who is let in, what is said when nobody is, and certificates that change under a running link.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::fake::{CONNACK, Fake, closed, next};
use crate::clock::Clock;
use crate::mqtt::link::{Link, UNANSWERED_MAX};
use crate::mqtt::tls::TlsSettings;
use crate::mqtt::tls::tests::Authority;
use crate::mqtt::transport::{Closed, Event, TlsFault, Transport as _};

/// A broker behind TLS.
struct Secure {
    fake: Fake,
    acceptor: TlsAcceptor,
}

impl Secure {
    /// With this certificate, asking for one of `clients` if given.
    async fn listen(
        [certificate, key]: &[String; 2],
        clients: Option<&Authority>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap();
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(CertificateDer::from_pem_file(ca.ca()).unwrap()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let config = builder.with_single_cert(chain, key).unwrap();
        let mut fake = Fake::listen().await;
        fake.endpoint.host = "localhost".into();
        fake.endpoint.tls = true;
        Self { fake, acceptor: TlsAcceptor::from(Arc::new(config)) }
    }

    fn link(&self, tls: TlsSettings) -> Link {
        let mut settings = self.fake.settings();
        settings.tls = tls;
        Link::new(settings, Clock::start()).unwrap()
    }

    async fn tcp(&self) -> TcpStream {
        self.fake.listener.accept().await.unwrap().0
    }

    /// Takes the next client, and says what certificate it has.
    async fn accept(&self) -> (TlsStream<TcpStream>, Option<Vec<u8>>) {
        let mut stream = self.acceptor.accept(self.tcp().await).await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().map(|chain| chain[0].to_vec());
        // Enough of CONNECT to know that it is one.
        assert_eq!(stream.read_u8().await.unwrap(), 0x10);
        stream.write_all(&CONNACK).await.unwrap();
        (stream, shown)
    }

    /// How an attempt ends that cannot succeed.
    async fn refused(&self, tls: TlsSettings) -> Closed {
        let mut link = self.link(tls);
        link.connect(None);
        let broker = async {
            let mut stream = self.acceptor.accept(self.tcp().await).await.ok()?;
            // TLS 1.3: the client thinks that it is through, and hears of its certificate with its first read.
            stream.read_u8().await.ok()
        };
        tokio::join!(broker, closed(&mut link)).1
    }
}

const TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
const TLS12: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];

fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[tokio::test(start_paused = true)]
async fn both_sides_show_their_certificate_over_tls_1_3() {
    let ca = Authority::new("CA");
    let broker = Secure::listen(&ca.give("localhost", |_| {}), Some(&ca), TLS13).await;
    let mut link = broker.link(ca.settings("gw"));
    link.connect(None);
    let (stream, shown) = broker.accept().await;
    assert!(matches!(next(&mut link).await, Event::Connected(_)));
    assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let ours = std::fs::read_to_string(ca.path("gw.pem")).unwrap();
    assert_eq!(shown.unwrap(), der(&ours));
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_the_brokers_certificate_is_said() {
    let (ca, other) = (Authority::new("CA"), Authority::new("other"));
    let tls = || ca.settings("gw");
    let past = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    };
    let future = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(3001, 1, 1);
        params.not_after = rcgen::date_time_ymd(3002, 1, 1);
    };
    let expired = Secure::listen(&ca.give("localhost", past), None, TLS13).await;
    assert!(matches!(expired.refused(tls()).await, Closed::Tls(TlsFault::Expired { .. })));
    let early = Secure::listen(&ca.give("localhost", future), None, TLS13).await;
    assert!(matches!(early.refused(tls()).await, Closed::Tls(TlsFault::NotYetValid { .. })));
    let wrong = Secure::listen(&ca.give("elsewhere.example", |_| {}), None, TLS13).await;
    let shown = wrong.refused(tls()).await.to_string();
    assert!(shown.contains("\"localhost\"") && shown.contains("elsewhere.example"), "{shown}");
    let unknown = Secure::listen(&other.give("localhost", |_| {}), None, TLS13).await;
    assert_eq!(unknown.refused(tls()).await, Closed::Tls(TlsFault::UnknownAuthority));
    let named = TlsSettings { server_name: Some("elsewhere.example".into()), ..tls() };
    let mut link = wrong.link(named);
    link.connect(None);
    wrong.accept().await;
    assert!(matches!(next(&mut link).await, Event::Connected(_)), "a name may be configured");
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_has_against_our_certificate_is_said() {
    let (ca, other) = (Authority::new("CA"), Authority::new("other"));
    let broker = Secure::listen(&ca.give("localhost", |_| {}), Some(&ca), TLS13).await;
    let none = TlsSettings { ca: Some(ca.ca()), ..TlsSettings::default() };
    assert_eq!(broker.refused(none).await, Closed::Tls(TlsFault::NoCertificate));
    let strange = TlsSettings { ca: Some(ca.ca()), ..other.settings("gw") };
    let ended = broker.refused(strange).await;
    assert!(
        matches!(ended, Closed::Tls(TlsFault::OurCertificate(why)) if why.contains("no authority")),
        "{ended}"
    );
    let expired = ca.give("gw-17", |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let identity = Some(ca.put("old", &expired));
    let old = TlsSettings { identity, ca: Some(ca.ca()), ..TlsSettings::default() };
    let ended = broker.refused(old).await;
    assert_eq!(ended, Closed::Tls(TlsFault::OurCertificate("it has expired")));
}

#[tokio::test(start_paused = true)]
async fn tls_1_2_only_where_it_is_allowed() {
    let ca = Authority::new("CA");
    let broker = Secure::listen(&ca.give("localhost", |_| {}), None, TLS12).await;
    assert_eq!(broker.refused(ca.settings("gw")).await, Closed::Tls(TlsFault::OldVersion));
    let mut link = broker.link(TlsSettings { allow_tls12: true, ..ca.settings("gw") });
    link.connect(None);
    broker.accept().await;
    assert!(matches!(next(&mut link).await, Event::Connected(_)));
}

#[tokio::test(start_paused = true)]
async fn a_broker_without_tls_on_that_port_is_said_to_be_one() {
    let ca = Authority::new("CA");
    let broker = Secure::listen(&ca.give("localhost", |_| {}), None, TLS13).await;
    let mut link = broker.link(ca.settings("gw"));
    link.connect(None);
    let mut tcp = broker.tcp().await;
    tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    assert_eq!(closed(&mut link).await, Closed::Tls(TlsFault::NotTls));
}

#[tokio::test(start_paused = true)]
async fn a_new_certificate_is_used_without_a_restart_and_a_bad_one_is_not() {
    let ca = Authority::new("CA");
    let broker = Secure::listen(&ca.give("localhost", |_| {}), Some(&ca), TLS13).await;
    let mut link = broker.link(ca.settings("gw"));
    link.connect(None);
    let (mut first, _) = broker.accept().await;
    assert!(matches!(next(&mut link).await, Event::Connected(_)));
    let pings = tokio::spawn(async move {
        // Any packet of ours is a ping, after what is left of CONNECT.
        let mut buffer = [0; 256];
        while first.read(&mut buffer).await.is_ok_and(|read| read > 0) {
            if first.write_all(&[0xd0, 0]).await.is_err() {
                return;
            }
        }
    });
    let good = ca.give("gw-17", |_| {});
    ca.put("gw", &[good[0][..50].to_owned(), good[1].clone()]);
    tokio::select! {
        event = next(&mut link) => panic!("{event:?}"),
        () = tokio::time::sleep(Duration::from_secs(30)) => {}
    }
    ca.put("gw", &good);
    assert_eq!(next(&mut link).await, Event::Closed(Closed::Renewal));
    pings.await.unwrap();
    link.connect(None);
    let (_second, shown) = broker.accept().await;
    assert_eq!(shown.unwrap(), der(&good[0]));
    assert!(matches!(next(&mut link).await, Event::Connected(_)));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_the_broker_refuses_gives_way_to_the_one_that_worked() {
    let (ca, other) = (Authority::new("CA"), Authority::new("other"));
    let broker = Secure::listen(&ca.give("localhost", |_| {}), Some(&ca), TLS13).await;
    let mut link = broker.link(ca.settings("gw"));
    link.connect(None);
    let (first, shown) = broker.accept().await;
    assert!(matches!(next(&mut link).await, Event::Connected(_)));
    drop(first);
    closed(&mut link).await;
    ca.put("gw", &other.give("gw-17", |_| {}));
    link.connect(None);
    let refused = async {
        let mut stream = broker.acceptor.accept(broker.tcp().await).await.ok()?;
        stream.read_u8().await.ok()
    };
    let (_, ended) = tokio::join!(refused, closed(&mut link));
    assert!(matches!(ended, Closed::Tls(TlsFault::OurCertificate(_))), "{ended}");
    link.connect(None);
    let (_second, again) = broker.accept().await;
    assert_eq!(again, shown, "the old one");
    assert!(matches!(next(&mut link).await, Event::Connected(_)));
}

#[tokio::test(start_paused = true)]
async fn who_closes_before_tls_is_up_says_nothing_of_the_protocols_version() {
    let ca = Authority::new("CA");
    let broker = Secure::listen(&ca.give("localhost", |_| {}), None, TLS13).await;
    let mut link = broker.link(ca.settings("gw"));
    for _ in 0..=UNANSWERED_MAX {
        link.connect(None);
        drop(broker.tcp().await);
        closed(&mut link).await;
    }
    link.connect(None);
    let mut stream = broker.acceptor.accept(broker.tcp().await).await.unwrap();
    // Type, length, the protocol's name with its length, and its level.
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!((head[0], head[8]), (0x10, 5));
}
