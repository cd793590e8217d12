//! `granary status`: nodes, shards and replicas, as the nodes themselves see them.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use granary_proto::internal::{Catalog, ReplicaStatus, StatusRequest, WatchCatalogRequest};
use granary_types::{Error, ErrorKind};
use serde_json::json;

use super::args::{Global, StatusArgs};
use super::hex;
use crate::output::{self, Output};
use crate::{client, failure};

/// What was found at the address of one node of the catalog.
struct NodeStatus {
    id: u64,
    address: String,
    answer: Answer,
}

enum Answer {
    /// The node's own.
    Replicas(Vec<ReplicaStatus>),
    /// Of another node, which has taken the lost one's address.
    OfAnother(u64),
    None(Error),
}

impl NodeStatus {
    fn replicas(&self) -> &[ReplicaStatus] {
        match &self.answer {
            Answer::Replicas(replicas) => replicas,
            Answer::OfAnother(_) | Answer::None(_) => &[],
        }
    }
}

pub(super) async fn run(args: &StatusArgs, global: &Global) -> anyhow::Result<()> {
    let seeds = if args.seeds.is_empty() { std::slice::from_ref(&global.endpoint) } else { &args.seeds };
    let catalog = first_catalog(seeds, global.timeout).await?;
    let nodes = join_all(catalog.nodes.iter().map(|node| node_status(node.id, &node.address, global.timeout))).await;
    let nodes: Vec<NodeStatus> = nodes.into_iter().collect();
    Output::new(global.output).answer(|| text(&catalog, &nodes), || to_json(&catalog, &nodes))
}

/// The catalog from the first seed that has it.
pub(super) async fn first_catalog(seeds: &[String], timeout: Duration) -> anyhow::Result<Catalog> {
    let mut last = Error::new(ErrorKind::Invalid, "no seeds to ask");
    for seed in seeds {
        match catalog_of(seed, timeout).await {
            Ok(catalog) => return Ok(catalog),
            Err(error) => last = error.downcast().unwrap_or_else(|error| Error::invalid(error.to_string())),
        }
    }
    Err(last.into())
}

async fn catalog_of(seed: &str, timeout: Duration) -> anyhow::Result<Catalog> {
    let mut meta = client::meta(seed, timeout)?;
    let error = |status: &tonic::Status| failure::of_status(seed, status);
    let answer = meta.watch_catalog(WatchCatalogRequest { after_version: 0 }).await;
    let mut stream = answer.map_err(|status| error(&status))?.into_inner();
    let first = stream.message().await.map_err(|status| error(&status))?;
    Ok(first.ok_or_else(|| Error::new(ErrorKind::Unavailable, format!("{seed} has no catalog yet")))?)
}

async fn node_status(id: u64, address: &str, timeout: Duration) -> NodeStatus {
    let ask = async {
        let mut meta = client::meta(address, timeout).map_err(|error| Error::invalid(error.to_string()))?;
        let answer = meta.status(StatusRequest {}).await;
        answer.map(tonic::Response::into_inner).map_err(|status| failure::of_status(address, &status))
    };
    let answer = match ask.await {
        Ok(answer) if answer.node != id => Answer::OfAnother(answer.node),
        Ok(answer) => Answer::Replicas(answer.replicas),
        Err(error) => Answer::None(error),
    };
    NodeStatus { id, address: address.to_owned(), answer }
}

fn text(catalog: &Catalog, nodes: &[NodeStatus]) -> String {
    let count = |shard: u32| catalog.slot_shards.iter().filter(|&&owner| owner == shard).count();
    let node_rows: Vec<_> = nodes
        .iter()
        .map(|node| {
            let state = match &node.answer {
                Answer::Replicas(replicas) => format!("up, {} replicas", replicas.len()),
                Answer::OfAnother(other) => format!("lost, node {other} has its address"),
                Answer::None(error) => format!("no answer: {error}"),
            };
            vec![node.id.to_string(), node.address.clone(), state]
        })
        .collect();
    let mut replicas: Vec<(u64, &ReplicaStatus)> =
        nodes.iter().flat_map(|node| node.replicas().iter().map(move |replica| (node.id, replica))).collect();
    replicas.sort_by_key(|(node, replica)| (replica.shard, *node));
    let replica_rows: Vec<_> = replicas
        .iter()
        .map(|(node, replica)| {
            let waiting = replica.change_log_last.saturating_sub(replica.change_log_trimmed);
            vec![
                if replica.shard == 0 { "meta".to_owned() } else { replica.shard.to_string() },
                if replica.shard == 0 { String::new() } else { count(replica.shard).to_string() },
                node.to_string(),
                replica.role.clone(),
                replica.term.to_string(),
                replica.applied_index.to_string(),
                replica.cells.to_string(),
                waiting.to_string(),
                replica.rebuilt_because.clone(),
            ]
        })
        .collect();
    let failing = failing_tables(nodes).into_iter().map(|table| format!("\noffline table: {table}\n"));
    let live = catalog.feature_groups.iter().filter(|group| group.status() != DELETED).count();
    format!(
        "cluster {}, {live} feature groups\n\n{}\n{}{}",
        hex::encode(&catalog.cluster),
        output::table(&["node", "address", "state"], &node_rows),
        output::table(
            &["shard", "slots", "node", "role", "term", "applied", "cells", "change log", "rebuilt because"],
            &replica_rows
        ),
        failing.collect::<String>(),
    )
}

/// What compactors told the nodes of tables that they cannot write, each once.
fn failing_tables(nodes: &[NodeStatus]) -> BTreeSet<&str> {
    let replicas = nodes.iter().flat_map(NodeStatus::replicas);
    replicas.flat_map(|replica| replica.failing_tables.iter().map(String::as_str)).collect()
}

const DELETED: granary_proto::v1::FeatureGroupStatus = granary_proto::v1::FeatureGroupStatus::Deleted;

fn to_json(catalog: &Catalog, nodes: &[NodeStatus]) -> serde_json::Value {
    let replica = |replica: &ReplicaStatus| {
        json!({
            "shard": replica.shard,
            "replica": replica.replica,
            "role": replica.role,
            "term": replica.term,
            "leader_node": replica.leader_node,
            "applied_index": replica.applied_index,
            "committed_index": replica.committed_index,
            "snapshot_index": replica.snapshot_index,
            "cells": replica.cells,
            "memory_table_bytes": replica.memory_table_bytes,
            "change_log_last": replica.change_log_last,
            "change_log_trimmed": replica.change_log_trimmed,
            "change_log_bytes": replica.change_log_bytes,
            "state_hash": replica.state_hash,
            "state_hash_index": replica.state_hash_index,
            "change_log_digest": replica.change_log_digest,
            "engine": replica.engine,
            "rebuilt_because": replica.rebuilt_because,
        })
    };
    let node = |node: &NodeStatus| match &node.answer {
        Answer::Replicas(replicas) => json!({
            "node": node.id,
            "address": node.address,
            "replicas": replicas.iter().map(replica).collect::<Vec<_>>(),
        }),
        Answer::OfAnother(other) => {
            json!({ "node": node.id, "address": node.address, "lost": true, "address_taken_by_node": other })
        }
        Answer::None(error) => json!({ "node": node.id, "address": node.address, "error": error.message }),
    };
    json!({
        "cluster": hex::encode(&catalog.cluster),
        "catalog_version": catalog.version,
        "shards": catalog.shards.iter().map(|shard| json!({
            "shard": shard.id,
            "slots": catalog.slot_shards.iter().filter(|&&owner| owner == shard.id).count(),
            "nodes": shard.replicas.iter().map(|replica| replica.node).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "nodes": nodes.iter().map(node).collect::<Vec<_>>(),
        "failing_offline_tables": failing_tables(nodes),
    })
}
