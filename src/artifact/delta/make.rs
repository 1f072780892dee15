//! Finds the difference between two modules: the publisher's side, on a machine with memory to spare.
//!
//! Owns: writing the format. Not: the search, which is `bidiff`'s (bsdiff with a suffix array; it holds about ten times the old
//! module). A build without `compiler`, which is one for gateways, has none of it.

use std::convert::Infallible;

use bidiff::{Control, DiffParams, Translator};
use thiserror::Error;

use crate::image::import::MODULE_BYTES_MAX;

use super::MAGIC;

/// Zeros in a row that are worth being counted apart: two numbers are.
const ZEROS_MIN: usize = 4;

/// Why there is no difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MakeError {
    #[error("a module of more than {MODULE_BYTES_MAX} bytes has no differences made for it")]
    TooLarge,
    /// The whole is as short.
    #[error("the modules have too little in common")]
    NoUse,
}

/// The difference that makes `new` out of `old`.
///
/// # Errors
///
/// It would save less than a fifth of the new module.
pub fn make(old: &[u8], new: &[u8]) -> Result<Vec<u8>, MakeError> {
    let too_large = |bytes: &[u8]| bytes.len() as u64 > MODULE_BYTES_MAX;
    if too_large(old) || too_large(new) {
        return Err(MakeError::TooLarge);
    }
    let mut patch = MAGIC.to_vec();
    number(&mut patch, old.len() as u64);
    number(&mut patch, new.len() as u64);
    let mut translator = Translator::new(old, new, |control: &Control<'_>| {
        record(&mut patch, control);
        Ok::<(), Infallible>(())
    });
    let Ok(()) =
        bidiff::diff(old, new, &DiffParams::default(), |found| translator.translate(found));
    let Ok(()) = translator.close();
    if patch.len() > new.len() / 5 * 4 { Err(MakeError::NoUse) } else { Ok(patch) }
}

fn record(patch: &mut Vec<u8>, control: &Control<'_>) {
    number(patch, control.add.len() as u64);
    let mut rest = control.add;
    while !rest.is_empty() {
        let zeros = rest.iter().take_while(|byte| **byte == 0).count();
        let literals = literals(&rest[zeros..]);
        number(patch, zeros as u64);
        number(patch, literals as u64);
        patch.extend_from_slice(&rest[zeros..zeros + literals]);
        rest = &rest[zeros + literals..];
    }
    number(patch, control.copy.len() as u64);
    patch.extend_from_slice(control.copy);
    let zigzag = (control.seek << 1) ^ (control.seek >> 63);
    number(patch, u64::from_ne_bytes(zigzag.to_ne_bytes()));
}

/// How many bytes go before the next zeros that are counted.
fn literals(bytes: &[u8]) -> usize {
    let run = bytes.windows(ZEROS_MIN).position(|window| window.iter().all(|byte| *byte == 0));
    run.unwrap_or(bytes.len())
}

fn number(patch: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        patch.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    patch.push(number.to_le_bytes()[0]);
}
