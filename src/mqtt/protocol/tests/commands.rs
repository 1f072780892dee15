use bytes::Bytes;

use crate::mqtt::command::{Arguments, Command, Outcome, PIECE_BYTES_MAX, REPLY_BYTES_MAX, Verb};
use crate::mqtt::controller;
use crate::mqtt::kit::*;
use crate::mqtt::protocol::{COMMANDS_KEPT, Input};

fn on(name: &str) -> Arguments {
    let (namespace, name) = (Some("default".to_owned()), Some(name.to_owned()));
    Arguments { namespace, name, ..Arguments::default() }
}

fn send(lab: &mut Lab, command: &Command) {
    let message = controller::command(&tree(), command, &[&controller_key()]).unwrap();
    lab.publish(&message);
}

fn restart(lab: &mut Lab, id: &str) {
    let conn = lab.conn();
    send(lab, &command(Verb::Restart, id, conn, on("web")));
}

fn last_reason(lab: &Lab) -> Option<&'static str> {
    lab.replies().last().and_then(|r| r.outcome.as_ref()?.reason).map(|r| r.as_str())
}

#[test]
fn a_command_is_carried_out_once_however_often_it_comes() {
    let mut lab = Lab::online();
    restart(&mut lab, "c1");
    restart(&mut lab, "c1");
    assert_eq!((lab.commands.len(), lab.replies().len()), (1, 0), "it is being done");
    lab.input(Input::Answered { id: "c1".into(), outcome: Outcome::done() });
    assert_eq!(lab.replies().len(), 1);
    restart(&mut lab, "c1");
    let replies = lab.replies();
    assert_eq!((lab.commands.len(), replies.len()), (1, 2));
    assert!(replies[1].repeated && replies[1].outcome.as_ref().unwrap().ok);
}

#[test]
fn ping_and_resync_answer_at_once() {
    let mut lab = Lab::online();
    lab.send(&intent("web", 1));
    lab.seconds(10);
    let (conn, before) = (lab.conn(), lab.subscribed.len());
    send(&mut lab, &command(Verb::Ping, "p1", conn, Arguments::default()));
    assert!(lab.replies()[0].outcome.as_ref().unwrap().ok);
    lab.sent.clear();
    send(&mut lab, &command(Verb::Resync, "r1", conn, Arguments::default()));
    assert_eq!(lab.subscribed.len(), before + 1);
    assert!(lab.sent.iter().any(|p| p.topic.ends_with("/pod/default/web")));
}

#[test]
fn what_is_retained_old_foreign_or_unsigned_is_refused() {
    type Change = Box<dyn Fn(&mut Command)>;
    let rows: Vec<(&str, bool, Change)> = vec![
        ("Expired", true, Box::new(|_| {})),
        ("Expired", false, Box::new(|c| c.conn -= 1)),
        ("Expired", false, Box::new(|c| c.conn += 1)),
        ("Expired", false, Box::new(|c| c.expires_at = Some("2026-11-21T06:00:00Z".into()))),
        ("WrongTarget", false, Box::new(|c| c.node = "gw-18".into())),
        ("Invalid", false, Box::new(|c| c.arguments.name = None)),
        ("Invalid", false, Box::new(|c| c.arguments.tail_lines = Some(3))),
        (
            "NotSupported",
            false,
            Box::new(|c| {
                c.verb = Verb::Exec;
                c.arguments.command = vec!["rm".into()];
            }),
        ),
    ];
    for (reason, retained, change) in rows {
        let mut lab = Lab::online();
        for _ in 0..5 {
            // Five connections, so that one less is a number too.
            lab.disconnect();
            lab.connect();
        }
        lab.input(Input::Clock { synced: true });
        let mut command = command(Verb::Restart, "c1", lab.conn(), on("web"));
        change(&mut command);
        let payload = serde_json::to_vec(&command).unwrap();
        let key = controller_key();
        let envelope =
            controller::sign(crate::mqtt::envelope::PayloadType::Command, payload, &[&key]);
        let topic = lab.config.topics.command(command.verb.as_str(), "c1").unwrap();
        let payload = Bytes::from(envelope.to_json());
        lab.input(Input::Message { topic, payload, retained });
        assert_eq!((last_reason(&lab), lab.commands.len()), (Some(reason), 0), "{command:?}");
    }
}

#[test]
fn a_forged_command_does_nothing() {
    let mut lab = Lab::online();
    let command = command(Verb::Restart, "c1", lab.conn(), on("web"));
    for key in [secret(66), root_key()] {
        let message = controller::command(&tree(), &command, &[&key]).unwrap();
        lab.publish(&message);
    }
    assert_eq!(lab.commands, []);
    assert_eq!(last_reason(&lab), Some("NotAllowed"));
}

#[test]
fn an_answer_comes_in_pieces_and_has_an_end() {
    let mut lab = Lab::online();
    let conn = lab.conn();
    send(&mut lab, &command(Verb::Logs, "l1", conn, on("web")));
    let text = "überall Zeilen\n".repeat(5000);
    lab.input(Input::Answer { id: "l1".into(), content: text.clone().into() });
    lab.input(Input::Answer { id: "l1".into(), content: Bytes::from_static(&[0xff, 0xfe]) });
    lab.input(Input::Answered { id: "l1".into(), outcome: Outcome::done() });
    let replies = lab.replies();
    let joined: String = replies.iter().map(|r| r.text.as_str()).collect();
    assert_eq!(joined, text);
    assert!(replies.iter().all(|r| r.text.len() <= PIECE_BYTES_MAX));
    assert_eq!(replies[replies.len() - 2].base64, "//4=");
    let numbers: Vec<u64> = replies.iter().map(|r| r.piece).collect();
    assert_eq!(numbers, (0..u64::try_from(replies.len()).unwrap()).collect::<Vec<_>>());
    assert!(replies.iter().rev().skip(1).all(|r| r.more) && !replies.last().unwrap().more);
}

#[test]
fn an_answer_without_end_is_cut() {
    let mut lab = Lab::online();
    let conn = lab.conn();
    send(&mut lab, &command(Verb::Logs, "l1", conn, on("web")));
    for _ in 0..100 {
        let content = Bytes::from(vec![b'x'; 64 * 1024]);
        lab.input(Input::Answer { id: "l1".into(), content });
    }
    let replies = lab.replies();
    let bytes: usize = replies.iter().map(|r| r.text.len()).sum();
    assert_eq!(bytes, REPLY_BYTES_MAX);
    assert!(replies.last().unwrap().outcome.as_ref().unwrap().truncated);
    assert_eq!(lab.aborted, ["l1"]);
}

#[test]
fn no_packet_of_an_answer_is_larger_than_brokers_take() {
    for byte in [0_u8, b'"', 0x1b, b'x', 0xff] {
        let mut lab = Lab::online();
        let conn = lab.conn();
        send(&mut lab, &command(Verb::Logs, "l1", conn, on("web")));
        let content = Bytes::from(vec![byte; 100_000]);
        lab.input(Input::Answer { id: "l1".into(), content });
        let largest = lab.sent.iter().map(|p| p.payload.len()).max().unwrap();
        assert!(largest < 48 * 1024, "{largest} bytes for {byte}");
    }
}

#[test]
fn a_command_that_takes_too_long_is_given_up() {
    let mut lab = Lab::online();
    restart(&mut lab, "c1");
    lab.seconds(61);
    assert_eq!(
        (lab.aborted.as_slice(), last_reason(&lab)),
        (["c1".to_owned()].as_slice(), Some("Failed"))
    );
}

#[test]
fn only_so_many_run_at_a_time() {
    let mut lab = Lab::online();
    for n in 0..20 {
        restart(&mut lab, &format!("c{n}"));
    }
    assert_eq!((lab.commands.len(), last_reason(&lab)), (8, Some("Busy")));
}

#[test]
fn ids_that_are_forgotten_are_not_carried_out_again() {
    let mut lab = Lab::online();
    let at = |n: usize| {
        let ms = EPOCH_MS + i64::try_from(n).unwrap() * 1000;
        crate::mqtt::intent::time_text(ms)
    };
    let conn = lab.conn();
    for n in 0..COMMANDS_KEPT + 10 {
        let mut command = command(Verb::Restart, &format!("c{n}"), conn, on("web"));
        command.issued_at = at(n);
        send(&mut lab, &command);
        lab.input(Input::Answered { id: format!("c{n}"), outcome: Outcome::done() });
    }
    let done = lab.commands.len();
    assert_eq!(done, COMMANDS_KEPT + 10);
    let mut first = command(Verb::Restart, "c0", conn, on("web"));
    first.issued_at = at(0);
    send(&mut lab, &first);
    assert_eq!((lab.commands.len(), last_reason(&lab)), (done, Some("Expired")));
}

#[test]
fn a_lost_connection_ends_what_runs_for_it() {
    let mut lab = Lab::online();
    restart(&mut lab, "c1");
    lab.disconnect();
    assert_eq!(lab.aborted, ["c1"]);
    lab.connect();
    restart(&mut lab, "c1");
    assert_eq!(lab.commands.len(), 1, "what became of it is not known: it is not done again");
    assert!(lab.replies().last().unwrap().repeated);
}

#[test]
fn another_command_under_the_same_id_is_refused_and_gets_nobodys_outcome() {
    let mut lab = Lab::online();
    let conn = lab.conn();
    send(&mut lab, &command(Verb::Ping, "c1", conn, Arguments::default()));
    assert!(lab.replies()[0].outcome.as_ref().unwrap().ok);
    restart(&mut lab, "c1");
    assert_eq!((last_reason(&lab), lab.commands.len()), (Some("Invalid"), 0));
    let other = command(Verb::Restart, "c2", conn, on("other"));
    restart(&mut lab, "c2");
    send(&mut lab, &other);
    assert_eq!((last_reason(&lab), lab.commands.len()), (Some("Invalid"), 1));
}

#[test]
fn nothing_of_a_command_is_looked_at_before_its_signature_counts() {
    let mut lab = Lab::online();
    let topic = lab.config.topics.command("ping", "c1").unwrap();
    for keys in [vec![], vec![secret(77)]] {
        let keys: Vec<_> = keys.iter().collect();
        let envelope = controller::sign(
            crate::mqtt::envelope::PayloadType::Command,
            b"{\"kind\": \"rubbish".to_vec(),
            &keys,
        );
        let payload = Bytes::from(envelope.to_json());
        lab.input(Input::Message { topic: topic.clone(), payload, retained: false });
        let expected = if keys.is_empty() { "NotSigned" } else { "UntrustedKey" };
        assert_eq!(last_reason(&lab), Some(expected));
    }
}
