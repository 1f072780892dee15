//! Reads the two clocks of the CPU meter.
//!
//! Owns: thread CPU time and the raw monotonic clock, in nanoseconds. Everything else reads time through
//! `crate::clock`; the meter reads it twice at each poll of each guest, and a [`crate::clock::Timestamp`] carries a wall
//! clock that it does not need.
//!
//! The monotonic clock is read without entering the kernel (about 25 ns); thread time needs a system call.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// CPU time that this thread has used, nanoseconds.
pub(crate) fn thread_ns() -> u64 {
    nanos(clock_gettime(ClockId::ThreadCPUTime))
}

/// Monotonic time, nanoseconds since some fixed instant.
pub(crate) fn monotonic_ns() -> u64 {
    nanos(clock_gettime(ClockId::Monotonic))
}

fn nanos(time: Timespec) -> u64 {
    #[allow(clippy::useless_conversion, reason = "the fields are narrower on 32-bit machines")]
    let (sec, nsec) = (i64::from(time.tv_sec), i64::from(time.tv_nsec));
    u64::try_from(sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(nsec).unwrap_or(0)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn thread_time_passes_while_this_thread_computes() {
        let (cpu, wall) = (thread_ns(), monotonic_ns());
        let mut x = 1u64;
        while thread_ns() < cpu + 1_000_000 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(monotonic_ns() >= wall + 900_000, "{x}");
    }
}
