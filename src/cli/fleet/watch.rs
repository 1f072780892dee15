//! `podling fleet get -w`: what changes, line by line, until Ctrl-C.
//!
//! Owns: what is news. A line each time that something of a node or pod is other than it was, but for ages; the same on a terminal
//! and in a pipe. While the connection is away a warning says so, and what has changed meanwhile follows when it is back.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use crate::board::selector::LabelSelector;
use crate::clock::Timestamp;
use crate::controller::session::{Session, Step};
use crate::error::Chain;
use crate::mqtt::controller::Fleet;
use crate::mqtt::transport::Transport;
use serde_json::Value;

use super::super::args::{FleetFormat, FleetGetArgs};
use super::super::columns::Columns;
use super::super::controller::Controller;
use super::super::{Out, complain};
use super::shown;
use super::view::{Item, Listing, View, object};

/// Messages that belong together come within this.
const TOGETHER: Duration = Duration::from_millis(100);

/// A look without a message: a node may have become silent.
const LOOK: Duration = Duration::from_secs(60);

/// How long a broker that is gone is tried again: longer than anybody watches.
const DAYS: Duration = Duration::from_secs(30 * 24 * 3600);

type News = (Vec<String>, Option<Value>);

/// See the header.
pub(super) struct Watch<'a> {
    args: &'a FleetGetArgs,
    labels: Option<&'a LabelSelector>,
    columns: Columns,
    /// What was shown last of each.
    told: BTreeMap<String, (Item, News)>,
}

impl<'a> Watch<'a> {
    /// After the first listing, which was shown unless it is of objects.
    pub(super) fn new(
        args: &'a FleetGetArgs,
        labels: Option<&'a LabelSelector>,
        columns: Columns,
        first: Listing,
    ) -> Self {
        let mut told = BTreeMap::new();
        if !matches!(args.output, Some(FleetFormat::Json | FleetFormat::Yaml)) {
            for item in &first.items {
                let news = first.news(item, args.output);
                told.insert(item.id.clone(), (item.clone(), news));
            }
        }
        Self { args, labels, columns, told }
    }

    pub(super) async fn run<T: Transport>(
        mut self,
        session: &mut Session<T>,
        controller: &Controller,
        out: &mut Out,
    ) -> anyhow::Result<ExitCode> {
        loop {
            let listing = View::of(session, self.args, self.labels);
            let listing = listing.list(self.args, session.now().wall_ms())?;
            self.tell(&listing, out)?;
            let until = session.now().plus(LOOK);
            let moved = self.wait(session, until).await;
            controller.remember(session);
            while let Some(complaint) = session.complaints.pop_first() {
                complain(&format!("Warning: {complaint}"));
            }
            if let Err(lost) = moved {
                complain(&format!("Warning: {}; trying again", Chain(&lost)));
                // What was withdrawn meanwhile is not said again: begin with nothing.
                session.fleet = Fleet::default();
                session.come_back(session.now().plus(DAYS), lost).await?;
                complain("connected again");
            }
        }
    }

    /// Until something has changed, and what came with it.
    async fn wait<T: Transport>(
        &self,
        session: &mut Session<T>,
        until: Timestamp,
    ) -> Result<(), crate::controller::session::SessionError> {
        let mut until = until;
        loop {
            match session.step(until).await? {
                Step::Time => return Ok(()),
                Step::Said { .. } | Step::Document { .. } => {
                    until = until.min(session.now().plus(TOGETHER));
                }
                Step::Reply
                | Step::Sent(_)
                | Step::Acked(..)
                | Step::Subscribed(..)
                | Step::Nothing => {}
            }
        }
    }

    /// Shows what is other than it was.
    pub(super) fn tell(&mut self, listing: &Listing, out: &mut Out) -> anyhow::Result<()> {
        let mut gone = std::mem::take(&mut self.told);
        for item in &listing.items {
            let news = listing.news(item, self.args.output);
            let before = gone.remove(&item.id);
            if before.is_none_or(|(_, before)| before != news) {
                self.line(item, out)?;
            }
            self.told.insert(item.id.clone(), (item.clone(), news));
        }
        for (mut item, _) in gone.into_values() {
            let status = listing.heading.iter().position(|title| *title == "STATUS");
            if let Some(cell) = status.and_then(|at| item.cells.get_mut(at)) {
                "Forgotten".clone_into(cell);
            }
            if !matches!(self.args.output, Some(FleetFormat::Json | FleetFormat::Yaml)) {
                self.line(&item, out)?;
            }
        }
        out.flush()
    }

    fn line(&mut self, item: &Item, out: &mut Out) -> anyhow::Result<()> {
        match (self.args.output, &item.object) {
            (Some(FleetFormat::Name), _) => out.line(&item.name),
            (Some(FleetFormat::Json), Some(value)) => out.text(&object(value, false)?),
            (Some(FleetFormat::Yaml), Some(value)) => {
                out.line("---")?;
                out.text(&object(value, true)?)
            }
            (Some(FleetFormat::Json | FleetFormat::Yaml), None) => Ok(()),
            (None | Some(FleetFormat::Wide), _) => {
                let row = shown(&item.cells);
                out.text(&self.columns.set(&[row]))
            }
        }
    }
}
