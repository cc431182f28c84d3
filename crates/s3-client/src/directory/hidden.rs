//! Names what a directory holds and its bucket does not, once each.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

/// So many are named; a directory of pipes shall fill neither memory nor the log.
const MAX_NAMED: usize = 1000;

/// What was named already.
pub(super) struct Hidden {
    bucket: Arc<str>,
    named: Mutex<HashSet<String>>,
}

impl Hidden {
    pub(super) fn new(bucket: &Arc<str>) -> Self {
        Self { bucket: Arc::clone(bucket), named: Mutex::default() }
    }

    /// Says that `name` in `directory` is left out, and why.
    pub(super) fn report(&self, directory: &str, name: &[u8], reason: &str) {
        let path = format!("{directory}{}", name.escape_ascii());
        let mut named = self.named.lock();
        if named.len() >= MAX_NAMED || !named.insert(path.clone()) {
            return;
        }
        tracing::warn!(bucket = %self.bucket, path, reason, "left out");
        if named.len() == MAX_NAMED {
            tracing::warn!(bucket = %self.bucket, "whatever else is left out is not named any more");
        }
    }

    #[cfg(test)]
    pub(super) fn named(&self) -> Vec<String> {
        let mut named: Vec<String> = self.named.lock().iter().cloned().collect();
        named.sort();
        named
    }
}
