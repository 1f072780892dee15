//! SPDY/3.1 frames, as `kubectl port-forward` speaks them (draft-mbelshe-httpbis-spdy-00; moby/spdystream at the other end).
//!
//! Owns: reading frames out of bytes as they come, and writing the few that a server needs. Pure. Is not: streams and what they
//! are for (`session`), nor SPDY's flow control: no client that forwards ports uses it, the connection's own is all there is.
//! Limits: control frames up to [`CONTROL_BYTES_MAX`]; data frames are handed on in pieces as they arrive, however long.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::inflate::{InflateError, Inflater};

/// Largest control frame. Those of a port-forward are under a hundred bytes.
const CONTROL_BYTES_MAX: usize = 16 * 1024;

/// Names and values of one header block that are kept.
const HEADERS_MAX: usize = 64;

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const FLAG_FIN: u8 = 1;

/// `RST_STREAM` and what it says.
pub(super) const REFUSED_STREAM: u32 = 3;
pub(super) const CANCEL: u32 = 5;

/// Something the client did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It opens a stream.
    Open { stream: u32, headers: Vec<(String, String)>, fin: bool },
    /// Bytes on a stream. `fin`: there are no more to come.
    Data { stream: u32, data: Bytes, fin: bool },
    /// It wants nothing more of a stream.
    Reset { stream: u32 },
    /// It wants this back.
    Ping { id: u32 },
    /// It is about to close the connection.
    GoAway,
}

/// What was said is not SPDY/3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of SPDY version {0}")]
    Version(u16),
    #[error("a control frame of {0} bytes")]
    TooLong(usize),
    #[error("a malformed frame")]
    Malformed,
    #[error("a malformed header block")]
    Headers(#[from] InflateError),
}

/// Reads what a client says.
#[derive(Debug, Default)]
pub(super) struct Reader {
    inflater: Inflater,
    data: Option<DataFrame>,
}

/// A data frame whose bytes are still coming.
#[derive(Clone, Copy, Debug)]
struct DataFrame {
    stream: u32,
    left: usize,
    fin: bool,
}

impl Reader {
    /// Takes the next event off the front of what has come; `None` if more must come first.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Event>, FrameError> {
        loop {
            if let Some(frame) = self.data {
                return Ok(self.data_of(frame, buffer));
            }
            let Some((head, rest)) = buffer.split_at_checked(8) else { return Ok(None) };
            let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let flags = head[4];
            let length = usize_of(u32::from_be_bytes([0, head[5], head[6], head[7]]));
            let fin = flags & FLAG_FIN != 0;
            if word >> 31 == 0 {
                buffer.advance(8);
                self.data = Some(DataFrame { stream: word, left: length, fin });
                continue;
            }
            if length > CONTROL_BYTES_MAX {
                return Err(FrameError::TooLong(length));
            }
            let Some(payload) = rest.get(..length) else { return Ok(None) };
            let [v1, v2, t1, t2] = word.to_be_bytes();
            let (version, kind) =
                (u16::from_be_bytes([v1 & 0x7f, v2]), u16::from_be_bytes([t1, t2]));
            if version != VERSION {
                return Err(FrameError::Version(version));
            }
            let event = self.control(kind, fin, payload)?;
            buffer.advance(8 + length);
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    fn data_of(&mut self, frame: DataFrame, buffer: &mut BytesMut) -> Option<Event> {
        let take = frame.left.min(buffer.len());
        if take == 0 && frame.left > 0 {
            return None;
        }
        let data = buffer.split_to(take).freeze();
        let left = frame.left - take;
        self.data = (left > 0).then_some(DataFrame { left, ..frame });
        Some(Event::Data { stream: frame.stream, data, fin: frame.fin && left == 0 })
    }

    /// `None` for frames that ask for nothing.
    fn control(
        &mut self,
        kind: u16,
        fin: bool,
        payload: &[u8],
    ) -> Result<Option<Event>, FrameError> {
        Ok(match kind {
            SYN_STREAM => {
                let (stream, rest) = stream_of(payload)?;
                let block = rest.get(6..).ok_or(FrameError::Malformed)?;
                let headers = headers(&self.inflater.block(block)?)?;
                Some(Event::Open { stream, headers, fin })
            }
            SYN_REPLY | HEADERS => {
                let (_, block) = stream_of(payload)?;
                // Not wanted, but the next block may refer to it.
                self.inflater.block(block)?;
                None
            }
            RST_STREAM => Some(Event::Reset { stream: stream_of(payload)?.0 }),
            PING => {
                let id = payload.first_chunk().ok_or(FrameError::Malformed)?;
                Some(Event::Ping { id: u32::from_be_bytes(*id) })
            }
            GOAWAY => Some(Event::GoAway),
            // SETTINGS, WINDOW_UPDATE, and whatever else: to be ignored.
            _ => None,
        })
    }
}

fn usize_of(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn stream_of(payload: &[u8]) -> Result<(u32, &[u8]), FrameError> {
    let (id, rest) = payload.split_first_chunk().ok_or(FrameError::Malformed)?;
    Ok((u32::from_be_bytes(*id) & 0x7fff_ffff, rest))
}

fn headers(mut block: &[u8]) -> Result<Vec<(String, String)>, FrameError> {
    let mut number = || -> Result<usize, FrameError> {
        let (value, rest) = block.split_first_chunk().ok_or(FrameError::Malformed)?;
        block = rest;
        Ok(usize_of(u32::from_be_bytes(*value)))
    };
    let count = number()?;
    if count > HEADERS_MAX {
        return Err(FrameError::Malformed);
    }
    let mut headers = Vec::new();
    for _ in 0..count {
        let mut text = || -> Result<String, FrameError> {
            let (length, rest) = block.split_first_chunk().ok_or(FrameError::Malformed)?;
            let length = usize_of(u32::from_be_bytes(*length));
            let (text, rest) = rest.split_at_checked(length).ok_or(FrameError::Malformed)?;
            block = rest;
            Ok(String::from_utf8_lossy(text).into_owned())
        };
        headers.push((text()?.to_ascii_lowercase(), text()?));
    }
    Ok(headers)
}

/// Writes what a server says.
#[derive(Debug, Default)]
pub(super) struct Writer {
    begun: bool,
}

impl Writer {
    /// Accepts a stream, without headers of its own.
    pub(super) fn accept(&mut self, stream: u32) -> Bytes {
        let mut block = BytesMut::new();
        if !self.begun {
            // A compressed stream that compresses nothing: deflate, without the dictionary.
            block.put_slice(&[0x78, 0x01]);
            self.begun = true;
        }
        // Stored: four bytes that say "no headers". Then nothing, stored, so that the reader may go on.
        block.put_slice(&[0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0]);
        block.put_slice(&[0, 0, 0, 0xff, 0xff]);
        let mut payload = BytesMut::new();
        payload.put_u32(stream);
        payload.put_slice(&block);
        control(SYN_REPLY, &payload)
    }
}

/// Wants nothing more of a stream.
pub(super) fn reset(stream: u32, status: u32) -> Bytes {
    let mut payload = BytesMut::new();
    payload.put_u32(stream);
    payload.put_u32(status);
    control(RST_STREAM, &payload)
}

/// Gives a ping back.
pub(super) fn pong(id: u32) -> Bytes {
    control(PING, &id.to_be_bytes())
}

/// What stands before the bytes of a data frame. `fin`: there are no more to come on this stream.
pub(super) fn data_head(stream: u32, length: u32, fin: bool) -> [u8; 8] {
    let [a, b, c, d] = (stream & 0x7fff_ffff).to_be_bytes();
    let [_, x, y, z] = length.min(0x00ff_ffff).to_be_bytes();
    [a, b, c, d, u8::from(fin), x, y, z]
}

fn control(kind: u16, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + payload.len());
    frame.put_u16(0x8000 | VERSION);
    frame.put_u16(kind);
    // No flags; and no frame of ours is longer than 24 bits can say.
    frame.put_u32(u32::try_from(payload.len()).unwrap_or(0));
    frame.put_slice(payload);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use proptest::prelude::*;

    fn syn_stream(stream: u32, block: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x80, 3, 0, 1, 0, 0, 0];
        frame.push(u8::try_from(block.len() + 10).unwrap());
        frame.extend(stream.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0, 0]);
        frame.extend(block);
        frame
    }

    /// Two headers, stored.
    fn block(first: bool) -> Vec<u8> {
        let mut plain = vec![0, 0, 0, 2];
        for text in ["Port", "80", "streamtype", "data"] {
            plain.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            plain.extend(text.bytes());
        }
        let mut block = if first { vec![0x78, 0x01] } else { Vec::new() };
        let length = u16::try_from(plain.len()).unwrap();
        block.push(0);
        block.extend(length.to_le_bytes());
        block.extend((!length).to_le_bytes());
        block.extend(plain);
        block.extend([0, 0, 0, 0xff, 0xff]);
        block
    }

    fn all(reader: &mut Reader, bytes: &[u8]) -> Result<Vec<Event>, FrameError> {
        let mut buffer = BytesMut::from(bytes);
        let mut events = Vec::new();
        while let Some(event) = reader.next(&mut buffer)? {
            events.push(event);
        }
        Ok(events)
    }

    fn conversation() -> Vec<u8> {
        let mut bytes = syn_stream(1, &block(true));
        bytes.extend(pong(7));
        bytes.extend(data_head(1, 5, false));
        bytes.extend(b"hello");
        bytes.extend(syn_stream(3, &block(false)));
        bytes.extend(data_head(1, 0, true));
        bytes.extend(reset(3, CANCEL));
        bytes.extend(control(4, &[0; 4])); // SETTINGS
        bytes.extend(control(GOAWAY, &[0; 8]));
        bytes
    }

    fn expected() -> Vec<Event> {
        let headers = vec![("port".into(), "80".into()), ("streamtype".into(), "data".into())];
        vec![
            Event::Open { stream: 1, headers: headers.clone(), fin: false },
            Event::Ping { id: 7 },
            Event::Data { stream: 1, data: "hello".into(), fin: false },
            Event::Open { stream: 3, headers, fin: false },
            Event::Data { stream: 1, data: "".into(), fin: true },
            Event::Reset { stream: 3 },
            Event::GoAway,
        ]
    }

    #[test]
    fn what_a_client_says_is_understood() {
        assert_eq!(all(&mut Reader::default(), &conversation()).unwrap(), expected());
    }

    #[test]
    fn what_a_server_answers_is_what_clients_read() {
        let mut writer = Writer::default();
        let mut bytes = BytesMut::new();
        bytes.extend(writer.accept(1));
        bytes.extend(writer.accept(3));
        // A reply asks for nothing; it must only keep the compression in step.
        assert_eq!(all(&mut Reader::default(), &bytes).unwrap(), []);
    }

    #[test]
    fn nonsense_is_an_error() {
        let table: [(&[u8], FrameError); 4] = [
            (&[0x80, 2, 0, 6, 0, 0, 0, 0], FrameError::Version(2)),
            (&[0x80, 3, 0, 1, 0, 0xff, 0, 0], FrameError::TooLong(0xff_0000)),
            (&[0x80, 3, 0, 6, 0, 0, 0, 0], FrameError::Malformed),
            (&[0x80, 3, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1], FrameError::Malformed),
        ];
        for (bytes, error) in table {
            assert_eq!(all(&mut Reader::default(), bytes), Err(error));
        }
    }

    proptest! {
        /// However the bytes are cut on their way, the same is said; data may come in more pieces.
        #[test]
        fn cuts_change_nothing(mut cuts in prop::collection::vec(0_usize..200, 0..12)) {
            let bytes = conversation();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let (mut reader, mut buffer, mut at) = (Reader::default(), BytesMut::new(), 0);
            let mut said: Vec<Event> = Vec::new();
            for cut in cuts {
                let cut = cut.min(bytes.len()).max(at);
                buffer.extend_from_slice(&bytes[at..cut]);
                at = cut;
                while let Some(event) = reader.next(&mut buffer).unwrap() {
                    said.push(event);
                }
            }
            prop_assert_eq!(joined(said), joined(expected()));
        }

        #[test]
        fn anything_is_answered(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = all(&mut Reader::default(), &bytes);
        }
    }

    /// Data without the cuts in it.
    fn joined(events: Vec<Event>) -> Vec<Event> {
        let mut all: Vec<Event> = Vec::new();
        for event in events {
            if let (
                Some(Event::Data { stream, data, fin }),
                Event::Data { stream: same, data: more, fin: end },
            ) = (all.last_mut(), &event)
                && stream == same
                && !*fin
            {
                *data = [&data[..], &more[..]].concat().into();
                *fin = *end;
                continue;
            }
            all.push(event);
        }
        all
    }
}
