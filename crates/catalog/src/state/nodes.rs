//! Which nodes there are.

use granary_proto::convert::u128_from_wire;
use granary_proto::internal::RegisterNode;
use granary_types::{Error, ErrorKind, NodeId};

use crate::{CatalogState, NodeEntry};

/// The most nodes of a cluster, lost ones included: a node that loses its disk at every start must not grow the
/// catalog for ever.
pub const NODE_COUNT_MAX: usize = 4_096;
/// The highest id that a founding node may bring along. Founders have theirs before there is a meta group to ask, and
/// register when they come up; ids handed out meanwhile lie above, so that nobody is given a founder's.
pub const FOUNDING_NODE_MAX: u64 = 99;
/// A DNS name of 253 characters, a scheme and a port.
const ADDRESS_LEN_MAX: usize = 300;

impl CatalogState {
    /// A node makes itself known, or says that its address changed. Id 0 asks for a fresh id.
    pub(super) fn register_node(&mut self, command: &RegisterNode) -> Result<NodeId, Error> {
        let uuid = u128_from_wire("node uuid", &command.uuid)?;
        check_address(&command.address)?;
        let id = match (self.nodes.values().find(|node| node.uuid == uuid), command.node) {
            (Some(known), 0) => known.id,
            (Some(known), asked) if known.id.0 == asked => known.id,
            (Some(known), asked) => {
                return Err(Error::invalid(format!(
                    "node is registered under another id id={} asked={asked}",
                    known.id
                )));
            }
            (None, asked) => self.new_node(asked)?,
        };
        self.nodes.insert(id, NodeEntry { id, uuid, address: command.address.clone() });
        Ok(id)
    }

    /// The id of a node that is not registered yet: the one a founder brings along, or a fresh one.
    fn new_node(&mut self, asked: u64) -> Result<NodeId, Error> {
        if self.nodes.len() >= NODE_COUNT_MAX {
            return Err(Error::new(ErrorKind::Overloaded, format!("a cluster has at most {NODE_COUNT_MAX} nodes")));
        }
        if asked == 0 {
            let id = NodeId(self.next_node);
            self.next_node += 1;
            return Ok(id);
        }
        if self.nodes.contains_key(&NodeId(asked)) {
            return Err(Error::invalid(format!("node id belongs to a node with another uuid id={asked}")));
        }
        if asked > FOUNDING_NODE_MAX {
            return Err(Error::invalid(format!("node id was not given out to this node id={asked}")));
        }
        Ok(NodeId(asked))
    }
}

fn check_address(address: &str) -> Result<(), Error> {
    if address.is_empty() || address.len() > ADDRESS_LEN_MAX || !address.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::invalid(format!(
            "node address must be 1 to {ADDRESS_LEN_MAX} printable characters without spaces address={address:?}"
        )));
    }
    Ok(())
}
