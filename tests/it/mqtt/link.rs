//! The broker dies, forgets, hangs, or takes little; certificates change; keys are missing. No pod ever restarts for any of it.

use std::io::Read as _;
use std::net::TcpListener;

use super::rig::{NODE, Rig};
use crate::support::{Node, container, is_ready, restarts};

/// What must not change while the link does.
fn life(node: &Node) -> (serde_json::Value, serde_json::Value, i64) {
    let pod = node.pod("web").unwrap();
    assert!(is_ready(&pod), "{pod:#}");
    let started = container(&pod, "c")["state"]["running"]["startedAt"].clone();
    (pod["metadata"]["uid"].clone(), started, restarts(&pod, "c"))
}

/// The condition that says how the link is.
fn link_is(node: &Node, status: &str) -> Option<String> {
    let shown = node.ok(&["get", "node", NODE, "-o", "json"]);
    let object: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let conditions = object["status"]["conditions"].as_array().unwrap().clone();
    let link = conditions.into_iter().find(|c| c["type"] == "MqttConnected")?;
    (link["status"] == status).then(|| link["message"].as_str().unwrap().to_owned())
}

#[track_caller]
pub(super) fn wait_link(node: &Node, status: &str) -> String {
    crate::support::wait_for(&format!("MqttConnected={status}"), || link_is(node, status))
}

#[test]
fn a_broker_killed_wiped_hung_or_stingy_restarts_no_pod() {
    let Some(mut rig) = Rig::start() else { return };
    let node = rig.node();
    let intent = rig.intent("web", "");
    rig.deliver(&intent);
    let before = life(&node);

    rig.kill_broker();
    wait_link(&node, "False");
    assert_eq!(life(&node), before);
    rig.start_broker("");
    wait_link(&node, "True");
    let conn = |rig: &Rig| {
        let status = rig.wait_status("web", "there", |s| s["phase"] == "Running");
        status["conn"].as_u64().unwrap()
    };
    let first = conn(&rig);

    // Everything that it had stored is gone: the node says everything anew, and deletes nothing.
    rig.wipe_broker();
    wait_link(&node, "False");
    rig.start_broker("");
    wait_link(&node, "True");
    assert!(conn(&rig) > first, "a fresh status for a fresh connection");
    assert_eq!(life(&node), before);

    // A broker that accepts and then says nothing.
    rig.kill_broker();
    wait_link(&node, "False");
    let hole = TcpListener::bind(("127.0.0.1", rig.port)).unwrap();
    let (mut held, _) = hole.accept().unwrap();
    let mut first_bytes = [0; 5];
    held.read_exact(&mut first_bytes).unwrap();
    assert_eq!(first_bytes[0], 0x16, "a TLS hello");
    assert_eq!(life(&node), before);
    drop((held, hole));

    // One that takes little: what does not fit is not sent, and nobody loops.
    rig.start_broker("max_packet_size 400");
    wait_link(&node, "True");
    assert_eq!(life(&node), before);
    assert!(link_is(&node, "True").is_some());
    let ended = |node: &Node| {
        let metrics = super::rig::metrics(node);
        let line = metrics.lines().find(|l| l.contains("reason=\"ended_by_broker\"")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let so_far = ended(&node);

    rig.wipe_broker();
    rig.start_broker("");
    wait_link(&node, "True");
    conn(&rig);
    assert!(ended(&node) <= so_far + 1);
    assert_eq!(life(&node), before);
}

#[test]
fn after_a_power_cut_pods_are_back_before_and_without_any_network() {
    let Some(mut rig) = Rig::start() else { return };
    let mut node = rig.node();
    rig.deliver(&rig.intent("web", ""));
    rig.kill_broker();
    node.power_cut();
    node.boot();
    node.wait_ready("web");
    assert!(link_is(&node, "False").is_some());
    rig.wipe_broker();
    rig.start_broker("");
    let status = rig.wait_status("web", "told", |s| s["ready"] == true);
    assert_eq!(status["documents"][0]["accepted"]["generation"], 1, "{status}");
    assert_eq!(node.terminate(), 0, "{}", node.output());
    rig.wait_topic("pods/v1/acme/s/gw-test/online", "offline", |o| o["online"] == false);
}

#[test]
fn the_service_manager_hears_that_it_is_ready_when_restored_pods_run_without_any_network() {
    let Some(mut rig) = Rig::start() else { return };
    let mut node = rig.node();
    rig.deliver(&rig.intent("web", ""));
    node.power_cut();
    rig.kill_broker();
    let path = node.path("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
    node.env.push(("NOTIFY_SOCKET", path.display().to_string()));
    node.spawn();
    let mut said = [0; 64];
    let length = manager.recv(&mut said).unwrap();
    assert_eq!(&said[..length], b"READY=1");
    // At this moment, not some time later.
    let pod = node.pod("web").unwrap();
    assert!(container(&pod, "c")["state"]["running"].is_object(), "{pod:#}");
}

#[test]
fn without_a_trust_key_it_stays_away_and_says_why() {
    let Some(rig) = Rig::start() else { return };
    let configuration = rig.node_configuration("").replace("anchor.yaml", "absent.yaml");
    let mut node = Node::start_with(&configuration);
    let why = wait_link(&node, "False");
    assert!(why.contains("no trust key") && why.contains("trust: off"), "{why}");
    node.daemon().wait_for("no trust key");
    let table = node.ok(&["get", "node"]);
    assert!(table.contains("Ready,MqttNotStarted"), "{table}");
    // The rest of the daemon works.
    node.load("counter");
    node.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'counter:test'}]}\n",
    );
    node.wait_ready("web");
}

#[test]
fn accepted_pods_run_on_when_the_trust_key_is_lost() {
    let Some(rig) = Rig::start() else { return };
    let mut node = rig.node();
    rig.deliver(&rig.intent("web", ""));
    std::fs::rename(rig.path("anchor.yaml"), rig.path("elsewhere")).unwrap();
    assert_eq!(node.terminate(), 0);
    node.boot();
    node.wait_ready("web");
    assert!(wait_link(&node, "False").contains("no trust key"));
}

#[test]
fn a_certificate_that_expires_is_replaced_under_the_running_daemon() {
    let Some(mut rig) = Rig::start() else { return };
    let node = rig.node();
    rig.deliver(&rig.intent("web", ""));
    let before = life(&node);
    // Nobody's certificate: the broker refuses it, and the node says so and goes on with the old one.
    let good: Vec<_> = ["pem", "key"]
        .map(|ending| std::fs::read(rig.path(&format!("{NODE}.{ending}"))).unwrap())
        .into();
    let stranger = Rig::start().unwrap();
    for ending in ["key", "pem"] {
        let name = format!("{NODE}.{ending}");
        std::fs::copy(stranger.path(&name), rig.path(&name)).unwrap();
    }
    let why = wait_link(&node, "False");
    assert!(why.contains("certificate") || why.contains("TLS files"), "{why}");
    wait_link(&node, "True");
    // A new one of the right authority is taken without a word.
    rig.certificate(NODE, NODE);
    assert_ne!(good[0], std::fs::read(rig.path(&format!("{NODE}.pem"))).unwrap());
    wait_link(&node, "True");
    rig.kill_broker();
    wait_link(&node, "False");
    rig.start_broker("");
    wait_link(&node, "True");
    assert_eq!(life(&node), before);
}

#[test]
fn an_older_broker_is_spoken_to_in_mqtt_3_1_1() {
    let Some(rig) = Rig::start() else { return };
    let node = Node::start_with(&rig.node_configuration("  protocol: '3.1.1'\n"));
    let status = rig.deliver(&rig.intent("web", ""));
    assert_eq!(status["ready"], true);
    assert!(wait_link(&node, "True").contains("MQTT 3.1.1"));
}

#[test]
fn two_clients_with_one_name_are_noticed_and_do_not_fight_for_ever() {
    let Some(rig) = Rig::start() else { return };
    let node = rig.node();
    rig.deliver(&rig.intent("web", ""));
    let before = life(&node);
    // Connects again and again by itself, as a second gateway from the same image would.
    let mut twin = rig.listen_as(NODE, NODE);
    let why = crate::support::wait_for("the twin to be noticed", || {
        link_is(&node, "False").filter(|why| why.contains("another client"))
    });
    // This mosquitto does not say who took the name; a broker that does is in the tests of the link.
    assert!(why.contains("client id"), "{why}");
    twin.kill().unwrap();
    twin.wait().unwrap();
    assert_eq!(life(&node), before);
}

#[test]
fn an_older_broker_that_takes_little_is_not_lost_to_what_it_refuses() {
    let Some(mut rig) = Rig::start() else { return };
    let configuration = rig.node_configuration("  protocol: '3.1.1'\n");
    rig.kill_broker();
    // It cannot say so in MQTT 3.1.1: it just closes the connection on the node's status.
    rig.start_broker("max_packet_size 900");
    let node = Node::start_with(&configuration);
    crate::support::wait_for("a size to be learnt", || {
        let events = node.ok(&["get", "events", "-A"]);
        events.contains("PublishRefused").then_some(())
    });
    wait_link(&node, "True");
    rig.wait_topic("pods/v1/acme/s/gw-test/online", "online", |o| o["online"] == true);
}
