//! The flags of the standard streams.
//!
//! Owns: `NONBLOCK`, which wasmtime-wasi has for files only. Is not: the streams.
//!
//! A program of one thread that waits for its standard input stops altogether: so Go's runtime asks for this flag before anything else, and believes
//! the answer. Output never waits here, so only reading heeds it.

use wasmtime_wasi::p1::types::Fdflags;

use super::FIRST_OPEN;

/// Where wasmtime-wasi has the standard input, under its own numbers.
const INPUT: u32 = 0;

/// By wasmtime-wasi's number; gone when the stream is closed, for then the number may become a file's.
#[derive(Debug)]
pub(super) struct Standard([Option<Fdflags>; FIRST_OPEN as usize]);

impl Default for Standard {
    fn default() -> Self {
        Self([Some(Fdflags::empty()); FIRST_OPEN as usize])
    }
}

impl Standard {
    fn stream(&mut self, host: u32) -> Option<&mut Option<Fdflags>> {
        self.0.get_mut(host as usize).filter(|flags| flags.is_some())
    }

    pub(super) fn flags(&mut self, host: u32) -> Fdflags {
        self.stream(host).and_then(|flags| *flags).unwrap_or(Fdflags::empty())
    }

    /// Sets what can be set of a pipe on Linux, and passes over the rest; false if it is no standard stream.
    pub(super) fn set_flags(&mut self, host: u32, flags: Fdflags) -> bool {
        let Some(known) = self.stream(host) else { return false };
        *known = Some(flags & (Fdflags::NONBLOCK | Fdflags::APPEND));
        true
    }

    pub(super) fn must_not_wait(&mut self, host: u32) -> bool {
        host == INPUT && self.flags(host).contains(Fdflags::NONBLOCK)
    }

    pub(super) fn closed(&mut self, host: u32) {
        if let Some(flags) = self.stream(host) {
            *flags = None;
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn only_an_open_input_that_was_told_so_must_not_wait() {
        let mut standard = Standard::default();
        assert!(!standard.must_not_wait(0));
        assert!(standard.set_flags(0, Fdflags::NONBLOCK | Fdflags::SYNC));
        assert!(standard.set_flags(1, Fdflags::NONBLOCK));
        assert_eq!(standard.flags(0), Fdflags::NONBLOCK);
        assert_eq!([0, 1, 2].map(|fd| standard.must_not_wait(fd)), [true, false, false]);
        assert!(!standard.set_flags(3, Fdflags::NONBLOCK), "a file");
        assert!(standard.set_flags(0, Fdflags::empty()));
        assert!(!standard.must_not_wait(0));
        standard.set_flags(0, Fdflags::NONBLOCK);
        standard.closed(0);
        assert!(!standard.must_not_wait(0) && !standard.set_flags(0, Fdflags::NONBLOCK));
        assert_eq!(standard.flags(0), Fdflags::empty());
    }
}
