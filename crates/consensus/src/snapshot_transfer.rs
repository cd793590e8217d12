//! A snapshot file on its way from one replica to another: as it is on the sender's disk, in chunks.
//!
//! The sender reads no further ahead than the receiver takes in. The receiver checks each chunk, writes a file of its
//! own, verifies it as a whole, and only then offers it to Raft. What a transfer that ends early has brought is kept,
//! and the next transfer of the same file goes on from there; what turns out to be damaged is thrown away.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use futures::Stream;
use granary_platform::Platform;
use granary_proto::convert::cluster_to_wire;
use granary_proto::internal as wire;
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};

use crate::Error;
use crate::codec::vote_to_wire;
use crate::group::{GroupSpec, Member};
use crate::peers::PeerPool;
use crate::snapshot_store::{FileId, SnapshotFile, SnapshotStore};
use crate::stats::Stats;
use crate::type_config::Vote;

const CHUNK_LEN: u64 = 1 << 20;

/// The file in chunks from `offset` on, each read when the one before it was taken. A file that cannot be read ends
/// the stream early, and the receiver refuses it as short.
pub(crate) fn chunks(
    file: SnapshotFile,
    id: FileId,
    offset: u64,
    header: wire::PeerHeader,
    vote: Option<&Vote>,
    platform: Platform,
) -> impl Stream<Item = wire::SnapshotChunk> + Send + 'static {
    let first = Some((header, vote.map(vote_to_wire)));
    futures::stream::unfold((file, platform, offset, first), move |(file, platform, offset, mut first)| async move {
        if offset >= id.len {
            return None;
        }
        let source = file.clone();
        let data = match platform.blocking(move || read_chunk(&source, offset)).await.flatten() {
            Ok(data) => data,
            Err(error) => {
                tracing::error!(path = %file.path().display(), %error, "snapshot cannot be read");
                return None;
            }
        };
        let next = offset + data.len() as u64;
        let crc = crc32fast::hash(&data);
        let (total_bytes, checksum) = if first.is_some() { (id.len, id.checksum) } else { (0, 0) };
        let (header, vote) = first.take().unzip();
        let data = data.into();
        let chunk = wire::SnapshotChunk { header, vote: vote.flatten(), total_bytes, offset, data, crc, checksum };
        Some((chunk, (file, platform, next, first)))
    })
}

fn read_chunk(file: &SnapshotFile, offset: u64) -> io::Result<Vec<u8>> {
    let len = CHUNK_LEN.min(file.file_len() - offset);
    let mut data = vec![0; usize::try_from(len).expect("a chunk is a mebibyte at most")];
    file.read_at(&mut data, offset)?;
    Ok(data)
}

/// Asks a peer for its newest snapshot and makes it this replica's own, before the replica starts.
///
/// For a replica that has its Raft log but no valid snapshot that covers what was purged from it
/// ([`Error::SnapshotMissing`]). Votes and log stay as they are; a snapshot holds committed entries only.
///
/// # Errors
/// [`Error::Raft`] when the peer has none, does not answer or sends a damaged one; [`Error::Io`].
pub async fn fetch_snapshot(
    spec: &GroupSpec,
    peers: &PeerPool,
    from: &Member,
    platform: &Platform,
) -> Result<(), Error> {
    let refused = |what: String| Error::Raft(format!("fetch snapshot from {}: {what}", from.address));
    let header = wire::PeerHeader {
        cluster: cluster_to_wire(spec.cluster),
        group: spec.group.0,
        from_replica: spec.replica.0,
        to_replica: from.replica.0,
        ..Default::default()
    };
    let dir = spec.dir.join("snapshots");
    let store = SnapshotStore::open(&dir, spec.cluster, spec.group).map_err(|error| refused(error.to_string()))?;
    let store = Arc::new(store);
    let (id, offset) = store.partial().unwrap_or((FileId { len: 0, checksum: 0 }, 0));
    let mut client = peers.client(&from.address).map_err(|error| refused(error.to_string()))?;
    let (total_bytes, checksum) = (id.len, id.checksum);
    let request = wire::FetchSnapshotRequest { header: Some(header), total_bytes, checksum, offset };
    let mut chunks = client.fetch_snapshot(request).await.map_err(|status| refused(status.to_string()))?.into_inner();
    let first = chunks.message().await.map_err(|status| refused(status.to_string()))?;
    let first = first.ok_or_else(|| refused("it has none".to_owned()))?;
    let received = receive(&store, &Stats::default(), platform, first, chunks).await;
    let received = received.map_err(|status| refused(status.to_string()))?;
    let installed = platform.blocking(move || store.install(&received)).await.flatten();
    installed.map_err(Error::io("install snapshot", dir))?;
    Ok(())
}

/// Takes in the rest of a file, of which `first` is the next chunk, and verifies the whole.
///
/// # Errors
/// `InvalidArgument` for chunks that do not follow each other or what is here already, `DataLoss` for a chunk or a
/// file that is damaged or foreign, `Internal` when it cannot be written.
pub(crate) async fn receive(
    store: &Arc<SnapshotStore>,
    stats: &Stats,
    platform: &Platform,
    first: wire::SnapshotChunk,
    mut rest: Streaming<wire::SnapshotChunk>,
) -> Result<SnapshotFile, Status> {
    let id = FileId { len: first.total_bytes, checksum: first.checksum };
    let mut offset = first.offset;
    let here = Arc::clone(store);
    let opened = platform.blocking(move || here.open_partial(id, offset)).await.flatten();
    let (path, mut file) = opened.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => Status::invalid_argument(error.to_string()),
        _ => internal(&error),
    })?;
    if offset > 0 {
        stats.snapshots_resumed.add(1);
    }
    let mut next = Some(first);
    while let Some(chunk) = next {
        if chunk.offset != offset || chunk.data.is_empty() || offset + chunk.data.len() as u64 > id.len {
            return Err(Status::invalid_argument("snapshot chunks do not follow each other"));
        }
        if crc32fast::hash(&chunk.data) != chunk.crc {
            stats.snapshot_chunks_refused.add(1);
            tracing::warn!(path = %path.display(), offset, "refusing a damaged chunk of a snapshot");
            return Err(Status::data_loss(format!("snapshot chunk is damaged: offset={offset}")));
        }
        let len = chunk.data.len() as u64;
        let write = move || file.write_all(&chunk.data).map(|()| file);
        file = platform.blocking(write).await.flatten().map_err(|error| internal(&error))?;
        offset += len;
        stats.snapshot_bytes_received.add(len);
        next = rest.next().await.transpose()?;
    }
    if offset != id.len {
        return Err(Status::invalid_argument("snapshot ended early"));
    }
    drop(file);
    let store = Arc::clone(store);
    let received = platform.blocking(move || receive_whole(&store, &path)).await.flatten();
    received.map_err(|error| Status::data_loss(format!("snapshot is refused: {error}")))
}

/// A file that does not verify is not worth going on with.
fn receive_whole(store: &SnapshotStore, path: &Path) -> io::Result<SnapshotFile> {
    let received = store.receive(path);
    if received.is_err() {
        std::fs::remove_file(path)?;
    }
    Ok(received?)
}

fn internal(error: &io::Error) -> Status {
    Status::internal(format!("write snapshot: {error}"))
}
