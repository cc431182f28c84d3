//! Symbolic links through a real mount: made, followed, moved, refused.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use sluicefs_core::{FsConfig, Symlinks};
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::MemoryBucket;

use crate::support::{Gate, TestMount, bucket, doubtful};

fn writable(bucket: &MemoryBucket, settings: FsConfig) -> TestMount {
    TestMount::with(Arc::new(bucket.clone()), settings, |config| config.read_only = false)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn target(path: &Path) -> Result<String, Option<i32>> {
    let target = fs::read_link(path).map_err(|error| error.raw_os_error())?;
    Ok(target.into_os_string().into_string().unwrap())
}

#[test]
fn a_link_is_an_object_that_rclone_knows() {
    let bucket = bucket(&[("dir/file", "content")]);
    let mount = writable(&bucket, FsConfig::default());
    symlink("file", mount.join("dir/link")).unwrap();
    symlink("../dir/file", mount.join("dir/up")).unwrap();
    let object = bucket.object("dir/link.rclonelink").unwrap();
    assert_eq!(object.content.slice(ByteRange::new(0, 4)).to_vec(), b"file");
    assert_eq!(fs::read_to_string(mount.join("dir/link")).unwrap(), "content");
    assert_eq!(fs::read_to_string(mount.join("dir/up")).unwrap(), "content");
    assert_eq!(names(&mount.join("dir")), ["file", "link", "up"]);
    let shown = fs::symlink_metadata(mount.join("dir/link")).unwrap();
    assert!(shown.is_symlink() && shown.len() == 4, "{shown:?}");
    assert_eq!(symlink("other", mount.join("dir/link")).unwrap_err().kind(), ErrorKind::AlreadyExists);
    fs::remove_file(mount.join("dir/link")).unwrap();
    assert!(bucket.object("dir/link.rclonelink").is_none());
    assert_eq!(fs::symlink_metadata(mount.join("dir/link")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_link_from_elsewhere_is_followed_and_its_key_is_no_file() {
    let gate = Gate::new(bucket(&[("link.rclonelink", "a/b"), ("a/b", "content")]));
    let mount = TestMount::new(Arc::clone(&gate) as _, FsConfig::default());
    assert_eq!(fs::read_to_string(mount.join("link")).unwrap(), "content");
    assert_eq!(names(mount.path()), ["a", "link"]);
    assert_eq!(fs::metadata(mount.join("link.rclonelink")).unwrap_err().kind(), ErrorKind::NotFound);
    let gets = gate.gets.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(target(&mount.join("link")), Ok("a/b".to_owned()));
    assert_eq!(gate.gets.load(std::sync::atomic::Ordering::Relaxed), gets, "read once");
}

#[test]
fn a_link_that_was_changed_elsewhere_leads_there() {
    let bucket = bucket(&[("link.rclonelink", "aaa")]);
    let mount = TestMount::new(Arc::new(bucket.clone()), doubtful());
    assert_eq!(target(&mount.join("link")), Ok("aaa".to_owned()));
    for content in ["bbb", "longer"] {
        bucket.put("link.rclonelink", content);
        assert_eq!(target(&mount.join("link")), Ok(content.to_owned()));
    }
}

#[test]
fn directories_and_files_hide_links() {
    let bucket = bucket(&[("a.rclonelink", "x"), ("a", "file"), ("d.rclonelink", "x"), ("d/f", "")]);
    let mount = writable(&bucket, doubtful());
    assert!(fs::symlink_metadata(mount.join("a")).unwrap().is_file());
    assert!(fs::symlink_metadata(mount.join("d")).unwrap().is_dir());
    assert_eq!(names(mount.path()), ["a", "d"]);
    fs::remove_file(mount.join("a")).unwrap();
    assert_eq!(target(&mount.join("a")), Ok("x".to_owned()));
}

#[test]
fn targets_that_lead_out_are_refused_unless_allowed() {
    let objects = [
        ("absolute.rclonelink", "/etc/passwd"),
        ("out.rclonelink", "../x"),
        ("d/odd.rclonelink", "x/../../y"),
        ("empty.rclonelink", ""),
        ("nul.rclonelink", "a\0b"),
    ];
    let bucket = bucket(&objects);
    let mount = writable(&bucket, FsConfig::default());
    let errno = |errno: Errno| Err(Some(errno.raw_os_error()));
    for name in ["absolute", "out", "d/odd"] {
        assert_eq!(target(&mount.join(name)), errno(Errno::PERM), "{name}");
        assert!(File::open(mount.join(name)).is_err());
    }
    for name in ["empty", "nul"] {
        assert_eq!(target(&mount.join(name)), errno(Errno::IO), "{name}");
    }
    for refused in ["/etc/passwd", "../x", "a/../b"] {
        let made = symlink(refused, mount.join("new"));
        assert_eq!(made.unwrap_err().raw_os_error(), Some(Errno::PERM.raw_os_error()), "{refused}");
    }
    drop(mount);
    let mount = writable(&bucket, FsConfig { symlinks: Symlinks::Any, ..FsConfig::default() });
    assert_eq!(target(&mount.join("absolute")), Ok("/etc/passwd".to_owned()));
    assert_eq!(target(&mount.join("nul")), errno(Errno::IO));
    symlink("/anywhere", mount.join("new")).unwrap();
    assert_eq!(target(&mount.join("new")), Ok("/anywhere".to_owned()));
}

#[test]
fn a_link_that_moves_up_leads_no_further() {
    let mount = writable(&bucket(&[("a/b/f", "")]), FsConfig::default());
    symlink("../../x", mount.join("a/b/link")).unwrap();
    assert_eq!(target(&mount.join("a/b/link")), Ok("../../x".to_owned()));
    fs::rename(mount.join("a/b/link"), mount.join("a/link")).unwrap();
    assert_eq!(target(&mount.join("a/link")), Err(Some(Errno::PERM.raw_os_error())));
}

#[test]
fn links_files_and_directories_replace_each_other_as_posix_says() {
    let bucket = bucket(&[("file", "content"), ("old", "old")]);
    let mount = writable(&bucket, FsConfig::default());
    symlink("file", mount.join("link")).unwrap();
    fs::rename(mount.join("link"), mount.join("old")).unwrap();
    assert_eq!(target(&mount.join("old")), Ok("file".to_owned()));
    assert!(bucket.object("old").is_none() && bucket.object("link.rclonelink").is_none());
    fs::rename(mount.join("file"), mount.join("old")).unwrap();
    assert_eq!(fs::read_to_string(mount.join("old")).unwrap(), "content");
    assert!(bucket.object("old.rclonelink").is_none() && bucket.object("file").is_none());
    fs::create_dir(mount.join("dir")).unwrap();
    symlink("x", mount.join("dir/link")).unwrap();
    symlink("y", mount.join("second")).unwrap();
    fs::rename(mount.join("second"), mount.join("dir/link")).unwrap();
    assert_eq!(target(&mount.join("dir/link")), Ok("y".to_owned()));
    fs::rename(mount.join("dir"), mount.join("moved")).unwrap();
    assert_eq!(target(&mount.join("moved/link")), Ok("y".to_owned()));
    assert_eq!(names(mount.path()), ["moved", "old"]);
    fs::remove_file(mount.join("moved/link")).unwrap();
    fs::remove_dir(mount.join("moved")).unwrap();
}

#[test]
fn without_links_their_objects_are_files() {
    let bucket = bucket(&[("link.rclonelink", "target")]);
    let mount = writable(&bucket, FsConfig { symlinks: Symlinks::None, ..FsConfig::default() });
    assert_eq!(fs::read_to_string(mount.join("link.rclonelink")).unwrap(), "target");
    assert_eq!(fs::symlink_metadata(mount.join("link")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(symlink("x", mount.join("new")).unwrap_err().kind(), ErrorKind::PermissionDenied);
}

#[test]
fn no_file_is_called_like_the_key_of_a_link() {
    let mount = writable(&bucket(&[]), FsConfig::default());
    let made = File::create(mount.join("x.rclonelink"));
    assert_eq!(made.unwrap_err().raw_os_error(), Some(Errno::INVAL.raw_os_error()));
    fs::write(mount.join("f"), "").unwrap();
    let moved = fs::rename(mount.join("f"), mount.join("x.rclonelink"));
    assert_eq!(moved.unwrap_err().raw_os_error(), Some(Errno::INVAL.raw_os_error()));
    fs::create_dir(mount.join("d.rclonelink")).unwrap();
    assert_eq!(fs::metadata(mount.join("d.rclonelink")).unwrap().nlink(), 1);
}
