//! The few disk operations that a durable commit is made of.
//!
//! Owns: [`Disk`] and [`RealDisk`], its one production implementation. Not: the order in which the operations make a
//! commit (`slots`), nor what a record says (`record`). The other implementation, `Unlucky`, lives in the tests: it
//! loses whatever was not synced, in every way that a power cut may.
//!
//! What each operation promises after a power cut, and no more:
//!
//! ```text
//!  create + write    nothing: the file may be absent, empty, short, or end in rubbish
//!  file sync         the file's content; not its name
//!  rename, remove    nothing: either may have happened or not, in any order with its neighbours
//!  sync_dir          every name in that folder
//! ```
//!
//! Every operation is named by an absolute or process-relative path below a folder that only the daemon's user can
//! enter (0700): no stranger can put a symbolic link there. Blocking.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Mode of every folder made here: names of pods and secrets are nobody else's business.
const FOLDER_MODE: u32 = 0o700;

/// Mode of every file made here: some of them hold secrets.
const FILE_MODE: u32 = 0o600;

/// Disk operations as a commit needs them.
pub trait Disk: Send + Sync + Debug {
    /// Makes a folder for the owner alone; `false` if it was there already.
    fn create_dir(&self, path: &Path) -> io::Result<bool>;

    /// Opens a file for writing, empty, for the owner alone; an earlier one of that name is cut to nothing.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for writing on after its first `keep` bytes, making it if it is not there; what it had behind them is
    /// cut off. One shorter than `keep` is [`ErrorKind::UnexpectedEof`].
    fn append(&self, path: &Path, keep: u64) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading from its start; `None` if there is no such file.
    fn open(&self, path: &Path) -> io::Result<Option<Box<dyn io::Read + Send>>>;

    /// Moves a file onto another name of the same file system, replacing what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names of a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Takes a name away; that it was gone already is no error. Needs no free space.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The whole content; `None` if there is no such file. One longer than `bytes_max` is
    /// [`ErrorKind::FileTooLarge`].
    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>>;

    /// How long a file is, in bytes; `None` if there is no such file.
    fn size(&self, path: &Path) -> io::Result<Option<u64>>;

    /// The names in a folder, in no order. Names that are not UTF-8 are not ours and left out.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Free space for this user, and all space, of the file system that holds `path`.
    fn space(&self, path: &Path) -> io::Result<Space>;
}

/// A file being written.
pub trait DiskFile: Send + Debug {
    /// Appends all of `bytes`.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes the content durable (the name is the folder's: [`Disk::sync_dir`]).
    fn sync(&mut self) -> io::Result<()>;
}

/// Room on a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub free: u64,
    pub total: u64,
}

/// The machine's own disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<bool> {
        match DirBuilder::new().mode(FOLDER_MODE).create(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn append(&self, path: &Path, keep: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path)?;
        if file.metadata()?.len() < keep {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        file.set_len(keep)?;
        file.seek(io::SeekFrom::Start(keep))?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Option<Box<dyn io::Read + Send>>> {
        match File::open(path) {
            Ok(file) => Ok(Some(Box::new(file))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    #[allow(clippy::disallowed_methods, reason = "this is what the others are to use")]
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > bytes_max {
            return Err(ErrorKind::FileTooLarge.into());
        }
        Ok(Some(bytes))
    }

    fn size(&self, path: &Path) -> io::Result<Option<u64>> {
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_file() => Ok(Some(meta.len())),
            Ok(_) => Err(ErrorKind::InvalidInput.into()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        let size_of = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Space { free: size_of(stat.f_bavail), total: size_of(stat.f_blocks) })
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}
