//! Chance that can be had again: the same seed, the same faults.

use std::time::Duration;

/// A small generator (SplitMix64): what matters is that the same seed gives the same run.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// True so many times of a thousand.
    pub(super) fn falls(&mut self, of_thousand: u16) -> bool {
        of_thousand > 0 && self.roll() % 1000 < u64::from(of_thousand)
    }

    pub(super) fn part_of(&mut self, most: Duration) -> Duration {
        match u64::try_from(most.as_nanos()).unwrap_or(u64::MAX) {
            0 => Duration::ZERO,
            most => Duration::from_nanos(self.roll() % most),
        }
    }
}
