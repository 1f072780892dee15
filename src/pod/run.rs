//! One run of one container: from its image to its end.
//!
//! Owns: the order in which a run comes about (environment, mounts, code, start), what can go wrong at each step in
//! Kubernetes' reasons, and the termination message. Not: when to start or stop (`lifecycle`), nor how a guest runs
//! (`runtime`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, open};
use tokio::sync::mpsc;

use crate::error::chain;
use crate::image::ResolvedImage;
use crate::lifecycle::{Event, RunId};
use crate::limits::TERMINATION_MESSAGE_BYTES_MAX;
use crate::pod::context::NodeContext;
use crate::pod::environment::{Resolved, resolve};
use crate::pod::hands::Report;
use crate::pod::holds::Holds;
use crate::pod::logs::LogRing;
use crate::pod::objects::BoardObjects;
use crate::pod::sandbox::Sandbox;
use crate::runtime::{
    Artifact, GuestMount, LogSink, ModuleFile, Run, RunControl, RunHandle, RunLimits, Stdin,
    TcpPort,
};
use crate::spec::{Container, Exit, Pod, Protocol, TerminationMessagePolicy};
use crate::volume::{PreparedMount, RunMounts};

/// Log tail that stands in for an empty termination message (`MaxContainerTerminationMessageLogLines/LogLength`).
const FALLBACK_LINES: usize = 80;
const FALLBACK_BYTES: usize = 2048;

/// Why a run did not start; becomes the container's waiting reason and message.
#[derive(Debug)]
pub struct StartFailure {
    pub reason: &'static str,
    pub message: String,
}

impl StartFailure {
    fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message }
    }

    /// The shell's own task broke: a bug of ours, shown rather than swallowed.
    #[must_use]
    pub fn broken(what: &dyn std::fmt::Display) -> Self {
        Self::new("RunContainerError", format!("podling failed internally: {what}"))
    }
}

/// A run that is under way.
#[derive(Debug)]
pub struct Begun {
    pub handle: RunHandle,
    pub folders: RunFolders,
}

/// What was made on disk for one run. It goes with this: a run that does not come about, or that nobody waits for any more, leaves
/// nothing behind either.
#[derive(Debug)]
pub struct RunFolders {
    node: Arc<NodeContext>,
    pod: Arc<Pod>,
    mounts: Option<RunMounts>,
}

impl RunFolders {
    /// The folders to be handed to the run; once.
    fn take_mounts(&mut self) -> Vec<PreparedMount> {
        self.mounts.as_mut().map(|run| std::mem::take(&mut run.mounts)).unwrap_or_default()
    }

    /// Takes them away, on another thread; returns what the run left as termination message.
    pub async fn clear(mut self) -> String {
        match self.removal() {
            Some(removal) => tokio::task::spawn_blocking(removal).await.unwrap_or_default(),
            None => String::new(),
        }
    }

    fn removal(&mut self) -> Option<impl FnOnce() -> String + Send + use<>> {
        let mounts = self.mounts.take()?;
        let (node, pod) = (Arc::clone(&self.node), Arc::clone(&self.pod));
        Some(move || node.volumes.end_run(&pod, mounts))
    }
}

impl Drop for RunFolders {
    fn drop(&mut self) {
        let Some(removal) = self.removal() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(removal)),
            // The daemon ends; what is left is removed when the pod is set up again.
            Err(_) => drop(removal),
        }
    }
}

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Ingredients {
    pub node: Arc<NodeContext>,
    pub pod: Arc<Pod>,
    pub sandbox: Arc<Sandbox>,
    pub image: ResolvedImage,
}

impl Ingredients {
    /// Starts the container's module; tells if it has to be compiled first.
    ///
    /// # Errors
    /// With the reason that Kubernetes has for the step that failed.
    pub async fn start(
        &self,
        container: &Container,
        run: &RunId,
        sink: Arc<dyn LogSink>,
        news: &mpsc::Sender<Report>,
    ) -> Result<Begun, StartFailure> {
        let resolved = self.environment(container)?;
        let artifact = self.artifact(container, Some((run, news))).await?;
        let mut folders = self.folders(container, run.attempt, &resolved).await?;
        let handle = self.instance(container, resolved, artifact, &mut folders, sink, None).await?;
        Ok(Begun { handle, folders })
    }

    /// Starts a second instance of the module with another argv (exec probe or hook), charged to the running one.
    ///
    /// # Errors
    /// As [`Ingredients::start`].
    pub async fn exec(
        &self,
        container: &Container,
        serial: u32,
        command: &[String],
        sink: Arc<dyn LogSink>,
        charge_to: RunControl,
    ) -> Result<Begun, StartFailure> {
        let mut resolved = self.environment(container)?;
        resolved.argv = command.to_vec();
        let artifact = self.artifact(container, None).await?;
        let mut folders = self.folders(container, serial, &resolved).await?;
        let handle = self
            .instance(container, resolved, artifact, &mut folders, sink, Some(charge_to))
            .await?;
        Ok(Begun { handle, folders })
    }

    fn environment(&self, container: &Container) -> Result<Resolved, StartFailure> {
        let mut facts = self.node.facts(self.sandbox.ip());
        if self.pod.network.service_links {
            let services = self.node.fabric.variables(&self.pod.key.namespace);
            facts.services = services.into_iter().collect();
        }
        let objects =
            BoardObjects { board: self.node.board.clone(), key: self.node.secrets.clone() };
        resolve(&self.pod, container, &facts, &objects)
            .map_err(|e| StartFailure::new("CreateContainerConfigError", chain(&e)))
    }

    async fn artifact(
        &self,
        container: &Container,
        news: Option<(&RunId, &mpsc::Sender<Report>)>,
    ) -> Result<Artifact, StartFailure> {
        let module =
            ModuleFile { path: self.image.path.clone(), sha256: *self.image.digest.bytes() };
        let told = AtomicBool::new(false);
        let tell = |event| async move {
            if let Some((_, news)) = news {
                // The worker is gone only when nobody is interested any more.
                drop(news.send(Report::Event(event)).await);
            }
        };
        let compiling = async {
            told.store(true, Ordering::Relaxed);
            if let Some((run, _)) = news {
                let digest = self.image.digest.to_string();
                tell(Event::Compiling { run: run.clone(), digest }).await;
            }
        };
        let fuel = container.resources.needs_fuel();
        let holds = Holds::default();
        let held = |held| holds.set(held);
        let preparing = self.node.runtime.prepare_telling(module, fuel, compiling, &held);
        let prepared = match news {
            Some((run, news)) => holds.telling(run, news, preparing).await,
            None => preparing.await,
        };
        let prepared = prepared.map_err(|e| {
            let message = format!("image {}: {}", container.image, chain(&e));
            StartFailure::new("CreateContainerError", message)
        })?;
        if let Some((run, _)) = news.filter(|_| told.load(Ordering::Relaxed)) {
            tell(Event::Compiled { run: run.clone(), took: prepared.compiled }).await;
        }
        Ok(prepared.artifact)
    }

    async fn folders(
        &self,
        container: &Container,
        attempt: u32,
        resolved: &Resolved,
    ) -> Result<RunFolders, StartFailure> {
        let (this, container) = (self.clone(), container.clone());
        let sub_paths = resolved.sub_paths.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            let volumes = this.sandbox.volumes();
            let mounts =
                this.node.volumes.prepare(&this.pod, &container, attempt, volumes, &sub_paths);
            let Self { node, pod, .. } = this;
            // Here, so that they go also if nobody waits for them any more.
            mounts.map(|mounts| RunFolders { node, pod, mounts: Some(mounts) })
        });
        match prepared.await {
            Ok(Ok(folders)) => Ok(folders),
            Ok(Err(e)) => Err(StartFailure::new(e.reason(), chain(&e))),
            Err(e) => Err(StartFailure::broken(&e)),
        }
    }

    async fn instance(
        &self,
        container: &Container,
        resolved: Resolved,
        artifact: Artifact,
        folders: &mut RunFolders,
        logs: Arc<dyn LogSink>,
        charge_to: Option<RunControl>,
    ) -> Result<RunHandle, StartFailure> {
        let failed = |e: &dyn std::error::Error| StartFailure::new("RunContainerError", chain(e));
        let mut guest_mounts = vec![];
        // The handles pass to the runtime; keeping ours as well would cost each module twice the descriptors.
        for mount in folders.take_mounts() {
            // The path leads to the very directory that was checked, not to its name.
            let dir = open(
                mount.host(),
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(|e| failed(&std::io::Error::from(e)))?;
            let (guest, read_only) = (mount.guest().to_owned(), mount.read_only());
            let room = self.sandbox.room(&mount);
            guest_mounts.push(GuestMount { dir, guest, read_only, room });
        }
        let limits = &container.resources;
        let run = Run {
            name: format!("{}/{}", self.pod.key, container.name),
            artifact,
            argv: resolved.argv,
            env: resolved.env,
            working_dir: container.working_dir.clone(),
            mounts: guest_mounts,
            limits: RunLimits {
                memory_bytes: limits.memory_limit_bytes,
                on_memory_limit: container.on_memory_limit,
                cpu_millis: limits.cpu_limit_millis,
                cpu_request_millis: limits.cpu_request_millis,
                fuel: limits.fuel,
                fuel_per_second: limits.fuel_per_second,
            },
            http: container.http,
            tcp_ports: tcp_ports(container),
            pod: self.sandbox.account().clone(),
            charge_to,
            network: self.sandbox.network(container.name.as_str()),
            stop_signal: container.stop_signal,
            stdin: Stdin::Closed,
            logs,
        };
        self.node.runtime.start(run).await.map_err(|e| failed(&e))
    }

    /// Takes the run's private folders away and says what its termination message is.
    pub async fn finish(
        &self,
        container: &Container,
        folders: RunFolders,
        exit: &Exit,
        ring: &LogRing,
    ) -> String {
        let file = folders.clear().await;
        if !file.is_empty() {
            return file;
        }
        if let Some(text) = exit.message() {
            return bounded(text);
        }
        let fallback = TerminationMessagePolicy::FallbackToLogsOnError;
        if container.termination_message_policy == fallback && !exit.is_success() {
            return ring.last_text(FALLBACK_LINES, FALLBACK_BYTES);
        }
        String::new()
    }
}

/// The TCP ports that a container declares, in the manifest's order.
fn tcp_ports(container: &Container) -> Vec<TcpPort> {
    let tcp = container.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    tcp.map(|port| TcpPort { port: port.container_port, name: port.name.clone() }).collect()
}

/// Cuts a message at the bound, at a character's edge.
fn bounded(text: &str) -> String {
    let mut end = text.len().min(TERMINATION_MESSAGE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let text = "é".repeat(TERMINATION_MESSAGE_BYTES_MAX);
        assert_eq!(bounded(&text).len(), TERMINATION_MESSAGE_BYTES_MAX);
        let odd = format!("a{text}");
        assert_eq!(bounded(&odd).len(), TERMINATION_MESSAGE_BYTES_MAX - 1);
    }
}
