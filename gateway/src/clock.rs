//! The gateway's clocks: a monotonic one for durations, the wall clock for certificates and logs.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since the process looked first, plus one (so that 0 can mean "never").
pub fn now_ms() -> u64 {
    START.elapsed().as_millis() as u64 + 1
}

/// Seconds since 1970.
pub fn unix_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs() as i64)
}

/// Seconds since 1970 with milliseconds, as the access log writes them.
pub fn unix_millis() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| (elapsed.as_secs_f64() * 1e3).round() / 1e3)
}
