//! How much memory this process may use: the smaller of the machine's RAM and its control groups' limits.

use std::fs;
use std::path::Path;

/// The default of `--memory-target`, in bytes: an eighth of what there is, from 128 MiB to 1 GiB.
///
/// An eighth leaves a model server its memory and the page cache its; more than 1 GiB was never faster, since the window of one
/// reader ends at 192 MiB; 128 MiB still lets several readers run ahead.
pub(crate) fn default_target_bytes() -> u64 {
    let available = available_bytes(
        fs::read_to_string("/proc/meminfo").ok().as_deref(),
        fs::read_to_string("/proc/self/cgroup").ok().as_deref(),
        |path| fs::read_to_string(path).ok(),
    );
    target_for(available)
}

fn target_for(available_bytes: Option<u64>) -> u64 {
    // Where nothing tells, be modest.
    available_bytes.map_or(MIN_TARGET_BYTES, |bytes| (bytes / 8).clamp(MIN_TARGET_BYTES, MAX_TARGET_BYTES))
}

fn available_bytes(
    meminfo: Option<&str>,
    cgroup: Option<&str>,
    read: impl Fn(&Path) -> Option<String>,
) -> Option<u64> {
    let ram = meminfo.and_then(total_ram_bytes);
    let limits = cgroup.into_iter().flat_map(str::lines).flat_map(limit_files).filter_map(|file| {
        // "max" (v2) is no number and no limit.
        read(Path::new(&file))?.trim().parse::<u64>().ok()
    });
    ram.into_iter().chain(limits).min()
}

/// `MemTotal` (proc_meminfo(5)).
fn total_ram_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The files that limit the group of one line of `/proc/self/cgroup` and all groups above it (cgroups(7)).
fn limit_files(line: &str) -> Vec<String> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { return Vec::new() };
    let (root, file) = if controllers.is_empty() {
        ("/sys/fs/cgroup", "memory.max")
    } else if controllers.split(',').any(|name| name == "memory") {
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
    } else {
        return Vec::new();
    };
    // In a container the path may be the host's while only the root of it is visible: the files that exist count.
    Path::new(group)
        .ancestors()
        .map(|dir| format!("{root}{}/{file}", dir.display()).replace("//", "/"))
        .collect()
}

const MIN_TARGET_BYTES: u64 = 128 << 20;
const MAX_TARGET_BYTES: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       16777216 kB\nMemFree:         1000000 kB\n";
    const GIB: u64 = 1 << 30;

    fn check(cgroup: &str, files: &[(&str, &str)], expected_bytes: u64) {
        let read = |path: &Path| {
            files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| (*text).to_owned())
        };
        assert_eq!(available_bytes(Some(MEMINFO), Some(cgroup), read), Some(expected_bytes), "{cgroup}");
    }

    #[test]
    fn the_smallest_limit_counts() {
        check("0::/pod/app\n", &[], 16 * GIB);
        check("0::/pod/app\n", &[("/sys/fs/cgroup/pod/app/memory.max", "2147483648\n")], 2 * GIB);
        check(
            "0::/pod/app\n",
            &[
                ("/sys/fs/cgroup/pod/app/memory.max", "max\n"),
                ("/sys/fs/cgroup/pod/memory.max", "4294967296\n"),
            ],
            4 * GIB,
        );
        check("0::/\n", &[("/sys/fs/cgroup/memory.max", "1073741824\n")], GIB);
        check(
            "5:cpu,cpuacct:/x\n4:memory:/docker/1\n",
            &[
                ("/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "9223372036854771712\n"),
                ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "3221225472\n"),
            ],
            3 * GIB,
        );
    }

    #[test]
    fn target_is_an_eighth_within_bounds() {
        for (available, expected) in [
            (None, MIN_TARGET_BYTES),
            (Some(256 << 20), MIN_TARGET_BYTES),
            (Some(4 * GIB), GIB / 2),
            (Some(64 * GIB), GIB),
        ] {
            assert_eq!(target_for(available), expected, "{available:?}");
        }
    }
}
