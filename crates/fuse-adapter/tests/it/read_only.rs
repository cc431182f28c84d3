//! Whatever would write is refused with EROFS, by us and by the kernel.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use sluicefs_core::{Allow, FsConfig};

use crate::support::{TestMount, bucket};

type Operation = Box<dyn Fn(&TestMount) -> io::Result<()>>;

fn operations() -> Vec<(&'static str, Operation)> {
    fn open(flags: OFlags) -> Operation {
        Box::new(move |m| Ok(rustix::fs::open(m.join("file"), flags, Mode::empty()).map(drop)?))
    }
    let now = Timespec { tv_sec: 1, tv_nsec: 0 };
    let times = Timestamps { last_access: now, last_modification: now };
    vec![
        ("create", Box::new(|m: &TestMount| fs::write(m.join("new"), "x"))),
        ("open for writing", open(OFlags::WRONLY)),
        ("open for reading and writing", open(OFlags::RDWR)),
        ("open for appending", open(OFlags::WRONLY | OFlags::APPEND)),
        ("open and truncate", open(OFlags::WRONLY | OFlags::TRUNC)),
        ("open for reading and truncate", open(OFlags::RDONLY | OFlags::TRUNC)),
        ("truncate", Box::new(|m| OpenOptions::new().write(true).open(m.join("file"))?.set_len(0))),
        ("mkdir", Box::new(|m| fs::create_dir(m.join("new")))),
        ("unlink", Box::new(|m| fs::remove_file(m.join("file")))),
        ("rmdir", Box::new(|m| fs::remove_dir(m.join("dir")))),
        ("rename", Box::new(|m| fs::rename(m.join("file"), m.join("other")))),
        ("rename over", Box::new(|m| fs::rename(m.join("file"), m.join("dir/inner")))),
        ("chmod", Box::new(|m| fs::set_permissions(m.join("file"), fs::Permissions::from_mode(0o600)))),
        ("chown", Box::new(|m| chown(m.join("file"), Some(1), Some(1)))),
        (
            "utimens",
            Box::new(move |m| {
                Ok(rustix::fs::utimensat(CWD, m.join("file"), &times, rustix::fs::AtFlags::empty())?)
            }),
        ),
        ("symlink", Box::new(|m| symlink("file", m.join("new")))),
        ("link", Box::new(|m| fs::hard_link(m.join("file"), m.join("new")))),
        ("mknod", Box::new(|m| Ok(rustix::fs::mknodat(CWD, m.join("new"), FileType::Fifo, Mode::RUSR, 0)?))),
        (
            "setxattr",
            Box::new(|m| Ok(rustix::fs::setxattr(m.join("file"), "user.x", b"1", XattrFlags::empty())?)),
        ),
        ("removexattr", Box::new(|m| Ok(rustix::fs::removexattr(m.join("file"), "user.s3.etag")?))),
    ]
}

fn check(read_only: bool) {
    let store = bucket(&[("file", "content"), ("dir/inner", "x")]);
    let settings = FsConfig { allow: Allow::NOTHING, ..FsConfig::default() };
    let mount = TestMount::with(Arc::new(store), settings, |config| config.read_only = read_only);
    for (name, operation) in operations() {
        let error = operation(&mount).expect_err(name);
        assert_eq!(Errno::from_io_error(&error), Some(Errno::ROFS), "{name}: {error}");
    }
    assert_eq!(fs::read_to_string(mount.join("file")).unwrap(), "content");
    assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 2);
}

#[test]
fn we_refuse_every_change() {
    check(false);
}

#[test]
fn the_kernel_refuses_every_change_of_a_read_only_mount() {
    check(true);
}

#[test]
fn syncing_what_was_only_read_succeeds() {
    let mount = TestMount::new(Arc::new(bucket(&[("file", "x")])), FsConfig::default());
    fs::File::open(mount.join("file")).unwrap().sync_all().unwrap();
    fs::File::open(mount.path()).unwrap().sync_all().unwrap();
}

#[test]
fn access_tells_the_truth() {
    let mount = TestMount::new(Arc::new(bucket(&[("file", "x")])), FsConfig::default());
    let access = |how| rustix::fs::access(mount.join("file"), how);
    access(rustix::fs::Access::READ_OK).unwrap();
    assert_eq!(access(rustix::fs::Access::WRITE_OK), Err(Errno::ROFS));
    assert_eq!(access(rustix::fs::Access::EXEC_OK), Err(Errno::ACCESS));
}

#[test]
fn statfs_tells_of_room_without_end() {
    let mount = TestMount::new(Arc::new(bucket(&[])), FsConfig::default());
    let size = rustix::fs::statvfs(mount.path()).unwrap();
    assert_eq!((size.f_bsize, size.f_frsize, size.f_namemax), (4096, 4096, 255));
    assert!(size.f_blocks > 1 << 38 && size.f_bavail == size.f_blocks);
    assert!(size.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID));
}
