//! Whose word a status is: what a broker forges, strips, moves or makes up, with and without the node's key.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use serde_json::Value;

use super::script::{Broker, Script, message};
use crate::controller::command::{Question, ask};
use crate::controller::known::Seen;
use crate::controller::session::{Session, Step};
use crate::mqtt::command::{Arguments, Verb};
use crate::mqtt::controller::SecretKey;
use crate::mqtt::kit::{self, Lab};
use crate::mqtt::protocol::Config;
use crate::mqtt::signature::Standing;

const POD: &str = "pods/v1/acme/s/gw-17/pod/default/web";

/// The key that the node signs with.
const OWN: u8 = 77;

fn node_key(n: u8) -> SecretKey {
    kit::secret(n)
}

/// A node that signs with a key or not at all, and has a pod that is ready.
fn node(signs: Option<u8>) -> Lab {
    let signer = signs.map(|n| node_key(n).signer());
    let mut lab = Lab::with(Config { signer, ..kit::config() });
    lab.connect();
    lab.send(&kit::intent("web", 1));
    lab.make_good("web");
    lab.settle();
    lab
}

/// A broker that has what such a node has said.
fn broker(signs: Option<u8>) -> Broker {
    let broker = Broker::new();
    for said in &node(signs).sent {
        broker.state().retained.insert(said.topic.clone(), said.payload.clone());
    }
    broker
}

/// Somebody changes what the node has said of its pod.
fn change(broker: &Broker, change: impl FnOnce(&mut Value)) {
    let said = broker.state().retained[POD].clone();
    let mut said: Value = serde_json::from_slice(&said).unwrap();
    change(&mut said);
    broker.state().retained.insert(POD.to_owned(), serde_json::to_vec(&said).unwrap().into());
}

async fn read(broker: &Broker, known: Option<u8>) -> Session<Script> {
    let mut session = broker.session(1);
    if let Some(n) = known {
        session.known.add(kit::NODE, node_key(n).public(), "line 1 of known-nodes");
    }
    session.connect().await.unwrap();
    session.listen(vec![kit::tree().all_status()]).await.unwrap();
    session.settle().await.unwrap();
    session
}

/// What the pod's newest status is worth, and whether any is taken for the node's word.
fn of_pod(session: &Session<Script>) -> (Option<Standing>, bool) {
    let (view, pod) = (&session.fleet.nodes[kit::NODE], kit::pod_key("web"));
    (view.standing(&pod), view.pods.contains_key(&pod))
}

#[tokio::test(start_paused = true)]
async fn a_status_is_worth_what_is_known_of_its_node() {
    // (the node signs with, it is known by) → what its status is worth, and whether it is taken.
    let rows = [
        (Some(OWN), Some(OWN), Standing::Verified, true),
        (Some(OWN), None, Standing::New, true),
        (None, None, Standing::Unsigned, true),
        (None, Some(OWN), Standing::Missing, false),
        (Some(OWN), Some(78), Standing::Changed, false),
    ];
    for (signs, known, standing, is_taken) in rows {
        let mut session = read(&broker(signs), known).await;
        assert_eq!(of_pod(&session), (Some(standing), is_taken), "{signs:?}, known: {known:?}");
        assert_eq!(session.complaints.is_empty(), is_taken, "{:?}", session.complaints);
        let view = &session.fleet.nodes[kit::NODE];
        assert_eq!(view.own_standing(), Some(standing));
        assert_eq!((view.is_online(), view.status.is_some()), (is_taken, is_taken));
        let learnt = session.known.take_learnt();
        assert_eq!(learnt.len(), usize::from(standing == Standing::New), "{learnt:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changes_strips_or_moves_is_not_believed_and_said() {
    let forged = broker(Some(OWN));
    change(&forged, |said| said["ready"] = false.into());
    let session = read(&forged, Some(OWN)).await;
    // Its fields have another order than the node wrote: no signature stands where one must.
    assert_eq!(of_pod(&session), (Some(Standing::Missing), false));
    let complaint = session.complaints.first().unwrap();
    assert!(
        complaint.starts_with("gw-17: ") && complaint.contains("line 1 of known-nodes"),
        "{complaint}"
    );
    // Its birth and its own status are as it said them.
    assert_eq!(session.fleet.nodes[kit::NODE].own_standing(), Some(Standing::Verified));

    let flipped = broker(Some(OWN));
    let said = String::from_utf8(flipped.state().retained[POD].to_vec()).unwrap();
    let said = said.replace("\"ready\":true", "\"ready\":false");
    flipped.state().retained.insert(POD.to_owned(), said.into());
    for known in [Some(OWN), None] {
        let session = read(&flipped, known).await;
        assert_eq!(
            of_pod(&session),
            (Some(Standing::Forged), false),
            "even of a node that nobody knows"
        );
    }

    let moved = broker(Some(OWN));
    let of_node = moved.state().retained["pods/v1/acme/s/gw-17/node"].clone();
    moved.state().retained.insert(POD.to_owned(), of_node);
    assert_eq!(of_pod(&read(&moved, Some(OWN)).await), (Some(Standing::Forged), false));

    let other_node = broker(Some(OWN));
    let retained = other_node.state().retained.clone();
    for (topic, payload) in retained {
        other_node.state().retained.insert(topic.replace("gw-17", "gw-18"), payload);
    }
    let session = read(&other_node, Some(OWN)).await;
    assert!(
        session.fleet.nodes["gw-18"].online.is_none()
            && session.fleet.nodes["gw-18"].pods.is_empty()
    );
    assert_eq!(of_pod(&session), (Some(Standing::Verified), true));
}

#[tokio::test(start_paused = true)]
async fn a_forgery_that_comes_later_does_not_replace_what_was_believed() {
    let broker = broker(Some(OWN));
    let mut session = read(&broker, Some(OWN)).await;
    let mut said: Value = serde_json::from_slice(&broker.state().retained[POD].clone()).unwrap();
    (said["ready"], said["seq"]) = (false.into(), 1_000_000.into());
    let forged = serde_json::to_vec(&said).unwrap();
    broker.later(Duration::from_secs(1), message(POD, &forged, false));
    let until = session.now().plus(Duration::from_secs(5));
    // That it came is news; what it says is not.
    let step = session.step(until).await.unwrap();
    assert!(matches!(step, Step::Said { .. }), "{step:?}");
    assert_eq!(of_pod(&session), (Some(Standing::Missing), true));
    let status = &session.fleet.nodes[kit::NODE].pods[&kit::pod_key("web")];
    assert!(status.ready && status.stamp.seq < 1_000_000);
}

#[tokio::test(start_paused = true)]
async fn an_older_word_of_the_node_is_no_news_however_well_it_is_signed() {
    let lab = node(Some(OWN));
    let broker = Broker::new();
    let words: Vec<_> = lab.sent.iter().filter(|said| said.topic == POD).collect();
    for said in &lab.sent {
        broker.state().retained.insert(said.topic.clone(), said.payload.clone());
    }
    let mut session = read(&broker, Some(OWN)).await;
    let newest = session.fleet.nodes[kit::NODE].pods[&kit::pod_key("web")].clone();
    assert!(words.len() > 1 && newest.ready);
    broker.later(Duration::from_secs(1), message(POD, &words[0].payload, false));
    let until = session.now().plus(Duration::from_secs(5));
    assert_eq!(session.step(until).await.unwrap(), Step::Nothing);
    assert_eq!(session.fleet.nodes[kit::NODE].pods[&kit::pod_key("web")], newest);
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_in_an_earlier_run_makes_what_is_older_old() {
    let mut lab = node(Some(OWN));
    let first = lab.broker.clone();
    lab.disconnect();
    lab.connect();
    lab.settle();
    let broker = Broker::new();
    broker.state().retained = lab.broker.clone();
    let mut session = read(&broker, Some(OWN)).await;
    assert!(session.fleet.nodes[kit::NODE].is_online());
    let heard = session.known.take_heard();
    let [(name, key, mark)] = &heard[..] else { panic!("{heard:?}") };
    let seq = lab.node_status().stamp.seq;
    assert_eq!((&**name, mark.conn, mark.seq), (kit::NODE, lab.conn(), seq));
    // The next run finds the broker as it was before.
    broker.state().retained = first;
    let again = async || {
        let mut session = broker.session(1);
        session.known.add(kit::NODE, *key, "line 1 of known-nodes");
        let (when, place) = ("then".to_owned(), "line 2 of known-nodes.seen".to_owned());
        session.known.add_seen(kit::NODE, *key, Seen { mark: *mark, when, place });
        session.connect().await.unwrap();
        session.listen(vec![kit::tree().all_status()]).await.unwrap();
        session.settle().await.unwrap();
        session
    };
    let mut session = again().await;
    let view = &session.fleet.nodes[kit::NODE];
    assert_eq!(view.own_standing(), Some(Standing::Old));
    assert!(!view.is_online() && view.status.is_none(), "it is shown as unknown");
    // Of the pod it is what was true before: the node is not there to say it again.
    assert_eq!(of_pod(&session), (Some(Standing::Verified), true));
    assert!(!view.is_current(&view.pods[&kit::pod_key("web")]));
    assert_eq!(session.complaints.len(), 1, "{:?}", session.complaints);
    assert_eq!(session.known.take_heard(), [], "and nothing falls");
    // The node comes back on a newer connection.
    lab.disconnect();
    lab.connect();
    lab.settle();
    broker.state().retained = lab.broker.clone();
    let session = again().await;
    let view = &session.fleet.nodes[kit::NODE];
    assert_eq!((view.own_standing(), view.is_online()), (Some(Standing::Verified), true));
    assert!(view.is_current(&view.pods[&kit::pod_key("web")]));
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_unsigned_is_given_up_once_the_node_is_known() {
    let broker = broker(None);
    let mut session = read(&broker, None).await;
    assert_eq!(of_pod(&session), (Some(Standing::Unsigned), true));
    let signed = node(Some(OWN));
    let birth = signed.broker["pods/v1/acme/s/gw-17/online"].clone();
    broker.later(Duration::from_secs(1), message("pods/v1/acme/s/gw-17/online", &birth, false));
    let until = session.now().plus(Duration::from_secs(5));
    session.step(until).await.unwrap();
    assert_eq!(of_pod(&session), (Some(Standing::Missing), false));
    assert_eq!(session.known.take_learnt().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_node_has_not_given_is_none() {
    let lab = node(Some(OWN));
    let retained = lab.broker.clone();
    let broker = Broker::with(lab);
    broker.state().retained = retained;
    let mut session = broker.session(1);
    session.known.add(kit::NODE, node_key(OWN).public(), "known-nodes");
    session.connect().await.unwrap();
    // Somebody answers first, and well formed: unsigned, and as another node that signs.
    let topic = "pods/v1/acme/s/gw-17/res/c1";
    let lie = br#"{"apiVersion":"podling.dev/v1","kind":"Reply","id":"c1","verb":"ping","piece":0,"more":false,"outcome":{"ok":false,"message":"a lie"}}"#;
    let other = node_key(78).signer().sign(kit::tree().below_root(topic), lie.to_vec());
    broker.on_publish(vec![message(topic, lie, false), message(topic, &other, false)]);
    let question = Question {
        node: kit::NODE.to_owned(),
        verb: Verb::Ping,
        arguments: Arguments::default(),
        id: "c1".to_owned(),
    };
    let key = kit::controller_key();
    let answer = ask(&mut session, &question, &[&key], Duration::from_secs(20)).await.unwrap();
    assert_eq!((answer.outcome.ok, answer.standing), (true, Standing::Verified), "{answer:?}");
    assert_eq!(session.complaints.len(), 2, "{:?}", session.complaints);
}
