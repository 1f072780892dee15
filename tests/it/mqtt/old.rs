//! A broker that knows MQTT 3.1.1 and nothing newer: mosquitto behind a door that refuses the rest.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use podling::mqtt::command::{Arguments, Verb};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::rig::{NODE, Rig};
use crate::support::{Node, wait_for};

/// How the door says no to what is too new.
#[derive(Clone, Copy)]
enum No {
    /// With the code that MQTT 3.1.1 has for it.
    Connack,
    /// It just closes.
    Silence,
}

/// How often it was asked, in which version.
#[derive(Default)]
struct Asked {
    newer: AtomicUsize,
    older: AtomicUsize,
}

struct Door {
    port: u16,
    asked: Arc<Asked>,
    _runtime: tokio::runtime::Runtime,
}

fn pem(path: &Path) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_file_iter(path.with_extension("pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(path.with_extension("key")).unwrap();
    (chain.map(Result::unwrap).collect(), key)
}

impl Door {
    fn open(rig: &Rig, no: No) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (chain, key) = pem(&rig.path("broker"));
        let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(rig.path("ca.pem")).unwrap()).unwrap();
        let (chain, key) = pem(&rig.path(NODE));
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        let (acceptor, connector) =
            (TlsAcceptor::from(Arc::new(server)), TlsConnector::from(Arc::new(client)));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let (port, asked) = (listener.local_addr().unwrap().port(), Arc::<Asked>::default());
        let (count, broker) = (Arc::clone(&asked), rig.port);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, connector) = (acceptor.clone(), connector.clone());
                let count = Arc::clone(&count);
                // One that breaks off is looked at by the test from the other side.
                tokio::spawn(async move {
                    let _ = serve(stream, &acceptor, &connector, broker, no, &count).await;
                });
            }
        });
        Self { port, asked, _runtime: runtime }
    }
}

async fn serve(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    connector: &TlsConnector,
    broker: u16,
    no: No,
    asked: &Asked,
) -> std::io::Result<()> {
    let mut node = acceptor.accept(stream).await?;
    // CONNECT, whose length takes one or two bytes here: the will makes it longer than 127.
    let mut connect = vec![node.read_u8().await?];
    let mut length = 0_usize;
    for shift in [0, 7] {
        let byte = node.read_u8().await?;
        connect.push(byte);
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let start = connect.len();
    connect.resize(start + length, 0);
    node.read_exact(&mut connect[start..]).await?;
    if connect[start + 6] != 4 {
        asked.newer.fetch_add(1, Ordering::SeqCst);
        if let No::Connack = no {
            node.write_all(&[0x20, 2, 0, 1]).await?;
        }
        return node.shutdown().await;
    }
    asked.older.fetch_add(1, Ordering::SeqCst);
    let name = ServerName::try_from("localhost").unwrap();
    let tcp = TcpStream::connect(("127.0.0.1", broker)).await?;
    let mut broker = connector.connect(name, tcp).await?;
    broker.write_all(&connect).await?;
    copy_bidirectional(&mut node, &mut broker).await?;
    Ok(())
}

fn node_behind(rig: &Rig, door: &Door) -> Node {
    let (theirs, ours) = (format!("localhost:{}", rig.port), format!("localhost:{}", door.port));
    Node::start_with(&rig.node_configuration("").replace(&theirs, &ours))
}

#[test]
fn everything_works_with_a_broker_of_mqtt_3_1_1() {
    let Some(rig) = Rig::start() else { return };
    let door = Door::open(&rig, No::Connack);
    let mut node = node_behind(&rig, &door);
    rig.deliver(&rig.intent("web", ""));
    assert!(node.output().contains("MQTT 3.1.1"), "{}", node.output());
    assert_eq!(door.asked.newer.load(Ordering::SeqCst), 1, "asked in MQTT 5 once");
    // Changed, refused with all its errors, commanded, deleted.
    rig.deliver(&rig.intent("web", "    env: [{name: V, value: 'v2'}]\n"));
    let bad = rig.intent("web", "    env: [{name: '', value: 'x'}]\n    nonsense: 1\n");
    rig.send(&rig.sign(&bad));
    let refused = |s: &serde_json::Value| {
        let refused = &s["documents"][0]["refused"];
        refused["errors"].as_array().is_some_and(|errors| errors.len() >= 2)
    };
    rig.wait_status("web", "refused with all its errors", refused);
    let (_, outcome) = rig.command(Verb::Ping, Arguments::default());
    assert_eq!(outcome["ok"], true);
    let mut gone = rig.intent("web", "");
    gone.intent = podling::mqtt::controller::tombstone(&gone.intent, &gone.intent.issued_at);
    rig.send(&rig.sign(&gone));
    node.wait_gone("web");
    // The will, which a broker of that age says at once; and the birth after it.
    let online = format!("pods/v1/acme/s/{NODE}/online");
    node.power_cut();
    rig.wait_topic(&online, "gone, in the broker's words", |o| o["online"] == false);
    node.boot();
    rig.wait_topic(&online, "back", |o| o["online"] == true);
    // In order, it says so itself.
    assert_eq!(node.terminate(), 0);
    rig.wait_topic(&online, "gone, in its own words", |o| o["online"] == false);
}

#[test]
fn a_broker_that_closes_on_mqtt_5_is_found_out() {
    let Some(rig) = Rig::start() else { return };
    let door = Door::open(&rig, No::Silence);
    let node = node_behind(&rig, &door);
    wait_for("the node to be connected", || {
        (super::rig::metric(&node, "podling_mqtt_connected") == 1).then_some(())
    });
    assert_eq!(door.asked.newer.load(Ordering::SeqCst), 2);
    assert_eq!(door.asked.older.load(Ordering::SeqCst), 1);
    rig.deliver(&rig.intent("web", ""));
}
