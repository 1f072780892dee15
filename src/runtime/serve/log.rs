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
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        if whole > 0 {
            begun.extend_from_slice(&bytes[..whole]);
            self.log.write(stream, begun);
            begun.clear();
        }
        begun.extend_from_slice(&bytes[whole..]);
        if begun.len() > LINE_BYTES_MAX {
            self.log.write(stream, begun);
            begun.clear();
        }
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
