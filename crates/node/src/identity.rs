//! A node's identity: one file, fsynced before the first vote (design: placement; protocols 2, "Bootstrap and
//! identity").
//!
//! An empty disk is a new identity. A replica that the file says was created, but whose Raft log is gone, never
//! starts again: with an empty log it could vote twice.
//!
//! The file knows its place: the inode and birth time of the lock file beside it, which no copy has. A directory that was
//! copied, or restored from a backup, may be older than what its replicas acknowledged, so it is refused until an
//! operator vouches for it with a file named `moved`. `docs/formats/node-directory.md` has the bytes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use granary_consensus::{create_synced, log_exists};
use granary_types::{ClusterId, NodeId, ReplicaId, ShardId};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

const FILE: &str = "identity.json";
const LOCK: &str = "lock";
/// Made by an operator who moved the whole directory while the node was stopped, and never started the old one again.
const MOVED: &str = "moved";
/// What makes a directory without an identity somebody's.
const LEFTOVERS: [&str; 4] = ["meta", "shards", "sled", "fjall"];
const FORMAT: u32 = 2;
/// Without checksum and place; read, and written anew.
const FORMAT_BEFORE: u32 = 1;

/// What can be wrong with a data directory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has it.
    #[error("data directory is in use by another process: path={path}")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The file cannot be read as an identity.
    #[error("identity file is damaged: path={path}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The file is JSON but not an identity.
    #[error("identity file says what cannot be: path={path} field={field}")]
    Senseless {
        /// The file.
        path: PathBuf,
        /// What makes no sense.
        field: &'static str,
    },
    /// The file is whole JSON, but not what was written.
    #[error("identity file is damaged, its checksum is wrong: path={path}")]
    Checksum {
        /// The file.
        path: PathBuf,
    },
    /// There are replicas, but no identity.
    #[error(
        "identity file is missing beside data of a node: put it back, or start with an empty directory as a new node: path={path}"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The directory was copied.
    #[error(
        "data directory is a copy: start the node on the original, or replace its replicas; if the whole directory was moved while the node was stopped, and the original will never start again, make a file named {MOVED} in it: path={path}"
    )]
    Copied {
        /// The directory.
        path: PathBuf,
    },
    /// The identity says that the replica ran here, but its Raft log is gone: it may have voted.
    #[error(
        "raft log of shard {shard} replica {replica} is missing under an identity that had it; the replica must be replaced, not restarted"
    )]
    LogMissing {
        /// The shard.
        shard: ShardId,
        /// The replica.
        replica: ReplicaId,
    },
    /// A newer Granary wrote it.
    #[error("identity file has format {found}, this build reads up to {FORMAT}")]
    Format {
        /// What the file says.
        found: u32,
    },
    /// The disk refused.
    #[error("read or write the identity")]
    Io(#[from] io::Error),
}

/// The identity as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk {
    format: u32,
    /// XXH3-64 of the compact JSON with this field empty, 16 hex digits.
    #[serde(default)]
    checksum: String,
    /// Where the directory is; empty in format 1.
    #[serde(default)]
    place: String,
    uuid: String,
    cluster: Option<String>,
    node: u64,
    meta: Option<MetaSeat>,
    replicas: Vec<ReplicaSeat>,
}

/// The node's replica of the meta group and the group's first members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetaSeat {
    /// This node's replica of the meta group.
    pub replica: u64,
    /// The group's first members.
    pub members: Vec<MetaMember>,
}

/// A first member of the meta group. Its replica id is its node id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetaMember {
    /// The node.
    pub node: u64,
    /// The disk, 32 hex digits.
    pub uuid: String,
    /// Where it listens.
    pub address: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplicaSeat {
    shard: u32,
    replica: u64,
    /// It took part in its group: from then on its Raft log must be there.
    started: bool,
}

impl OnDisk {
    fn new(uuid: u128) -> Self {
        Self {
            format: FORMAT,
            checksum: String::new(),
            place: String::new(),
            uuid: hex(uuid),
            cluster: None,
            node: 0,
            meta: None,
            replicas: vec![],
        }
    }

    fn read(path: &Path) -> Result<Option<Self>, Error> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let damaged = |source| Error::Damaged { path: path.to_owned(), source };
        let mut state: Self = serde_json::from_slice(&bytes).map_err(damaged)?;
        match state.format {
            FORMAT_BEFORE => state.format = FORMAT,
            FORMAT if state.checksum == state.sum() => {}
            FORMAT => return Err(Error::Checksum { path: path.to_owned() }),
            found => return Err(Error::Format { found }),
        }
        state.check(path)?;
        Ok(Some(state))
    }

    fn sum(&self) -> String {
        let unsummed = Self { checksum: String::new(), ..self.clone() };
        let bytes = serde_json::to_vec(&unsummed).expect("strings and numbers are JSON");
        format!("{:016x}", xxh3_64(&bytes))
    }

    /// An id that cannot be read must not pass for none: the node would found or join as somebody else.
    fn check(&self, path: &Path) -> Result<(), Error> {
        let senseless = |field| Error::Senseless { path: path.to_owned(), field };
        if unhex(&self.uuid).is_none() {
            return Err(senseless("uuid"));
        }
        match &self.cluster {
            Some(cluster) if unhex(cluster).is_none() => Err(senseless("cluster")),
            Some(_) if self.node == 0 => Err(senseless("node")),
            _ => Ok(()),
        }
    }
}

/// A locked data directory and the identity in it.
#[derive(Debug)]
pub struct Identity {
    dir: PathBuf,
    state: OnDisk,
    /// Held until the process ends.
    _lock: File,
}

impl Identity {
    /// Locks `dir` (made if missing) and reads the identity, or writes a new one under `fresh_uuid`.
    ///
    /// # Errors
    /// When the directory is in use, or the file is damaged or cannot be written.
    pub fn open(dir: &Path, fresh_uuid: u128) -> Result<Self, Error> {
        create_synced(dir)?;
        // Never emptied or replaced: it also is what tells a copy from the original.
        let lock = File::options().create(true).truncate(false).write(true).open(dir.join(LOCK))?;
        lock.try_lock().map_err(|_| Error::InUse { path: dir.to_owned() })?;
        let path = dir.join(FILE);
        let here = place(&lock)?;
        let mut state = match OnDisk::read(&path)? {
            Some(state) => state,
            None if LEFTOVERS.iter().any(|name| dir.join(name).exists()) => return Err(Error::Missing { path }),
            None => OnDisk::new(fresh_uuid),
        };
        let moved = dir.join(MOVED);
        if !state.place.is_empty() && state.place != here {
            if !moved.exists() {
                return Err(Error::Copied { path: dir.to_owned() });
            }
            tracing::warn!(path = %dir.display(), "taking the word of an operator that the directory was moved, not copied");
        }
        state.place = here;
        let identity = Self { dir: dir.to_owned(), state, _lock: lock };
        identity.save()?;
        // Vouched for once: a copy made from now on has to be vouched for again.
        match fs::remove_file(moved) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        Ok(identity)
    }

    /// The disk's own id.
    pub fn uuid(&self) -> u128 {
        unhex(&self.state.uuid).unwrap_or_default()
    }

    /// The cluster and the node's id in it, once it belongs to one.
    pub fn membership(&self) -> Option<(ClusterId, NodeId)> {
        let cluster = unhex(self.state.cluster.as_deref()?)?;
        Some((ClusterId(cluster), NodeId(self.state.node)))
    }

    /// The node's seat in the meta group, if it has one.
    pub fn meta_seat(&self) -> Option<&MetaSeat> {
        self.state.meta.as_ref()
    }

    /// Makes the node a member of a cluster, durably.
    ///
    /// # Errors
    /// When the node is a member already, of another cluster or as another node, or the disk refuses.
    pub fn join(&mut self, cluster: ClusterId, node: NodeId, meta: Option<MetaSeat>) -> Result<(), Error> {
        if let Some(have) = self.membership() {
            if have == (cluster, node) {
                return Ok(());
            }
            return Err(io::Error::other(format!(
                "node is a member already: cluster={:032x} node={}",
                have.0.0, have.1
            ))
            .into());
        }
        let before = self.state.clone();
        self.state.cluster = Some(hex(cluster.0));
        self.state.node = node.0;
        self.state.meta = meta;
        self.save().inspect_err(|_| self.state = before)
    }

    /// Gives the replica a directory for its Raft log, `log`, and notes it, durably: before its first vote.
    ///
    /// # Errors
    /// [`Error::LogMissing`] when the replica took part in its group before and the directory is gone or empty: with
    /// an empty log it could vote a second time. When the disk refuses; the replica must not start.
    pub fn claim(&mut self, shard: ShardId, replica: ReplicaId, log: &Path) -> Result<(), Error> {
        let seat = self.state.replicas.iter().find(|seat| (seat.shard, seat.replica) == (shard.0, replica.0));
        if seat.is_some_and(|seat| seat.started) {
            return if log_exists(log)? { Ok(()) } else { Err(Error::LogMissing { shard, replica }) };
        }
        create_synced(log)?;
        if seat.is_none() {
            self.add(ReplicaSeat { shard: shard.0, replica: replica.0, started: false })?;
        }
        Ok(())
    }

    /// Notes, durably, that the replica takes part in its group: before anybody can reach it.
    ///
    /// # Errors
    /// When the disk refuses; the replica must stop.
    pub fn note_started(&mut self, shard: ShardId, replica: ReplicaId) -> Result<(), Error> {
        let seat = |seat: &&mut ReplicaSeat| (seat.shard, seat.replica) == (shard.0, replica.0);
        match self.state.replicas.iter_mut().find(seat) {
            Some(seat) if seat.started => Ok(()),
            Some(seat) => {
                seat.started = true;
                self.save()
            }
            None => self.add(ReplicaSeat { shard: shard.0, replica: replica.0, started: true }),
        }
    }

    fn add(&mut self, seat: ReplicaSeat) -> Result<(), Error> {
        self.state.replicas.push(seat);
        let saved = self.save();
        if saved.is_err() {
            self.state.replicas.pop();
        }
        saved
    }

    fn save(&self) -> Result<(), Error> {
        let state = OnDisk { checksum: self.state.sum(), ..self.state.clone() };
        let bytes = serde_json::to_vec_pretty(&state).map_err(io::Error::other)?;
        let temporary = self.dir.join("identity.json.new");
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.dir.join(FILE))?;
        File::open(&self.dir)?.sync_all()?;
        Ok(())
    }
}

/// What a copy of the lock file does not have: its inode, and when that was born where the file system says so.
fn place(lock: &File) -> io::Result<String> {
    let found = lock.metadata()?;
    let born = found.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    Ok(format!("{}@{}.{:09}", found.ino(), born.as_secs(), born.subsec_nanos()))
}

/// 32 hex digits.
pub fn hex(value: u128) -> String {
    format!("{value:032x}")
}

/// From 32 hex digits.
pub fn unhex(text: &str) -> Option<u128> {
    u128::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_reopening_and_is_locked() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut identity = Identity::open(dir.path(), 7).expect("a new identity");
        assert_eq!((identity.uuid(), identity.membership()), (7, None));
        assert!(matches!(Identity::open(dir.path(), 8), Err(Error::InUse { .. })));
        identity.join(ClusterId(9), NodeId(2), None).expect("joins");
        assert!(identity.join(ClusterId(10), NodeId(2), None).is_err());
        drop(identity);
        let identity = Identity::open(dir.path(), 8).expect("opens again");
        assert_eq!((identity.uuid(), identity.membership()), (7, Some((ClusterId(9), NodeId(2)))));
    }

    #[test]
    fn a_replica_that_lost_its_log_never_starts_again() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (shard, replica, log) = (ShardId(1), ReplicaId(4), dir.path().join("shards/1-4/log"));
        let mut identity = Identity::open(dir.path(), 7).expect("a new identity");
        identity.claim(shard, replica, &log).expect("a new seat");
        identity.claim(shard, replica, &log).expect("again, as it never started");
        let file = log.join("r-00_000_000_000_000_000_000.wal");
        fs::write(log.join("LOCK"), b"").expect("writes");
        fs::write(&file, b"entries").expect("writes");
        identity.note_started(shard, replica).expect("noted");
        drop(identity);
        let mut identity = Identity::open(dir.path(), 8).expect("opens again");
        identity.claim(shard, replica, &log).expect("its log is there");
        fs::remove_file(file).expect("removes");
        assert!(matches!(identity.claim(shard, replica, &log), Err(Error::LogMissing { .. })), "an emptied log");
        fs::remove_dir_all(&log).expect("removes");
        assert!(matches!(identity.claim(shard, replica, &log), Err(Error::LogMissing { .. })), "a log that is gone");
        identity.claim(shard, ReplicaId(5), &log).expect("another replica is another seat");
    }

    #[test]
    fn refuses_a_damaged_file() {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::write(dir.path().join(FILE), b"{").expect("writes");
        assert!(matches!(Identity::open(dir.path(), 1), Err(Error::Damaged { .. })));
        let senseless = r#"{"format":1,"uuid":"x","cluster":null,"node":0,"meta":null,"replicas":[]}"#;
        fs::write(dir.path().join(FILE), senseless).expect("writes");
        assert!(matches!(Identity::open(dir.path(), 1), Err(Error::Senseless { .. })));
    }

    fn member(dir: &Path) -> Identity {
        let mut identity = Identity::open(dir, 7).expect("a new identity");
        identity.join(ClusterId(9), NodeId(2), None).expect("joins");
        identity.note_started(ShardId(1), ReplicaId(4)).expect("noted");
        identity
    }

    #[test]
    fn any_flipped_bit_is_refused_or_means_nothing() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let before = member(dir.path()).state;
        let whole = fs::read(dir.path().join(FILE)).expect("reads");
        let mut refused = 0;
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(dir.path().join(FILE), &bytes).expect("writes");
            match Identity::open(dir.path(), 8) {
                // Between the tokens of JSON one kind of space is as good as another.
                Ok(identity) => assert_eq!(identity.state.sum(), before.sum(), "bit {bit}"),
                Err(Error::Io(error)) => panic!("bit {bit}: {error}"),
                Err(_) => refused += 1,
            }
        }
        assert!(refused > whole.len() * 6, "{refused} of {}", whole.len() * 8);
    }

    #[test]
    fn a_copy_is_refused_until_an_operator_vouches_for_it() {
        let parent = tempfile::tempdir().expect("temporary directory");
        let (dir, copy) = (parent.path().join("original"), parent.path().join("copy"));
        drop(member(&dir));
        fs::create_dir(&copy).expect("makes");
        for name in [FILE, LOCK] {
            fs::copy(dir.join(name), copy.join(name)).expect("copies");
        }
        assert!(matches!(Identity::open(&copy, 8), Err(Error::Copied { .. })));
        // Renamed, it stays the original.
        fs::rename(&dir, parent.path().join("elsewhere")).expect("renames");
        drop(Identity::open(&parent.path().join("elsewhere"), 8).expect("the same directory"));
        fs::write(copy.join(MOVED), b"").expect("writes");
        drop(Identity::open(&copy, 8).expect("vouched for"));
        assert!(!copy.join(MOVED).exists(), "once");
        drop(Identity::open(&copy, 8).expect("it is at home now"));
    }

    #[test]
    fn data_without_an_identity_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        drop(member(dir.path()));
        fs::create_dir(dir.path().join("shards")).expect("makes");
        fs::remove_file(dir.path().join(FILE)).expect("removes");
        assert!(matches!(Identity::open(dir.path(), 8), Err(Error::Missing { .. })));
    }

    #[test]
    fn format_1_is_read_and_written_anew() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let before = r#"{"format":1,"uuid":"00000000000000000000000000000007","cluster":"00000000000000000000000000000009","node":2,"meta":null,"replicas":[{"shard":1,"replica":4,"started":true}]}"#;
        fs::write(dir.path().join(FILE), before).expect("writes");
        let identity = Identity::open(dir.path(), 8).expect("opens");
        assert_eq!((identity.uuid(), identity.membership()), (7, Some((ClusterId(9), NodeId(2)))));
        drop(identity);
        let text = fs::read_to_string(dir.path().join(FILE)).expect("reads");
        assert!(text.contains("\"format\": 2"), "{text}");
        drop(Identity::open(dir.path(), 8).expect("opens again"));
    }
}
