//! fusermount3, the setuid helper that mounts for users who are not root.
//!
//! It opens `/dev/fuse`, mounts, and sends the descriptor back over a socket as SCM_RIGHTS. The socket is its standard
//! input: so it needs no descriptor that is open across exec, which other threads' children would inherit too.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::device::check_fuse_device;
use crate::error::{MountError, Result};
use crate::options::{MountOptions, UnmountMode};

/// libfuse 3's name, then libfuse 2's, which takes the same arguments.
const PROGRAMS: [&str; 2] = ["fusermount3", "fusermount"];

/// Mounts on `target` and returns the open `/dev/fuse`.
pub(crate) fn mount(target: &Path, options: &MountOptions) -> Result<OwnedFd> {
    let fail = |source| MountError::Mount { target: target.to_owned(), source };
    let (ours, theirs) = UnixStream::pair().map_err(fail)?;
    let child = spawn(|command| {
        command.stdin(OwnedFd::from(theirs.try_clone()?));
        command.env("_FUSE_COMMFD", "0").arg("-o").arg(options.fusermount_options()).arg("--").arg(target);
        Ok(())
    })
    .map_err(|error| error.unwrap_or_else(fail))?;
    // The read below must see the end of the stream when fusermount3 exits without sending.
    drop(theirs);
    let received = receive_descriptor(ours.as_fd());
    let message = finish(child).map_err(fail)?;
    match received {
        Ok(Some(device)) => {
            check_fuse_device(device.as_fd())?;
            Ok(device)
        }
        Ok(None) => Err(explain(target, &message)),
        Err(error) => Err(fail(error.into())),
    }
}

/// Unmounts `target`.
pub(crate) fn unmount(target: &Path, mode: UnmountMode) -> Result<()> {
    let fail = |source| MountError::Unmount { target: target.to_owned(), source };
    let child = spawn(|command| {
        command.arg("-u");
        if mode == UnmountMode::Lazy {
            command.arg("-z");
        }
        command.arg("--").arg(target).stdin(Stdio::piped());
        Ok(())
    })
    .map_err(|error| error.unwrap_or_else(fail))?;
    let output = child.wait_with_output().map_err(fail)?;
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.success() {
        true => Ok(()),
        false if message.contains("busy") => Err(MountError::Busy(target.to_owned())),
        false => Err(fail(io::Error::other(message))),
    }
}

/// Either an error with its own text, or what starting a process gave.
enum Spawn {
    Missing,
    Io(io::Error),
}

impl Spawn {
    fn unwrap_or_else(self, fail: impl FnOnce(io::Error) -> MountError) -> MountError {
        match self {
            Self::Missing => MountError::NoFusermount,
            Self::Io(error) => fail(error),
        }
    }
}

fn spawn(configure: impl Fn(&mut Command) -> io::Result<()>) -> std::result::Result<Child, Spawn> {
    for program in PROGRAMS {
        let mut command = Command::new(program);
        configure(&mut command).map_err(Spawn::Io)?;
        match command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result.map_err(Spawn::Io),
        }
    }
    Err(Spawn::Missing)
}

fn finish(child: Child) -> io::Result<String> {
    let output = child.wait_with_output()?;
    Ok(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// The first descriptor that the other end sends; `None` if it closes without one.
fn receive_descriptor(socket: BorrowedFd<'_>) -> rustix::io::Result<Option<OwnedFd>> {
    // The message carries one byte, since an empty one cannot carry descriptors.
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    let mut descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok(descriptors.next().and_then(|mut descriptors| descriptors.next()))
}

/// Turns what fusermount3 printed into an error with a remedy (the texts of util/fusermount.c, libfuse 3.2 to 3.17).
fn explain(target: &Path, message: &str) -> MountError {
    let has = |part: &str| message.contains(part);
    if has("user_allow_other") {
        return MountError::AllowOtherDenied;
    }
    if has("fuse device not found") {
        return MountError::NoDevice;
    }
    if has("/dev/fuse: Permission denied") || has("/dev/fuse: Operation not permitted") {
        return MountError::DeviceDenied;
    }
    if has("user has no write access to mountpoint") || has("not owned by user") {
        return MountError::TargetNotWritable(target.to_owned());
    }
    if has("mount failed: Operation not permitted") {
        return MountError::NotPermitted(target.to_owned());
    }
    let line = message.lines().next_back().unwrap_or("it printed no reason");
    let line = line.strip_prefix("fusermount3: ").unwrap_or(line);
    MountError::Fusermount { target: target.to_owned(), message: line.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::IoSlice;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::*;

    #[test]
    fn what_fusermount_prints_becomes_a_cause_and_a_remedy() {
        for (printed, expected) in [
            (
                "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf",
                "user_allow_other",
            ),
            ("fusermount3: fuse device not found, try 'modprobe fuse' first", "modprobe fuse"),
            (
                "fusermount3: failed to open /dev/fuse: Permission denied",
                "opening /dev/fuse is not permitted",
            ),
            ("fusermount3: user has no write access to mountpoint /m", "must be writable"),
            ("fusermount3: mountpoint /m not owned by user", "must be writable"),
            ("fusermount3: mount failed: Operation not permitted", "CAP_SYS_ADMIN"),
            (
                "fusermount3: too many FUSE filesystems mounted; mount_max=N can be set",
                "/m: too many FUSE filesystems",
            ),
            ("", "/m: it printed no reason"),
        ] {
            let text = explain(Path::new("/m"), printed).to_string();
            assert!(text.contains(expected) && !text.contains('\n'), "{printed:?} became {text:?}");
        }
    }

    #[test]
    fn a_descriptor_arrives_through_the_socket() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let sent = File::open("/dev/null").unwrap();
        let fds = [sent.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&theirs, &[IoSlice::new(&[0])], &mut control, SendFlags::empty()).unwrap();
        let got = receive_descriptor(ours.as_fd()).unwrap().expect("one was sent");
        let (got, sent) = (rustix::fs::fstat(&got).unwrap(), rustix::fs::fstat(&sent).unwrap());
        assert_eq!((got.st_rdev, got.st_ino), (sent.st_rdev, sent.st_ino));
    }

    #[test]
    fn a_closed_socket_brings_no_descriptor() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(receive_descriptor(ours.as_fd()).unwrap().is_none());
    }
}
