//! Answers reads past fuser, whose replies take one slice: header and blocks go to the kernel in one call, from where they lie.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;

use fuser::{Errno, ReplyData};
use rustix::io::Errno as SystemErrno;
use sluicefs_core::ReadData;

/// Length of `struct fuse_out_header` (linux/fuse.h): a `u32` with the length of all, an `i32` for the error, and the request's `u64`.
const HEADER_BYTES: usize = 16;

/// The open `/dev/fuse` that requests come from; replies to them are taken there alone.
#[derive(Debug)]
pub(crate) struct Device(OwnedFd);

impl Device {
    /// A descriptor of its own for the same connection.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub(crate) fn new(device: &OwnedFd) -> io::Result<Self> {
        Ok(Self(device.try_clone()?))
    }

    /// Answers the read `request`, whose `reply` is fuser's, with `data`.
    pub(crate) fn send(&self, request: u64, data: &ReadData, reply: ReplyData) {
        let slices = || data.slices().filter(|slice| !slice.is_empty());
        let (first, second) = (slices().next(), slices().nth(1));
        if second.is_none() {
            return reply.data(first.unwrap_or_default());
        }
        let header = header(request, data.len());
        let parts: Vec<IoSlice<'_>> =
            std::iter::once(&header[..]).chain(slices()).map(IoSlice::new).collect();
        match rustix::io::writev(&self.0, &parts) {
            // The reader was killed, or the mount taken away, meanwhile: nobody waits.
            Ok(_) | Err(SystemErrno::NOENT) => forget(reply),
            Err(error) => {
                tracing::warn!(%error, bytes = data.len(), "the kernel does not take a reply");
                reply.error(Errno::EIO);
            }
        }
    }
}

/// The read is answered, and so `reply` must say nothing when it goes.
///
/// What it holds is a count of fuser's own descriptor: that one stays open until the process ends, also after the mount has.
fn forget(reply: ReplyData) {
    std::mem::forget(reply);
}

fn header(request: u64, data_bytes: usize) -> [u8; HEADER_BYTES] {
    let len = u32::try_from(HEADER_BYTES + data_bytes).expect("the kernel asks for less");
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&len.to_ne_bytes());
    header[8..].copy_from_slice(&request.to_ne_bytes());
    header
}
