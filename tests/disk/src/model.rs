//! What a disk holds while operations arrive: what is durable, and what waits, in order.
//!
//! Directory changes form one sequence over the whole tree, as in the journal of a file system: a power cut leaves a
//! prefix of it. A sync of a file makes the changes durable up to the last one that gave this file a name, a sync of a
//! directory those up to the last one in it (as ext4 does, which commits all that came before; it commits more than
//! that, so the model is the harsher one). Contents wait file by file; a sync of the file makes them durable.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use crate::journal::{Change, Record};
use crate::tree::{Files, Node};

/// A change to the contents of a file that is not known to be durable.
#[derive(Debug, Clone)]
pub(crate) enum Pending {
    /// At most a page: these bytes at this offset.
    Page(u64, Vec<u8>),
    /// The length is set.
    Len(u64),
}

/// A file or directory, whatever its name is.
#[derive(Debug, Default, Clone)]
struct Inode {
    dir: bool,
    durable: Vec<u8>,
    /// With the place of the operation in the journal.
    pending: Vec<(usize, Pending)>,
}

/// A change to names: `None` removes.
#[derive(Debug, Clone)]
enum Naming {
    Set(PathBuf, usize),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

/// The disk.
#[derive(Debug)]
pub(crate) struct Model {
    inodes: Vec<Inode>,
    handles: HashMap<u64, usize>,
    /// As the process sees them.
    names: BTreeMap<PathBuf, usize>,
    names_before: BTreeMap<PathBuf, usize>,
    /// With the place in the journal.
    namings: Vec<(usize, Naming)>,
    /// So many of them are durable.
    namings_durable: usize,
    root: usize,
}

impl Model {
    pub(crate) fn new(before: &Files) -> Self {
        let mut inodes = vec![Inode { dir: true, ..Inode::default() }];
        let mut names = BTreeMap::new();
        for (path, node) in &before.0 {
            let (dir, durable) = match node {
                Node::Dir => (true, Vec::new()),
                Node::File(bytes) => (false, bytes.clone()),
            };
            names.insert(path.clone(), inodes.len());
            inodes.push(Inode { dir, durable, pending: Vec::new() });
        }
        let names_before = names.clone();
        Self { inodes, handles: HashMap::new(), names, names_before, namings: Vec::new(), namings_durable: 0, root: 0 }
    }

    /// Takes the operation at `place` of the journal. `survives` decides for each waiting change that a failed sync was
    /// to cover whether it reached the disk: afterwards no sync covers it any more.
    pub(crate) fn take(&mut self, place: usize, record: &Record, survives: &mut dyn FnMut(usize) -> bool) {
        match &record.change {
            Change::Open { path, created, truncated } => self.open(place, record.handle, path, *created, *truncated),
            Change::Write { offset, data } => self.write(place, record.handle, *offset, data),
            Change::Truncate { len } => self.pending(place, record.handle, Pending::Len(*len)),
            Change::Sync { begin, done } => self.sync(record.handle, *begin, *done, survives),
            Change::Rename { from, to } => self.name(place, Naming::Rename(from.clone(), to.clone())),
            Change::Unlink(path) | Change::RemoveDir(path) => self.name(place, Naming::Remove(path.clone())),
            Change::MakeDir(path) => self.make(place, path, true),
            Change::SyncRange | Change::Note(_) => {}
        }
    }

    fn open(&mut self, place: usize, handle: u64, path: &Path, created: bool, truncated: bool) {
        if created {
            self.make(place, path, false);
        }
        let inode = if path.as_os_str().is_empty() { Some(self.root) } else { self.names.get(path).copied() };
        let inode = inode.unwrap_or_else(|| panic!("{} was opened but never made", path.display()));
        self.handles.insert(handle, inode);
        if truncated && !created {
            self.pending(place, handle, Pending::Len(0));
        }
    }

    fn make(&mut self, place: usize, path: &Path, dir: bool) {
        self.inodes.push(Inode { dir, ..Inode::default() });
        self.name(place, Naming::Set(path.to_owned(), self.inodes.len() - 1));
    }

    fn name(&mut self, place: usize, naming: Naming) {
        naming.apply(&mut self.names);
        self.namings.push((place, naming));
    }

    fn write(&mut self, place: usize, handle: u64, offset: u64, data: &[u8]) {
        let page = crate::PAGE_BYTES;
        let mut at = 0;
        while at < data.len() {
            let start = offset + at as u64;
            let room = usize::try_from(page - start % page).expect("a page");
            let end = data.len().min(at + room);
            self.pending(place, handle, Pending::Page(start, data[at..end].to_vec()));
            at = end;
        }
    }

    fn pending(&mut self, place: usize, handle: u64, change: Pending) {
        let inode = self.handles[&handle];
        self.inodes[inode].pending.push((place, change));
    }

    fn sync(&mut self, handle: u64, begin: u64, done: bool, survives: &mut dyn FnMut(usize) -> bool) {
        let id = self.handles[&handle];
        let covered = |place: usize| (place as u64) < begin;
        let inode = &mut self.inodes[id];
        let pending = std::mem::take(&mut inode.pending);
        let (reached, waits): (Vec<_>, Vec<_>) = pending.into_iter().partition(|(place, _)| covered(*place));
        inode.pending = waits;
        for (place, change) in reached {
            if done || survives(place) {
                change.apply(&mut inode.durable);
            }
        }
        if done {
            let last = self.namings.iter().rposition(|(place, naming)| covered(*place) && self.concerns(naming, id));
            self.namings_durable = self.namings_durable.max(last.map_or(0, |last| last + 1));
        }
    }

    /// Whether a sync of the inode makes this change of names durable.
    fn concerns(&self, naming: &Naming, id: usize) -> bool {
        let path_now = self.names.iter().find(|(_, named)| **named == id).map(|(path, _)| path.as_path());
        let is_dir = self.inodes[id].dir;
        let dir = if id == self.root { Some(Path::new("")) } else { path_now.filter(|_| is_dir) };
        let within = |path: &Path| dir.is_some() && path.parent() == dir;
        match naming {
            Naming::Set(path, named) => *named == id || within(path),
            Naming::Remove(path) => within(path),
            Naming::Rename(from, to) => path_now == Some(to.as_path()) || within(from) || within(to),
        }
    }

    /// How many changes of names there are, and how many of the first are durable.
    pub(crate) fn namings(&self) -> (usize, usize) {
        (self.namings.len(), self.namings_durable)
    }

    /// How many changes of names came before the operation at `place`.
    pub(crate) fn namings_before(&self, place: usize) -> usize {
        self.namings.partition_point(|(at, _)| *at < place)
    }

    /// The files with the first `namings` changes of names and those waiting changes of contents that `present` lets
    /// through, by place in the journal.
    pub(crate) fn files_with(&self, namings: usize, present: &mut dyn FnMut(usize, &Pending) -> bool) -> Files {
        let mut names = self.names_before.clone();
        for (_, naming) in self.namings.iter().take(namings.max(self.namings_durable)) {
            naming.apply(&mut names);
        }
        let node = |id: &usize, present: &mut dyn FnMut(usize, &Pending) -> bool| {
            let inode = &self.inodes[*id];
            if inode.dir {
                return Node::Dir;
            }
            let mut bytes = inode.durable.clone();
            for (place, change) in &inode.pending {
                if present(*place, change) {
                    change.apply(&mut bytes);
                }
            }
            Node::File(bytes)
        };
        Files(names.iter().map(|(path, id)| (path.clone(), node(id, present))).collect())
    }
}

impl Pending {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let size = |len: u64| usize::try_from(len).expect("files of a test fit in memory");
        match self {
            Self::Len(len) => bytes.resize(size(*len), 0),
            Self::Page(offset, data) => {
                let end = size(*offset) + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[size(*offset)..end].copy_from_slice(data);
            }
        }
    }
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Set(path, inode) => drop(names.insert(path.clone(), *inode)),
            Self::Remove(path) => drop(names.remove(path)),
            Self::Rename(from, to) => {
                let moved: Vec<_> = names.keys().filter(|path| path.starts_with(from)).cloned().collect();
                for path in moved {
                    let inode = names.remove(&path).expect("just seen");
                    let rest = path.strip_prefix(from).expect("starts with it");
                    // Joining nothing would leave a slash at the end.
                    let path = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
                    names.insert(path, inode);
                }
            }
        }
    }
}
