//! Which key is which node's, as an operator knows it: what a node's word is measured by.
//!
//! Owns: keys that were known before (settings, the file of known nodes), keys that were learnt in this run, how far each node was heard before and
//! in this run, and what to tell a person of a word that is not believed. Not: the signatures (`mqtt::signature`), nor the files
//! (`cli::known`). Pure.
//!
//! ```text
//!  node not known ── first signed word ──► known from now on (New); the caller keeps it, unless two keys speak as that node
//!  node known     ── its own key ──► Verified; anything else is not believed
//!                          └── a birth or node status before the mark of an earlier run ──► Old: not believed
//! ```
//!
//! The mark is the highest `(conn, seq)` that was seen of a node under its key: `conn` only rises, over power cuts too, and `seq` within it, so
//! what is below was said before what has been seen, whoever shows it now. Only the node's own word moves it. Statuses of pods are not measured by
//! it: those of an earlier connection stand beside a newer birth until the node has said them again, and are shown as what was true before.
//!
//! As with SSH's known hosts, the first sight is believed: whoever wants to believe nobody names the key beforehand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ed25519_dalek::VerifyingKey;

use crate::mqtt::controller::{NODES_MAX, Said};
use crate::mqtt::signature::{Proof, Standing};
use crate::mqtt::trust::public_key_text;

/// Complaints about one run's messages: who forges one forges a thousand.
const COMPLAINTS_MAX: usize = 64;

/// How far a node was heard: the connection of its newest birth, or the connection and number of its newest node status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    pub conn: u64,
    /// Of a birth, 0: it says nothing of the statuses of its connection.
    pub seq: u64,
}

impl Mark {
    /// What a message says of its own place, if it has one that is measured.
    #[must_use]
    pub fn of(said: &Said) -> Option<Self> {
        match said {
            Said::Online(online) => Some(Self { conn: online.conn, seq: 0 }),
            Said::Node(status) => Some(Self { conn: status.stamp.conn, seq: status.stamp.seq }),
            Said::Pod(..) | Said::Forgotten(_) | Said::Reply(_) => None,
        }
    }

    /// Whether it was said before that one. (A birth, which has no number, not before a status of its connection.)
    fn is_before(self, seen: Self) -> bool {
        self.conn < seen.conn || self.conn == seen.conn && self.seq > 0 && self.seq < seen.seq
    }
}

/// A mark that was kept, as a person finds it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub mark: Mark,
    /// When it was seen, by the clock of who saw it.
    pub when: String,
    /// Where it is written.
    pub place: String,
}

#[derive(Clone, Debug)]
struct Known {
    key: VerifyingKey,
    /// Where it is written, for people; of one that was learnt in this run, nowhere.
    place: Option<Arc<str>>,
    /// How far it was heard in this run.
    heard: Option<Mark>,
    /// How far it is kept that it was heard.
    kept: Option<Mark>,
}

impl Known {
    fn new(key: VerifyingKey, place: Option<Arc<str>>) -> Self {
        Self { key, place, heard: None, kept: None }
    }
}

/// See the header.
#[derive(Clone, Debug, Default)]
pub struct KnownNodes {
    nodes: BTreeMap<String, Known>,
    /// How far nodes were heard in earlier runs, and under which key.
    seen: BTreeMap<String, (VerifyingKey, Seen)>,
    /// Two keys have spoken as each of these.
    disputed: BTreeSet<String>,
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
        let known = Known::new(key, Some(place.into()));
        self.nodes.entry(node.to_owned()).or_insert(known);
    }

    /// How far a node was heard in an earlier run, under that key. It counts for that key alone: a node with a new disk begins anew.
    pub fn add_seen(&mut self, node: &str, key: VerifyingKey, seen: Seen) {
        self.seen.insert(node.to_owned(), (key, seen));
    }

    #[must_use]
    pub fn key(&self, node: &str) -> Option<&VerifyingKey> {
        self.nodes.get(node).map(|known| &known.key)
    }

    /// What a message in a node's name is worth, which has its place there.
    pub fn judge(&mut self, node: &str, proof: Proof, mark: Option<Mark>) -> Judged {
        let judged = self.judge_key(node, proof);
        let Some(mark) =
            mark.filter(|_| matches!(judged.standing, Standing::Verified | Standing::New))
        else {
            return judged;
        };
        let Some(known) = self.nodes.get_mut(node) else { return judged };
        let seen = self.seen.get(node).filter(|(key, _)| *key == known.key).map(|(_, seen)| seen);
        if let Some(seen) = seen.filter(|seen| mark.is_before(seen.mark)) {
            let complaint = too_old(node, mark, seen);
            let is_told = !self.is_told(node, Standing::Old);
            let complaint = is_told.then_some(complaint);
            return Judged { standing: Standing::Old, complaint, ..judged };
        }
        known.heard = known.heard.max(Some(mark));
        judged
    }

    fn judge_key(&mut self, node: &str, proof: Proof) -> Judged {
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
            self.disputed.insert(node.to_owned());
        }
        let complaint =
            if standing.is_believed() { None } else { self.complain(node, standing, proof) };
        Judged { standing, is_first, complaint }
    }

    fn learn(&mut self, node: &str, key: VerifyingKey) -> bool {
        if self.nodes.len() >= NODES_MAX {
            return false;
        }
        self.nodes.insert(node.to_owned(), Known::new(key, None));
        self.learnt.insert(node.to_owned())
    }

    /// Keys that were learnt since the last time, for whoever keeps them.
    pub fn take_learnt(&mut self) -> Vec<(String, VerifyingKey)> {
        let learnt = std::mem::take(&mut self.learnt);
        learnt.into_iter().filter_map(|node| Some((node.clone(), *self.key(&node)?))).collect()
    }

    /// How far nodes were heard, each where it was heard further than before; for whoever keeps that. A first time everything, then new
    /// connections only: in a run that goes on for days a node that speaks is no reason to write.
    pub fn take_heard(&mut self) -> Vec<(String, VerifyingKey, Mark)> {
        let (seen, disputed) = (&self.seen, &self.disputed);
        let further = |(node, known): (&String, &mut Known)| {
            let heard = known.heard.filter(|_| !disputed.contains(node))?;
            let before = seen.get(node).filter(|(key, _)| *key == known.key);
            let is_further = match known.kept {
                Some(kept) => heard.conn > kept.conn,
                None => before.is_none_or(|(_, seen)| heard > seen.mark),
            };
            if !is_further {
                return None;
            }
            known.kept = Some(heard);
            Some((node.clone(), known.key, heard))
        };
        self.nodes.iter_mut().filter_map(further).collect()
    }

    /// Whether a person has heard of it, or has heard enough. From now on he has.
    fn is_told(&mut self, node: &str, standing: Standing) -> bool {
        self.told.len() >= COMPLAINTS_MAX || !self.told.insert((node.to_owned(), standing))
    }

    fn complain(&mut self, node: &str, standing: Standing, proof: Proof) -> Option<String> {
        if self.is_told(node, standing) {
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

fn too_old(node: &str, mark: Mark, seen: &Seen) -> String {
    let Seen { mark: newest, when, place } = seen;
    let number = |mark: Mark| match mark.seq {
        0 => format!("connection {}", mark.conn),
        seq => format!("connection {}, status {seq}", mark.conn),
    };
    format!(
        "{node}: WHAT THE BROKER SHOWS OF IT IS OLD, and is not believed: {} is properly signed, and {} was seen at {when} ({place}). The broker \
         has lost what the node said since, or keeps it back. It is right only if the node's disk was put back to an earlier copy of itself, \
         and the broker was emptied: then take that line away",
        number(mark),
        number(*newest),
    )
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
        let first = known.judge("gw", signed(1), None);
        assert_eq!(first, Judged { standing: Standing::New, is_first: true, complaint: None });
        let again = known.judge("gw", signed(1), None);
        assert_eq!(again, Judged { standing: Standing::New, is_first: false, complaint: None });
        assert_eq!(known.judge("gw", Proof::Unsigned, None).standing, Standing::Missing);
        assert_eq!(known.take_learnt(), [("gw".to_owned(), key(1))]);
        assert_eq!(known.take_learnt(), []);
        assert_eq!(known.judge("other", Proof::Unsigned, None).standing, Standing::Unsigned);
    }

    #[test]
    fn a_key_that_is_written_counts_and_the_first_line_wins() {
        let mut known = KnownNodes::default();
        known.add("gw", key(1), "settings");
        known.add("gw", key(2), "file, line 3");
        assert_eq!(known.judge("gw", signed(1), None).standing, Standing::Verified);
        let other = known.judge("gw", signed(2), None);
        assert_eq!(other.standing, Standing::Changed);
        let complaint = other.complaint.unwrap();
        for expected in ["ANOTHER KEY", "settings", &public_key_text(&key(2)), "--status-key"] {
            assert!(complaint.contains(expected), "{complaint}");
        }
        assert_eq!(known.judge("gw", signed(2), None).complaint, None, "once");
        assert_eq!(known.take_learnt(), []);
    }

    #[test]
    fn two_keys_that_speak_as_one_node_are_both_forgotten() {
        let mut known = KnownNodes::default();
        known.judge("gw", signed(1), None);
        let other = known.judge("gw", signed(2), None);
        assert_eq!(other.standing, Standing::Changed);
        assert!(other.complaint.unwrap().contains("TWO KEYS"));
        assert_eq!(known.take_learnt(), []);
        assert_eq!(
            known.judge("gw", signed(1), None).standing,
            Standing::New,
            "what came first is shown"
        );
        assert_eq!(known.take_learnt(), []);
    }

    #[test]
    fn a_thousand_forgeries_are_not_a_thousand_complaints() {
        let mut known = KnownNodes::default();
        let forged =
            |known: &mut KnownNodes, n: usize| known.judge(&format!("gw-{n}"), Proof::Broken, None);
        let told = (0..1000).filter(|n| forged(&mut known, *n).complaint.is_some()).count();
        assert_eq!(told, COMPLAINTS_MAX);
    }

    fn at(conn: u64, seq: u64) -> Option<Mark> {
        Some(Mark { conn, seq })
    }

    /// A node that was heard up to a status, by an earlier run.
    fn seen(conn: u64, seq: u64) -> KnownNodes {
        let mut known = KnownNodes::default();
        known.add("gw", key(1), "file, line 3");
        let (when, place) = ("2026-11-21T07:00:00Z".to_owned(), "line 2 of seen".to_owned());
        known.add_seen("gw", key(1), Seen { mark: Mark { conn, seq }, when, place });
        known
    }

    #[test]
    fn what_was_said_before_what_was_seen_is_old_however_well_it_is_signed() {
        let rows = [
            (at(9, 0), Standing::Old),
            (at(9, 800), Standing::Old),
            (at(10, 6), Standing::Old),
            // The birth of the connection that was seen, its last status, and all that came after.
            (at(10, 0), Standing::Verified),
            (at(10, 7), Standing::Verified),
            (at(10, 8), Standing::Verified),
            (at(11, 0), Standing::Verified),
            (at(11, 1), Standing::Verified),
            // A pod's status, an answer: not measured by it.
            (None, Standing::Verified),
        ];
        for (mark, standing) in rows {
            let mut known = seen(10, 7);
            let judged = known.judge("gw", signed(1), mark);
            assert_eq!(judged.standing, standing, "{mark:?}");
            assert_eq!(judged.complaint.is_some(), standing == Standing::Old);
            let again = known.judge("gw", signed(1), mark);
            assert_eq!((again.standing, again.complaint), (standing, None), "told once");
        }
        let complaint = seen(10, 7).judge("gw", signed(1), at(9, 3)).complaint.unwrap();
        for part in ["connection 9, status 3", "connection 10, status 7", "2026-11-21", "line 2"] {
            assert!(complaint.contains(part), "{complaint}");
        }
    }

    #[test]
    fn only_the_nodes_own_word_is_a_mark_and_only_for_its_own_key() {
        let mut known = seen(10, 7);
        for (proof, mark) in
            [(signed(2), at(99, 1)), (Proof::Broken, at(99, 1)), (Proof::Unsigned, at(99, 1))]
        {
            assert!(!known.judge("gw", proof, mark).standing.is_believed());
        }
        assert_eq!(known.take_heard(), []);
        // A new disk: another key, which begins at low numbers.
        let mut known = seen(10, 7);
        known.nodes.clear();
        known.add("gw", key(2), "file, line 3");
        assert_eq!(known.judge("gw", signed(2), at(1, 1)).standing, Standing::Verified);
        assert_eq!(known.take_heard(), [("gw".to_owned(), key(2), Mark { conn: 1, seq: 1 })]);
        // Two keys speak as one node that is seen for the first time.
        let mut known = KnownNodes::default();
        known.judge("gw", signed(1), at(5, 1));
        known.judge("gw", signed(2), at(6, 1));
        assert_eq!(known.take_heard(), []);
    }

    #[test]
    fn how_far_a_node_was_heard_is_kept_once_and_then_for_each_new_connection() {
        let mut known = seen(10, 7);
        let mut heard = |conn, seq| {
            known.judge("gw", signed(1), at(conn, seq));
            let taken = known.take_heard().into_iter();
            taken.map(|(_, _, mark)| (mark.conn, mark.seq)).collect::<Vec<_>>()
        };
        assert_eq!(heard(10, 0), []);
        assert_eq!(heard(10, 7), []);
        assert_eq!(heard(10, 8), [(10, 8)]);
        assert_eq!(heard(10, 9), []);
        assert_eq!(heard(11, 0), [(11, 0)]);
        assert_eq!(heard(11, 12), []);
        assert_eq!(heard(9, 900), []);
    }
}
