//! What was written when nobody was there any more to be told that it could not be sent, as through a mapping after close(2).

use std::collections::VecDeque;

use parking_lot::Mutex;
use sluicefs_s3_client::ObjectKey;

use crate::error::Error;

/// So many files are remembered by name; all are counted.
const MAX_NAMED: usize = 100;

/// A file whose last bytes are lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostFile {
    /// Where its object was to be.
    pub key: ObjectKey,
    /// What the store said.
    pub error: String,
}

/// The files of which something was lost.
#[derive(Debug, Default)]
pub(crate) struct LostFiles(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    count: u64,
    latest: VecDeque<LostFile>,
}

impl LostFiles {
    /// Logs and counts that what was written to the file `key` did not become durable.
    pub(crate) fn add(&self, key: ObjectKey, error: &Error) {
        tracing::error!(%key, %error, "what was written to a file and not made durable when it was closed is lost");
        let mut state = self.0.lock();
        state.count += 1;
        if state.latest.len() == MAX_NAMED {
            state.latest.pop_front();
        }
        state.latest.push_back(LostFile { key, error: error.to_string() });
    }

    /// How many there were since the mount began, and the latest of them.
    pub(super) fn told(&self) -> (u64, Vec<LostFile>) {
        let state = self.0.lock();
        (state.count, state.latest.iter().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn all_are_counted_and_the_latest_named() {
        let lost = LostFiles::default();
        for number in 0..=MAX_NAMED {
            let key = ObjectKey::new(number.to_string()).unwrap();
            lost.add(key, &Error::new(ErrorKind::Io, "write"));
        }
        let (count, latest) = lost.told();
        assert_eq!((count, latest.len()), (MAX_NAMED as u64 + 1, MAX_NAMED));
        assert_eq!(latest[0].key.as_str(), "1", "the oldest is forgotten");
    }
}
