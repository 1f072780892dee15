//! Commands to a node that is there now, and its replies.
//!
//! Owns: their JSON, the verbs, every rule about a command that needs no other knowledge. Not: whether it is new
//! (`protocol::commands`), nor carrying it out. What must survive a power cut is no command but an intent.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cause::{Cause, Reason, Refusal};
use super::intent::{head, issued, numbers, parse, time_ms};
use super::topic::check_level;
use crate::spec::{ContainerName, PodKey};

/// Largest reply message's content, bytes of text or of what base64 stands for.
pub const PIECE_BYTES_MAX: usize = 32 * 1024;

/// Most that one command may answer, bytes: some minutes of a slow link.
pub const REPLY_BYTES_MAX: usize = 1024 * 1024;

/// How long one command may take.
pub const COMMAND_TIME_MAX: Duration = Duration::from_secs(60);

/// Words of an `exec`.
const EXEC_WORDS_MAX: usize = 64;

/// Longest word of an `exec`, bytes.
const EXEC_WORD_BYTES_MAX: usize = 4096;

/// What a node can be told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// What a container has written.
    Logs,
    /// Ends a pod's containers and starts them again.
    Restart,
    /// A pod with its events, or the node.
    Describe,
    /// Fetches everything that is retained once more, and publishes every status.
    Resync,
    /// Answers.
    Ping,
    /// Runs a function or command of a module in a pod. Only where the node's configuration allows it.
    Exec,
}

impl Verb {
    pub const ALL: [Self; 6] =
        [Self::Logs, Self::Restart, Self::Describe, Self::Resync, Self::Ping, Self::Exec];

    /// Those that need no word in the configuration.
    pub const DEFAULT: [Self; 5] =
        [Self::Logs, Self::Restart, Self::Describe, Self::Resync, Self::Ping];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Restart => "restart",
            Self::Describe => "describe",
            Self::Resync => "resync",
            Self::Ping => "ping",
            Self::Exec => "exec",
        }
    }

    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == word)
    }

    /// Whether it may be carried out again when the same command comes twice: it changes nothing.
    #[must_use]
    pub fn reads_only(self) -> bool {
        match self {
            Self::Logs | Self::Describe => true,
            Self::Restart | Self::Resync | Self::Ping | Self::Exec => false,
        }
    }
}

/// The payload as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Command {
    pub api_version: String,
    pub kind: String,
    pub tenant: String,
    pub node: String,
    /// A UUID, and a level of the topic.
    pub id: String,
    pub verb: Verb,
    /// The node's connection that this is meant for, from its birth message: later ones do not take it.
    pub conn: u64,
    pub issued_at: String,
    /// When it is too late, RFC 3339. Looked at only by a node that knows the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    #[serde(default, skip_serializing_if = "Arguments::is_empty")]
    pub arguments: Arguments,
}

/// What the verbs are told; each takes its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Arguments {
    /// `logs`, `restart`, `exec`, and `describe` (of the node, if absent).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `logs`, `exec`: needed where the pod has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// `logs`: of the run before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub previous: bool,
    /// `logs`: only the last lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail_lines: Option<u64>,
    /// `logs`: only what is younger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_seconds: Option<u64>,
    /// `logs`, `exec`: at most so many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// `exec`: what to run, and its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
}

impl Arguments {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is to be done, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    Logs {
        pod: PodKey,
        container: Option<ContainerName>,
        previous: bool,
        tail_lines: Option<u64>,
        since: Option<Duration>,
        bytes_max: usize,
    },
    Restart {
        pod: PodKey,
    },
    Describe {
        /// Absent: the node.
        pod: Option<PodKey>,
    },
    Resync,
    Ping,
    Exec {
        pod: PodKey,
        container: Option<ContainerName>,
        command: Vec<String>,
        bytes_max: usize,
    },
}

impl Command {
    /// Checks a payload for itself.
    ///
    /// # Errors
    /// `Malformed` if it has not the form of a command, `Invalid` with every rule that it breaks.
    pub fn read(payload: &[u8]) -> Result<(Self, Task), Refusal> {
        let (_, command): (_, Self) = parse(payload)?;
        let mut causes = head(&command.api_version, &command.kind, "Command", &command.tenant);
        for (what, field, text) in [("node", "node", &command.node), ("id", "id", &command.id)] {
            if let Err(error) = check_level(what, text) {
                causes.push(Cause::invalid(field, error.to_string()));
            }
        }
        numbers(&mut causes, &[("conn", command.conn)]);
        issued(&mut causes, &command.issued_at);
        if command.expires_at.as_deref().is_some_and(|text| time_ms(text).is_none()) {
            causes.push(Cause::invalid("expiresAt", "must be a time as RFC 3339 writes it"));
        }
        match (command.task(&mut causes), causes.is_empty()) {
            (Some(task), true) => Ok((command, task)),
            _ => Err(Refusal::of(Reason::Invalid, causes)),
        }
    }

    /// The namespace that a key must be allowed for; `None`: the whole node.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.arguments.namespace.as_deref()
    }

    fn task(&self, causes: &mut Vec<Cause>) -> Option<Task> {
        let given = &self.arguments;
        self.only_its_own(causes);
        let pod = self.pod(causes);
        if let Some(container) = &given.container {
            let faults = crate::manifest::rules::dns_label(container);
            causes.extend(faults.into_iter().map(|f| Cause::invalid("arguments.container", f)));
        }
        let container = given.container.as_deref().map(ContainerName::new);
        let asked = given.limit_bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let bytes_max = asked.unwrap_or(REPLY_BYTES_MAX).min(REPLY_BYTES_MAX);
        let words = &given.command;
        Some(match self.verb {
            Verb::Logs => Task::Logs {
                pod: pod?,
                container,
                previous: given.previous,
                tail_lines: given.tail_lines,
                since: given.since_seconds.map(Duration::from_secs),
                bytes_max,
            },
            Verb::Restart => Task::Restart { pod: pod? },
            Verb::Describe => Task::Describe { pod },
            Verb::Resync => Task::Resync,
            Verb::Ping => Task::Ping,
            Verb::Exec => {
                let long = |word: &String| word.len() > EXEC_WORD_BYTES_MAX;
                if words.is_empty() || words.len() > EXEC_WORDS_MAX || words.iter().any(long) {
                    let rule = format!(
                        "must have 1 to {EXEC_WORDS_MAX} words of at most {EXEC_WORD_BYTES_MAX} bytes"
                    );
                    causes.push(Cause::invalid("arguments.command", rule));
                }
                Task::Exec { pod: pod?, container, command: words.clone(), bytes_max }
            }
        })
    }

    fn pod(&self, causes: &mut Vec<Cause>) -> Option<PodKey> {
        let (namespace, name) = (&self.arguments.namespace, &self.arguments.name);
        let needed = matches!(self.verb, Verb::Logs | Verb::Restart | Verb::Exec);
        match (namespace, name) {
            (Some(namespace), Some(name)) => {
                for (field, text) in [("arguments.namespace", namespace), ("arguments.name", name)]
                {
                    if let Err(error) = check_level("name", text) {
                        causes.push(Cause::invalid(field, error.to_string()));
                    }
                }
                Some(PodKey::new(namespace, name))
            }
            (None, None) if !needed => None,
            _ => {
                let message = "namespace and name of the pod must be set";
                causes.push(Cause::new("FieldValueRequired", "arguments", message));
                None
            }
        }
    }

    /// An argument that means nothing to a verb is a mistake.
    fn only_its_own(&self, causes: &mut Vec<Cause>) {
        use Verb::{Describe, Exec, Logs, Restart};
        let given = &self.arguments;
        let rows: [(&str, bool, &[Verb]); 8] = [
            ("namespace", given.namespace.is_some(), &[Logs, Restart, Exec, Describe]),
            ("name", given.name.is_some(), &[Logs, Restart, Exec, Describe]),
            ("container", given.container.is_some(), &[Logs, Exec]),
            ("previous", given.previous, &[Logs]),
            ("tailLines", given.tail_lines.is_some(), &[Logs]),
            ("sinceSeconds", given.since_seconds.is_some(), &[Logs]),
            ("limitBytes", given.limit_bytes.is_some(), &[Logs, Exec]),
            ("command", !given.command.is_empty(), &[Exec]),
        ];
        for (name, set, verbs) in rows {
            if set && !verbs.contains(&self.verb) {
                let message = format!("means nothing to {}", self.verb.as_str());
                causes.push(Cause::new(
                    "FieldValueForbidden",
                    &format!("arguments.{name}"),
                    message,
                ));
            }
        }
    }
}

/// One message of a reply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    pub api_version: String,
    pub kind: String,
    pub id: String,
    pub verb: String,
    /// From 0, without gaps.
    pub piece: u64,
    /// Whether another one follows.
    pub more: bool,
    /// The answer's next part, where it is UTF-8.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// The answer's next part, where it is not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub base64: String,
    /// On the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The command came once more, and this is what became of it then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeated: bool,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    pub ok: bool,
    /// A [`Reason`], if it is not ok.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Cause>,
    /// Of an `exec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// There was more than the bounds allow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

impl Outcome {
    #[must_use]
    pub fn done() -> Self {
        Self {
            ok: true,
            reason: None,
            message: String::new(),
            errors: vec![],
            exit_code: None,
            truncated: false,
        }
    }

    #[must_use]
    pub fn refused(refusal: Refusal) -> Self {
        Self {
            ok: false,
            reason: Some(refusal.reason),
            message: refusal.message,
            errors: refusal.causes,
            ..Self::done()
        }
    }
}
