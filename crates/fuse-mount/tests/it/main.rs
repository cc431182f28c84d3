//! Real mounts, without anybody who serves them: made, seen, found dead, taken away.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use sluicefs_fuse_mount::{
    Access, BackingDevice, Connection, Method, MountError, MountOptions, MountState, MountTable, UnmountMode,
    check_fuse_device, clear_dead, connection_of, mount, mount_state, unmount,
};
use tempfile::TempDir;

/// A directory to mount on. Whatever a failed test leaves mounted goes away with it.
struct Target(TempDir);

impl Target {
    fn new() -> Self {
        Self(TempDir::with_prefix("sluicefs mount ").unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        while MountTable::read().unwrap().top(self.0.path()).is_some() {
            unmount(self.0.path(), UnmountMode::Lazy).unwrap();
        }
    }
}

fn options(method: Method) -> MountOptions {
    MountOptions { method, access: Access::Everyone, ..MountOptions::new("s3://models, the \\ big ones") }
}

fn entry_of(path: &Path) -> Option<sluicefs_fuse_mount::MountEntry> {
    MountTable::read().unwrap().top(path).cloned()
}

#[test]
fn a_mount_is_seen_as_ours_and_goes_with_its_guard() {
    for method in [Method::Auto, Method::Direct, Method::Fusermount] {
        let target = Target::new();
        let mounted = mount(&target.path(), &options(method)).unwrap();
        check_fuse_device(mounted.device.as_fd()).unwrap();
        let entry = entry_of(&target.path()).unwrap_or_else(|| panic!("{method:?}: not in mountinfo"));
        assert_eq!(entry.fs_type, "fuse.sluicefs", "{method:?}");
        assert_eq!(entry.source, "s3://models, the \\ big ones", "{method:?}");
        for option in ["ro", "nosuid", "nodev", "noatime"] {
            assert!(
                entry.options.split(',').any(|o| o == option),
                "{method:?}: {option} not in {}",
                entry.options
            );
        }
        for option in ["default_permissions", "allow_other", "user_id=0"] {
            assert!(
                entry.super_options.split(',').any(|o| o == option),
                "{method:?}: {}",
                entry.super_options
            );
        }
        assert_eq!(mounted.point.device(), Some(entry.device));
        drop(mounted);
        assert_eq!(entry_of(&target.path()), None, "{method:?}");
    }
}

#[test]
fn the_kernel_tells_which_mount_a_descriptor_serves() {
    let target = Target::new();
    let mounted = mount(&target.path(), &options(Method::Direct)).unwrap();
    // Kernels before 6.17 do not tell.
    if let Some(device) = connection_of(mounted.device.as_fd()) {
        assert_eq!(Some(device), mounted.point.device());
    }
}

#[test]
fn the_backing_device_and_the_connection_are_found() {
    let target = Target::new();
    let mounted = mount(&target.path(), &options(Method::Direct)).unwrap();
    let device = mounted.point.device().unwrap();
    let backing = BackingDevice::new(device);
    assert_eq!(backing.read_ahead_kb().unwrap(), 128, "what the kernel gives every FUSE mount");
    backing.set_read_ahead_kb(1024).unwrap();
    assert_eq!(backing.read_ahead_kb().unwrap(), 1024);
    // Where fusectl is mounted, aborting ends the connection.
    if let Some(connection) = Connection::find(device) {
        connection.waiting().unwrap();
        connection.abort().unwrap();
        assert!(matches!(mount_state(&target.path()).unwrap(), MountState::Dead { .. }));
    }
}

#[test]
fn targets_that_cannot_be_mounted_on_are_refused() {
    let target = Target::new();
    let missing = target.path().join("missing");
    assert!(matches!(mount(&missing, &options(Method::Auto)), Err(MountError::TargetMissing(_))));
    let file = target.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(matches!(mount(&file, &options(Method::Auto)), Err(MountError::NotADirectory(_))));
    assert!(matches!(mount(&file.join("x"), &options(Method::Auto)), Err(MountError::NotADirectory(_))));
    assert!(matches!(unmount(&target.path(), UnmountMode::Graceful), Err(MountError::NotMounted(_))));
    assert!(matches!(unmount(Path::new("/proc"), UnmountMode::Graceful), Err(MountError::NotMounted(_))));
}

#[test]
fn a_dead_mount_of_ours_is_detected_and_replaced() {
    let target = Target::new();
    let mounted = mount(&target.path(), &options(Method::Direct)).unwrap();
    mounted.point.leave();
    drop(mounted.device);
    assert!(
        matches!(mount_state(&target.path()).unwrap(), MountState::Dead { fs_type, .. } if fs_type == "fuse.sluicefs")
    );

    let again = mount(&target.path(), &options(Method::Direct)).unwrap();
    let here = target.path();
    assert_eq!(MountTable::read().unwrap().iter().filter(|entry| entry.mount_point == here).count(), 1);
    drop(again);
    assert_eq!(mount_state(&target.path()).unwrap(), MountState::NotMounted);
}

#[test]
fn a_dead_mount_is_cleared_once() {
    let target = Target::new();
    let mounted = mount(&target.path(), &options(Method::Direct)).unwrap();
    mounted.point.leave();
    drop(mounted.device);
    assert!(clear_dead(&target.path()).unwrap());
    assert!(!clear_dead(&target.path()).unwrap());
    assert_eq!(entry_of(&target.path()), None);
}

#[test]
fn a_dead_mount_of_another_program_is_left_alone() {
    let target = Target::new();
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
    let data = format!("fd={},rootmode=40755,user_id=0,group_id=0", std::os::fd::AsRawFd::as_raw_fd(&device));
    let data = std::ffi::CString::new(data).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("other", target.path(), "fuse.other", flags, data.as_c_str()).unwrap();
    drop(device);
    assert!(
        matches!(mount_state(&target.path()).unwrap(), MountState::Dead { fs_type, .. } if fs_type == "fuse.other")
    );
    assert!(!clear_dead(&target.path()).unwrap());
    let error = mount(&target.path(), &options(Method::Direct)).unwrap_err();
    assert!(error.to_string().contains("already mounted (fuse.other from other)"), "{error}");
}

#[test]
fn a_guard_does_not_take_the_mount_that_came_after_it() {
    let target = Target::new();
    let first = mount(&target.path(), &options(Method::Direct)).unwrap();
    unmount(&target.path(), UnmountMode::Lazy).unwrap();
    let second = mount(&target.path(), &options(Method::Direct)).unwrap();
    drop(first);
    assert!(second.point.is_mounted().unwrap());
}

const NOBODY: &str = "--reuid=65534 --regid=65534 --clear-groups";

#[test]
fn an_ordinary_user_mounts_and_unmounts_through_fusermount() {
    elsewhere(
        "mknod device c 10 229 && chmod 666 device && mount --bind device /dev/fuse",
        NOBODY,
        "the_ordinary_users_part",
    );
}

#[test]
fn an_ordinary_user_who_may_not_open_the_device_is_told() {
    let prepare = "mknod device c 10 229 && chmod 600 device && mount --bind device /dev/fuse";
    elsewhere(prepare, NOBODY, "the_part_of_a_user_without_the_device");
}

#[test]
fn root_without_the_capability_is_told() {
    elsewhere("true", "--bounding-set=-sys_admin --inh-caps=-sys_admin", "the_part_of_root_in_a_container");
}

#[test]
fn a_container_without_the_device_is_told() {
    elsewhere("mount -t tmpfs none /dev", "--clear-groups", "the_part_of_a_container_without_the_device");
}

/// Runs an ignored test of this program through `setpriv`, in a mount namespace that `prepare` has changed, next to a directory
/// `mnt` that belongs to nobody. It must pass and leave nothing mounted. The namespace ends with the command.
fn elsewhere(prepare: &str, setpriv: &str, test: &str) {
    let target = Target::new();
    fs::set_permissions(target.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mount_point = target.path().join("mnt");
    fs::create_dir(&mount_point).unwrap();
    chown(&mount_point, Some(65534), Some(65534)).unwrap();
    // The user may not enter where this program was built: run a copy.
    fs::copy(std::env::current_exe().unwrap(), target.path().join("it")).unwrap();
    let script = format!(
        "{prepare} || exit 1
         setpriv {setpriv} ./it --exact {test} --ignored --nocapture 2>&1
         ! grep -qF \"${{PWD##* }}/mnt\" /proc/self/mountinfo || echo LEFT"
    );
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .current_dir(target.path())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(out.contains("1 passed"), "{out}");
    assert!(!out.contains("LEFT"), "something was left mounted: {out}");
}

#[test]
#[ignore = "run by root_without_the_capability_is_told"]
fn the_part_of_root_in_a_container() {
    for method in [Method::Auto, Method::Direct, Method::Fusermount] {
        let options = MountOptions { method, ..MountOptions::new("s3://models") };
        let error = mount(Path::new("mnt"), &options).unwrap_err();
        assert!(matches!(error, MountError::NotPermitted(_)), "{method:?}: {error}");
    }
}

#[test]
#[ignore = "run by a_container_without_the_device_is_told"]
fn the_part_of_a_container_without_the_device() {
    for method in [Method::Auto, Method::Direct, Method::Fusermount] {
        let options = MountOptions { method, ..MountOptions::new("s3://models") };
        let error = mount(Path::new("mnt"), &options).unwrap_err();
        assert!(matches!(error, MountError::NoDevice), "{method:?}: {error}");
    }
}

#[test]
#[ignore = "run by an_ordinary_user_who_may_not_open_the_device_is_told"]
fn the_part_of_a_user_without_the_device() {
    let target = Path::new("mnt").canonicalize().unwrap();
    assert!(matches!(mount(&target, &MountOptions::new("s3://models")), Err(MountError::DeviceDenied)));
    let direct = MountOptions { method: Method::Direct, ..MountOptions::new("s3://models") };
    assert!(matches!(mount(&target, &direct), Err(MountError::DeviceDenied)));
}

#[test]
#[ignore = "run by an_ordinary_user_mounts_and_unmounts_through_fusermount"]
fn the_ordinary_users_part() {
    let target = Path::new("mnt").canonicalize().unwrap();
    assert!(!rustix::process::geteuid().is_root());
    let options = MountOptions::new("s3://models");
    let mut mounted = mount(&target, &options).unwrap();
    assert!(entry_of(&target).unwrap().super_options.contains("user_id=65534"));
    mounted.point.unmount(UnmountMode::Lazy).unwrap();
    assert_eq!(entry_of(&target), None);

    let everyone = MountOptions { access: Access::Everyone, ..options.clone() };
    match mount(&target, &everyone) {
        Err(error) => assert!(matches!(error, MountError::AllowOtherDenied), "{error}"),
        Ok(_) => assert!(
            fs::read_to_string("/etc/fuse.conf").unwrap().lines().any(|line| line == "user_allow_other")
        ),
    }
    assert!(matches!(
        mount(Path::new("/usr"), &options),
        Err(MountError::TargetNotWritable(_) | MountError::Fusermount { .. })
    ));
    let direct = MountOptions { method: Method::Direct, ..options };
    assert!(matches!(mount(&target, &direct), Err(MountError::NotPermitted(_))));
}
