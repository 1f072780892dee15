//! How long a broker keeps our session. Pure.
//!
//! Owns: the session's expiry. Nothing of a session is of use to us: desired state is retained, status is said again, and each connection
//! subscribes anew, always with Clean Start, so that nothing of an earlier one comes along. The session is kept for one thing: a broker
//! waits with a will only while the session lasts (MQTT 5, 3.1.3.2.2). The next connection's Clean Start ends it; a broker that then sends
//! the will shows the node offline for the moment until its birth, and not for as long as the link was broken.

use std::time::Duration;

use crate::mqtt::transport::Version;

/// How much longer than the will's delay the session is kept: the delay is what counts, also for a broker that counts in whole seconds.
const MARGIN: Duration = Duration::from_secs(5);

/// Seconds that the broker keeps the session after the connection, whose will has that delay; 0: no longer than that.
pub(super) fn expiry(version: Version, delay: Option<Duration>) -> u32 {
    let delay = delay.filter(|delay| version == Version::V5 && !delay.is_zero());
    delay.map_or(0, |delay| u32::try_from((delay + MARGIN).as_secs()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_session_outlives_the_delay_of_the_will_and_nothing_else_keeps_one() {
        let delay = Some(Duration::from_secs(20));
        assert_eq!(expiry(Version::V5, delay), 25);
        for (version, delay) in
            [(Version::V5, None), (Version::V5, Some(Duration::ZERO)), (Version::V311, delay)]
        {
            assert_eq!(expiry(version, delay), 0);
        }
    }
}
