//! A volume, or a pod, that holds more than it may.
//!
//! Owns: saying so in the kubelet's words, quantities as Kubernetes writes them. Is not: finding it out.

use std::fmt;

/// A limit that is exceeded. Shown in the kubelet's words (`eviction_manager.go`), with the space at their end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Excess {
    /// `emptyDir.sizeLimit`.
    Volume { name: String, limit: u64, used: u64 },
    /// The sum of the containers' `ephemeral-storage`.
    Pod { limit: u64, used: u64 },
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume { name, limit, .. } => write!(
                f,
                "Usage of EmptyDir volume \"{name}\" exceeds the limit \"{}\". ",
                quantity(*limit)
            ),
            Self::Pod { limit, .. } => write!(
                f,
                "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
                quantity(*limit)
            ),
        }
    }
}

/// Bytes as Kubernetes writes them: in the largest unit that they are a whole number of, binary before decimal.
pub(super) fn quantity(bytes: u64) -> String {
    let binary = ["Ei", "Pi", "Ti", "Gi", "Mi", "Ki"].into_iter().zip((1..=6).rev());
    let binary = binary.map(|(unit, power)| (unit, 1024_u64.pow(power)));
    let decimal = ["E", "P", "T", "G", "M", "k"].into_iter().zip((1..=6).rev());
    let decimal = decimal.map(|(unit, power)| (unit, 1000_u64.pow(power)));
    match binary.chain(decimal).find(|(_, size)| bytes > 0 && bytes.is_multiple_of(*size)) {
        Some((unit, size)) => format!("{}{unit}", bytes / size),
        None => bytes.to_string(),
    }
}
