//! The engine's clock: `CLOCK_MONOTONIC`, read once a turn by each worker.
//!
//! The same clock in every process and in the XDP program (`bpf_ktime_get_ns`), so times in the state
//! segment and in the heartbeat cell can be compared by whoever reads them.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since boot, or a capture's time.
pub type Nanos = u64;

/// One millisecond.
pub const MILLISECOND: Nanos = 1_000_000;
/// One second.
pub const SECOND: Nanos = 1_000_000_000;

/// Now.
#[inline]
pub fn now() -> Nanos {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * SECOND + u64::try_from(time.tv_nsec).unwrap_or(0)
}
