//! The table of keys: every key once, with its help, how it is set and how it is shown.

use toml::Value;

use super::Config;
use super::setting::Setting;

/// One key.
pub(super) struct Key {
    /// The TOML section.
    pub(super) section: &'static str,
    /// The key in it.
    pub(super) name: &'static str,
    /// What kind of value it takes.
    pub(super) kind: &'static str,
    /// What it does, for the reference.
    pub(super) help: &'static str,
    /// Sets it from the file.
    pub(super) set_toml: fn(&mut Config, &Value) -> Result<(), String>,
    /// Sets it from the environment or a flag.
    pub(super) set_text: fn(&mut Config, &str) -> Result<(), String>,
    /// What it is.
    pub(super) show: fn(&Config) -> Option<Value>,
}

impl Key {
    /// `section.key`, as in `--set` and in messages.
    pub(super) fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment variable that sets it.
    pub(super) fn variable(&self) -> String {
        format!("GRANARY__{}__{}", self.section.to_ascii_uppercase(), self.name.to_ascii_uppercase())
    }
}

/// What kind of value a field takes, without naming its type.
const fn kind_of<T: Setting>(_: fn(&Config) -> &T) -> &'static str {
    T::KIND
}

macro_rules! keys {
    ($($section:ident . $name:ident: $help:literal,)*) => {
        /// All keys, by section, in the order of the reference.
        pub(super) const KEYS: &[Key] = &[$(Key {
            section: stringify!($section),
            name: stringify!($name),
            kind: kind_of(|config| &config.$section.$name),
            help: $help,
            set_toml: |config, value| {
                config.$section.$name = Setting::from_toml(value)?;
                Ok(())
            },
            set_text: |config, text| {
                config.$section.$name = Setting::from_text(text)?;
                Ok(())
            },
            show: |config| config.$section.$name.show(),
        },)*];
    };
}

keys! {
    cluster.seeds: "host:port of the nodes that found the cluster. The same list in the same order everywhere; routers, compactors and query services find the cluster by it.",
    cluster.shards: "How many shards a new cluster gets, 1 to 1024. Read once, when the cluster is founded.",
    cluster.replicas: "How many replicas each shard has: 1, 3, 5 or 7. With fewer seeds, as many as there are seeds.",
    cluster.advertise: "host:port under which the other processes reach this node; its `node.listen` unless set.",
    node.data_dir: "Where everything of this node is: identity, Raft logs, snapshots, the engine. Under `granary dev` each node has a directory in it, and so has the object store.",
    node.listen: "host:port of the node's internal services.",
    node.engine: "The engine under the online store: docs/engines.md says what each survives and costs. A node that starts with another one than before removes the old one's directory and rebuilds its rows.",
    node.memory_table_bytes: "Bound of each replica's memory table, which absorbs writes before they are moved into the engine.",
    node.sled_cache_bytes: "sled's page cache, for the whole node.",
    node.fjall_cache_bytes: "fjall's block cache, for the whole node.",
    node.row_cache_bytes: "Bound of each replica's cache of rows.",
    node.change_log_budget_bytes: "Bound of each shard's change log; the one of the shard's leader counts. While the compactor is away: alert at 50 %, slow writers at 75 %, refuse writes that go offline at 95 %.",
    node.seal_interval: "How long an event may wait before its segment of the change log is sealed and the compactor can see it.",
    node.seal_bytes: "A segment of this size is sealed at once.",
    node.expiry_interval: "How often the leader of a shard goes through its rows to remove expired records from the online store and mark them as deleted offline. Reads judge expiry by themselves, to the second.",
    node.expiry_grace: "An expired record is removed this long after its expiry at the earliest. Must be longer than the clocks of nodes and routers differ.",
    node.snapshot_after_entries: "A replica takes a snapshot after this many Raft entries, and its Raft log is purged up to it.",
    node.raft_heartbeat: "How often a leader shows that it is alive.",
    node.raft_election_min: "A follower that hears nothing for a time between this and `raft_election_max` stands for election.",
    node.raft_election_max: "See `raft_election_min`.",
    router.listen: "host:port of the public API: gRPC, SageMaker wire protocol, health, reflection, metrics.",
    router.deadline: "The time a request has when its caller sets none. When it has passed, the outcome of a write is unknown.",
    router.max_in_flight: "Requests under way at a time, each entry of a batch of writes counted; more are refused as overloaded.",
    router.feature_groups_max: "Feature groups that may exist before a create is refused; 0 sets no limit but the catalog's size of 32 MiB. The router that takes a create applies its own.",
    compactor.flush_interval: "An event is in the offline store at the latest this long after it was sealed.",
    compactor.flush_bytes: "As many bytes of events are written at once, however young they are.",
    compactor.poll: "How often the change logs are asked for new segments.",
    compactor.foreign_files_interval: "How often each feature group's directory is listed for Parquet files that other programs wrote there, to make them part of its table; 0s means never.",
    compactor.iceberg_interval: "How long lies at least between two Iceberg documents of one table.",
    compactor.iceberg_snapshots_max: "So many snapshots of an Iceberg table can be read, and so many of its documents are kept; the size of each document grows with it.",
    query.listen: "host:port of a query service that runs as a process of its own.",
    query.memory_limit: "Memory that all queries share; when it is spent they spill to disk or fail.",
    query.spill_bytes: "Temporary files of all queries together.",
    query.max_in_flight: "Queries under way at a time; more are refused as overloaded.",
    object_store.url: "Where the offline store is: file:///absolute/path or s3://bucket/prefix. A directory in `node.data_dir` unless set.",
    object_store.s3_endpoint: "Address of an S3 that is not Amazon's, such as http://127.0.0.1:9000.",
    object_store.s3_region: "Region of the bucket; AWS_REGION unless set.",
    object_store.s3_access_key_id: "Reference to the access key, env:NAME or file:/path; the usual AWS variables unless set.",
    object_store.s3_secret_access_key: "Reference to the secret key.",
    object_store.s3_allow_http: "Whether the endpoint may be plain HTTP.",
    object_store.s3_virtual_hosted: "Whether the bucket is part of the host name.",
    athena.output_location: "Where results of queries go that name no place, such as s3://results/athena/. Unless set, each query must name one, as on AWS.",
    athena.queue_max: "Queries that wait for their turn; more are refused as too many.",
    s3.enabled: "Whether S3 calls are answered from the object store here. On for an object store of files, off for any other, unless set.",
    sagemaker.account_id: "The account in ARNs and offline paths, 12 digits.",
    sagemaker.region: "The region in the same.",
    sagemaker.default_s3_uri: "Where the history of a feature group goes whose create names no place. On an object store of files, bucket and prefix are directories.",
    sagemaker.access_keys: "Reference to the keys that requests must be signed with, env:NAME or file:/path: on each line an id and a secret. Read at the start. Any request is taken unless set.",
    log.filter: "What is logged to standard error: a level, or directives such as info,granary_node=debug.",
    log.format: "How lines look.",
    metrics.listen: "host:port of /metrics, /livez and /readyz of node, compactor and query service; the router has them on its own port.",
}
