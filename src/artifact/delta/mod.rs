//! Differences between two modules: what a node with the old one needs to make the new one.
//!
//! Owns: the format, and applying it in constant memory. Not: finding a difference (`make`, on the publisher's machine), nor
//! whether the result is right: that is told by its digest alone, and a base that has rotted, or a patch that lies, ends
//! there. Pure but for the caller's readers; no patch panics, or makes it write more than was announced.
//!
//! ```text
//!  "pdlt" 1 │ size of the base │ size of the result │ record …                 numbers: LEB128
//!
//!  record   length of add │ ( zeros │ literals │ bytes … ) …                  result = base + byte, modulo 256
//!           length of copy │ bytes …                                          result = byte
//!           seek, zigzag                                                       how far the base's position jumps
//! ```
//!
//! That is bsdiff's way, with the zeros of `add` counted instead of written: where code has only moved, there is nothing but
//! zeros and here and there a changed address. Two builds of a Rust guest of 138 kB differ by 14 kB so (63 kB compressed in
//! full); a compressor behind it would halve that once more, and be one more parser of foreign bytes.

#[cfg(feature = "compiler")]
mod make;

use std::io::{self, Read};

use thiserror::Error;

#[cfg(feature = "compiler")]
pub use make::{MakeError, make};

/// The format's name in an intent.
pub const FORMAT: &str = "podling-delta-1";

const MAGIC: [u8; 5] = *b"pdlt\x01";

/// Bytes handled at a time: applying holds two such buffers.
const CHUNK_BYTES: usize = 32 * 1024;

/// Why a patch does not fit.
#[derive(Debug, Error)]
pub enum PatchFault {
    #[error("the difference does not begin as one")]
    Magic,
    #[error("the difference is for a module of {told} bytes, and the one here has {here}")]
    Base { told: u64, here: u64 },
    #[error("the difference makes {told} bytes, where {expected} are expected")]
    Size { told: u64, expected: u64 },
    #[error("the difference is damaged: it leaves the module that it is for")]
    Outside,
    #[error("the difference is damaged: it makes more than it should")]
    TooMuch,
    #[error("the difference is damaged: it goes on behind its end")]
    Trailing,
    #[error("the difference ends early")]
    Short,
    #[error("cannot read the module that the difference is for")]
    ReadBase(#[source] io::Error),
    #[error("cannot read the difference")]
    ReadPatch(#[source] io::Error),
}

/// Reads the base from an offset.
pub type ReadAt<'a> = dyn FnMut(u64, &mut [u8]) -> io::Result<()> + 'a;

/// Makes the result out of base and patch, piece by piece, in order.
///
/// # Errors
///
/// They do not fit each other, cannot be read, or `out` does not take a piece.
pub fn apply<E: From<PatchFault>>(
    patch: impl Read,
    base: (u64, &mut ReadAt<'_>),
    size: u64,
    out: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let (base_size, read_base) = base;
    let mut patch = Patch(patch);
    let mut magic = [0; MAGIC.len()];
    patch.fill(&mut magic)?;
    if magic != MAGIC {
        return Err(PatchFault::Magic.into());
    }
    let told = patch.number()?;
    if told != base_size {
        return Err(PatchFault::Base { told, here: base_size }.into());
    }
    let told = patch.number()?;
    if told != size {
        return Err(PatchFault::Size { told, expected: size }.into());
    }
    let mut making = Making { base_size, read_base, at: 0, left: size, out };
    let (mut ours, mut theirs) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    while making.left > 0 {
        making.record(&mut patch, &mut ours, &mut theirs)?;
    }
    if patch.0.read(&mut [0]).map_err(PatchFault::ReadPatch)? > 0 {
        return Err(PatchFault::Trailing.into());
    }
    Ok(())
}

struct Making<'a, 'b, E> {
    base_size: u64,
    read_base: &'a mut ReadAt<'b>,
    /// Position in the base.
    at: u64,
    /// Bytes of the result that are still to be made.
    left: u64,
    out: &'a mut dyn FnMut(&[u8]) -> Result<(), E>,
}

impl<E: From<PatchFault>> Making<'_, '_, E> {
    fn record(
        &mut self,
        patch: &mut Patch<impl Read>,
        ours: &mut [u8],
        theirs: &mut [u8],
    ) -> Result<(), E> {
        let mut add = patch.number()?;
        while add > 0 {
            let zeros = patch.number()?;
            let literals = patch.number()?;
            let run = zeros.checked_add(literals).filter(|run| (1..=add).contains(run));
            add -= run.ok_or(PatchFault::TooMuch)?;
            pieces(zeros, |length| self.add(&mut ours[..length], None))?;
            pieces(literals, |length| {
                patch.fill(&mut theirs[..length])?;
                self.add(&mut ours[..length], Some(&theirs[..length]))
            })?;
        }
        pieces(patch.number()?, |length| {
            patch.fill(&mut theirs[..length])?;
            self.give(&theirs[..length])
        })?;
        let seek = patch.number()?;
        let distance = i64::from_ne_bytes(((seek >> 1) ^ (seek & 1).wrapping_neg()).to_ne_bytes());
        let at = self.at.checked_add_signed(distance).filter(|at| *at <= self.base_size);
        self.at = at.ok_or(PatchFault::Outside)?;
        Ok(())
    }

    /// The next bytes of the base, changed by `by`.
    fn add(&mut self, into: &mut [u8], by: Option<&[u8]>) -> Result<(), E> {
        let end = self.at.checked_add(into.len() as u64).filter(|end| *end <= self.base_size);
        let end = end.ok_or(PatchFault::Outside)?;
        (self.read_base)(self.at, into).map_err(PatchFault::ReadBase)?;
        for (ours, theirs) in into.iter_mut().zip(by.into_iter().flatten()) {
            *ours = ours.wrapping_add(*theirs);
        }
        self.at = end;
        self.give(into)
    }

    fn give(&mut self, bytes: &[u8]) -> Result<(), E> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(PatchFault::TooMuch)?;
        (self.out)(bytes)
    }
}

/// Calls `each` with the lengths of the pieces that `total` is handled in.
fn pieces<E>(mut total: u64, mut each: impl FnMut(usize) -> Result<(), E>) -> Result<(), E> {
    while total > 0 {
        let length = usize::try_from(total).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        each(length)?;
        total -= length as u64;
    }
    Ok(())
}

struct Patch<R>(R);

impl<R: Read> Patch<R> {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), PatchFault> {
        self.0.read_exact(into).map_err(|error| {
            let ended = error.kind() == io::ErrorKind::UnexpectedEof;
            if ended { PatchFault::Short } else { PatchFault::ReadPatch(error) }
        })
    }

    /// A number in groups of seven bits, the lowest first; ten groups hold 64 bits.
    fn number(&mut self) -> Result<u64, PatchFault> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.fill(&mut byte)?;
            number |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(PatchFault::TooMuch)
    }
}

#[cfg(test)]
mod tests;
