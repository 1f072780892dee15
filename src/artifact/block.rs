//! One block of an artifact as it travels over the broker: the bytes of a message on `…/blob/<xfer>`.
//!
//! Owns: the format, both ways. Not: which block is wanted (`pull`), nor who answers (`serve`). Pure; no input panics.
//!
//! ```text
//!  0     4   5     6    8      12       16        24       32
//!  "pblk" ver flags 0 0  xfer   crc32c   offset    total    data …        all numbers big-endian
//! ```
//!
//! The checksum covers everything but itself, header included: a flipped bit in `offset` would put good data in a wrong
//! place. It is there to lose one block instead of a whole transfer; what content is worth is told by its digest alone.

use thiserror::Error;

/// First bytes of every block.
const MAGIC: [u8; 4] = *b"pblk";

/// The format written by this version.
const VERSION: u8 = 1;

/// Bytes before the data.
pub const HEADER_BYTES: usize = 32;

/// Where the checksum is.
const CRC: std::ops::Range<usize> = 12..16;

/// Set: the data is not content but a sentence that says why there is none.
const REFUSED: u8 = 1;

/// Longest sentence of a refusal, bytes: it is shown in a status, beside others.
pub const REFUSAL_BYTES_MAX: usize = 256;

/// Largest block, bytes. `BLOCK_BYTES_MAX` × window ([`super::pull::WINDOW_MAX`]) is what a transfer holds in memory, and
/// what a link of 10 kB/s carries in half of a keep-alive.
pub const BLOCK_BYTES_MAX: u32 = 32 * 1024;

/// Smallest block that is asked for where the broker lets only small packets through.
pub const BLOCK_BYTES_MIN: u32 = 1024;

/// A block, borrowing its data from the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    /// The asker's number of the transfer.
    pub transfer: u32,
    /// Where the data belongs.
    pub offset: u64,
    /// Bytes of the whole artifact.
    pub total: u64,
    pub body: Body<'a>,
}

/// What a block carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    Data(&'a [u8]),
    /// The sender has the artifact and will not send this part of it.
    Refused(&'a str),
}

/// Why a message is no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BlockFault {
    #[error("is shorter than a block's header")]
    Short,
    #[error("does not begin as a block")]
    Magic,
    #[error("has version {0} of the block format, which is unknown")]
    Version(u8),
    #[error("has the unknown flags {0:#04x}")]
    Flags(u8),
    #[error("does not match its checksum")]
    Checksum,
    #[error("carries more than a block may")]
    TooLong,
    #[error("lies outside of its artifact")]
    Outside,
    #[error("carries no data")]
    Empty,
    #[error("refuses with something that is no text")]
    Refusal,
}

impl Block<'_> {
    /// The message of this block. A refusal longer than [`REFUSAL_BYTES_MAX`] is cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (flags, data) = match self.body {
            Body::Data(data) => (0, data),
            Body::Refused(reason) => (REFUSED, cut(reason, REFUSAL_BYTES_MAX).as_bytes()),
        };
        let mut message = Vec::with_capacity(HEADER_BYTES + data.len());
        message.extend(MAGIC);
        message.extend([VERSION, flags, 0, 0]);
        message.extend(self.transfer.to_be_bytes());
        message.extend([0; 4]);
        message.extend(self.offset.to_be_bytes());
        message.extend(self.total.to_be_bytes());
        message.extend(data);
        let crc = checksum(&message);
        message[CRC].copy_from_slice(&crc.to_be_bytes());
        message
    }
}

/// The transfer that a message claims to belong to, unchecked: to hand it to whom it may concern.
#[must_use]
pub fn transfer_of(message: &[u8]) -> Option<u32> {
    message.starts_with(&MAGIC).then(|| number::<4>(message, 8).map(u32::from_be_bytes)).flatten()
}

/// Reads a message.
///
/// # Errors
///
/// It is no block, or not as it was sent.
pub fn decode(message: &[u8]) -> Result<Block<'_>, BlockFault> {
    let (header, data) = message.split_at_checked(HEADER_BYTES).ok_or(BlockFault::Short)?;
    if !header.starts_with(&MAGIC) {
        return Err(BlockFault::Magic);
    }
    let (version, flags) = (header[4], header[5]);
    if version != VERSION {
        return Err(BlockFault::Version(version));
    }
    if flags & !REFUSED != 0 {
        return Err(BlockFault::Flags(flags));
    }
    let word = |at| number::<8>(header, at).map(u64::from_be_bytes).ok_or(BlockFault::Short);
    let half = |at| number::<4>(header, at).map(u32::from_be_bytes).ok_or(BlockFault::Short);
    if half(CRC.start)? != checksum(message) {
        return Err(BlockFault::Checksum);
    }
    let (transfer, offset, total) = (half(8)?, word(16)?, word(24)?);
    let refused = flags & REFUSED != 0;
    let bytes_max = if refused { REFUSAL_BYTES_MAX } else { BLOCK_BYTES_MAX as usize };
    if data.len() > bytes_max {
        return Err(BlockFault::TooLong);
    }
    let body = if refused {
        Body::Refused(std::str::from_utf8(data).map_err(|_| BlockFault::Refusal)?)
    } else if data.is_empty() {
        return Err(BlockFault::Empty);
    } else {
        let end = offset.checked_add(data.len() as u64);
        if end.is_none_or(|end| end > total) {
            return Err(BlockFault::Outside);
        }
        Body::Data(data)
    };
    Ok(Block { transfer, offset, total, body })
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Over everything but the checksum's own place. The message has a whole header.
fn checksum(message: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&message[..CRC.start]), &message[CRC.end..])
}

/// The longest beginning of `text` that has at most `bytes_max` bytes and cuts no character.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn message() -> Vec<u8> {
        Block { transfer: 7, offset: 4096, total: 5000, body: Body::Data(b"four") }.encode()
    }

    #[test]
    fn a_block_is_these_bytes() {
        // Written out, since others implement it too; docs/mqtt.md has the same.
        let expected = b"pblk\x01\x00\x00\x00\x00\x00\x00\x07\
            \x28\x9f\x75\x31\
            \x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x13\x88four";
        assert_eq!(message(), expected, "{:02x?}", message());
    }

    #[test]
    fn what_is_no_block_is_told_apart() {
        let resealed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut message = message();
            change(&mut message);
            let crc = checksum(&message);
            message[CRC].copy_from_slice(&crc.to_be_bytes());
            decode(&message).unwrap_err()
        };
        assert_eq!(decode(b""), Err(BlockFault::Short));
        assert_eq!(decode(&message()[..31]), Err(BlockFault::Short));
        assert_eq!(resealed(&|m| m[0] = b'q'), BlockFault::Magic);
        assert_eq!(resealed(&|m| m[4] = 2), BlockFault::Version(2));
        assert_eq!(resealed(&|m| m[5] = 0x82), BlockFault::Flags(0x82));
        assert_eq!(resealed(&|m| m.truncate(32)), BlockFault::Empty);
        assert_eq!(resealed(&|m| m[16] = 0xff), BlockFault::Outside);
        assert_eq!(resealed(&|m| (m[30], m[31]) = (0, 1)), BlockFault::Outside);
        assert_eq!(resealed(&|m| m.resize(32 + 32 * 1024 + 1, 0)), BlockFault::TooLong);
        assert_eq!(resealed(&|m| (m[5], m[32]) = (1, 0xff)), BlockFault::Refusal);
    }

    #[test]
    fn a_refusal_keeps_its_words_up_to_a_bound() {
        let long = "é".repeat(200);
        for (said, heard) in
            [("the block is too large", "the block is too large"), (&long, &long[..256])]
        {
            let block = Block { transfer: 1, offset: 9, total: 3, body: Body::Refused(said) };
            assert_eq!(decode(&block.encode()).unwrap().body, Body::Refused(heard));
        }
    }

    proptest! {
        #[test]
        fn a_block_reads_back(
            transfer: u32, offset in 0..u64::MAX / 2, rest in 0u64..1 << 40,
            data in proptest::collection::vec(any::<u8>(), 1..100),
        ) {
            let total = offset + data.len() as u64 + rest;
            let block = Block { transfer, offset, total, body: Body::Data(&data) };
            let message = block.encode();
            prop_assert_eq!(transfer_of(&message), Some(transfer));
            prop_assert_eq!(decode(&message), Ok(block));
        }

        #[test]
        fn one_flipped_bit_is_noticed(bit in 0usize..36 * 8) {
            let mut message = message();
            message[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&message).is_err());
        }
    }
}
