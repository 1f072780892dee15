//! The root-signed document that changes whom the nodes of a tenant trust.
//!
//! Owns: its JSON and the rules that need no other knowledge. Not: whether its signatures and its version suffice (`Trust`).

use serde::{Deserialize, Serialize};

use super::key::{KeyEntry, KeySet, Role};
use crate::image::Digest;
use crate::mqtt::cause::{Cause, Reason, Refusal};
use crate::mqtt::envelope::Envelope;
use crate::mqtt::intent::{head, issued, numbers, parse, time_ms};

/// Keys that a document may name as revoked: more than ever were, for a fleet's life.
pub const REVOKED_MAX: usize = 256;

/// The payload as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustDocument {
    pub api_version: String,
    pub kind: String,
    pub tenant: String,
    pub version: u64,
    /// The epoch that intents and indexes must have from now on.
    pub epoch: u64,
    pub issued_at: String,
    /// Roots of this document that must sign the next one; and this one.
    pub threshold: usize,
    /// Every key that is trusted from now on, roots included: what is not listed is trusted no more.
    pub keys: Vec<KeyEntry>,
    /// What is to become of pods whose key is trusted no more. A key that is not listed here: they are kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<Revoked>,
}

/// A key that must not be trusted any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Revoked {
    pub keyid: String,
    #[serde(default)]
    pub pods: RunningPods,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// What becomes of pods that a revoked key signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunningPods {
    /// They run on.
    #[default]
    Keep,
    /// They end.
    Stop,
}

/// A checked document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub(in crate::mqtt) tenant: String,
    pub(in crate::mqtt) version: u64,
    pub(in crate::mqtt) epoch: u64,
    pub(in crate::mqtt) digest: Digest,
    pub(in crate::mqtt) issued_ms: i64,
    pub(super) keys: KeySet,
    pub(super) revoked: Vec<Revoked>,
}

impl Document {
    /// Checks a payload for itself.
    ///
    /// # Errors
    /// `Malformed` if it has not the form of a trust document, `Invalid` with every rule that it breaks.
    pub fn read(envelope: &Envelope) -> Result<Self, Refusal> {
        let (_, wire): (_, TrustDocument) = parse(&envelope.payload)?;
        let mut causes = head(&wire.api_version, &wire.kind, "TrustDocument", &wire.tenant);
        numbers(&mut causes, &[("version", wire.version), ("epoch", wire.epoch)]);
        issued(&mut causes, &wire.issued_at);
        if wire.revoked.len() > REVOKED_MAX {
            let message = format!("must have at most {REVOKED_MAX} items");
            causes.push(Cause::new("FieldValueTooMany", "revoked", message));
        }
        let keys = KeySet::new(&wire.keys, wire.threshold);
        match &keys {
            Err(error) => causes.push(Cause::invalid("keys", error.to_string())),
            Ok(keys) if !keys.keys().iter().any(|key| key.has(Role::Root)) => {
                let message =
                    "must have a root key: without one, trust could never be changed again";
                causes.push(Cause::new("FieldValueRequired", "keys", message));
            }
            Ok(keys) => {
                for (at, revoked) in wire.revoked.iter().enumerate().take(REVOKED_MAX) {
                    if keys.keys().iter().any(|key| key.id == revoked.keyid) {
                        let field = format!("revoked[{at}].keyid");
                        causes.push(Cause::invalid(&field, "is among the trusted keys as well"));
                    }
                }
            }
        }
        match keys {
            Ok(keys) if causes.is_empty() => Ok(Self {
                digest: envelope.digest(),
                issued_ms: time_ms(&wire.issued_at).unwrap_or_default(),
                tenant: wire.tenant,
                version: wire.version,
                epoch: wire.epoch,
                keys,
                revoked: wire.revoked,
            }),
            Ok(_) | Err(_) => Err(Refusal::of(Reason::Invalid, causes)),
        }
    }

    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Whether enough of the roots that it names have signed it.
    ///
    /// # Errors
    /// How many have, and how many must.
    pub fn check_own_roots(&self, envelope: &Envelope) -> Result<(), Refusal> {
        self.keys.signed_by_roots(envelope).map_err(|refusal| Refusal {
            message: format!("by the roots that it names itself: {}", refusal.message),
            ..refusal
        })
    }
}
