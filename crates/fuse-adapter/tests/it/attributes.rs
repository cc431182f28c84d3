//! Attributes kept in the metadata of objects: written, found again by the next mount, and shared with other programs.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{Mode, XattrFlags, getxattr, removexattr, setxattr};
use rustix::io::Errno;
use sluicefs_core::{Attributes, FsConfig};
use sluicefs_fuse::Xattrs;
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::MemoryBucket;
use sluicefs_s3_client::testing::memory::pattern;

use crate::support::{Gate, TestMount, bucket, doubtful};

fn mounted(bucket: &MemoryBucket, attributes: Attributes) -> TestMount {
    let settings = FsConfig { attributes, ..FsConfig::default() };
    TestMount::with(Arc::new(bucket.clone()), settings, |config| {
        (config.read_only, config.xattrs) = (false, Xattrs::Readable);
    })
}

fn shell(mount: &TestMount, script: &str) -> String {
    let done = Command::new("sh").args(["-euc", script]).current_dir(mount.path()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{script}\n{out}{err}");
    out.into_owned()
}

fn metadata(bucket: &MemoryBucket, key: &str, name: &str) -> Option<String> {
    let object = bucket.object(key).unwrap_or_else(|| panic!("no object {key}"));
    object.head.user_metadata.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
}

fn describe(bucket: &MemoryBucket, key: &str, pairs: &[(&str, &str)]) {
    let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    assert!(bucket.edit(key, |head| head.user_metadata = pairs));
}

#[test]
fn attributes_outlive_the_mount() {
    for attributes in [Attributes::S3fs, Attributes::Rclone] {
        let bucket = bucket(&[("old", "content")]);
        let mount = mounted(&bucket, attributes);
        shell(&mount, "echo x > new; mkdir d; chmod 640 new; chown 7:8 new; touch -d @1000000000.5 new");
        shell(&mount, "chmod 600 old; chmod 1770 d; chown 9:10 d; touch -d @1100000000 d");
        let look = "stat -c '%n %a %u:%g %.9Y' new old d | sort";
        let before = shell(&mount, look);
        assert!(before.contains("d 1770 9:10 1100000000.000000000\n"), "{before}");
        assert!(before.contains("new 640 7:8 1000000000.500000000\n"), "{before}");
        drop(mount);
        assert_eq!(shell(&mounted(&bucket, attributes), look), before, "{attributes:?}");
    }
}

#[test]
fn two_mounts_see_what_the_other_gave() {
    for attributes in [Attributes::S3fs, Attributes::Rclone] {
        let bucket = bucket(&[("d/x", "text"), ("f", "text")]);
        let settings = FsConfig { attributes, ..doubtful() };
        let mounted =
            || TestMount::with(Arc::new(bucket.clone()), settings.clone(), |config| config.read_only = false);
        let (one, other) = (mounted(), mounted());
        let look = "stat -c '%n %a %u:%g' f d";
        shell(&one, &format!("{look}; chmod 640 f; chmod 750 d"));
        shell(&other, &format!("{look}; chown 7:8 f d; echo more >> f; echo x > d/new"));
        shell(&one, "touch -d @1000000000.5 f; echo x > d/another; rm d/new");
        for mount in [&one, &other] {
            assert_eq!(shell(mount, look), "f 640 7:8\nd 750 7:8\n", "{attributes:?}");
            assert_eq!(shell(mount, "stat -c %.9Y f; cat f"), "1000000000.500000000\ntextmore\n");
            // ls reads the directory with all attributes.
            assert_eq!(shell(mount, "ls -ln --time-style=+ f | cut -c -10"), "-rw-r-----\n");
        }
    }
}

#[test]
fn other_programs_find_their_own_words() {
    let bucket = bucket(&[]);
    let mount = mounted(&bucket, Attributes::S3fs);
    shell(&mount, "echo x > f; chmod 640 f; chown 7:8 f; touch -d @1000000000 f; mkdir -m 700 d");
    for (key, name, expected) in [
        ("f", "mode", "33184"),
        ("f", "uid", "7"),
        ("f", "gid", "8"),
        ("f", "mtime", "1000000000"),
        ("d/", "mode", "16832"),
    ] {
        assert_eq!(metadata(&bucket, key, name).as_deref(), Some(expected), "{key} {name}");
    }
    drop(mount);
    shell(&mounted(&bucket, Attributes::Rclone), "echo x > g; chmod 640 g; touch -d @1000000000.25 g");
    assert_eq!(metadata(&bucket, "g", "mode").as_deref(), Some("100640"));
    assert_eq!(metadata(&bucket, "g", "mtime").as_deref(), Some("1000000000.250000000"));
}

#[test]
fn what_other_programs_wrote_is_shown() {
    let bucket = bucket(&[("f", "x"), ("link", "f"), ("pipe", ""), ("d/", ""), ("d/g", "x"), ("odd", "x")]);
    describe(&bucket, "f", &[("mode", "33188"), ("uid", "5"), ("gid", "6"), ("mtime", "1234567890")]);
    describe(&bucket, "link", &[("mode", "41471")]);
    describe(&bucket, "pipe", &[("mode", "4516")]);
    describe(&bucket, "d/", &[("mode", "16832"), ("uid", "5")]);
    describe(&bucket, "odd", &[("mode", "16877"), ("uid", "nobody")]);
    let mount = mounted(&bucket, Attributes::S3fs);
    let types = shell(&mount, "find . -mindepth 1 -printf '%y %P\\n' | sort");
    assert_eq!(types, "d d\nf d/g\nf f\nf odd\nl link\np pipe\n");
    assert_eq!(shell(&mount, "stat -c '%a %u:%g %Y' f; cat link"), "644 5:6 1234567890\nx");
    assert_eq!(shell(&mount, "stat -c '%a %u' d"), "700 5\n");
}

#[test]
fn a_file_that_is_written_carries_its_attributes() {
    let bucket = bucket(&[("f", "old")]);
    bucket.edit("f", |head| {
        head.content_type = Some("text/x-own".to_owned());
        head.user_metadata =
            vec![("author".to_owned(), "me".to_owned()), ("mode".to_owned(), "33152".to_owned())];
    });
    let mount = mounted(&bucket, Attributes::S3fs);
    shell(&mount, "echo more >> f; chmod 640 f");
    let object = bucket.object("f").unwrap();
    assert_eq!(object.head.content_type.as_deref(), Some("text/x-own"));
    assert_eq!(metadata(&bucket, "f", "author").as_deref(), Some("me"));
    assert_eq!(metadata(&bucket, "f", "mode").as_deref(), Some("33184"));
    // In parts, and changed after the first of them.
    let mut large = File::create(mount.join("large")).unwrap();
    let content = pattern(7, ByteRange::new(0, 20 << 20));
    large.write_all(&content).unwrap();
    rustix::fs::fchmod(&large, Mode::from_raw_mode(0o600)).unwrap();
    large.write_all(b"end").unwrap();
    drop(large);
    assert_eq!(metadata(&bucket, "large", "mode").as_deref(), Some("33152"));
    assert_eq!(fs::metadata(mount.join("large")).unwrap().len(), (20 << 20) + 3);
}

#[test]
fn an_open_file_goes_on_when_its_attributes_change() {
    let bucket = bucket(&[("f", "0123456789")]);
    let mount = mounted(&bucket, Attributes::S3fs);
    let mut writer = OpenOptions::new().append(true).open(mount.join("f")).unwrap();
    shell(&mount, "chmod 600 f; touch -d @1000000000 f");
    writer.write_all(b"more").unwrap();
    writer.sync_all().unwrap();
    assert_eq!(fs::read(mount.join("f")).unwrap(), b"0123456789more");
    assert_eq!(metadata(&bucket, "f", "mode").as_deref(), Some("33152"));
    assert_ne!(metadata(&bucket, "f", "mtime").as_deref(), Some("1000000000"), "it was written later");
}

#[test]
fn links_pipes_and_devices_are_kept_and_inert() {
    let bucket = bucket(&[("f", "content")]);
    let mount = mounted(&bucket, Attributes::S3fs);
    symlink("f", mount.join("link")).unwrap();
    shell(&mount, "mkfifo pipe; chmod 600 pipe; mknod device c 1 3; chmod u+s f; mv pipe moved");
    drop(mount);
    assert!(bucket.object("link").is_some() && bucket.object("link.rclonelink").is_none());
    let mount = mounted(&bucket, Attributes::S3fs);
    assert_eq!(fs::read_to_string(mount.join("link")).unwrap(), "content");
    let pipe = fs::symlink_metadata(mount.join("moved")).unwrap();
    assert!(pipe.file_type().is_fifo() && pipe.mode() & 0o777 == 0o600, "{pipe:?}");
    let device = fs::symlink_metadata(mount.join("device")).unwrap();
    assert!(device.file_type().is_char_device() && device.rdev() == 0x103, "{device:?}");
    // Linux opens no device on a mount without devices, not even for root.
    assert_eq!(
        File::open(mount.join("device")).unwrap_err().raw_os_error(),
        Some(Errno::ACCESS.raw_os_error())
    );
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(mount.path().to_str().unwrap())).unwrap();
    assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
}

#[test]
fn without_kept_attributes_there_are_no_pipes() {
    let mount = mounted(&bucket(&[]), Attributes::None);
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        mount.join("pipe"),
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    );
    assert_eq!(made, Err(Errno::PERM));
    shell(&mount, "touch f");
    assert_eq!(setxattr(mount.join("f"), "user.a", b"v", XattrFlags::empty()), Err(Errno::OPNOTSUPP));
}

#[test]
fn extended_attributes_are_kept_within_two_kilobytes() {
    let bucket = bucket(&[("f", "x")]);
    let mount = mounted(&bucket, Attributes::S3fs);
    let f = mount.join("f");
    setxattr(&f, "user.colour", b"blue", XattrFlags::CREATE).unwrap();
    assert_eq!(setxattr(&f, "user.colour", b"x", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(setxattr(&f, "user.none", b"x", XattrFlags::REPLACE), Err(Errno::NODATA));
    assert_eq!(setxattr(&f, "user.large", &[b'x'; 2000], XattrFlags::empty()), Err(Errno::NOSPC));
    assert_eq!(setxattr(&f, "user.s3.etag", b"x", XattrFlags::empty()), Err(Errno::PERM));
    assert_eq!(setxattr(&f, "trusted.a", b"x", XattrFlags::empty()), Err(Errno::OPNOTSUPP));
    shell(&mount, "chmod 600 f; mkdir d");
    setxattr(mount.join("d"), "user.of", b"directory", XattrFlags::empty()).unwrap();
    drop(mount);
    let mount = mounted(&bucket, Attributes::S3fs);
    let f = mount.join("f");
    let mut value = [0; 64];
    assert_eq!(getxattr(&f, "user.colour", &mut value), Ok(4));
    assert_eq!(&value[..4], b"blue");
    assert_eq!(getxattr(&f, "user.colour", &mut value[..2]), Err(Errno::RANGE));
    assert_eq!(getxattr(mount.join("d"), "user.of", &mut value), Ok(9));
    let mut names = [0; 256];
    let len = rustix::fs::listxattr(&f, &mut names).unwrap();
    assert!(String::from_utf8_lossy(&names[..len]).contains("user.colour\0"));
    removexattr(&f, "user.colour").unwrap();
    assert_eq!(removexattr(&f, "user.colour"), Err(Errno::NODATA));
    assert_eq!(metadata(&bucket, "f", "xattr"), None);
}

#[test]
fn each_name_costs_one_question_for_as_long_as_it_is_the_same_version() {
    let names: Vec<String> = (0..300).map(|n| format!("d/{n:03}")).collect();
    let objects: Vec<(&str, &'static str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    let gate = Gate::new(bucket(&objects));
    let settings = FsConfig { attributes: Attributes::S3fs, ..doubtful() };
    let mount = TestMount::new(Arc::clone(&gate) as _, settings);
    let list = || fs::read_dir(mount.join("d")).unwrap().count();
    assert_eq!(list(), 300);
    let first = gate.others.load(Ordering::Relaxed);
    assert!(first >= 300, "{first}");
    assert_eq!(list(), 300);
    let again = gate.others.load(Ordering::Relaxed) - first;
    assert!(again < 10, "{again}: what was asked is remembered");
}
