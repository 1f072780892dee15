//! A disk that counts its steps, dies at one of them, and forgets whatever was not synced.
//!
//! Owns: the worst that POSIX lets a disk do. Names that were not synced survive a power cut or not, each on its own
//! and in no order; content that was not synced is lost, cut short, or ends in rubbish. The other half of `disk`'s table
//! of promises, in the tests only.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, DiskFile, Space};

/// Size of the unit that a disk tears, bytes.
const BLOCK_BYTES: usize = 512;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The power goes just before that step; nothing answers after it.
    PowerCut { step: u64 },
    /// That step fails, once.
    Error { step: u64, kind: ErrorKind },
    /// From that step on there is no space: nothing new can be made or written, the rest works.
    Full { step: u64 },
    /// There is room for so many files, and no more.
    Tight { files: usize },
    /// That sync (the n-th) says it has done its work and has not.
    LyingSync { sync: u64 },
}

/// What is left of un-synced work after a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Survival {
    Nothing,
    Everything,
    /// Each change of a name and each content on its own, by the throws of this seed.
    Random(u64),
}

#[derive(Clone, Debug)]
pub(crate) struct Unlucky(Arc<Mutex<State>>);

#[derive(Clone, Debug)]
struct State {
    root: PathBuf,
    contents: Vec<Content>,
    /// Names as a running system sees them, and as they are known to be on the medium.
    seen: BTreeMap<PathBuf, Node>,
    kept: BTreeMap<PathBuf, Node>,
    /// Changes of names since the folder's last sync.
    pending: Vec<Change>,
    faults: Vec<Fault>,
    steps: u64,
    syncs: u64,
    dead: bool,
    /// Room for files, all in all; as much as anybody may want if not set.
    room: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Dir,
    File(usize),
}

#[derive(Clone, Debug)]
struct Content {
    bytes: Vec<u8>,
    /// That many bytes from the start are on the medium; what follows may be anything.
    safe: usize,
    synced: bool,
}

impl Content {
    /// Bytes from `at` on are not what the medium has.
    fn written(&mut self, at: usize) {
        self.safe = self.safe.min(at);
        self.synced = false;
    }
}

#[derive(Clone, Debug)]
enum Change {
    Add(PathBuf, Node),
    Remove(PathBuf),
    Rename { from: PathBuf, to: PathBuf, node: Node },
}

impl Unlucky {
    /// An empty disk with one durable folder.
    pub(crate) fn new(root: &Path) -> Self {
        let names = BTreeMap::from([(root.to_owned(), Node::Dir)]);
        Self(Arc::new(Mutex::new(State {
            root: root.to_owned(),
            contents: Vec::new(),
            seen: names.clone(),
            kept: names,
            pending: Vec::new(),
            faults: Vec::new(),
            steps: 0,
            syncs: 0,
            dead: false,
            room: None,
        })))
    }

    /// Files may take so many bytes together, as [`Disk::space`] tells; it keeps nobody from writing more.
    pub(crate) fn limit(&self, bytes: u64) {
        self.lock().room = Some(bytes);
    }

    pub(crate) fn steps(&self) -> u64 {
        self.lock().steps
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// This, too, will go wrong.
    pub(crate) fn plan(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    /// Nothing goes wrong any more (a process was killed, room was made); what is not synced still is not.
    pub(crate) fn mend(&self) {
        let mut state = self.lock();
        state.faults.clear();
        state.dead = false;
    }

    /// The machine after the power came back: a new disk with what survived.
    pub(crate) fn reboot(&self, survival: Survival) -> Self {
        let mut state = self.lock().clone();
        let mut dice = Dice::new(survival);
        for change in std::mem::take(&mut state.pending) {
            if dice.keeps() {
                change.apply(&mut state.kept);
            }
        }
        for content in &mut state.contents {
            if !content.synced {
                let mut tail = content.bytes.split_off(content.safe);
                dice.spoil(&mut tail);
                content.bytes.extend(tail);
                content.safe = content.bytes.len();
                content.synced = true;
            }
        }
        // What lies in a folder that is gone is gone. Parents sort before their children.
        let mut kept: BTreeMap<PathBuf, Node> = BTreeMap::new();
        for (path, node) in state.kept {
            let parent = path.parent().and_then(|parent| kept.get(parent));
            if path == state.root || parent == Some(&Node::Dir) {
                kept.insert(path, node);
            }
        }
        state.kept = kept;
        state.seen = state.kept.clone();
        state.faults.clear();
        state.dead = false;
        Self(Arc::new(Mutex::new(state)))
    }

    /// Writes to a file behind everyone's back: rot on the medium.
    pub(crate) fn rot(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        let Some(Node::File(file)) = state.seen.get(path).copied() else {
            panic!("no file {}", path.display());
        };
        change(&mut state.contents[file].bytes);
    }

    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let state = self.lock();
        let is_file = |node: &Node| matches!(node, Node::File(_));
        state.seen.iter().filter(|(_, node)| is_file(node)).map(|(path, _)| path.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds the disk")
    }
}

impl State {
    /// Counts a step; the error if it is the one that goes wrong. `needs_space`: it fails on a full disk.
    fn step(&mut self, needs_space: bool) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::other("the power is gone"));
        }
        let step = self.steps;
        self.steps += 1;
        for fault in &self.faults {
            match *fault {
                Fault::PowerCut { step: at } if at == step => {
                    self.dead = true;
                    return Err(io::Error::other("the power goes"));
                }
                Fault::Error { step: at, kind } if at == step => return Err(kind.into()),
                Fault::Full { step: from } if from <= step && needs_space => {
                    return Err(ErrorKind::StorageFull.into());
                }
                Fault::PowerCut { .. }
                | Fault::Error { .. }
                | Fault::Full { .. }
                | Fault::Tight { .. }
                | Fault::LyingSync { .. } => {}
            }
        }
        Ok(())
    }

    /// Counts a sync; whether it does its work.
    fn sync(&mut self) -> bool {
        let sync = self.syncs;
        self.syncs += 1;
        !self.faults.contains(&Fault::LyingSync { sync })
    }

    fn change(&mut self, change: Change) {
        change.clone().apply(&mut self.seen);
        self.pending.push(change);
    }
}

impl Change {
    fn apply(self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Add(path, node) => {
                names.insert(path, node);
            }
            Self::Remove(path) => {
                names.remove(&path);
            }
            Self::Rename { from, to, node } => {
                names.remove(&from);
                names.insert(to, node);
            }
        }
    }

    fn touches(&self, dir: &Path) -> bool {
        match self {
            Self::Add(path, _) | Self::Remove(path) => path.parent() == Some(dir),
            Self::Rename { from, to, .. } => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }
}

impl Disk for Unlucky {
    fn create_dir(&self, path: &Path) -> io::Result<bool> {
        let mut state = self.lock();
        let missing = !state.seen.contains_key(path);
        state.step(missing)?;
        match state.seen.get(path) {
            Some(Node::Dir) => Ok(false),
            Some(Node::File(_)) => Err(ErrorKind::AlreadyExists.into()),
            None => {
                state.change(Change::Add(path.to_owned(), Node::Dir));
                Ok(true)
            }
        }
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let files = self.files().len();
        let mut state = self.lock();
        state.step(true)?;
        let is_full =
            |fault: &Fault| matches!(fault, Fault::Tight { files: room } if files >= *room);
        if state.faults.iter().any(is_full) {
            return Err(ErrorKind::StorageFull.into());
        }
        let file = state.contents.len();
        state.contents.push(Content { bytes: Vec::new(), safe: 0, synced: false });
        state.change(Change::Add(path.to_owned(), Node::File(file)));
        Ok(Box::new(UnluckyFile { disk: self.clone(), file }))
    }

    fn append(&self, path: &Path, keep: u64) -> io::Result<Box<dyn DiskFile>> {
        let known = self.lock().seen.contains_key(path);
        if !known {
            return if keep == 0 {
                self.create(path)
            } else {
                Err(ErrorKind::UnexpectedEof.into())
            };
        }
        let mut state = self.lock();
        state.step(false)?;
        let Some(Node::File(file)) = state.seen.get(path).copied() else {
            return Err(ErrorKind::InvalidInput.into());
        };
        let content = &mut state.contents[file];
        let keep = usize::try_from(keep).expect("64 bits hold a length");
        if content.bytes.len() < keep {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if content.bytes.len() > keep {
            content.bytes.truncate(keep);
            content.written(keep);
        }
        Ok(Box::new(UnluckyFile { disk: self.clone(), file }))
    }

    fn open(&self, path: &Path) -> io::Result<Option<Box<dyn io::Read + Send>>> {
        let bytes = self.read(path, u64::MAX)?;
        Ok(bytes.map(|bytes| -> Box<dyn io::Read + Send> { Box::new(io::Cursor::new(bytes)) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step(false)?;
        let node = *state.seen.get(from).ok_or(ErrorKind::NotFound)?;
        state.change(Change::Rename { from: from.to_owned(), to: to.to_owned(), node });
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step(false)?;
        if state.sync() {
            let (done, open) = std::mem::take(&mut state.pending)
                .into_iter()
                .partition(|change: &Change| change.touches(path));
            state.pending = open;
            for change in done {
                change.apply(&mut state.kept);
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step(false)?;
        if state.seen.contains_key(path) {
            state.change(Change::Remove(path.to_owned()));
        }
        Ok(())
    }

    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let mut state = self.lock();
        state.step(false)?;
        let Some(Node::File(file)) = state.seen.get(path) else { return Ok(None) };
        let bytes = state.contents[*file].bytes.clone();
        if u64::try_from(bytes.len()).is_ok_and(|len| len <= bytes_max) {
            Ok(Some(bytes))
        } else {
            Err(ErrorKind::FileTooLarge.into())
        }
    }

    fn size(&self, path: &Path) -> io::Result<Option<u64>> {
        let mut state = self.lock();
        state.step(false)?;
        let Some(Node::File(file)) = state.seen.get(path) else { return Ok(None) };
        Ok(Some(u64::try_from(state.contents[*file].bytes.len()).expect("64 bits hold a length")))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut state = self.lock();
        state.step(false)?;
        let inside = state.seen.keys().filter(|name| name.parent() == Some(path));
        Ok(inside
            .filter_map(|name| Some(name.file_name()?.to_string_lossy().into_owned()))
            .collect())
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let state = self.lock();
        let files = state.seen.values().filter_map(|node| match node {
            Node::File(file) => Some(state.contents[*file].bytes.len()),
            Node::Dir => None,
        });
        let used = u64::try_from(files.sum::<usize>()).expect("64 bits hold a length");
        let free = state.room.map_or(1 << 30, |room| room.saturating_sub(used));
        Ok(Space { free, total: 1 << 30 })
    }
}

#[derive(Debug)]
struct UnluckyFile {
    disk: Unlucky,
    file: usize,
}

impl DiskFile for UnluckyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.lock();
        let outcome = state.step(true);
        // A write that fails, or that the power interrupts, has written a part.
        let written = if outcome.is_ok() { bytes.len() } else { bytes.len() / 2 };
        let content = &mut state.contents[self.file];
        content.written(content.bytes.len());
        content.bytes.extend_from_slice(&bytes[..written]);
        outcome
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.step(false)?;
        if state.sync() {
            let content = &mut state.contents[self.file];
            content.safe = content.bytes.len();
            content.synced = true;
        }
        Ok(())
    }
}

/// Decides what survives; a small xorshift, so that a seed replays.
struct Dice {
    survival: Survival,
    state: u64,
}

impl Dice {
    fn new(survival: Survival) -> Self {
        let seed = match survival {
            Survival::Random(seed) => seed,
            Survival::Nothing | Survival::Everything => 0,
        };
        Self { survival, state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1 }
    }

    fn throw(&mut self, sides: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) % sides
    }

    fn keeps(&mut self) -> bool {
        match self.survival {
            Survival::Nothing => false,
            Survival::Everything => true,
            Survival::Random(_) => self.throw(2) == 0,
        }
    }

    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        match self.survival {
            Survival::Nothing => bytes.clear(),
            Survival::Everything => {}
            Survival::Random(_) => match self.throw(4) {
                0 => bytes.clear(),
                1 => bytes.truncate(bytes.len() / 2),
                2 => {
                    let torn = bytes.len().saturating_sub(1) / BLOCK_BYTES * BLOCK_BYTES;
                    bytes[torn..].fill(0xa5);
                }
                _ => {}
            },
        }
    }
}
