//! The wall clock, for time stamps that people see. Waiting and expiry use `tokio::time`, which tests can pause.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sluicefs_s3_client::Timestamp;

/// The time of day.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp { secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
}
