//! The files around a database: who uses it, how it was left, and how it is moved aside.
//!
//! ```text
//! <parent>/<name>.lock           held while open
//! <parent>/<name>/db-<n>/        the engine's files
//! <parent>/<name>/clean          there between a clean stop and the next open
//! <parent>/<name>/boot_id        the boot of the machine in which it was opened last
//! <parent>/<name>/condemned      found damaged, and how
//! <parent>/<name>/starts         how often it was opened since it was last written, or closed
//! <parent>/<name>.untrusted-<n>/ moved aside; only the newest is kept
//! ```
//!
//! The number `n` only grows. A thread of an engine that hung and was left behind writes by path; as the database that
//! replaces its own has another path, it can do no harm there.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::Error;

const CLEAN: &str = "clean";
const BOOT_ID: &str = "boot_id";
const CONDEMNED: &str = "condemned";
const STARTS: &str = "starts";
/// So many processes may end after they opened it and before they wrote it: an engine may abort the process over damage,
/// which nobody can contain, and the next one would go the same way.
const STARTS_MAX: u32 = 5;
const DATABASE: &str = "db-";
const UNTRUSTED: &str = "untrusted-";
const LOCK: &str = "lock";
/// Of Linux; elsewhere no crash is known to be of the same boot.
const BOOT_ID_SOURCE: &str = "/proc/sys/kernel/random/boot_id";

/// How a database was left, by the files around it.
#[derive(Debug, PartialEq, Eq)]
pub enum Left {
    /// There is none.
    Nothing,
    /// It was closed.
    Closed(PathBuf),
    /// It was not.
    InUse {
        /// The engine's directory.
        database: PathBuf,
        /// In this boot of the machine.
        same_boot: bool,
    },
    /// It must not be opened, and why.
    Unusable(String),
}

/// An engine directory, locked.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    parent: PathBuf,
    name: OsString,
    lock: File,
}

impl Place {
    /// Makes the directory's parent and takes the lock.
    ///
    /// # Errors
    /// `InUse`, `Io`.
    pub fn lock(dir: &Path) -> Result<Self, Error> {
        let wrong = || Error::Io {
            doing: "name engine directory",
            path: dir.into(),
            source: io::ErrorKind::InvalidInput.into(),
        };
        let name = dir.file_name().ok_or_else(wrong)?.to_owned();
        let parent = match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        fs::create_dir_all(&parent).map_err(failed("create directory", &parent))?;
        let path = sibling(&parent, &name, LOCK);
        let lock = File::create(&path).map_err(failed("create lock file", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir: parent.join(&name), parent, name, lock }),
            Err(TryLockError::WouldBlock) => Err(Error::InUse { dir: dir.into() }),
            Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
        }
    }

    /// Judges what is there. Changes nothing.
    ///
    /// # Errors
    /// `Io`.
    pub fn judge(&self) -> Result<Left, Error> {
        let names = names(&self.dir)?;
        if names.is_empty() {
            return Ok(Left::Nothing);
        }
        if let Ok(why) = fs::read_to_string(self.dir.join(CONDEMNED)) {
            return Ok(Left::Unusable(format!("it was found damaged: {why}")));
        }
        let Some(number) = names.iter().filter_map(|name| number(name, DATABASE)).max() else {
            return Ok(Left::Unusable("there is no database in it".into()));
        };
        if self.starts() >= STARTS_MAX {
            return Ok(Left::Unusable(format!("{STARTS_MAX} processes have ended over it before they wrote anything")));
        }
        let database = self.database(number);
        if names.iter().any(|name| name == CLEAN) {
            return Ok(Left::Closed(database));
        }
        let recorded = fs::read_to_string(self.dir.join(BOOT_ID)).ok();
        Ok(Left::InUse { database, same_boot: recorded.is_some() && recorded == boot_id() })
    }

    /// Marks a database as in use, durably: the boot first and then the end of `clean`, so that a crash in between
    /// leaves the clean database that it still is.
    ///
    /// # Errors
    /// `Io`.
    pub fn begin(&self) -> Result<(), Error> {
        self.write(STARTS, (self.starts() + 1).to_string().as_bytes())?;
        self.write(BOOT_ID, boot_id().unwrap_or_default().as_bytes())?;
        remove_if_there(&self.dir.join(CLEAN))?;
        sync_dir(&self.dir)
    }

    /// Tells that the database was opened and written: it is not what ends the process.
    ///
    /// # Errors
    /// `Io`.
    pub fn stands(&self) -> Result<(), Error> {
        remove_if_there(&self.dir.join(STARTS))
    }

    fn starts(&self) -> u32 {
        fs::read_to_string(self.dir.join(STARTS)).ok().and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    /// Makes the directory of a new database, as in use.
    ///
    /// # Errors
    /// `Io`.
    pub fn create(&self) -> Result<PathBuf, Error> {
        let database = self.database(self.next_number()?);
        fs::create_dir_all(&database).map_err(failed("create directory", &database))?;
        self.begin()?;
        sync_dir(&self.parent)?;
        Ok(database)
    }

    /// Moves what is there aside and removes what was moved aside earlier.
    ///
    /// # Errors
    /// `Io`.
    pub fn move_aside(&self) -> Result<PathBuf, Error> {
        let aside = sibling(&self.parent, &self.name, &format!("{UNTRUSTED}{}", self.next_number()?));
        let older = self.moved_aside()?;
        fs::rename(&self.dir, &aside).map_err(failed("move aside", &self.dir))?;
        sync_dir(&self.parent)?;
        for (_, path) in older {
            fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
        }
        Ok(aside)
    }

    /// Marks a database that its engine no longer has open as cleanly stopped, after an fsync of each of its files: not
    /// every engine's own flush reaches the disk.
    ///
    /// # Errors
    /// `Io`.
    pub fn mark_clean(&self, database: &Path) -> Result<(), Error> {
        sync_all(database)?;
        self.stands()?;
        sync_dir(&self.dir)?;
        self.write(CLEAN, b"")
    }

    /// Removes the directory, all that was moved aside, and the lock file.
    ///
    /// # Errors
    /// `Io`.
    pub fn remove(self) -> Result<(), Error> {
        let aside = self.moved_aside()?.into_iter().map(|(_, path)| path);
        for path in aside.chain([self.dir.clone()]) {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(failed("remove", &path))?,
            }
        }
        remove_if_there(&sibling(&self.parent, &self.name, LOCK))?;
        sync_dir(&self.parent)
    }

    /// Marks what is there as damaged.
    ///
    /// # Errors
    /// `Io`.
    pub fn condemn(&self, why: &str) -> Result<(), Error> {
        self.write(CONDEMNED, why.as_bytes())
    }

    /// Lets another open take the directory. Dropping does it too.
    ///
    /// # Errors
    /// `Io`.
    pub fn unlock(&self) -> Result<(), Error> {
        self.lock.unlock().map_err(failed("unlock", &self.dir))
    }

    fn database(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{DATABASE}{number}"))
    }

    /// One more than any number in use.
    fn next_number(&self) -> Result<u64, Error> {
        let databases = names(&self.dir)?.into_iter().filter_map(|name| number(&name, DATABASE)).max();
        let moved_aside = self.moved_aside()?.into_iter().map(|(number, _)| number).max();
        Ok(databases.max(moved_aside).map_or(1, |number| number.saturating_add(1)))
    }

    fn moved_aside(&self) -> Result<Vec<(u64, PathBuf)>, Error> {
        let prefix = format!("{}.{UNTRUSTED}", self.name.to_string_lossy());
        let found = names(&self.parent)?.into_iter();
        Ok(found.filter_map(|name| Some((number(&name, &prefix)?, self.parent.join(name)))).collect())
    }

    /// Writes a small file so that it is there whole or not at all, durably.
    fn write(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        let (path, draft) = (self.dir.join(name), self.dir.join(format!("{name}.draft")));
        let written = File::create(&draft).and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&draft, &path)
        });
        written.map_err(failed("write", &path))?;
        sync_dir(&self.dir)
    }
}

/// Whether an engine's directory, or anything moved aside from it, is there.
pub(super) fn is_there(dir: &Path) -> Result<bool, Error> {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { return Ok(false) };
    let prefix = format!("{}.{UNTRUSTED}", name.to_string_lossy());
    Ok(names(parent)?.iter().any(|found| *found == *name.to_string_lossy() || number(found, &prefix).is_some()))
}

fn boot_id() -> Option<String> {
    fs::read_to_string(BOOT_ID_SOURCE).ok().filter(|id| !id.trim().is_empty())
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}

fn sibling(parent: &Path, name: &OsString, suffix: &str) -> PathBuf {
    let mut sibling = name.clone();
    sibling.push(".");
    sibling.push(suffix);
    parent.join(sibling)
}

fn number(name: &str, prefix: &str) -> Option<u64> {
    name.strip_prefix(prefix)?.parse().ok()
}

/// The names in a directory; none if it is missing.
fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let listed = fs::read_dir(dir).and_then(|entries| {
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<io::Result<Vec<_>>>()
    });
    match listed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(failed("list directory", dir)),
    }
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(failed("remove", path)),
    }
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync directory", dir))
}

/// Fsyncs a directory with all that it holds.
fn sync_all(dir: &Path) -> Result<(), Error> {
    for name in names(dir)? {
        let path = dir.join(name);
        if path.is_dir() {
            sync_all(&path)?;
        } else {
            File::open(&path).and_then(|file| file.sync_all()).map_err(failed("sync", &path))?;
        }
    }
    sync_dir(dir)
}
