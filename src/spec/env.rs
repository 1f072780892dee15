//! Environment variables as the manifest asks for them; resolved at each container start (`pod::environment`).

/// One of `env`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvVar {
    pub name: String,
    pub source: EnvSource,
}

/// Where a variable's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvSource {
    /// `value`, with `$(VAR)` still unexpanded.
    Value(String),
    Field(FieldPath),
    Resource(ResourceField),
    ConfigMapKey {
        name: String,
        key: String,
        optional: bool,
    },
    SecretKey {
        name: String,
        key: String,
        optional: bool,
    },
}

/// One of `envFrom`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvFrom {
    pub prefix: String,
    pub source: EnvFromSource,
    pub optional: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvFromSource {
    ConfigMap(String),
    Secret(String),
}

/// `fieldRef.fieldPath`, the ones Kubernetes allows in `env` and in downward API volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldPath {
    Name,
    Namespace,
    Uid,
    /// `metadata.labels` whole (volumes only) or `metadata.labels['KEY']`.
    Labels(Option<String>),
    Annotations(Option<String>),
    NodeName,
    ServiceAccountName,
    HostIp,
    HostIps,
    PodIp,
    PodIps,
}

/// `resourceFieldRef`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceField {
    /// Container to look at; `None`: the one that asks (volumes always name one).
    pub container: Option<String>,
    /// True: `limits.`; false: `requests.`.
    pub limit: bool,
    /// `cpu`, `memory`, `ephemeral-storage`.
    pub resource: String,
    /// Divisor in thousandths of the resource's base unit (1000 = 1 core, 1 byte).
    pub divisor_milli: u64,
}
