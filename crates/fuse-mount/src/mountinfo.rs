//! Reads `/proc/self/mountinfo`: what is mounted where.
//!
//! The parser is a pure function of the file's bytes (proc_pid_mountinfo(5)). Paths may hold any byte; the kernel writes
//! space, tab, newline, `#` and backslash as three octal digits.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::{MountError, Result};

/// The number of the device behind a mount. For FUSE the major number is 0, and fusectl and the bdi go by the minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceNo {
    /// 0 for file systems without a block device.
    pub major: u32,
    /// Which one.
    pub minor: u32,
}

impl fmt::Display for DeviceNo {
    /// As in sysfs: `0:47`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// The device behind it.
    pub device: DeviceNo,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The options of this mount point: `rw,nosuid,nodev,noatime`.
    pub options: String,
    /// The type: `ext4`, `fuse.sluicefs`.
    pub fs_type: String,
    /// What is mounted: `/dev/vda`, `s3://models`.
    pub source: String,
    /// The options of the file system: `rw,user_id=0,group_id=0,allow_other`.
    pub super_options: String,
}

impl MountEntry {
    /// Whether FUSE serves it, by whatever program.
    pub fn is_fuse(&self) -> bool {
        self.fs_type == "fuse" || self.fs_type.starts_with("fuse.")
    }

    /// Whether it is (or was) one of our own.
    pub fn is_ours(&self) -> bool {
        self.fs_type == crate::FS_TYPE
    }
}

/// All mounts that this process sees, in the order they were made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountTable(Vec<MountEntry>);

impl MountTable {
    /// The mounts of now.
    ///
    /// # Errors
    /// [`MountError::MountInfo`] if `/proc` is not there.
    pub fn read() -> Result<Self> {
        let bytes = std::fs::read("/proc/self/mountinfo").map_err(MountError::MountInfo)?;
        Ok(Self::parse(&bytes))
    }

    /// The mounts that the text of a mountinfo file lists. Lines that make no sense are left out.
    pub fn parse(text: &[u8]) -> Self {
        Self(text.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
    }

    /// All mounts.
    pub fn iter(&self) -> impl Iterator<Item = &MountEntry> {
        self.0.iter()
    }

    /// What one sees at `path`: the mount there that was made last. None if `path` is not itself a mount point.
    pub fn top(&self, path: &Path) -> Option<&MountEntry> {
        self.0.iter().rev().find(|entry| entry.mount_point == path)
    }
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    // 36 35 98:0 /root /mnt rw,noatime shared:1 - ext4 /dev/root rw,errors=continue
    let mut fields = line.split(|byte| *byte == b' ');
    let device = parse_device(fields.nth(2)?)?;
    let mount_point = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let options = text(fields.next()?);
    // Any number of optional fields, then a lone hyphen.
    fields.find(|field| *field == b"-")?;
    let fs_type = text(fields.next()?);
    let source = text(fields.next()?);
    let super_options = text(fields.next().unwrap_or_default());
    Some(MountEntry { device, mount_point, options, fs_type, source, super_options })
}

fn parse_device(field: &[u8]) -> Option<DeviceNo> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some(DeviceNo { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// Undoes `\040` and its like; a backslash without three octal digits stays as it is.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match octal(rest) {
            Some(byte) => {
                out.push(byte);
                rest = &rest[4..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

fn octal(text: &[u8]) -> Option<u8> {
    let [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] = text else { return None };
    Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
}

#[cfg(test)]
mod tests;
