//! Which of two documents is newer: `(epoch, generation)`, and what tells equals apart.
//!
//! Owns: [`Version`], [`Revision`], the mark of a pod, and the comparison. Not: where marks are kept (`record`), nor who may raise an
//! epoch (`trust`). What was accepted only moves forward: a mark never falls, and outlives its pod.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::image::Digest;

/// Largest epoch, generation, revision or version: what JSON's numbers hold exactly everywhere.
pub const NUMBER_MAX: u64 = (1 << 53) - 1;

/// `(epoch, generation)`, ordered as a pair. For an index the generation is its revision.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Version {
    pub epoch: u64,
    pub generation: u64,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "generation {} of epoch {}", self.generation, self.epoch)
    }
}

/// One exact document about a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    #[serde(flatten)]
    pub version: Version,
    /// SHA-256 of the payload.
    #[serde(with = "digest_text")]
    pub digest: Digest,
    pub uid: String,
}

/// How a document stands to what was accepted before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Newer,
    Same,
    Stale,
    Conflict,
}

/// Compares a document with the mark of its line, if there is one.
#[must_use]
pub fn compare(mark: Option<(Version, Digest)>, found: Version, digest: Digest) -> Order {
    match mark {
        None => Order::Newer,
        Some((mark, _)) if found > mark => Order::Newer,
        Some((mark, _)) if found < mark => Order::Stale,
        Some((_, known)) if known == digest => Order::Same,
        Some(_) => Order::Conflict,
    }
}

/// [`Digest`] as `sha256:HEX`.
pub mod digest_text {
    use super::{Deserialize, Deserializer, Digest, Serializer};

    pub fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(digest)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::mqtt::envelope::digest;

    #[test]
    fn an_epoch_weighs_more_than_any_generation() {
        let at = |epoch, generation| Version { epoch, generation };
        let (a, b) = (digest(b"a"), digest(b"b"));
        let rows = [
            (None, at(1, 1), b, Order::Newer),
            (Some((at(1, 5), a)), at(1, 6), b, Order::Newer),
            (Some((at(1, 5), a)), at(2, 1), b, Order::Newer),
            (Some((at(2, 1), a)), at(1, 99), b, Order::Stale),
            (Some((at(1, 5), a)), at(1, 4), a, Order::Stale),
            (Some((at(1, 5), a)), at(1, 5), a, Order::Same),
            (Some((at(1, 5), a)), at(1, 5), b, Order::Conflict),
        ];
        for (mark, found, digest, expected) in rows {
            assert_eq!(compare(mark, found, digest), expected, "{mark:?} {found:?}");
        }
    }
}
