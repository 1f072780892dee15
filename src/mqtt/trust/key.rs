//! Public keys and what each may sign for.
//!
//! Owns: how a key is written, its scope, a set of keys with the roots' threshold. Not: where the set comes from (`anchor`,
//! `document`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::VerifyingKey;
use ed25519_dalek::pkcs8::DecodePublicKey as _;
use serde::{Deserialize, Serialize};

use crate::image::Digest;
use crate::mqtt::cause::{Reason, Refusal};
use crate::mqtt::envelope::{self, Envelope, key_id};

/// Keys of one anchor or document: controllers, laptops, roots.
pub const KEYS_MAX: usize = 64;

/// Tenants, or namespaces, of one key.
pub const SCOPE_MAX: usize = 64;

/// Longest name and scope word, bytes.
const WORD_BYTES_MAX: usize = 128;

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Signs trust documents.
    Root,
    /// Signs intents, tombstones and indexes.
    Intent,
    /// Signs commands.
    Command,
    /// Signs modules compiled ahead of time.
    Artifact,
}

/// A key as anchors and documents write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyEntry {
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `ed25519:` and base64 of the 32 bytes, or a PEM block of a SubjectPublicKeyInfo.
    pub public_key: String,
    pub roles: Vec<Role>,
    /// Tenants it may sign for; `*` is all of them.
    #[serde(default = "everything", skip_serializing_if = "is_everything")]
    pub tenants: Vec<String>,
    /// Namespaces it may sign for; `*` is all of them, and what an index needs.
    #[serde(default = "everything", skip_serializing_if = "is_everything")]
    pub namespaces: Vec<String>,
}

fn everything() -> Vec<String> {
    vec!["*".to_owned()]
}

fn is_everything(words: &[String]) -> bool {
    words == ["*"]
}

/// Why a key, or a set of them, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error(
        "publicKey of key {name:?} is no Ed25519 key: `ed25519:` and 44 characters of base64, or a PEM PUBLIC KEY block, is expected"
    )]
    PublicKey { name: String },
    #[error("publicKey of key {name:?} is weak: anyone could sign for it")]
    Weak { name: String },
    #[error("key {name:?} has no roles")]
    NoRoles { name: String },
    #[error("key {name:?} is listed twice")]
    Twice { name: String },
    #[error("more than {KEYS_MAX} keys")]
    TooManyKeys,
    #[error(
        "key {name:?} names more than {SCOPE_MAX} tenants or namespaces, or one that is too long"
    )]
    Scope { name: String },
    #[error("threshold {threshold} cannot be reached by {roots} root keys")]
    Threshold { threshold: usize, roots: usize },
}

/// Reads a public key in either form; `None` if it is none.
#[must_use]
pub fn public_key(text: &str) -> Option<VerifyingKey> {
    let text = text.trim();
    if text.starts_with("-----BEGIN") {
        return VerifyingKey::from_public_key_pem(text).ok();
    }
    let bytes = STANDARD.decode(text.strip_prefix("ed25519:")?).ok()?;
    VerifyingKey::from_bytes(&bytes.try_into().ok()?).ok()
}

/// The short form of a public key.
#[must_use]
pub fn public_key_text(key: &VerifyingKey) -> String {
    format!("ed25519:{}", STANDARD.encode(key.as_bytes()))
}

/// A key that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub id: String,
    pub name: String,
    key: VerifyingKey,
    roles: Vec<Role>,
    tenants: Vec<String>,
    namespaces: Vec<String>,
}

impl Key {
    /// # Errors
    /// If it cannot be used.
    pub fn new(entry: &KeyEntry) -> Result<Self, KeyError> {
        let name = || entry.name[..entry.name.floor_char_boundary(WORD_BYTES_MAX)].to_owned();
        let key =
            public_key(&entry.public_key).ok_or_else(|| KeyError::PublicKey { name: name() })?;
        if key.is_weak() {
            return Err(KeyError::Weak { name: name() });
        }
        if entry.roles.is_empty() {
            return Err(KeyError::NoRoles { name: name() });
        }
        for words in [&entry.tenants, &entry.namespaces] {
            let long = |word: &String| word.len() > WORD_BYTES_MAX;
            if words.len() > SCOPE_MAX || words.iter().any(long) {
                return Err(KeyError::Scope { name: name() });
            }
        }
        Ok(Self {
            id: key_id(&key),
            name: name(),
            key,
            roles: entry.roles.clone(),
            tenants: entry.tenants.clone(),
            namespaces: entry.namespaces.clone(),
        })
    }

    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// The roles, as they were written.
    #[must_use]
    pub fn roles(&self) -> &[Role] {
        &self.roles
    }

    /// Whether it may sign for this; `None` is the whole node.
    pub(super) fn may(&self, role: Role, tenant: &str, namespace: Option<&str>) -> bool {
        let covers = |words: &[String], word: Option<&str>| {
            words.iter().any(|w| w == "*" || Some(w.as_str()) == word)
        };
        self.has(role) && covers(&self.tenants, Some(tenant)) && covers(&self.namespaces, namespace)
    }
}

/// Keys in force, and how many roots must agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<Key>,
    threshold: usize,
}

impl KeySet {
    /// # Errors
    /// If a key cannot be used, one is there twice, or the threshold cannot be reached. A set without roots is fine: no trust
    /// document will ever be adopted.
    pub fn new(entries: &[KeyEntry], threshold: usize) -> Result<Self, KeyError> {
        if entries.len() > KEYS_MAX {
            return Err(KeyError::TooManyKeys);
        }
        let mut keys: Vec<Key> = Vec::with_capacity(entries.len());
        for entry in entries {
            let key = Key::new(entry)?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(KeyError::Twice { name: key.name });
            }
            keys.push(key);
        }
        let roots = keys.iter().filter(|key| key.has(Role::Root)).count();
        if threshold == 0 || (roots > 0 && threshold > roots) {
            return Err(KeyError::Threshold { threshold, roots });
        }
        Ok(Self { keys, threshold })
    }

    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    #[must_use]
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// Id of a key that signed this and may.
    ///
    /// # Errors
    /// The most telling reason why none did: a bad signature before a key that may not before a key that is not known.
    pub fn verify(
        &self,
        envelope: &Envelope,
        role: Role,
        tenant: &str,
        namespace: Option<&str>,
    ) -> Result<String, Refusal> {
        let what = || {
            let what =
                namespace.map_or("the whole node".to_owned(), |ns| format!("namespace {ns}"));
            format!("this for {what} of tenant {tenant}")
        };
        self.find(envelope, &|key| key.may(role, tenant, namespace), &what)
    }

    /// Whether a key with the role has signed these bytes, whatever they are about.
    ///
    /// # Errors
    /// As [`KeySet::verify`].
    pub(super) fn verify_bytes(&self, envelope: &Envelope, role: Role) -> Result<(), Refusal> {
        let found =
            self.find(envelope, &|key| key.has(role), &|| "documents of this kind".to_owned());
        found.map(drop)
    }

    fn find(
        &self,
        envelope: &Envelope,
        may: &dyn Fn(&Key) -> bool,
        what: &dyn Fn() -> String,
    ) -> Result<String, Refusal> {
        if envelope.signatures.is_empty() {
            return Err(Refusal::new(Reason::NotSigned, "the envelope has no signature"));
        }
        let mut worst = Refusal::new(
            Reason::UntrustedKey,
            format!(
                "none of the keys that signed is trusted here: {}",
                envelope.signatures.iter().map(|s| s.keyid.as_str()).collect::<Vec<_>>().join(", ")
            ),
        );
        for signature in &envelope.signatures {
            let Some(key) = self.keys.iter().find(|key| key.id == signature.keyid) else {
                continue;
            };
            if !may(key) {
                if worst.reason != Reason::BadSignature {
                    let message = format!("key {} may not sign {}", key.id, what());
                    worst = Refusal::new(Reason::NotAllowed, message);
                }
            } else if envelope.is_signed_by(&key.id, &key.key) {
                return Ok(key.id.clone());
            } else {
                let message = format!("the signature of key {} does not fit the payload", key.id);
                worst = Refusal::new(Reason::BadSignature, message);
            }
        }
        Err(worst)
    }

    /// Whether enough roots have signed.
    ///
    /// # Errors
    /// How many did, and how many must.
    pub fn signed_by_roots(&self, envelope: &Envelope) -> Result<(), Refusal> {
        let roots = || self.keys.iter().filter(|key| key.has(Role::Root));
        if roots().next().is_none() {
            let message = "no root key is trusted here, so that trust cannot be changed from afar";
            return Err(Refusal::new(Reason::UntrustedKey, message));
        }
        let signed = roots().filter(|key| envelope.is_signed_by(&key.id, &key.key)).count();
        if signed < self.threshold {
            let message = format!("{signed} root keys have signed; {} must", self.threshold);
            return Err(Refusal::new(Reason::UntrustedKey, message));
        }
        Ok(())
    }

    /// Identifies the roots and their threshold.
    pub(super) fn roots_digest(&self) -> Digest {
        let mut ids: Vec<&str> =
            self.keys.iter().filter(|k| k.has(Role::Root)).map(|k| k.id.as_str()).collect();
        ids.sort_unstable();
        envelope::digest(format!("{}:{}", self.threshold, ids.join(",")).as_bytes())
    }
}
