//! What one record looks like on disk: a sealed envelope round a payload.
//!
//! Owns: the bytes. Not: where they are and which of two copies counts (`slots`). Pure; a damaged, truncated or
//! foreign file is an [`EnvelopeFault`], never a panic.
//!
//! ```text
//!  podling-record 1 <SHA-256 of everything after this line, in hex>\n
//!  {"generation":17,"kind":"Pod","namespace":"default","name":"web",…}\n      Label, one line of JSON
//!  …payload, to the end of the file…                                          the object's own JSON
//! ```
//!
//! Readable with `cat`, so that an operator at 3 a.m. can see what the node believes. The checksum covers label and
//! payload; the first line is checked by being compared.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::spec::Source;

/// First word of every record.
const MAGIC: &str = "podling-record";

/// The format written by this version; a higher one was written by a newer podling.
const FORMAT: u32 = 1;

/// Largest record, bytes. The API server of Kubernetes refuses bodies above 3 MiB and etcd objects above 1.5 MiB; what
/// is larger than both is no object, and reading all records at boot must fit a 128 MB machine.
pub const RECORD_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What a record is about, beside its payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Counts the commits of this record; the highest valid one wins.
    pub generation: u64,
    /// `Pod`, `ConfigMap`, `Secret`, `Runtime`, …
    pub kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceLabel>,
}

/// [`Source`] as it is written down. Paths keep their exact bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceLabel {
    Folder(PathLabel),
    Play(PathLabel),
    Api,
    Mqtt,
}

/// A path: text where it is text, bytes where it is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PathLabel {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<&Path> for PathLabel {
    fn from(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(path.as_os_str().as_bytes().to_vec()),
        }
    }
}

impl From<PathLabel> for PathBuf {
    fn from(label: PathLabel) -> Self {
        match label {
            PathLabel::Text(text) => Self::from(text),
            PathLabel::Bytes(bytes) => Self::from(OsString::from_vec(bytes)),
        }
    }
}

impl From<&Source> for SourceLabel {
    fn from(source: &Source) -> Self {
        match source {
            Source::Folder(path) => Self::Folder(path.as_path().into()),
            Source::Play(path) => Self::Play(path.as_path().into()),
            Source::Api => Self::Api,
            Source::Mqtt => Self::Mqtt,
        }
    }
}

impl From<SourceLabel> for Source {
    fn from(label: SourceLabel) -> Self {
        match label {
            SourceLabel::Folder(path) => Self::Folder(path.into()),
            SourceLabel::Play(path) => Self::Play(path.into()),
            SourceLabel::Api => Self::Api,
            SourceLabel::Mqtt => Self::Mqtt,
        }
    }
}

/// Why bytes are no record.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EnvelopeFault {
    #[error("is empty")]
    Empty,
    #[error("does not begin as a record")]
    Foreign,
    #[error("was written by a newer podling (format {0}; this one reads {FORMAT})")]
    TooNew(u32),
    #[error("does not match its checksum")]
    Checksum,
    #[error("has a label that cannot be read: {0}")]
    Label(String),
    #[error("is larger than {RECORD_BYTES_MAX} bytes")]
    TooLarge,
}

/// The bytes of a record.
#[must_use]
pub fn seal(label: &Label, payload: &[u8]) -> Vec<u8> {
    let label = serde_json::to_string(label).expect("a label has only string keys");
    let mut hash = Sha256::new();
    hash.update(label.as_bytes());
    hash.update(b"\n");
    hash.update(payload);
    let head = format!("{MAGIC} {FORMAT} {}\n{label}\n", hex(&hash.finalize()));
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

/// Label and payload of a record.
///
/// # Errors
///
/// An [`EnvelopeFault`] for anything that [`seal`] did not write.
pub fn open(bytes: &[u8]) -> Result<(Label, &[u8]), EnvelopeFault> {
    if bytes.is_empty() {
        return Err(EnvelopeFault::Empty);
    }
    let (head, body) = split_line(bytes).ok_or(EnvelopeFault::Foreign)?;
    let head = std::str::from_utf8(head).map_err(|_| EnvelopeFault::Foreign)?;
    let mut words = head.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(EnvelopeFault::Foreign);
    }
    let format: u32 =
        words.next().and_then(|word| word.parse().ok()).ok_or(EnvelopeFault::Foreign)?;
    if format > FORMAT {
        return Err(EnvelopeFault::TooNew(format));
    }
    if format == 0 {
        return Err(EnvelopeFault::Foreign);
    }
    if words.next() != Some(hex(&Sha256::digest(body)).as_str()) || words.next().is_some() {
        return Err(EnvelopeFault::Checksum);
    }
    let (label, payload) =
        split_line(body).ok_or_else(|| EnvelopeFault::Label("it does not end".to_owned()))?;
    let label =
        serde_json::from_slice(label).map_err(|error| EnvelopeFault::Label(error.to_string()))?;
    Ok((label, payload))
}

/// Identifies content regardless of its generation: two commits with the same fingerprint say the same.
#[must_use]
pub fn fingerprint(label: &Label, payload: &[u8]) -> [u8; 32] {
    let timeless = Label { generation: 0, ..label.clone() };
    let label = serde_json::to_string(&timeless).expect("a label has only string keys");
    let mut hash = Sha256::new();
    hash.update(label.as_bytes());
    hash.update(b"\n");
    hash.update(payload);
    hash.finalize().into()
}

/// A file name for `plain`: itself where it is short and harmless, a hash where it is not. (The record's label holds
/// the true name, so nothing needs to be read back from a file name.)
#[must_use]
pub fn file_name(plain: &str) -> String {
    /// Leaves room in a file name (255 bytes) for `.a`, `.tmp` and the like.
    const PLAIN_BYTES_MAX: usize = 200;
    let harmless = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let plain_enough = plain.len() <= PLAIN_BYTES_MAX
        && plain.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && plain.chars().all(harmless);
    if plain_enough {
        plain.to_owned()
    } else {
        format!("x_{}", hex(&Sha256::digest(plain.as_bytes())))
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes any text");
        text
    })
}

fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn label() -> Label {
        Label {
            generation: 17,
            kind: "Pod".to_owned(),
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            source: Some(SourceLabel::from(&Source::Folder(PathBuf::from("/etc/pods/web.yaml")))),
        }
    }

    #[test]
    fn what_is_sealed_opens_again() {
        let bytes = seal(&label(), b"{\"a\":\n1}");
        assert_eq!(open(&bytes), Ok((label(), &b"{\"a\":\n1}"[..])));
    }

    #[test]
    fn each_fault_is_told_apart() {
        let good = seal(&label(), b"{}");
        let text = String::from_utf8(good.clone()).unwrap();
        let check = |bytes: &[u8], fault: EnvelopeFault| assert_eq!(open(bytes), Err(fault));
        check(b"", EnvelopeFault::Empty);
        check(b"no record at all", EnvelopeFault::Foreign);
        check(&[0; 4096], EnvelopeFault::Foreign);
        check(&good[..good.len() - 1], EnvelopeFault::Checksum);
        check(text.replace("record 1 ", "record 2 ").as_bytes(), EnvelopeFault::TooNew(2));
        check(text.replace(":17", ":18").as_bytes(), EnvelopeFault::Checksum);
        let body = "not json\n{}";
        let sealed = format!("{MAGIC} 1 {}\n{body}", hex(&Sha256::digest(body)));
        assert!(matches!(open(sealed.as_bytes()), Err(EnvelopeFault::Label(_))));
    }

    #[test]
    fn a_source_keeps_its_exact_path() {
        let odd = PathBuf::from(OsString::from_vec(vec![b'/', 0xff, b'a']));
        for source in [
            Source::Api,
            Source::Mqtt,
            Source::Play(PathBuf::from("a b.yaml")),
            Source::Folder(odd),
        ] {
            let json = serde_json::to_string(&SourceLabel::from(&source)).unwrap();
            let back: SourceLabel = serde_json::from_str(&json).unwrap();
            assert_eq!(Source::from(back), source);
        }
    }

    #[test]
    fn a_file_name_is_harmless_and_short() {
        assert_eq!(file_name("default.web"), "default.web");
        for odd in ["", ".", "..", "a/b", "A", "../../etc/passwd", &"a".repeat(300)] {
            let name = file_name(odd);
            assert!(name.len() <= 200 && name.starts_with("x_"), "{odd} became {name}");
        }
        assert_ne!(file_name("A"), file_name("B"));
    }

    proptest! {
        #[test]
        fn one_wrong_bit_is_noticed(at in 0usize..4096, bit in 0u8..8) {
            let good = seal(&label(), b"{\"spec\":{}}");
            let mut bytes = good.clone();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(open(&bytes).is_err());
        }

        #[test]
        fn rubbish_is_never_fatal(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = open(&bytes); // The answer is whatever it is; that there is one is the point.
        }
    }
}
