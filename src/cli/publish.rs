//! `podling publish`: pods to nodes, through the broker, seen through to the node's word on them.
//!
//! Owns: the order of the steps, and the exit code. Not: what is decided (`crate::controller`), nor how it is shown (`publish::show`).
//!
//! ```text
//!  files ─► check ─► connect ─► read what is there ─► images, secrets, next generation ─► sign ─► publish ─► wait, serving blocks
//! ```

mod local;
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
use crate::controller::next::{Choice, Conflict, Known, Next, Retained, draft, next};
use crate::controller::prune::IndexConflict;
use crate::controller::publish::{self, Order, Outcome};
use crate::controller::session::{Session, SessionError};
use crate::image::Digest;
use crate::mqtt::cause::Reason;
use crate::mqtt::controller::{self as documents, Message, SecretKey, Verdict};
use crate::mqtt::intent::{Manifest, PodIntent, RolloutPolicy, SealedSecret, time_text};
use crate::mqtt::link::Link;
use crate::mqtt::status::{PodStatus, Stage};
use crate::mqtt::topic::{Scope, check_level};
use crate::mqtt::version::Version;
use crate::secret::{self, Recipient};
use crate::spec::PodKey;

use super::args::{PublishArgs, PublishDryRun};
use super::controller::Controller;
use super::{Out, complain, duration, show_error};

use local::{Local, files};

/// Largest intent that is published without being told to: what the smallest of the hosted brokers takes.
const INTENT_BYTES_MAX: usize = 64 * 1024;

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
    let is_conflict =
        matches!(conflict, Some(Conflict::Foreign { .. } | Conflict::NotAbove { .. }));
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

    /// Signed documents for everything that is wanted.
    fn orders(
        &self,
        wanted: &[Wanted],
        session: Option<&Session<Link>>,
        pruning: Option<&prune::Pruning>,
    ) -> anyhow::Result<Vec<Order>> {
        let recipient = self.recipient(wanted, session)?;
        let order = |wanted| self.order(wanted, session, recipient.as_ref(), pruning);
        wanted.iter().map(order).collect()
    }

    fn order(
        &self,
        wanted: &Wanted,
        session: Option<&Session<Link>>,
        recipient: Option<&Recipient>,
        pruning: Option<&prune::Pruning>,
    ) -> anyhow::Result<Order> {
        let (tree, pod) = (&self.controller.tree, &wanted.pod);
        let node = self.args.node.as_deref().unwrap_or_default();
        let mut draft = draft(tree.tenant(), node, &self.scope, pod);
        if let Some(bundle) = &wanted.bundle {
            self.fill(&mut draft, bundle, &wanted.modules, recipient)?;
        }
        let topic = tree.pod(&self.scope, node, pod)?;
        let public = self.key.as_ref().map(SecretKey::public);
        let standing = session.and_then(|session| session.documents.get(&topic));
        let retained = standing.and_then(|message| Retained::read(message, public.as_ref()));
        let known = known(session, retained.as_ref(), &self.scope, node, pod);
        if let (Some(epoch), Some(old), None) = (known.epoch, &retained, self.args.epoch)
            && old.is_ours
            && epoch > old.intent.epoch
        {
            complain(&format!(
                "Warning: pod {pod} is signed for epoch {epoch}, which the broker says nodes are in; it stood in epoch {}. If no root has raised \
                 it, stop here (--epoch)",
                old.intent.epoch
            ));
        }
        let choice = Choice {
            epoch: self.args.epoch,
            generation: self.args.generation,
            take_over: self.args.force_conflicts,
            recreate: self.args.recreate,
            again: self.args.again,
            index_revision: pruning.and_then(|p| p.index_revision(pod, retained.as_ref())),
        };
        let now = time_text(self.clock.now().wall_ms());
        let uid = uuid::Uuid::new_v4().to_string();
        let (message, version, unchanged) =
            match next(draft, &self.scope, &known, &choice, &uid, &now)? {
                Next::Unchanged(old) => {
                    let (epoch, generation) = (old.intent.epoch, old.intent.generation);
                    let (payload, digest) = (old.message.to_vec(), old.digest);
                    let message = Message { topic, payload, retain: true, digest };
                    (message, Version { epoch, generation }, true)
                }
                Next::New(intent) => {
                    let keys: Vec<&SecretKey> = self.key.iter().collect();
                    let message = documents::intent(tree, &intent, &keys)
                        .with_context(|| format!("pod {pod} cannot be published"))?;
                    let (epoch, generation) = (intent.epoch, intent.generation);
                    (message, Version { epoch, generation }, false)
                }
            };
        let size = message.payload.len();
        ensure!(
            size <= INTENT_BYTES_MAX || self.args.allow_large,
            "pod {pod}: the document has {size} bytes; some hosted brokers take no more than {INTENT_BYTES_MAX} \
             (--allow-large publishes it all the same)"
        );
        let (node, selector) = (self.args.node.clone(), self.selector.clone());
        let scope = self.scope.clone();
        Ok(Order { pod: pod.clone(), scope, node, selector, message, version, unchanged })
    }

    /// Completes a draft with what the pod is.
    fn fill(
        &self,
        draft: &mut PodIntent,
        bundle: &Bundle,
        modules: &[Module],
        recipient: Option<&Recipient>,
    ) -> anyhow::Result<()> {
        let renamed: BTreeMap<String, String> = modules
            .iter()
            .filter(|module| module.text != module.artifact.image)
            .map(|module| (module.text.clone(), module.artifact.image.clone()))
            .collect();
        draft.deleted = false;
        draft.manifest = Some(Manifest::Text(bundle.manifest(&renamed)));
        let mut artifacts = vec![];
        for module in modules {
            // Two files may hold the same.
            if !artifacts.contains(&module.artifact) {
                artifacts.push(module.artifact.clone());
            }
        }
        draft.artifacts = artifacts;
        draft.node_selector = self.selector.clone();
        draft.rollout = self.rollout()?;
        for secret in &bundle.secrets {
            let name = secret.metadata.name.clone().unwrap_or_default();
            let recipient = recipient.with_context(|| format!("secret {name}: sealed to whom?"))?;
            let json = secret::Zeroizing::new(serde_json::to_vec(secret)?);
            let sealed =
                secret::encrypt(recipient, &json).with_context(|| format!("secret {name}"))?;
            draft.secrets.push(SealedSecret { name, sealed });
        }
        Ok(())
    }

    fn rollout(&self) -> anyhow::Result<RolloutPolicy> {
        let seconds = |text: &Option<String>| {
            text.as_deref().map(|text| duration::parse(text).map(|d| d.as_secs())).transpose()
        };
        Ok(RolloutPolicy {
            fetch_deadline_seconds: seconds(&self.args.fetch_deadline)?,
            progress_deadline_seconds: seconds(&self.args.progress_deadline)?,
            min_ready_seconds: seconds(&self.args.min_ready)?,
        })
    }

    /// To whom secrets are encrypted, if there are any in clear.
    fn recipient(
        &self,
        wanted: &[Wanted],
        session: Option<&Session<Link>>,
    ) -> anyhow::Result<Option<Recipient>> {
        let bundles = wanted.iter().filter_map(|wanted| wanted.bundle.as_ref());
        if bundles.flat_map(|bundle| &bundle.secrets).next().is_none() {
            return Ok(None);
        }
        let Some(node) = &self.args.node else {
            bail!("Secrets cannot be sent to a group: each node has a key of its own (--node)");
        };
        let pinned = self.args.recipient.as_ref().or(self.controller.recipients.get(node));
        if let Some(pinned) = pinned {
            return Ok(Some(pinned.parse()?));
        }
        let status = session.and_then(|session| session.fleet.nodes.get(node)?.status.as_ref());
        let said = status.and_then(|status| status.capabilities.recipient.clone());
        let said = said.with_context(|| {
            format!(
                "node {node} has not said to whom its secrets are encrypted: name it with --recipient (podling key node prints it there)"
            )
        })?;
        complain(&format!(
            "Warning: secrets are encrypted to {said}, as the broker says that {node} says; to rely on nobody, write it under \
             recipients in {} or use --recipient",
            self.controller.origin
        ));
        Ok(Some(said.parse()?))
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

/// What is known of a pod.
fn known<'s>(
    session: Option<&'s Session<Link>>,
    retained: Option<&'s Retained>,
    scope: &Scope,
    node: &str,
    pod: &PodKey,
) -> Known<'s> {
    let Some(session) = session else { return Known::default() };
    let is_meant = |name: &str| *scope != Scope::Node || name == node;
    let views = session.fleet.nodes.iter().filter(|(name, _)| is_meant(name));
    let (mut statuses, mut epoch): (Vec<&PodStatus>, Option<u64>) = (vec![], None);
    for (_, view) in views {
        statuses.extend(view.pods.get(pod).map(|status| &**status));
        let theirs = view.status.as_ref().map(|status| status.trust.epoch);
        epoch = epoch.max(theirs.filter(|epoch| *epoch > 0));
    }
    Known { retained, statuses, epoch }
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
