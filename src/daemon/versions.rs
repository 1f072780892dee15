//! Where the versions of objects (`metadata.resourceVersion`) go on after a restart.
//!
//! A version must never mean two things: a client that kept one over a restart would miss changes, or write over what it has not seen. Clocks
//! cannot give that (many gateways begin each life in 1970), so each life of the daemon takes a range of its own, which is on disk
//! before the first version of it is given out. One small write for each start.

use tracing::warn;

use crate::clock::Timestamp;
use crate::error::chain;
use crate::store::Store;

/// Under which name the end of the last range stands.
pub(super) const NAME: &str = "versions";

/// Versions of one life: a thousand changes each second for thirty years. There is room for eight million lives.
const LIFE: u64 = 1 << 40;

/// The versions of this life begin after this one. `kept`: what [`NAME`] held.
pub(super) fn first(store: &Store, kept: Option<&[u8]>, now: Timestamp) -> u64 {
    let text = kept.and_then(|kept| std::str::from_utf8(kept).ok());
    let kept = text.and_then(|text| text.trim().parse::<u64>().ok());
    // Earlier versions of this program began at the clock's milliseconds.
    let by_clock = u64::try_from(now.wall_ms()).unwrap_or(0).clamp(1, 1 << 43);
    let first = kept.unwrap_or(by_clock).min(u64::MAX - 2 * LIFE);
    let Err(error) = store.commit_node(NAME, (first + LIFE).to_string().as_bytes()) else {
        return first;
    };
    warn!(cause = %chain(&error), "the versions of this start are not reserved; they begin at random");
    // The next life may begin at the same place: that the two meet is all but impossible.
    let mut chance = [0; 8];
    // Without randomness, the clock is better than nothing.
    let chance = getrandom::fill(&mut chance).map_or(by_clock, |()| u64::from_ne_bytes(chance));
    first + chance % (LIFE / 2)
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::store::unlucky::{Fault, Survival, Unlucky};

    const ROOT: &str = "/state";
    const YEAR_MS: i64 = 365 * 24 * 3_600_000;

    fn life(disk: &Unlucky, wall_ms: i64) -> u64 {
        let (store, loaded, _) = Store::open_on(Arc::new(disk.clone()), Path::new(ROOT)).unwrap();
        let kept = loaded.node.get(NAME).map(Vec::as_slice);
        first(&store, kept, Timestamp::new(Duration::ZERO, wall_ms))
    }

    #[test]
    fn whatever_the_clock_shows_no_version_is_given_out_twice() {
        let mut disk = Unlucky::new(Path::new(ROOT));
        let mut used = 0;
        for wall_ms in [56 * YEAR_MS, 5_000, 5_000, 130 * YEAR_MS, 0, -YEAR_MS, i64::MAX, i64::MIN]
        {
            let first = life(&disk, wall_ms);
            assert!(first > used, "{first} after {used}, at {wall_ms}");
            used = first + 1_000_000_000;
            // The power goes.
            disk = disk.reboot(Survival::Nothing);
        }
    }

    #[test]
    fn a_full_disk_makes_it_improbable_at_least() {
        let disk = Unlucky::new(Path::new(ROOT));
        let before = life(&disk, 5_000);
        disk.plan(Fault::Full { step: disk.steps() });
        let mut found: Vec<u64> = (0..8).map(|_| life(&disk, 5_000)).collect();
        found.sort_unstable();
        assert!(found[0] >= before + LIFE, "never below what was given out");
        let apart = found.windows(2).map(|two| two[1] - two[0]).min().unwrap();
        assert!(apart > 0, "{found:?}");
    }

    #[test]
    fn a_record_of_rubbish_is_no_record() {
        let (store, ..) =
            Store::open_on(Arc::new(Unlucky::new(Path::new(ROOT))), Path::new(ROOT)).unwrap();
        let now = Timestamp::new(Duration::ZERO, 7);
        for rubbish in [&b""[..], b"-1", b"\xff", b"99999999999999999999999"] {
            assert_eq!(first(&store, Some(rubbish), now), 7);
        }
        assert!(first(&store, Some(u64::MAX.to_string().as_bytes()), now) > 7, "and no overflow");
    }
}
