//! A broker, or whoever gets past its access list, that means harm; and a controller that may do less than another.

use bytes::Bytes;

use crate::mqtt::command::{Arguments, Outcome, Verb};
use crate::mqtt::controller;
use crate::mqtt::kit::*;
use crate::mqtt::protocol::{COMMANDS_KEPT, Input, MARKS_MAX, Output, RecordName};
use crate::mqtt::trust::{Mode, Revoked, RunningPods, Trust};

fn rubbish(name: &str) -> Input {
    let topic = format!("pods/v1/acme/n/{NODE}/pod/default/{name}");
    Input::Message { topic, payload: Bytes::from_static(b"rubbish"), retained: false }
}

/// What a step wants written.
fn persists(outputs: &[Output]) -> Vec<(crate::mqtt::protocol::Ticket, RecordName)> {
    let record = |output: &Output| {
        let Output::Persist { ticket, record, .. } = output else { return None };
        Some((*ticket, record.clone()))
    };
    outputs.iter().filter_map(record).collect()
}

fn connects(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Connect { .. }))
}

#[test]
fn a_write_that_was_under_way_does_not_stand_for_a_connections_number() {
    let mut lab = Lab::online();
    // Somebody announces a connection far above what is reserved.
    let text = format!(
        "{{\"apiVersion\":\"podling.dev/v1\",\"kind\":\"Online\",\"online\":true,\"conn\":{},\"boot\":\"x\",\
         \"protocol\":1,\"version\":\"0.1.0\"}}",
        10_000_000
    );
    let topic = lab.config.topics.online();
    lab.input(Input::Message { topic, payload: text.into_bytes().into(), retained: true });
    assert_eq!(lab.disconnects, 1);
    // The node's record is being written for another reason when the next connection is due.
    let index = index(1, &[]);
    let (topic, payload) = (index.topic, Bytes::from(index.payload));
    let now = lab.now;
    let mut step = |input: Input| lab.protocol.step(now, input);
    let written = persists(&step(Input::Message { topic, payload, retained: true }));
    let [(earlier, RecordName::Node)] = &written[..] else { panic!("{written:?}") };
    step(Input::Disconnected { why: "cut".into(), taken_over: false });
    assert!(!connects(&step(Input::Dial)), "its number is not on disk yet");
    let outputs = step(Input::Persisted { ticket: *earlier, result: Ok(()) });
    assert!(!connects(&outputs), "that write knew nothing of the number");
    let written = persists(&outputs);
    let [(ticket, RecordName::Node)] = &written[..] else { panic!("{written:?}") };
    assert!(connects(&step(Input::Persisted { ticket: *ticket, result: Ok(()) })));
}

#[test]
fn a_trust_document_that_is_on_its_way_to_the_disk_is_not_overtaken_by_an_older_one() {
    let (root, controller) = (root_key(), controller_key());
    let keys = [(&controller, "intent"), (&root, "root")];
    let newer = trust_document(5, 1, &keys, vec![], &[&root]);
    let other = trust_document(5, 1, &[(&root, "root")], vec![], &[&root]);
    let mut lab = Lab::online();
    let now = lab.now;
    let message = |message: &controller::Message| {
        let (topic, payload) = (message.topic.clone(), Bytes::from(message.payload.clone()));
        Input::Message { topic, payload, retained: true }
    };
    let written = persists(&lab.protocol.step(now, message(&newer)));
    let [(ticket, RecordName::Trust)] = &written[..] else { panic!("{written:?}") };
    for late in [newer, trust_document(4, 1, &keys, vec![], &[&root]), other] {
        let outputs = lab.protocol.step(now, message(&late));
        assert_eq!(persists(&outputs), []);
    }
    let outputs = lab.protocol.step(now, Input::Persisted { ticket: *ticket, result: Ok(()) });
    assert!(persists(&outputs).iter().all(|(_, record)| *record != RecordName::Trust));
    lab.perform(outputs);
    lab.settle();
    assert_eq!(lab.node_status().trust.version, 5);
}

#[test]
fn what_a_root_has_stopped_stays_so_when_the_anchor_cannot_be_read() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    let (root, next) = (root_key(), secret(2));
    let keyid = controller_key().id();
    let revoked = vec![Revoked { keyid, pods: RunningPods::Stop, reason: "stolen".into() }];
    let document = trust_document(1, 1, &[(&next, "intent"), (&root, "root")], revoked, &[&root]);
    lab.publish(&document);
    lab.publish(&controller::intent(&tree(), &intent("good", 1), &[&next]).unwrap());
    assert_eq!((lab.runs("web"), lab.runs("good")), (None, Some(1)));
    lab.config.trust = Trust::closed();
    lab.restart();
    assert_eq!((lab.runs("web"), lab.runs("good")), (None, Some(1)));
    assert_eq!(lab.config.trust.mode(), Mode::Require, "nothing unsigned would be taken");
}

#[test]
fn a_flood_of_names_before_the_subscription_is_answered_costs_no_memory() {
    let mut lab = Lab::new();
    // Again and again it connects, floods, and never answers; slowly enough that each name is remembered for a while.
    for round in 0..2 * MARKS_MAX / 50 {
        lab.input(Input::Disconnected { why: "cut".into(), taken_over: false });
        lab.now = lab.now.plus(std::time::Duration::from_secs(60));
        lab.input(Input::Dial);
        lab.input(Input::Connected);
        for n in 0..50 {
            lab.input(rubbish(&format!("p{round}-{n}")));
        }
    }
    let filters = lab.subscribed.last().unwrap().clone();
    lab.sent.clear();
    let results = filters.into_iter().map(|filter| (filter, Ok(()))).collect();
    lab.input(Input::Subscribed { results });
    let cleared = lab.sent.iter().filter(|publish| publish.payload.is_empty()).count();
    assert!((1..=MARKS_MAX).contains(&cleared), "{cleared} topics were waiting to be cleared");
}

#[test]
fn a_flood_of_refusals_is_told_in_moderation() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    lab.settle();
    let (said, told) = (lab.sent.len(), lab.events.len());
    for n in 0..1000 {
        lab.input(rubbish(&format!("p{n}")));
        let topic = format!("pods/v1/acme/n/{NODE}/pod/default/web");
        let payload = Bytes::from(format!("rubbish {n}"));
        lab.input(Input::Message { topic, payload, retained: false });
        let topic = format!("pods/v1/acme/n/{NODE}/cmd/ping/c{n}");
        lab.input(Input::Message { topic, payload: Bytes::from_static(b"x"), retained: false });
        let topic = format!("pods/v1/acme/n/{NODE}/desired");
        let payload = Bytes::from(format!("rubbish {n}"));
        lab.input(Input::Message { topic, payload, retained: false });
    }
    let (topics, events) = (lab.sent[said..].iter().map(|p| &p.topic), &lab.events[told..]);
    let pods = topics.filter(|topic| topic.contains("/pod/")).count();
    assert!(pods < 200, "{pods} statuses of names that nobody knows");
    assert!((1..100).contains(&events.len()), "{} events", events.len());
    assert_eq!(lab.happened("RefusalsOmitted"), 1);
    // The pod that is known says what was refused last all the same.
    lab.settle();
    assert_eq!(lab.verdict("web"), (Some(1), Some("Malformed")));
    // A minute later a mistake is told again.
    lab.seconds(61);
    let before = lab.events.len();
    lab.input(rubbish("mine"));
    assert_eq!(lab.verdict("mine"), (None, Some("Malformed")));
    assert_eq!(lab.events.len(), before + 1);
}

#[test]
fn a_commander_that_lies_about_the_time_shuts_out_only_itself() {
    let (mine, other) = (controller_key(), secret(3));
    let keys = key_yaml(&mine, "intent, command") + &key_yaml(&other, "command");
    let mut config = config();
    config.trust = Trust::new(Mode::Require, &[anchor(&keys, 1)]).unwrap();
    let mut lab = Lab::with(config);
    lab.connect();
    let restart = |lab: &mut Lab, key: &controller::SecretKey, id: &str, at: &str| {
        let pod = Arguments {
            namespace: Some("default".into()),
            name: Some("web".into()),
            ..Arguments::default()
        };
        let mut command = command(Verb::Restart, id, lab.conn(), pod);
        command.issued_at = at.to_owned();
        command.expires_at = None;
        let message = controller::command(&tree(), &command, &[key]).unwrap();
        lab.publish(&message);
        lab.input(Input::Answered { id: id.to_owned(), outcome: Outcome::done() });
    };
    for n in 0..=COMMANDS_KEPT {
        restart(&mut lab, &other, &format!("lie-{n}"), "2999-01-01T00:00:00Z");
    }
    let before = lab.commands.len();
    restart(&mut lab, &mine, "honest", "2026-11-21T07:00:00Z");
    assert_eq!(lab.commands.len(), before + 1, "its own commands are forgotten by its own time");
    restart(&mut lab, &other, "late", "2998-01-01T00:00:00Z");
    assert_eq!(lab.commands.len(), before + 1);
    // What is for another connection is refused for that, so that the past need not be remembered.
    lab.disconnect();
    lab.connect();
    restart(&mut lab, &other, "late", "2998-01-01T00:00:00Z");
    assert_eq!(lab.commands.len(), before + 2);
}

#[test]
fn a_signer_whose_clock_is_decades_ahead_does_not_make_right_clocks_look_wrong() {
    let mut lab = Lab::online();
    let time = |lab: &mut Lab| {
        lab.settle();
        lab.node_status().stamp.time.is_some()
    };
    assert!(time(&mut lab));
    let issued_at = "2999-01-01T00:00:00Z".to_owned();
    lab.send(&crate::mqtt::intent::PodIntent { issued_at, ..intent("web", 1) });
    assert_eq!(lab.verdict("web"), (Some(1), None));
    assert!(time(&mut lab), "a status without a time is of less use");
    lab.restart();
    lab.connect();
    assert!(time(&mut lab), "nor for ever");
}
