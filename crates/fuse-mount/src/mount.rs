//! Mounts: checks the target, opens `/dev/fuse`, attaches it, and guards what was mounted.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{geteuid, getgid, getuid};

use crate::device;
use crate::error::{MountError, Result};
use crate::fusermount;
use crate::mountinfo::{DeviceNo, MountTable};
use crate::options::{KernelOwner, Method, MountOptions, UnmountMode};
use crate::state::clear_dead;
use crate::target::resolve;
use crate::unmount::detach;

/// A new mount: the descriptor to serve it through, and the guard that takes it away.
#[derive(Debug)]
pub struct Mounted {
    /// The open `/dev/fuse`. The kernel's INIT waits in it.
    pub device: OwnedFd,
    /// Unmounts when dropped.
    pub point: MountPoint,
}

/// A mount that goes away with this value: dropping it unmounts lazily.
#[derive(Debug)]
pub struct MountPoint {
    path: PathBuf,
    number: Option<DeviceNo>,
    /// A second descriptor of the connection, which tells whether it still lives.
    connection: OwnedFd,
    armed: bool,
}

/// Mounts a FUSE file system on the directory `target`.
///
/// One of our own mounts there whose server has died is removed first; any other FUSE mount is refused, and other
/// mounts (an `emptyDir`) are covered. Until somebody answers the INIT that waits in the descriptor, every access to the
/// target blocks: this function makes none after mounting.
///
/// # Errors
/// [`MountError`] says what to do; nothing is left mounted.
pub fn mount(target: &Path, options: &MountOptions) -> Result<Mounted> {
    let path = resolve(target)?;
    clear_dead(&path)?;
    refuse_mounted(&path)?;
    let root_mode = directory_mode(&path)?;
    let device = match options.method {
        Method::Fusermount => fusermount::mount(&path, options)?,
        Method::Direct => mount_directly(&path, options, root_mode)?,
        Method::Auto if geteuid().is_root() => match mount_directly(&path, options, root_mode) {
            Err(MountError::NotPermitted(_)) => match fusermount::mount(&path, options) {
                Err(MountError::NoFusermount) => return Err(MountError::NotPermitted(path)),
                result => result?,
            },
            result => result?,
        },
        Method::Auto => fusermount::mount(&path, options)?,
    };
    // From here on the guard takes the mount away if something fails.
    let connection = device.try_clone().map_err(MountError::Device)?;
    let mut point = MountPoint { path, number: None, connection, armed: true };
    point.number = Some(find_device(&point.path)?);
    tracing::debug!(target_path = %point.path.display(), number = ?point.number, "mounted");
    Ok(Mounted { device, point })
}

fn refuse_mounted(path: &Path) -> Result<()> {
    match MountTable::read()?.top(path) {
        Some(entry) if entry.is_fuse() => Err(MountError::AlreadyMounted {
            target: path.to_owned(),
            fs_type: entry.fs_type.clone(),
            fs_source: entry.source.clone(),
        }),
        _ => Ok(()),
    }
}

fn directory_mode(path: &Path) -> Result<u32> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(path).map_err(|error| MountError::from_target(path, error))?;
    metadata.is_dir().then(|| metadata.mode()).ok_or_else(|| MountError::NotADirectory(path.to_owned()))
}

fn mount_directly(path: &Path, options: &MountOptions, root_mode: u32) -> Result<OwnedFd> {
    let device = device::open()?;
    let owner = KernelOwner {
        device_fd: device.as_raw_fd(),
        root_mode,
        uid: getuid().as_raw(),
        gid: getgid().as_raw(),
    };
    let fail = |source| MountError::Mount { target: path.to_owned(), source };
    let data = std::ffi::CString::new(options.kernel_data(&owner)).expect("numbers and names have no NUL");
    match rustix::mount::mount(
        options.source.as_str(),
        path,
        crate::FS_TYPE,
        options.flags(),
        data.as_c_str(),
    ) {
        Ok(()) => Ok(device),
        Err(Errno::PERM | Errno::ACCESS) => Err(MountError::NotPermitted(path.to_owned())),
        Err(error) => Err(fail(error.into())),
    }
}

/// The device number of our new mount. mountinfo tells it without asking the mount, which would block before INIT.
fn find_device(path: &Path) -> Result<DeviceNo> {
    match MountTable::read()?.top(path) {
        Some(entry) if entry.is_ours() => Ok(entry.device),
        _ => Err(MountError::NotMounted(path.to_owned())),
    }
}

impl MountPoint {
    /// The directory, absolute and without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The device number, by which fusectl and sysfs know the mount.
    pub fn device(&self) -> Option<DeviceNo> {
        self.number
    }

    /// Whether the mount is still there. Another mount at the same place is not ours.
    ///
    /// # Errors
    /// [`MountError::MountInfo`]
    pub fn is_mounted(&self) -> Result<bool> {
        // The number alone does not do: it goes to the next mount when this one is gone.
        if !self.is_connected() {
            return Ok(false);
        }
        let table = MountTable::read()?;
        let top = table.top(&self.path);
        Ok(top.is_some_and(|top| top.is_ours() && self.number.is_none_or(|number| number == top.device)))
    }

    /// Whether the kernel still serves the connection: it ends with the last user of the mount.
    fn is_connected(&self) -> bool {
        let mut polled = [PollFd::new(&self.connection, PollFlags::IN)];
        let answer = poll(&mut polled, Some(&Timespec::default()));
        answer.is_ok() && !polled[0].revents().contains(PollFlags::ERR)
    }

    /// Unmounts, unless somebody else did already. After an error it is still mounted and guarded.
    ///
    /// # Errors
    /// [`MountError::Busy`] if it is in use and `mode` is not lazy.
    pub fn unmount(&mut self, mode: UnmountMode) -> Result<()> {
        if self.armed && self.is_mounted()? {
            detach(&self.path, mode)?;
        }
        self.armed = false;
        Ok(())
    }

    /// Leaves the mount where it is: somebody else unmounts it.
    pub fn leave(mut self) {
        self.armed = false;
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        if let Err(error) = self.unmount(UnmountMode::Lazy) {
            tracing::warn!(target_path = %self.path.display(), %error, "cannot unmount");
        }
    }
}
