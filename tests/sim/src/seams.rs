//! Time and chance of the process, taken over on the simulation's thread.
//!
//! Libraries read the clock and draw random numbers by themselves: tokio's timers, openraft's election timeouts, hash
//! maps' keys. Both come from two functions of the C library, which this program defines itself: on the thread of the
//! simulation they answer from simulated time and from the seed, on all other threads as the system does. (The same
//! way as the `mad-turmoil` crate.)

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::rng::Rng;

thread_local! {
    static SIMULATED: Cell<bool> = const { Cell::new(false) };
    static NOW_NS: Cell<u64> = const { Cell::new(0) };
    static ENTROPY: Cell<u64> = const { Cell::new(0) };
}

/// What other threads draw: those of libraries that own threads. They run while the simulation waits for them.
static FOREIGN: AtomicU64 = AtomicU64::new(0);

/// 2026-01-01, in seconds since the Unix epoch: when every simulation begins.
pub(crate) const EPOCH_SECONDS: u64 = 1_767_225_600;

/// Makes the calling thread the simulation's.
pub(crate) fn take_over(seed: u64) {
    ENTROPY.set(seed);
    FOREIGN.store(seed | 1, Ordering::SeqCst);
    // Arrow's hash maps draw their keys once for the whole process, on whichever thread comes first: this one, now, and
    // not sometimes the simulation's, which would draw one number more.
    let _keys = ahash::RandomState::new();
    SIMULATED.set(true);
}

/// Sets simulated time, in nanoseconds since the run began.
pub(crate) fn set_now(now_ns: u64) {
    NOW_NS.set(now_ns);
}

fn fill(bytes: &mut [u8]) {
    let mut rng = if SIMULATED.get() {
        let seed = ENTROPY.get();
        ENTROPY.set(seed.wrapping_add(0x9e37_79b9_7f4a_7c15));
        Rng::new(seed)
    } else {
        Rng::new(FOREIGN.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst))
    };
    for chunk in bytes.chunks_mut(8) {
        let word = rng.next().to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

/// `getrandom(2)` of this program.
///
/// # Safety
/// As the C library's: `buffer` has room for `len` bytes.
#[expect(unsafe_code, unreachable_pub, reason = "takes the place of a C function")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    len: libc::size_t,
    _flags: libc::c_uint,
) -> libc::ssize_t {
    if FOREIGN.load(Ordering::SeqCst) == 0 {
        // Before the simulation began.
        // SAFETY: the caller's promise is handed on.
        let got = unsafe { libc::syscall(libc::SYS_getrandom, buffer, len, 0) };
        return libc::ssize_t::try_from(got).unwrap_or(-1);
    }
    // SAFETY: the caller promises that the buffer has `len` bytes.
    fill(unsafe { std::slice::from_raw_parts_mut(buffer.cast(), len) });
    libc::ssize_t::try_from(len).unwrap_or(-1)
}

/// `clock_gettime(2)` of this program.
///
/// # Safety
/// As the C library's: `time` can be written.
#[expect(unsafe_code, unreachable_pub, reason = "takes the place of a C function")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    if !SIMULATED.get() {
        // SAFETY: the caller's promise is handed on.
        let got = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
        return libc::c_int::try_from(got).unwrap_or(-1);
    }
    let now = NOW_NS.get();
    // Both clocks begin there: a monotonic clock may start anywhere.
    let seconds = EPOCH_SECONDS + now / 1_000_000_000;
    // SAFETY: the caller promises that `time` can be written.
    unsafe {
        (*time).tv_sec = libc::time_t::try_from(seconds).unwrap_or(libc::time_t::MAX);
        (*time).tv_nsec = libc::c_long::try_from(now % 1_000_000_000).unwrap_or(0);
    }
    0
}
