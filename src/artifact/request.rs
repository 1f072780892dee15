//! What a node asks for when it pulls an artifact over the broker: one JSON document on its request topic.
//!
//! Owns: the document, both ways, and its bounds. Not: the answer (`block`). Pure; no input panics.
//!
//! ```json
//! {"xfer":4021,"digest":"sha256:…","offset":98304,"block":32768,"count":8}
//! ```
//!
//! Read: the artifact's bytes from `offset`, in `count` blocks of `block` bytes (the artifact's last one may be shorter; what
//! lies behind its end is not asked for). Fields that a reader does not know are skipped: a later version may add some.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::image::Digest;

use super::block::{BLOCK_BYTES_MAX, BLOCK_BYTES_MIN};
use super::pull::WINDOW_MAX;

/// Longest document that is looked at. One has some 150 bytes.
const REQUEST_BYTES_MAX: usize = 4096;

/// A stretch of an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRequest {
    /// The asker's number of the transfer; comes back in each block, and names the topic of the answer.
    pub transfer: u32,
    pub digest: Digest,
    /// First byte.
    pub offset: u64,
    /// Bytes of each block.
    pub block: u32,
    /// Number of blocks.
    pub count: u32,
}

/// Why a message is no request that is answered.
#[derive(Debug, Error)]
pub enum RequestFault {
    #[error("is longer than {REQUEST_BYTES_MAX} bytes")]
    TooLong,
    #[error("is no block request: {0}")]
    Form(#[from] serde_json::Error),
    #[error("names no artifact: {0}")]
    Digest(#[from] crate::image::digest::InvalidDigest),
    #[error("asks for blocks of {0} bytes; {BLOCK_BYTES_MIN} to {BLOCK_BYTES_MAX} are served")]
    Block(u32),
    #[error("asks for {0} blocks at once; 1 to {WINDOW_MAX} are served")]
    Count(u32),
}

#[derive(Serialize, Deserialize)]
struct Form {
    xfer: u32,
    digest: String,
    offset: u64,
    block: u32,
    count: u32,
}

impl BlockRequest {
    /// The document.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let form = Form {
            xfer: self.transfer,
            digest: self.digest.to_string(),
            offset: self.offset,
            block: self.block,
            count: self.count,
        };
        serde_json::to_vec(&form).expect("numbers and text are JSON")
    }

    /// Reads a document.
    ///
    /// # Errors
    ///
    /// It is none, or asks for more than is served at once.
    pub fn parse(document: &[u8]) -> Result<Self, RequestFault> {
        if document.len() > REQUEST_BYTES_MAX {
            return Err(RequestFault::TooLong);
        }
        let form: Form = serde_json::from_slice(document)?;
        if !(BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&form.block) {
            return Err(RequestFault::Block(form.block));
        }
        if !(1..=WINDOW_MAX).contains(&form.count) {
            return Err(RequestFault::Count(form.count));
        }
        let (transfer, offset, block, count) = (form.xfer, form.offset, form.block, form.count);
        Ok(Self { transfer, digest: form.digest.parse()?, offset, block, count })
    }

    /// Offset and length of each block that an artifact of `total` bytes has to give.
    pub fn pieces(self, total: u64) -> impl Iterator<Item = (u64, u32)> {
        let starts = (0..u64::from(self.count))
            .filter_map(move |nth| self.offset.checked_add(nth * u64::from(self.block)));
        starts.take_while(move |start| *start < total).map(move |start| {
            let rest = u32::try_from(total - start).unwrap_or(u32::MAX);
            (start, rest.min(self.block))
        })
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn request(offset: u64, block: u32, count: u32) -> BlockRequest {
        let digest = Digest::from_hex(HEX).unwrap();
        BlockRequest { transfer: 4021, digest, offset, block, count }
    }

    #[test]
    fn a_request_is_this_document() {
        let request = request(98304, 32768, 8);
        let text = format!(
            r#"{{"xfer":4021,"digest":"sha256:{HEX}","offset":98304,"block":32768,"count":8}}"#
        );
        assert_eq!(String::from_utf8(request.to_json()).unwrap(), text);
        assert_eq!(BlockRequest::parse(text.as_bytes()).unwrap(), request);
        let later = text.replace("{\"xfer\"", "{\"new\":[1],\"xfer\"");
        assert_eq!(BlockRequest::parse(later.as_bytes()).unwrap(), request);
    }

    #[test]
    fn what_is_not_served_is_refused_in_words() {
        let said = |request: BlockRequest| {
            BlockRequest::parse(&request.to_json()).unwrap_err().to_string()
        };
        assert_eq!(
            said(request(0, 65536, 1)),
            "asks for blocks of 65536 bytes; 1024 to 32768 are served"
        );
        assert_eq!(said(request(0, 1024, 9)), "asks for 9 blocks at once; 1 to 8 are served");
        assert_eq!(said(request(0, 1024, 0)), "asks for 0 blocks at once; 1 to 8 are served");
        for (document, fault) in [
            (vec![b' '; 5000], "is longer than 4096 bytes"),
            (b"{}".to_vec(), "is no block request: missing field"),
            (b"[".to_vec(), "is no block request: EOF"),
            (
                br#"{"xfer":1,"digest":"x","offset":0,"block":1024,"count":1}"#.to_vec(),
                "names no artifact: \"x\" is no digest",
            ),
        ] {
            let said = BlockRequest::parse(&document).unwrap_err().to_string();
            assert!(said.starts_with(fault), "{said}");
        }
    }

    #[test]
    fn pieces_end_with_the_artifact() {
        let pieces = |request: BlockRequest, total| request.pieces(total).collect::<Vec<_>>();
        assert_eq!(pieces(request(0, 1024, 3), 2500), [(0, 1024), (1024, 1024), (2048, 452)]);
        assert_eq!(pieces(request(1000, 1024, 8), 1500), [(1000, 500)]);
        assert_eq!(pieces(request(1500, 1024, 8), 1500), []);
        assert_eq!(pieces(request(u64::MAX, 1024, 8), u64::MAX), []);
        assert_eq!(pieces(request(u64::MAX - 1, 1024, 8), u64::MAX), [(u64::MAX - 1, 1)]);
    }
}
