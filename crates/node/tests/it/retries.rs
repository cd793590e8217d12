//! A retried write is applied once and makes one event, whoever leads and whatever was restarted in between (CL-1).

use std::collections::HashMap;

use granary_proto::internal::Segment;
use granary_proto::internal::write_outcome::Status;
use granary_shard::decode_segment;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, eventually, put};

/// How often each write id is in the events.
fn events_by_id(segments: &[Segment]) -> HashMap<u128, usize> {
    let mut events = HashMap::new();
    for event in segments.iter().flat_map(|segment| decode_segment(segment).expect("whole")) {
        let id = event.write.expect("an event of a write").id;
        *events.entry(u128::from_be_bytes(id.as_ref().try_into().expect("16 bytes"))).or_default() += 1;
    }
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_the_leader_died_between_commit_and_answer_changes_nothing() {
    let mut cluster = Cluster::start(|_| {}).await;
    let mut written: HashMap<u128, u64> = HashMap::new();
    for round in 0..3_u128 {
        let (leader, clients) = (cluster.leader().await, cluster.clients());
        let witness = (leader + 1) % 3;
        // The leader's: the witness may still be catching up with what was before.
        let before = cluster.replica(leader).store().change_log().last_sequence;
        // Many, of which some are under way when the leader dies. What it answers is lost on the way, all of it.
        let mut under_way = JoinSet::new();
        let ids = round * 1_000..round * 1_000 + 60;
        for id in ids.clone() {
            let client = cluster.client(leader);
            under_way.spawn(async move { client.write(vec![put(id, &format!("r{}", id % 9), 1)]).await.map(drop) });
        }
        eventually("another replica has applied some of them", async || {
            cluster.replica(witness).store().change_log().last_sequence > before
        })
        .await;
        cluster.kill(leader).await;
        under_way.abort_all();

        let mut recognised = 0;
        for id in ids {
            let outcome = clients.write(&[put(id, &format!("r{}", id % 9), 1)]).await[0];
            assert!(matches!(outcome.0, Status::Applied | Status::Superseded | Status::Duplicate), "{outcome:?}");
            recognised += usize::from(outcome.0 == Status::Duplicate);
            written.insert(id, outcome.1);
        }
        assert!(recognised > 0, "some were committed and not answered");
        if round == 1 {
            // Everybody starts anew, from snapshot and Raft log.
            for n in (0..3).filter(|n| *n != leader) {
                cluster.kill(n).await;
            }
        }
        cluster.restart().await;
        // Once more to whoever leads now: also ids of the rounds before.
        for (id, stamp) in &written {
            let outcome = clients.write(&[put(*id, &format!("r{}", id % 9), 1)]).await[0];
            assert_eq!(outcome, (Status::Duplicate, *stamp), "write {id}");
        }
    }
    cluster.agree().await;
    let events = events_by_id(&cluster.sealed_segments().await);
    assert_eq!(events.len(), written.len());
    assert!(events.values().all(|count| *count == 1), "{events:?}");
}
