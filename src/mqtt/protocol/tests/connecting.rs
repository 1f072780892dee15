use std::time::Duration;

use crate::mqtt::kit::*;
use crate::mqtt::protocol::{Input, Output, RecordName};

fn online_message(lab: &Lab, online: bool, conn: u64, boot: &str) -> Input {
    let text = format!(
        "{{\"apiVersion\":\"podling.dev/v1\",\"kind\":\"Online\",\"online\":{online},\"conn\":{conn},\"boot\":\"{boot}\",\
         \"protocol\":1,\"version\":\"0.1.0\"}}"
    );
    let topic = lab.config.topics.online();
    Input::Message { topic, payload: text.into_bytes().into(), retained: true }
}

#[test]
fn a_connection_is_counted_before_it_is_made() {
    let mut lab = Lab::new();
    lab.input(Input::Dial);
    let (conn, will) = lab.will.clone().unwrap();
    assert_eq!(conn, 1);
    assert!(lab.disk.contains_key(&RecordName::Node), "a number that is used is on disk");
    assert!(will.retain && will.payload.ends_with(b"\"version\":\"0.1.0\"}"));
    let written = lab.writes.len();
    for n in 2..100 {
        lab.input(Input::Disconnected { why: "cut".into(), taken_over: false });
        lab.input(Input::Dial);
        assert_eq!(lab.conn(), n);
    }
    assert_eq!(lab.writes.len(), written, "a reconnection costs no flash");
    lab.restart();
    lab.input(Input::Dial);
    assert!(lab.conn() > 99, "after a power cut the count goes on");
}

#[test]
fn a_broken_disk_keeps_no_node_offline() {
    let mut lab = Lab::new();
    lab.disk_error = Some("read-only file system".into());
    lab.connect();
    assert!(lab.online_message().online);
    assert_eq!(lab.node_condition("Durable").unwrap().status, "False");
}

#[test]
fn the_birth_comes_after_the_subscription_and_then_everything_is_said() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    lab.send(&intent("db", 1));
    lab.settle();
    for _ in 0..3 {
        lab.disconnect();
        lab.sent.clear();
        lab.connect();
        let topics: Vec<&str> = lab.sent.iter().map(|p| p.topic.as_str()).collect();
        assert_eq!(topics[0], "pods/v1/acme/s/gw-17/online");
        for subject in ["node", "pod/default/web", "pod/default/db"] {
            let topic = format!("pods/v1/acme/s/gw-17/{subject}");
            assert!(topics.contains(&topic.as_str()), "{subject} is not said: {topics:?}");
        }
    }
}

#[test]
fn it_subscribes_to_its_own_and_its_groups_and_no_more_than_brokers_allow() {
    let lab = Lab::online();
    assert_eq!(
        lab.subscribed[0],
        [
            "pods/v1/acme/trust",
            "pods/v1/acme/n/gw-17/#",
            "pods/v1/acme/s/gw-17/online",
            "pods/v1/acme/g/line-a/#",
            "pods/v1/acme/g/all/#"
        ]
    );
    const { assert!(3 + crate::mqtt::topic::GROUPS_MAX <= 10) };
}

#[test]
fn a_refused_subscription_is_shown_and_tried_again() {
    let mut lab = Lab::new();
    lab.input(Input::Dial);
    lab.input(Input::Connected);
    let refuse = |filter: &String| (filter.clone(), Err("NotAuthorized".to_owned()));
    let results = lab.subscribed[0].iter().map(refuse).collect();
    lab.input(Input::Subscribed { results });
    let condition = lab.node_condition("Subscribed").unwrap();
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "Refused"));
    assert!(condition.message.contains("n/gw-17/#: NotAuthorized"));
    let before = lab.subscribed.len();
    lab.seconds(301);
    lab.grant(before);
    lab.settle();
    assert_eq!(lab.node_condition("Subscribed").unwrap().status, "True");
}

#[test]
fn a_broker_that_does_not_answer_is_left() {
    let mut lab = Lab::new();
    lab.input(Input::Dial);
    lab.input(Input::Connected);
    lab.seconds(31);
    assert_eq!(lab.disconnects, 1);
}

#[test]
fn an_old_will_is_answered_with_the_birth() {
    let mut lab = Lab::online();
    let births = |lab: &Lab| lab.sent.iter().filter(|p| p.topic.ends_with("/online")).count();
    let before = births(&lab);
    let conn = lab.conn();
    lab.input(online_message(&lab, true, conn, "boot-1"));
    assert_eq!(births(&lab), before, "its own birth comes back, and is none");
    lab.input(online_message(&lab, false, conn - 1, "boot-0"));
    assert_eq!(births(&lab), before + 1);
    // Somebody who does it again and again is another client.
    for _ in 0..50 {
        lab.input(online_message(&lab, false, conn - 1, "boot-0"));
    }
    let last = births(&lab);
    assert!(last <= before + 8);
    lab.settle();
    assert_eq!(lab.node_condition("Unique").unwrap().reason, "DuplicateIdentity");
    // Who spoke last does not win for ever.
    lab.seconds(300);
    assert_eq!(births(&lab), last + 1);
    assert_eq!(lab.node_condition("Unique"), None);
}

#[test]
fn a_link_that_breaks_often_makes_no_other_client() {
    let mut lab = Lab::online();
    for n in 0..40 {
        let before = lab.conn();
        lab.input(Input::Disconnected { why: "cut".into(), taken_over: false });
        lab.connect();
        lab.sent.clear();
        // The birth before, if the break was short; else the will.
        lab.input(online_message(&lab, n % 2 == 0, before, "boot-1"));
        let birth = lab.online_message();
        assert!(birth.online && birth.conn == lab.conn(), "it is answered: {birth:?}");
    }
    assert_eq!(lab.happened("StaleWill"), 0);
    assert_eq!(lab.node_condition("Unique"), None);
    // Of one connection, only the first is taken for a leftover.
    let conn = lab.conn();
    for _ in 0..20 {
        lab.input(online_message(&lab, false, conn - 1, "boot-1"));
    }
    lab.settle();
    assert_eq!(lab.node_condition("Unique").unwrap().reason, "DuplicateIdentity");
}

#[test]
fn a_node_that_lost_its_disk_goes_on_above_its_old_number() {
    let mut lab = Lab::online();
    lab.input(online_message(&lab, false, 70_000, "boot-0"));
    assert_eq!(lab.disconnects, 1, "the will must have the higher number too");
    lab.input(Input::Disconnected { why: "on purpose".into(), taken_over: false });
    lab.connect();
    assert_eq!(lab.conn(), 70_001);
    assert_eq!(lab.online_message().conn, 70_001);
    lab.restart();
    lab.input(Input::Dial);
    assert!(lab.conn() > 70_001);
}

#[test]
fn a_number_that_is_rubbish_is_not_followed() {
    let mut lab = Lab::online();
    lab.input(online_message(&lab, false, u64::MAX, "boot-0"));
    assert_eq!((lab.disconnects, lab.conn()), (0, 1));
    assert_eq!(lab.online_message().conn, 1);
}

#[test]
fn goodbye_is_said_once_and_nothing_after_it() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    lab.input(Input::Stop);
    assert!(!lab.online_message().online);
    assert_eq!(lab.disconnects, 1);
    lab.sent.clear();
    lab.connected = false;
    lab.report("web", ready());
    lab.seconds(3600);
    lab.input(Input::Dial);
    assert_eq!(lab.sent, []);
}

#[test]
fn news_of_one_subject_are_a_second_apart() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    lab.settle();
    lab.sent.clear();
    for n in 0..100 {
        lab.report("web", crashed(n % 5));
        lab.advance(Duration::from_millis(50));
    }
    let of_pod = lab.sent.iter().filter(|p| p.topic.ends_with("/web")).count();
    assert!((4..=7).contains(&of_pod), "{of_pod} in five seconds");
    lab.settle();
    assert_eq!(lab.status("web").containers[0].restarts, 4, "the last value wins");
}

#[test]
fn an_idle_node_says_only_that_it_lives() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    lab.make_good("web");
    lab.seconds(60);
    let writes = lab.writes.len();
    lab.sent.clear();
    lab.seconds(4 * 3600);
    let node = lab.config.topics.node_status();
    assert!(lab.sent.iter().all(|p| p.topic == node), "{:?}", lab.sent);
    assert_eq!(lab.sent.len(), 16, "one each quarter of an hour");
    assert_eq!(lab.writes.len(), writes, "nothing is written");
}

#[test]
fn a_lost_message_is_asked_for_again() {
    let mut lab = Lab::online();
    lab.connected = false;
    lab.send(&intent("web", 1));
    lab.seconds(10);
    let before = lab.subscribed.len();
    lab.input(Input::Missed);
    lab.input(Input::Missed);
    assert_eq!(lab.subscribed.len(), before + 1, "not for each");
    lab.grant(before);
    assert_eq!(lab.runs("web"), Some(1));
}

#[test]
fn a_queue_that_is_always_too_small_does_not_become_the_traffic() {
    let mut lab = Lab::online();
    let before = lab.subscribed.len();
    for _ in 0..3600 {
        lab.input(Input::Missed);
        lab.seconds(1);
    }
    let asked = lab.subscribed.len() - before;
    assert!((10..=20).contains(&asked), "{asked} times in an hour");
    // After a quiet time a loss is mended as quickly as ever.
    lab.seconds(700);
    let before = lab.subscribed.len();
    lab.input(Input::Missed);
    lab.seconds(5);
    lab.input(Input::Missed);
    lab.seconds(5);
    assert_eq!(lab.subscribed.len(), before + 2);
}

#[test]
fn a_time_that_nobody_signed_moves_no_clock() {
    let far = |intent| crate::mqtt::intent::PodIntent {
        issued_at: "2036-01-01T00:00:00Z".into(),
        ..intent
    };
    for (mode, shown) in
        [(crate::mqtt::trust::Mode::Warn, true), (crate::mqtt::trust::Mode::Require, false)]
    {
        let mut config = config();
        config.trust = trust(mode);
        let mut lab = Lab::with(config);
        lab.connect();
        let key = if shown { secret(70) } else { controller_key() };
        let intent = far(intent("web", 1));
        lab.publish(&crate::mqtt::controller::intent(&tree(), &intent, &[&key]).unwrap());
        lab.settle();
        assert_eq!(lab.status("web").stamp.time.is_some(), shown, "{mode:?}");
    }
}

#[test]
fn a_clock_that_cannot_be_right_is_not_shown() {
    let mut lab = Lab::new();
    lab.now = crate::clock::Timestamp::new(lab.now.mono(), 0);
    lab.connect();
    let stamp = lab.node_status().stamp;
    assert_eq!((stamp.time, stamp.time_synced), (None, false));
    lab.now = crate::clock::Timestamp::new(lab.now.mono(), EPOCH_MS);
    lab.input(Input::Clock { synced: true });
    lab.now = crate::clock::Timestamp::new(lab.now.mono() + Duration::from_secs(2), EPOCH_MS);
    lab.input(Input::Tick);
    let stamp = lab.node_status().stamp;
    assert_eq!(stamp.time.as_deref(), Some("2026-11-21T07:00:00Z"));
    assert!(stamp.time_synced);
}

#[test]
fn a_jump_of_the_wall_clock_moves_no_deadline() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    lab.report("web", running());
    let jumped = EPOCH_MS + 20 * 365 * 24 * 3_600_000;
    lab.now = crate::clock::Timestamp::new(lab.now.mono(), jumped);
    lab.input(Input::Tick);
    assert_eq!(lab.stage("web"), Some(crate::mqtt::status::Stage::Probing));
    lab.now = crate::clock::Timestamp::new(lab.now.mono(), -jumped);
    lab.seconds(290);
    assert_eq!(lab.stage("web"), Some(crate::mqtt::status::Stage::Probing));
    lab.seconds(10);
    assert_eq!(lab.stage("web"), Some(crate::mqtt::status::Stage::Failed));
}

#[test]
fn another_client_that_has_gone_is_forgotten() {
    let mut lab = Lab::online();
    lab.connected = false;
    lab.input(Input::Disconnected { why: "taken over".into(), taken_over: true });
    lab.connect();
    lab.settle();
    assert_eq!(lab.node_condition("Unique").unwrap().reason, "DuplicateIdentity");
    lab.seconds(200);
    lab.connected = false;
    lab.input(Input::Disconnected { why: "taken over".into(), taken_over: true });
    lab.connect();
    lab.seconds(200);
    assert!(lab.node_condition("Unique").is_some(), "five minutes after the last time");
    lab.seconds(101);
    assert_eq!(lab.node_condition("Unique"), None);
    assert_eq!(lab.happened("DuplicateIdentity"), 1);
}

#[test]
fn what_the_broker_did_not_take_is_said_again_until_it_does() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    lab.settle();
    let topic = lab.config.topics.pod_status(&pod_key("web")).unwrap();
    // Readers have what was true before; on this connection nothing changes any more.
    let refuse = |lab: &mut Lab| {
        lab.broker.remove(&topic);
        let why = "quota exceeded".to_owned();
        lab.input(Input::PublishRefused { topic: topic.clone(), why });
    };
    refuse(&mut lab);
    lab.settle();
    assert!(lab.node_condition("Published").unwrap().message.contains("quota exceeded"));
    lab.seconds(300);
    assert!(lab.broker.contains_key(&topic), "said again");
    refuse(&mut lab);
    lab.seconds(300);
    assert!(!lab.broker.contains_key(&topic), "less and less often");
    lab.seconds(300);
    assert!(lab.broker.contains_key(&topic));
    assert!(lab.node_condition("Published").is_some());
    lab.seconds(1200);
    assert_eq!(lab.node_condition("Published"), None, "all was taken for a while");
    assert_eq!(lab.happened("PublishRefused"), 1);
    // The birth is said again as well.
    let birth = lab.config.topics.online();
    lab.broker.remove(&birth);
    lab.input(Input::PublishRefused { topic: birth.clone(), why: "no".into() });
    lab.seconds(301);
    assert!(lab.online_message().online);
}

#[test]
fn a_connection_that_nobody_expects_is_left_and_not_kept_in_silence() {
    // The end of an earlier connection is told late, when the next one has been asked for.
    let mut lab = Lab::online();
    lab.disconnect();
    lab.input(Input::Dial);
    lab.input(Input::Disconnected { why: "late".into(), taken_over: false });
    lab.connected = true;
    lab.sent.clear();
    lab.input(Input::Connected);
    assert_eq!((lab.disconnects, lab.happened("OutOfStep")), (1, 1));
    assert_eq!(lab.sent, []);
    lab.disconnect();
    lab.connect();
    assert_eq!(lab.online_message().conn, lab.conn());
}

#[test]
fn an_attempt_that_neither_comes_about_nor_fails_is_given_up() {
    let mut lab = Lab::new();
    lab.input(Input::Dial);
    lab.seconds(299);
    assert_eq!(lab.disconnects, 0);
    lab.seconds(1);
    assert_eq!((lab.disconnects, lab.happened("ConnectTimeout")), (1, 1));
    lab.disconnect();
    lab.connect();
    assert!(lab.online_message().online);
}

#[test]
fn a_disk_that_hangs_keeps_no_node_offline() {
    let lab = Lab::new();
    let (mut protocol, mut now) = (lab.protocol, lab.now);
    let connects = |outputs: &[Output]| outputs.iter().any(|o| matches!(o, Output::Connect { .. }));
    assert!(!connects(&protocol.step(now, Input::Dial)));
    let mut connected_after = None;
    for second in 1..=120 {
        now = now.plus(Duration::from_secs(1));
        if connects(&protocol.step(now, Input::Tick)) {
            connected_after = Some(second);
            break;
        }
    }
    assert_eq!(connected_after, Some(60));
}

#[test]
fn who_stops_before_the_broker_has_answered_says_goodbye_too() {
    let mut lab = Lab::online();
    lab.disconnect();
    lab.input(Input::Dial);
    lab.input(Input::Connected);
    assert!(lab.online_message().online, "that of the connection before");
    lab.input(Input::Stop);
    assert!(!lab.online_message().online);
}

#[test]
fn a_signer_whose_clock_runs_ahead_does_not_take_the_nodes_time_from_it() {
    let mut lab = Lab::online();
    let ahead = crate::mqtt::intent::PodIntent {
        issued_at: "2036-01-01T00:00:00Z".into(),
        ..intent("web", 1)
    };
    lab.send(&ahead);
    lab.settle();
    assert_eq!(lab.node_status().stamp.time, None, "who knows?");
    lab.input(Input::Clock { synced: true });
    lab.settle();
    assert!(lab.node_status().stamp.time.unwrap().starts_with("2026-11-21T07:00"));
}

#[test]
fn the_nodes_status_is_put_together_once_a_second_whatever_its_pods_do() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    lab.make_good("web");
    lab.send(&intent("db", 1));
    lab.make_good("db");
    lab.seconds(60);
    // Nothing of it is news for the node's status; the pod's own is said all the same.
    for restarts in 1..=3 {
        let report = crate::mqtt::protocol::PodReport { ready: true, ..crashed(restarts) };
        lab.report("web", report);
        lab.seconds(2);
        assert_eq!(lab.status("web").containers[0].restarts, restarts);
    }
    // The second time within a second it waits.
    let (now, mut waits) = (lab.now, vec![]);
    for name in ["web", "db"] {
        let instance = lab.runs[&pod_key(name)].0;
        let report = crate::mqtt::protocol::PodReport { ready: true, ..crashed(5) };
        let outputs = lab.protocol.step(now, Input::Pod { instance, report });
        let a_second = |at: &crate::clock::Timestamp| at.since(now) == Duration::from_secs(1);
        let waiting = |o: &Output| matches!(o, Output::WakeAt(Some(at)) if a_second(at));
        waits.push(outputs.iter().any(waiting));
        lab.perform(outputs);
    }
    assert_eq!(waits, [false, true]);
    let node = lab.config.topics.node_status();
    assert!(lab.sent.iter().rev().take(5).all(|said| said.topic != node));
    // What is news comes a second later at most.
    lab.report("web", running());
    lab.seconds(1);
    assert_eq!(lab.node_status().pods.ready, 1);
}
