//! Which topics there are: built and read in one place.
//!
//! Owns: the topic tree of `docs/mqtt.md`, the rules for each level, the filters a node subscribes to. Not: what the messages
//! say. Pure; reading never fails loudly: what is no topic of ours is `None`.
//!
//! ```text
//!  ROOT/TENANT/trust                     ROOT/TENANT/g/GROUP/pod/NS/NAME
//!  ROOT/TENANT/n/NODE/desired            ROOT/TENANT/s/NODE/online
//!  ROOT/TENANT/n/NODE/pod/NS/NAME        ROOT/TENANT/s/NODE/node
//!  ROOT/TENANT/n/NODE/cmd/VERB/ID        ROOT/TENANT/s/NODE/pod/NS/NAME
//!  ROOT/TENANT/n/NODE/blob/XFER          ROOT/TENANT/s/NODE/{res/ID,get}
//! ```
//!
//! Down (`n`, `g`, `trust`) and up (`s`) are apart, so that an access list needs two lines and a bridge two rules.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::spec::PodKey;

/// Longest topic, bytes: the smallest limit among the brokers that are used (AWS IoT).
pub const TOPIC_BYTES_MAX: usize = 256;

/// Most levels of a topic: AWS IoT allows seven slashes.
pub const LEVELS_MAX: usize = 8;

/// Longest level, bytes: a DNS label's.
pub const LEVEL_BYTES_MAX: usize = 63;

/// Groups a node may be in: with the node's own filters that makes ten subscriptions, the fewest that a broker grants (EMQX's
/// hosted one).
pub const GROUPS_MAX: usize = 7;

/// The root that is used where none is configured.
pub const DEFAULT_ROOT: &str = "pods/v1";

/// Levels that a pod's topic adds to the root.
const LEVELS_BELOW_ROOT: usize = 6;

/// Why a word cannot be a level of a topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    #[error(
        "{what} {text:?} cannot be a level of a topic: lower-case letters, digits, '-' and '.' are allowed, up to \
         {LEVEL_BYTES_MAX} bytes, with a letter or digit at both ends of each part between dots"
    )]
    Level { what: &'static str, text: String },
    #[error("namespace {0:?} has a dot: a namespace is one DNS label, as in Kubernetes")]
    Namespace(String),
    #[error(
        "topic root {0:?} cannot be used: one or two levels of letters, digits, '-', '_' and '.'"
    )]
    Root(String),
    #[error("topic {0:?} has more than {TOPIC_BYTES_MAX} bytes")]
    TooLong(String),
    #[error("a node may be in at most {GROUPS_MAX} groups, and these are {0}")]
    TooManyGroups(usize),
    #[error("group {0:?} is listed twice")]
    SameGroup(String),
}

/// Checks one level: names of tenants, nodes, groups, namespaces, pods, verbs, ids.
///
/// # Errors
/// If it is none.
pub fn check_level(what: &'static str, text: &str) -> Result<(), TopicError> {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let label = |part: &str| {
        !part.is_empty()
            && part.bytes().all(inside)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if text.len() <= LEVEL_BYTES_MAX && text.split('.').all(label) {
        Ok(())
    } else {
        let end = text.floor_char_boundary(LEVEL_BYTES_MAX + 1);
        Err(TopicError::Level { what, text: text[..end].to_owned() })
    }
}

/// Checks a namespace: a level without a dot, as Kubernetes has them. The name of a pod may have dots, and records of pods are kept under both
/// names, parted by a dot.
///
/// # Errors
/// If it is none.
pub fn check_namespace(text: &str) -> Result<(), TopicError> {
    check_level("namespace", text)?;
    if text.contains('.') { Err(TopicError::Namespace(text.to_owned())) } else { Ok(()) }
}

fn is_level(text: &str) -> bool {
    check_level("", text).is_ok()
}

/// Whom a document is for: one node, or the nodes of a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    Node,
    Group(Arc<str>),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Group(name) => write!(f, "group/{name}"),
        }
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.strip_prefix("group/") {
            None if text == "node" => Ok(Self::Node),
            Some(group) if is_level(group) => Ok(Self::Group(group.into())),
            _ => Err(serde::de::Error::custom("a scope is node or group/NAME")),
        }
    }
}

/// A message on its way to the node, by its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inbound<'t> {
    /// The tenant's trust document.
    Trust,
    /// The node's index.
    Index,
    /// A pod's intent or tombstone.
    Pod { scope: Scope, key: PodKey },
    /// A command.
    Command { verb: &'t str, id: &'t str },
    /// A block of an artifact.
    Block { transfer: &'t str },
    /// What stands in the node's own birth-or-will topic.
    Online,
}

/// A message from a node, by its topic; what a controller reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outbound<'t> {
    Online,
    Node,
    Pod { key: PodKey },
    Reply { id: &'t str },
    Get,
}

/// The topics of a tenant below one root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    root: String,
    tenant: String,
}

impl Tree {
    /// # Errors
    /// If a level is not valid.
    pub fn new(root: &str, tenant: &str) -> Result<Self, TopicError> {
        let wrong = || TopicError::Root(root[..root.floor_char_boundary(80)].to_owned());
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let level = |part: &str| {
            !part.is_empty() && part.len() <= LEVEL_BYTES_MAX && part.bytes().all(fits)
        };
        if !root.split('/').all(level) || root.split('/').count() + LEVELS_BELOW_ROOT > LEVELS_MAX {
            return Err(wrong());
        }
        check_level("tenant", tenant)?;
        Ok(Self { root: root.to_owned(), tenant: tenant.to_owned() })
    }

    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The tenant's trust document.
    #[must_use]
    pub fn trust(&self) -> String {
        format!("{}/{}/trust", self.root, self.tenant)
    }

    /// A pod's document.
    ///
    /// # Errors
    /// If a name is no level, or the topic is too long.
    pub fn pod(&self, scope: &Scope, node: &str, key: &PodKey) -> Result<String, TopicError> {
        check_key(key)?;
        let (letter, owner) = match scope {
            Scope::Node => ('n', node),
            Scope::Group(group) => ('g', &**group),
        };
        check_level(if letter == 'n' { "node" } else { "group" }, owner)?;
        let (root, tenant) = (&self.root, &self.tenant);
        fitting(format!("{root}/{tenant}/{letter}/{owner}/pod/{}/{}", key.namespace, key.name))
    }

    /// Filter for the status of every node; what `podling fleet` subscribes to.
    #[must_use]
    pub fn all_status(&self) -> String {
        format!("{}/{}/s/#", self.root, self.tenant)
    }

    /// Reads a topic from a node: who says what.
    #[must_use]
    pub fn read_outbound<'t>(&self, topic: &'t str) -> Option<(&'t str, Outbound<'t>)> {
        let rest = self.below(topic)?;
        let mut levels = [""; LEVELS_MAX];
        match split(rest, &mut levels)? {
            ["s", node, "online"] => Some((node, Outbound::Online)),
            ["s", node, "node"] => Some((node, Outbound::Node)),
            ["s", node, "get"] => Some((node, Outbound::Get)),
            ["s", node, "res", id] => Some((node, Outbound::Reply { id })),
            ["s", node, "pod", namespace, name] => {
                Some((node, Outbound::Pod { key: PodKey::new(namespace, name) }))
            }
            _ => None,
        }
    }

    /// A topic from the tenant on: what bridges leave as it is, and signatures cover.
    #[must_use]
    pub fn below_root<'t>(&self, topic: &'t str) -> &'t str {
        let rest = topic.strip_prefix(&self.root).and_then(|rest| rest.strip_prefix('/'));
        rest.unwrap_or(topic)
    }

    fn below<'t>(&self, topic: &'t str) -> Option<&'t str> {
        if topic.len() > TOPIC_BYTES_MAX {
            return None;
        }
        let rest = topic.strip_prefix(&self.root)?.strip_prefix('/')?;
        rest.strip_prefix(&self.tenant)?.strip_prefix('/')
    }
}

/// Splits into levels, each of which must be valid.
fn split<'t, 'b>(rest: &'t str, into: &'b mut [&'t str; LEVELS_MAX]) -> Option<&'b [&'t str]> {
    let mut count = 0;
    for level in rest.split('/') {
        if !is_level(level) {
            return None;
        }
        *into.get_mut(count)? = level;
        count += 1;
    }
    into.get(..count)
}

fn check_key(key: &PodKey) -> Result<(), TopicError> {
    check_namespace(&key.namespace)?;
    check_level("pod name", &key.name)
}

fn fitting(topic: String) -> Result<String, TopicError> {
    if topic.len() > TOPIC_BYTES_MAX { Err(TopicError::TooLong(topic)) } else { Ok(topic) }
}

/// The topics of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    tree: Tree,
    node: String,
}

impl Topics {
    /// # Errors
    /// If a level is not valid.
    pub fn new(root: &str, tenant: &str, node: &str) -> Result<Self, TopicError> {
        check_level("node", node)?;
        Ok(Self { tree: Tree::new(root, tenant)?, node: node.to_owned() })
    }

    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    #[must_use]
    pub fn tenant(&self) -> &str {
        self.tree.tenant()
    }

    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    fn down(&self, rest: &str) -> String {
        format!("{}/{}/n/{}/{rest}", self.tree.root, self.tree.tenant, self.node)
    }

    fn up(&self, rest: &str) -> String {
        format!("{}/{}/s/{}/{rest}", self.tree.root, self.tree.tenant, self.node)
    }

    /// The node's index.
    #[must_use]
    pub fn index(&self) -> String {
        self.down("desired")
    }

    /// A pod's document for this node or for a group.
    ///
    /// # Errors
    /// If a name is no level, or the topic is too long.
    pub fn pod(&self, scope: &Scope, key: &PodKey) -> Result<String, TopicError> {
        self.tree.pod(scope, &self.node, key)
    }

    /// A command.
    ///
    /// # Errors
    /// If a word is no level, or the topic is too long.
    pub fn command(&self, verb: &str, id: &str) -> Result<String, TopicError> {
        check_level("verb", verb)?;
        check_level("id", id)?;
        fitting(self.down(&format!("cmd/{verb}/{id}")))
    }

    /// Where blocks of a transfer arrive.
    ///
    /// # Errors
    /// If the transfer's name is no level, or the topic is too long.
    pub fn block(&self, transfer: &str) -> Result<String, TopicError> {
        check_level("transfer", transfer)?;
        fitting(self.down(&format!("blob/{transfer}")))
    }

    /// Birth and will.
    #[must_use]
    pub fn online(&self) -> String {
        self.up("online")
    }

    /// The node's status.
    #[must_use]
    pub fn node_status(&self) -> String {
        self.up("node")
    }

    /// A pod's status.
    ///
    /// # Errors
    /// If a name is no level, or the topic is too long.
    pub fn pod_status(&self, key: &PodKey) -> Result<String, TopicError> {
        check_key(key)?;
        fitting(self.up(&format!("pod/{}/{}", key.namespace, key.name)))
    }

    /// Replies to a command.
    ///
    /// # Errors
    /// If the id is no level, or the topic is too long.
    pub fn reply(&self, id: &str) -> Result<String, TopicError> {
        check_level("id", id)?;
        fitting(self.up(&format!("res/{id}")))
    }

    /// Requests for blocks.
    #[must_use]
    pub fn get(&self) -> String {
        self.up("get")
    }

    /// What a node subscribes to, each with QoS 1, most important first.
    #[must_use]
    pub fn filters(&self, groups: &[Arc<str>]) -> Vec<String> {
        let mut filters = vec![self.tree.trust(), self.down("#"), self.online()];
        let (root, tenant) = (&self.tree.root, &self.tree.tenant);
        filters.extend(groups.iter().map(|group| format!("{root}/{tenant}/g/{group}/#")));
        filters
    }

    /// Reads the topic of a message for this node.
    #[must_use]
    pub fn read<'t>(&self, topic: &'t str) -> Option<Inbound<'t>> {
        let rest = self.tree.below(topic)?;
        let mut levels = [""; LEVELS_MAX];
        let pod = |scope, namespace, name| {
            let key = PodKey::new(namespace, name);
            // Whoever can be asked for must be able to answer.
            self.pod_status(&key).is_ok().then_some(Inbound::Pod { scope, key })
        };
        match split(rest, &mut levels)? {
            ["trust"] => Some(Inbound::Trust),
            ["g", group, "pod", namespace, name] => {
                pod(Scope::Group((*group).into()), namespace, name)
            }
            [letter, node, rest @ ..] if *node == self.node => match (*letter, rest) {
                ("n", ["desired"]) => Some(Inbound::Index),
                ("n", ["pod", namespace, name]) => pod(Scope::Node, namespace, name),
                ("n", ["cmd", verb, id]) => {
                    self.reply(id).is_ok().then_some(Inbound::Command { verb, id })
                }
                ("n", ["blob", transfer]) => Some(Inbound::Block { transfer }),
                ("s", ["online"]) => Some(Inbound::Online),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Checks the list of groups: valid, each once, not too many.
///
/// # Errors
/// With the first that is wrong.
pub fn check_groups(groups: &[Arc<str>]) -> Result<(), TopicError> {
    if groups.len() > GROUPS_MAX {
        return Err(TopicError::TooManyGroups(groups.len()));
    }
    for (at, group) in groups.iter().enumerate() {
        check_level("group", group)?;
        if groups[..at].contains(group) {
            return Err(TopicError::SameGroup(group.to_string()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
