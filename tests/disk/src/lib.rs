//! A disk that can be faulted, for tests with real processes.
//!
//! A small C library is compiled with the system's `cc` and preloaded into a process. Below one directory it records,
//! in one order over all threads, every operation that changes files, with its data, and lets these and reads fail, wait,
//! hang or kill the process. From the record, [`PowerCut`] builds directories as a power cut may leave them: with what
//! was synced, and with any part of what was not.
//!
//! ```no_run
//! # use std::process::Command;
//! # use granary_test_disk::{Disk, Fault, Op, Order, PowerCut, Shim};
//! # fn main() -> std::io::Result<()> {
//! let shim = Shim::build("/tmp/work".as_ref())?;
//! let disk = Disk::new(&shim, "/tmp/work/data".as_ref(), "/tmp/work/first-run".as_ref())?;
//! disk.set_faults(&[Fault::fail(Op::Sync, 28, "/log/").nth(3).times(1)])?;
//! Command::new("server").envs(disk.envs()).status()?;
//! let journal = disk.journal()?;
//! PowerCut { order: Order::Any, at: journal.len(), seed: 7 }.build(&journal, "/tmp/work/after".as_ref())?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Disk::unrecorded`] leaves the record out, for processes that run long: faults only.
//!
//! One process writes the directory at a time, and a [`Disk`] records one of its runs: its files as they stand at
//! [`Disk::new`] count as durable. Paths are matched by name: the directory is made canonical, and below it must be no
//! symbolic links. A recorded process starts no others. System calls that go round the C library are trapped, all but
//! `io_uring`, which is refused; a test makes sure by comparing [`Journal::files`] with the directory. Linux with glibc
//! only, on x86-64 and ARM64.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

mod faults;
mod journal;
mod model;
mod power_cut;
mod tree;

pub use faults::{Fault, Op, errno};
pub use journal::{Change, Journal, Record};
pub use power_cut::{Order, PAGE_BYTES, PowerCut};
pub use tree::{Files, Node};

const SOURCE: &str = include_str!("shim.c");
const ROOT: &str = "GRANARY_DISK_ROOT";
const JOURNAL: &str = "GRANARY_DISK_JOURNAL";
const CONTROL: &str = "GRANARY_DISK_CONTROL";
const STRIKES: &str = "GRANARY_DISK_STRIKES";

/// The compiled library. Build it once in a test and use it for many disks.
#[derive(Debug, Clone)]
pub struct Shim(PathBuf);

impl Shim {
    /// Compiles the library into the directory `work`.
    ///
    /// # Errors
    /// When there is no `cc`, or it fails.
    pub fn build(work: &Path) -> io::Result<Self> {
        fs::create_dir_all(work)?;
        let (source, library) = (work.join("disk-shim.c"), work.join("disk-shim.so"));
        fs::write(&source, SOURCE)?;
        let output = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .args(["-ldl", "-lpthread"])
            .output()?;
        if output.status.success() {
            return Ok(Self(fs::canonicalize(library)?));
        }
        Err(io::Error::other(format!("cc: {}", String::from_utf8_lossy(&output.stderr))))
    }
}

/// One recorded run of a process over a directory, or any number of runs that are not recorded.
#[derive(Debug)]
pub struct Disk {
    shim: Shim,
    root: PathBuf,
    control: PathBuf,
    strikes: PathBuf,
    /// Where the run is recorded, and what was there before.
    recorded: Option<(PathBuf, Files)>,
}

impl Disk {
    /// Takes the directory `root` (made if missing) as it stands, and keeps journal, control file and strikes at `run`
    /// with an ending each, outside of it.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn new(shim: &Shim, root: &Path, run: &Path) -> io::Result<Self> {
        let mut disk = Self::unrecorded(shim, root, run)?;
        let journal = run.with_extension("journal");
        fs::write(&journal, b"")?;
        disk.recorded = Some((journal, Files::read(&disk.root)?));
        Ok(disk)
    }

    /// As [`Self::new`], for processes whose operations are faulted and not recorded: one after the other, as long as
    /// they like.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn unrecorded(shim: &Shim, root: &Path, run: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let root = fs::canonicalize(root)?;
        let (control, strikes) = (run.with_extension("control"), run.with_extension("strikes"));
        fs::write(&strikes, b"")?;
        let disk = Self { shim: shim.clone(), root, control, strikes, recorded: None };
        disk.set_faults(&[])?;
        Ok(disk)
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The environment under which a process has this disk.
    pub fn envs(&self) -> Vec<(OsString, OsString)> {
        let mut pairs =
            vec![("LD_PRELOAD", &self.shim.0), (ROOT, &self.root), (CONTROL, &self.control), (STRIKES, &self.strikes)];
        pairs.extend(self.recorded.iter().map(|(journal, _)| (JOURNAL, journal)));
        pairs.into_iter().map(|(name, path)| (name.into(), path.into())).collect()
    }

    /// How often faults have struck since [`Self::new`]: one line each, with what was done to which operation on which
    /// path. Operations that wait are told when they begin to.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn strikes(&self) -> io::Result<Vec<String>> {
        Ok(fs::read_to_string(&self.strikes)?.lines().map(str::to_owned).collect())
    }

    /// Replaces the faults, also under a process that runs: they hold from its next operation on, counted from there.
    ///
    /// # Errors
    /// When the control file cannot be written.
    pub fn set_faults(&self, faults: &[Fault]) -> io::Result<()> {
        let draft = self.control.with_extension("control-draft");
        fs::write(&draft, faults.iter().map(Fault::line).collect::<String>())?;
        fs::rename(draft, &self.control)
    }

    /// What was recorded so far.
    ///
    /// # Errors
    /// When nothing is recorded, or the journal cannot be read or is not one.
    pub fn journal(&self) -> io::Result<Journal> {
        let recorded = self.recorded.as_ref();
        let (journal, before) = recorded.ok_or_else(|| io::Error::other("this disk is not recorded"))?;
        Journal::read(before.clone(), journal)
    }
}

/// Puts a note into the journal of the process that calls this, at this point of its order: what was acknowledged, so
/// that a test knows what a later power cut must not lose. Nothing, when the process is not recorded.
///
/// # Errors
/// When the note cannot be written.
pub fn note(text: &str) -> io::Result<()> {
    match std::env::var_os(ROOT) {
        Some(root) => fs::write(Path::new(&root).join(".note"), text),
        None => Ok(()),
    }
}
