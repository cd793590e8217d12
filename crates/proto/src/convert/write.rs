//! Writes and ids.

use bytes::Bytes;
use granary_types::{
    ClusterId, Epoch, Error, EventTime, FeatureGroupId, RecordIdentifier, ShardId, Slot, StreamId, Targets, Write,
    WriteId, WriteKind, WriteStamp,
};

use crate::internal as wire;

/// 128 bits as 16 bytes, big endian.
pub fn u128_to_wire(value: u128) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

/// 16 bytes, big endian.
///
/// # Errors
/// `Invalid`, naming `what`, for any other length.
pub fn u128_from_wire(what: &str, bytes: &[u8]) -> Result<u128, Error> {
    let bytes: [u8; 16] =
        bytes.try_into().map_err(|_| Error::invalid(format!("{what} must have 16 bytes, got {}", bytes.len())))?;
    Ok(u128::from_be_bytes(bytes))
}

/// A cluster id as bytes.
pub fn cluster_to_wire(cluster: ClusterId) -> Bytes {
    u128_to_wire(cluster.0)
}

/// A cluster id from bytes.
///
/// # Errors
/// `Invalid` when it is not 16 bytes.
pub fn cluster_from_wire(bytes: &[u8]) -> Result<ClusterId, Error> {
    u128_from_wire("cluster id", bytes).map(ClusterId)
}

/// A stream id as a message.
pub fn stream_to_wire(stream: StreamId) -> wire::StreamId {
    wire::StreamId { cluster: cluster_to_wire(stream.cluster), shard: stream.shard.0, incarnation: stream.incarnation }
}

/// A stream id from a message.
///
/// # Errors
/// `Invalid` when it is missing or its cluster id is not 16 bytes.
pub fn stream_from_wire(stream: Option<&wire::StreamId>) -> Result<StreamId, Error> {
    let stream = stream.ok_or_else(|| Error::invalid("stream id is missing"))?;
    Ok(StreamId {
        cluster: cluster_from_wire(&stream.cluster)?,
        shard: ShardId(stream.shard),
        incarnation: stream.incarnation,
    })
}

/// A write as a message. Shares the bytes of record and row.
pub fn write_to_wire(write: &Write) -> wire::Write {
    let kind = match write.kind {
        WriteKind::Put => wire::WriteKind::Put,
        WriteKind::SoftDelete => wire::WriteKind::SoftDelete,
        WriteKind::HardDelete => wire::WriteKind::HardDelete,
        WriteKind::Update { .. } => wire::WriteKind::Update,
        WriteKind::Expiry { .. } => wire::WriteKind::Expiry,
    };
    wire::Write {
        id: u128_to_wire(write.id.0),
        slot: u32::from(write.slot.0),
        epoch: write.epoch.0,
        feature_group: write.group.0,
        record: write.record.as_bytes().clone(),
        event_seconds: write.event_time.seconds(),
        event_nanos: write.event_time.subsec_nanos(),
        kind: kind.into(),
        online: write.targets.online,
        offline: write.targets.offline,
        invoked_at_us: write.invoked_at_us,
        row: write.row.clone(),
        based_on: write.kind.based_on().map_or(0, |stamp| stamp.0),
        ..wire::Write::default()
    }
}

/// A write from a message.
///
/// # Errors
/// `Invalid`, naming the field.
pub fn write_from_wire(write: wire::Write) -> Result<Write, Error> {
    let kind = match wire::WriteKind::try_from(write.kind) {
        Ok(wire::WriteKind::Put) => WriteKind::Put,
        Ok(wire::WriteKind::SoftDelete) => WriteKind::SoftDelete,
        Ok(wire::WriteKind::HardDelete) => WriteKind::HardDelete,
        Ok(kind @ (wire::WriteKind::Update | wire::WriteKind::Expiry)) if !write.online => {
            let what = if kind == wire::WriteKind::Update { "an update" } else { "an expiry" };
            return Err(Error::invalid(format!("{what} goes to the online store")));
        }
        Ok(wire::WriteKind::Update) => WriteKind::Update { based_on: WriteStamp(write.based_on) },
        Ok(wire::WriteKind::Expiry) => WriteKind::Expiry { based_on: WriteStamp(write.based_on) },
        Err(_) => return Err(Error::invalid(format!("unknown write kind {}", write.kind))),
    };
    Ok(Write {
        id: WriteId(u128_from_wire("write id", &write.id)?),
        slot: Slot(u16::try_from(write.slot).map_err(|_| Error::invalid("slot is out of range"))?),
        epoch: Epoch(write.epoch),
        group: FeatureGroupId(write.feature_group),
        record: RecordIdentifier::new(write.record)?,
        event_time: EventTime::from_parts(write.event_seconds, write.event_nanos)?,
        kind,
        targets: Targets { online: write.online, offline: write.offline },
        invoked_at_us: write.invoked_at_us,
        row: write.row,
    })
}
