//! The modules that this program has to give, and the blocks that answer a node's requests.
//!
//! Owns: which content is offered, that it is still what it was, and whose turn it is. Not: the format (`artifact::serve`), nor
//! sending. Blocking reads of a block at a time: local files, at a laptop.
//!
//! Bounds: one request of each node's transfer waits, the newest; [`WAITING_MAX`] in all. What does not fit is asked for again.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::artifact::BlockRequest;
use crate::artifact::serve::{answer, refuse};
use crate::image::Digest;
use crate::image::import::Stamp;

/// Requests that wait to be answered: a large group that fetches at once takes turns.
const WAITING_MAX: usize = 256;

/// Content that can be given.
#[derive(Debug)]
enum Offer {
    File {
        path: PathBuf,
        file: File,
        stamp: Stamp,
        /// Whether it was read as it is now.
        intact: bool,
    },
    /// A difference, which is small.
    Bytes(Vec<u8>),
}

/// A module cannot be offered.
#[derive(Debug, Error)]
#[error("cannot read module {}", path.display())]
pub struct OfferError {
    path: PathBuf,
    source: io::Error,
}

/// What one answer carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub node: String,
    pub digest: Digest,
    /// How far the node is with this answer.
    pub bytes: u64,
    pub total: u64,
}

/// A message for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    pub node: String,
    /// Decimal, as it stands in the topic.
    pub transfer: String,
    pub messages: Vec<Vec<u8>>,
    pub sent: Sent,
}

/// See the header.
#[derive(Debug, Default)]
pub struct Offers {
    contents: BTreeMap<Digest, Offer>,
    waiting: VecDeque<(String, BlockRequest)>,
    /// Requests that were not answered, for want of room.
    pub dropped: u64,
}

impl Offers {
    /// Offers a file, which has been found to have this content while it had that stamp.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn add(&mut self, digest: Digest, path: &Path, stamp: Stamp) -> Result<(), OfferError> {
        let error = |source| OfferError { path: path.to_owned(), source };
        let file = File::open(path).map_err(error)?;
        let intact = Stamp::from(&file.metadata().map_err(error)?) == stamp;
        let offer = Offer::File { path: path.to_owned(), file, stamp, intact };
        self.contents.insert(digest, offer);
        Ok(())
    }

    /// Offers bytes that have this digest.
    pub fn add_bytes(&mut self, digest: Digest, bytes: Vec<u8>) {
        self.contents.insert(digest, Offer::Bytes(bytes));
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// Takes a request; in silence, if it is for somebody else.
    pub fn asked(&mut self, node: &str, request: BlockRequest) {
        if !self.contents.contains_key(&request.digest) {
            return;
        }
        let same = |(other, waiting): &&mut (String, BlockRequest)| {
            other == node && waiting.transfer == request.transfer
        };
        if let Some((_, waiting)) = self.waiting.iter_mut().find(same) {
            *waiting = request;
        } else if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back((node.to_owned(), request));
        } else {
            self.dropped += 1;
        }
    }

    /// Whether somebody waits for an answer.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Nobody waits any more: the connection is gone, and who still wants something asks again.
    pub fn forget(&mut self) {
        self.waiting.clear();
    }

    /// The answer to the request that has waited longest.
    pub fn answer(&mut self) -> Option<Blocks> {
        let (node, request) = self.waiting.pop_front()?;
        let offer = self.contents.get_mut(&request.digest)?;
        let (total, messages) = offer.answer(&request);
        let asked = u64::from(request.block) * u64::from(request.count);
        let bytes = request.offset.saturating_add(asked).min(total);
        let sent = Sent { node: node.clone(), digest: request.digest, bytes, total };
        Some(Blocks { node, transfer: request.transfer.to_string(), messages, sent })
    }
}

impl Offer {
    /// Size of the whole, and the messages that answer a request.
    fn answer(&mut self, request: &BlockRequest) -> (u64, Vec<Vec<u8>>) {
        match self {
            Self::Bytes(bytes) => {
                let mut read = |at: u64, into: &mut [u8]| {
                    let from = usize::try_from(at).ok().and_then(|at| bytes.get(at..));
                    let from = from.and_then(|from| from.get(..into.len()));
                    into.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
                    Ok(())
                };
                let total = bytes.len() as u64;
                (total, answer(request, total, &mut read).map_while(Result::ok).collect())
            }
            Self::File { path, file, stamp, intact } => {
                let changed = file.metadata().map_or(true, |meta| Stamp::from(&meta) != *stamp);
                *intact &= !changed;
                if *intact {
                    let mut read = |at: u64, into: &mut [u8]| file.read_exact_at(into, at);
                    let messages = answer(request, stamp.size, &mut read);
                    return (stamp.size, messages.map_while(Result::ok).collect());
                }
                let shown = path.file_name().unwrap_or_default().to_string_lossy();
                let why = format!("{shown} has changed since it was published");
                (stamp.size, vec![refuse(request, stamp.size, &why)])
            }
        }
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::artifact::block::{Body, decode};
    use crate::image::import::Origin;

    fn request(digest: Digest, transfer: u32, offset: u64) -> BlockRequest {
        BlockRequest { transfer, digest, offset, block: 1024, count: 2 }
    }

    fn offered(content: &[u8]) -> (tempfile::TempDir, PathBuf, Digest, Offers) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.wasm");
        std::fs::write(&path, content).unwrap();
        let digest = crate::mqtt::envelope::digest(content);
        let mut offers = Offers::default();
        offers.add(digest, &path, Origin::open(&path).unwrap().stamp).unwrap();
        (dir, path, digest, offers)
    }

    #[test]
    fn requests_are_answered_in_turn_the_newest_of_each_transfer() {
        let content = vec![7; 2500];
        let (_dir, _, digest, mut offers) = offered(&content);
        offers.asked("a", request(digest, 1, 0));
        offers.asked("b", request(digest, 1, 0));
        offers.asked("a", request(digest, 1, 2048));
        offers.asked("a", request(Digest::new([0; 32]), 2, 0));
        let first = offers.answer().unwrap();
        assert_eq!((&*first.node, &*first.transfer, first.messages.len()), ("a", "1", 1));
        assert_eq!(decode(&first.messages[0]).unwrap().body, Body::Data(&content[2048..]));
        assert_eq!((first.sent.bytes, first.sent.total), (2500, 2500));
        assert_eq!(offers.answer().unwrap().node, "b");
        assert!(offers.answer().is_none(), "what we do not have is somebody else's");
    }

    #[test]
    fn what_is_in_memory_is_given_in_the_same_way() {
        let mut offers = Offers::default();
        let digest = Digest::new([4; 32]);
        offers.add_bytes(digest, vec![5; 1500]);
        offers.asked("a", request(digest, 1, 1024));
        let answer = offers.answer().unwrap();
        assert_eq!(decode(&answer.messages[0]).unwrap().body, Body::Data(&[5; 476]));
        assert_eq!((answer.messages.len(), answer.sent.total), (1, 1500));
    }

    #[test]
    fn a_file_that_has_changed_is_not_passed_off_as_what_was_signed() {
        let (_dir, path, digest, mut offers) = offered(&[7; 2500]);
        std::fs::write(&path, vec![8; 2600]).unwrap();
        offers.asked("a", request(digest, 1, 0));
        let answer = offers.answer().unwrap();
        let Body::Refused(why) = decode(&answer.messages[0]).unwrap().body else { panic!() };
        assert_eq!(why, "web.wasm has changed since it was published");
    }
}
