//! A closed loop: so many callers, each with one call under way, for so long.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use granary_bench::Histogram;

use crate::report::Figure;

/// Runs `call` from `in_flight` callers for `duration`; each call stands for `units` of what is counted.
///
/// `call` is given a number that no other call is given.
///
/// # Errors
/// The first error of any call: a figure over failed calls means nothing.
pub(crate) async fn closed_loop<C, F>(
    name: &str,
    in_flight: usize,
    duration: Duration,
    units: u64,
    call: C,
) -> anyhow::Result<Figure>
where
    C: Fn(u64) -> F + Send + Sync + 'static,
    F: Future<Output = anyhow::Result<()>> + Send,
{
    let (call, next) = (Arc::new(call), Arc::new(AtomicU64::new(0)));
    let start = Instant::now();
    let callers: Vec<_> = (0..in_flight)
        .map(|_| {
            let (call, next) = (Arc::clone(&call), Arc::clone(&next));
            tokio::spawn(async move {
                let mut latencies = Histogram::default();
                while start.elapsed() < duration {
                    let begun = Instant::now();
                    call(next.fetch_add(1, Ordering::Relaxed)).await?;
                    latencies.record(begun.elapsed());
                }
                anyhow::Ok(latencies)
            })
        })
        .collect();
    let mut latencies = Histogram::default();
    for caller in callers {
        latencies.merge(&caller.await??);
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Figure::of_calls(name, in_flight, &latencies, units, seconds))
}
