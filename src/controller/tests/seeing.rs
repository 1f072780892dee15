//! Seeing a document through: whose verdict counts, how often it is told, and a broker that goes and forgets.

use std::time::Duration;

use super::script::{Act, Broker};
use crate::controller::publish::{News, Order, Outcome, publish, wait};
use crate::controller::session::Session;
use crate::mqtt::controller::Verdict;
use crate::mqtt::kit;
use crate::mqtt::status::Stage;
use crate::mqtt::topic::Scope;
use crate::mqtt::transport::{Closed, Event, Transport};
use crate::mqtt::version::Version;

const MINUTE: Duration = Duration::from_secs(60);

fn order(generation: u64) -> Order {
    Order {
        pod: kit::pod_key("web"),
        scope: Scope::Node,
        node: Some(kit::NODE.to_owned()),
        selector: Default::default(),
        message: kit::signed(&kit::intent("web", generation)),
        version: Version { epoch: 1, generation },
        unchanged: false,
    }
}

async fn listening(broker: &Broker) -> Session<impl Transport> {
    let mut session = broker.session(1);
    session.connect().await.unwrap();
    let pods = format!("pods/v1/acme/n/{}/pod/#", kit::NODE);
    session.listen(vec![kit::tree().all_status(), pods]).await.unwrap();
    session.settle().await.unwrap();
    session
}

/// Waits for a while; what was told in words, and how it ended.
async fn watched<T: Transport>(
    session: &mut Session<T>,
    orders: &[Order],
    during: Duration,
) -> (Vec<String>, Vec<Outcome>) {
    let mut told = vec![];
    let until = session.now().plus(during);
    let outcomes = wait(session, orders, until, &mut |news| match news {
        News::Verdict { verdict, .. } => told.push(word(verdict)),
        News::Lost(_) => told.push("lost".to_owned()),
        News::Back => told.push("back".to_owned()),
        News::Overwritten { version, .. } => told.push(format!("overwritten by {version}")),
        News::Published(_) | News::Sent(_) | News::Complaint(_) => {}
    })
    .await
    .unwrap();
    (told, outcomes)
}

fn word(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Progressing(rollout) | Verdict::Ended(rollout) => {
            rollout.stage.as_str().to_owned()
        }
        Verdict::Refused(refused) => refused.reason.as_str().to_owned(),
        Verdict::Waiting => "waiting".to_owned(),
        other
        @ (Verdict::Inactive(_) | Verdict::Overtaken(_) | Verdict::Ending | Verdict::Gone) => {
            format!("{other:?}")
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_verdict_on_another_generation_is_none_on_ours() {
    let broker = Broker::with_node();
    broker.node(|lab| {
        lab.send(&kit::intent("web", 1));
        lab.make_good("web");
    });
    let mut session = listening(&broker).await;
    // The second is not published: the node says all sorts of things about others.
    broker.node(|lab| {
        lab.send(&kit::intent("web", 1));
        lab.settle();
    });
    let (told, outcomes) = watched(&mut session, &[order(2)], MINUTE).await;
    assert_eq!((told, &outcomes[0].verdict), (vec!["waiting".to_owned()], &Verdict::Waiting));
    // A newer one is accepted: now it is final.
    broker.node(|lab| {
        lab.send(&kit::intent("web", 3));
        lab.settle();
    });
    let (_, outcomes) = watched(&mut session, &[order(2)], MINUTE).await;
    let three = Version { epoch: 1, generation: 3 };
    assert_eq!(outcomes[0].verdict, Verdict::Overtaken(three));
}

#[tokio::test(start_paused = true)]
async fn each_stage_is_told_once_however_often_it_is_said() {
    let broker = Broker::with_node();
    let mut session = listening(&broker).await;
    let orders = [order(1)];
    publish(&mut session, &orders, &mut |_| {}).await.unwrap();
    broker.node(kit::Lab::settle);
    let status = broker.node(|lab| {
        lab.report("web", kit::running());
        lab.settle();
        let topic = lab.config.topics.pod_status(&kit::pod_key("web")).unwrap();
        (topic.clone(), lab.broker[&topic].clone())
    });
    for after in 1..4 {
        let again = super::script::message(&status.0, &status.1, false);
        broker.later(Duration::from_secs(after), again);
    }
    let (told, _) = watched(&mut session, &orders, MINUTE).await;
    assert_eq!(told, ["waiting", "Starting", "Probing"], "{told:?}");
    broker.node(|lab| lab.make_good("web"));
    let (told, outcomes) = watched(&mut session, &orders, MINUTE).await;
    assert_eq!(told.last().unwrap(), "Committed");
    let Verdict::Ended(rollout) = &outcomes[0].verdict else { panic!("{outcomes:?}") };
    assert_eq!(rollout.stage, Stage::Committed);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_forgot_gets_the_document_again_and_one_that_did_not_does_not() {
    for forgets in [true, false] {
        let broker = Broker::with_node();
        let mut session = listening(&broker).await;
        let orders = [order(1)];
        publish(&mut session, &orders, &mut |_| {}).await.unwrap();
        broker.later(Duration::from_secs(1), Event::Closed(Closed::ByPeer));
        let topic = orders[0].message.topic.clone();
        if forgets {
            broker.state().retained.remove(&topic);
        }
        let (told, _) = watched(&mut session, &orders, MINUTE).await;
        let lost = told.iter().position(|word| word == "lost").unwrap();
        assert!(told[lost..].contains(&"back".to_owned()), "{told:?}");
        let state = broker.state();
        let sent = state.published.iter().filter(|sent| sent.topic == topic).count();
        assert_eq!(sent, if forgets { 2 } else { 1 });
        assert!(state.retained.contains_key(&topic));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_while_the_document_is_said_again_is_made_again() {
    let broker = Broker::with_node();
    let mut session = listening(&broker).await;
    let orders = [order(1)];
    publish(&mut session, &orders, &mut |_| {}).await.unwrap();
    let topic = orders[0].message.topic.clone();
    broker.state().retained.remove(&topic);
    broker.state().plan.push_back(Act::Close(Closed::ByPeer));
    broker.later(Duration::from_secs(1), Event::Closed(Closed::ByPeer));
    watched(&mut session, &orders, MINUTE).await;
    assert!(broker.state().retained.contains_key(&topic));
}

#[tokio::test(start_paused = true)]
async fn who_publishes_over_us_is_told_once_and_what_stood_there_before_is_no_news() {
    let broker = Broker::with_node();
    broker.node(|lab| lab.send(&kit::intent("web", 1)));
    let old = kit::signed(&kit::intent("web", 1));
    broker.state().retained.insert(old.topic.clone(), old.payload.into());
    let mut session = listening(&broker).await;
    let orders = [order(2)];
    publish(&mut session, &orders, &mut |_| {}).await.unwrap();
    let (told, _) = watched(&mut session, &orders, Duration::from_secs(5)).await;
    assert!(!told.iter().any(|word| word.starts_with("overwritten")), "{told:?}");
    // The same generation with other content.
    let theirs = kit::intent("web", 2);
    let theirs = crate::mqtt::intent::PodIntent { uid: "theirs".into(), ..theirs };
    let theirs = kit::signed(&theirs);
    for after in [1, 2] {
        let event = super::script::message(&theirs.topic, &theirs.payload, false);
        broker.later(Duration::from_secs(after), event);
    }
    let (told, _) = watched(&mut session, &orders, Duration::from_secs(5)).await;
    let count = told.iter().filter(|word| word.starts_with("overwritten")).count();
    assert_eq!(count, 1, "{told:?}");
}
