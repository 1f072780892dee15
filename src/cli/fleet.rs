//! `podling fleet`: what all nodes say, out of what the broker retains, and asking one of them.
//!
//! Owns: the exit codes, and what `get` reads. Not: the connection (`crate::controller`), the tables (`view`), following changes
//! (`watch`), commands to a node (`ask`). Nothing but the broker is asked by `get`, so what is shown of a node that is away is what
//! it said last.

mod answer;
mod ask;
mod view;
mod watch;

use std::process::ExitCode;

use crate::board::selector::LabelSelector;
use crate::controller::command::AskError;
use crate::controller::session::{Session, SessionError};
use crate::mqtt::link::Link;

use super::args::{FleetCommand, FleetFormat, FleetGetArgs, FleetWhat};
use super::columns::{self, Columns};
use super::controller::Controller;
use super::{Out, complain, show_error};

use view::{Listing, View};

/// What became of it: the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Failed = 1,
    Refused = 3,
    NotConnected = 4,
    NotThere = 5,
    NoAnswer = 124,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Which exit code an error has.
fn exit(error: &anyhow::Error) -> Exit {
    if error.downcast_ref::<SessionError>().is_some() {
        return Exit::NotConnected;
    }
    match error.downcast_ref::<AskError>() {
        None | Some(AskError::Refused(_)) => Exit::Failed,
        Some(AskError::Session(_)) => Exit::NotConnected,
        Some(AskError::Unknown { .. } | AskError::Offline { .. } | AskError::WentAway { .. }) => {
            Exit::NotThere
        }
        Some(AskError::Nonsense { .. }) => Exit::Refused,
        Some(
            AskError::NoAnswer { .. } | AskError::StartedAnew { .. } | AskError::Incomplete { .. },
        ) => Exit::NoAnswer,
    }
}

pub(super) fn run(command: &FleetCommand, out: &mut Out) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = match command {
        FleetCommand::Get(args) => runtime.block_on(get(args, out)),
        command @ (FleetCommand::Logs(_)
        | FleetCommand::Restart(_)
        | FleetCommand::Describe(_)
        | FleetCommand::Resync(_)
        | FleetCommand::Ping(_)
        | FleetCommand::Exec(_)) => runtime.block_on(ask::run(command, out)),
    };
    match done {
        Err(error) if exit(&error) != Exit::Failed => {
            out.flush()?;
            show_error(&error);
            Ok(exit(&error).into())
        }
        other => other,
    }
}

async fn get(args: &FleetGetArgs, out: &mut Out) -> anyhow::Result<ExitCode> {
    let labels = args.selector.as_deref().map(LabelSelector::parse).transpose()?;
    let controller = Controller::of(&args.broker)?;
    let mut session = controller.session()?;
    session.connect().await?;
    read(&mut session, args).await?;
    controller.remember(&mut session);
    for complaint in &session.complaints {
        complain(&format!("Warning: {complaint}"));
    }
    let now_ms = session.now().wall_ms();
    let listing = View::of(&session, args, labels.as_ref()).list(args, now_ms)?;
    let mut columns = Columns::default();
    if args.watch {
        if !matches!(args.output, Some(FleetFormat::Json | FleetFormat::Yaml)) {
            out.text(&table(&listing, args, &mut columns))?;
        }
        session.complaints.clear();
        let watch = watch::Watch::new(args, labels.as_ref(), columns, listing);
        return watch.run(&mut session, &controller, out).await;
    }
    session.leave().await;
    match args.output {
        Some(FleetFormat::Json) => out.text(&view::objects(&listing, false)?)?,
        Some(FleetFormat::Yaml) => out.text(&view::objects(&listing, true)?)?,
        None | Some(FleetFormat::Wide | FleetFormat::Name) => {
            out.text(&table(&listing, args, &mut columns))?;
            if listing.items.is_empty() {
                complain("No resources found");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes in what is retained. Documents, too, where this client may read them: what is wanted of a node that is away.
async fn read(session: &mut Session<Link>, args: &FleetGetArgs) -> Result<(), SessionError> {
    let below = format!("{}/{}", session.tree().root(), session.tree().tenant());
    let node = args.node.as_deref().unwrap_or("+");
    let mut statuses = vec![format!("{below}/s/{node}/online"), format!("{below}/s/{node}/node")];
    let mut all = statuses.clone();
    if args.what == FleetWhat::Pods {
        statuses.push(format!("{below}/s/{node}/pod/+/+"));
        all.clone_from(&statuses);
        all.push(format!("{below}/n/{node}/pod/+/+"));
        all.push(format!("{below}/g/+/pod/+/+"));
    }
    match session.listen(all).await {
        Err(SessionError::NotReadable { filter, .. }) if !filter.contains("/s/") => {
            session.listen(statuses).await?;
        }
        other => other?,
    }
    session.settle().await
}

/// The table, or the names; an empty text where there is nothing.
fn table(listing: &Listing, args: &FleetGetArgs, columns: &mut Columns) -> String {
    if args.output == Some(FleetFormat::Name) {
        return listing.items.iter().map(|item| format!("{}\n", item.name)).collect();
    }
    if listing.items.is_empty() && !args.watch {
        return String::new();
    }
    let heading = listing.heading.iter().map(|&title| title.to_owned()).collect();
    let rows = listing.items.iter().map(|item| shown(&item.cells));
    let all: Vec<Vec<String>> =
        (!args.no_headers).then_some(heading).into_iter().chain(rows).collect();
    columns.set(&all)
}

/// Cells as a terminal may see them.
fn shown(cells: &[String]) -> Vec<String> {
    cells.iter().map(|cell| columns::cell(cell)).collect()
}

#[cfg(test)]
mod tests;
