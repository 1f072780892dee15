//! `podling fleet logs|restart|describe|resync|ping|exec`: one node is asked through the broker.
//!
//! Owns: what of the command line is asked, and the exit code. Not: asking (`crate::controller::command`), nor pages (`answer`).

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, ensure};
use serde_json::{Value, json};

use crate::controller::command::{Answer, AskError, Question, ask};
use crate::mqtt::cause::Reason;
use crate::mqtt::command::{Arguments, COMMAND_TIME_MAX, Outcome, Verb};
use crate::mqtt::signature::Standing;
use crate::mqtt::topic::check_level;
use crate::server::age;

use super::super::args::{AskArgs, FleetCommand, ReportFormat};
use super::super::controller::Controller;
use super::super::known::does_not_sign;
use super::super::{Out, complain, duration};
use super::{Exit, answer};

/// What is asked, and how.
struct Asked<'a> {
    node: &'a str,
    verb: Verb,
    arguments: Arguments,
    how: &'a AskArgs,
}

pub(super) async fn run(command: &FleetCommand, out: &mut Out) -> anyhow::Result<ExitCode> {
    let asked = asked(command)?;
    check_level("node", asked.node)?;
    let within = duration::parse(&asked.how.timeout)?;
    ensure!(!within.is_zero(), "--timeout is how long to wait for the answer");
    let controller = Controller::of(&asked.how.broker)?;
    let key = if asked.how.unsigned { None } else { Some(controller.key()?) };
    let id = asked.how.id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let mut session = controller.session()?;
    session.connect().await?;
    let (node, verb, arguments) = (asked.node.to_owned(), asked.verb, asked.arguments.clone());
    let question = Question { node, verb, arguments, id };
    let keys: Vec<_> = key.iter().collect();
    let came = ask(&mut session, &question, &keys, within).await;
    controller.remember(&mut session);
    for complaint in &session.complaints {
        complain(&format!("Warning: {complaint}"));
    }
    let now_ms = session.now().wall_ms();
    session.leave().await;
    let came = came.map_err(|error| explained(error, asked.node, within))?;
    if came.standing == Standing::Unsigned {
        complain(&does_not_sign(asked.node));
    }
    show(&asked, &question, &came, now_ms, out)
}

fn asked(command: &FleetCommand) -> anyhow::Result<Asked<'_>> {
    let of = |namespace: &Option<String>, pod: &str| -> anyhow::Result<Arguments> {
        let name = match pod.split_once('/') {
            None => pod,
            Some(("pod" | "pods" | "po", name)) => name,
            Some((kind, _)) => bail!("a {kind} cannot be asked for: name a pod"),
        };
        let namespace = namespace.as_deref().unwrap_or(crate::board::DEFAULT_NAMESPACE);
        let (namespace, name) = (Some(namespace.to_owned()), Some(name.to_owned()));
        Ok(Arguments { namespace, name, ..Arguments::default() })
    };
    let asked = |node, verb, arguments, how| Asked { node, verb, arguments, how };
    Ok(match command {
        FleetCommand::Logs(args) => {
            let since = args.since.as_deref().map(duration::parse).transpose()?;
            let arguments = Arguments {
                container: args.container.clone(),
                previous: args.previous,
                tail_lines: args.tail,
                // Half a second is at least one.
                since_seconds: since.map(|since| {
                    u64::try_from(since.as_millis().div_ceil(1000)).unwrap_or(u64::MAX)
                }),
                limit_bytes: args.limit_bytes,
                ..of(&args.namespace, &args.pod)?
            };
            asked(&args.node, Verb::Logs, arguments, &args.ask)
        }
        FleetCommand::Restart(args) => {
            asked(&args.node, Verb::Restart, of(&args.namespace, &args.pod)?, &args.ask)
        }
        FleetCommand::Describe(args) => {
            let pod = args.pod.as_deref().map(|pod| of(&args.namespace, pod)).transpose()?;
            asked(&args.node, Verb::Describe, pod.unwrap_or_default(), &args.ask)
        }
        FleetCommand::Resync(args) => {
            asked(&args.node, Verb::Resync, Arguments::default(), &args.ask)
        }
        FleetCommand::Ping(args) => asked(&args.node, Verb::Ping, Arguments::default(), &args.ask),
        FleetCommand::Exec(args) => {
            let arguments = Arguments {
                container: args.container.clone(),
                command: args.command.clone(),
                ..of(&args.namespace, &args.pod)?
            };
            asked(&args.node, Verb::Exec, arguments, &args.ask)
        }
        FleetCommand::Get(_) => bail!("`get` asks no node"),
    })
}

/// What a person can do about it, where the error does not say so itself.
fn explained(error: AskError, node: &str, within: Duration) -> anyhow::Error {
    let hint = match &error {
        AskError::Offline { heard: Some(heard), .. } => {
            let ms = i64::try_from(heard.as_millis()).unwrap_or(i64::MAX);
            Some(format!("{node} was last heard {} ago", age::human(ms)))
        }
        AskError::NoAnswer { .. } if within < COMMAND_TIME_MAX => Some(format!(
            "a node takes up to {} s for a command (--timeout)",
            COMMAND_TIME_MAX.as_secs()
        )),
        AskError::NoAnswer { .. } => Some(
            "a broker of MQTT 3.1.1 drops what its access list forbids without a word: the client must be allowed to publish below \
             n/NODE/cmd, and the node below s/NODE/res"
                .to_owned(),
        ),
        AskError::Session(_)
        | AskError::Refused(_)
        | AskError::Unknown { .. }
        | AskError::Offline { .. }
        | AskError::WentAway { .. }
        | AskError::StartedAnew { .. }
        | AskError::Incomplete { .. }
        | AskError::Nonsense { .. } => None,
    };
    if let Some(hint) = hint {
        complain(&hint);
    }
    error.into()
}

fn show(
    asked: &Asked<'_>,
    question: &Question,
    came: &Answer,
    now_ms: i64,
    out: &mut Out,
) -> anyhow::Result<ExitCode> {
    let outcome = &came.outcome;
    if asked.how.output == ReportFormat::Json {
        out.line(&serde_json::to_string_pretty(&as_json(asked, question, came))?)?;
    } else if outcome.ok {
        text(asked, came, now_ms, out)?;
    } else {
        // What came before it went wrong may say why.
        out.bytes(&came.content)?;
        out.flush()?;
        refused(asked, came);
    }
    if outcome.truncated && asked.how.output == ReportFormat::Text {
        out.flush()?;
        complain(
            "Warning: there was more than an answer may have (--tail, --since, --limit-bytes)",
        );
    }
    Ok(match outcome.exit_code {
        // As kubectl: whoever ran it wants to know how it ended.
        Some(code) if outcome.ok => ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)),
        _ if outcome.ok => ExitCode::SUCCESS,
        _ => Exit::Refused.into(),
    })
}

fn text(asked: &Asked<'_>, came: &Answer, now_ms: i64, out: &mut Out) -> anyhow::Result<()> {
    let repeated = if came.repeated { " (it was carried out before)" } else { "" };
    let name = asked.arguments.name.as_deref().unwrap_or_default();
    match asked.verb {
        Verb::Logs | Verb::Exec => out.bytes(&came.content),
        Verb::Describe => out.text(&answer::page(&came.content, now_ms)?),
        Verb::Restart => out.line(&format!("pod/{name} restarted{repeated}")),
        Verb::Resync => out.line(&format!("node/{} says everything anew{repeated}", asked.node)),
        Verb::Ping => out.line(&format!(
            "node/{} answered after {} ms on connection {}{repeated}",
            asked.node,
            came.took.as_millis(),
            came.conn
        )),
    }
}

fn as_json(asked: &Asked<'_>, question: &Question, came: &Answer) -> Value {
    let mut shown = json!({
        "node": asked.node,
        "verb": asked.verb,
        "id": question.id,
        "conn": came.conn,
        "milliseconds": u64::try_from(came.took.as_millis()).unwrap_or(u64::MAX),
        "repeated": came.repeated,
        "signature": came.standing.as_str(),
        "outcome": came.outcome,
    });
    let described = || serde_json::from_slice::<Value>(&came.content).ok();
    if asked.verb == Verb::Describe
        && let Some(Value::Object(fields)) = described()
        && let Some(shown) = shown.as_object_mut()
    {
        shown.extend(fields);
    } else if let Ok(text) = std::str::from_utf8(&came.content) {
        shown["text"] = text.into();
    } else {
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::STANDARD.encode(&came.content);
        shown["base64"] = encoded.into();
    }
    shown
}

/// A node that does not do it, with everything that it says of that.
fn refused(asked: &Asked<'_>, came: &Answer) {
    let (node, outcome) = (asked.node, &came.outcome);
    let reason = outcome.reason.map_or("Failed", Reason::as_str);
    let repeated = if came.repeated { " (as it said before)" } else { "" };
    complain(&format!("error: {node} says {reason}{repeated}: {}", outcome.message));
    for cause in outcome.errors.iter().filter(|_| outcome.errors.len() > 1) {
        let field =
            if cause.field.is_empty() { String::new() } else { format!("{}: ", cause.field) };
        complain(&format!("  {field}{}", cause.message));
    }
    if let Some(hint) = hint(asked.verb, outcome) {
        complain(hint);
    }
    if let Some(behind) = came.clock_behind {
        let ms = i64::try_from(behind.as_millis()).unwrap_or(i64::MAX);
        complain(&format!(
            "the clock of this machine is {} behind the node's, so what it signs is too late at once: set it",
            age::human(ms)
        ));
    }
}

/// What a person does about it.
fn hint(verb: Verb, outcome: &Outcome) -> Option<&'static str> {
    let reason = outcome.reason?;
    if matches!(reason, Reason::UntrustedKey | Reason::NotSigned | Reason::NotAllowed) {
        Some(
            "the node does not trust the signing key for this: it needs the role `command` in the node's trust anchor or in the trust \
             document, for the pod's namespace, or for all where the whole node is meant (docs/mqtt.md, \"Trust\")",
        )
    } else if reason == Reason::NotSupported && verb == Verb::Exec {
        Some("exec must be named in `mqtt.commands` of the node's configuration")
    } else {
        None
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn parsed(line: &str) -> FleetCommand {
        let words = ["podling", "fleet"].into_iter().chain(line.split_whitespace());
        let Command::Fleet(command) = Cli::try_parse_from(words).unwrap().command else { panic!() };
        command
    }

    #[test]
    fn the_words_of_a_person_are_a_nodes_arguments() {
        let command = parsed("logs gw-17 pod/web -n shop -c app -p --tail 5 --since 1500ms");
        let asked = asked(&command).unwrap();
        assert_eq!((asked.node, asked.verb), ("gw-17", Verb::Logs));
        let expected = Arguments {
            namespace: Some("shop".into()),
            name: Some("web".into()),
            container: Some("app".into()),
            previous: true,
            tail_lines: Some(5),
            since_seconds: Some(2),
            ..Arguments::default()
        };
        assert_eq!(asked.arguments, expected);
        let command = parsed("describe gw-17");
        assert_eq!(super::asked(&command).unwrap().arguments, Arguments::default());
        let command = parsed("exec gw-17 web -- ls -l");
        assert_eq!(super::asked(&command).unwrap().arguments.command, ["ls", "-l"]);
        assert!(super::asked(&parsed("restart gw-17 service/web")).is_err());
    }
}
