//! A WebSocket as a pipe for bytes (RFC 6455), the server's side.
//!
//! Owns: the answer to the handshake, and frames in both directions. Pure. Newer `kubectl` puts its SPDY frames into it, where
//! proxies know no SPDY. Is not: messages; where one ends says nothing here.
//! Limits: control frames as the RFC has them (125 bytes); data frames are handed on in pieces as they arrive.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What the RFC adds to a client's key before it is hashed.
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Longest payload of a control frame.
const CONTROL_BYTES_MAX: usize = 125;

const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// `Sec-WebSocket-Accept` for a client's `Sec-WebSocket-Key`.
#[must_use]
pub(super) fn accept(key: &str) -> String {
    STANDARD.encode(sha1(format!("{key}{MAGIC}").as_bytes()))
}

/// Something the client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Data(BytesMut),
    /// To be answered with [`pong`].
    Ping(Bytes),
    Close,
}

/// What was sent is no WebSocket frame of a client, or not one for a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WebSocketError {
    #[error("a frame with reserved bits or an unknown kind")]
    Malformed,
    #[error("a frame that is not masked")]
    NotMasked,
    #[error("a message of text")]
    Text,
}

/// Reads what a client sends.
#[derive(Debug, Default)]
pub(super) struct Reader {
    data: Option<Payload>,
}

/// A data frame whose bytes are still coming.
#[derive(Clone, Copy, Debug)]
struct Payload {
    left: u64,
    mask: [u8; 4],
    /// Where in the mask the next byte is.
    phase: usize,
}

impl Reader {
    /// Takes the next event off the front of what has come; `None` if more must come first.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Event>, WebSocketError> {
        loop {
            if let Some(payload) = self.data {
                if payload.left == 0 {
                    self.data = None;
                    continue;
                }
                if buffer.is_empty() {
                    return Ok(None);
                }
                let here = u64::try_from(buffer.len()).unwrap_or(u64::MAX).min(payload.left);
                let mut data = buffer.split_to(usize::try_from(here).unwrap_or(0));
                unmask(&mut data, payload.mask, payload.phase);
                let phase = (payload.phase + data.len()) % 4;
                self.data = Some(Payload { left: payload.left - here, phase, ..payload });
                return Ok(Some(Event::Data(data)));
            }
            let Some(head) = Head::read(buffer)? else { return Ok(None) };
            if head.kind < CLOSE {
                buffer.advance(head.bytes);
                self.data = Some(Payload { left: head.length, mask: head.mask, phase: 0 });
                continue;
            }
            let length = usize::try_from(head.length).unwrap_or(usize::MAX);
            if length > CONTROL_BYTES_MAX {
                return Err(WebSocketError::Malformed);
            }
            if buffer.len() < head.bytes + length {
                return Ok(None);
            }
            buffer.advance(head.bytes);
            let mut data = buffer.split_to(length);
            unmask(&mut data, head.mask, 0);
            match head.kind {
                CLOSE => return Ok(Some(Event::Close)),
                PING => return Ok(Some(Event::Ping(data.freeze()))),
                _ => {}
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Head {
    kind: u8,
    length: u64,
    mask: [u8; 4],
    /// Its own.
    bytes: usize,
}

impl Head {
    fn read(buffer: &[u8]) -> Result<Option<Self>, WebSocketError> {
        let Some(&[first, second]) = buffer.first_chunk() else { return Ok(None) };
        let kind = first & 0x0f;
        if first & 0x70 != 0 || !matches!(kind, CONTINUATION..=BINARY | CLOSE..=PONG) {
            return Err(WebSocketError::Malformed);
        }
        if kind == 1 {
            return Err(WebSocketError::Text);
        }
        if second & 0x80 == 0 {
            return Err(WebSocketError::NotMasked);
        }
        let rest = &buffer[2..];
        let (length, bytes) = match second & 0x7f {
            126 => match rest.first_chunk() {
                Some(length) => (u64::from(u16::from_be_bytes(*length)), 4),
                None => return Ok(None),
            },
            127 => match rest.first_chunk() {
                Some(length) => (u64::from_be_bytes(*length), 10),
                None => return Ok(None),
            },
            length => (u64::from(length), 2),
        };
        let mask = buffer.get(bytes..).and_then(|rest| rest.first_chunk());
        Ok(mask.map(|mask| Self { kind, length, mask: *mask, bytes: bytes + 4 }))
    }
}

fn unmask(data: &mut [u8], mask: [u8; 4], phase: usize) {
    for (place, byte) in data.iter_mut().enumerate() {
        *byte ^= mask[(phase + place) % 4];
    }
}

/// What stands before the bytes of a data frame of the server.
pub(super) fn data_head(length: usize) -> Bytes {
    head(BINARY, length)
}

/// The answer to a ping.
pub(super) fn pong(data: &[u8]) -> Bytes {
    let mut frame = BytesMut::from(&head(PONG, data.len())[..]);
    frame.put_slice(data);
    frame.freeze()
}

/// An orderly end.
pub(super) fn close() -> Bytes {
    let mut frame = BytesMut::from(&head(CLOSE, 2)[..]);
    frame.put_u16(1000);
    frame.freeze()
}

fn head(kind: u8, length: usize) -> Bytes {
    let mut head = BytesMut::with_capacity(10);
    head.put_u8(0x80 | kind);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length), _) if length < 126 => head.put_u8(length),
        (_, Ok(length)) => {
            head.put_u8(126);
            head.put_u16(length);
        }
        _ => {
            head.put_u8(127);
            head.put_u64(length as u64);
        }
    }
    head.freeze()
}

/// FIPS 180-4's SHA-1. The handshake wants it to tell a WebSocket server from others, not to keep anything safe.
fn sha1(message: &[u8]) -> [u8; 20] {
    let mut state = [0x6745_2301_u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(64), 0);
    if padded.len() - message.len() < 9 {
        padded.resize(padded.len() + 64, 0);
    }
    let bits = (message.len() as u64 * 8).to_be_bytes();
    let at = padded.len() - 8;
    padded[at..].copy_from_slice(&bits);
    for block in padded.chunks_exact(64) {
        let mut words = [0_u32; 80];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
        }
        for t in 16..80 {
            let mixed = words[t - 3] ^ words[t - 8] ^ words[t - 14] ^ words[t - 16];
            words[t] = mixed.rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (t, word) in words.into_iter().enumerate() {
            let (f, k) = match t / 20 {
                0 => ((b & c) | (!b & d), 0x5a82_7999),
                1 => (b ^ c ^ d, 0x6ed9_eba1),
                2 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6_u32),
            };
            let next = a.rotate_left(5).wrapping_add(f).wrapping_add(e);
            let next = next.wrapping_add(k).wrapping_add(word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (sum, part) in state.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(part);
        }
    }
    let mut digest = [0; 20];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_handshake_of_the_rfc() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn the_hash_is_fips_180s() {
        let hex = |digest: [u8; 20]| -> String {
            digest.iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let table = [
            ("", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
            ("abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "84983e441c3bd26ebaae4aa1f95129e5e54670f1",
            ),
        ];
        for (text, digest) in table {
            assert_eq!(hex(sha1(text.as_bytes())), digest);
        }
        let long = vec![b'a'; 1_000_000];
        assert_eq!(hex(sha1(&long)), "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
        for length in 50..70 {
            // Where padding needs another block, and where it does not.
            let _ = sha1(&long[..length]);
        }
    }

    fn masked(kind: u8, fin: bool, data: &[u8]) -> Vec<u8> {
        let head = head(kind, data.len());
        let mut frame = head.to_vec();
        frame[0] = kind | if fin { 0x80 } else { 0 };
        frame[1] |= 0x80;
        let mask = [7, 99, 0, 255];
        frame.extend(mask);
        frame.extend(data.iter().zip(mask.into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    fn all(bytes: &[u8]) -> Result<(Vec<u8>, Vec<Event>), WebSocketError> {
        let (mut reader, mut buffer) = (Reader::default(), BytesMut::from(bytes));
        let (mut data, mut rest) = (Vec::new(), Vec::new());
        while let Some(event) = reader.next(&mut buffer)? {
            match event {
                Event::Data(bytes) => data.extend(bytes),
                Event::Ping(_) | Event::Close => rest.push(event),
            }
        }
        Ok((data, rest))
    }

    #[test]
    fn frames_become_bytes_again() {
        let long = vec![3; 70_000];
        let mut bytes = masked(BINARY, false, b"hel");
        bytes.extend(masked(PING, true, b"?"));
        bytes.extend(masked(CONTINUATION, true, b"lo"));
        bytes.extend(masked(BINARY, true, b""));
        bytes.extend(masked(BINARY, true, &long));
        bytes.extend(masked(PONG, true, b""));
        bytes.extend(masked(BINARY, true, &[9; 300]));
        bytes.extend(masked(CLOSE, true, &[3, 232]));
        let (data, rest) = all(&bytes).unwrap();
        assert_eq!(data, [b"hello", &long[..], &[9; 300]].concat());
        assert_eq!(rest, [Event::Ping("?".into()), Event::Close]);
    }

    #[test]
    fn what_no_client_may_send_is_an_error() {
        assert_eq!(all(&[0x82, 1, b'x']), Err(WebSocketError::NotMasked));
        assert_eq!(all(&masked(1, true, b"text")), Err(WebSocketError::Text));
        assert_eq!(all(&[0xc2, 0x80, 0, 0, 0, 0]), Err(WebSocketError::Malformed));
        assert_eq!(all(&masked(PING, true, &[0; 126])), Err(WebSocketError::Malformed));
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..6),
            step in 1_usize..50,
        ) {
            let bytes: Vec<u8> = parts.iter().flat_map(|part| masked(BINARY, true, part)).collect();
            let (mut reader, mut buffer, mut data) = (Reader::default(), BytesMut::new(), Vec::new());
            for piece in bytes.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some(Event::Data(bytes)) = reader.next(&mut buffer).unwrap() {
                    data.extend(bytes);
                }
            }
            prop_assert_eq!(data, parts.concat());
        }
    }
}
