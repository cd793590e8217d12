//! Replicas compare themselves (RG-2): the leader asks each other replica what its state was at recent indexes and
//! compares that with its own at the same ones.
//!
//! Samples are taken at fixed indexes and of the state as it is, so that replicas of a busy shard have the former in
//! common and those of an idle one the latter. A difference says that one of the two is wrong, not which: it is counted
//! as a violation and told to a person, with both names. Nothing is stopped for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use granary_consensus::{Member, PeerPool};
use granary_proto::internal::{StateSamplesRequest, replica_client::ReplicaClient};
use granary_shard::Sample;
use granary_types::ReplicaId;
use granary_types::invariants::{self, Invariant};

use crate::Metrics;
use crate::replica::Replica;
use crate::services::replica::sample_from_wire;

/// How long another replica may take to answer; it is asked again next time.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// One replica's comparison with the others, done while it leads.
pub(crate) struct Comparison {
    pub(crate) replica: Arc<Replica>,
    pub(crate) peers: Arc<PeerPool>,
    pub(crate) members: Vec<Member>,
    pub(crate) interval: Duration,
    pub(crate) metrics: Arc<Metrics>,
    /// The replicas that were found different and have not been found equal since: each is told of once.
    pub(crate) different: BTreeSet<ReplicaId>,
}

/// What a comparison came to.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// There is no index in common.
    Nothing,
    /// Equal, last at this index.
    Equal { index: u64 },
    /// Different, first at this index.
    Different { index: u64, what: &'static str, mine: Sample, theirs: Sample },
}

impl Comparison {
    pub(crate) async fn run(mut self) {
        let platform = self.replica.platform().clone();
        loop {
            tokio::select! {
                () = platform.sleep(self.interval) => {}
                () = platform.shutdown_begun() => return,
            }
            if !self.replica.leads() {
                self.different.clear();
                continue;
            }
            for member in self.members.clone() {
                if member.replica != self.replica.group().spec().replica {
                    self.compare_with(&member).await;
                }
            }
        }
    }

    async fn compare_with(&mut self, member: &Member) {
        let theirs = match self.ask(member).await {
            Ok(theirs) => theirs,
            Err(error) => {
                tracing::debug!(shard = %self.replica.shard(), member.address, error, "state samples");
                return;
            }
        };
        // After the answer: whatever the other has applied by now, this one has too, or will have next time.
        let outcome = compare(&self.replica.store().samples(), &theirs);
        self.note(member, outcome);
    }

    async fn ask(&self, member: &Member) -> Result<Vec<Sample>, String> {
        let channel = self.peers.channel(&member.address).map_err(|error| error.to_string())?;
        let mut request = tonic::Request::new(StateSamplesRequest { shard: self.replica.shard().0 });
        request.set_timeout(ASK_TIMEOUT);
        let answer = ReplicaClient::new(channel).state_samples(request).await;
        let answer = answer.map_err(|status| status.to_string())?.into_inner();
        if answer.replica != member.replica.0 {
            return Err(format!("replica {} answers there", answer.replica));
        }
        answer.samples.iter().map(sample_from_wire).collect::<Option<_>>().ok_or_else(|| "no samples".to_owned())
    }

    fn note(&mut self, member: &Member, outcome: Outcome) {
        let (shard, own) = (self.replica.shard(), self.replica.group().spec().replica);
        match outcome {
            Outcome::Nothing => {}
            Outcome::Equal { index } => {
                self.different.remove(&member.replica);
                self.metrics.compared(shard, member.replica, index);
            }
            Outcome::Different { index, what, mine, theirs } => {
                if self.different.insert(member.replica) {
                    invariants::count(Invariant::EqualReplicas);
                    tracing::error!(
                        %shard, replica = %own, other = %member.replica, address = member.address, index, what,
                        ?mine, ?theirs, "RG-2 is violated: two replicas differ at the same index"
                    );
                }
            }
        }
        self.metrics.different(shard, self.different.len());
    }
}

/// Both rise by index.
fn compare(mine: &[Sample], theirs: &[Sample]) -> Outcome {
    let mut outcome = Outcome::Nothing;
    for mine in mine {
        let Some(theirs) = theirs.iter().find(|theirs| theirs.index == mine.index) else { continue };
        if let Some(what) = mine.difference(theirs) {
            return Outcome::Different { index: mine.index, what, mine: *mine, theirs: *theirs };
        }
        outcome = Outcome::Equal { index: mine.index };
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(index: u64, state_hash: u128) -> Sample {
        Sample { index, state_hash, change_log_digest: None, next_sequence: 1, last_stamp: 1, recent_writes: 1 }
    }

    #[test]
    fn only_what_both_have_is_compared_and_the_first_difference_is_told() {
        let mine = [sample(1_024, 1), sample(2_048, 2), sample(2_050, 3)];
        assert_eq!(compare(&mine, &[sample(2_049, 9)]), Outcome::Nothing);
        assert_eq!(compare(&mine, &mine[1..2]), Outcome::Equal { index: 2_048 });
        let other = [sample(2_048, 8), sample(2_050, 9)];
        let told = compare(&mine, &other);
        assert!(matches!(told, Outcome::Different { index: 2_048, what: "state hash", .. }), "{told:?}");
    }
}
