//! The publisher's side of a transfer over the broker: answers to block requests.
//!
//! Owns: what is sent for a request. Not: finding the content (the caller knows what it offers, and stays silent for what
//! it does not: somebody else may have it), nor MQTT. Pure: reading is the caller's function.

use std::io;

use super::block::{Block, Body};
use super::request::BlockRequest;

/// The messages that answer `request`, out of content of `total` bytes; `read` fills its buffer from an offset. One block is
/// in memory at a time. A read that fails ends the answer: the node asks again later.
pub fn answer<'a>(
    request: &BlockRequest,
    total: u64,
    read: &'a mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> impl Iterator<Item = io::Result<Vec<u8>>> + use<'a> {
    let transfer = request.transfer;
    let mut broken = false;
    request.pieces(total).map_while(move |(offset, length)| {
        if broken {
            return None;
        }
        let mut data = vec![0; usize::try_from(length).unwrap_or(0)];
        let outcome = read(offset, &mut data);
        broken = outcome.is_err();
        let block = Block { transfer, offset, total, body: Body::Data(&data) };
        Some(outcome.map(|()| block.encode()))
    })
}

/// The message that says why a request is not answered with content.
#[must_use]
pub fn refuse(request: &BlockRequest, total: u64, reason: &str) -> Vec<u8> {
    let (transfer, offset) = (request.transfer, request.offset);
    Block { transfer, offset, total, body: Body::Refused(reason) }.encode()
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use crate::artifact::block::decode;
    use crate::image::Digest;

    use super::*;

    #[test]
    fn a_request_is_answered_block_by_block() {
        let content: Vec<u8> = (0..2500_u32).map(|n| n.to_le_bytes()[0]).collect();
        let request = BlockRequest {
            transfer: 3,
            digest: Digest::new([1; 32]),
            offset: 1024,
            block: 1024,
            count: 8,
        };
        let mut read = |offset: u64, into: &mut [u8]| {
            let start = usize::try_from(offset).unwrap();
            into.copy_from_slice(&content[start..start + into.len()]);
            Ok(())
        };
        let messages: Vec<Vec<u8>> =
            answer(&request, 2500, &mut read).collect::<Result<_, _>>().unwrap();
        let blocks: Vec<_> = messages.iter().map(|message| decode(message).unwrap()).collect();
        assert_eq!(blocks.len(), 2);
        for (block, start, end) in [(blocks[0], 1024, 2048), (blocks[1], 2048, 2500)] {
            let body = Body::Data(&content[start..end]);
            assert_eq!(block, Block { transfer: 3, offset: start as u64, total: 2500, body });
        }
    }

    #[test]
    fn a_read_that_fails_ends_the_answer() {
        let request = BlockRequest {
            transfer: 3,
            digest: Digest::new([1; 32]),
            offset: 0,
            block: 1024,
            count: 8,
        };
        let mut reads = 0;
        let mut read = |_: u64, _: &mut [u8]| {
            reads += 1;
            if reads == 2 { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
        };
        let answers: Vec<bool> =
            answer(&request, 1 << 20, &mut read).map(|message| message.is_ok()).collect();
        assert_eq!(answers, [true, false]);
        let refusal = refuse(&request, 9, "gone");
        assert_eq!(decode(&refusal).unwrap().body, Body::Refused("gone"));
    }
}
