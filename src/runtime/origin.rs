//! Which toolchain made a core module, as far as its host has to know.
//!
//! Owns: a look at the names of a file's custom sections, and at the one in which compilers sign. Is not: validation; a file that
//! cannot be read to its end is from nowhere in particular.
//!
//! **Why anybody asks.** A Go program is one thread: whatever waits in the host stops all its goroutines. Its `net` package expects the
//! listening sockets that it is given not to wait, as wasmtime's `--tcplisten` had them, and asks `poll_oneoff` instead; it never says so. A server in C or
//! Rust that knows nothing of polls expects the contrary, as everywhere else.
//!
//! Limits: [`SECTIONS_MAX`], [`LOOK_BYTES`].

use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::path::Path;

/// Sections looked at. Go's linker writes some fifteen, others a dozen more for debuggers.
const SECTIONS_MAX: usize = 256;

/// Bytes of a custom section looked at: compilers sign within the first hundred.
const LOOK_BYTES: u64 = 1024;

/// What Go's linker writes first, unless it is told to write none.
const GO_BUILD_ID: &[u8] = b"go:buildid";

/// The section in which all compilers sign (tool-conventions, ProducersSection.md), and how Go's does. TinyGo's signs otherwise, and its
/// programs wait as those in C do.
const PRODUCERS: &[u8] = b"producers";
const GO_COMPILER: &[u8] = b"Go cmd/compile";

/// Whether Go's own compiler made the core module in this file.
pub(crate) fn is_go(path: &Path) -> bool {
    let look = || signed_by_go(BufReader::new(File::open(path)?));
    // The module was compiled already: what cannot be read now is no reason not to run it.
    look().unwrap_or(false)
}

fn signed_by_go(mut module: BufReader<File>) -> io::Result<bool> {
    let mut preamble = [0; 8];
    module.read_exact(&mut preamble)?;
    if preamble != *b"\0asm\x01\0\0\0" {
        return Ok(false);
    }
    for _ in 0..SECTIONS_MAX {
        let mut id = [0];
        if module.read(&mut id)? == 0 {
            break;
        }
        let len = u64::from(leb128(&mut module)?);
        let mut looked_at = 0;
        if id == [0] {
            let mut section = Vec::new();
            looked_at = (&mut module).take(len.min(LOOK_BYTES)).read_to_end(&mut section)? as u64;
            if by_go(&section) {
                return Ok(true);
            }
        }
        // A file is no longer than this type can say.
        module.seek_relative(i64::try_from(len - looked_at).unwrap_or(i64::MAX))?;
    }
    Ok(false)
}

/// Whether a custom section (its name, after a length of one byte, then what it holds) is a signature of Go.
fn by_go(section: &[u8]) -> bool {
    let Some((&len, rest)) = section.split_first() else { return false };
    let Some((name, holds)) = rest.split_at_checked(len.into()) else { return false };
    let signed = || holds.windows(GO_COMPILER.len()).any(|words| words == GO_COMPILER);
    name == GO_BUILD_ID || (name == PRODUCERS && signed())
}

/// An unsigned number of up to 32 bits. Go's linker pads them, so the length tells nothing.
fn leb128(from: &mut impl io::Read) -> io::Result<u32> {
    let mut value = 0;
    for shift in (0..35).step_by(7) {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return u32::try_from(value).map_err(io::Error::other);
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn go(bytes: &[u8]) -> bool {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        is_go(file.path())
    }

    fn custom(name: &str, holds: &str) -> Vec<u8> {
        let len = u8::try_from(1 + name.len() + holds.len()).unwrap();
        // Padded to five bytes, as Go's linker does it.
        let mut bytes = vec![0, len | 0x80, 0x80, 0x80, 0x80, 0];
        bytes[2] |= len >> 7;
        bytes.push(u8::try_from(name.len()).unwrap());
        bytes.extend([name.as_bytes(), holds.as_bytes()].concat());
        bytes
    }

    const CORE: &[u8] = b"\0asm\x01\0\0\0";
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
    /// A code section of 300 bytes that nobody looks into.
    fn code() -> Vec<u8> {
        [&[10, 0xac, 0x02][..], &[0x55; 300]].concat()
    }

    #[test]
    fn go_is_known_by_its_build_id_or_by_its_signature_wherever_it_stands() {
        let id = custom("go:buildid", "abc/def");
        let signed = custom(
            "producers",
            "\u{2}\u{8}language\u{1}\u{2}Go\u{6}go1.27\u{c}processed-by\u{1}\u{16}Go cmd/compile\u{6}go1.27",
        );
        for bytes in [
            [CORE, &id].concat(),
            [CORE, &id, &code()].concat(),
            [CORE, &code(), &signed].concat(),
            [CORE, &custom("name", ""), &code(), &code(), &id].concat(),
        ] {
            assert!(go(&bytes));
        }
    }

    #[test]
    fn everything_else_is_from_nowhere() {
        let id = custom("go:buildid", "abc/def");
        for bytes in [
            &b""[..],
            CORE,
            &[CORE, &code()].concat(),
            &[CORE, &custom("producers", "rustc clang Go")].concat(),
            &[CORE, &custom("name", "go:buildid")].concat(),
            // TinyGo.
            &[CORE, &custom("producers", "language Go processed-by TinyGo")].concat(),
            &[COMPONENT, &id].concat(),
            // Cut off, or no section at all.
            &[CORE, &code()[..50]].concat(),
            &[CORE, &[0, 0xff, 0xff, 0xff, 0xff, 0xff][..], &id].concat(),
            &[CORE, &[0, 200][..]].concat(),
        ] {
            assert!(!go(bytes), "{bytes:?}");
        }
        assert!(!is_go(Path::new("/nonexistent/module.wasm")));
    }
}
