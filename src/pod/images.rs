//! The module of a container: here already, or fetched as its `imagePullPolicy` says.
//!
//! Owns: the policy, and the pod's pull secrets. Not: the image store (`image`), nor the way to a registry (`artifact`).
//!
//! ```text
//!              name without registry    by digest           tag, IfNotPresent    tag, Always
//!  here        used                     used                used                 the registry is asked; see below
//!  not here    ErrImagePull             pulled              pulled               pulled
//! ```
//!
//! A gateway must start without a network. So, unlike the kubelet, `Always` does not ask about a digest (it stands for one
//! content for ever), nor about what was loaded by hand; and where the registry *cannot be reached*, what is here is used,
//! with a warning. A registry that answers "no" is obeyed. It is not asked at all while the node is short of memory.

use std::sync::Arc;
use std::time::Duration;

use crate::artifact::{FetchError, Found, Keyring, Progress, Remote};
use crate::error::chain;
use crate::image::{PullFailure, ResolveError, ResolvedImage, pull_failure};
use crate::pod::context::NodeContext;
use crate::secret;
use crate::spec::{Container, ImageRef, Pod, PullPolicy};

/// How long a registry may take to say what a tag stands for, where there is something to go on with without it.
const ASK_MAX: Duration = Duration::from_secs(3);

/// A module that can be run.
#[derive(Debug)]
pub struct Obtained {
    pub image: ResolvedImage,
    /// False: it was fetched.
    pub present: bool,
    /// What the pod's author should know.
    pub warnings: Vec<Warning>,
}

/// An event that is no failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub reason: &'static str,
    pub message: String,
}

/// Finds or fetches the image of a container; `pulling` is called before something is fetched, `held` whenever the node's lack of memory
/// becomes, or no longer is, why that does not begin.
pub async fn obtain(
    node: &Arc<NodeContext>,
    pod: &Pod,
    container: &Container,
    pulling: impl Future<Output = ()>,
    held: &(dyn Fn(bool) + Send + Sync),
) -> Result<Obtained, PullFailure> {
    let (image, policy) = (&container.image, container.pull_policy);
    let local = look(node, image).await;
    let remote = Remote::of(image).filter(|_| policy != PullPolicy::Never);
    let Some(remote) = remote else {
        return local.map(present).map_err(|error| pull_failure(image, policy, &error));
    };
    let kept = match local {
        Ok(found) if !must_ask(image, policy, &found) => return Ok(present(found)),
        Ok(found) => Some(found),
        // Pulling mends what is missing or damaged. A disk that cannot be read is another matter.
        Err(ResolveError::NotFound { .. } | ResolveError::Missing { .. })
        | Err(ResolveError::Damaged { .. }) => None,
        Err(error) => return Err(pull_failure(image, policy, &error)),
    };
    let (keyring, warnings) = pull_secrets(node, pod);
    let source = Registry { node, image, remote, keyring, held };
    let outcome = match &kept {
        None => source.pull(pulling).await.map_err(|error| failure(&error)),
        Some(kept) => source.refresh(kept, pulling).await.map_err(|error| failure(&error)),
    };
    outcome.map(|mut obtained| {
        obtained.warnings.splice(0..0, warnings);
        obtained
    })
}

/// Where an image comes from.
struct Registry<'a> {
    node: &'a Arc<NodeContext>,
    image: &'a ImageRef,
    remote: Remote,
    keyring: Keyring,
    held: &'a (dyn Fn(bool) + Send + Sync),
}

impl Registry<'_> {
    /// Nothing is here: whatever it takes.
    async fn pull(&self, pulling: impl Future<Output = ()>) -> Result<Obtained, FetchError> {
        pulling.await;
        let found = self.ask().await?;
        let image = self.bring(found).await?;
        Ok(Obtained { image, present: false, warnings: Vec::new() })
    }

    /// Something is here: a registry that is away keeps nobody from it.
    async fn refresh(
        &self,
        kept: &ResolvedImage,
        pulling: impl Future<Output = ()>,
    ) -> Result<Obtained, FetchError> {
        let keep = |why: &str| {
            let (image, warnings) = (kept.clone(), vec![stale(self.image, kept, why)]);
            Ok(Obtained { image, present: true, warnings })
        };
        if self.node.fetcher.is_short() {
            return keep("the node is short of memory and fetches nothing");
        }
        if self.node.fetcher.is_away(&self.remote) {
            return keep("it could not be reached a moment ago");
        }
        pulling.await;
        let found = match tokio::time::timeout(ASK_MAX, self.ask()).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) if error.is_unreachable() => return keep(&error.to_string()),
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                self.node.fetcher.note_away(&self.remote);
                return keep("it did not answer in time");
            }
        };
        match self.bring(found).await {
            Ok(image) => Ok(Obtained { image, present: false, warnings: Vec::new() }),
            Err(error) if error.is_unreachable() => keep(&error.to_string()),
            Err(error) => Err(error),
        }
    }

    async fn ask(&self) -> Result<Found, FetchError> {
        self.node.fetcher.ask(self.image, &self.remote, &self.keyring).await
    }

    async fn bring(&self, found: Found) -> Result<ResolvedImage, FetchError> {
        let (fetcher, told) = (&self.node.fetcher, |now: &Progress| (self.held)(now.held));
        fetcher.bring(self.image, &self.remote, found, &self.keyring, &told).await
    }
}

fn present(image: ResolvedImage) -> Obtained {
    Obtained { image, present: true, warnings: Vec::new() }
}

/// Whether `Always` means this one.
fn must_ask(image: &ImageRef, policy: PullPolicy, found: &ResolvedImage) -> bool {
    let is_named = matches!(image, ImageRef::Named { .. });
    policy == PullPolicy::Always && is_named && found.pulled
}

fn failure(error: &FetchError) -> PullFailure {
    PullFailure { reason: "ErrImagePull", message: error.to_string() }
}

fn stale(image: &ImageRef, kept: &ResolvedImage, why: &str) -> Warning {
    let message = format!(
        "The registry of image \"{image}\" was not asked for a newer one: {why}; {} is used",
        kept.image_id
    );
    Warning { reason: "ImageNotRefreshed", message }
}

async fn look(node: &Arc<NodeContext>, image: &ImageRef) -> Result<ResolvedImage, ResolveError> {
    let (node, image) = (Arc::clone(node), image.clone());
    let looked =
        tokio::task::spawn_blocking(move || node.images.resolve(&image, node.clock.now())).await;
    looked.unwrap_or_else(|error| Err(ResolveError::Store { cause: std::io::Error::other(error) }))
}

/// The credentials of the pod's `imagePullSecrets`. As in Kubernetes, one that cannot be had is a warning: the image may be
/// public.
fn pull_secrets(node: &NodeContext, pod: &Pod) -> (Keyring, Vec<Warning>) {
    let (mut keyring, mut missing, mut why) = (Keyring::default(), Vec::new(), Vec::new());
    for name in &pod.image_pull_secrets {
        match pull_secret(node, &pod.key.namespace, name) {
            Ok(found) => keyring = keyring.before(&found),
            Err(fault) => {
                missing.push(name.as_str());
                why.extend(fault);
            }
        }
    }
    if missing.is_empty() {
        return (keyring, Vec::new());
    }
    let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) };
    let message = format!(
        "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.{why}",
        missing.join(", ")
    );
    (keyring, vec![Warning { reason: "FailedToRetrieveImagePullSecret", message }])
}

fn pull_secret(node: &NodeContext, namespace: &str, name: &str) -> Result<Keyring, Option<String>> {
    let secret = node.board.secret(namespace, name).ok_or(None)?;
    let values = secret::open(&secret, node.secrets.as_ref()).map_err(|e| Some(e.to_string()))?;
    let keys = [".dockerconfigjson", ".dockercfg"];
    let json = keys.iter().find_map(|key| values.get(*key));
    let json = json.ok_or_else(|| Some(format!("secret {name} has no key .dockerconfigjson")))?;
    Keyring::parse(json).map_err(|error| Some(chain(&error)))
}

#[cfg(test)]
mod tests;
