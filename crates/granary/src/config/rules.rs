//! What must hold between values that each are well-formed.

use super::Config;

/// Every rule that `config` breaks, as a sentence that starts with the key.
pub(super) fn broken(config: &Config) -> Vec<String> {
    let mut broken = Vec::new();
    let mut rule = |held: bool, mistake: String| {
        if !held {
            broken.push(mistake);
        }
    };
    let cluster = &config.cluster;
    rule(!cluster.seeds.is_empty(), "cluster.seeds: at least one node founds a cluster".to_owned());
    rule((1..=1024).contains(&cluster.shards), format!("cluster.shards: must be 1 to 1024, got {}", cluster.shards));
    rule(
        matches!(cluster.replicas, 1 | 3 | 5 | 7),
        format!("cluster.replicas: must be 1, 3, 5 or 7, got {}", cluster.replicas),
    );
    let addresses = [
        ("cluster.advertise", cluster.advertise.as_ref()),
        ("node.listen", Some(&config.node.listen)),
        ("router.listen", Some(&config.router.listen)),
        ("query.listen", Some(&config.query.listen)),
        ("metrics.listen", Some(&config.metrics.listen)),
    ];
    let seeds = cluster.seeds.iter().map(|seed| ("cluster.seeds", Some(seed)));
    for (key, address) in addresses.into_iter().chain(seeds) {
        let Some(address) = address else { continue };
        rule(is_address(address), format!("{key}: {address:?} is not host:port"));
    }
    let node = &config.node;
    let (heartbeat, min, max) = (node.raft_heartbeat, node.raft_election_min, node.raft_election_max);
    rule(!heartbeat.is_zero(), "node.raft_heartbeat: must be more than 0s".to_owned());
    rule(min >= heartbeat * 2, "node.raft_election_min: must be at least twice node.raft_heartbeat".to_owned());
    rule(max > min, "node.raft_election_max: must be more than node.raft_election_min".to_owned());
    let positive = [
        ("node.memory_table_bytes", node.memory_table_bytes.0),
        ("node.change_log_budget_bytes", node.change_log_budget_bytes.0),
        ("node.seal_bytes", node.seal_bytes.0),
        ("node.snapshot_after_entries", node.snapshot_after_entries),
        ("router.max_in_flight", u64::from(config.router.max_in_flight)),
        ("compactor.flush_bytes", config.compactor.flush_bytes.0),
        ("compactor.iceberg_snapshots_max", u64::from(config.compactor.iceberg_snapshots_max)),
        ("query.memory_limit", config.query.memory_limit.0),
        ("query.max_in_flight", u64::from(config.query.max_in_flight)),
        ("athena.queue_max", u64::from(config.athena.queue_max)),
    ];
    for (key, value) in positive {
        rule(value > 0, format!("{key}: must be more than 0"));
    }
    let times = [
        ("node.seal_interval", node.seal_interval),
        ("node.expiry_interval", node.expiry_interval),
        ("router.deadline", config.router.deadline),
        ("compactor.flush_interval", config.compactor.flush_interval),
        ("compactor.poll", config.compactor.poll),
        ("compactor.iceberg_interval", config.compactor.iceberg_interval),
    ];
    for (key, time) in times {
        rule(!time.is_zero(), format!("{key}: must be more than 0s"));
    }
    let account = &config.sagemaker.account_id;
    rule(
        account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit()),
        format!("sagemaker.account_id: {account:?} is not 12 digits"),
    );
    if let Some(location) = &config.athena.output_location {
        let bucket = location.strip_prefix("s3://").and_then(|rest| rest.split('/').next());
        let known = bucket.is_some_and(|bucket| !bucket.is_empty());
        rule(known, format!("athena.output_location: {location:?} is not s3://bucket/prefix/"));
    }
    if let Some(url) = &config.object_store.url {
        // Not repeated here: this goes to the log.
        let bare = url.split('/').nth(2).is_none_or(|host| !host.contains('@'));
        rule(bare, "object_store.url: holds credentials, which s3_access_key_id and its like are for".to_owned());
        let known =
            !bare || ["file:///", "s3://"].iter().any(|scheme| url.len() > scheme.len() && url.starts_with(scheme));
        rule(known, format!("object_store.url: {url:?} is neither file:///path nor s3://bucket/prefix"));
    }
    broken
}

/// Whether `text` is a host and a port, `[::1]:80` included.
fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn credentials_in_a_url_are_refused_and_not_repeated() {
        let mut config = Config::default();
        config.object_store.url = Some("s3://key:hidden@lake/granary".to_owned());
        let told = broken(&config);
        assert!(told.len() == 1 && told[0].contains("credentials") && !told[0].contains("hidden"), "{told:?}");
        config.object_store.url = Some("s3://lake/some@where".to_owned());
        assert_eq!(broken(&config), Vec::<String>::new());
    }

    #[test]
    fn every_broken_rule_is_named() {
        let mut config = Config::default();
        config.cluster.seeds = vec!["nowhere".to_owned()];
        config.node.raft_election_max = Duration::from_millis(1);
        config.router.max_in_flight = 0;
        config.sagemaker.account_id = "12".to_owned();
        config.object_store.url = Some("ftp://x".to_owned());
        let broken = broken(&config);
        let keys: Vec<_> = broken.iter().filter_map(|mistake| mistake.split(':').next()).collect();
        assert_eq!(
            keys,
            [
                "cluster.seeds",
                "node.raft_election_max",
                "router.max_in_flight",
                "sagemaker.account_id",
                "object_store.url"
            ]
        );
        assert!(
            is_address("[::1]:80") && is_address("node-0.granary:7461") && !is_address(":80") && !is_address("a:b")
        );
    }
}
