//! Commands: once, on the right connection, whole, or an error that says what is known.

use std::time::Duration;

use super::script::{Act, Broker, message};
use crate::controller::command::{Answer, AskError, Question, ask};
use crate::controller::session::Session;
use crate::mqtt::cause::Reason;
use crate::mqtt::command::{Arguments, Outcome, REPLY_BYTES_MAX, Reply, Task, Verb};
use crate::mqtt::envelope::{Envelope, PayloadType};
use crate::mqtt::intent::API_VERSION;
use crate::mqtt::kit::{self, Lab};
use crate::mqtt::transport::{Closed, Event, Transport};

const HALF_A_MINUTE: Duration = Duration::from_secs(30);

fn question(verb: Verb) -> Question {
    let pod = matches!(verb, Verb::Logs | Verb::Restart | Verb::Exec);
    let of = |text: &str| pod.then(|| text.to_owned());
    let arguments = Arguments { namespace: of("default"), name: of("web"), ..Arguments::default() };
    Question { node: kit::NODE.to_owned(), verb, arguments, id: "c-1".to_owned() }
}

async fn connected(broker: &Broker) -> Session<impl Transport> {
    let mut session = broker.session(1);
    session.connect().await.unwrap();
    session
}

async fn asked(broker: &Broker, question: &Question) -> Result<Answer, AskError> {
    let mut session = connected(broker).await;
    ask(&mut session, question, &[&kit::controller_key()], HALF_A_MINUTE).await
}

/// A node that is online and has said so.
fn prepared() -> Broker {
    let broker = Broker::with_node();
    broker.node(|lab| {
        lab.send(&kit::intent("web", 1));
        lab.make_good("web");
    });
    let retained = broker.state().node.as_ref().unwrap().broker.clone();
    broker.state().retained.extend(retained);
    broker
}

fn commands_sent(broker: &Broker) -> Vec<crate::mqtt::command::Command> {
    let state = broker.state();
    let sent = state.published.iter().filter(|sent| sent.topic.contains("/cmd/"));
    let read = sent.map(|sent| {
        assert!(!sent.retain && sent.expiry.is_some_and(|after| after <= HALF_A_MINUTE));
        let envelope = Envelope::open(&sent.payload, PayloadType::Command).unwrap();
        assert_eq!(envelope.signatures[0].keyid, kit::controller_key().id());
        serde_json::from_slice(&envelope.payload).unwrap()
    });
    read.collect()
}

fn reply(piece: u64, text: &str, outcome: Option<Outcome>) -> Event {
    let reply = Reply {
        api_version: API_VERSION.into(),
        kind: "Reply".into(),
        id: "c-1".into(),
        verb: "logs".into(),
        piece,
        more: outcome.is_none(),
        text: text.into(),
        outcome,
        ..Reply::default()
    };
    message("pods/v1/acme/s/gw-17/res/c-1", &serde_json::to_vec(&reply).unwrap(), false)
}

#[tokio::test(start_paused = true)]
async fn a_node_answers_and_says_of_the_same_id_that_it_was_done() {
    let broker = prepared();
    let answer = asked(&broker, &question(Verb::Ping)).await.unwrap();
    assert!(answer.outcome.ok && !answer.repeated && answer.took < Duration::from_secs(1));
    let again = asked(&broker, &question(Verb::Ping)).await.unwrap();
    assert!(again.outcome.ok && again.repeated);
    let sent = commands_sent(&broker);
    assert_eq!((sent.len(), &*sent[0].id, sent[0].conn), (2, "c-1", broker.node(|lab| lab.conn())));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_not_there_is_told_apart_from_one_that_nobody_knows() {
    let broker = prepared();
    let unknown = Question { node: "gw-99".into(), ..question(Verb::Ping) };
    let error = asked(&broker, &unknown).await.unwrap_err();
    assert!(matches!(error, AskError::Unknown { .. }), "{error}");
    let (topic, will) = broker.node(|lab| {
        let (_, will) = lab.will.clone().unwrap();
        (will.topic, will.payload)
    });
    broker.state().retained.insert(topic, will);
    let error = asked(&broker, &question(Verb::Ping)).await.unwrap_err();
    assert!(matches!(error, AskError::Offline { .. }), "{error}");
    assert!(commands_sent(&broker).is_empty(), "nobody was there to be asked");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_dies_or_stays_silent_is_an_error_that_promises_nothing() {
    let broker = prepared();
    let mut session = connected(&broker).await;
    let (topic, will) = broker.node(|lab| {
        lab.connected = false;
        let (_, will) = lab.will.clone().unwrap();
        (will.topic, will.payload)
    });
    let begun = session.now();
    let key = kit::controller_key();
    let error = ask(&mut session, &question(Verb::Restart), &[&key], HALF_A_MINUTE).await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("--id c-1"), "{error}");
    assert_eq!(session.now().since(begun).as_secs(), 30);
    broker.later(Duration::from_secs(2), message(&topic, &will, false));
    let error = ask(&mut session, &question(Verb::Restart), &[&key], HALF_A_MINUTE).await;
    assert!(matches!(error.unwrap_err(), AskError::WentAway { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_reconnects_in_between_is_asked_again_on_its_new_connection() {
    let broker = prepared();
    // It is on its next connection already, and its birth is on its way: what is for the old one has expired.
    let stale = broker.state().retained.clone();
    broker.node(|lab| {
        lab.disconnect();
        lab.connect();
    });
    let conn = broker.node(|lab| lab.conn());
    let topic = "pods/v1/acme/s/gw-17/online";
    let birth = broker.state().node.as_ref().unwrap().broker[topic].clone();
    broker.state().retained = stale;
    let mut session = connected(&broker).await;
    broker.later(Duration::from_secs(1), message(topic, &birth, false));
    let key = kit::controller_key();
    let (restart, keys) = (question(Verb::Restart), [&key]);
    let answer = ask(&mut session, &restart, &keys, HALF_A_MINUTE);
    // The node's pod is restarted by its hands, which a test has to be.
    let answered = async {
        loop {
            let ran = broker.node(|lab| lab.commands.pop());
            if let Some((id, Task::Restart { .. })) = ran {
                broker.node(|lab| {
                    lab.input(crate::mqtt::protocol::Input::Answered {
                        id,
                        outcome: Outcome::done(),
                    });
                });
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (answer, ()) = tokio::join!(answer, answered);
    let answer = answer.unwrap();
    assert!(answer.outcome.ok && answer.conn == conn, "{answer:?}");
    let sent = commands_sent(&broker);
    assert_eq!(sent.len(), 2);
    assert!(sent[0].conn < sent[1].conn && sent[0].id == sent[1].id);
}

#[tokio::test(start_paused = true)]
async fn what_changes_something_is_not_done_again_by_a_daemon_that_has_forgotten_it() {
    let broker = prepared();
    let mut session = connected(&broker).await;
    let reborn = |lab: &mut Lab| {
        lab.disconnect();
        lab.restart();
        lab.connect();
        serde_json::to_vec(&lab.online_message()).unwrap()
    };
    // The command was taken; the daemon dies of it.
    broker.state().plan.push_back(Act::Ack);
    let mut twin = Lab::online();
    twin.seconds(1);
    let birth = reborn(&mut twin);
    broker.later(Duration::from_secs(2), message("pods/v1/acme/s/gw-17/online", &birth, false));
    let key = kit::controller_key();
    let error = ask(&mut session, &question(Verb::Restart), &[&key], HALF_A_MINUTE).await;
    let error = error.unwrap_err();
    assert!(matches!(error, AskError::StartedAnew { .. }), "{error}");
    assert_eq!(commands_sent(&broker).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn over_a_connection_of_ours_that_broke_the_same_is_said_again() {
    let broker = prepared();
    broker.state().plan.push_back(Act::Close(Closed::ByPeer));
    let answer = asked(&broker, &question(Verb::Ping)).await.unwrap();
    assert!(answer.outcome.ok);
    let sent = commands_sent(&broker);
    assert_eq!((sent.len(), &sent[0].id), (2, &sent[1].id));
}

#[tokio::test(start_paused = true)]
async fn the_pieces_of_an_answer_make_one_whole_or_it_is_asked_for_again() {
    let broker = prepared();
    let mut session = connected(&broker).await;
    let ms = Duration::from_millis;
    // The second piece is lost; the node answers anew, some of it twice.
    let first = [(900, reply(0, "a", None)), (901, reply(2, "c", Some(Outcome::done())))];
    let again = [
        (1500, reply(0, "a", None)),
        (1501, reply(1, "b", None)),
        (1502, reply(1, "b", None)),
        (1503, reply(2, "c", Some(Outcome::done()))),
    ];
    for (after, event) in first.into_iter().chain(again) {
        broker.later(ms(after), event);
    }
    let key = kit::controller_key();
    let answer = ask(&mut session, &question(Verb::Logs), &[&key], HALF_A_MINUTE).await.unwrap();
    assert_eq!(answer.content, b"abc");
    assert_eq!(commands_sent(&broker).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_says_more_than_it_may_or_nothing_at_its_end_is_not_believed() {
    let large = "x".repeat(REPLY_BYTES_MAX);
    let rows = [
        vec![reply(0, &large, None), reply(1, "x", None)],
        vec![Event::Message(crate::mqtt::transport::Message {
            topic: "pods/v1/acme/s/gw-17/res/c-1".into(),
            retained: false,
            body: crate::mqtt::transport::Body::Bytes(bytes::Bytes::from_static(
                br#"{"apiVersion":"podling.dev/v1","kind":"Reply","id":"c-1","verb":"logs","piece":0,"more":false}"#,
            )),
        })],
    ];
    for events in rows {
        let broker = prepared();
        let mut session = connected(&broker).await;
        for event in events {
            broker.later(Duration::from_secs(1), event);
        }
        let key = kit::controller_key();
        let error = ask(&mut session, &question(Verb::Logs), &[&key], HALF_A_MINUTE).await;
        assert!(matches!(error.unwrap_err(), AskError::Nonsense { .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_an_answer_and_a_mistake_is_found_before_anything_is_sent() {
    let broker = prepared();
    let mut session = connected(&broker).await;
    let stranger = kit::secret(77);
    let answer = ask(&mut session, &question(Verb::Ping), &[&stranger], HALF_A_MINUTE).await;
    assert_eq!(answer.unwrap().outcome.reason, Some(Reason::UntrustedKey));
    let unsigned = ask(&mut session, &question(Verb::Ping), &[], HALF_A_MINUTE).await;
    assert_eq!(unsigned.unwrap().outcome.reason, Some(Reason::NotSigned));
    let sent = broker.state().published.len();
    let wrong = Question { arguments: Arguments::default(), ..question(Verb::Restart) };
    let key = kit::controller_key();
    let error = ask(&mut session, &wrong, &[&key], HALF_A_MINUTE).await.unwrap_err();
    assert!(error.to_string().contains("namespace and name of the pod must be set"), "{error}");
    assert_eq!(broker.state().published.len(), sent);
}
