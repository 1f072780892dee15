//! Tells whole WebAssembly from anything else while it streams by.
//!
//! Owns: a walk over the binary format's sections, just deep enough that a wrong file, a text file and a truncated
//! download are told apart at the door with words that help. Not: validation; the engine does that when it compiles, and
//! nothing here is trusted by it. Constant memory; no input panics.
//!
//! ```text
//!  preamble (8 bytes) ─► section id ─► length (LEB128) ─► body, skipped ─┐
//!                            ▲                                          │
//!                            └──────────────────────────────────────────┘   the file may end only here
//! ```

use thiserror::Error;

/// What a module file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModuleKind {
    /// A core module (wasip1).
    Core,
    /// A component (WASI 0.2 or 0.3).
    Component,
}

impl ModuleKind {
    /// The word for tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Core => "module",
            Self::Component => "component",
        }
    }

    /// The word of [`ModuleKind::as_str`], read back.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Core, Self::Component].into_iter().find(|kind| kind.as_str() == word)
    }

    /// Ids that sections may have; a higher one is rubbish. (Core: up to 13, tags; components: up to 12, values. A
    /// little room is left for what proposals add: the engine knows better.)
    fn section_id_max(self) -> u8 {
        match self {
            Self::Core | Self::Component => 31,
        }
    }
}

/// Why a file is no module; fits after its name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotWasm {
    #[error("is empty")]
    Empty,
    #[error(
        "is WebAssembly text, which must be assembled first (wasm-tools parse FILE -o FILE.wasm)"
    )]
    Text,
    #[error("is compressed ({0}) and must be unpacked first")]
    Compressed(&'static str),
    #[error("is native code (ELF), or was compiled ahead of time; a WebAssembly module is needed")]
    Native,
    #[error("is not WebAssembly: it begins with {0}")]
    Foreign(String),
    #[error(
        "has version {version} of the WebAssembly binary format, layer {layer}, which is unknown"
    )]
    Version { version: u16, layer: u16 },
    #[error("is truncated: it ends within its first 8 bytes")]
    TruncatedPreamble,
    #[error("is truncated: section {id} at byte {offset} lacks {missing} of its bytes")]
    Truncated { id: u8, offset: u64, missing: u64 },
    #[error("is truncated: it ends within the head of the section at byte {offset}")]
    TruncatedHead { offset: u64 },
    #[error("is damaged: there is no section {id} (at byte {offset})")]
    Section { id: u8, offset: u64 },
    #[error("is damaged: the section at byte {offset} has an impossible length")]
    Length { offset: u64 },
}

/// The walk. Feed all bytes in order, in chunks of any size, then ask [`Checker::finish`].
#[derive(Clone, Debug)]
pub struct Checker {
    state: State,
    /// Bytes seen so far.
    offset: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Preamble {
        bytes: [u8; 8],
        have: usize,
    },
    /// Between sections.
    Id {
        kind: ModuleKind,
    },
    Length {
        kind: ModuleKind,
        id: u8,
        start: u64,
        value: u64,
        shift: u32,
    },
    Body {
        kind: ModuleKind,
        id: u8,
        start: u64,
        missing: u64,
    },
}

impl Default for Checker {
    fn default() -> Self {
        Self { state: State::Preamble { bytes: [0; 8], have: 0 }, offset: 0 }
    }
}

impl Checker {
    /// Looks at the next bytes.
    ///
    /// # Errors
    ///
    /// As soon as it is clear that this is no module.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), NotWasm> {
        while !bytes.is_empty() {
            let used = self.step(bytes)?;
            self.offset = self.offset.saturating_add(u64::try_from(used).unwrap_or(u64::MAX));
            bytes = &bytes[used..];
        }
        Ok(())
    }

    /// What it is, now that all bytes have been seen.
    ///
    /// # Errors
    ///
    /// It ends too early.
    pub fn finish(self) -> Result<ModuleKind, NotWasm> {
        match self.state {
            State::Id { kind } => Ok(kind),
            State::Preamble { have: 0, .. } => Err(NotWasm::Empty),
            State::Preamble { bytes, have } => {
                Err(foreign(&bytes[..have]).unwrap_or(NotWasm::TruncatedPreamble))
            }
            State::Length { start, .. } => Err(NotWasm::TruncatedHead { offset: start }),
            State::Body { id, start, missing, .. } => {
                Err(NotWasm::Truncated { id, offset: start, missing })
            }
        }
    }

    /// Takes at least one byte; says how many.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, NotWasm> {
        match &mut self.state {
            State::Preamble { bytes: preamble, have } => {
                let used = bytes.len().min(8 - *have);
                preamble[*have..*have + used].copy_from_slice(&bytes[..used]);
                *have += used;
                if *have == 8 {
                    self.state = State::Id { kind: kind_of(*preamble)? };
                }
                Ok(used)
            }
            State::Id { kind } => {
                let (kind, id, start) = (*kind, bytes[0], self.offset);
                if id > kind.section_id_max() {
                    return Err(NotWasm::Section { id, offset: start });
                }
                self.state = State::Length { kind, id, start, value: 0, shift: 0 };
                Ok(1)
            }
            State::Length { kind, id, start, value, shift } => {
                // Five groups of seven bits hold the 32 bits of a length.
                if *shift > 28 {
                    return Err(NotWasm::Length { offset: *start });
                }
                *value |= u64::from(bytes[0] & 0x7f) << *shift;
                *shift += 7;
                if bytes[0] & 0x80 == 0 {
                    let (kind, id, start, missing) = (*kind, *id, *start, *value);
                    if missing > u64::from(u32::MAX) {
                        return Err(NotWasm::Length { offset: start });
                    }
                    self.state = match missing {
                        0 => State::Id { kind },
                        _ => State::Body { kind, id, start, missing },
                    };
                }
                Ok(1)
            }
            State::Body { kind, missing, .. } => {
                let here = usize::try_from(*missing).unwrap_or(usize::MAX).min(bytes.len());
                *missing -= u64::try_from(here).unwrap_or(u64::MAX);
                if *missing == 0 {
                    self.state = State::Id { kind: *kind };
                }
                Ok(here)
            }
        }
    }
}

fn kind_of(preamble: [u8; 8]) -> Result<ModuleKind, NotWasm> {
    if let Some(fault) = foreign(&preamble) {
        return Err(fault);
    }
    match preamble[4..] {
        [1, 0, 0, 0] => Ok(ModuleKind::Core),
        [0x0d, 0, 1, 0] => Ok(ModuleKind::Component),
        _ => Err(NotWasm::Version {
            version: u16::from_le_bytes([preamble[4], preamble[5]]),
            layer: u16::from_le_bytes([preamble[6], preamble[7]]),
        }),
    }
}

/// What else a file that begins with `start` may be; `None` if it begins as WebAssembly does.
fn foreign(start: &[u8]) -> Option<NotWasm> {
    const MAGIC: &[u8] = b"\0asm";
    let begins = |magic: &[u8]| start.starts_with(magic);
    let as_wasm = start.len().min(MAGIC.len());
    if start[..as_wasm] == MAGIC[..as_wasm] {
        return None;
    }
    Some(if begins(b"\x7fELF") {
        NotWasm::Native
    } else if begins(&[0x1f, 0x8b]) {
        NotWasm::Compressed("gzip")
    } else if begins(&[0x28, 0xb5, 0x2f, 0xfd]) {
        NotWasm::Compressed("zstd")
    } else if begins(b"PK") {
        NotWasm::Compressed("zip")
    } else if start.trim_ascii_start().starts_with(b"(") || begins(b";;") {
        NotWasm::Text
    } else {
        let hex: Vec<String> = start.iter().map(|byte| format!("{byte:02x}")).collect();
        NotWasm::Foreign(hex.join(" "))
    })
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    const CORE: &[u8] = b"\0asm\x01\0\0\0";
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    fn check(bytes: &[u8]) -> Result<ModuleKind, NotWasm> {
        let mut checker = Checker::default();
        checker.feed(bytes)?;
        checker.finish()
    }

    /// A preamble, a custom section of 3 bytes, a section of 200 bytes (two-byte length), an empty one.
    fn whole(preamble: &[u8]) -> Vec<u8> {
        let mut bytes = preamble.to_vec();
        bytes.extend([0, 3, 1, b'x', 7]);
        bytes.extend([10, 0xc8, 0x01]);
        bytes.extend([0x55; 200]);
        bytes.extend([1, 0]);
        bytes
    }

    #[test]
    fn both_kinds_are_recognised() {
        for (preamble, kind) in [(CORE, ModuleKind::Core), (COMPONENT, ModuleKind::Component)] {
            assert_eq!(check(preamble), Ok(kind), "an empty one is valid");
            assert_eq!(check(&whole(preamble)), Ok(kind));
            assert_eq!(ModuleKind::from_word(kind.as_str()), Some(kind));
        }
    }

    #[test]
    fn other_files_are_told_apart() {
        let long_length = [CORE, &[1, 0xff, 0xff, 0xff, 0xff, 0x7f]].concat();
        let endless_length = [CORE, &[1, 0x80, 0x80, 0x80, 0x80, 0x80, 0]].concat();
        for (bytes, fault) in [
            (&b""[..], "is empty"),
            (b"\0as", "is truncated: it ends within its first 8 bytes"),
            (b"(module)", "is WebAssembly text, which must be assembled first"),
            (b"  \n (component)", "is WebAssembly text, which must be assembled first"),
            (b"\x1f\x8b\x08\0\0\0\0\0", "is compressed (gzip)"),
            (b"\x7fELF\x02\x01\x01\0", "is native code (ELF)"),
            (b"hello world", "is not WebAssembly: it begins with 68 65 6c 6c 6f 20 77 6f"),
            (b"hi", "is not WebAssembly: it begins with 68 69"),
            (b"\0asm\x02\0\0\0", "has version 2 of the WebAssembly binary format, layer 0"),
            (b"\0asm\x01\0\0\0\x61", "is damaged: there is no section 97 (at byte 8)"),
            (&long_length, "is damaged: the section at byte 8 has an impossible length"),
            (&endless_length, "is damaged: the section at byte 8 has an impossible length"),
        ] {
            let said = check(bytes).map_err(|fault| fault.to_string());
            assert!(said.as_ref().is_err_and(|said| said.starts_with(fault)), "{said:?}");
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_truncated_unless_it_ends_between_sections() {
        let bytes = whole(CORE);
        let ends = [8, 13, 216, 218];
        for end in 1..=bytes.len() {
            assert_eq!(check(&bytes[..end]).is_ok(), ends.contains(&end), "cut at {end}");
        }
        assert_eq!(
            check(&bytes[..100]).map_err(|fault| fault.to_string()),
            Err("is truncated: section 10 at byte 13 lacks 116 of its bytes".to_owned())
        );
    }

    proptest! {
        #[test]
        fn the_size_of_the_chunks_makes_no_difference(
            tail in proptest::collection::vec(any::<u8>(), 0..300),
            chunk in 1usize..40,
        ) {
            let bytes = [CORE, &tail].concat();
            let mut checker = Checker::default();
            let fed: Result<(), NotWasm> =
                bytes.chunks(chunk).try_for_each(|chunk| checker.feed(chunk));
            prop_assert_eq!(fed.and_then(|()| checker.finish()), check(&bytes));
        }
    }
}
