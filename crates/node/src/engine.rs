//! Which engine a node's rows are in, and how its directory is opened.
//!
//! Rows in an engine are a copy that every replica can rebuild from its own snapshot and Raft log. That is also how a
//! node changes its engine: the new one starts empty, and the directory of the one that is no longer used is removed,
//! first of all because the new copy needs the space.

use std::path::Path;
use std::sync::Arc;

use granary_shard::TreeTrust;
use granary_store::Engine;
use granary_store::disk::{self, Trust};
use granary_store::memory::MemoryEngine;

use crate::{EngineKind, Settings};

/// The engines on disk, by the name of their directory in the node's.
const ON_DISK: [&str; 2] = ["sled", "fjall"];

/// An open engine, and what is to be made of its trees.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) trust: TreeTrust,
    /// Why the replicas are rebuilt, for `status`.
    pub(crate) rebuilt_because: Option<String>,
}

/// Opens the node's engine. Blocks: for recovery, and while another engine's directory is removed.
///
/// # Errors
/// When a directory is open already or the file system refuses.
pub(crate) fn open(settings: &Settings) -> Result<Opened, disk::Error> {
    if let Some(simulated) = &settings.simulated {
        let (engine, trust) = (Arc::clone(&simulated.engine), simulated.trust);
        return Ok(Opened { engine, trust, rebuilt_because: None });
    }
    let opened = match settings.engine {
        EngineKind::Memory => return open_memory(&settings.data_dir),
        EngineKind::Sled => {
            let cache_capacity_bytes = settings.sled_cache_bytes;
            let sled = granary_store_sled::Settings { cache_capacity_bytes, ..Default::default() };
            granary_store_sled::open(&settings.data_dir.join("sled"), &sled)?
        }
        EngineKind::Fjall => {
            let cache_capacity_bytes = settings.fjall_cache_bytes;
            let fjall = granary_store_fjall::Settings { cache_capacity_bytes, ..Default::default() };
            granary_store_fjall::open(&settings.data_dir.join("fjall"), &fjall)?
        }
    };
    let replaced = remove_others(&settings.data_dir, opened.engine.name())?;
    let (trust, rebuilt_because) = match opened.trust {
        Trust::Clean => (TreeTrust::Trusted { clean: true }, None),
        // A power cut is one that the engine survives; what it lost, the snapshot and the Raft log have.
        Trust::SameBootCrash | Trust::PowerCut => (TreeTrust::Trusted { clean: false }, None),
        Trust::Fresh => (TreeTrust::Untrusted, replaced.or_else(|| was_missing(&settings.data_dir))),
        Trust::Rebuilt { why } => {
            tracing::warn!(%why, "the engine's directory is not trusted, replicas are rebuilt");
            (TreeTrust::Untrusted, Some(why))
        }
    };
    Ok(Opened { engine: opened.engine, trust, rebuilt_because })
}

/// Said of an engine that begins empty under replicas that were here before: somebody took its directory away.
fn was_missing(data_dir: &Path) -> Option<String> {
    let has_replicas = std::fs::read_dir(data_dir.join("shards")).is_ok_and(|mut dirs| dirs.next().is_some());
    has_replicas.then(|| {
        let why = "the engine's directory was missing";
        tracing::warn!(why, "replicas are rebuilt from snapshot and Raft log");
        why.to_owned()
    })
}

fn open_memory(data_dir: &Path) -> Result<Opened, disk::Error> {
    let engine = Arc::new(MemoryEngine::new());
    let rebuilt_because = remove_others(data_dir, engine.name())?;
    Ok(Opened { engine, trust: TreeTrust::Untrusted, rebuilt_because })
}

/// Removes the directories of engines other than `used`, and says so.
fn remove_others(data_dir: &Path, used: &str) -> Result<Option<String>, disk::Error> {
    let mut said = None;
    for other in ON_DISK.into_iter().filter(|other| *other != used) {
        if disk::remove(&data_dir.join(other))? {
            let why = format!("the engine was changed from {other} to {used}");
            tracing::info!(why, "the other engine's copy of the rows was removed, replicas are rebuilt");
            said = Some(why);
        }
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use granary_proto::internal::{self, shard_command::Command};
    use granary_shard::ShardStore;
    use prost::Message;

    use super::*;

    const SLOT: u32 = 3;
    const EPOCH: u64 = 1;

    fn entry(index: u64) -> Bytes {
        let command = if index == 1 {
            let stream = internal::StreamId { cluster: vec![1; 16].into(), shard: 1, incarnation: 1 };
            Command::OpenSlots(internal::OpenSlots { slots: vec![SLOT], epoch: EPOCH, stream: Some(stream) })
        } else {
            let write = internal::Write {
                id: Bytes::copy_from_slice(&u128::from(index).to_be_bytes()),
                slot: SLOT,
                epoch: EPOCH,
                feature_group: 1,
                record: Bytes::from(format!("record {}", index % 7)),
                event_seconds: 1,
                online: true,
                offline: true,
                row: Bytes::from(format!("row {index}")),
                ..internal::Write::default()
            };
            Command::Write(internal::WriteBatch { stamp: index, writes: vec![write], change_log_budget: 0 })
        };
        internal::ShardCommand { command: Some(command) }.encode_to_vec().into()
    }

    /// A replica as the supervisor starts it: its own snapshot, then the entries after it.
    fn started(opened: &Opened, snapshot: Option<&(u64, Vec<u8>)>, until: u64) -> Arc<ShardStore> {
        let tree = opened.engine.tree("shard-1-replica-1").expect("opens");
        let store = ShardStore::open(tree, opened.trust, granary_shard::Settings::default()).expect("opens");
        if let Some((index, body)) = snapshot {
            store.restore(*index, true, &mut &body[..]).expect("is restored");
        }
        for index in snapshot.map_or(1, |(index, _)| index + 1)..=until {
            store.apply(index, &entry(index)).expect("is applied");
        }
        store
    }

    fn open_as(data_dir: &Path, engine: EngineKind) -> Opened {
        let settings = Settings { engine, ..Settings::new(data_dir.to_owned(), String::new(), Vec::new()) };
        open(&settings).expect("opens")
    }

    #[test]
    fn a_node_that_starts_with_another_engine_comes_to_the_same_state() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut snapshot = None;
        let (mut until, mut expected) = (0, None);
        for (engine, change) in [
            (EngineKind::Sled, None),
            (EngineKind::Fjall, Some("from sled to fjall")),
            (EngineKind::Fjall, None),
            (EngineKind::Sled, Some("from fjall to sled")),
            (EngineKind::Memory, Some("from sled to memory")),
        ] {
            let opened = open_as(dir.path(), engine);
            assert_eq!(opened.rebuilt_because.is_some(), change.is_some(), "{:?}", opened.rebuilt_because);
            assert!(opened.rebuilt_because.as_deref().unwrap_or_default().contains(change.unwrap_or_default()));
            let others = ON_DISK.into_iter().filter(|other| *other != opened.engine.name());
            others.for_each(|other| assert!(!dir.path().join(other).exists(), "{other} was left behind"));

            let store = started(&opened, snapshot.as_ref(), until);
            assert_eq!(store.status().state_hash, expected.or(store.status().state_hash));
            for index in until + 1..=until + 20 {
                store.apply(index, &entry(index)).expect("is applied");
                if index == until + 10 {
                    let mut body = Vec::new();
                    store.pin_snapshot().and_then(|pinned| pinned.write_to(&mut body)).expect("is written");
                    snapshot = Some((index, body));
                }
            }
            until += 20;
            expected = store.status().state_hash;
            assert!(expected.is_some());
            store.close().expect("closes");
            drop(store);
            opened.engine.close().expect("closes");
        }
    }
}
