//! A node's identity: one file, fsynced before the first vote (design: placement; protocols 2, "Bootstrap and
//! identity").
//!
//! An empty disk is a new identity. A replica that the file says was created, but whose Raft log is gone, never
//! starts again: with an empty log it could vote twice.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use granary_consensus::create_synced;
use granary_types::{ClusterId, NodeId, ReplicaId, ShardId};
use serde::{Deserialize, Serialize};

const FILE: &str = "identity.json";
const LOCK: &str = "lock";
const FORMAT: u32 = 1;

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
    #[error("identity file has format {found}, this build reads {FORMAT}")]
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
        let lock = File::create(dir.join(LOCK))?;
        lock.try_lock().map_err(|_| Error::InUse { path: dir.to_owned() })?;
        let path = dir.join(FILE);
        let state = match fs::read(&path) {
            Ok(bytes) => {
                let state: OnDisk = serde_json::from_slice(&bytes).map_err(|source| Error::Damaged { path, source })?;
                if state.format != FORMAT {
                    return Err(Error::Format { found: state.format });
                }
                state.check(&dir.join(FILE))?;
                state
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                OnDisk { format: FORMAT, uuid: hex(fresh_uuid), cluster: None, node: 0, meta: None, replicas: vec![] }
            }
            Err(error) => return Err(error.into()),
        };
        let identity = Self { dir: dir.to_owned(), state, _lock: lock };
        identity.save()?;
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
            let holds_files = fs::read_dir(log).is_ok_and(|mut files| files.next().is_some());
            return if holds_files { Ok(()) } else { Err(Error::LogMissing { shard, replica }) };
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
        let bytes = serde_json::to_vec_pretty(&self.state).map_err(io::Error::other)?;
        let temporary = self.dir.join("identity.json.new");
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.dir.join(FILE))?;
        File::open(&self.dir)?.sync_all()?;
        Ok(())
    }
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
        fs::write(log.join("wal"), b"entries").expect("writes");
        identity.note_started(shard, replica).expect("noted");
        drop(identity);
        let mut identity = Identity::open(dir.path(), 8).expect("opens again");
        identity.claim(shard, replica, &log).expect("its log is there");
        fs::remove_file(log.join("wal")).expect("removes");
        assert!(matches!(identity.claim(shard, replica, &log), Err(Error::LogMissing { .. })), "an emptied log");
        fs::remove_dir(&log).expect("removes");
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
}
