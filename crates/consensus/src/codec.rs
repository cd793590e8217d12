//! Forms of Raft's types outside the process: protobuf messages between replicas and in snapshot headers, and the
//! records of the Raft log. Reading can fail; nothing here panics on foreign bytes.
//!
//! A record of the Raft log is framed and checksummed (CRC-32) by the `raft-log` crate. What stands inside:
//!
//! | value | bytes, integers big endian |
//! |---|---|
//! | log id | term u64, leader u64, index u64 |
//! | vote | term u64, replica u64, committed u8 (0 or 1) |
//! | payload | kind u8 (0 blank, 1 command, 2 membership), length u32, that many bytes |
//!
//! A command is stored as it came; a membership is the message `Membership`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use bytes::Bytes;
use codeq::{Decode, Encode};
use granary_proto::{MESSAGE_LEN_MAX, internal as wire};
use openraft::EntryPayload;
use openraft::impls::leader_id_adv::LeaderId;
use prost::Message;

use crate::type_config::{Command, Entry, LogId, Membership, Payload, Peer, StoredMembership, Vote};

/// A message or record that does not mean anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(pub &'static str);

impl From<Malformed> for io::Error {
    fn from(error: Malformed) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

pub(crate) fn log_id_to_wire(id: &LogId) -> wire::RaftLogId {
    wire::RaftLogId { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
}

pub(crate) fn log_id_from_wire(id: wire::RaftLogId) -> LogId {
    LogId { leader_id: LeaderId { term: id.term, node_id: id.leader }, index: id.index }
}

pub(crate) fn vote_to_wire(vote: &Vote) -> wire::RaftVote {
    wire::RaftVote { term: vote.leader_id.term, replica: vote.leader_id.node_id, committed: vote.committed }
}

pub(crate) fn vote_from_wire(vote: Option<wire::RaftVote>) -> Result<Vote, Malformed> {
    let vote = vote.ok_or(Malformed("vote"))?;
    Ok(Vote { leader_id: LeaderId { term: vote.term, node_id: vote.replica }, committed: vote.committed })
}

pub(crate) fn membership_to_wire(membership: &Membership) -> wire::Membership {
    let configs = membership.get_joint_config().iter();
    wire::Membership {
        configs: configs.map(|voters| wire::VoterSet { replicas: voters.iter().copied().collect() }).collect(),
        members: membership
            .nodes()
            .map(|(replica, peer)| wire::Member { replica: *replica, node: peer.node, address: peer.address.clone() })
            .collect(),
    }
}

pub(crate) fn membership_from_wire(membership: wire::Membership) -> Result<Membership, Malformed> {
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.into_iter().map(|config| config.replicas.into_iter().collect()).collect();
    let members: BTreeMap<u64, Peer> = membership
        .members
        .into_iter()
        .map(|member| (member.replica, Peer { node: member.node, address: member.address }))
        .collect();
    Membership::new(configs, members).map_err(|_| Malformed("membership"))
}

pub(crate) fn stored_membership_from_wire(
    log_id: Option<wire::RaftLogId>,
    membership: Option<wire::Membership>,
) -> Result<StoredMembership, Malformed> {
    let membership = membership_from_wire(membership.unwrap_or_default())?;
    Ok(StoredMembership::new(log_id.map(log_id_from_wire), membership))
}

pub(crate) fn entry_to_wire(entry: Entry) -> wire::RaftEntry {
    use wire::raft_entry::Payload as Wire;
    let payload = match entry.payload {
        EntryPayload::Blank => Wire::Blank(true),
        EntryPayload::Normal(command) => Wire::Normal(command.0),
        EntryPayload::Membership(membership) => Wire::Membership(membership_to_wire(&membership)),
    };
    wire::RaftEntry { log_id: Some(log_id_to_wire(&entry.log_id)), payload: Some(payload) }
}

pub(crate) fn entry_from_wire(entry: wire::RaftEntry) -> Result<Entry, Malformed> {
    use wire::raft_entry::Payload as Wire;
    let payload = match entry.payload.ok_or(Malformed("entry"))? {
        Wire::Blank(_) => EntryPayload::Blank,
        Wire::Normal(command) => EntryPayload::Normal(Command(command)),
        Wire::Membership(membership) => EntryPayload::Membership(membership_from_wire(membership)?),
    };
    let log_id = log_id_from_wire(entry.log_id.ok_or(Malformed("entry"))?);
    Ok(Entry { log_id, payload })
}

/// A log id in a record of the Raft log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredLogId(pub LogId);

impl Encode for StoredLogId {
    fn encode<W: Write>(&self, mut out: W) -> io::Result<usize> {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.0.leader_id.term.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.0.leader_id.node_id.to_be_bytes());
        bytes[16..].copy_from_slice(&self.0.index.to_be_bytes());
        out.write_all(&bytes)?;
        Ok(bytes.len())
    }
}

impl Decode for StoredLogId {
    fn decode<R: Read>(mut from: R) -> io::Result<Self> {
        let leader_id = LeaderId { term: read_u64(&mut from)?, node_id: read_u64(&mut from)? };
        Ok(Self(LogId { leader_id, index: read_u64(&mut from)? }))
    }
}

/// A vote in a record of the Raft log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub struct StoredVote(pub Vote);

impl Encode for StoredVote {
    fn encode<W: Write>(&self, mut out: W) -> io::Result<usize> {
        let mut bytes = [0; 17];
        bytes[..8].copy_from_slice(&self.0.leader_id.term.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.0.leader_id.node_id.to_be_bytes());
        bytes[16] = u8::from(self.0.committed);
        out.write_all(&bytes)?;
        Ok(bytes.len())
    }
}

impl Decode for StoredVote {
    fn decode<R: Read>(mut from: R) -> io::Result<Self> {
        let leader_id = LeaderId { term: read_u64(&mut from)?, node_id: read_u64(&mut from)? };
        let committed = match read_u8(&mut from)? {
            0 => false,
            1 => true,
            _ => return Err(Malformed("vote").into()),
        };
        Ok(Self(Vote { leader_id, committed }))
    }
}

const KIND_BLANK: u8 = 0;
const KIND_COMMAND: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

/// An entry's payload in a record of the Raft log.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPayload(pub Payload);

impl StoredPayload {
    /// About how many bytes it holds.
    pub fn len(payload: &Payload) -> usize {
        match payload {
            EntryPayload::Blank => 0,
            EntryPayload::Normal(command) => command.0.len(),
            EntryPayload::Membership(membership) => membership.nodes().count() * 64,
        }
    }
}

impl Encode for StoredPayload {
    fn encode<W: Write>(&self, mut out: W) -> io::Result<usize> {
        let (kind, bytes) = match &self.0 {
            EntryPayload::Blank => (KIND_BLANK, Bytes::new()),
            EntryPayload::Normal(command) => (KIND_COMMAND, command.0.clone()),
            EntryPayload::Membership(membership) => {
                (KIND_MEMBERSHIP, membership_to_wire(membership).encode_to_vec().into())
            }
        };
        if bytes.len() > MESSAGE_LEN_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "entry is longer than the longest message"));
        }
        let len = u32::try_from(bytes.len()).expect("the longest message is shorter than 4 GiB");
        out.write_all(&[kind])?;
        out.write_all(&len.to_be_bytes())?;
        out.write_all(&bytes)?;
        Ok(1 + 4 + bytes.len())
    }
}

impl Decode for StoredPayload {
    fn decode<R: Read>(mut from: R) -> io::Result<Self> {
        let kind = read_u8(&mut from)?;
        let len = u32::from_be_bytes(read_array(&mut from)?) as usize;
        if len > MESSAGE_LEN_MAX {
            return Err(Malformed("length of an entry").into());
        }
        // A damaged length must not allocate more than there is to read.
        let mut bytes = Vec::with_capacity(len.min(1 << 20));
        from.take(len as u64).read_to_end(&mut bytes)?;
        if bytes.len() < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self(match kind {
            KIND_BLANK => EntryPayload::Blank,
            KIND_COMMAND => EntryPayload::Normal(Command(bytes.into())),
            KIND_MEMBERSHIP => {
                let membership = wire::Membership::decode(bytes.as_slice()).map_err(|_| Malformed("membership"))?;
                EntryPayload::Membership(membership_from_wire(membership)?)
            }
            _ => return Err(Malformed("kind of an entry").into()),
        }))
    }
}

fn read_array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_u64(from: &mut impl Read) -> io::Result<u64> {
    Ok(u64::from_be_bytes(read_array(from)?))
}

fn read_u8(from: &mut impl Read) -> io::Result<u8> {
    Ok(read_array::<1>(from)?[0])
}
