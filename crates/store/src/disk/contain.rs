//! Containment: an engine's panics and hangs end here, as errors.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

/// Runs `run` and turns a panic into its message.
///
/// What panicked may be left broken: the caller must not use it again.
///
/// # Errors
/// The panic.
pub fn catching<T>(engine: &str, run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| format!("{engine} panicked: {}", message(&*panic)))
}

/// Runs `run` on a thread of its own, catches its panic and waits for it at most `limit`.
///
/// A thread that hangs is left behind: there is no way to end it. What it returns late is dropped.
///
/// # Errors
/// The panic, or that it took too long.
pub fn within<T: Send + 'static>(
    engine: &'static str,
    limit: Duration,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (sender, receiver) = sync_channel(1);
    let work = move || drop(sender.send(catching(engine, run)));
    thread::Builder::new()
        .name(format!("{engine}-contained"))
        .spawn(work)
        .map_err(|error| format!("no thread could be started: {error}"))?;
    match receiver.recv_timeout(limit) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Timeout) => Err(format!("{engine} did not end in time: limit_ms={}", limit.as_millis())),
        Err(RecvTimeoutError::Disconnected) => Err(format!("{engine}'s thread ended without an outcome")),
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_and_hangs_become_errors() {
        assert_eq!(catching("sled", || 1), Ok(1));
        assert_eq!(catching("sled", || panic!("tried {}", 1)), Err::<(), _>("sled panicked: tried 1".into()));
        assert_eq!(within("sled", Duration::from_secs(60), || panic!("so")), Err::<(), _>("sled panicked: so".into()));
        let (_keep, never) = sync_channel::<()>(0);
        let hung = within("sled", Duration::from_millis(1), move || never.recv().is_ok());
        assert!(hung.expect_err("hangs").contains("did not end in time"));
    }
}
