//! What would make reading a file faster, as far as its counts tell.

use std::time::Duration;

use sluicefs_core::{FileReads, Pattern};

/// What of the mount matters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mount {
    pub(crate) memory_limit_bytes: u64,
    pub(crate) has_cache: bool,
}

/// What the kernel asks for at a time unless it was told otherwise, in bytes.
const DEFAULT_READ_AHEAD_BYTES: u64 = 128 << 10;

/// So few reads prove nothing.
const MIN_READS: u64 = 32;

/// A store nearby begins to answer within a fraction of that.
const SLOW_FIRST_BYTE: Duration = Duration::from_millis(200);

/// What to change, the most helpful first; nothing if all is well.
pub(crate) fn advice(file: &FileReads, mount: Mount) -> Vec<String> {
    let mut advice = Vec::new();
    let is_judged = file.reads >= MIN_READS;
    if is_judged && file.page_reads * 2 > file.reads {
        advice.push(
            "most reads are of single pages: the kernel has given up reading around page faults; mount with a larger --read-ahead-kb (as root), \
             or let the program read() the file instead of mapping it"
                .to_owned(),
        );
    } else if is_judged
        && file.pattern() != Pattern::Random
        && file.largest_read_bytes <= DEFAULT_READ_AHEAD_BYTES
    {
        advice.push(
            "the kernel asks for 128 KiB at most: mount as root with --read-ahead-kb 1024, or have root write that to \
             /sys/class/bdi/DEVICE/read_ahead_kb"
                .to_owned(),
        );
    }
    let is_short = file.memory_waits > 0 || (is_judged && file.refusals * 10 > file.reads);
    if is_short {
        advice.push(format!(
            "memory is short: {} reads waited for it, and {} times less was fetched ahead than was worth it; raise --memory-target above {} MiB",
            file.memory_waits,
            file.refusals,
            mount.memory_limit_bytes >> 20
        ));
    }
    let came = file.fetched_bytes + file.disk_bytes;
    if file.fetched_bytes * 4 > file.size_bytes * 5 {
        let remedy = if mount.has_cache {
            "raise --memory-target"
        } else {
            "raise --memory-target, or add --cache DIR"
        };
        advice.push(format!(
            "the store sent {:.1} times the length of the file, since blocks were gone from memory when they were read again: {remedy}",
            file.fetched_bytes as f64 / file.size_bytes.max(1) as f64
        ));
    } else if !mount.has_cache && file.fetched_bytes * 2 > file.size_bytes && came == file.fetched_bytes {
        advice.push("add --cache DIR, so that the next mount reads it from disk".to_owned());
    }
    if file.first_bytes.mean() > SLOW_FIRST_BYTE {
        advice.push(format!(
            "the store takes {} ms to begin an answer: is the bucket in another region, or does it ask for fewer requests?",
            file.first_bytes.mean().as_millis()
        ));
    }
    if file.failures > 0 {
        advice.push(format!("{} requests failed after all retries: the mount's log says why", file.failures));
    }
    advice
}

#[cfg(test)]
mod tests {
    use sluicefs_core::Taken;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn good() -> FileReads {
        FileReads {
            size_bytes: GIB,
            reads: 1000,
            read_bytes: GIB,
            largest_read_bytes: 1 << 20,
            jumps: 1,
            fetched_bytes: GIB,
            ..FileReads::default()
        }
    }

    #[track_caller]
    fn check(file: FileReads, has_cache: bool, expected: &[&str]) {
        let mount = Mount { memory_limit_bytes: 64 << 20, has_cache };
        let told = advice(&file, mount);
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.contains(expected), "{told:?} does not say {expected:?}");
        }
    }

    #[test]
    fn what_is_well_needs_no_advice() {
        check(good(), true, &[]);
        check(FileReads::default(), true, &[]);
        check(FileReads { fetched_bytes: GIB / 10, ..good() }, false, &[]);
        check(FileReads { disk_bytes: GIB, fetched_bytes: 0, ..good() }, true, &[]);
    }

    #[test]
    fn each_symptom_has_its_remedy() {
        check(good(), false, &["--cache DIR"]);
        check(FileReads { largest_read_bytes: 128 << 10, ..good() }, true, &["--read-ahead-kb 1024"]);
        let random = FileReads { largest_read_bytes: 128 << 10, jumps: 900, ..good() };
        check(random, true, &[]);
        check(FileReads { page_reads: 900, largest_read_bytes: 4096, ..good() }, true, &["single pages"]);
        check(FileReads { memory_waits: 3, ..good() }, true, &["--memory-target above 64 MiB"]);
        check(FileReads { refusals: 300, ..good() }, true, &["--memory-target"]);
        check(FileReads { fetched_bytes: 2 * GIB, ..good() }, true, &["2.0 times"]);
        check(FileReads { fetched_bytes: 2 * GIB, ..good() }, false, &["--cache DIR"]);
        let slow = Taken { count: 2, total: Duration::from_secs(1), longest: Duration::from_secs(1) };
        check(FileReads { first_bytes: slow, ..good() }, true, &["500 ms"]);
        check(FileReads { failures: 1, ..good() }, true, &["log"]);
    }
}
