//! How large a message a broker takes that does not say. Pure.
//!
//! A broker of MQTT 3.1.1 cannot name its limit, and ends the connection on a message above it. The node would say the same again on the next
//! connection, and so for ever. So when two connections in a row end that way with a message under way, messages of that size are
//! not sent to it any more; the caller hears `TooLarge`, and says less. The next day, or the next start, it may have a larger one.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::mqtt::transport::{Closed, codes};

/// A message smaller than this is not what a broker dies of.
const SUSPICIOUS: usize = 256;

/// Connections in a row that ended on a message.
const STRIKES: u32 = 2;

/// How long a limit is believed.
const BELIEVED: Duration = Duration::from_secs(24 * 3600);

/// What was learnt of a broker.
#[derive(Debug, Default)]
pub(super) struct Fits {
    strikes: u32,
    suspect: usize,
    limit: Option<(usize, Timestamp)>,
}

impl Fits {
    /// A connection ended; `largest`: the largest message that was not acknowledged.
    pub(super) fn closed(&mut self, now: Timestamp, why: &Closed, largest: Option<usize>) {
        let told = matches!(why, Closed::Ended { code: codes::PACKET_TOO_LARGE, .. });
        let abrupt = matches!(why, Closed::ByPeer | Closed::Broken(_));
        let Some(size) = largest.filter(|size| (told || abrupt) && *size >= SUSPICIOUS) else {
            self.strikes = 0;
            return;
        };
        self.strikes += 1;
        self.suspect = if self.strikes == 1 { size } else { self.suspect.min(size) };
        if told || self.strikes >= STRIKES {
            self.limit = Some((self.suspect - 1, now));
            self.strikes = 0;
        }
    }

    /// The largest message that may be sent, as far as is known.
    pub(super) fn limit(&self, now: Timestamp) -> Option<usize> {
        self.limit.filter(|(_, since)| now.since(*since) < BELIEVED).map(|(limit, _)| limit)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::simulated(Duration::from_secs(seconds))
    }

    #[test]
    fn two_ends_on_a_message_are_a_limit_for_a_day() {
        let mut fits = Fits::default();
        fits.closed(at(0), &Closed::ByPeer, Some(2000));
        assert_eq!(fits.limit(at(0)), None, "once may be chance");
        fits.closed(at(1), &Closed::Broken("reset".into()), Some(1500));
        assert_eq!(fits.limit(at(1)), Some(1499));
        assert_eq!(fits.limit(at(24 * 3600 + 1)), None);
    }

    #[test]
    fn other_ends_are_no_limit() {
        let mut fits = Fits::default();
        let rows = [
            (Closed::ByPeer, None),
            (Closed::ByPeer, Some(100)),
            (Closed::Silent(Duration::ZERO), Some(2000)),
            (Closed::ByPeer, Some(2000)),
            (Closed::ByUs, Some(2000)),
            (Closed::ByPeer, Some(2000)),
        ];
        for (why, largest) in rows {
            fits.closed(at(0), &why, largest);
            assert_eq!(fits.limit(at(0)), None, "{why}");
        }
    }

    #[test]
    fn a_broker_that_says_so_is_believed_at_once() {
        let mut fits = Fits::default();
        let code = codes::PACKET_TOO_LARGE;
        let why = Closed::Ended { code, name: "packet too large", text: None };
        fits.closed(at(0), &why, Some(2000));
        assert_eq!(fits.limit(at(0)), Some(1999));
    }
}
