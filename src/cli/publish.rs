//! `podling publish`: pods to nodes, through the broker, seen through to the node's word on them.
//!
//! Owns: the order of the steps, and the exit code. Not: what is decided (`crate::controller`), nor how it is shown (`publish::show`).
//!
//! ```text
//!  files ─► check ─► connect ─► read what is there ─► images, secrets, next generation ─► sign ─► publish ─► wait, serving blocks
//! ```

mod local;
mod order;
mod prune;
mod show;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::board::selector::LabelSelector;
use crate::clock::Clock;
use crate::controller::bundle::{Bundle, bundles};
use crate::controller::images::{self, ImageError, Module};
use crate::controller::next::Conflict;
use crate::controller::prune::IndexConflict;
use crate::controller::publish::{self, Order, Outcome};
use crate::controller::session::{Session, SessionError};
use crate::image::Digest;
use crate::mqtt::cause::Reason;
use crate::mqtt::controller::{SecretKey, Verdict};
use crate::mqtt::link::Link;
use crate::mqtt::status::Stage;
use crate::mqtt::topic::{Scope, check_level};
use crate::secret;
use crate::spec::PodKey;

use super::args::{PublishArgs, PublishDryRun};
use super::controller::Controller;
use super::{Out, complain, duration, show_error};

use local::{Local, files};

/// Pods of one node that are listened to one by one.
const TOPICS_MAX: usize = 6;

/// What came of it, worst last: the exit code is that of the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Exit {
    Done = 0,
    Refused = 3,
    NotConnected = 4,
    NotGood = 5,
    Conflict = 6,
    TimedOut = 124,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

pub(super) fn run(args: &PublishArgs, out: &mut Out) -> anyhow::Result<ExitCode> {
    secret::leave_no_core_file();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(Publishing::new(args)?.run(out)) {
        Ok(exit) => Ok(exit.into()),
        Err(error) => {
            let Some(exit) = exit_of(&error) else { return Err(error) };
            show_error(&error);
            Ok(exit.into())
        }
    }
}

/// Errors that have an exit code of their own.
fn exit_of(error: &anyhow::Error) -> Option<Exit> {
    if let Some(error) = error.downcast_ref::<SessionError>() {
        return match error {
            SessionError::NotReached { .. }
            | SessionError::Lost { .. }
            | SessionError::NoAnswer { .. } => Some(Exit::NotConnected),
            SessionError::NotReadable { .. }
            | SessionError::NotWritable { .. }
            | SessionError::NotTaken { .. } => None,
        };
    }
    let conflict = error.downcast_ref::<Conflict>();
    let is_conflict = matches!(
        conflict,
        Some(Conflict::Foreign { .. } | Conflict::NotAbove { .. } | Conflict::Unbelievable { .. })
    );
    let is_conflict = is_conflict || error.downcast_ref::<IndexConflict>().is_some();
    is_conflict.then_some(Exit::Conflict)
}

/// What is to be published, before its numbers are known.
struct Wanted {
    pod: PodKey,
    /// Nothing: it is to be deleted.
    bundle: Option<Bundle>,
    modules: Vec<Module>,
}

struct Publishing<'a> {
    args: &'a PublishArgs,
    controller: Controller,
    key: Option<SecretKey>,
    scope: Scope,
    selector: BTreeMap<String, String>,
    /// With `--prune`: whose labels match.
    pruned: Option<LabelSelector>,
    timeout: Duration,
    clock: Clock,
}

impl<'a> Publishing<'a> {
    fn new(args: &'a PublishArgs) -> anyhow::Result<Self> {
        let controller = Controller::of(&args.broker)?;
        let key = if args.unsigned { None } else { Some(controller.key()?) };
        let scope = match (&args.node, &args.group) {
            (Some(node), None) => {
                check_level("node", node)?;
                Scope::Node
            }
            (None, Some(group)) => {
                check_level("group", group)?;
                Scope::Group(group.as_str().into())
            }
            _ => bail!("name the node (--node NAME) or the group (--group NAME)"),
        };
        let selector = pairs(&args.node_selector, "--node-selector")?;
        ensure!(
            selector.is_empty() || args.group.is_some(),
            "--node-selector chooses among the nodes of a --group"
        );
        ensure!(
            !args.prune || args.all || args.selector.is_some(),
            "all pods that are not in the files would end: choose with --prune -l SELECTOR, or say --prune --all"
        );
        let pruned = args.selector.as_deref().map(LabelSelector::parse).transpose()?;
        let timeout = duration::parse(&args.timeout)?;
        let clock = Clock::start();
        Ok(Self { args, controller, key, scope, selector, pruned, timeout, clock })
    }

    async fn run(&self, out: &mut Out) -> anyhow::Result<Exit> {
        let wanted = self.wanted().await?;
        if self.args.dry_run == PublishDryRun::Client {
            ensure!(!self.args.prune, "--prune must ask the broker what there is");
            let orders = self.orders(&wanted, None, None)?;
            show::dry_run(&orders, self.args.output, out)?;
            return Ok(Exit::Done);
        }
        let mut session = self.controller.session()?;
        session.connect().await?;
        session.listen(self.filters(&wanted)).await?;
        session.settle().await?;
        self.controller.remember(&mut session);
        let pruning = self.args.prune.then(|| prune::Pruning::new(self, &session)).transpose()?;
        let orders = self.orders(&wanted, Some(&session), pruning.as_ref())?;
        let index = pruning.map(|pruning| pruning.index(self, &session, &orders)).transpose()?;
        if self.args.dry_run == PublishDryRun::Server {
            show::dry_run(&orders, self.args.output, out)?;
            if let Some(index) = &index {
                index.dry_run(self.args.output, out)?;
            }
            session.leave().await;
            return Ok(Exit::Done);
        }
        self.offer(&wanted, &mut session)?;
        let outcomes = self.deliver(&mut session, &orders, &wanted, index.as_ref(), out).await?;
        let of_index = match &index {
            Some(index) => index.see_through(self, &mut session, out).await?,
            None => Exit::Done,
        };
        self.controller.remember(&mut session);
        session.leave().await;
        show::results(
            &orders,
            &outcomes,
            &bundles_of(&wanted),
            self.args.wait,
            self.args.output,
            out,
        )?;
        Ok(outcomes.iter().map(exit).max().unwrap_or(Exit::Done).max(of_index))
    }

    /// What the files, or the names, stand for.
    async fn wanted(&self) -> anyhow::Result<Vec<Wanted>> {
        let args = self.args;
        if args.delete && !args.names.is_empty() {
            let namespace = args.namespace.as_deref().unwrap_or(crate::board::DEFAULT_NAMESPACE);
            let pods = args.names.iter().map(|name| name.strip_prefix("pod/").unwrap_or(name));
            let pods = pods.map(|name| PodKey::new(namespace, name));
            return Ok(pods.map(|pod| Wanted { pod, bundle: None, modules: vec![] }).collect());
        }
        ensure!(
            args.names.is_empty(),
            "names are for --delete; what is published is named by a file (-f)"
        );
        ensure!(!args.files.is_empty(), "name the manifests with -f");
        let found = bundles(&files(&args.files)?, args.namespace.as_deref())?;
        for warning in &found.warnings {
            complain(&format!("Warning: {warning}"));
        }
        if args.delete {
            let pods = found.pods.into_iter().map(|bundle| bundle.key);
            return Ok(pods.map(|pod| Wanted { pod, bundle: None, modules: vec![] }).collect());
        }
        let sources = sources(&args.source)?;
        let named = |image: &String| {
            found.pods.iter().any(|bundle| bundle.images.iter().any(|i| i.text() == image))
        };
        if let Some(image) = sources.keys().find(|image| !named(image)) {
            return Err(ImageError::NoSuchImage(image.clone()).into());
        }
        let local = Local::new(args.state_dir.clone());
        let mut wanted = vec![];
        for bundle in found.pods {
            let modules = images::find(&bundle.images, &sources, &local, self.clock.now()).await?;
            #[cfg(feature = "compiler")]
            let modules = self.with_differences(modules)?;
            wanted.push(Wanted { pod: bundle.key.clone(), bundle: Some(bundle), modules });
        }
        Ok(wanted)
    }

    #[cfg(feature = "compiler")]
    fn with_differences(&self, mut modules: Vec<Module>) -> anyhow::Result<Vec<Module>> {
        for base in &self.args.delta_from {
            if !images::differences_from(base, &mut modules)? {
                complain(&format!(
                    "Warning: {} has too little in common with the modules of the pod: they are fetched whole",
                    base.display()
                ));
            }
        }
        Ok(modules)
    }

    fn filters(&self, wanted: &[Wanted]) -> Vec<String> {
        let tree = &self.controller.tree;
        let (root, tenant) = (tree.root(), tree.tenant());
        let (status, letter, owner) = match (&self.args.node, &self.scope) {
            (Some(node), _) => (format!("{root}/{tenant}/s/{node}/#"), 'n', node.as_str()),
            (None, Scope::Group(group)) => (tree.all_status(), 'g', &**group),
            (None, Scope::Node) => (tree.all_status(), 'n', "+"),
        };
        let pods = format!("{root}/{tenant}/{letter}/{owner}/pod");
        let mut filters = vec![status];
        if self.args.prune {
            filters.push(format!("{pods}/#"));
            filters.push(format!("{root}/{tenant}/{letter}/{owner}/desired"));
        } else if wanted.len() > TOPICS_MAX {
            filters.push(format!("{pods}/#"));
        } else {
            let each = wanted.iter().map(|w| format!("{pods}/{}/{}", w.pod.namespace, w.pod.name));
            filters.extend(each);
        }
        filters
    }

    /// Opens what nodes will fetch from here.
    fn offer(&self, wanted: &[Wanted], session: &mut Session<Link>) -> anyhow::Result<()> {
        for module in wanted.iter().flat_map(|wanted| &wanted.modules) {
            for (digest, difference) in &module.differences {
                session.offers.add_bytes(*digest, difference.clone());
            }
            let Some((path, stamp)) = &module.file else { continue };
            session.offers.add(module.artifact.digest, path, *stamp)?;
        }
        let only_here = |module: &&Module| module.artifact.sources == ["mqtt:"];
        let mut modules = wanted.iter().flat_map(|wanted| &wanted.modules);
        if !self.args.wait
            && let Some(module) = modules.find(only_here)
        {
            complain(&format!(
                "Warning: without waiting, nobody gives {} to the node if it needs it: publish the same again to do so, or name a place \
                 with --source",
                module.text
            ));
        }
        Ok(())
    }

    async fn deliver(
        &self,
        session: &mut Session<Link>,
        orders: &[Order],
        wanted: &[Wanted],
        index: Option<&prune::Index>,
        out: &mut Out,
    ) -> anyhow::Result<Vec<Outcome>> {
        let until = session.now().plus(self.timeout);
        let modules = wanted.iter().flat_map(|wanted| &wanted.modules);
        let names = modules.flat_map(|module| {
            let what = |digest: &Digest| (*digest, format!("the difference to {}", module.text));
            let differences = module.differences.iter().map(move |(digest, _)| what(digest));
            differences.chain([(module.artifact.digest, module.text.clone())])
        });
        let names = names.collect();
        let mut screen = show::Screen::new(self.args.output, names, out);
        if let Some(node) = &self.args.node {
            screen.node(node, session.fleet.nodes.get(node));
        }
        let outcome = async {
            publish::publish(session, orders, &mut |news| screen.tell(news)).await?;
            if let Some(index) = index {
                if !index.is_unchanged() {
                    session.publish(&index.message).await?;
                }
                screen.line(&index.published());
            }
            if !self.args.wait {
                return Ok(vec![]);
            }
            publish::wait(session, orders, until, &mut |news| screen.tell(news)).await
        };
        let outcome = outcome.await;
        screen.finish()?;
        Ok(outcome?)
    }
}

fn bundles_of(wanted: &[Wanted]) -> Vec<Option<&Bundle>> {
    wanted.iter().map(|wanted| wanted.bundle.as_ref()).collect()
}

fn exit(outcome: &Outcome) -> Exit {
    match &outcome.verdict {
        Verdict::Gone => Exit::Done,
        Verdict::Ended(rollout) => match rollout.stage {
            Stage::Committed => Exit::Done,
            Stage::Superseded => Exit::Conflict,
            Stage::RolledBack | Stage::Failed => Exit::NotGood,
            Stage::Accepted
            | Stage::Fetching
            | Stage::Verified
            | Stage::Starting
            | Stage::Probing => Exit::TimedOut,
        },
        Verdict::Refused(refused)
            if matches!(refused.reason, Reason::GenerationConflict | Reason::Stale) =>
        {
            Exit::Conflict
        }
        Verdict::Refused(_) => Exit::Refused,
        Verdict::Inactive(_) => Exit::NotGood,
        Verdict::Overtaken(_) => Exit::Conflict,
        Verdict::Waiting | Verdict::Progressing(_) | Verdict::Ending => Exit::TimedOut,
    }
}

/// `KEY=VALUE` of several options.
fn pairs(texts: &[String], option: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    };
    let pairs = texts
        .iter()
        .map(|text| pair(text).with_context(|| format!("{option} {text}: KEY=VALUE is expected")));
    pairs.collect()
}

fn sources(texts: &[String]) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
    let mut sources: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for text in texts {
        let pair = text.split_once('=');
        let (image, url) =
            pair.with_context(|| format!("--source {text}: IMAGE=URL is expected"))?;
        sources.entry(image.to_owned()).or_default().push(url.to_owned());
    }
    Ok(sources)
}
