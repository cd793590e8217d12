//! The demo: the whole path on real data, through the public gRPC API only, with its results checked.
//!
//! It knows a cluster by its address alone, so it runs the same against `granary dev`, three processes or a
//! deployment. Every number it prints is compared with one computed here from the input files; a difference makes
//! the process end with an error. Run again on the same cluster it puts the same records again: the online store is
//! as before, and the history has each of them once more.

mod check;
mod columns;
mod input;
mod join;
mod load;
mod offline;
mod patience;
mod read;
mod summary;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use granary_platform::Platform;
use granary_types::Error;
pub(crate) use summary::Summary;

use crate::client::Client;
use crate::progress::Progress;

/// A query over all flights on a small busy machine takes seconds; this is for one where everything goes wrong.
const CALL_TIMEOUT: Duration = Duration::from_secs(300);

/// What the steps of the demo share.
struct Demo {
    client: Client,
    platform: Platform,
    progress: Progress,
    flights: input::Input,
    weather: input::Input,
}

/// Runs the demo on the cluster at `endpoint` with the files in `data`.
///
/// A check that fails is in the summary, and its [`Summary::verdict`] an error; the steps after it still run.
///
/// # Errors
/// What keeps a step from being done at all.
pub(crate) async fn run(endpoint: &str, data: &Path, platform: Platform) -> anyhow::Result<Summary> {
    let progress = Progress::new();
    let mut summary = Summary::default();
    let started = platform.instant();

    progress.say(&format!("reading {}", data.display()));
    let demo = Demo {
        client: Client::new(endpoint, CALL_TIMEOUT)?,
        flights: input::flights(data)?,
        weather: input::weather(data)?,
        platform,
        progress,
    };
    let before = load::create_groups(&demo).await.context("create the feature groups")?;
    let loaded = load::put_all(&demo, &mut summary).await.context("put the records")?;
    read::singles(&demo, &mut summary).await.context("read single records")?;
    read::batches(&demo, &mut summary).await.context("read records in batches")?;
    read::delete_one(&demo, &mut summary).await.context("delete a record")?;
    offline::wait(&demo, &mut summary).await.context("wait for the offline store")?;
    offline::counts(&demo, &before, &loaded, &mut summary).await.context("count rows with SQL")?;
    offline::mean_delays(&demo, &before, &mut summary).await.context("aggregate with SQL")?;
    join::weather_at_departure(&demo, &before, &mut summary).await.context("join weather to flights")?;
    summary.finish(started.elapsed());
    Ok(summary)
}

/// The directory with the input: `given`, or `tests/data/nycflights` in the current directory or one above it.
///
/// # Errors
/// `Invalid` where there is none.
pub(crate) fn find_data(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        let complete = [input::FLIGHTS_FILE, input::WEATHER_FILE].iter().all(|file| given.join(file).is_file());
        let missing = || Error::invalid(format!("no flights.parquet and weather.parquet in {}", given.display()));
        return if complete { Ok(given.to_owned()) } else { Err(missing().into()) };
    }
    let here = std::env::current_dir().context("find the current directory")?;
    let found = here.ancestors().map(|above| above.join("tests/data/nycflights")).find(|dir| dir.is_dir());
    found.ok_or_else(|| {
        Error::invalid("no tests/data/nycflights here or above: run the demo in the repository, or give --data DIR")
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_is_found_from_within_the_repository() {
        // Tests run in the package's directory, two below the root.
        assert!(find_data(None).expect("in the repository").join("flights.parquet").is_file());
        assert!(find_data(Some(Path::new("/no/such/directory"))).is_err());
    }
}
