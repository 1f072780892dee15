//! Which key is which node's, as an operator knows it: what a node's word is measured by.
//!
//! Owns: keys that were known before (settings, the file of known nodes), keys that were learnt in this run, and what to tell a person of a
//! word that is not believed. Not: the signatures (`mqtt::signature`), nor the file (`cli::known`). Pure.
//!
//! ```text
//!  node not known ── first signed word ──► known from now on (New); the caller keeps it, unless two keys speak as that node
//!  node known     ── its own key ──► Verified; anything else is not believed
//! ```
//!
//! As with SSH's known hosts, the first sight is believed: whoever wants to believe nobody names the key beforehand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ed25519_dalek::VerifyingKey;

use crate::mqtt::controller::NODES_MAX;
use crate::mqtt::signature::{Proof, Standing};
use crate::mqtt::trust::public_key_text;

/// Complaints about one run's messages: who forges one forges a thousand.
const COMPLAINTS_MAX: usize = 64;

#[derive(Clone, Debug)]
struct Known {
    key: VerifyingKey,
    /// Where it is written, for people; of one that was learnt in this run, nowhere.
    place: Option<Arc<str>>,
}

/// See the header.
#[derive(Clone, Debug, Default)]
pub struct KnownNodes {
    nodes: BTreeMap<String, Known>,
    /// Learnt, and not kept yet.
    learnt: BTreeSet<String>,
    /// What was complained of.
    told: BTreeSet<(String, Standing)>,
}

/// What came of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    pub standing: Standing,
    /// The node has become known with it.
    pub is_first: bool,
    /// What a person should hear, once for each node and kind.
    pub complaint: Option<String>,
}

impl KnownNodes {
    /// A key that was known before; `place` is where it is written. The first one of a node counts.
    pub fn add(&mut self, node: &str, key: VerifyingKey, place: &str) {
        let known = Known { key, place: Some(place.into()) };
        self.nodes.entry(node.to_owned()).or_insert(known);
    }

    #[must_use]
    pub fn key(&self, node: &str) -> Option<&VerifyingKey> {
        self.nodes.get(node).map(|known| &known.key)
    }

    /// What a message in a node's name is worth.
    pub fn judge(&mut self, node: &str, proof: Proof) -> Judged {
        let known = self.nodes.get(node);
        let is_new = known.is_some_and(|known| known.place.is_none());
        let measured = Standing::of(proof, known.map(|known| &known.key));
        // What was learnt in this run is new until the next.
        let is_again = measured == Standing::Verified && is_new;
        let standing = if is_again { Standing::New } else { measured };
        let is_first = match (proof, standing) {
            (Proof::Signed(key), Standing::New) if !is_new => self.learn(node, key),
            _ => false,
        };
        if standing == Standing::Changed {
            // Two keys speak as one node: neither is remembered.
            self.learnt.remove(node);
        }
        let complaint =
            if standing.is_believed() { None } else { self.complain(node, standing, proof) };
        Judged { standing, is_first, complaint }
    }

    fn learn(&mut self, node: &str, key: VerifyingKey) -> bool {
        if self.nodes.len() >= NODES_MAX {
            return false;
        }
        self.nodes.insert(node.to_owned(), Known { key, place: None });
        self.learnt.insert(node.to_owned())
    }

    /// Keys that were learnt since the last time, for whoever keeps them.
    pub fn take_learnt(&mut self) -> Vec<(String, VerifyingKey)> {
        let learnt = std::mem::take(&mut self.learnt);
        learnt.into_iter().filter_map(|node| Some((node.clone(), *self.key(&node)?))).collect()
    }

    fn complain(&mut self, node: &str, standing: Standing, proof: Proof) -> Option<String> {
        if self.told.len() >= COMPLAINTS_MAX || !self.told.insert((node.to_owned(), standing)) {
            return None;
        }
        let known = self.nodes.get(node);
        let place = known.and_then(|known| known.place.as_deref());
        let by = known.map(|known| public_key_text(&known.key)).unwrap_or_default();
        Some(match (standing, proof, place) {
            (Standing::Changed, Proof::Signed(other), Some(place)) => format!(
                "{node}: SOMEBODY SAYS THINGS IN ITS NAME WITH ANOTHER KEY, and is not believed. It is known by {by} ({place}), and this is \
                 signed with {}. Either the node has a new key (its disk was lost or replaced), or somebody speaks as it. `podling key node \
                 --status-key` on the gateway prints the right one: if it is the new one, put it in place of the old one there",
                public_key_text(&other)
            ),
            (Standing::Changed, Proof::Signed(other), None) => format!(
                "{node}: TWO KEYS SPEAK AS THIS NODE, {by} and {}: what came first is shown, neither is remembered. `podling key node --status-key` \
                 on the gateway prints the right one: write it under nodeKeys of the settings",
                public_key_text(&other)
            ),
            (Standing::Missing, _, place) => format!(
                "{node}: something that is said in its name is not signed, and is not believed: it signs with {by} ({}). Somebody speaks as it, \
                 or rewrites on the way what it says; or an older podling runs there now: then take that line away",
                place.unwrap_or("seen in this run")
            ),
            _ => format!(
                "{node}: something that is said in its name was changed on the way, or said elsewhere: its signature does not fit, and it is not \
                 believed"
            ),
        })
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::mqtt::controller::SecretKey;

    fn signed(n: u8) -> Proof {
        Proof::Signed(SecretKey::from_seed(&[n; 32]).public())
    }

    fn key(n: u8) -> VerifyingKey {
        SecretKey::from_seed(&[n; 32]).public()
    }

    #[test]
    fn who_is_seen_first_is_known_from_then_on_and_kept_once() {
        let mut known = KnownNodes::default();
        let first = known.judge("gw", signed(1));
        assert_eq!(first, Judged { standing: Standing::New, is_first: true, complaint: None });
        let again = known.judge("gw", signed(1));
        assert_eq!(again, Judged { standing: Standing::New, is_first: false, complaint: None });
        assert_eq!(known.judge("gw", Proof::Unsigned).standing, Standing::Missing);
        assert_eq!(known.take_learnt(), [("gw".to_owned(), key(1))]);
        assert_eq!(known.take_learnt(), []);
        assert_eq!(known.judge("other", Proof::Unsigned).standing, Standing::Unsigned);
    }

    #[test]
    fn a_key_that_is_written_counts_and_the_first_line_wins() {
        let mut known = KnownNodes::default();
        known.add("gw", key(1), "settings");
        known.add("gw", key(2), "file, line 3");
        assert_eq!(known.judge("gw", signed(1)).standing, Standing::Verified);
        let other = known.judge("gw", signed(2));
        assert_eq!(other.standing, Standing::Changed);
        let complaint = other.complaint.unwrap();
        for expected in ["ANOTHER KEY", "settings", &public_key_text(&key(2)), "--status-key"] {
            assert!(complaint.contains(expected), "{complaint}");
        }
        assert_eq!(known.judge("gw", signed(2)).complaint, None, "once");
        assert_eq!(known.take_learnt(), []);
    }

    #[test]
    fn two_keys_that_speak_as_one_node_are_both_forgotten() {
        let mut known = KnownNodes::default();
        known.judge("gw", signed(1));
        let other = known.judge("gw", signed(2));
        assert_eq!(other.standing, Standing::Changed);
        assert!(other.complaint.unwrap().contains("TWO KEYS"));
        assert_eq!(known.take_learnt(), []);
        assert_eq!(
            known.judge("gw", signed(1)).standing,
            Standing::New,
            "what came first is shown"
        );
        assert_eq!(known.take_learnt(), []);
    }

    #[test]
    fn a_thousand_forgeries_are_not_a_thousand_complaints() {
        let mut known = KnownNodes::default();
        let forged =
            |known: &mut KnownNodes, n: usize| known.judge(&format!("gw-{n}"), Proof::Broken);
        let told = (0..1000).filter(|n| forged(&mut known, *n).complaint.is_some()).count();
        assert_eq!(told, COMPLAINTS_MAX);
    }
}
