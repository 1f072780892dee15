//! Whose word counts: keys, what each may sign for, and how they change.
//!
//! Owns: the local anchor, the root-signed document that replaces it, verification of envelopes against both, epochs. Not: the
//! bytes that are signed (`envelope`), nor writing anything down (`record`, `protocol`).
//!
//! ```text
//!  anchor (a file on the node) ──► keys in force ◄── trust document: signed by enough of the roots in force,
//!                                        │           and by enough of its own; version only rises
//!                                        ▼
//!                       envelope ──► verified by a key with the role, tenant and namespace
//! ```
//!
//! Pure. An envelope costs at most `SIGNATURES_MAX` signature checks.

mod anchor;
mod document;
mod key;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::cause::{Reason, Refusal};
use super::envelope::Envelope;
use super::version::{NUMBER_MAX, Order, Version, compare};
use crate::image::Digest;

pub use anchor::{ANCHOR_BYTES_MAX, AnchorError, AnchorFile, TrustAnchor, read_anchors};
pub use document::{REVOKED_MAX, Revoked, RunningPods, TrustDocument};
pub use key::{
    KEYS_MAX, Key, KeyEntry, KeyError, KeySet, Role, SCOPE_MAX, public_key, public_key_text,
};

pub use document::Document;

/// Most versions that a trust document may be ahead: one that is further is a mistake or an attack, since it could never be
/// replaced.
const VERSION_JUMP_MAX: u64 = 1000;

/// What becomes of messages that are not signed as they should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They are refused.
    #[default]
    Require,
    /// They are taken, and the status says so.
    Warn,
    /// Nothing is checked. Must be written out, and is shown.
    Off,
}

/// Why the MQTT source cannot start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error(
        "MQTT does not start: no trust key is configured. Put the public key of whoever may send pods to this node into a \
         trust anchor (docs/mqtt.md, \"Trust\"), or write `trust: off` to run whatever the broker delivers"
    )]
    NoKey,
    #[error("MQTT does not start: {0}")]
    Anchor(#[from] AnchorError),
}

/// Who signed a document, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    Key(String),
    /// Taken without a good signature; why it has none.
    Unverified(Refusal),
    /// Not looked at: the mode is `off`.
    Unchecked,
}

impl Signer {
    /// The key's id; empty if none is known.
    #[must_use]
    pub fn keyid(&self) -> &str {
        match self {
            Self::Key(id) => id,
            Self::Unverified(_) | Self::Unchecked => "",
        }
    }
}

/// The keys in force. See the header.
#[derive(Clone, Debug)]
pub struct Trust {
    mode: Mode,
    anchor: KeySet,
    /// The epoch that the anchor authorises.
    anchor_epoch: u64,
    document: Option<Document>,
    /// The anchors cannot be read: see [`Trust::closed`].
    closed: bool,
}

/// What became of a trust document that was right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// It is the one in force.
    Same,
    /// It is to be made durable and then [`Trust::adopt`]ed.
    Newer(Box<Document>),
}

impl Trust {
    /// From the anchors that are configured.
    ///
    /// # Errors
    /// If an anchor is wrong, or there is no key and the mode is not `off`.
    pub fn new(mode: Mode, anchors: &[AnchorFile]) -> Result<Self, TrustError> {
        let (anchor, anchor_epoch) = read_anchors(anchors)?;
        let usable = |key: &Key| key.has(Role::Intent) || key.has(Role::Root);
        if mode != Mode::Off && !anchor.keys().iter().any(usable) {
            return Err(TrustError::NoKey);
        }
        Ok(Self { mode, anchor, anchor_epoch, document: None, closed: false })
    }

    /// Where the anchors cannot be used. No key is trusted, so that nothing new is taken; but whose pods were to stop is remembered: a
    /// file that cannot be read must not bring back what a root has ended.
    #[must_use]
    pub fn closed() -> Self {
        let anchor = KeySet::new(&[], 1).expect("a set without keys is one");
        Self { mode: Mode::Require, anchor, anchor_epoch: 1, document: None, closed: true }
    }

    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The keys in force: the document's, else the anchor's.
    #[must_use]
    pub fn keys(&self) -> &KeySet {
        self.document.as_ref().map_or(&self.anchor, |d| &d.keys)
    }

    /// The epoch that new documents must have. 1 where nothing says otherwise.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.document.as_ref().map_or(self.anchor_epoch, |d| d.epoch)
    }

    /// Version of the document in force; 0: the anchor's keys are.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.document.as_ref().map_or(0, |d| d.version)
    }

    /// Whether the pods that this key has signed are to stop.
    #[must_use]
    pub fn stops(&self, keyid: &str) -> bool {
        let mut revoked = self.document.iter().flat_map(|d| &d.revoked);
        revoked.any(|r| r.keyid == keyid && r.pods == RunningPods::Stop)
    }

    /// What the anchor's roots are, in one word: a document that was adopted under other roots must prove itself again.
    #[must_use]
    pub fn anchor_digest(&self) -> Digest {
        self.anchor.roots_digest()
    }

    /// Verifies an envelope for a purpose.
    ///
    /// # Errors
    /// In mode `require`: why no signature counts.
    pub fn verify(
        &self,
        envelope: &Envelope,
        role: Role,
        tenant: &str,
        namespace: Option<&str>,
    ) -> Result<Signer, Refusal> {
        if self.mode == Mode::Off {
            return Ok(Signer::Unchecked);
        }
        match self.keys().verify(envelope, role, tenant, namespace) {
            Ok(id) => Ok(Signer::Key(id)),
            Err(refusal) if self.mode == Mode::Warn => Ok(Signer::Unverified(refusal)),
            Err(refusal) => Err(refusal),
        }
    }

    /// Verifies an envelope before anything of its payload is looked at: by a key that has the role, whatever its tenants and namespaces.
    /// [`Trust::verify`] follows once these are known.
    ///
    /// # Errors
    /// In mode `require`: why no signature counts.
    pub fn verify_bytes(&self, envelope: &Envelope, role: Role) -> Result<(), Refusal> {
        if self.mode != Mode::Require {
            return Ok(());
        }
        self.keys().verify_bytes(envelope, role)
    }

    /// Checks that a key which was right a moment ago still is, for the same purpose.
    ///
    /// # Errors
    /// If it has been taken out of force since, or may do less.
    pub fn check_key(
        &self,
        keyid: &str,
        role: Role,
        tenant: &str,
        namespace: &str,
    ) -> Result<(), Refusal> {
        if self.mode != Mode::Require {
            return Ok(());
        }
        match self.keys().keys().iter().find(|key| key.id == keyid) {
            Some(key) if key.may(role, tenant, Some(namespace)) => Ok(()),
            Some(_) => {
                let message = format!("key {keyid} may not sign this any more");
                Err(Refusal::new(Reason::NotAllowed, message))
            }
            None => {
                let message = format!("key {keyid} is trusted no more");
                Err(Refusal::new(Reason::UntrustedKey, message))
            }
        }
    }

    /// Judges a trust document.
    ///
    /// # Errors
    /// Why it is not adopted.
    pub fn judge(&self, envelope: &Envelope, tenant: &str) -> Result<Adoption, Refusal> {
        if self.mode == Mode::Off {
            return Err(Refusal::new(Reason::NotSupported, "trust is off on this node"));
        }
        self.keys().signed_by_roots(envelope)?;
        let document = Document::read(envelope)?;
        document.check_own_roots(envelope)?;
        check_tenant(&document, tenant)?;
        self.judge_version(document)
    }

    fn judge_version(&self, document: Document) -> Result<Adoption, Refusal> {
        let version = |generation| Version { epoch: 0, generation };
        let mark = self.document.as_ref().map(|d| (version(d.version), d.digest));
        match compare(mark, version(document.version), document.digest) {
            Order::Same => return Ok(Adoption::Same),
            Order::Stale => {
                let message = format!("version {} is in force already", self.version());
                return Err(Refusal::new(Reason::Stale, message));
            }
            Order::Conflict => {
                let message = format!("another document has version {} too", self.version());
                return Err(Refusal::new(Reason::GenerationConflict, message));
            }
            Order::Newer => {}
        }
        let ahead = document.version - self.version();
        if ahead > VERSION_JUMP_MAX {
            let message = format!(
                "version {} is more than {VERSION_JUMP_MAX} ahead of {}",
                document.version,
                self.version()
            );
            return Err(Refusal::new(Reason::NotAllowed, message));
        }
        let epoch = self.epoch();
        if document.epoch < epoch || document.epoch - epoch > ahead {
            let message = format!(
                "epoch {} cannot follow epoch {epoch}: it never falls, and each version may raise it by one",
                document.epoch
            );
            return Err(Refusal::new(Reason::EpochNotAuthorized, message));
        }
        Ok(Adoption::Newer(Box::new(document)))
    }

    /// Puts a judged document in force. Call once it is durable.
    pub fn adopt(&mut self, document: Document) {
        self.document = Some(document);
    }

    /// Takes back a document that was adopted before a restart. `under`: the anchor's digest at that time. The store is the
    /// node's own, so it is verified anew only if the anchor has changed.
    ///
    /// # Errors
    /// If the anchor has changed and its roots do not vouch for the document, or the node belongs to another tenant now: the anchor's
    /// keys are in force then.
    pub fn restore(
        &mut self,
        envelope: &Envelope,
        under: Digest,
        tenant: &str,
    ) -> Result<(), Refusal> {
        if !self.closed && under != self.anchor_digest() {
            self.anchor.signed_by_roots(envelope)?;
        }
        let document = Document::read(envelope)?;
        check_tenant(&document, tenant)?;
        self.document = Some(document);
        Ok(())
    }

    /// Checks that a new document's epoch is the one in force.
    ///
    /// # Errors
    /// `EpochNotAuthorized` if it is higher, `Stale` if it is lower.
    pub fn check_epoch(&self, epoch: u64) -> Result<(), Refusal> {
        let now = self.epoch();
        match epoch.cmp(&now) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => {
                Err(Refusal::new(Reason::Stale, format!("epoch {epoch} is over; {now} has begun")))
            }
            std::cmp::Ordering::Greater => {
                let message =
                    format!("epoch {epoch} is not authorised by a root; {now} is in force");
                Err(Refusal::new(Reason::EpochNotAuthorized, message))
            }
        }
    }
}

/// A tenant's trust is its own.
fn check_tenant(document: &Document, tenant: &str) -> Result<(), Refusal> {
    if document.tenant == tenant {
        return Ok(());
    }
    let message = format!("it is for tenant {:?}", document.tenant);
    Err(Refusal::new(Reason::WrongTarget, message))
}

/// A number of a trust document.
fn in_range(number: u64) -> bool {
    (1..=NUMBER_MAX).contains(&number)
}
