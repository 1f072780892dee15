//! Reads the clocks of the CPU meter.
//!
//! Owns: thread CPU time, this thread's and another's, and the raw monotonic clock, in nanoseconds. Everything else reads time through
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

/// The CPU clock of a thread, for others to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// This thread's.
    pub(crate) fn mine() -> Self {
        // What pthread_getcpuclockid(3) answers on Linux: the thread's number, and that its time as the scheduler counts it is meant.
        const OF_THREAD_AS_SCHEDULED: i32 = 4 | 2;
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        Self((!thread << 3) | OF_THREAD_AS_SCHEDULED)
    }

    /// CPU time that it has used, nanoseconds; `None`: it has ended.
    pub(crate) fn ns(self) -> Option<u64> {
        #[allow(unsafe_code, reason = "rustix reads no clock of another thread")]
        // SAFETY: a structure of numbers, for which zeros will do, and which the call fills in.
        let (failed, time) = unsafe {
            let mut time: libc::timespec = std::mem::zeroed();
            (libc::clock_gettime(self.0, &raw mut time), time)
        };
        #[allow(clippy::useless_conversion, reason = "the fields are narrower on 32-bit machines")]
        let (sec, nsec) = (i64::from(time.tv_sec), i64::from(time.tv_nsec));
        let ns = u64::try_from(sec).ok()? * 1_000_000_000 + u64::try_from(nsec).ok()?;
        (failed == 0).then_some(ns)
    }
}

fn nanos(time: Timespec) -> u64 {
    #[allow(clippy::useless_conversion, reason = "the fields are narrower on 32-bit machines")]
    let (sec, nsec) = (i64::from(time.tv_sec), i64::from(time.tv_nsec));
    u64::try_from(sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(nsec).unwrap_or(0)
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn another_threads_clock_can_be_read_until_it_ends() {
        let mine = ThreadClock::mine();
        let before = thread_ns();
        let seen = std::thread::spawn(move || mine.ns()).join().unwrap().unwrap();
        assert!((before..=thread_ns()).contains(&seen));
        let other = std::thread::spawn(ThreadClock::mine).join().unwrap();
        assert_ne!(other, mine);
    }

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
