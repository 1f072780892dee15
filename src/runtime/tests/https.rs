//! What modules ask of the outside over HTTP: TLS, whom it trusts, names, and time limits.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::super::{CompileMode, HttpLimits, Network, RunHandle, Runtime, RuntimeConfig};
use super::http::{PORT, at, client, connect, get, listening, peer, whole};
use super::lab::{PATIENCE, Trial, eventually, guest_path, module, over};
use crate::net::{
    Ask, Egress, Lookup, Member, NetConfig, OutboundCall, PodNet, ResolveError, Route,
};
use crate::wasi::http::io::NetIo;

/// The outside: everything at TEST-NET-3, which these tests answer for.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);

/// Hands connections to the outside to whoever plays it.
#[derive(Debug)]
struct Web(mpsc::Sender<OutboundCall>);

impl Egress for Web {
    fn route(&self, ask: &Ask<'_>) -> Route {
        if ask.to.ip() == OUTSIDE { Route::Outside } else { Route::Denied }
    }

    fn connect(&self, _: &Ask<'_>, call: OutboundCall) {
        self.0.try_send(call).unwrap();
    }

    fn lookup(&self, _: &str, name: &str) -> Lookup {
        let known = name.ends_with(".example");
        let answer = if known { Ok(vec![IpAddr::V4(OUTSIDE)]) } else { Err(ResolveError::Denied) };
        Lookup::Later(Box::pin(async { answer }))
    }
}

/// A handler that asks, and the outside that it asks.
struct Site {
    runtime: Runtime,
    _dir: tempfile::TempDir,
    handle: RunHandle,
    peer: Member,
    calls: mpsc::Receiver<OutboundCall>,
    tls: TlsAcceptor,
}

impl Site {
    async fn new(guest: &str, limit_ms: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["secure.example".to_owned()]).unwrap();
        let authorities = dir.path().join("authorities.pem");
        std::fs::write(&authorities, cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();

        let mut config = RuntimeConfig::new(dir.path().join("cache"));
        config.compile = CompileMode::InProcess;
        config.guest_threads = Some(2);
        config.extra_authorities = Some(authorities);
        let runtime = Runtime::new(config).unwrap();
        let artifact = runtime.prepare(module(guest_path(guest)), false).await.unwrap();
        let mut trial = Trial::new(artifact, &[]).http(PORT, HttpLimits::default());
        trial = trial.env("LIMIT_MS", limit_ms);

        let (tell, calls) = mpsc::channel(16);
        let mut config = NetConfig::new(Ipv4Addr::new(10, 1, 0, 10));
        config.egress = Arc::new(Web(tell));
        let net = PodNet::new(config);
        trial.run.network = Network::Pod { net: net.clone(), member: "asker".to_owned() };
        let handle = runtime.start(trial.run).await.unwrap();
        eventually("it listens", || listening(&net) == 1).await;
        let tls = TlsAcceptor::from(Arc::new(tls));
        Self { runtime, _dir: dir, handle, peer: peer(&net), calls, tls }
    }

    /// Has the handler ask for `url`; returns what it says came of it.
    async fn ask(&self, url: &str) -> (StatusCode, String) {
        let mut client = client(connect(&self.peer, at(PORT)).await).await;
        let response = client.send_request(get(&format!("/get?{url}"))).await.unwrap();
        whole(response).await
    }

    async fn end(self) {
        self.handle.control.kill();
        let control = self.handle.control.clone();
        over(self.handle).await;
        assert_eq!(control.usage().memory_bytes, 0);
        self.runtime.shutdown(Duration::from_secs(10)).await;
    }
}

/// Answers one request over TLS.
async fn serve(tls: TlsAcceptor, io: NetIo) {
    // A client that does not trust us ends the handshake.
    let Ok(io) = tls.accept(io).await else { return };
    let service = hyper::service::service_fn(|request: hyper::Request<_>| async move {
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        let text =
            format!("{} {} at {host}, {:?}", request.method(), request.uri(), request.version());
        let body = Full::new(Bytes::from(text + &" and more".repeat(50_000)));
        Ok::<_, std::convert::Infallible>(Response::new(body))
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(io), service)
        .await;
}

#[tokio::test]
async fn https_goes_to_whom_the_node_trusts_and_to_nobody_else() {
    for guest in ["handler", "handler3"] {
        let mut site = Site::new(guest, "20000").await;
        let tls = site.tls.clone();
        let mut calls = std::mem::replace(&mut site.calls, mpsc::channel(1).1);
        let outside = tokio::spawn(async move {
            while let Some(call) = calls.recv().await {
                let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 50_000);
                let io = NetIo::new(call.connected(local).unwrap(), PATIENCE);
                tokio::spawn(serve(tls.clone(), io));
            }
        });
        let (status, text) = site.ask("https://secure.example/path?query").await;
        assert_eq!(status, StatusCode::OK, "{guest}: {text}");
        assert!(text.starts_with("GET /path?query at secure.example, HTTP/1.1"), "{}", &text[..80]);
        assert!(text.len() > 400_000);
        // Another name than the certificate's; a port of one's own.
        for (url, error) in [
            ("https://other.example/", "TlsCertificateError"),
            ("https://203.0.113.5/", "TlsCertificateError"),
            ("https://secure.example:8443/", "GET / at secure.example:8443"),
            ("https://denied.test/", "DnsError"),
            ("https://198.51.100.1/", "DestinationIpProhibited"),
        ] {
            let (_, text) = site.ask(url).await;
            assert!(text.contains(error), "{guest}: {url}: {}", &text[..text.len().min(200)]);
        }
        outside.abort();
        site.end().await;
    }
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_told_from_one_that_is_not_trusted() {
    let mut site = Site::new("handler", "20000").await;
    let text = {
        let peer = &site.peer;
        let ask = async {
            let mut client = client(connect(peer, at(PORT)).await).await;
            let response = client.send_request(get("/get?https://secure.example/")).await.unwrap();
            whole(response).await.1
        };
        let calls = &mut site.calls;
        let outside = async {
            let call = tokio::time::timeout(PATIENCE, calls.recv()).await.unwrap().unwrap();
            let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 50_000);
            let mut io = NetIo::new(call.connected(local).unwrap(), PATIENCE);
            let mut hello = [0; 5];
            io.read_exact(&mut hello).await.unwrap();
            io.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        };
        tokio::join!(ask, outside).0
    };
    assert!(text.contains("TlsProtocolError"), "{text}");
    site.end().await;
}

#[tokio::test]
async fn each_of_the_three_time_limits_is_kept() {
    let mut site = Site::new("handler", "300").await;
    // Nobody takes the connection.
    let (_, text) = site.ask("http://slow.example/").await;
    assert!(text.contains("ConnectionTimeout"), "{text}");
    drop(site.calls.recv().await);

    // Taken, and never answered.
    let Site { peer, calls, .. } = &mut site;
    let peer = &*peer;
    let ask = |url: &'static str| async move {
        let mut client = client(connect(peer, at(PORT)).await).await;
        let response = client.send_request(get(&format!("/get?{url}"))).await.unwrap();
        let status = response.status();
        let body = http_body_util::BodyExt::collect(response.into_body()).await;
        (status, body.map(|body| String::from_utf8(body.to_bytes().to_vec()).unwrap()))
    };
    let taken = async |calls: &mut mpsc::Receiver<OutboundCall>, say: &[u8]| {
        let call = tokio::time::timeout(PATIENCE, calls.recv()).await.unwrap().unwrap();
        let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 50_000);
        let mut io = NetIo::new(call.connected(local).unwrap(), PATIENCE);
        let mut rest = Vec::new();
        while !rest.ends_with(b"\r\n\r\n") {
            rest.push(io.read_u8().await.unwrap());
        }
        io.write_all(say).await.unwrap();
        // Until the module gives up.
        let _ = io.read_to_end(&mut rest).await;
        rest
    };
    let ((_, text), _) = tokio::join!(ask("http://slow.example/"), taken(calls, b""));
    assert!(text.as_ref().unwrap().contains("ConnectionReadTimeout"), "{text:?}");

    // Begun, and not gone on with.
    let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun";
    let ((status, text), asked) = tokio::join!(ask("http://slow.example/"), taken(calls, begun));
    assert_eq!(status, StatusCode::OK);
    assert!(text.is_err() || text.unwrap() == "begun");
    assert!(asked.starts_with(b"GET / HTTP/1.1\r\nhost: slow.example\r\n"));
    site.end().await;
}
