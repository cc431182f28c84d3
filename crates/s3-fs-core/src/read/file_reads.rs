//! What was read of which file, and how it was served: for whoever asks why reading is slow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sluicefs_s3_client::ObjectKey;
use tokio::time::Instant;

use super::loader::Way;

/// The most files that are remembered, about 300 bytes each.
const MAX_FILES: usize = 256;

/// What the kernel asks for a page fault where it does not read around it, in bytes.
const PAGE_BYTES: u64 = 4096;

/// Counters of one file since it was opened after nobody had it open.
#[derive(Debug)]
pub(super) struct FileCounters {
    key: ObjectKey,
    size: u64,
    since: Instant,
    pub(super) reads: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    largest_read: AtomicU64,
    page_reads: AtomicU64,
    by_name: AtomicU64,
    jumps: AtomicU64,
    pub(super) ready: AtomicU64,
    pub(super) awaited: AtomicU64,
    pub(super) missed: AtomicU64,
    waits: Times,
    pub(super) memory_waits: AtomicU64,
    pub(super) refusals: AtomicU64,
    pub(super) gets: AtomicU64,
    pub(super) fetched_bytes: AtomicU64,
    pub(super) disk_bytes: AtomicU64,
    first_bytes: Times,
    pub(super) failures: AtomicU64,
}

/// How often something took how long.
#[derive(Debug, Default)]
struct Times {
    count: AtomicU64,
    total_micros: AtomicU64,
    longest_micros: AtomicU64,
}

/// What was read of one file through a mount, and how it was served. What the kernel's page cache gave is not among it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileReads {
    /// How long the file is, in bytes.
    pub size_bytes: u64,
    /// Since when this is counted: it was opened then, after nobody had it open.
    pub since: Duration,
    /// Reads, as the kernel made them.
    pub reads: u64,
    /// What they asked for, in bytes.
    pub read_bytes: u64,
    /// The largest of them, in bytes.
    pub largest_read_bytes: u64,
    /// Those of one page.
    pub page_reads: u64,
    /// Those of who went from tensor to tensor by name.
    pub by_name: u64,
    /// Those that went on with none before.
    pub jumps: u64,
    /// Blocks that were in memory when a reader wanted them.
    pub blocks_ready: u64,
    /// Blocks that were on their way.
    pub blocks_awaited: u64,
    /// Blocks that had to be asked for.
    pub blocks_missed: u64,
    /// Reads that had to wait for bytes, and how long.
    pub waits: Taken,
    /// Reads that had to wait for memory.
    pub memory_waits: u64,
    /// How often less was fetched ahead than was worth it: there was no memory.
    pub refusals: u64,
    /// GET requests.
    pub gets: u64,
    /// What came from the store, in bytes.
    pub fetched_bytes: u64,
    /// What came from the cache on disk, in bytes.
    pub disk_bytes: u64,
    /// How long the store took to begin an answer.
    pub first_bytes: Taken,
    /// Requests that failed, after all retries.
    pub failures: u64,
}

/// How often something took how long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// How often.
    pub count: u64,
    /// All of them together.
    pub total: Duration,
    /// The longest.
    pub longest: Duration,
}

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Not at all.
    Unread,
    /// From one place to the end, or as far as it went.
    InOrder,
    /// In several places, in each of them in order.
    Streams,
    /// Tensor after tensor, by name.
    ByName,
    /// Anywhere.
    Random,
}

impl FileReads {
    /// How the file is read.
    pub fn pattern(&self) -> Pattern {
        match self {
            Self { reads: 0, .. } => Pattern::Unread,
            Self { by_name, reads, .. } if by_name * 2 > *reads => Pattern::ByName,
            // The header or the end of a file is read first.
            Self { jumps, reads, .. } if *jumps <= 2 + reads / 50 && reads >= jumps => Pattern::InOrder,
            Self { jumps, reads, .. } if jumps * 4 <= *reads => Pattern::Streams,
            Self { .. } => Pattern::Random,
        }
    }
}

impl Taken {
    /// How long it took on average; zero for nothing.
    pub fn mean(&self) -> Duration {
        u32::try_from(self.count)
            .map_or(Duration::ZERO, |count| self.total.checked_div(count).unwrap_or_default())
    }
}

impl Times {
    fn add(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.total_micros.fetch_add(micros, Ordering::Relaxed);
        self.longest_micros.fetch_max(micros, Ordering::Relaxed);
    }

    fn taken(&self) -> Taken {
        Taken {
            count: self.count.load(Ordering::Relaxed),
            total: Duration::from_micros(self.total_micros.load(Ordering::Relaxed)),
            longest: Duration::from_micros(self.longest_micros.load(Ordering::Relaxed)),
        }
    }
}

impl FileCounters {
    /// Those of a file that is being opened.
    pub(super) fn new(key: ObjectKey, size: u64) -> Self {
        let (zero, none) = (AtomicU64::default, Times::default);
        Self {
            key,
            size,
            since: Instant::now(),
            reads: zero(),
            read_bytes: zero(),
            largest_read: zero(),
            page_reads: zero(),
            by_name: zero(),
            jumps: zero(),
            ready: zero(),
            awaited: zero(),
            missed: zero(),
            waits: none(),
            memory_waits: zero(),
            refusals: zero(),
            gets: zero(),
            fetched_bytes: zero(),
            disk_bytes: zero(),
            first_bytes: none(),
            failures: zero(),
        }
    }

    /// A read of `bytes`, made in such a way; whether it was the first.
    pub(super) fn read(&self, bytes: u64, way: Way) -> bool {
        let add = |counter: &AtomicU64, n| counter.fetch_add(n, Ordering::Relaxed);
        let before = add(&self.reads, 1);
        add(&self.read_bytes, bytes);
        self.largest_read.fetch_max(bytes, Ordering::Relaxed);
        add(&self.page_reads, u64::from(bytes <= PAGE_BYTES));
        match way {
            Way::ByName => add(&self.by_name, 1),
            Way::Jump => add(&self.jumps, 1),
            Way::GoesOn => 0,
        };
        before == 0
    }

    /// A read waited so long for its bytes.
    pub(super) fn waited(&self, took: Duration) {
        self.waits.add(took);
    }

    /// The store took so long to begin an answer.
    pub(super) fn answered(&self, took: Duration) {
        self.first_bytes.add(took);
    }

    fn snapshot(&self) -> FileReads {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FileReads {
            size_bytes: self.size,
            since: self.since.elapsed(),
            reads: get(&self.reads),
            read_bytes: get(&self.read_bytes),
            largest_read_bytes: get(&self.largest_read),
            page_reads: get(&self.page_reads),
            by_name: get(&self.by_name),
            jumps: get(&self.jumps),
            blocks_ready: get(&self.ready),
            blocks_awaited: get(&self.awaited),
            blocks_missed: get(&self.missed),
            waits: self.waits.taken(),
            memory_waits: get(&self.memory_waits),
            refusals: get(&self.refusals),
            gets: get(&self.gets),
            fetched_bytes: get(&self.fetched_bytes),
            disk_bytes: get(&self.disk_bytes),
            first_bytes: self.first_bytes.taken(),
            failures: get(&self.failures),
        }
    }
}

/// The files that were read last after nobody had them open, oldest first.
#[derive(Debug, Default)]
pub(super) struct RecentFiles(Mutex<VecDeque<Arc<FileCounters>>>);

impl RecentFiles {
    /// Remembers a file that is being read, in place of what was read of it before.
    pub(super) fn insert(&self, counters: Arc<FileCounters>) {
        let mut files = self.0.lock();
        if let Some(at) = files.iter().position(|file| file.key == counters.key) {
            files.remove(at);
        }
        if files.len() == MAX_FILES {
            files.pop_front();
        }
        files.push_back(counters);
    }

    /// What was read of the object `key`, if that was lately.
    pub(super) fn reads_of(&self, key: &str) -> Option<FileReads> {
        let files = self.0.lock();
        files.iter().find(|file| file.key.as_str() == key).map(|file| file.snapshot())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_show_in_the_counts() {
        for (reads, by_name, jumps, expected) in [
            (0, 0, 0, Pattern::Unread),
            (1, 0, 1, Pattern::InOrder),
            (1000, 0, 2, Pattern::InOrder),
            (1000, 0, 22, Pattern::InOrder),
            (1000, 900, 10, Pattern::ByName),
            (1000, 100, 100, Pattern::Streams),
            (1000, 0, 900, Pattern::Random),
            (4, 0, 4, Pattern::Random),
        ] {
            let file = FileReads { reads, by_name, jumps, ..FileReads::default() };
            assert_eq!(file.pattern(), expected, "{file:?}");
        }
    }

    #[test]
    fn the_files_read_last_are_remembered() {
        let files = RecentFiles::default();
        let key = |n: usize| ObjectKey::new(format!("k{n}")).expect("a legal key");
        let insert = |n: usize, size: u64| {
            let counters = Arc::new(FileCounters::new(key(n), size));
            assert!(counters.read(5, Way::Jump));
            assert!(!counters.read(5, Way::GoesOn));
            files.insert(counters);
        };
        (0..MAX_FILES + 10).for_each(|n| insert(n, 7));
        assert_eq!(files.reads_of("k9"), None);
        assert_eq!(files.reads_of("k10").map(|file| (file.reads, file.size_bytes)), Some((2, 7)));
        insert(10, 8);
        insert(0, 1);
        assert_eq!(
            files.reads_of("k10").map(|file| (file.reads, file.size_bytes)),
            Some((2, 8)),
            "it is the newest"
        );
        assert_eq!(files.0.lock().len(), MAX_FILES);
    }

    #[test]
    fn times_add_up() {
        let times = Times::default();
        assert_eq!(times.taken().mean(), Duration::ZERO);
        for millis in [10, 30, 20] {
            times.add(Duration::from_millis(millis));
        }
        let taken = times.taken();
        assert_eq!((taken.count, taken.mean()), (3, Duration::from_millis(20)));
        assert_eq!(taken.longest, Duration::from_millis(30));
    }
}
