//! Faults, and the lines of the control file that tell them to the shim:
//! `<what> <operation> <n> <times> <errno> <part of path>`.

/// Error numbers of Linux.
pub mod errno {
    /// Input or output failed.
    pub const EIO: i32 = 5;
    /// No space is left.
    pub const ENOSPC: i32 = 28;
}

/// What a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Opening for writing, and making a file.
    Open,
    /// Any way of reading bytes, but through a mapping or round the C library.
    Read,
    /// Any way of writing bytes.
    Write,
    /// Changing a file's length.
    Truncate,
    /// `fsync` and `fdatasync`, of files and directories.
    Sync,
    /// `sync_file_range`.
    SyncRange,
    /// Renaming, matched by either path.
    Rename,
    /// Removing a file or a directory.
    Remove,
    /// Making a directory.
    MakeDir,
}

impl Op {
    fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Truncate => "truncate",
            Self::Sync => "sync",
            Self::SyncRange => "range",
            Self::Rename => "rename",
            Self::Remove => "unlink",
            Self::MakeDir => "mkdir",
        }
    }
}

/// Something that goes wrong for operations on paths below the root that contain a piece of text (every path contains
/// the empty one). An open file is known by the path it was opened with.
#[derive(Debug, Clone)]
pub struct Fault {
    what: &'static str,
    op: Op,
    n: u64,
    times: u64,
    errno: i32,
    part: String,
}

impl Fault {
    fn new(what: &'static str, op: Op, n: u64, errno: i32, part: &str) -> Self {
        assert!(part.len() < 128 && !part.contains('\n'), "the shim reads short lines");
        Self { what, op, n, times: 0, errno, part: part.into() }
    }

    /// The operation fails with this error: the first and every later one, unless [`Self::nth`] and [`Self::times`]
    /// say otherwise. A sync that fails leaves it open whether what it was to cover reached the disk.
    pub fn fail(op: Op, errno: i32, part: &str) -> Self {
        Self::new("fail", op, 1, errno, part)
    }

    /// The process is killed (SIGKILL) before the operation.
    pub fn kill(op: Op, part: &str) -> Self {
        Self::new("kill", op, 1, 0, part)
    }

    /// Only `bytes` more can be written; then a write is cut short and the next ones fail with ENOSPC. Removing a
    /// file gives nothing back.
    pub fn space(bytes: u64, part: &str) -> Self {
        Self::new("space", Op::Write, bytes, errno::ENOSPC, part)
    }

    /// Each operation takes so much longer.
    pub fn delay(op: Op, micros: u64, part: &str) -> Self {
        Self::new("delay", op, micros, 0, part)
    }

    /// The operation does not return as long as the fault is set.
    pub fn hang(op: Op, part: &str) -> Self {
        Self::new("hang", op, 0, 0, part)
    }

    /// Begins with the n-th matching operation, counted from 1.
    #[must_use]
    pub fn nth(mut self, n: u64) -> Self {
        assert!(matches!(self.what, "fail" | "kill"), "only these are counted");
        self.n = n;
        self
    }

    /// Ends after so many; 0 for never.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    pub(crate) fn line(&self) -> String {
        format!("{} {} {} {} {} {}\n", self.what, self.op.word(), self.n, self.times, self.errno, self.part)
    }
}
