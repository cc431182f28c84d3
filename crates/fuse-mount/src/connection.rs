//! The kernel's knobs of one mount: its fusectl directory and its backing device in sysfs.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::mountinfo::DeviceNo;

/// A FUSE connection in fusectl (Documentation/filesystems/fuse/fuse.rst, "Control filesystem").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    directory: PathBuf,
}

impl Connection {
    /// The connection behind the mount with this device number; `None` if fusectl is not mounted, as in many containers.
    pub fn find(device: DeviceNo) -> Option<Self> {
        let directory = PathBuf::from(format!("/sys/fs/fuse/connections/{}", device.minor));
        directory.is_dir().then_some(Self { directory })
    }

    /// Ends the connection: requests under way and to come fail with ECONNABORTED or ENOTCONN.
    ///
    /// # Errors
    /// What writing the file gives: mostly that only root and the owner may.
    pub fn abort(&self) -> io::Result<()> {
        fs::write(self.directory.join("abort"), "1")
    }

    /// How many requests wait to be read or answered.
    ///
    /// # Errors
    /// What reading the file gives: the connection may be gone.
    pub fn waiting(&self) -> io::Result<u64> {
        read_number(self.directory.join("waiting"))
    }
}

/// The backing device of a mount in sysfs, where its read-ahead is set (Documentation/ABI/testing/sysfs-class-bdi).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingDevice {
    directory: PathBuf,
}

impl BackingDevice {
    /// The backing device of the mount with this device number.
    pub fn new(device: DeviceNo) -> Self {
        Self { directory: PathBuf::from(format!("/sys/class/bdi/{device}")) }
    }

    /// The largest read-ahead of one file, in KiB.
    ///
    /// # Errors
    /// What reading the file gives: sysfs may not be mounted.
    pub fn read_ahead_kb(&self) -> io::Result<u64> {
        read_number(self.directory.join("read_ahead_kb"))
    }

    /// Sets it. Files opened earlier keep what they had.
    ///
    /// # Errors
    /// What writing the file gives: only root may, and in containers sysfs is mostly read-only.
    pub fn set_read_ahead_kb(&self, kb: u64) -> io::Result<()> {
        fs::write(self.directory.join("read_ahead_kb"), kb.to_string())
    }
}

fn read_number(path: PathBuf) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
