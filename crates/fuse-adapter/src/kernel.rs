//! What the kernel is asked for: the capabilities of INIT, and read-ahead and request sizes beyond what INIT can raise.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};

use fuser::{InitFlags, KernelConfig};
use sluicefs_fuse_mount::{BackingDevice, DeviceNo, connection_of};

/// Requests that the kernel may send ahead of a reader's need, and where it starts to hold back: enough for 256 MiB of read-ahead.
const MAX_BACKGROUND: u16 = 256;
const CONGESTION_THRESHOLD: u16 = 192;

/// The largest request of an untuned kernel: `max_pages_limit` is 256 pages of 4 KiB.
pub(crate) const DEFAULT_REQUEST_KB: u32 = 1024;

/// The largest request that fuser's buffers hold.
const MAX_REQUEST_KB: u32 = 16 * 1024;

const PAGES_LIMIT: &str = "/proc/sys/fs/fuse/max_pages_limit";

/// What we ask for where the kernel offers it.
///
/// Not AUTO_INVAL_DATA: with it every read first asks for attributes whose time is over, and a read on a dead store would wait
/// in that request, which cannot be killed. Pages of an older version are under another inode number, where nobody looks for the new one.
///
/// Not CACHE_SYMLINKS: where a link may lead depends on where it is, and the kernel would keep the target of one that moved.
const WANTED: [InitFlags; 8] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    // Always with attributes, not "when the kernel guesses so": a listing has them anyway, and each lookup saved is a request.
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_BIG_WRITES,
    // One request less for each file that is written anew, and no moment in which it is empty at the store.
    InitFlags::FUSE_ATOMIC_O_TRUNC,
];

/// What a short reply to a read does.
///
/// The kernel ends the file there if it took in no attributes since it asked. Before Linux 5.16, which is FUSE 7.35, attributes of any
/// other file count as well ("fuse: fix attr version comparison in fuse_read_update_size()"): then it may fill up with zeros instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShortReplies {
    /// It ends the file.
    EndFiles,
    /// It may end the file.
    MayEndFiles,
}

impl ShortReplies {
    fn of(major: u32, minor: u32) -> Self {
        if (major, minor) >= (7, 35) { Self::EndFiles } else { Self::MayEndFiles }
    }
}

/// What was learnt of the kernel in INIT, for those who were made before it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Learnt(Arc<OnceLock<ShortReplies>>);

impl Learnt {
    pub(crate) fn short_replies(&self) -> ShortReplies {
        self.0.get().copied().unwrap_or(ShortReplies::MayEndFiles)
    }

    fn learn(&self, config: &KernelConfig) {
        let version = config.kernel_abi();
        self.0.get_or_init(|| ShortReplies::of(version.0, version.1));
    }
}

/// Settles the connection in INIT.
pub(crate) fn negotiate(config: &mut KernelConfig, request_kb: u32, learnt: &Learnt) -> io::Result<()> {
    learnt.learn(config);
    for flag in WANTED {
        if let Err(missing) = config.add_capabilities(flag) {
            tracing::debug!(?missing, "the kernel lacks a FUSE capability");
        }
    }
    let refused = |what: &str| io::Error::other(format!("fuser refuses {what}"));
    // The largest write is also what the largest read derives from (max_pages).
    config.set_max_write(request_kb.min(MAX_REQUEST_KB) << 10).map_err(|_| refused("max_write"))?;
    config.set_max_background(MAX_BACKGROUND).map_err(|_| refused("max_background"))?;
    config.set_congestion_threshold(CONGESTION_THRESHOLD).map_err(|_| refused("congestion_threshold"))?;
    Ok(())
}

/// Asks for the right to let the kernel read local files by itself; false if it does not know how.
pub(crate) fn allow_passthrough(config: &mut KernelConfig) -> bool {
    // Backing files may lie on a file system that is stacked on no other.
    let is_known = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
    is_known && config.set_max_stack_depth(1).is_ok()
}

/// Lets requests be larger than 1 MiB, if that is wanted: the limit is the whole machine's, and read at INIT.
pub(crate) fn raise_request_limit(request_kb: u32) {
    if request_kb <= DEFAULT_REQUEST_KB {
        return;
    }
    let page_kb = u32::try_from(rustix::param::page_size() / 1024).expect("pages are small");
    let pages = request_kb.min(MAX_REQUEST_KB) / page_kb;
    match raise(pages) {
        Ok(Some(before)) => {
            tracing::info!(before, now = pages, "raised {PAGES_LIMIT} for requests of {request_kb} KiB")
        }
        Ok(None) => {}
        Err(error) => tracing::warn!("requests stay at 1 MiB: cannot write {PAGES_LIMIT}: {error}"),
    }
}

fn raise(pages: u32) -> io::Result<Option<u32>> {
    let text = fs::read_to_string(PAGES_LIMIT)?;
    let before = text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    if before >= pages {
        return Ok(None);
    }
    fs::write(PAGES_LIMIT, pages.to_string())?;
    Ok(Some(before))
}

/// Raises the read-ahead of the mount behind `fd`. INIT can only lower it: the kernel starts at 128 KiB.
pub(crate) fn raise_read_ahead(fd: BorrowedFd<'_>, device: Option<DeviceNo>, wanted_kb: u32) {
    let Some(device) = device.or_else(|| connection_of(fd)) else {
        tracing::info!(
            "read-ahead stays as it is: the kernel does not tell which mount the passed descriptor serves"
        );
        return;
    };
    let backing = BackingDevice::new(device);
    let before = match backing.read_ahead_kb() {
        Ok(before) if before >= wanted_kb.into() => return,
        Ok(before) => before,
        Err(error) => {
            tracing::info!(
                "read-ahead stays as it is: cannot read /sys/class/bdi/{device}/read_ahead_kb: {error}"
            );
            return;
        }
    };
    match backing.set_read_ahead_kb(wanted_kb.into()) {
        Ok(()) => tracing::info!("raised read-ahead from {before} to {wanted_kb} KiB"),
        Err(error) => tracing::info!(
            "read-ahead stays at {before} KiB, which slows large sequential reads: cannot write \
             /sys/class/bdi/{device}/read_ahead_kb: {error}; as root: echo {wanted_kb} > /sys/class/bdi/{device}/read_ahead_kb"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_not_trusted_with_short_replies() {
        for (version, expected) in [
            ((7, 34), ShortReplies::MayEndFiles),
            ((7, 35), ShortReplies::EndFiles),
            ((7, 45), ShortReplies::EndFiles),
        ] {
            assert_eq!(ShortReplies::of(version.0, version.1), expected, "{version:?}");
        }
        assert_eq!(Learnt::default().short_replies(), ShortReplies::MayEndFiles, "before INIT");
    }
}
