//! Whether a connection goes on with the broker's session of the one before. Pure.
//!
//! Owns: Clean Start and the session's expiry. Nothing of a session is of use to us: desired state is retained, status is said again, and
//! each connection subscribes anew. It is kept for one thing: a broker waits with a will only while the session lasts (MQTT 5,
//! 3.1.3.2.2), and Clean Start ends the session before, which sends its will at once. So a short break of the link stays unseen only where
//! the next connection goes on with the session.
//!
//! What a session may bring along is told once, and only by a broker that this very process was subscribed at just before:
//!
//! ```text
//!  first connection ─ clean ─► subscribed ─ the link breaks ─► goes on ─ subscribed ─► …
//!        ▲                                                        │ ends before it is subscribed
//!        └── another broker, a protocol error, a refusal, a twin ─┘
//! ```
//!
//! What the broker has queued meanwhile comes as if it were late, which the protocol above takes as it takes everything late: documents
//! by their version, commands not at all (they name their connection).

use std::time::Duration;

use crate::mqtt::transport::{Class, Closed, Version};

/// How much longer than the will's delay the session is kept: the delay is what counts, also for a broker that counts in whole seconds.
const MARGIN: Duration = Duration::from_secs(5);

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beginning {
    pub(super) clean: bool,
    /// Seconds that the broker keeps the session after the connection; 0: no longer than that.
    pub(super) expiry: u32,
}

/// What is known of the session at the broker.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// The broker that has one that we may go on with: which of those in the settings.
    at: Option<usize>,
    /// The connection of now has been subscribed.
    subscribed: bool,
}

impl Session {
    /// A connection begins; `delay` is that of its will.
    pub(super) fn begin(
        &mut self,
        broker: usize,
        version: Version,
        delay: Option<Duration>,
    ) -> Beginning {
        self.subscribed = false;
        let delay = delay.filter(|delay| version == Version::V5 && !delay.is_zero());
        let Some(delay) = delay else { return Beginning { clean: true, expiry: 0 } };
        let expiry = u32::try_from((delay + MARGIN).as_secs()).unwrap_or(u32::MAX);
        Beginning { clean: self.at != Some(broker), expiry }
    }

    pub(super) fn subscribed(&mut self) {
        self.subscribed = true;
    }

    /// The connection has ended, or did not come about.
    pub(super) fn closed(&mut self, broker: usize, closed: &Closed, was_up: bool) {
        let harmless = match closed.class() {
            Class::Transient | Class::Ours => true,
            Class::NeedsAPerson | Class::TakenOver | Class::Downgrade => false,
        };
        if was_up {
            // One that breaks before it is subscribed may break of what the session holds: it is not tried twice.
            self.at = (harmless && self.subscribed).then_some(broker);
        } else if !harmless {
            self.at = None;
        }
        self.subscribed = false;
    }

    /// We have taken leave, and the session with us.
    pub(super) fn ended(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::mqtt::transport::codes;

    const DELAY: Option<Duration> = Some(Duration::from_secs(20));

    fn is_clean(session: &mut Session, broker: usize) -> bool {
        session.begin(broker, Version::V5, DELAY).clean
    }

    #[test]
    fn a_session_outlives_the_delay_of_the_will_and_nothing_else_keeps_one() {
        let begin = |version, delay| Session::default().begin(0, version, delay);
        assert_eq!(begin(Version::V5, DELAY), Beginning { clean: true, expiry: 25 });
        let none = Beginning { clean: true, expiry: 0 };
        assert_eq!(begin(Version::V5, None), none);
        assert_eq!(begin(Version::V5, Some(Duration::ZERO)), none);
        assert_eq!(begin(Version::V311, DELAY), none);
    }

    #[test]
    fn only_a_broken_link_to_the_same_broker_goes_on_with_its_session() {
        let taken = Closed::Ended { code: codes::SESSION_TAKEN_OVER, name: "x", text: None };
        let rows = [
            (Closed::ByPeer, 0, false),
            (Closed::Silent(Duration::ZERO), 0, false),
            (Closed::Renewal, 0, false),
            (Closed::ByPeer, 1, true),
            (Closed::Protocol(String::new()), 0, true),
            (taken, 0, true),
        ];
        for (closed, next, clean) in rows {
            let mut session = Session::default();
            assert!(is_clean(&mut session, 0));
            session.subscribed();
            session.closed(0, &closed, true);
            assert_eq!(is_clean(&mut session, next), clean, "{closed}, then broker {next}");
        }
    }

    #[test]
    fn a_session_that_breaks_the_connection_again_is_not_gone_on_with() {
        let mut session = Session::default();
        is_clean(&mut session, 0);
        session.subscribed();
        session.closed(0, &Closed::ByPeer, true);
        assert!(!is_clean(&mut session, 0));
        session.closed(0, &Closed::ByPeer, true);
        assert!(is_clean(&mut session, 0));
    }

    #[test]
    fn attempts_that_reach_nobody_change_nothing_and_a_refusal_or_a_goodbye_does() {
        let subscribed = || {
            let mut session = Session::default();
            is_clean(&mut session, 0);
            session.subscribed();
            session.closed(0, &Closed::ByPeer, true);
            session
        };
        let mut session = subscribed();
        for broker in [0, 1, 0] {
            session.begin(broker, Version::V5, DELAY);
            session.closed(broker, &Closed::NoAnswer(Duration::ZERO), false);
        }
        assert!(!is_clean(&mut session, 0));
        let refused = Closed::Refused { code: codes::NOT_AUTHORIZED, name: "x" };
        session.closed(0, &refused, false);
        assert!(is_clean(&mut session, 0));
        let mut session = subscribed();
        session.ended();
        assert!(is_clean(&mut session, 0));
    }
}
