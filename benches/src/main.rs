//! The load driver: measures a running Granary and the limits of the machine in one run, in turn, and prints each
//! figure beside its limit.
//!
//! `granary-benches --endpoint http://127.0.0.1:7460` measures a cluster that is up; the limits need nothing. Client,
//! cluster and limits share the machine, so the ratios mean more than the figures. `docs/performance.md` keeps what
//! was measured, with the command, the machine and the commit.

mod limits;
mod load;
mod report;
mod workload;

use std::time::Duration;

use clap::Parser;
use report::Report;

/// What to measure, and where.
#[derive(Debug, Parser)]
#[command(name = "granary-benches", about = "Measures a running Granary beside the limits of its machine")]
struct Arguments {
    /// The router's endpoint.
    #[arg(long, default_value = "http://127.0.0.1:7460")]
    endpoint: String,
    /// How long each figure is measured, in seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Calls under way at a time.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 256])]
    in_flight: Vec<usize>,
    /// Keys of the workload.
    #[arg(long, default_value_t = 20_000)]
    keys: u64,
    /// Where the fdatasync loop writes: the disk that the cluster's nodes are on.
    #[arg(long, default_value = ".")]
    disk: std::path::PathBuf,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let duration = Duration::from_secs(arguments.seconds);
    let mut report = Report::default();

    let echo = limits::Echo::start().await?;
    for in_flight in &arguments.in_flight {
        report.add(echo.takes(*in_flight, 600, duration).await?);
        report.add(echo.gives(*in_flight, 600, duration).await?);
    }
    for in_flight in [1, 16, 64] {
        report.add(echo.gives(in_flight, 48_000, duration).await?);
    }
    report.add(limits::fdatasync(&arguments.disk, duration)?);
    report.add(limits::parquet_writer(duration)?);

    let workload = workload::Workload::prepare(&arguments.endpoint, arguments.keys).await?;
    for in_flight in &arguments.in_flight {
        report.add(workload.puts(*in_flight, duration).await?);
    }
    report.add(workload.batch_writes(8, 100, duration).await?);
    report.add(workload.rows_into_parquet().await?);
    for in_flight in &arguments.in_flight {
        report.add(workload.gets(*in_flight, workload::LINEARIZABLE, duration).await?);
        report.add(workload.gets(*in_flight, workload::EVENTUAL, duration).await?);
    }
    for in_flight in [1, 16, 64] {
        report.add(workload.batch_gets(in_flight, 100, duration).await?);
        report.add(workload.features(in_flight, 100, false, duration).await?);
        report.add(workload.features(in_flight, 100, true, duration).await?);
    }
    report.print(arguments.json)
}
