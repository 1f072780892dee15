//! A folder that a component is listing.
//!
//! Owns: reading it bit by bit, so that what is held for it does not depend on how much is in it. (wasmtime-wasi reads a folder whole.)
//! Is not: who may list it.
//!
//! Limits: [`LISTING_BYTES`] each.

use std::fs::File;

use rustix::fs::{AtFlags, Dir, FileType, statat};
use wasmtime_wasi::p2::bindings::filesystem::types::{DescriptorType, DirectoryEntry, ErrorCode};

use crate::wasi::account::Held;

/// What is held for a list: a part of the folder as the kernel hands it over, and an open file.
pub(super) const LISTING_BYTES: u64 = 36 << 10;

pub(super) struct Listing {
    dir: Dir,
    _held: Held,
}

impl Listing {
    /// Begins at the beginning.
    pub(super) fn new(dir: &File, held: Held) -> std::io::Result<Self> {
        Ok(Self { dir: Dir::read_from(dir)?, _held: held })
    }

    /// The next entry; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<DirectoryEntry>, ErrorCode> {
        loop {
            let Some(entry) = self.dir.next() else { return Ok(None) };
            let entry = entry.map_err(|errno| ErrorCode::from(&std::io::Error::from(errno)))?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            let mut kind = entry.file_type();
            if kind == FileType::Unknown {
                // Some file systems do not say. What is gone by now is not shown.
                let dir =
                    self.dir.fd().map_err(|errno| ErrorCode::from(&std::io::Error::from(errno)))?;
                let Ok(stat) = statat(dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
                    continue;
                };
                kind = FileType::from_raw_mode(stat.st_mode);
            }
            let name = entry.file_name().to_str().map_err(|_| ErrorCode::IllegalByteSequence)?;
            return Ok(Some(DirectoryEntry { type_: type_of(kind), name: name.to_owned() }));
        }
    }
}

fn type_of(kind: FileType) -> DescriptorType {
    match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::Fifo => DescriptorType::Fifo,
        FileType::Socket => DescriptorType::Socket,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::Unknown => DescriptorType::Unknown,
    }
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::collections::BTreeMap;
    use std::os::unix::ffi::OsStrExt as _;
    use std::sync::Arc;

    use crate::wasi::account::{Account, Nobody};

    fn list(dir: &std::path::Path) -> Result<BTreeMap<String, DescriptorType>, ErrorCode> {
        let account: Arc<dyn Account> = Arc::new(Nobody);
        let held = Held::take(&account, LISTING_BYTES).unwrap();
        let mut listing = Listing::new(&File::open(dir).unwrap(), held).unwrap();
        let mut all = BTreeMap::new();
        while let Some(entry) = listing.next()? {
            assert!(all.insert(entry.name, entry.type_).is_none(), "told twice");
        }
        Ok(all)
    }

    #[test]
    fn everything_in_a_folder_is_told_once_with_its_kind() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..3000 {
            std::fs::write(dir.path().join(n.to_string()), "").unwrap();
        }
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
        let all = list(dir.path()).unwrap();
        assert_eq!(all.len(), 3002);
        assert_eq!(all["folder"], DescriptorType::Directory);
        assert_eq!(all["link"], DescriptorType::SymbolicLink);
        assert_eq!(all["17"], DescriptorType::RegularFile);
    }

    #[test]
    fn a_name_that_is_no_text_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
        assert_eq!(list(dir.path()), Err(ErrorCode::IllegalByteSequence));
    }
}
