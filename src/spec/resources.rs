//! Limits and requests, in the units that the runtime enforces.

/// `resources` of one container. `None`: not set, so unlimited (or the node's share).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// `limits.memory`, bytes.
    pub memory_limit_bytes: Option<u64>,
    /// `requests.memory`, bytes.
    pub memory_request_bytes: Option<u64>,
    /// `limits.cpu`, thousandths of a core.
    pub cpu_limit_millis: Option<u64>,
    /// `requests.cpu`, thousandths of a core.
    pub cpu_request_millis: Option<u64>,
    /// `limits.ephemeral-storage`, bytes.
    pub ephemeral_storage_limit_bytes: Option<u64>,
    /// `limits["podling.dev/fuel"]`: instructions that one run may execute.
    pub fuel: Option<u64>,
    /// `limits["podling.dev/fuel-per-second"]`: refilled by the clock.
    pub fuel_per_second: Option<u64>,
}

impl Resources {
    /// Whether the module must be compiled with fuel counting.
    #[must_use]
    pub fn needs_fuel(&self) -> bool {
        self.fuel.is_some() || self.fuel_per_second.is_some()
    }
}

/// Pod-level `spec.resources`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodResources {
    pub memory_limit_bytes: Option<u64>,
    pub memory_request_bytes: Option<u64>,
    pub cpu_limit_millis: Option<u64>,
    pub cpu_request_millis: Option<u64>,
}
