//! The command line as clap sees it: names, flags, help. What each command does stands in its own file.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::assignment::Assignment;
use super::bench::BenchArgs;
use super::consistency::ConsistencyArg;
use super::feature::FeatureArg;
use crate::config::units::parse_duration;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  an unexpected failure, a check of the demo that failed, or a bench that could measure nothing
  2  wrong usage, configuration or request: fix it
  3  the record or feature group does not exist
  4  unavailable, overloaded, or the outcome is unknown: retry
  5  the name is taken or the thing is in use
  6  not permitted
  7  a quota is used up
  8  what is stored is newer than the request

Try it:
  granary demo      the whole path on real data, checked, in a temporary directory
  granary dev       a cluster in one process that keeps its data in ./granary-data";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "granary",
    version,
    about = "A distributed feature store: the latest values for inference, the whole history for training",
    after_help = EXIT_CODES,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// TOML file with the configuration of the roles (see `granary config --reference`)
    #[arg(long, global = true, env = "GRANARY_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set any key of the configuration, such as `--set node.engine=memory`; may be repeated
    #[arg(long = "set", global = true, value_name = "SECTION.KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Address of a router, for the client commands
    #[arg(long, global = true, env = "GRANARY_ENDPOINT", default_value = "http://127.0.0.1:7460", value_name = "URL")]
    pub(crate) endpoint: String,
    /// How answers and errors are written
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: OutputFormat,
    /// How long a client command waits for its answer
    #[arg(long, global = true, value_parser = parse_duration, default_value = "30s", value_name = "TIME")]
    pub(crate) timeout: Duration,
}

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people
    #[default]
    #[value(alias = "table")]
    Text,
    /// For programs: one JSON document, or one a line where rows stream
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the whole path on real flight and weather data in a fresh cluster, and check the results
    Demo(DemoArgs),
    /// Run a cluster in this process and serve until Ctrl-C; data survives
    Dev(DevArgs),
    /// Run a node: hosts replicas of shards and of the meta group
    Node(NodeArgs),
    /// Run a router: the public API, stateless
    Router(RouterArgs),
    /// Run a compactor: moves the change log into the offline store
    Compactor(CompactorArgs),
    /// Run a query service: SQL and point-in-time joins over the offline store
    Query(QueryArgs),
    /// Create, describe, list and delete feature groups
    #[command(subcommand)]
    FeatureGroup(FeatureGroupCommand),
    /// Put a record; it replaces the record as a whole
    Put(PutArgs),
    /// Get the latest values of a record
    Get(GetArgs),
    /// Get many records, of one feature group or several
    BatchGet(BatchGetArgs),
    /// Delete a record
    Delete(DeleteArgs),
    /// Run a SELECT over the offline store
    Sql(SqlArgs),
    /// Join features to the rows of a query as they were at each row's cut-off
    Join(JoinArgs),
    /// Look after the tables of the offline store
    #[command(subcommand)]
    Offline(OfflineCommand),
    /// Measure a cluster under load: what callers would see, by workloads of real fleets
    Bench(Box<BenchArgs>),
    /// Show nodes, shards and replicas
    Status(StatusArgs),
    /// Show the configuration that is in effect
    Config(ConfigArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  granary demo --nodes 5 --shards 8")]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    pub(crate) size: SizeArgs,
    /// Directory with flights.parquet and weather.parquet; tests/data/nycflights above the current directory unless set
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Use a running cluster, such as http://127.0.0.1:7460, instead of starting one
    #[arg(long, value_name = "URL", conflicts_with_all = ["nodes", "shards", "data_dir"])]
    pub(crate) against: Option<String>,
    /// Where the cluster keeps its data; a temporary directory, removed at the end, unless set
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  granary dev --nodes 5 --shards 8 --data-dir /var/tmp/granary --listen 0.0.0.0:7460"
)]
pub(crate) struct DevArgs {
    #[command(flatten)]
    pub(crate) size: SizeArgs,
    /// Where the cluster keeps its data [default: ./granary-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Address of the API [default: 127.0.0.1:7460]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
}

/// How large a cluster in one process is.
#[derive(Debug, Args)]
pub(crate) struct SizeArgs {
    /// Nodes, which replicate over loopback
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=9))]
    pub(crate) nodes: u32,
    /// Shards of a new cluster [default: 3]
    #[arg(long)]
    pub(crate) shards: Option<u32>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example, the first of three nodes:\n  \
    granary node --data-dir /data/0 --listen 127.0.0.1:7461 --seeds 127.0.0.1:7461,127.0.0.1:7471,127.0.0.1:7481")]
pub(crate) struct NodeArgs {
    /// Where everything of this node is
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Address of the node's internal services
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
    /// Address under which the others reach this node; --listen unless set
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<String>,
    /// Shards of a new cluster
    #[arg(long)]
    pub(crate) shards: Option<u32>,
    #[command(flatten)]
    pub(crate) seeds: SeedArgs,
    #[command(flatten)]
    pub(crate) metrics: MetricsArgs,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  granary router --listen 0.0.0.0:7460 --seeds 127.0.0.1:7461,127.0.0.1:7471,127.0.0.1:7481"
)]
pub(crate) struct RouterArgs {
    /// Address of the public API
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
    #[command(flatten)]
    pub(crate) seeds: SeedArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  granary compactor --seeds 127.0.0.1:7461 --object-store s3://lake/granary")]
pub(crate) struct CompactorArgs {
    #[command(flatten)]
    pub(crate) seeds: SeedArgs,
    #[command(flatten)]
    pub(crate) objects: ObjectArgs,
    #[command(flatten)]
    pub(crate) metrics: MetricsArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    granary query --listen 0.0.0.0:7462 --seeds 127.0.0.1:7461 --object-store s3://lake/granary")]
pub(crate) struct QueryArgs {
    /// Address to serve at
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
    #[command(flatten)]
    pub(crate) seeds: SeedArgs,
    #[command(flatten)]
    pub(crate) objects: ObjectArgs,
    #[command(flatten)]
    pub(crate) metrics: MetricsArgs,
}

/// Where the cluster is.
#[derive(Debug, Args)]
pub(crate) struct SeedArgs {
    /// Addresses of the nodes that found the cluster, with commas; the same list in the same order everywhere
    #[arg(long, value_name = "HOST:PORT,…")]
    pub(crate) seeds: Option<String>,
}

/// Where the offline store is.
#[derive(Debug, Args)]
pub(crate) struct ObjectArgs {
    /// Where the offline store is: file:///path or s3://bucket/prefix
    #[arg(long, value_name = "URL")]
    pub(crate) object_store: Option<String>,
}

/// Metrics of a role that serves something else, or nothing, at its own port.
#[derive(Debug, Args)]
pub(crate) struct MetricsArgs {
    /// Address of /metrics, /livez and /readyz
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FeatureGroupCommand {
    /// Create a feature group
    Create(CreateArgs),
    /// Describe a feature group
    Describe {
        /// Its name
        name: String,
    },
    /// List feature groups
    List {
        /// Only those whose name contains this
        #[arg(long, value_name = "TEXT")]
        contains: Option<String>,
    },
    /// Change a feature group: more features, or another time to live
    Update(UpdateArgs),
    /// Set and remove tags
    Tag(TagArgs),
    /// Delete a feature group: its records become unreadable at once, its history stays
    Delete {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  granary feature-group update users --feature city:String --feature last_score:Fractional"
)]
pub(crate) struct UpdateArgs {
    /// Its name
    pub(crate) name: String,
    /// A feature to add and its type; repeat it for each
    #[arg(long = "feature", value_name = "NAME:TYPE", required_unless_present_any = ["ttl", "no_ttl"])]
    pub(crate) features: Vec<FeatureArg>,
    /// How long records that are put from now on live after their event time
    #[arg(long, value_name = "TIME", conflicts_with = "features")]
    pub(crate) ttl: Option<super::ttl::TtlArg>,
    /// Let records that are put from now on live for ever
    #[arg(long, conflicts_with_all = ["features", "ttl"])]
    pub(crate) no_ttl: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  granary feature-group tag users --set team=growth --remove owner")]
pub(crate) struct TagArgs {
    /// Its name
    pub(crate) name: String,
    /// A tag to set; repeat it for each
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<Assignment>,
    /// The key of a tag to remove; repeat it for each
    #[arg(long, value_name = "KEY", required_unless_present = "set")]
    pub(crate) remove: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Types: String, Integral, Fractional, and the collections List<T>, Set<T>, Vector<N> (N fractionals).
The two features that every group has may be left out of the list: they become Strings.

Example:
  granary feature-group create users --record-identifier user_id --event-time event_time \\
    --feature user_id:String --feature event_time:String --feature avg_trip_duration:Fractional --ttl 7d")]
pub(crate) struct CreateArgs {
    /// Its name
    pub(crate) name: String,
    /// The feature that identifies a record
    #[arg(long, value_name = "FEATURE")]
    pub(crate) record_identifier: String,
    /// The feature that holds a record's event time
    #[arg(long, value_name = "FEATURE")]
    pub(crate) event_time: String,
    /// A feature and its type; repeat it for each, in the order of the columns
    #[arg(long = "feature", value_name = "NAME:TYPE")]
    pub(crate) features: Vec<FeatureArg>,
    /// Keep the latest values (the default)
    #[arg(long, overrides_with = "no_online")]
    pub(crate) online: bool,
    /// Do not keep the latest values
    #[arg(long, overrides_with = "online")]
    pub(crate) no_online: bool,
    /// Keep the history (the default)
    #[arg(long, overrides_with = "no_offline")]
    pub(crate) offline: bool,
    /// Do not keep the history
    #[arg(long, overrides_with = "offline")]
    pub(crate) no_offline: bool,
    /// How much event time one directory of the history covers
    #[arg(long, value_enum, default_value_t)]
    pub(crate) granularity: GranularityArg,
    /// Where the history goes, s3://bucket/prefix; the cluster's default unless set
    #[arg(long, value_name = "URI")]
    pub(crate) s3_uri: Option<String>,
    /// Time to live of a record after its event time, such as 30s, 12h, 7d, 2w
    #[arg(long, value_name = "TIME")]
    pub(crate) ttl: Option<super::ttl::TtlArg>,
    /// For people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) description: String,
    /// A tag; may be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub(crate) tags: Vec<Assignment>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum GranularityArg {
    /// year=/month=/day=/hour=
    #[default]
    Hour,
    /// year=/month=/day=
    Day,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TargetArg {
    /// Only the online store
    Online,
    /// Only the offline store
    Offline,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Values are kept as the text that is given. A collection is given as JSON after `:=`.

Examples:
  granary put users user_id=42 avg_trip_duration=12.5 event_time=2026-01-01T00:00:00Z
  granary put users user_id=42 event_time=2026-01-01T00:00:00Z 'tags:=[\"a\",\"b\"]'")]
pub(crate) struct PutArgs {
    /// The feature group
    pub(crate) group: String,
    /// The record's values; what is left out is absent afterwards
    #[arg(required = true, value_name = "FEATURE=VALUE")]
    pub(crate) values: Vec<Assignment>,
    /// Time to live of this record after its event time
    #[arg(long, value_name = "TIME")]
    pub(crate) ttl: Option<super::ttl::TtlArg>,
    /// Write to one store only; both that the group has unless set
    #[arg(long, value_enum, value_name = "STORE")]
    pub(crate) target: Option<TargetArg>,
    /// 32 hex digits; a retry with the same id is applied once
    #[arg(long, value_name = "HEX", value_parser = super::hex::parse_write_id)]
    pub(crate) write_id: Option<[u8; 16]>,
}

#[derive(Debug, Args)]
#[command(after_help = super::consistency::HELP)]
pub(crate) struct GetArgs {
    /// The feature group
    pub(crate) group: String,
    /// The record identifier
    pub(crate) record: String,
    /// Only these features, with commas
    #[arg(long, value_delimiter = ',', value_name = "FEATURE,…")]
    pub(crate) features: Vec<String>,
    /// What the read promises: linearizable, session:TOKEN, bounded:TIME or eventual
    #[arg(long, default_value = "linearizable")]
    pub(crate) consistency: ConsistencyArg,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  granary batch-get users 1 2 3 --features avg_trip_duration
  granary batch-get users/1 users/2 drivers/77")]
pub(crate) struct BatchGetArgs {
    /// A feature group and its record identifiers, or any number of GROUP/RECORD
    #[arg(required = true, value_name = "GROUP RECORD… | GROUP/RECORD…")]
    pub(crate) keys: Vec<String>,
    /// Only these features, with commas
    #[arg(long, value_delimiter = ',', value_name = "FEATURE,…")]
    pub(crate) features: Vec<String>,
    /// What the read promises: linearizable, session:TOKEN, bounded:TIME or eventual
    #[arg(long, default_value = "linearizable")]
    pub(crate) consistency: ConsistencyArg,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Without --hard the record is hidden and its event time remembered: a later put must not be older to show again.

Example:
  granary delete users 42 --event-time 2026-01-02T00:00:00Z")]
pub(crate) struct DeleteArgs {
    /// The feature group
    pub(crate) group: String,
    /// The record identifier
    pub(crate) record: String,
    /// The deletion's event time
    #[arg(long, value_name = "TIME")]
    pub(crate) event_time: String,
    /// Forget the record: a later put with an older event time shows
    #[arg(long)]
    pub(crate) hard: bool,
    /// Delete from one store only; both that the group has unless set
    #[arg(long, value_enum, value_name = "STORE")]
    pub(crate) target: Option<TargetArg>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Tables are feature groups by name: their features, then write_time, api_invocation_time, is_deleted, and where each row
comes from (granary_…). Every accepted version is a row.

Example:
  granary sql 'SELECT origin, avg(dep_delay) FROM flights GROUP BY origin' --wait")]
pub(crate) struct SqlArgs {
    /// One SELECT
    pub(crate) sql: String,
    /// First wait until everything acknowledged so far is in the offline store
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  granary join --spine \"SELECT flight_id, origin, time_hour FROM flights WHERE carrier = 'UA'\" \\
    --cut-off time_hour --with weather:temp,visib --key weather=origin --look-back 6h")]
pub(crate) struct JoinArgs {
    /// A SELECT that makes the rows to join to
    #[arg(long, value_name = "SQL")]
    pub(crate) spine: String,
    /// The spine's column that holds the cut-off
    #[arg(long, value_name = "COLUMN")]
    pub(crate) cut_off: String,
    /// A feature group to join and which of its features (all unless named); may be repeated
    #[arg(long = "with", required = true, value_name = "GROUP[:FEATURE,…]")]
    pub(crate) with: Vec<String>,
    /// The spine's column with a group's record identifier; the column of that feature's name unless set
    #[arg(long = "key", value_name = "GROUP=COLUMN")]
    pub(crate) keys: Vec<Assignment>,
    /// Records older than this before the cut-off count as absent
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub(crate) look_back: Option<Duration>,
    /// Also leave out what was written after the cut-off
    #[arg(long)]
    pub(crate) known_then: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Addresses of nodes to ask, with commas; the endpoint unless set
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT,…")]
    pub(crate) seeds: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OfflineCommand {
    /// Write to a table again that lacks acknowledged history; what is missing stays missing
    GiveUp(GiveUpArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
A table that was deleted, cut, or put back from an older copy is not written to: `granary status` names it. Putting the
history back is better. Without --yes this only shows what is missing. A damaged table must be moved away first.

Example:
  granary offline give-up users --object-store s3://lake/granary --yes")]
pub(crate) struct GiveUpArgs {
    /// The feature group
    pub(crate) group: String,
    /// Give it up
    #[arg(long)]
    pub(crate) yes: bool,
    /// Addresses of nodes to ask, with commas; the endpoint unless set
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT,…")]
    pub(crate) seeds: Vec<String>,
    #[command(flatten)]
    pub(crate) objects: ObjectArgs,
    /// Data directory of the `granary dev` whose offline store is in it [default: ./granary-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Print the configuration in effect as TOML (the default)
    #[arg(long, conflicts_with = "reference")]
    pub(crate) print: bool,
    /// Print the reference of all keys as Markdown
    #[arg(long)]
    pub(crate) reference: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
