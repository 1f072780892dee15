//! One connection: connecting, what is refused, what never comes, and blocks over a connection that breaks.

use std::time::Duration;

use bytes::Bytes;

use super::script::{Act, Broker, message};
use crate::artifact::BlockRequest;
use crate::artifact::block::{Body, decode};
use crate::controller::session::{Session, SessionError, Step};
use crate::image::Digest;
use crate::mqtt::controller::Message;
use crate::mqtt::envelope::digest;
use crate::mqtt::kit;
use crate::mqtt::transport::{Closed, Event, NotTaken, Qos, Transport};

const HOUR: Duration = Duration::from_secs(3600);

fn a_message() -> Message {
    let topic = "pods/v1/acme/n/gw-17/pod/default/web".to_owned();
    Message { topic, payload: b"{}".to_vec(), retain: true, digest: Digest::new([1; 32]) }
}

async fn listening(broker: &Broker) -> Session<impl Transport> {
    let mut session = broker.session(1);
    session.connect().await.unwrap();
    session.listen(vec![kit::tree().all_status()]).await.unwrap();
    session.settle().await.unwrap();
    session
}

#[tokio::test(start_paused = true)]
async fn each_broker_is_tried_once_and_each_reason_is_said_once() {
    let broker = Broker::new();
    let refused = || Closed::Unreachable { address: "x:1883".into(), cause: "refused".into() };
    // The second speaks the older language only: that is the same broker again, not the next one.
    broker.state().greetings.extend([refused(), Closed::OnlyV311, refused(), Closed::ByPeer]);
    let mut session = broker.session(3);
    let error = session.connect().await.unwrap_err().to_string();
    let expected = "cannot connect to mqtt://broker: cannot reach x:1883: refused; the broker closed the connection";
    assert_eq!(error, expected);
    session.connect().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_broker_whose_language_the_settings_forbid_is_not_tried_for_ever() {
    let broker = Broker::new();
    broker.state().greetings.extend(vec![Closed::OnlyV311; 1000]);
    let error = broker.session(1).connect().await.unwrap_err().to_string();
    assert!(error.contains("does not speak MQTT 5"), "{error}");
    assert!(broker.state().greetings.len() >= 998);
}

#[tokio::test(start_paused = true)]
async fn what_the_access_list_forbids_is_named() {
    let broker = Broker::new();
    broker.state().forbidden = Some("/g/");
    let mut session = broker.session(1);
    session.connect().await.unwrap();
    let filters = vec!["pods/v1/acme/s/#".to_owned(), "pods/v1/acme/g/#".to_owned()];
    let error = session.listen(filters).await.unwrap_err().to_string();
    assert!(error.contains("does not let this client read pods/v1/acme/g/#"), "{error}");
    broker.state().plan.push_back(Act::Refuse);
    let error = session.publish(&a_message()).await.unwrap_err().to_string();
    assert!(error.contains("does not let this client publish to pods/v1/acme/n/gw-17"), "{error}");
    // The connection is as good as before.
    session.publish(&a_message()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_never_answers_is_not_waited_for_for_ever() {
    let broker = Broker::new();
    let mut session = listening(&broker).await;
    broker.state().plan.push_back(Act::Silence);
    let begun = session.now();
    let error = session.publish(&a_message()).await.unwrap_err();
    assert!(matches!(error, SessionError::NoAnswer { .. }), "{error}");
    assert_eq!(session.now().since(begun).as_secs(), 30);
    broker.state().answers_subscriptions = false;
    let error = session.listen(vec!["pods/v1/acme/s/#".to_owned()]).await.unwrap_err();
    assert!(matches!(error, SessionError::NoAnswer { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_fit_is_an_error_and_the_connection_stands() {
    let broker = Broker::new();
    let mut session = listening(&broker).await;
    let too_large = NotTaken::TooLarge { size: 9000, max: 4096 };
    broker.state().plan.push_back(Act::NotTaken(too_large));
    let error = session.publish(&a_message()).await.unwrap_err();
    let SessionError::NotTaken { topic, source } = &error else { panic!("{error}") };
    assert_eq!((&**topic, *source), (&*a_message().topic, too_large));
    assert!(broker.state().published.is_empty());
    session.publish(&a_message()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_has_to_wait_for_room_is_published_when_there_is_some() {
    let broker = Broker::new();
    let mut session = listening(&broker).await;
    broker.state().plan.push_back(Act::NotTaken(NotTaken::Busy));
    // Something must happen first: here, an answer to somebody else's message.
    let other = Event::Acked { token: crate::mqtt::transport::Token(99), result: Ok(()) };
    broker.later(Duration::from_secs(1), other);
    session.publish(&a_message()).await.unwrap();
    assert_eq!(broker.state().published.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_went_silent_or_closed_is_a_lost_connection_and_everything_is_read_anew() {
    let broker = Broker::new();
    let mut session = listening(&broker).await;
    let topic = a_message().topic;
    broker.later(Duration::ZERO, message(&topic, b"old", false));
    let until = session.now().plus(HOUR);
    assert_eq!(session.step(until).await.unwrap(), Step::Document { topic: topic.clone() });
    for closed in [Closed::Silent(Duration::from_secs(30)), Closed::ByPeer] {
        broker.later(Duration::from_secs(5), Event::Closed(closed.clone()));
        let lost = session.step(until).await.unwrap_err();
        let SessionError::Lost { source, .. } = &lost else { panic!("{lost}") };
        assert_eq!(*source, closed);
        // While it is lost, nothing else happens.
        assert!(session.step(until).await.is_err() && session.publish(&a_message()).await.is_err());
        broker.state().greetings.push_back(Closed::ByPeer);
        session.come_back(until, lost).await.unwrap();
        assert!(session.documents.is_empty(), "it does not stand there any more");
    }
    assert_eq!(broker.state().subscriptions, 3);
}

#[tokio::test(start_paused = true)]
async fn coming_back_ends_with_the_time_and_the_last_reason() {
    let broker = Broker::new();
    let mut session = listening(&broker).await;
    broker.state().greetings.extend(vec![Closed::ByPeer; 1000]);
    broker.later(Duration::ZERO, Event::Closed(Closed::ByPeer));
    let until = session.now().plus(Duration::from_secs(60));
    let lost = session.step(until).await.unwrap_err();
    let error = session.come_back(until, lost).await.unwrap_err();
    assert!(matches!(error, SessionError::NotReached { .. }), "{error}");
    assert!(session.now() <= until);
    let tried = 1000 - broker.state().greetings.len();
    assert!((3..60).contains(&tried), "{tried} attempts in a minute");
}

#[tokio::test(start_paused = true)]
async fn what_came_too_fast_is_asked_for_again_a_few_times() {
    let broker = Broker::new();
    let mut session = broker.session(1);
    session.connect().await.unwrap();
    session.listen(vec![kit::tree().all_status()]).await.unwrap();
    broker.later(Duration::ZERO, Event::Overrun);
    session.settle().await.unwrap();
    assert_eq!(broker.state().subscriptions, 2);
    assert!(session.complaints.is_empty());
    // It never stops.
    for nth in 0..30 {
        broker.later(Duration::from_millis(nth * 300), Event::Overrun);
    }
    session.listen_again().await.unwrap();
    session.settle().await.unwrap();
    let complaint = session.complaints.pop_first().unwrap();
    assert!(complaint.contains("incomplete"), "{complaint}");
    assert_eq!(broker.state().subscriptions, 2 + 1 + 5);
}

/// A node's request for blocks, as it comes.
fn asks(transfer: u32, content: &[u8], offset: u64, count: u32) -> Event {
    let request = BlockRequest { transfer, digest: digest(content), offset, block: 1024, count };
    message("pods/v1/acme/s/gw-17/get", &request.to_json(), false)
}

fn blocks(broker: &Broker) -> Vec<(u64, Bytes)> {
    let state = broker.state();
    let sent = state.published.iter().filter(|sent| sent.topic.ends_with("/blob/7"));
    let read = sent.map(|sent| {
        assert_eq!((sent.qos, sent.retain), (Qos::AtMostOnce, false));
        let block = decode(&sent.payload).unwrap();
        let Body::Data(data) = block.body else { panic!("{block:?}") };
        (block.offset, Bytes::copy_from_slice(data))
    });
    read.collect()
}

#[tokio::test(start_paused = true)]
async fn an_upload_goes_on_where_the_node_is_after_the_connection_broke_in_the_middle() {
    let content: Vec<u8> = (0..10_000u32).map(|n| n.to_be_bytes()[3]).collect();
    let broker = Broker::new();
    let mut session = listening(&broker).await;
    session.offers.add_bytes(digest(&content), content.clone());
    broker.later(Duration::ZERO, asks(7, &content, 0, 8));
    // Two blocks go out, then there is no room, then no connection.
    broker.state().plan.extend([Act::Silence, Act::Silence]);
    broker.state().plan.extend(vec![Act::NotTaken(NotTaken::Busy); 3]);
    broker.later(Duration::from_millis(12), Event::Closed(Closed::Broken("reset".into())));
    let until = session.now().plus(HOUR);
    let lost = loop {
        match session.step(until).await {
            Ok(step) => assert_eq!(step, Step::Nothing, "the answer has not gone out whole"),
            Err(lost) => break lost,
        }
    };
    assert_eq!(blocks(&broker).len(), 2);
    broker.state().plan.clear();
    session.come_back(until, lost).await.unwrap();
    assert_eq!(blocks(&broker).len(), 2, "nobody has asked on this connection");
    // The node has the first two, and wants the rest.
    broker.later(Duration::from_secs(1), asks(7, &content, 2048, 8));
    let sent = loop {
        if let Step::Sent(sent) = session.step(until).await.unwrap() {
            break sent;
        }
    };
    assert_eq!((sent.bytes, sent.total), (10_000, 10_000));
    let mut got = vec![];
    for (offset, data) in blocks(&broker) {
        assert_eq!(offset, got.len() as u64, "in order, each once");
        got.extend_from_slice(&data);
    }
    assert_eq!(got, content);
}
