//! What one run of a container is given: its argument vector, its environment, the parts of volumes
//! it sees.
//!
//! Owns: `envFrom`, `env`, `valueFrom`, `$(VAR)`, `subPathExpr` exactly as `KUBELET.md` 11 has
//! them, and the fields that variables and downward API volumes may read. Not: where ConfigMaps and
//! Secrets are kept ([`Objects`]), nor mounting. Pure: looks at the pod, at facts about the node,
//! and at objects in memory.
//!
//! Resolved anew at each start, so a restarted container sees a changed ConfigMap, a running one
//! does not.
//!
//! Limits: [`ENVIRONMENT_BYTES_MAX`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use thiserror::Error;

use crate::manifest::Objects;
use crate::secret::Unreadable;
use crate::spec::{
    Container, EnvFrom, EnvFromSource, EnvSource, EnvVar, FieldPath, Pod, ResourceField, SubPath,
};

/// All arguments and variables of one run, bytes. Linux gives a program 2 MiB; each variable may
/// name another twice, so forty of them could ask for a terabyte.
pub const ENVIRONMENT_BYTES_MAX: usize = 1024 * 1024;

/// What a container may ask about where it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The pod's addresses, the primary one first.
    pub pod_ips: Vec<IpAddr>,
    /// The node's addresses, the primary one first.
    pub host_ips: Vec<IpAddr>,
    pub node_name: String,
    pub allocatable: Allocatable,
    /// Variables for the Services of the namespace (`enableServiceLinks`).
    pub services: BTreeMap<String, String>,
}

/// What the node has for pods; stands in for limits that are not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocatable {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub ephemeral_storage_bytes: u64,
}

/// What a run is started with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Never empty: `argv[0]` is the command's first word or the container's name.
    pub argv: Vec<String>,
    /// Each name once, in the order in which it was first given.
    pub env: Vec<(String, String)>,
    /// For each mount of the container, in its order: the part of the volume that is seen, `None`
    /// for all of it.
    pub sub_paths: Vec<Option<String>>,
}

/// Why a run cannot be given what its container asks for: the message of
/// `CreateContainerConfigError`, in Kubernetes' words where it has some.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EnvironmentError {
    #[error("configmap {name:?} not found")]
    ConfigMapNotFound { name: String },
    #[error("secret {name:?} not found")]
    SecretNotFound { name: String },
    #[error(transparent)]
    SecretUnreadable(#[from] Unreadable),
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    ConfigMapKeyNotFound { namespace: String, name: String, key: String },
    #[error("couldn't find key {key} in Secret {namespace}/{name}")]
    SecretKeyNotFound { namespace: String, name: String, key: String },
    #[error("key {key} in Secret {namespace}/{name} is not UTF-8 text and cannot be a variable")]
    NotText { namespace: String, name: String, key: String },
    #[error("{what} contains a NUL character")]
    Nul { what: String },
    #[error("arguments and environment are larger than {ENVIRONMENT_BYTES_MAX} bytes")]
    TooLarge,
    #[error("cannot expand subPathExpr {text:?}: missing value for {missing}")]
    SubPathVariable { text: String, missing: String },
    #[error("subPath {text:?} {fault}")]
    SubPath { text: String, fault: &'static str },
}

/// Resolves what a run of `container` is started with.
///
/// # Errors
/// The first thing that is missing; the caller tries again later, as Kubernetes does.
pub fn resolve(
    pod: &Pod,
    container: &Container,
    facts: &Facts,
    objects: &dyn Objects,
) -> Result<Resolved, EnvironmentError> {
    let mut variables = Variables { services: facts.services.clone(), ..Variables::default() };
    let asker = Asker { pod, container, facts, objects };
    for from in &container.env_from {
        asker.add_all(from, &mut variables)?;
    }
    for variable in &container.env {
        asker.add(variable, &mut variables)?;
    }
    let argv = argv(container, &mut variables)?;
    let sub_paths =
        container.mounts.iter().map(|mount| sub_path(mount.sub_path.as_ref(), &variables));
    let sub_paths = sub_paths.collect::<Result<_, _>>()?;
    // The runtime's own variable: a module's may replace it, and `$(HOSTNAME)` means the module's
    // only.
    let mut env = vec![("HOSTNAME".to_owned(), pod.hostname.clone())];
    env.retain(|(name, _)| !variables.index.contains_key(name));
    // A variable of the module's own wins over a Service's (`makeEnvironmentVariables`).
    for (name, value) in std::mem::take(&mut variables.services) {
        if !variables.index.contains_key(&name) {
            variables.spend(name.len() + value.len())?;
            env.push((name, value));
        }
    }
    env.extend(variables.list);
    Ok(Resolved { argv, env, sub_paths })
}

/// Variables so far: looked up by name, kept in order.
#[derive(Default)]
struct Variables {
    list: Vec<(String, String)>,
    index: BTreeMap<String, usize>,
    /// Known to `$(VAR)` from the start, unless one of the module's own has the name.
    services: BTreeMap<String, String>,
    bytes: usize,
}

impl Variables {
    fn get(&self, name: &str) -> Option<&str> {
        let own = self.index.get(name).map(|index| self.list[*index].1.as_str());
        own.or_else(|| self.services.get(name).map(String::as_str))
    }

    /// Sets a variable; a later one of the same name wins.
    fn set(&mut self, name: String, value: String) -> Result<(), EnvironmentError> {
        if name.contains('\0') || value.contains('\0') {
            return Err(EnvironmentError::Nul { what: format!("environment variable {name:?}") });
        }
        self.spend(name.len() + value.len())?;
        match self.index.get(&name) {
            Some(index) => self.list[*index].1 = value,
            None => {
                self.index.insert(name.clone(), self.list.len());
                self.list.push((name, value));
            }
        }
        Ok(())
    }

    fn spend(&mut self, bytes: usize) -> Result<(), EnvironmentError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > ENVIRONMENT_BYTES_MAX { Err(EnvironmentError::TooLarge) } else { Ok(()) }
    }

    /// Fills in the variables that `text` names; an unknown one stays as it is written.
    fn expand(&self, text: &str) -> Result<String, EnvironmentError> {
        expand(text, |name, out| match self.get(name) {
            Some(value) => out.push_str(value),
            None => {
                let _ = write!(out, "$({name})");
            }
        })
    }
}

/// Whose environment it is.
struct Asker<'a> {
    pod: &'a Pod,
    container: &'a Container,
    facts: &'a Facts,
    objects: &'a dyn Objects,
}

impl Asker<'_> {
    fn namespace(&self) -> &str {
        &self.pod.key.namespace
    }

    fn add_all(&self, from: &EnvFrom, to: &mut Variables) -> Result<(), EnvironmentError> {
        match &from.source {
            EnvFromSource::ConfigMap(name) => {
                let Some(map) = self.objects.config_map(self.namespace(), name) else {
                    let name = name.clone();
                    return absent(from.optional, EnvironmentError::ConfigMapNotFound { name });
                };
                for (key, value) in map.data.iter().flatten() {
                    to.set(format!("{}{key}", from.prefix), value.clone())?;
                }
            }
            EnvFromSource::Secret(name) => {
                let Some(values) = self.objects.secret(self.namespace(), name)? else {
                    let name = name.clone();
                    return absent(from.optional, EnvironmentError::SecretNotFound { name });
                };
                for (key, value) in &values {
                    let value = self.text(name, key, value)?;
                    to.set(format!("{}{key}", from.prefix), value)?;
                }
            }
        }
        Ok(())
    }

    fn add(&self, variable: &EnvVar, to: &mut Variables) -> Result<(), EnvironmentError> {
        let value = match &variable.source {
            // Only what the manifest writes out is expanded, never what comes from elsewhere.
            EnvSource::Value(text) => Some(to.expand(text)?),
            EnvSource::Field(field) => Some(field_value(self.pod, field, self.facts)),
            EnvSource::Resource(field) => {
                Some(resource_value(self.pod, self.container, field, self.facts))
            }
            EnvSource::ConfigMapKey { name, key, optional } => {
                optional_value(self.config_map_key(name, key), *optional)?
            }
            EnvSource::SecretKey { name, key, optional } => {
                optional_value(self.secret_key(name, key), *optional)?
            }
        };
        match value {
            Some(value) => to.set(variable.name.clone(), value),
            None => Ok(()),
        }
    }

    fn config_map_key(&self, name: &str, key: &str) -> Result<String, EnvironmentError> {
        let map = self.objects.config_map(self.namespace(), name);
        let map =
            map.ok_or_else(|| EnvironmentError::ConfigMapNotFound { name: name.to_owned() })?;
        let value = map.data.as_ref().and_then(|data| data.get(key));
        value.cloned().ok_or_else(|| EnvironmentError::ConfigMapKeyNotFound {
            namespace: self.namespace().to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
        })
    }

    fn secret_key(&self, name: &str, key: &str) -> Result<String, EnvironmentError> {
        let values = self.objects.secret(self.namespace(), name)?;
        let values =
            values.ok_or_else(|| EnvironmentError::SecretNotFound { name: name.to_owned() })?;
        let value = values.get(key).ok_or_else(|| EnvironmentError::SecretKeyNotFound {
            namespace: self.namespace().to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
        })?;
        self.text(name, key, value)
    }

    fn text(&self, name: &str, key: &str, bytes: &[u8]) -> Result<String, EnvironmentError> {
        let text = std::str::from_utf8(bytes).map_err(|_| EnvironmentError::NotText {
            namespace: self.namespace().to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
        })?;
        Ok(text.to_owned())
    }
}

fn absent(optional: bool, error: EnvironmentError) -> Result<(), EnvironmentError> {
    if optional { Ok(()) } else { Err(error) }
}

/// An optional reference to something that is not there sets no variable. One to something
/// unreadable is an error all the same.
fn optional_value(
    value: Result<String, EnvironmentError>,
    optional: bool,
) -> Result<Option<String>, EnvironmentError> {
    use EnvironmentError as E;
    match value {
        Err(
            E::ConfigMapNotFound { .. }
            | E::SecretNotFound { .. }
            | E::ConfigMapKeyNotFound { .. }
            | E::SecretKeyNotFound { .. },
        ) if optional => Ok(None),
        value => value.map(Some),
    }
}

fn argv(container: &Container, variables: &mut Variables) -> Result<Vec<String>, EnvironmentError> {
    let name = [container.name.as_str().to_owned()];
    let command: &[String] = if container.command.is_empty() { &name } else { &container.command };
    let mut argv = Vec::new();
    for word in command.iter().chain(&container.args) {
        // The name of the container is no text of the manifest's author to expand.
        let word = if container.command.is_empty() && argv.is_empty() {
            word.clone()
        } else {
            variables.expand(word)?
        };
        if word.contains('\0') {
            return Err(EnvironmentError::Nul { what: format!("argument {}", argv.len()) });
        }
        variables.spend(word.len())?;
        argv.push(word);
    }
    Ok(argv)
}

fn sub_path(
    sub_path: Option<&SubPath>,
    variables: &Variables,
) -> Result<Option<String>, EnvironmentError> {
    let text = match sub_path {
        None => return Ok(None),
        Some(SubPath::Literal(text)) => return Ok(Some(text.clone())),
        Some(SubPath::Expr(text)) => text,
    };
    let mut missing = BTreeSet::new();
    let expanded = expand(text, |name, out| match variables.get(name) {
        // Kubernetes takes an empty value for a missing one here: it would open the whole volume.
        None | Some("") => {
            missing.insert(name.to_owned());
        }
        Some(value) => out.push_str(value),
    })?;
    if !missing.is_empty() {
        let missing = missing.into_iter().collect::<Vec<_>>().join(", ");
        return Err(EnvironmentError::SubPathVariable { text: text.clone(), missing });
    }
    // The manifest was checked before it was expanded; a variable may have brought anything.
    let fault = if expanded.starts_with('/') {
        Some("must not be an absolute path")
    } else if expanded.split('/').any(|element| element == "..") {
        Some("must not contain '..'")
    } else if expanded.contains('\0') {
        Some("must not contain a NUL character")
    } else {
        None
    };
    match fault {
        Some(fault) => Err(EnvironmentError::SubPath { text: expanded, fault }),
        None => Ok(Some(expanded)),
    }
}

/// Kubernetes' own little language: `$(NAME)` is handed to `fill`, `$$` is `$`, anything else stays
/// as it is written.
fn expand(text: &str, mut fill: impl FnMut(&str, &mut String)) -> Result<String, EnvironmentError> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(escaped) = after.strip_prefix('$') {
            out.push('$');
            rest = escaped;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|r| r.split_once(')')) {
            fill(name, &mut out);
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
        if out.len() > ENVIRONMENT_BYTES_MAX {
            return Err(EnvironmentError::TooLarge);
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The value of a field of the pod, for variables and downward API volumes.
#[must_use]
pub fn field_value(pod: &Pod, field: &FieldPath, facts: &Facts) -> String {
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    let all = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    match field {
        FieldPath::Name => pod.key.name.to_string(),
        FieldPath::Namespace => pod.key.namespace.to_string(),
        FieldPath::Uid => pod.uid.to_string(),
        FieldPath::Labels(Some(key)) => pod.labels.get(key).cloned().unwrap_or_default(),
        FieldPath::Annotations(Some(key)) => pod.annotations.get(key).cloned().unwrap_or_default(),
        FieldPath::Labels(None) => lines(&pod.labels),
        FieldPath::Annotations(None) => lines(&pod.annotations),
        FieldPath::NodeName => facts.node_name.clone(),
        // The account that admission gives a pod in a cluster.
        FieldPath::ServiceAccountName => {
            pod.service_account.clone().unwrap_or_else(|| "default".to_owned())
        }
        FieldPath::HostIp => first(&facts.host_ips),
        FieldPath::HostIps => all(&facts.host_ips),
        FieldPath::PodIp => first(&facts.pod_ips),
        FieldPath::PodIps => all(&facts.pod_ips),
    }
}

/// Labels or annotations as Kubernetes writes them into a file: `key="value"` lines, sorted, quoted
/// as Go quotes.
fn lines(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> =
        map.iter().map(|(key, value)| format!("{key}={}", quote(value))).collect();
    lines.join("\n")
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_ascii_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a limit or request, in units of the divisor, rounded up. A limit that is not set is
/// the pod's, else all the node has; a request that is not set is 0.
#[must_use]
pub fn resource_value(
    pod: &Pod,
    asking: &Container,
    field: &ResourceField,
    facts: &Facts,
) -> String {
    let named = field.container.as_deref();
    let named = named.and_then(|name| pod.all_containers().find(|c| c.name.as_str() == name));
    let own = &named.unwrap_or(asking).resources;
    let level = &pod.resources;
    let (amount, milli) = match (field.resource.as_str(), field.limit) {
        ("cpu", true) => {
            let limit = own.cpu_limit_millis.or(level.cpu_limit_millis);
            (limit.unwrap_or(facts.allocatable.cpu_millis), 1)
        }
        ("cpu", false) => (own.cpu_request_millis.unwrap_or(0), 1),
        ("memory", true) => {
            let limit = own.memory_limit_bytes.or(level.memory_limit_bytes);
            (limit.unwrap_or(facts.allocatable.memory_bytes), 1000)
        }
        ("memory", false) => (own.memory_request_bytes.unwrap_or(0), 1000),
        (_, true) => {
            let limit = own.ephemeral_storage_limit_bytes;
            (limit.unwrap_or(facts.allocatable.ephemeral_storage_bytes), 1000)
        }
        // Only the limit is kept for storage; defaulting makes the request equal to it.
        (_, false) => (own.ephemeral_storage_limit_bytes.unwrap_or(0), 1000),
    };
    let divisor = u128::from(field.divisor_milli.max(1));
    (u128::from(amount) * milli).div_ceil(divisor).to_string()
}

#[cfg(test)]
mod tests;
