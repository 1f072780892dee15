//! A broker that knows nothing newer than MQTT 3.1.1, on loopback: connections of protocol level 5 get its CONNACK and are closed.
//!
//! As much of a broker as pods over MQTT need: QoS 0 and 1, retained messages, wills, wildcards. A thread for each connection.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::mqtt::rig::Rig;
use crate::publish_mqtt::{FOREVER, manifest, run};
use crate::support::{Node, text, wait_for};

/// See the header.
struct OldBroker {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    retained: BTreeMap<String, Vec<u8>>,
    clients: BTreeMap<u64, Client>,
    /// Protocol levels of the connections so far.
    levels: Vec<u8>,
}

struct Client {
    stream: TcpStream,
    filters: Vec<String>,
    next_id: u16,
}

impl OldBroker {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let (Ok(stream), shared) = (stream, Arc::clone(&shared)) else { continue };
                std::thread::spawn(move || {
                    let end = stream.try_clone();
                    // The peer may end it at any point.
                    let _ = serve(stream, number as u64, &shared);
                    shared.lock().unwrap().clients.remove(&(number as u64));
                    let _ = end.map(|stream| stream.shutdown(Shutdown::Both));
                });
            }
        });
        Self { port, state }
    }

    fn levels(&self) -> Vec<u8> {
        self.state.lock().unwrap().levels.clone()
    }
}

fn serve(mut stream: TcpStream, number: u64, shared: &Mutex<State>) -> io::Result<()> {
    let (first, connect) = read(&mut stream)?;
    assert_eq!(first >> 4, 1, "CONNECT comes first");
    let mut rest = &connect[..];
    let name = string(&mut rest);
    assert_eq!(name, "MQTT");
    let (level, flags) = (rest[0], rest[1]);
    shared.lock().unwrap().levels.push(level);
    if level != 4 {
        // "unacceptable protocol version", and goodbye (3.1.1, section 3.2.2.3).
        return stream.write_all(&[0x20, 2, 0, 1]);
    }
    rest = &rest[4..];
    string(&mut rest);
    let will = (flags & 0x04 != 0).then(|| (string(&mut rest), bytes(&mut rest)));
    let (client, next_id) = (stream.try_clone()?, 1);
    let client = Client { stream: client, filters: vec![], next_id };
    shared.lock().unwrap().clients.insert(number, client);
    stream.write_all(&[0x20, 2, 0, 0])?;
    let ended = converse(&mut stream, number, shared);
    if let (Err(_), Some((topic, payload))) = (&ended, will) {
        shared.lock().unwrap().publish(&topic, &payload, true);
    }
    ended
}

fn converse(stream: &mut TcpStream, number: u64, shared: &Mutex<State>) -> io::Result<()> {
    loop {
        let (first, body) = read(stream)?;
        let mut rest = &body[..];
        let mut state = shared.lock().unwrap();
        match first >> 4 {
            3 => {
                let topic = string(&mut rest);
                if first & 0x06 == 0x02 {
                    let id = [rest[0], rest[1]];
                    rest = &rest[2..];
                    stream.write_all(&[0x40, 2, id[0], id[1]])?;
                }
                state.publish(&topic, rest, first & 1 == 1);
            }
            8 => {
                let id = [rest[0], rest[1]];
                rest = &rest[2..];
                let mut filters = vec![];
                while !rest.is_empty() {
                    filters.push(string(&mut rest));
                    rest = &rest[1..];
                }
                let mut answer = vec![0x90, 2 + u8::try_from(filters.len()).unwrap(), id[0], id[1]];
                answer.extend(filters.iter().map(|_| 1));
                stream.write_all(&answer)?;
                let State { retained, clients, .. } = &mut *state;
                let client = clients.get_mut(&number).unwrap();
                for (topic, payload) in retained.iter() {
                    if filters.iter().any(|filter| fits(filter, topic)) {
                        client.send(topic, payload, true);
                    }
                }
                client.filters.extend(filters);
            }
            12 => stream.write_all(&[0xd0, 0])?,
            14 => return Ok(()),
            // PUBACK, and what nobody here sends.
            _ => {}
        }
    }
}

impl State {
    fn publish(&mut self, topic: &str, payload: &[u8], retain: bool) {
        if retain && payload.is_empty() {
            self.retained.remove(topic);
        } else if retain {
            self.retained.insert(topic.to_owned(), payload.to_vec());
        }
        for client in self.clients.values_mut() {
            if client.filters.iter().any(|filter| fits(filter, topic)) {
                client.send(topic, payload, false);
            }
        }
    }
}

impl Client {
    /// With QoS 1; nobody waits for the answer.
    fn send(&mut self, topic: &str, payload: &[u8], retained: bool) {
        let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
        body.extend(topic.as_bytes());
        body.extend(self.next_id.to_be_bytes());
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        body.extend(payload);
        let mut packet = vec![0x32 | u8::from(retained)];
        let mut length = body.len();
        loop {
            let more = if length > 0x7f { 0x80 } else { 0 };
            packet.push(u8::try_from(length & 0x7f).unwrap() | more);
            length >>= 7;
            if length == 0 {
                break;
            }
        }
        packet.extend(body);
        // It may have gone.
        let _ = self.stream.write_all(&packet);
    }
}

fn read(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    let (first, mut length, mut shift) = (byte[0], 0, 0);
    loop {
        stream.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((first, body))
}

fn bytes(rest: &mut &[u8]) -> Vec<u8> {
    let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
    let (taken, after) = rest[2..].split_at(length);
    *rest = after;
    taken.to_vec()
}

fn string(rest: &mut &[u8]) -> String {
    String::from_utf8(bytes(rest)).unwrap()
}

fn fits(filter: &str, topic: &str) -> bool {
    let (mut levels, mut filter) = (topic.split('/'), filter.split('/'));
    loop {
        match (filter.next(), levels.next()) {
            (Some("#"), _) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[test]
fn node_and_laptop_find_their_way_over_a_broker_of_mqtt_3_1_1() {
    // Keys and folders are the rig's; its broker is not used.
    let Some(mut rig) = Rig::start() else { return };
    rig.kill_broker();
    let broker = OldBroker::start();
    crate::publish_mqtt::controller(&rig, "ana", &rig.key);
    let settings = format!(
        "urls: ['mqtt://127.0.0.1:{}']\ntenant: acme\nsigningKey: ana-signing.pem\n",
        broker.port
    );
    std::fs::write(rig.path("ana.yaml"), settings).unwrap();
    let here = rig.path("anchor.yaml").display().to_string();
    let mut node = Node::start_with(&format!(
        "mqtt:\n  urls: ['mqtt://127.0.0.1:{}']\n  tenant: acme\n  trustAnchors: ['{here}']\n",
        broker.port
    ));
    let file = manifest(&rig, "web", FOREVER, "");
    let ana = |args: &[&str], code: i32| {
        let output = run(&rig, "ana", args);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}:\n{out}{err}");
        out
    };
    let publish = ["publish", "--node", "gw-test", "--min-ready", "0s", "--timeout", "120s"];
    let out = ana(&[&publish[..], &["-f", &file]].concat(), 0);
    assert!(out.contains("fetches file:sleep.wasm from here"), "the module's bytes too: {out}");
    assert!(out.ends_with("gw-test: pod/web: Ready\n"), "{out}");
    node.wait_ready("web");
    assert!(ana(&["fleet", "ping", "gw-test", "--timeout", "120s"], 0).contains("answered after"));
    let levels = broker.levels();
    assert!(
        levels.contains(&5) && levels.contains(&4),
        "each asked in the newer language first: {levels:?}"
    );
    // It says what it is when asked for the newer language alone.
    let mut only = std::fs::read_to_string(rig.path("ana.yaml")).unwrap();
    only += "protocol: '5'\n";
    std::fs::write(rig.path("ana.yaml"), only).unwrap();
    let output = run(&rig, "ana", &["fleet", "ping", "gw-test"]);
    assert_eq!(output.status.code(), Some(4));
    let err = text(&output.stderr);
    assert!(err.contains("does not speak MQTT 5"), "{err}");
    let restored =
        std::fs::read_to_string(rig.path("ana.yaml")).unwrap().replace("protocol: '5'\n", "");
    std::fs::write(rig.path("ana.yaml"), restored).unwrap();
    node.power_cut();
    wait_for("the will, without a delay that 3.1.1 does not have", || {
        ana(&["fleet", "get", "nodes"], 0).contains("NotReady").then_some(())
    });
    node.boot();
    node.wait_ready("web");
    ana(&[&publish[..], &["--delete", "web"]].concat(), 0);
    node.wait_gone("web");
}
