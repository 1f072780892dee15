//! Lines of many instances in one log.
//!
//! Owns: keeping what one instance prints together until its line is complete. Is not: the log. Dropping it prints what is left.

use std::sync::{Arc, Mutex, PoisonError};

use crate::runtime::{LogSink, Stream};

/// Longest unfinished line that is kept, bytes; a longer one goes on in pieces.
const LINE_BYTES_MAX: usize = 4096;

/// What one instance prints.
pub(super) struct Lines {
    log: Arc<dyn LogSink>,
    begun: Mutex<[Vec<u8>; 2]>,
}

impl Lines {
    pub(super) fn new(log: Arc<dyn LogSink>) -> Self {
        Self { log, begun: Mutex::default() }
    }
}

impl Lines {
    /// Adds to an unfinished line. What would make it too long goes out as it is: a guest hands over megabytes at a time.
    fn go_on(&self, stream: Stream, begun: &mut Vec<u8>, bytes: &[u8]) {
        if begun.len() + bytes.len() <= LINE_BYTES_MAX {
            begun.extend_from_slice(bytes);
            return;
        }
        for piece in [begun.as_slice(), bytes].into_iter().filter(|piece| !piece.is_empty()) {
            self.log.write(stream, piece);
        }
        begun.clear();
    }
}

fn place(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

impl LogSink for Lines {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = &mut begun[place(stream)];
        let mut bytes = bytes;
        if !begun.is_empty() {
            let end = bytes.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
            let (rest, after) = bytes.split_at(end.unwrap_or(bytes.len()));
            self.go_on(stream, begun, rest);
            if end.is_some() && !begun.is_empty() {
                self.log.write(stream, begun);
                begun.clear();
            }
            bytes = after;
        }
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        let (whole, rest) = bytes.split_at(whole);
        if !whole.is_empty() {
            self.log.write(stream, whole);
        }
        self.go_on(stream, begun, rest);
    }

    fn flush(&self) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in [Stream::Stdout, Stream::Stderr] {
            let begun = &mut begun[place(stream)];
            if !begun.is_empty() {
                begun.push(b'\n');
                self.log.write(stream, begun);
                begun.clear();
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<String>>);

    impl LogSink for Log {
        fn write(&self, _stream: Stream, bytes: &[u8]) {
            self.0.lock().unwrap().push(String::from_utf8(bytes.to_vec()).unwrap());
        }

        fn flush(&self) {}
    }

    /// What comes out of these writes.
    fn printed(writes: &[&str]) -> Vec<String> {
        let log = Arc::new(Log::default());
        let lines = Lines::new(Arc::<Log>::clone(&log));
        for text in writes {
            lines.write(Stream::Stdout, text.as_bytes());
            let begun = lines.begun.lock().unwrap();
            let kept: usize = begun.iter().map(Vec::capacity).sum();
            assert!(kept <= 2 * LINE_BYTES_MAX, "{kept} bytes kept");
        }
        drop(lines);
        std::mem::take(&mut *log.0.lock().unwrap())
    }

    #[test]
    fn a_line_comes_out_whole_however_it_was_cut() {
        assert_eq!(
            printed(&["he", "llo\nwor", "ld\n\nen", "d"]),
            ["hello\n", "world\n", "\n", "end\n"]
        );
        assert_eq!(printed(&["a\nb\nc"]), ["a\nb\n", "c\n"]);
        assert_eq!(printed(&["", "\n", ""]), ["\n"]);
    }

    #[test]
    fn a_guest_that_prints_megabytes_makes_us_keep_a_line_at_most() {
        let long = "x".repeat(1 << 20);
        let line = format!("{long}\n");
        assert_eq!(printed(&[&line, "b"]), [line.as_str(), "b\n"]);
        assert_eq!(printed(&["a", &line, "b\n"]), ["a", line.as_str(), "b\n"]);
        assert_eq!(printed(&["a", &long, "b\n"]), ["a", long.as_str(), "b\n"]);
    }
}
