//! How long a request with a body may take: as long as its bytes move, and then as long as an answer may.
//!
//! The count of bytes is ahead of the network by what the HTTP library and the kernel hold, which is some hundred kilobytes on a slow
//! line. So the wait for the answer grows with the time that the sending took.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::bucket::Progress;

/// The limits of one attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct SendLimits {
    /// How long no byte may be taken.
    pub(super) stall: Duration,
    /// How long the answer may take after the last byte, and twice the time of sending more.
    pub(super) reply: Duration,
}

/// Why an attempt ended without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stalled {
    /// The server stopped reading after so many bytes.
    Body(u64),
    /// It read all and said nothing.
    Reply,
}

impl SendLimits {
    /// When an attempt that began at `began` is given up, as far as `progress` tells now.
    fn due(self, began: Instant, len: u64, progress: &Progress) -> Instant {
        let last = progress.last();
        if progress.sent_bytes() < len { last + self.stall } else { last + self.reply + 2 * (last - began) }
    }

    /// The outcome of `attempt`, which sends `len` bytes and tells `progress`.
    pub(super) async fn watch<T>(
        self,
        attempt: impl Future<Output = T>,
        len: u64,
        progress: &Progress,
    ) -> Result<T, Stalled> {
        let began = Instant::now();
        let mut attempt = pin!(attempt);
        let mut due = self.due(began, len, progress);
        loop {
            if let Ok(done) = timeout_at(due, attempt.as_mut()).await {
                return Ok(done);
            }
            let sent = progress.sent_bytes();
            match self.due(began, len, progress) {
                later if later > due => due = later,
                _ if sent < len => return Err(Stalled::Body(sent)),
                _ => return Err(Stalled::Reply),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use tokio::time::sleep;

    use super::*;
    use crate::bucket::Payload;

    const LIMITS: SendLimits = SendLimits { stall: Duration::from_secs(10), reply: Duration::from_secs(10) };

    /// Sends bytes at these times (seconds from one to the next), and answers so much later; what comes of it, and when.
    async fn sent(len: u64, pieces: &[(u64, u64)], answer: u64) -> (Result<(), Stalled>, u64) {
        let progress = Arc::new(Progress::default());
        let body = Payload::from(Bytes::from_static(b"x")).watched_by(Arc::clone(&progress));
        let start = Instant::now();
        let attempt = async {
            for (wait, bytes) in pieces {
                sleep(Duration::from_secs(*wait)).await;
                body.note_sent(*bytes);
            }
            sleep(Duration::from_secs(answer)).await;
        };
        let result = LIMITS.watch(attempt, len, &progress).await;
        (result, start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_may_take_long_as_long_as_they_move() {
        assert_eq!(sent(30, &[(9, 10), (9, 10), (9, 10)], 1).await, (Ok(()), 28));
        assert_eq!(sent(3000, &[(9, 10); 300], 1).await, (Ok(()), 2701));
        assert_eq!(sent(30, &[(1, 10), (11, 10)], 1).await, (Err(Stalled::Body(10)), 11));
        assert_eq!(sent(30, &[(11, 30)], 1).await, (Err(Stalled::Body(0)), 10));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_waited_for_by_how_long_the_sending_took() {
        assert_eq!(sent(0, &[], 9).await, (Ok(()), 9));
        assert_eq!(sent(0, &[], 11).await, (Err(Stalled::Reply), 10));
        assert_eq!(sent(10, &[(0, 10)], 11).await, (Err(Stalled::Reply), 10));
        assert_eq!(sent(20, &[(5, 10), (5, 10)], 29).await, (Ok(()), 39));
        assert_eq!(sent(20, &[(5, 10), (5, 10)], 31).await, (Err(Stalled::Reply), 40));
    }
}
