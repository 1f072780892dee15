//! A real mosquitto with TLS, client certificates and access lists, from the example in `docs/mosquitto`; and an operator.

#![allow(unreachable_pub, reason = "shared by the files of this folder")]

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use podling::mqtt::command::{self, Arguments, Verb};
use podling::mqtt::controller::{self, Message, SecretKey};
use podling::mqtt::intent::{API_VERSION, Artifact, Manifest, PodIntent, RolloutPolicy};
use podling::mqtt::topic::Tree;
use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Node, free_port, guest, program, wait_for};

pub const NODE: &str = "gw-test";
const TENANT: &str = "acme";
const OPERATOR: &str = "ctl-acme";

/// Everything that a test needs beside the node.
pub struct Rig {
    pub dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub port: u16,
    mosquitto: PathBuf,
    broker: Option<Child>,
    pub key: SecretKey,
    generation: AtomicU64,
}

/// A pod that is to be published.
pub struct Intent {
    pub intent: PodIntent,
}

impl Rig {
    /// A running broker; `None` where mosquitto is not installed.
    pub fn start() -> Option<Self> {
        let mosquitto = program("mosquitto")?;
        program("mosquitto_pub")?;
        program("mosquitto_sub")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test CA");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (key, generation) = (SecretKey::from_seed(&[7; 32]), AtomicU64::new(0));
        let port = free_port();
        let mut rig = Self { dir, issuer, port, mosquitto, broker: None, key, generation };
        std::fs::write(rig.path("ca.pem"), rig.issuer.pem()).unwrap();
        rig.certificate("broker", "localhost");
        rig.certificate(OPERATOR, OPERATOR);
        rig.certificate(NODE, NODE);
        let anchor = format!(
            "apiVersion: {API_VERSION}\nkind: TrustAnchor\nkeys:\n\
             - {{name: controller, publicKey: '{}', roles: [intent, command]}}\n",
            rig.key.public_text()
        );
        std::fs::write(rig.path("anchor.yaml"), anchor).unwrap();
        rig.start_broker("");
        Some(rig)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a certificate for a name, in files of that stem.
    pub fn certificate(&self, stem: &str, name: &str) {
        self.certificate_with(stem, name, |_| {});
    }

    /// The same with something changed.
    pub fn certificate_with(
        &self,
        stem: &str,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        // The key first: who sees the new certificate finds the key that belongs to it.
        for (ending, text) in [("key", key.serialize_pem()), ("pem", certificate.pem())] {
            let (path, new) = (self.path(&format!("{stem}.{ending}")), self.path("new"));
            std::fs::write(&new, text).unwrap();
            std::fs::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
            std::fs::rename(&new, path).unwrap();
        }
    }

    /// Starts the broker from the example configuration; `more` lines replace what it says of the same.
    pub fn start_broker(&mut self, more: &str) {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/mosquitto");
        let ours = self.dir.path().display().to_string();
        let text = std::fs::read_to_string(example.join("mosquitto.conf")).unwrap();
        let text = text
            .replace("/etc/mosquitto/podling/acl", &example.join("acl").display().to_string())
            .replace("/etc/mosquitto/podling", &ours)
            .replace("/var/lib/mosquitto/", &format!("{ours}/"))
            .replace("listener 8883", &format!("listener {} 127.0.0.1", self.port));
        let said: Vec<&str> = more.lines().filter_map(|line| line.split(' ').next()).collect();
        let mut kept: Vec<&str> =
            text.lines().filter(|line| !said.contains(&line.split(' ').next().unwrap())).collect();
        // Run by root it would become another user, who may not read this test's keys.
        kept.push("user root");
        kept.extend(more.lines());
        std::fs::write(self.path("mosquitto.conf"), kept.join("\n")).unwrap();
        let mut command = Command::new(&self.mosquitto);
        command.arg("-c").arg(self.path("mosquitto.conf"));
        let log = std::fs::File::create(self.path("mosquitto.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.broker = Some(command.spawn().unwrap());
        let port = self.port;
        wait_for("mosquitto to listen", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    }

    /// Kills the broker as a power cut would.
    pub fn kill_broker(&mut self) {
        if let Some(mut broker) = self.broker.take() {
            broker.kill().unwrap();
            broker.wait().unwrap();
        }
    }

    /// What the broker had stored is gone.
    pub fn wipe_broker(&mut self) {
        self.kill_broker();
        let _ = std::fs::remove_file(self.path("mosquitto.db"));
    }

    /// The node's configuration; `more` goes into the section `mqtt`.
    pub fn node_configuration(&self, more: &str) -> String {
        let here = self.dir.path().display();
        format!(
            "mqtt:\n  urls: ['mqtts://localhost:{}']\n  tenant: {TENANT}\n  groups: [line-a]\n  keepAliveSeconds: 10\n\
             \x20 trustAnchors: ['{here}/anchor.yaml']\n\
             \x20 tls: {{ca: '{here}/ca.pem', certificate: '{here}/{NODE}.pem', key: '{here}/{NODE}.key'}}\n{more}",
            self.port
        )
    }

    pub fn node(&self) -> Node {
        Node::start_with(&self.node_configuration(""))
    }

    fn client(&self, name: &str, who: &str) -> Command {
        // Line by line also into a pipe: a test waits for what is said.
        let mut command = Command::new("stdbuf");
        command.arg("-oL").arg(program(name).unwrap());
        let file = |ending: &str| self.path(&format!("{who}.{ending}"));
        command.args(["-h", "localhost", "-p", &self.port.to_string(), "-V", "5", "-q", "1"]);
        command.arg("--cafile").arg(self.path("ca.pem")).arg("--cert").arg(file("pem"));
        command.arg("--key").arg(file("key"));
        command
    }

    /// Publishes as the operator.
    pub fn publish(&self, topic: &str, payload: &[u8], retain: bool) {
        self.publish_as(OPERATOR, topic, payload, retain);
    }

    /// The same as anybody who has a certificate, under a client id of its own.
    pub fn publish_as(&self, who: &str, topic: &str, payload: &[u8], retain: bool) {
        let mut command = self.client("mosquitto_pub", who);
        // An empty message is a message of its own kind.
        let from = if payload.is_empty() { "-n" } else { "-s" };
        command.args(["-t", topic, from]).stdin(Stdio::piped());
        if retain {
            command.arg("-r");
        }
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(payload).unwrap();
        assert!(child.wait().unwrap().success(), "mosquitto_pub {topic}");
    }

    pub fn send(&self, message: &Message) {
        self.publish(&message.topic, &message.payload, message.retain);
    }

    /// What `who` is given of a topic, retained or fresh.
    pub fn read_as(&self, who: &str, topic: &str) -> Option<Vec<u8>> {
        self.read_within("60", who, topic)
    }

    /// Whether `who` is given nothing of a topic within a few seconds.
    pub fn hears_nothing_as(&self, who: &str, topic: &str) -> bool {
        self.read_within("3", who, topic).is_none()
    }

    fn read_within(&self, seconds: &str, who: &str, topic: &str) -> Option<Vec<u8>> {
        let mut command = self.client("mosquitto_sub", who);
        let output = command.args(["-t", topic, "-C", "1", "-W", seconds, "-N"]).output().unwrap();
        output.status.success().then_some(output.stdout)
    }

    /// A client that stays, with a client id of its own choice.
    pub fn listen_as(&self, who: &str, client_id: &str) -> Child {
        let mut command = self.client("mosquitto_sub", who);
        command.args(["-i", client_id, "-t", &format!("pods/v1/{TENANT}/n/{who}/none")]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// A client that prints everything the nodes say, `TOPIC PAYLOAD` line by line, and begins anew with each broker.
    pub fn subscribe(&self) -> Child {
        let mut command = self.client("mosquitto_sub", OPERATOR);
        command.args(["-v", "-t", &format!("pods/v1/{TENANT}/s/#")]);
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// A client that prints each message of one topic as a line.
    pub fn follow(&self, topic: &str) -> Child {
        let mut command = self.client("mosquitto_sub", OPERATOR);
        command.args(["-t", topic]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Publishes one block of an artifact, as it is and without any promise.
    pub fn publish_block(&self, transfer: u32, block: &[u8]) {
        let file = self.path(&format!("block-{transfer}"));
        std::fs::write(&file, block).unwrap();
        let topic = format!("pods/v1/{TENANT}/n/{NODE}/blob/{transfer}");
        let mut command = self.client("mosquitto_pub", OPERATOR);
        // Of an option that is given twice the last counts.
        command.args(["-t", &topic, "-q", "0", "-f"]).arg(file);
        assert!(command.status().unwrap().success());
    }

    pub fn read(&self, topic: &str) -> Option<Value> {
        // Whoever asks does so again; and on a busy machine it takes a while until a client is connected.
        serde_json::from_slice(&self.read_within("20", OPERATOR, topic)?).ok()
    }

    /// The node's word on a pod, once it is as wanted.
    #[track_caller]
    pub fn wait_status(&self, pod: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let topic = format!("pods/v1/{TENANT}/s/{NODE}/pod/default/{pod}");
        self.wait_topic(&topic, what, is)
    }

    #[track_caller]
    pub fn wait_topic(&self, topic: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        wait_for(&format!("{topic}: {what}"), || {
            last = self.read(topic).or_else(|| last.take());
            let found = last.clone().filter(|status| is(status));
            if found.is_none()
                && let Some(last) = &last
            {
                eprintln!("{topic}, not yet {what}: {last}");
            }
            found
        })
    }

    pub fn tree(&self) -> Tree {
        Tree::new("pods/v1", TENANT).unwrap()
    }

    /// An intent for the node, newer than every one before: one container with a guest that is small enough to come along.
    pub fn intent(&self, pod: &str, container: &str) -> Intent {
        self.intent_of("counter", pod, container)
    }

    /// The same with any guest; one that is too large to come along must be on the node already.
    pub fn intent_of(&self, module: &str, pod: &str, container: &str) -> Intent {
        let bytes = std::fs::read(guest(module)).unwrap();
        let digest = podling::mqtt::envelope::digest(&bytes);
        let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let inline = (bytes.len() < 16 * 1024).then(|| format!("data:;base64,{}", encode(&bytes)));
        let image = format!("{module}:v1");
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}}}\n\
             spec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: c\n    image: '{image}'\n{container}"
        );
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        Intent {
            intent: PodIntent {
                api_version: API_VERSION.to_owned(),
                kind: "PodIntent".to_owned(),
                tenant: TENANT.to_owned(),
                node: Some(NODE.to_owned()),
                group: None,
                namespace: "default".to_owned(),
                name: pod.to_owned(),
                epoch: 1,
                generation,
                uid: format!("uid-of-{pod}"),
                issued_at: format!("2026-01-01T00:{:02}:00Z", generation % 60),
                index_revision: 0,
                deleted: false,
                node_selector: Default::default(),
                rollout: RolloutPolicy { min_ready_seconds: Some(0), ..RolloutPolicy::default() },
                artifacts: vec![Artifact {
                    image,
                    digest,
                    size: bytes.len() as u64,
                    media_type: String::new(),
                    sources: inline.into_iter().collect(),
                    deltas: vec![],
                }],
                secrets: vec![],
                manifest: Some(Manifest::Text(manifest)),
            },
        }
    }

    pub fn sign(&self, intent: &Intent) -> Message {
        controller::intent(&self.tree(), &intent.intent, &[&self.key]).unwrap()
    }

    /// Publishes a pod; its status once it is committed.
    #[track_caller]
    pub fn deliver(&self, intent: &Intent) -> Value {
        self.send(&self.sign(intent));
        let generation = intent.intent.generation;
        self.wait_status(&intent.intent.name, &format!("committed at {generation}"), |status| {
            status["rollout"]["stage"] == "Committed"
                && status["rollout"]["generation"] == generation
        })
    }

    /// Sends a command and returns the text of its answer with its outcome.
    #[track_caller]
    pub fn command(&self, verb: Verb, arguments: Arguments) -> (String, Value) {
        let command = self.make_command(verb, arguments);
        self.ask(&command)
    }

    /// A command with an id of its own, for the connection that stands.
    #[track_caller]
    pub fn make_command(&self, verb: Verb, arguments: Arguments) -> command::Command {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let online = self.wait_topic(&format!("pods/v1/{TENANT}/s/{NODE}/online"), "online", |o| {
            o["online"] == true
        });
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        command::Command {
            api_version: API_VERSION.to_owned(),
            kind: "Command".to_owned(),
            tenant: TENANT.to_owned(),
            node: NODE.to_owned(),
            id: format!("cmd-{serial}"),
            verb,
            conn: online["conn"].as_u64().unwrap(),
            issued_at: format!("2026-02-01T00:00:{:02}Z", serial % 60),
            expires_at: None,
            arguments,
        }
    }

    /// Sends it, once more perhaps; the text of its answer with its outcome.
    pub fn ask(&self, command: &command::Command) -> (String, Value) {
        let id = &command.id;
        let message = controller::command(&self.tree(), command, &[&self.key]).unwrap();
        let mut listen = self.client("mosquitto_sub", OPERATOR);
        listen.args(["-t", &format!("pods/v1/{TENANT}/s/{NODE}/res/{id}"), "-W", "120"]);
        // It says when it is subscribed.
        let mut listener = listen.arg("-d").stdout(Stdio::piped()).spawn().unwrap();
        let mut lines =
            std::io::BufRead::lines(std::io::BufReader::new(listener.stdout.take().unwrap()));
        let subscribed = lines.any(|line| line.is_ok_and(|line| line.contains("Subscribed")));
        assert!(subscribed, "mosquitto_sub did not subscribe");
        self.send(&message);
        let mut text = String::new();
        let outcome = lines.find_map(|line| {
            let line = line.ok()?;
            let piece: Value = serde_json::from_str(&line).ok()?;
            text.push_str(piece["text"].as_str().unwrap_or_default());
            let encoded = piece["base64"].as_str().unwrap_or_default();
            let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
            text.push_str(std::str::from_utf8(&bytes).unwrap());
            (piece["more"] == false).then(|| {
                let mut outcome = piece["outcome"].clone();
                if piece["repeated"] == true {
                    outcome["repeated"] = true.into();
                }
                outcome
            })
        });
        let _ = listener.kill();
        let _ = listener.wait();
        (text, outcome.expect("an answer"))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.kill_broker();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.path("mosquitto.log")).unwrap_or_default();
            eprintln!("---- mosquitto ----\n{log}");
        }
    }
}

/// What Prometheus would read.
pub fn metrics(node: &Node) -> String {
    let mut stream = std::os::unix::net::UnixStream::connect(node.path("podling.sock")).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    answer
}

/// One number of it; the name with its labels.
#[track_caller]
pub fn metric(node: &Node, name: &str) -> i64 {
    let all = metrics(node);
    let found = all.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {name} in {all}"))
}
