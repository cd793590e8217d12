//! Whether a replica may take part: its log must hold all that the other members remember of it.
//!
//! Every request and answer between replicas says how far its sender's log was synced, and every request also what the
//! sender remembers of the receiver; a leader's heartbeats pass on what it remembers of the other followers. All
//! that is kept in memory.
//!
//! - A replica that starts takes part only once a majority of the members, itself included, has answered what it
//!   remembers, and nothing of it contradicts the log. Until then it neither votes nor acknowledges nor leads; it
//!   applies what it knows to be committed. Members that have just started themselves remember nothing, which is an
//!   answer too: a whole cluster that restarts does so at once.
//! - Whenever a request shows that the log is an older copy, or that another process runs as this replica, the
//!   replica refuses itself: it takes part no more, and its node stops it. So a leader never sees a follower's log
//!   go back, which openraft does not survive.
//! - A sender that contradicts what is remembered of it is refused, and told.
//!
//! What nobody remembers cannot be missed: after a restart of all other members, an older copy of a whole directory
//! passes here. See `docs/adr/0010-older-copies.md`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use granary_proto::internal as wire;
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::lineage::{Contradiction, Lineage, Standing};
use crate::logs::Log;

/// Of so many starts of a replica the last standing is remembered.
const STARTS_REMEMBERED: usize = 4;
/// Marks a refusal that means the sender's own log, so that it stops itself.
const REFUSAL: &str = "granary-replica-refused";

/// Whether the replica takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Not yet: the other members are being asked.
    Asking,
    Admitted,
    /// Never again, and why.
    Refused(String),
}

/// What a replica knows of itself and remembers of the others.
#[derive(Debug)]
pub(crate) struct Standings {
    replica: u64,
    lineage: Lineage,
    log: Log,
    /// By replica, then by count of the start.
    remembered: Mutex<BTreeMap<u64, BTreeMap<u64, Standing>>>,
    admission: watch::Sender<Admission>,
}

impl Standings {
    pub(crate) fn new(replica: u64, lineage: Lineage, log: Log) -> Arc<Self> {
        let admission = watch::channel(Admission::Asking).0;
        Arc::new(Self { replica, lineage, log, remembered: Mutex::default(), admission })
    }

    pub(crate) fn admission(&self) -> watch::Receiver<Admission> {
        self.admission.subscribe()
    }

    /// The members have said enough.
    pub(crate) fn admit(&self) {
        self.admission.send_if_modified(|admission| {
            let asking = *admission == Admission::Asking;
            if asking {
                *admission = Admission::Admitted;
            }
            asking
        });
    }

    /// The replica takes part no more.
    pub(crate) fn refuse(&self, why: String) {
        self.admission.send_if_modified(|admission| {
            let first = !matches!(admission, Admission::Refused(_));
            if first {
                tracing::error!(replica = self.replica, why, "replica takes part no more");
                *admission = Admission::Refused(why);
            }
            first
        });
    }

    pub(crate) fn refusal(&self) -> Option<String> {
        match &*self.admission.borrow() {
            Admission::Refused(why) => Some(why.clone()),
            _ => None,
        }
    }

    /// How far this replica is: what it has synced so far.
    pub(crate) fn own(&self) -> wire::Standing {
        let now = self.lineage.now();
        to_wire(Standing { count: now.count, nonce: now.nonce, end: self.log.durable_end() })
    }

    pub(crate) fn remembered(&self, replica: u64) -> Vec<wire::Standing> {
        let remembered = self.remembered.lock();
        remembered.get(&replica).into_iter().flat_map(BTreeMap::values).copied().map(to_wire).collect()
    }

    /// What is remembered of all others but one, to be passed on to that one.
    pub(crate) fn remembered_of_others(&self, but: u64) -> Vec<wire::RememberedStanding> {
        let remembered = self.remembered.lock();
        let others = remembered.iter().filter(|(replica, _)| **replica != but);
        let all = others.flat_map(|(replica, starts)| starts.values().map(|standing| (*replica, *standing)));
        all.map(|(replica, known)| wire::RememberedStanding { replica, standing: Some(to_wire(known)) }).collect()
    }

    /// Holds what somebody remembers of this replica against its log.
    ///
    /// # Errors
    /// When it contradicts: the replica has refused itself.
    pub(crate) fn check_own(&self, remembered: &[wire::Standing]) -> Result<(), Status> {
        for known in remembered.iter().filter_map(from_wire) {
            // Others only remember what was synced, and what is synced by now is no less.
            self.lineage.check(known, self.log.durable_end()).map_err(|why| {
                self.refuse(why.to_string());
                Status::failed_precondition(format!("replica is refused: {why}"))
            })?;
        }
        Ok(())
    }

    /// Remembers what a replica says of itself.
    ///
    /// # Errors
    /// When it contradicts what is remembered: whoever said it is not, or no longer, that replica.
    pub(crate) fn hear(&self, replica: u64, said: Option<&wire::Standing>) -> Result<(), Contradiction> {
        let Some(said) = said.and_then(from_wire) else { return Ok(()) };
        let mut remembered = self.remembered.lock();
        let starts = remembered.entry(replica).or_default();
        if starts.last_key_value().is_some_and(|(latest, _)| said.count < *latest) {
            return Err(Contradiction::Superseded);
        }
        // Positions never go back. An older copy is not remembered as the replica's newest start: the original, which
        // has everything, may come back after it.
        let earlier = starts.range(..said.count).map(|(_, known)| known.end).max();
        match earlier.and_then(|end| end.checked_sub(said.end)) {
            Some(missing) if missing > 0 => Err(Contradiction::Older { missing }),
            _ => remember(starts, said),
        }
    }

    /// Takes over what a leader remembers of the other followers.
    pub(crate) fn overhear(&self, others: &[wire::RememberedStanding]) {
        let mut remembered = self.remembered.lock();
        for other in others.iter().filter(|other| other.replica != self.replica) {
            let Some(standing) = other.standing.as_ref().and_then(from_wire) else { continue };
            // Of two that contradict each other the first is kept; the replica hears of both in time.
            let _ = remember(remembered.entry(other.replica).or_default(), standing);
        }
    }

    /// Judges a request: what its sender says of itself and remembers of this replica.
    ///
    /// # Errors
    /// `FailedPrecondition` when either does not fit, `Unavailable` while the other members are still being asked.
    pub(crate) fn check_request(&self, header: &wire::PeerHeader) -> Result<(), Status> {
        if let Some(why) = self.refusal() {
            return Err(Status::failed_precondition(format!("replica is refused: {why}")));
        }
        self.check_own(&header.remembered)?;
        self.hear(header.from_replica, header.sender.as_ref()).map_err(|why| {
            tracing::warn!(from = header.from_replica, %why, "refusing a replica");
            refusal_of_sender(&why)
        })
    }

    /// Whether requests may be answered.
    ///
    /// # Errors
    /// `Unavailable` while the other members are still being asked.
    pub(crate) fn check_admitted(&self) -> Result<(), Status> {
        match &*self.admission.borrow() {
            Admission::Admitted => Ok(()),
            Admission::Asking => Err(Status::unavailable("replica is asking what the others remember of it")),
            Admission::Refused(why) => Err(Status::failed_precondition(format!("replica is refused: {why}"))),
        }
    }

    /// If a peer refused a request because of this replica's own log, the replica refuses itself.
    pub(crate) fn heed(&self, status: &Status) {
        if status.metadata().contains_key(REFUSAL) {
            self.refuse(status.message().to_owned());
        }
    }
}

fn remember(starts: &mut BTreeMap<u64, Standing>, said: Standing) -> Result<(), Contradiction> {
    match starts.entry(said.count) {
        Entry::Occupied(known) if known.get().nonce != said.nonce => return Err(Contradiction::Twin),
        // Messages may come late: a shorter log of the same start says nothing.
        Entry::Occupied(mut known) => known.get_mut().end = known.get().end.max(said.end),
        Entry::Vacant(unknown) => drop(unknown.insert(said)),
    }
    if starts.len() > STARTS_REMEMBERED {
        starts.pop_first();
    }
    Ok(())
}

fn refusal_of_sender(why: &Contradiction) -> Status {
    let mut status = Status::new(Code::FailedPrecondition, why.to_string());
    status.metadata_mut().insert(REFUSAL, MetadataValue::from_static("sender"));
    status
}

fn to_wire(standing: Standing) -> wire::Standing {
    wire::Standing { starts: standing.count, nonce: standing.nonce, end: standing.end }
}

/// A peer that says nothing of itself sends nought.
fn from_wire(standing: &wire::Standing) -> Option<Standing> {
    let said = standing.starts > 0;
    said.then_some(Standing { count: standing.starts, nonce: standing.nonce, end: standing.end })
}
