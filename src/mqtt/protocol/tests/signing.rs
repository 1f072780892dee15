//! What a node with a key says is signed, all of it; and what a broker makes of its birth is put right.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::mqtt::command::{Arguments, Verb};
use crate::mqtt::controller::{self, Fleet, SecretKey};
use crate::mqtt::kit::*;
use crate::mqtt::protocol::{Config, Input, Output, Publish};
use crate::mqtt::signature::Proof;

fn node_key() -> SecretKey {
    secret(77)
}

fn online() -> Lab {
    let mut lab = Lab::with(Config { signer: Some(node_key().signer()), ..config() });
    lab.connect();
    lab
}

fn proof(said: &Publish) -> Proof {
    Proof::of(tree().below_root(&said.topic), &said.payload)
}

#[test]
fn everything_that_a_node_says_is_signed_and_reads_as_ever() {
    let mut lab = online();
    lab.send(&intent("web", 1));
    lab.make_good("web");
    let ask = command(Verb::Ping, "c1", lab.conn(), Arguments::default());
    lab.publish(&controller::command(&tree(), &ask, &[&controller_key()]).unwrap());
    lab.settle();
    let will = lab.will.clone().unwrap().1;
    lab.input(Input::Stop);
    let mut fleet = Fleet::default();
    let mut topics = BTreeSet::new();
    for said in lab.sent.iter().chain([&will]) {
        assert_eq!(proof(said), Proof::Signed(node_key().public()), "{}", said.topic);
        topics.insert(said.topic.clone());
        // A reader of an earlier podling.
        let read = controller::read(&tree(), &said.topic, &said.payload);
        let (node, read) = read.unwrap_or_else(|| panic!("unreadable: {}", said.topic));
        fleet.take(&node, read);
    }
    for part in ["/online", "/node", "/pod/default/web", "/res/c1"] {
        assert!(topics.iter().any(|topic| topic.ends_with(part)), "{part}: {topics:?}");
    }
    let view = &fleet.nodes[NODE];
    assert!(view.pods[&pod_key("web")].ready && !view.is_online());
    let announced = view.status.as_ref().unwrap().capabilities.status_key.clone();
    assert_eq!(announced, Some(node_key().public_text()));
    // A word that is withdrawn is an empty message: it is no word, and nobody's.
    assert!(lab.sent.iter().all(|said| !said.payload.is_empty()));
}

#[test]
fn a_step_signs_nothing_but_the_will_however_much_it_says() {
    let mut lab = online();
    for n in 0..40 {
        lab.send(&intent(&format!("p{n}"), 1));
    }
    lab.settle();
    lab.disconnect();
    // By hand, as the shell would: what comes out of each step.
    let (now, filters) = (lab.now, lab.config.topics.filters(&lab.config.groups));
    let mut drafts = 0;
    let results = filters.into_iter().map(|filter| (filter, Ok(()))).collect();
    for input in [Input::Dial, Input::Connected, Input::Subscribed { results }] {
        for output in lab.protocol.step(now, input) {
            if let Output::Connect { will, .. } = &output {
                assert_eq!(proof(will), Proof::Signed(node_key().public()));
            }
            if let Output::Publish(draft) = output {
                assert!(!draft.is_ready(), "{}", draft.topic());
                assert_eq!(proof(&draft.signed()), Proof::Signed(node_key().public()));
                drafts += 1;
            }
        }
    }
    assert_eq!(drafts, 42, "birth, node, each pod");
}

#[test]
fn a_node_without_a_key_says_what_it_always_said() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    lab.make_good("web");
    assert!(lab.sent.iter().all(|said| proof(said) == Proof::Unsigned));
    assert_eq!(lab.node_status().capabilities.status_key, None);
}

#[test]
fn a_signature_makes_no_status_news() {
    let mut lab = online();
    lab.send(&intent("web", 1));
    lab.make_good("web");
    lab.settle();
    let before = lab.sent.len();
    // But for the heartbeat nothing is said on an idle node, and nothing is written.
    let writes = lab.writes.len();
    lab.advance(Duration::from_secs(14 * 60));
    assert_eq!((lab.sent.len(), lab.writes.len()), (before, writes));
}

#[test]
fn a_birth_that_has_lost_its_signature_is_said_again() {
    let mut lab = online();
    let topic = lab.config.topics.online();
    let births = |lab: &Lab| lab.sent.iter().filter(|said| said.topic == topic).count();
    let birth = lab.sent.iter().find(|said| said.topic == topic).unwrap().payload.clone();
    let heard = |payload: Vec<u8>| Input::Message {
        topic: topic.clone(),
        payload: payload.into(),
        retained: true,
    };
    let before = births(&lab);
    lab.input(heard(birth.to_vec()));
    assert_eq!(births(&lab), before, "its own is as it should be");
    let mut stripped: serde_json::Value = serde_json::from_slice(&birth).unwrap();
    stripped.as_object_mut().unwrap().remove("signature");
    let stripped = serde_json::to_vec(&stripped).unwrap();
    lab.input(heard(stripped.clone()));
    assert_eq!(births(&lab), before + 1, "readers who know the key would not take that");
    for _ in 0..100 {
        lab.input(heard(stripped.clone()));
    }
    assert!(births(&lab) <= before + 8, "and nobody makes it say so for ever");
}
