//! A signed payload: DSSE as it stands, with Ed25519.
//!
//! Owns: the envelope's JSON, its bounds, the exact bytes that are signed, making and checking one signature. Not: which keys
//! may sign what (`trust`), nor what a payload says (`intent`, `index`, `trust`, `command`).
//!
//! ```text
//!  {"payloadType": T, "payload": base64(P), "signatures": [{"keyid": K, "sig": base64(S)}]}
//!  S = Ed25519( "DSSEv1" SP len(T) SP T SP len(P) SP P )        lengths in decimal ASCII, of bytes
//! ```
//!
//! The type is a part of what is signed, so that no document can pass for one of another kind. The bytes are signed, not their
//! meaning: nothing is ever serialised again to be verified. (DSSE: secure-systems-lab/dsse, protocol and envelope, version 1.)

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::image::Digest;

/// Largest MQTT packet a node takes, bytes; it tells the broker so (MQTT 5, Maximum Packet Size).
pub const PACKET_BYTES_MAX: usize = 256 * 1024;

/// Largest envelope, bytes: what is left of a packet beside the topic and the properties.
pub const ENVELOPE_BYTES_MAX: usize = PACKET_BYTES_MAX - 1024;

/// Signatures of one envelope: those of the roots while they change.
pub const SIGNATURES_MAX: usize = 16;

/// Longest payload type and key id, bytes.
const WORD_BYTES_MAX: usize = 128;

/// What a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadType {
    Intent,
    Index,
    Trust,
    Command,
}

impl PayloadType {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Intent => "application/vnd.podling.intent.v1+json",
            Self::Index => "application/vnd.podling.index.v1+json",
            Self::Trust => "application/vnd.podling.trust.v1+json",
            Self::Command => "application/vnd.podling.command.v1+json",
        }
    }
}

/// Why bytes are no envelope of the kind that is expected. Nothing of the payload has been looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the envelope has {bytes} bytes; at most {ENVELOPE_BYTES_MAX} are read")]
    TooLarge { bytes: usize },
    #[error("not an envelope: {0}")]
    Form(String),
    #[error("the payload is of type {found:?}; here {expected:?} is expected")]
    Type { found: String, expected: &'static str },
    #[error("more than {SIGNATURES_MAX} signatures")]
    TooManySignatures,
    #[error("{0} is not base64")]
    Base64(&'static str),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(borrow)]
    payload_type: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    payload: std::borrow::Cow<'a, str>,
    #[serde(default)]
    signatures: Vec<WireSignature>,
}

#[derive(Serialize, Deserialize)]
struct WireSignature {
    keyid: String,
    sig: String,
}

/// An opened envelope: its payload's exact bytes, and who claims to have signed them. Nothing is verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub payload_type: PayloadType,
    pub payload: Vec<u8>,
    pub signatures: Vec<EnvelopeSignature>,
}

/// One signature as it stands in an envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvelopeSignature {
    pub keyid: String,
    pub sig: [u8; 64],
}

impl Envelope {
    /// Opens an envelope that must hold a payload of the given type.
    ///
    /// # Errors
    /// See [`EnvelopeError`].
    pub fn open(bytes: &[u8], expected: PayloadType) -> Result<Self, EnvelopeError> {
        if bytes.len() > ENVELOPE_BYTES_MAX {
            return Err(EnvelopeError::TooLarge { bytes: bytes.len() });
        }
        let wire: Wire<'_> =
            serde_json::from_slice(bytes).map_err(|e| EnvelopeError::Form(e.to_string()))?;
        if wire.payload_type != expected.as_str() {
            let end = wire.payload_type.floor_char_boundary(WORD_BYTES_MAX);
            let (found, expected) = (wire.payload_type[..end].to_owned(), expected.as_str());
            return Err(EnvelopeError::Type { found, expected });
        }
        if wire.signatures.len() > SIGNATURES_MAX {
            return Err(EnvelopeError::TooManySignatures);
        }
        let payload = base64(&wire.payload).ok_or(EnvelopeError::Base64("payload"))?;
        let signature = |wire: WireSignature| {
            let sig = base64(&wire.sig).and_then(|bytes| bytes.try_into().ok());
            let sig = sig.ok_or(EnvelopeError::Base64("a signature of 64 bytes"))?;
            let mut keyid = wire.keyid;
            keyid.truncate(keyid.floor_char_boundary(WORD_BYTES_MAX));
            Ok(EnvelopeSignature { keyid, sig })
        };
        let signatures = wire.signatures.into_iter().map(signature).collect::<Result<_, _>>()?;
        Ok(Self { payload_type: expected, payload, signatures })
    }

    /// An envelope that nobody has signed yet.
    #[must_use]
    pub fn new(payload_type: PayloadType, payload: Vec<u8>) -> Self {
        Self { payload_type, payload, signatures: vec![] }
    }

    /// Adds a signature; one of the same key is replaced.
    pub fn sign(&mut self, key: &SigningKey) {
        let sig = key.sign(&self.signed_bytes()).to_bytes();
        let keyid = key_id(&key.verifying_key());
        self.signatures.retain(|s| s.keyid != keyid);
        self.signatures.push(EnvelopeSignature { keyid, sig });
    }

    /// The envelope's JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let signature = |s: &EnvelopeSignature| WireSignature {
            keyid: s.keyid.clone(),
            sig: STANDARD.encode(s.sig),
        };
        let wire = Wire {
            payload_type: self.payload_type.as_str().into(),
            payload: STANDARD.encode(&self.payload).into(),
            signatures: self.signatures.iter().map(signature).collect(),
        };
        serde_json::to_vec(&wire).expect("strings always have a JSON form")
    }

    /// The SHA-256 of the payload's bytes: what tells two documents apart.
    #[must_use]
    pub fn digest(&self) -> Digest {
        digest(&self.payload)
    }

    /// Whether this key, called `id`, has signed this payload. Strictly: weak keys and malleable signatures are refused (RFC
    /// 8032 5.1.7 with the checks of `verify_strict`). Only the first signature under that name is tried, so that an envelope
    /// costs at most one check for each of its signatures.
    #[must_use]
    pub fn is_signed_by(&self, id: &str, key: &VerifyingKey) -> bool {
        self.signatures.iter().find(|s| s.keyid == id).is_some_and(|s| {
            key.verify_strict(&self.signed_bytes(), &Signature::from_bytes(&s.sig)).is_ok()
        })
    }

    /// DSSE's pre-authentication encoding.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        signed_bytes(self.payload_type.as_str(), &self.payload)
    }
}

/// The bytes that a signature covers, for any payload type.
#[must_use]
pub fn signed_bytes(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut head = String::with_capacity(96);
    write!(head, "DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len())
        .expect("a String takes any text");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

/// SHA-256 of bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> Digest {
    Digest::new(Sha256::digest(bytes).into())
}

/// How a key is called: the first 32 hexadecimal digits of the SHA-256 of its 32 bytes.
#[must_use]
pub fn key_id(key: &VerifyingKey) -> String {
    let mut id = digest(key.as_bytes()).hex();
    id.truncate(32);
    id
}

/// DSSE lets writers choose between the two alphabets.
fn base64(text: &str) -> Option<Vec<u8>> {
    let url_safe = text.bytes().any(|b| matches!(b, b'-' | b'_'));
    let engine = if url_safe { &URL_SAFE } else { &STANDARD };
    engine.decode(text).ok()
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn signed() -> Envelope {
        let mut envelope = Envelope::new(PayloadType::Intent, b"{\"a\": 1}".to_vec());
        envelope.sign(&key(1));
        envelope
    }

    fn is_signed(envelope: &Envelope, n: u8) -> bool {
        let public = key(n).verifying_key();
        envelope.is_signed_by(&key_id(&public), &public)
    }

    #[test]
    fn what_is_signed_opens_and_verifies() {
        let envelope = Envelope::open(&signed().to_json(), PayloadType::Intent).unwrap();
        assert_eq!(envelope, signed());
        assert!(is_signed(&envelope, 1));
        assert!(!is_signed(&envelope, 2));
    }

    #[test]
    fn a_document_does_not_pass_for_one_of_another_kind() {
        let intent = signed();
        for other in [PayloadType::Index, PayloadType::Trust, PayloadType::Command] {
            let disguised = Envelope { payload_type: other, ..intent.clone() };
            assert!(!is_signed(&disguised, 1));
            assert!(matches!(
                Envelope::open(&intent.to_json(), other),
                Err(EnvelopeError::Type { .. })
            ));
        }
    }

    #[test]
    fn both_alphabets_of_base64_are_read_and_unknown_fields_of_an_envelope_ignored() {
        let mut envelope = Envelope::new(PayloadType::Intent, vec![0xfb, 0xff, 0xbf]);
        envelope.sign(&key(1));
        let json = String::from_utf8(envelope.to_json()).unwrap();
        assert!(json.contains("\"+/+/\""), "{json}");
        let url_safe = json
            .replace("\"+/+/\"", "\"-_-_\"")
            .replace("{\"payloadType", "{\"x\":1,\"payloadType");
        assert_eq!(Envelope::open(url_safe.as_bytes(), PayloadType::Intent).unwrap(), envelope);
    }

    #[test]
    fn bounds_come_before_any_work() {
        let open = |json: String| Envelope::open(json.as_bytes(), PayloadType::Intent).unwrap_err();
        let envelope = |signatures: String| {
            let kind = PayloadType::Intent.as_str();
            format!("{{\"payloadType\":\"{kind}\",\"payload\":\"\",\"signatures\":[{signatures}]}}")
        };
        let bytes = ENVELOPE_BYTES_MAX + 1;
        assert_eq!(open(" ".repeat(bytes)), EnvelopeError::TooLarge { bytes });
        let one = format!("{{\"keyid\":\"k\",\"sig\":\"{}\"}}", STANDARD.encode([0; 64]));
        let many = vec![one.as_str(); SIGNATURES_MAX + 1].join(",");
        assert_eq!(open(envelope(many)), EnvelopeError::TooManySignatures);
        let short = "{\"keyid\":\"k\",\"sig\":\"AAAA\"}".to_owned();
        assert_eq!(open(envelope(short)), EnvelopeError::Base64("a signature of 64 bytes"));
        assert!(matches!(open(envelope("{\"sig\":\"\"}".to_owned())), EnvelopeError::Form(_)));
    }

    #[test]
    fn a_second_signature_under_the_same_name_is_not_tried() {
        let mut envelope = signed();
        let good = envelope.signatures[0].clone();
        let bad = EnvelopeSignature { sig: [0; 64], ..good.clone() };
        envelope.signatures = vec![bad, good];
        assert!(!is_signed(&envelope, 1));
    }

    #[test]
    fn signing_again_replaces_and_others_stay() {
        let mut envelope = signed();
        envelope.sign(&key(2));
        envelope.sign(&key(1));
        assert_eq!(envelope.signatures.len(), 2);
        assert!(is_signed(&envelope, 1) && is_signed(&envelope, 2));
    }

    proptest! {
        #[test]
        fn one_wrong_bit_anywhere_is_no_signature_of_this(at in 0_usize..10_000, bit in 0_u8..8) {
            let mut bytes = signed().to_json();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(envelope) = Envelope::open(&bytes, PayloadType::Intent) {
                // What can be read and verified is what was signed: only spelling may differ.
                prop_assert!(!is_signed(&envelope, 1) || envelope.payload == signed().payload);
            }
        }

        #[test]
        fn rubbish_is_never_fatal(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Envelope::open(&bytes, PayloadType::Trust); // That there is an answer is the point.
        }
    }
}
