//! Whole writes and copies over WASI's streams, which take and give what they have room for.

use wasi::io::streams::{InputStream, OutputStream, StreamError};

/// Bytes read at a time.
const CHUNK_BYTES: u64 = 64 * 1024;

/// Writes all of it, waiting for room.
pub(crate) fn write_all(stream: &mut OutputStream, mut bytes: &[u8]) -> Result<(), String> {
    while !bytes.is_empty() {
        let room = stream.check_write().map_err(words)? as usize;
        if room == 0 {
            stream.subscribe().block();
            continue;
        }
        let (now, later) = bytes.split_at(room.min(bytes.len()));
        stream.write(now).map_err(words)?;
        bytes = later;
    }
    stream.blocking_flush().map_err(words)
}

/// Copies until the end; returns how many bytes there were.
pub(crate) fn copy(from: &mut InputStream, to: &mut OutputStream) -> Result<u64, String> {
    let mut total = 0;
    loop {
        match from.blocking_read(CHUNK_BYTES) {
            Ok(bytes) => {
                total += bytes.len() as u64;
                write_all(to, &bytes)?;
            }
            Err(StreamError::Closed) => return Ok(total),
            Err(error) => return Err(words(error)),
        }
    }
}

fn words(error: StreamError) -> String {
    match error {
        StreamError::Closed => "closed".to_owned(),
        StreamError::LastOperationFailed(error) => error.to_debug_string(),
    }
}
