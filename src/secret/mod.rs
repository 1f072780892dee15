//! Secrets that travel and rest encrypted to one node, and are readable in its memory only.
//!
//! Owns: the node's key, encrypting to it and opening what is (age, X25519), and what an encrypted Kubernetes Secret looks
//! like (`object`). Not: who may send secrets, nor where the plain values go (environments, memory-backed volumes).
//!
//! ```text
//!  author ── encrypt(recipient) ──► Secret of ciphertext ──► record, board, API: as it came
//!                                                     └──► Decryptor::open, when a module starts or a volume is written
//! ```
//!
//! Nothing here is ever shown: keys and plain values have a `Debug` that says nothing, and no error quotes them. Plain
//! values are overwritten when they are dropped ([`Zeroizing`]); copies that a guest, its environment or a volume's files
//! get are their own.

mod key;
mod object;

use std::fmt;
use std::io::Read as _;
use std::iter;
use std::str::FromStr;
use std::sync::Arc;

use age::armor::ArmoredReader;
use age::{DecryptError, x25519};
use thiserror::Error;

pub use age::secrecy::zeroize::Zeroizing;
pub use key::{NodeKey, NodeKeyError, read_private, write_private};
pub use object::{ENCRYPTION, Form, SecretFault, Unreadable, Values, check, open, sealed_object};

/// Keeps keys and plain values out of core files: this process leaves none. A person who needs one raises the limit of the process
/// that runs (`prlimit --core`), and knows what is in it.
pub fn leave_no_core_file() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Core).maximum;
    // To less than there is, everybody may.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum });
}

/// Largest plain value, bytes: Kubernetes' bound for a whole Secret.
pub const PLAIN_BYTES_MAX: usize = 1024 * 1024;

/// Most that encryption adds to a value of that size, bytes: header, tags of the chunks, armor of one third and its line
/// ends. Measured with room to spare.
const CIPHER_BYTES_MAX: usize = PLAIN_BYTES_MAX / 2 * 3;

/// Whom a secret is for: `age1…`. Public.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient(x25519::Recipient);

/// Text that is no recipient.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no age recipient: age1 and 58 characters are expected")]
pub struct InvalidRecipient(String);

impl FromStr for Recipient {
    type Err = InvalidRecipient;

    fn from_str(text: &str) -> Result<Self, InvalidRecipient> {
        // A person who pastes the secret key by mistake shall not find it in a log.
        let shown = if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY") {
            "a secret key".to_owned()
        } else {
            text.chars().take(80).collect()
        };
        text.parse().map(Self).map_err(|_| InvalidRecipient(shown))
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A value could not be encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EncryptError {
    #[error("a secret value may have {PLAIN_BYTES_MAX} bytes")]
    TooLong,
    #[error("the encryption failed internally")]
    Internal,
}

/// Encrypts a value to a node: ASCII armor, which any YAML can carry. `age -d` reads it as well.
///
/// # Errors
///
/// It is too long.
pub fn encrypt(recipient: &Recipient, plain: &[u8]) -> Result<String, EncryptError> {
    if plain.len() > PLAIN_BYTES_MAX {
        return Err(EncryptError::TooLong);
    }
    age::encrypt_and_armor(&recipient.0, plain).map_err(|_| EncryptError::Internal)
}

/// Whether bytes begin as an age message does, binary or armored.
#[must_use]
pub fn is_age(bytes: &[u8]) -> bool {
    let bytes = bytes.trim_ascii_start();
    bytes.starts_with(b"age-encryption.org/")
        || bytes.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----")
}

/// Why a value cannot be read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    #[error("is not encrypted with age")]
    NotAge,
    #[error("is not encrypted to this node's key")]
    NotForUs,
    #[error("is damaged")]
    Damaged,
    #[error("is longer than {PLAIN_BYTES_MAX} bytes")]
    TooLong,
}

/// Opens what is encrypted to this node. Cheap to clone.
#[derive(Clone)]
pub struct Decryptor(Arc<x25519::Identity>);

impl fmt::Debug for Decryptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Decryptor({})", self.0.to_public())
    }
}

impl Decryptor {
    /// Whom to encrypt to.
    #[must_use]
    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public())
    }

    /// The plain value of an age message, binary or armored.
    ///
    /// # Errors
    ///
    /// It is none, or not for this node, or not as it was written.
    pub fn open(&self, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        if message.len() > CIPHER_BYTES_MAX {
            return Err(OpenError::TooLong);
        }
        // Editors and block scalars leave space around an armored message; a binary one begins with a letter.
        let armored = ArmoredReader::new(message.trim_ascii_start());
        let message_of = age::Decryptor::new_buffered(armored).map_err(fault)?;
        let identity: &dyn age::Identity = &*self.0;
        let mut reader = message_of.decrypt(iter::once(identity)).map_err(fault)?;
        // As much as there may be: a vector that grows leaves its old places behind.
        let mut plain = Zeroizing::new(Vec::with_capacity(message.len()));
        reader.read_to_end(&mut plain).map_err(|_| OpenError::Damaged)?;
        if plain.len() > PLAIN_BYTES_MAX {
            return Err(OpenError::TooLong);
        }
        Ok(plain)
    }
}

/// Overwrites bytes that were secret.
fn wipe(bytes: &mut Vec<u8>) {
    use age::secrecy::zeroize::Zeroize as _;
    bytes.zeroize();
}

fn fault(error: DecryptError) -> OpenError {
    match error {
        DecryptError::NoMatchingKeys | DecryptError::KeyDecryptionFailed => OpenError::NotForUs,
        DecryptError::DecryptionFailed | DecryptError::InvalidMac => OpenError::Damaged,
        // An I/O error of a slice is its end. The library may have more to say one day.
        DecryptError::InvalidHeader
        | DecryptError::UnknownFormat
        | DecryptError::ExcessiveWork { .. }
        | DecryptError::Io(_)
        | _ => OpenError::NotAge,
    }
}

#[cfg(test)]
mod tests;
