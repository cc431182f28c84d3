//! Mounting, unmounting, and what is left afterwards.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sluicefs_core::{FileSystem, FsConfig};
use sluicefs_fuse::{Access, Method, MountConfig, MountError, SessionError, UnmountMode, mount};
use sluicefs_fuse_mount::{BackingDevice, MountOptions, MountTable, unmount};
use tempfile::TempDir;

use crate::support::{TestMount, bucket, runtime};

fn test_mount() -> TestMount {
    TestMount::new(Arc::new(bucket(&[("file", "content")])), FsConfig::default())
}

fn is_mounted(path: &Path) -> bool {
    MountTable::read().unwrap().top(path).is_some()
}

#[test]
fn a_mount_is_there_while_its_session_is() {
    let mount = test_mount();
    let path = mount.path().to_owned();
    let table = MountTable::read().unwrap();
    let entry = table.top(&path).unwrap();
    assert_eq!((entry.fs_type.as_str(), entry.source.as_str()), ("fuse.sluicefs", "memory:test"));
    assert!(mount.session.is_serving());
    drop(mount);
    assert!(!is_mounted(&path));
}

#[test]
fn fusermount_mounts_too() {
    let store = bucket(&[("file", "content")]);
    let mount =
        TestMount::with(Arc::new(store), FsConfig::default(), |config| config.method = Method::Fusermount);
    assert_eq!(fs::read_to_string(mount.join("file")).unwrap(), "content");
}

#[test]
fn read_ahead_is_raised_as_far_as_wanted() {
    for (wanted, expected) in [(Some(1024), 1024), (Some(4096), 4096), (None, 128)] {
        let mount = TestMount::with(Arc::new(bucket(&[])), FsConfig::default(), |config| {
            config.read_ahead_kb = wanted
        });
        let device = MountTable::read().unwrap().top(mount.path()).unwrap().device;
        assert_eq!(BackingDevice::new(device).read_ahead_kb().unwrap(), expected);
    }
}

#[test]
fn a_mount_in_use_is_not_unmounted() {
    let mut mount = test_mount();
    let mut file = File::open(mount.join("file")).unwrap();
    let error = mount.session.unmount().unwrap_err();
    assert!(matches!(error, SessionError::Mount(MountError::Busy(_))), "{error}");
    assert!(error.to_string().contains("is in use") && mount.session.is_serving());
    let mut content = String::new();
    file.read_to_string(&mut content).unwrap();
    assert_eq!(content, "content");
    drop(file);
    mount.session.unmount().unwrap();
    assert!(!mount.session.is_serving() && !is_mounted(mount.path()));
    mount.session.unmount().expect("unmounting twice does no harm");
}

#[test]
fn dropping_a_mount_in_use_takes_it_out_of_the_tree() {
    let mount = test_mount();
    let path = mount.path().to_owned();
    let file = File::open(mount.join("file")).unwrap();
    drop(mount);
    assert!(!is_mounted(&path));
    drop(file);
}

#[test]
fn waiting_ends_when_somebody_unmounts() {
    let mut mount = test_mount();
    let path = mount.path().to_owned();
    let waiter = runtime();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            waiter
                .block_on(async { tokio::time::timeout(Duration::from_secs(20), mount.session.wait()).await })
        });
        unmount(&path, UnmountMode::Graceful).unwrap();
        waiting.join().unwrap().expect("it did not notice").unwrap();
    });
    assert!(!mount.session.is_serving());
    mount.session.wait_blocking().expect("it ended before");
}

#[test]
fn a_second_mount_on_the_same_directory_is_refused() {
    let first = test_mount();
    let runtime = runtime();
    let _context = runtime.enter();
    let fs = FileSystem::new(Arc::new(bucket(&[])), FsConfig::default()).unwrap();
    let error =
        mount(fs, first.path(), MountConfig::new("memory:second"), runtime.handle().clone()).unwrap_err();
    assert!(matches!(error, SessionError::Mount(MountError::AlreadyMounted { .. })), "{error}");
    assert!(error.to_string().contains("already mounted (fuse.sluicefs from memory:test)"), "{error}");
    assert_eq!(fs::read_to_string(first.join("file")).unwrap(), "content");
}

#[test]
fn a_passed_descriptor_is_served() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().canonicalize().unwrap();
    let options = MountOptions { access: Access::Everyone, ..MountOptions::new("passed") };
    let mounted = sluicefs_fuse_mount::mount(&path, &options).unwrap();
    let runtime = runtime();
    let context = runtime.enter();
    let fs = FileSystem::new(Arc::new(bucket(&[("file", "content")])), FsConfig::default()).unwrap();
    drop(context);
    let target = format!("/dev/fd/{}", mounted.device.as_raw_fd());
    let mut session =
        mount(fs, Path::new(&target), MountConfig::new("passed"), runtime.handle().clone()).unwrap();
    assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "content");
    assert!(matches!(session.unmount(), Err(SessionError::MountedElsewhere)));
    drop(mounted);
    session.wait_blocking().unwrap();
    assert!(!is_mounted(&path));
    runtime.shutdown_background();
}

#[test]
fn descriptors_that_are_not_of_fuse_are_refused() {
    let runtime = runtime();
    let _context = runtime.enter();
    let file = tempfile::tempfile().unwrap();
    for target in [format!("/dev/fd/{}", file.as_raw_fd()), "/dev/fd/987654".to_owned()] {
        let fs = FileSystem::new(Arc::new(bucket(&[])), FsConfig::default()).unwrap();
        let error =
            mount(fs, Path::new(&target), MountConfig::new("x"), runtime.handle().clone()).unwrap_err();
        assert!(matches!(error, SessionError::Mount(MountError::NotAFuseDescriptor(_))), "{error}");
    }
}
