//! Seeing documents through to the nodes' verdicts.
//!
//! Owns: publishing, waiting, going on after the connection broke, noticing who publishes over us. Not: what the documents say
//! (`next`, `bundle`), nor how any of it is shown (the caller is told as it happens).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::next::Retained;
use super::offer::Sent;
use super::session::{Session, SessionError, Step};
use crate::clock::Timestamp;
use crate::mqtt::controller::{Message, NodeView, Verdict, verdict};
use crate::mqtt::signature::Standing;
use crate::mqtt::topic::Scope;
use crate::mqtt::transport::Transport;
use crate::mqtt::version::Version;
use crate::spec::PodKey;

/// A signed document on its way.
#[derive(Clone, Debug)]
pub struct Order {
    pub pod: PodKey,
    pub scope: Scope,
    /// The node; of a group, none.
    pub node: Option<String>,
    /// Labels that a node of the group must have.
    pub selector: BTreeMap<String, String>,
    pub message: Message,
    pub version: Version,
    /// It stands at the broker already.
    pub unchanged: bool,
}

impl Order {
    /// Whether a node is to answer.
    fn is_for(&self, node: &str, view: &NodeView) -> bool {
        if let Some(own) = &self.node {
            return own == node;
        }
        let Scope::Group(group) = &self.scope else { return false };
        let Some(status) = &view.status else { return false };
        let has = |(key, value): (&String, &String)| status.labels.get(key) == Some(value);
        status.groups.iter().any(|name| **name == **group) && self.selector.iter().all(has)
    }
}

/// What became of a document on one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub node: String,
    pub order: usize,
    /// The last that is known.
    pub verdict: Verdict,
    /// Whether the node was there at the end.
    pub online: bool,
    /// What the newest that it said of the pod is worth; nothing, if it said nothing.
    pub standing: Option<Standing>,
}

/// What is told while it happens.
#[derive(Debug)]
pub enum News<'a> {
    /// The broker has it.
    Published(&'a Order),
    /// What a node says of it now.
    Verdict {
        node: &'a str,
        order: &'a Order,
        verdict: &'a Verdict,
    },
    Sent(&'a Sent),
    Lost(&'a SessionError),
    Back,
    /// Another controller has published after us, under the same name.
    Overwritten {
        order: &'a Order,
        by: Arc<str>,
        version: Version,
    },
    Complaint(&'a str),
}

/// Publishes what is not there yet.
///
/// # Errors
/// The broker refuses one, or is gone.
pub async fn publish<T: Transport>(
    session: &mut Session<T>,
    orders: &[Order],
    tell: &mut (dyn FnMut(News<'_>) + Send),
) -> Result<(), SessionError> {
    for order in orders {
        if !order.unchanged {
            session.publish(&order.message).await?;
        }
        tell(News::Published(order));
    }
    Ok(())
}

/// Waits until every node that is there has said its last word on each document, or until the time is over.
///
/// # Errors
/// The connection breaks and does not come back before.
pub async fn wait<T: Transport>(
    session: &mut Session<T>,
    orders: &[Order],
    until: Timestamp,
    tell: &mut (dyn FnMut(News<'_>) + Send),
) -> Result<Vec<Outcome>, SessionError> {
    let mut told: BTreeMap<(String, usize), Verdict> = BTreeMap::new();
    let mut seen: BTreeMap<String, Bytes> = BTreeMap::new();
    loop {
        while let Some(complaint) = session.complaints.pop_first() {
            tell(News::Complaint(&complaint));
        }
        overwritten(session, orders, &mut seen, tell);
        let outcomes = look(session, orders);
        for outcome in &outcomes {
            let key = (outcome.node.clone(), outcome.order);
            if told.get(&key) != Some(&outcome.verdict) {
                let (node, order) = (&*outcome.node, &orders[outcome.order]);
                tell(News::Verdict { node, order, verdict: &outcome.verdict });
                told.insert(key, outcome.verdict.clone());
            }
        }
        if is_over(&outcomes, orders) || session.now() >= until {
            return Ok(outcomes);
        }
        match session.step(until).await {
            Ok(Step::Sent(sent)) => tell(News::Sent(&sent)),
            Ok(_) => {}
            Err(error) => {
                tell(News::Lost(&error));
                come_back(session, orders, until, error).await?;
                tell(News::Back);
            }
        }
    }
}

/// What every node says that is to answer.
fn look<T: Transport>(session: &Session<T>, orders: &[Order]) -> Vec<Outcome> {
    let mut outcomes = vec![];
    for (index, order) in orders.iter().enumerate() {
        let before = outcomes.len();
        for (node, view) in
            session.fleet.nodes.iter().filter(|(node, view)| order.is_for(node, view))
        {
            let status = view.pods.get(&order.pod);
            let verdict = status.map_or(Verdict::Waiting, |status| {
                verdict(status, &order.scope, order.version, order.message.digest)
            });
            let (online, standing) = (view.is_online(), view.standing(&order.pod));
            outcomes.push(Outcome { node: node.clone(), order: index, verdict, online, standing });
        }
        // A node that has never said a word is waited for as well.
        if let Some(node) = order.node.clone().filter(|_| outcomes.len() == before) {
            let verdict = Verdict::Waiting;
            outcomes.push(Outcome { node, order: index, verdict, online: false, standing: None });
        }
    }
    outcomes
}

/// Of a group, only those count that are there: the others will follow whenever they come.
fn is_over(outcomes: &[Outcome], orders: &[Order]) -> bool {
    let counts = |outcome: &&Outcome| outcome.online || orders[outcome.order].node.is_some();
    outcomes.iter().filter(counts).all(|outcome| outcome.verdict.is_final())
}

/// Tells of documents in our places that are not ours.
fn overwritten<T: Transport>(
    session: &Session<T>,
    orders: &[Order],
    seen: &mut BTreeMap<String, Bytes>,
    tell: &mut (dyn FnMut(News<'_>) + Send),
) {
    for order in orders {
        let topic = &order.message.topic;
        let Some(now) = session.documents.get(topic) else { continue };
        if **now == *order.message.payload || seen.get(topic) == Some(now) {
            continue;
        }
        seen.insert(topic.clone(), now.clone());
        let Some(theirs) = Retained::read(now, None) else { continue };
        let version = Version { epoch: theirs.intent.epoch, generation: theirs.intent.generation };
        // What stood there before ours is no news.
        if version >= order.version && theirs.digest != order.message.digest {
            let by = theirs.keys.join(", ").into();
            tell(News::Overwritten { order, by, version });
        }
    }
}

/// Connects again, as often as the time allows, and says again what may not have arrived.
async fn come_back<T: Transport>(
    session: &mut Session<T>,
    orders: &[Order],
    until: Timestamp,
    lost: SessionError,
) -> Result<(), SessionError> {
    let mut last = lost;
    loop {
        session.come_back(until, last).await?;
        match publish_missing(session, orders).await {
            Err(error @ (SessionError::Lost { .. } | SessionError::NoAnswer { .. })) => {
                last = error
            }
            other => return other,
        }
    }
}

async fn publish_missing<T: Transport>(
    session: &mut Session<T>,
    orders: &[Order],
) -> Result<(), SessionError> {
    for order in orders {
        // A broker that has lost it gets it again. What is newer there than ours stays.
        if !session.documents.contains_key(&order.message.topic) {
            session.publish(&order.message).await?;
        }
    }
    Ok(())
}
