//! The server's time, as far as it differs from ours.
//!
//! S3 refuses signatures that are off by 15 minutes. The SDK would correct that within its own retries, which are off; so the
//! difference is learnt from the refusal and kept for the requests after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use aws_smithy_async::time::{SharedTimeSource, SystemTimeSource, TimeSource};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

use super::classify::element;

/// Our clock plus what the server taught us. Cloning shares it.
#[derive(Debug, Clone)]
pub(super) struct ServerClock {
    local: SharedTimeSource,
    /// Seconds to add to the local clock.
    offset_secs: Arc<AtomicI64>,
}

impl Default for ServerClock {
    fn default() -> Self {
        Self { local: SharedTimeSource::new(SystemTimeSource::new()), offset_secs: Arc::default() }
    }
}

impl ServerClock {
    /// Takes the server's time from an answer that refuses ours.
    pub(super) fn correct(&self, raw: &HttpResponse) {
        let body = raw.body().bytes().and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
        if element(body, "Code") == Some("RequestTimeTooSkewed") {
            self.learn(raw.headers().get("date"), element(body, "ServerTime"));
        }
    }

    fn learn(&self, date_header: Option<&str>, server_time: Option<&str>) {
        let date = date_header.and_then(|text| DateTime::from_str(text, Format::HttpDate).ok());
        let time = date.or_else(|| DateTime::from_str(server_time?, Format::DateTime).ok());
        if let Some(time) = time {
            let offset = time.secs() - DateTime::from(self.local.now()).secs();
            self.offset_secs.store(offset, Ordering::Relaxed);
            tracing::warn!(
                offset_secs = offset,
                "the local clock is wrong; requests are signed with the server's time"
            );
        }
    }
}

impl TimeSource for ServerClock {
    fn now(&self) -> SystemTime {
        let offset = self.offset_secs.load(Ordering::Relaxed);
        let by = Duration::from_secs(offset.unsigned_abs());
        let (now, shifted) =
            (
                self.local.now(),
                |t: SystemTime| if offset < 0 { t.checked_sub(by) } else { t.checked_add(by) },
            );
        shifted(now).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use aws_smithy_async::time::StaticTimeSource;

    use super::*;

    #[test]
    fn the_servers_time_is_taken_from_header_or_body() {
        for (header, body, expected_secs) in [
            (Some("Fri, 14 Jul 2017 02:40:00 GMT"), None, 1_500_000_000),
            (None, Some("2017-07-14T02:40:00Z"), 1_500_000_000),
            (Some("nonsense"), Some("2017-07-14T02:40:00Z"), 1_500_000_000),
            (None, None, 1_000),
        ] {
            let local = SharedTimeSource::new(StaticTimeSource::from_secs(1_000));
            let clock = ServerClock { local, offset_secs: Arc::default() };
            clock.learn(header, body);
            assert_eq!(DateTime::from(clock.now()).secs(), expected_secs, "{header:?} {body:?}");
        }
    }
}
