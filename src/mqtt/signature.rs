//! A node's signature under what it says: a status is the node's own word, whoever carries it.
//!
//! Owns: the signature's place in a message, the bytes that it covers, making and checking it, and what a message is worth to a reader
//! who knows a node's key or none. Not: which key is which node's (`crate::controller::known`), nor where the node's own is kept.
//!
//! ```text
//!  {"apiVersion": …, "seq": 912                         }     what the node says
//!  {"apiVersion": …, "seq": 912,"signature":"KEY.SIG"}     what it sends: readers that know nothing of it ignore one field
//!                               └─── always 146 bytes ───┘
//!  covered: DSSE's encoding (`envelope`) of the type, and of TENANT/s/NODE/… LF what the node says
//! ```
//!
//! The exact bytes are covered: nothing is serialised again to be verified, and a broker that only reorders fields or adds a space has
//! changed the message. The topic is covered from the tenant on (bridges change what is before it), so that no word passes for one of
//! another node, or about another pod. The key travels along, so that each message can be checked by itself, in whatever order they come;
//! it proves nothing until a reader knows it for the node's. That a word is the *newest* no signature can say: `(conn, seq)` rises, the
//! time that the node says is covered too, the answer to a command has its id, and readers remember how far they have heard a node
//! (`crate::controller::known`).
//!
//! Making a signature under a status takes some 50 us on a fast x86-64 core, 80 us there with the code for machines of 32 bits (measured;
//! `benches/delivery` prints it), and so, on a Cortex-A7 of a third of the clock that does less in a cycle, about a millisecond. A message is
//! therefore signed when it goes out and not when it is decided ([`crate::mqtt::protocol::Draft`]).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use super::envelope::signed_bytes;
use super::trust::public_key_text;

/// What is signed, for DSSE: no document of a controller can pass for it.
pub const PAYLOAD_TYPE: &str = "application/vnd.podling.said.v1+json";

const BEGIN: &[u8] = b",\"signature\":\"";
const END: &[u8] = b"\"}";
/// 32 bytes in base64 without padding.
const KEY: usize = 43;
/// 64 bytes in base64 without padding.
const SIG: usize = 86;

/// Bytes at the end of a signed message, in place of one closing brace.
pub const SIGNATURE_BYTES: usize = BEGIN.len() + KEY + 1 + SIG + END.len();

/// Signs what a node says. Shows only the public key. Each message that waits to be signed has one: they share the key.
#[derive(Clone)]
pub struct Signer {
    key: Arc<SigningKey>,
    /// The public one, as messages carry it.
    public: Arc<str>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.public_text())
    }
}

impl Signer {
    #[must_use]
    pub fn new(key: SigningKey) -> Self {
        let public = STANDARD_NO_PAD.encode(key.verifying_key().as_bytes()).into();
        Self { key: Arc::new(key), public }
    }

    /// The public key as settings and statuses write it.
    #[must_use]
    pub fn public_text(&self) -> String {
        public_key_text(&self.key.verifying_key())
    }

    /// The same message with its signature, for a topic (below the root).
    ///
    /// # Panics
    /// If it is no JSON object: all that nodes say are, and have a field.
    #[must_use]
    pub fn sign(&self, topic: &str, mut message: Vec<u8>) -> Vec<u8> {
        let sig = self.key.sign(&covered(topic, &message)).to_bytes();
        assert_eq!(message.pop(), Some(b'}'), "what nodes say are JSON objects");
        message.reserve_exact(SIGNATURE_BYTES);
        message.extend_from_slice(BEGIN);
        message.extend_from_slice(self.public.as_bytes());
        message.push(b'.');
        message.extend_from_slice(STANDARD_NO_PAD.encode(sig).as_bytes());
        message.extend_from_slice(END);
        message
    }
}

/// What a message's signature says, to somebody who knows nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Whoever has that key has said this, here.
    Signed(VerifyingKey),
    /// There is a signature, and it does not fit: changed on the way, or said elsewhere.
    Broken,
    /// There is none in its place: an older podling, or anybody.
    Unsigned,
}

impl Proof {
    /// Looks at a message for a topic (below the root). Strictly, as everywhere: the point and the scalar are canonical, the key is not weak.
    #[must_use]
    pub fn of(topic: &str, message: &[u8]) -> Self {
        let Some((said, key, sig)) = split(message) else { return Self::Unsigned };
        let signed = covered_in_two(topic, said);
        let key = VerifyingKey::from_bytes(&key).ok();
        let key =
            key.filter(|key| key.verify_strict(&signed, &Signature::from_bytes(&sig)).is_ok());
        key.map_or(Self::Broken, Self::Signed)
    }
}

/// What a message is worth to a reader. Worse ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Signed with the key that the node is known by.
    Verified,
    /// Signed, and the node was not known before: from now on it is known by this key.
    New,
    /// Not signed, and no key of the node is known: worth what the broker's access list is worth.
    Unsigned,
    /// Signed with the key that the node is known by, and older than what was seen of it in an earlier run.
    Old,
    /// Not signed, and a key of the node is known.
    Missing,
    /// Signed with another key than the one that the node is known by.
    Changed,
    /// Signed, and not this.
    Forged,
}

impl Standing {
    /// What a proof is worth where this key is known for the node's.
    #[must_use]
    pub fn of(proof: Proof, known: Option<&VerifyingKey>) -> Self {
        match (proof, known) {
            (Proof::Signed(key), Some(known)) if key == *known => Self::Verified,
            (Proof::Signed(_), Some(_)) => Self::Changed,
            (Proof::Signed(_), None) => Self::New,
            (Proof::Broken, _) => Self::Forged,
            (Proof::Unsigned, None) => Self::Unsigned,
            (Proof::Unsigned, Some(_)) => Self::Missing,
        }
    }

    /// Whether it is taken for the node's word. Where the node's key is known nothing else is: else who leaves a signature out could say
    /// anything.
    #[must_use]
    pub fn is_believed(self) -> bool {
        match self {
            Self::Verified | Self::New | Self::Unsigned => true,
            Self::Old | Self::Missing | Self::Changed | Self::Forged => false,
        }
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::New => "new",
            Self::Unsigned => "unsigned",
            Self::Old => "old",
            Self::Missing => "missing",
            Self::Changed => "changed",
            Self::Forged => "forged",
        }
    }
}

fn covered(topic: &str, said: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(topic.len() + 1 + said.len());
    payload.extend_from_slice(topic.as_bytes());
    payload.push(b'\n');
    payload.extend_from_slice(said);
    signed_bytes(PAYLOAD_TYPE, &payload)
}

/// The same, of a word whose closing brace was given away.
fn covered_in_two(topic: &str, said: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(said.len() + 1);
    whole.extend_from_slice(said);
    whole.push(b'}');
    covered(topic, &whole)
}

/// What was said (but for its last brace), the key, the signature. There is one way only to write each.
fn split(message: &[u8]) -> Option<(&[u8], [u8; 32], [u8; 64])> {
    let at = message.len().checked_sub(SIGNATURE_BYTES)?;
    let (said, end) = message.split_at(at);
    let end = end.strip_prefix(BEGIN)?.strip_suffix(END)?;
    let (key, sig) = end.split_at_checked(KEY)?;
    let key = STANDARD_NO_PAD.decode(key).ok()?;
    let sig = STANDARD_NO_PAD.decode(sig.strip_prefix(b".")?).ok()?;
    Some((said, key.try_into().ok()?, sig.try_into().ok()?))
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    const TOPIC: &str = "acme/s/gw-17/pod/default/web";
    const SAID: &[u8] = br#"{"kind":"PodStatus","seq":912}"#;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn public(n: u8) -> VerifyingKey {
        key(n).verifying_key()
    }

    fn signed() -> Vec<u8> {
        Signer::new(key(1)).sign(TOPIC, SAID.to_vec())
    }

    #[test]
    fn a_nodes_word_is_known_for_its_own_and_stays_readable_to_who_knows_nothing_of_it() {
        let message = signed();
        assert_eq!(Proof::of(TOPIC, &message), Proof::Signed(public(1)));
        let read: serde_json::Value = serde_json::from_slice(&message).unwrap();
        assert_eq!((&read["seq"], read.as_object().unwrap().len()), (&912.into(), 3));
        assert_eq!(message.len(), SAID.len() + 145);
        // The same each time: a status that says the same again is the same message.
        assert_eq!(message, signed());
        // Who waits to be signed has the key by reference.
        assert_eq!(size_of::<Signer>(), 3 * size_of::<usize>());
        assert_eq!(
            format!("{:?}", Signer::new(key(1))),
            format!("Signer({})", public_key_text(&public(1)))
        );
    }

    #[test]
    fn another_topic_and_another_word_do_not_fit_and_none_is_unsigned() {
        let message = signed();
        let elsewhere = [
            "acme/s/gw-18/pod/default/web",
            "other/s/gw-17/pod/default/web",
            "acme/s/gw-17/pod/default/we",
            "acme/s/gw-17/node",
            "",
        ];
        for topic in elsewhere {
            assert_eq!(Proof::of(topic, &message), Proof::Broken, "{topic}");
        }
        let changed = String::from_utf8(message.clone()).unwrap().replace("912", "913");
        assert_eq!(Proof::of(TOPIC, changed.as_bytes()), Proof::Broken);
        for unsigned in [SAID, b"", b"}", &message[1..20], &message[..message.len() - 1]] {
            assert_eq!(Proof::of(TOPIC, unsigned), Proof::Unsigned);
        }
        // The name of one key over the signature of another.
        let theirs = Signer { key: Arc::new(key(2)), ..Signer::new(key(1)) };
        assert_eq!(Proof::of(TOPIC, &theirs.sign(TOPIC, SAID.to_vec())), Proof::Broken);
    }

    #[test]
    fn who_writes_a_message_anew_has_not_said_it() {
        let message = String::from_utf8(signed()).unwrap();
        let value: serde_json::Value = serde_json::from_str(&message).unwrap();
        let sig = value["signature"].as_str().unwrap();
        let rewritten = [
            // Other order, a space before the colon, before the end, a newline behind it.
            format!("{{\"signature\":\"{sig}\",\"kind\":\"PodStatus\",\"seq\":912}}"),
            message.replace("\"signature\":", "\"signature\": "),
            message.replace("\"}", "\" }"),
            format!("{message}\n"),
            format!("{message} "),
            serde_json::to_string_pretty(&value).unwrap(),
        ];
        for other in rewritten {
            assert_eq!(Proof::of(TOPIC, other.as_bytes()), Proof::Unsigned, "{other}");
        }
        // Inside what is said.
        let spaced = message.replace("\"seq\":912", "\"seq\": 912");
        assert_eq!(Proof::of(TOPIC, spaced.as_bytes()), Proof::Broken);
        // A second one, behind the first: what came before is then a word that nobody has said.
        let twice = format!("{},\"signature\":\"{sig}\"}}", message.strip_suffix('}').unwrap());
        assert_eq!(Proof::of(TOPIC, twice.as_bytes()), Proof::Broken);
    }

    #[test]
    fn there_is_one_way_to_write_a_signature() {
        let message = signed();
        let at = message.len() - END.len() - 1;
        // The last letter carries two bits only: the others of its kind decode to the same bytes elsewhere, and are refused here.
        for letter in b'A'..=b'z' {
            let mut other = message.clone();
            other[at] = letter;
            let is_it = other == message;
            assert_eq!(Proof::of(TOPIC, &other) == Proof::Signed(public(1)), is_it, "{letter}");
        }
    }

    #[test]
    fn a_key_that_is_none_or_weak_signs_nothing() {
        // The neutral point: some libraries let it sign anything with R = A, s = 0.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let not_a_point = [
            2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0,
        ];
        for bytes in [neutral, not_a_point] {
            let mut sig = [0; 64];
            sig[..32].copy_from_slice(&bytes);
            let end = format!("{}.{}", STANDARD_NO_PAD.encode(bytes), STANDARD_NO_PAD.encode(sig));
            let message = format!("{{\"a\":1,\"signature\":\"{end}\"}}");
            assert_eq!(Proof::of(TOPIC, message.as_bytes()), Proof::Broken);
        }
    }

    #[test]
    fn nothing_but_its_signed_word_is_believed_of_a_node_whose_key_is_known() {
        let (own, other) = (Proof::Signed(public(1)), Proof::Signed(public(2)));
        let rows = [
            (own, Some(1), Standing::Verified, true),
            (other, Some(1), Standing::Changed, false),
            (Proof::Unsigned, Some(1), Standing::Missing, false),
            (Proof::Broken, Some(1), Standing::Forged, false),
            (own, None, Standing::New, true),
            (Proof::Unsigned, None, Standing::Unsigned, true),
            (Proof::Broken, None, Standing::Forged, false),
        ];
        for (proof, known, standing, is_believed) in rows {
            let known = known.map(public);
            assert_eq!(Standing::of(proof, known.as_ref()), standing);
            assert_eq!(standing.is_believed(), is_believed, "{standing:?}");
        }
    }

    proptest! {
        #[test]
        fn one_wrong_bit_anywhere_is_noticed(at in 0_usize..1000, bit in 0_u8..8) {
            let mut message = signed();
            let at = at % message.len();
            message[at] ^= 1 << bit;
            prop_assert_ne!(Proof::of(TOPIC, &message), Proof::Signed(public(1)));
        }

        #[test]
        fn whatever_was_said_is_verified_and_nothing_else(
            words in "[ -~]{0,40}", more in "\\PC{0,200}", name in "[a-z]{1,9}", cut in 0_usize..500,
        ) {
            let said = serde_json::to_vec(&serde_json::json!({"words": words, "x": more})).unwrap();
            let topic = format!("acme/s/{name}/node");
            let message = Signer::new(key(1)).sign(&topic, said.clone());
            prop_assert_eq!(Proof::of(&topic, &message), Proof::Signed(public(1)));
            prop_assert_eq!(Proof::of(&topic, &said), Proof::Unsigned);
            prop_assert_eq!(Proof::of(&format!("{topic}x"), &message), Proof::Broken);
            let cut = cut % message.len();
            for part in [&message[..cut], &message[cut + 1..]] {
                prop_assert!(!matches!(Proof::of(&topic, part), Proof::Signed(_)));
            }
            // A reader who knows nothing of signatures finds what was said.
            let mut read: serde_json::Value = serde_json::from_slice(&message).unwrap();
            read.as_object_mut().unwrap().remove("signature");
            prop_assert_eq!(serde_json::to_vec(&read).unwrap(), said);
        }
    }
}
