//! Extended attributes: found, listed, measured.

use std::sync::Arc;

use rustix::io::Errno;
use sluicefs_core::FsConfig;
use sluicefs_fuse::Xattrs;
use sluicefs_s3_client::testing::MemoryBucket;

use crate::support::{TestMount, bucket};

fn readable(store: MemoryBucket) -> TestMount {
    TestMount::with(Arc::new(store), FsConfig::default(), |mount| mount.xattrs = Xattrs::Readable)
}

#[test]
fn there_are_none_unless_asked_for() {
    let mount = TestMount::new(Arc::new(bucket(&[("file", "x")])), FsConfig::default());
    let got = rustix::fs::getxattr(mount.join("file"), "user.s3.etag", &mut [0; 64]);
    assert_eq!(got, Err(Errno::OPNOTSUPP));
    assert_eq!(rustix::fs::listxattr_query(mount.join("file")), Err(Errno::OPNOTSUPP));
}

#[test]
fn the_etag_is_an_attribute() {
    let store = bucket(&[]);
    let etag = store.put("file", "content").to_string();
    let mount = readable(store);
    let mut buffer = [0; 256];
    let len = rustix::fs::getxattr(mount.join("file"), "user.s3.etag", &mut buffer).unwrap();
    assert_eq!(buffer[..len], *etag.as_bytes());
}

#[test]
fn values_are_measured_and_a_small_buffer_is_told() {
    let store = bucket(&[]);
    let len = store.put("file", "content").to_string().len();
    let mount = readable(store);
    let get = |size: usize| rustix::fs::getxattr(mount.join("file"), "user.s3.etag", &mut vec![0; size][..]);
    assert_eq!(rustix::fs::getxattr_query(mount.join("file"), "user.s3.etag"), Ok(len));
    assert_eq!(get(len - 1), Err(Errno::RANGE));
    assert_eq!(get(len), Ok(len));
}

#[test]
fn names_are_listed_and_a_small_buffer_is_told() {
    let mount = readable(bucket(&[("file", "x")]));
    let list = |buffer: &mut [u8]| rustix::fs::listxattr(mount.join("file"), buffer);
    let len = rustix::fs::listxattr_query(mount.join("file")).unwrap();
    let mut names = vec![0; len];
    assert_eq!(list(&mut names), Ok(len));
    let names: Vec<_> = names.split_inclusive(|byte| *byte == 0).collect();
    assert!(names.contains(&&b"user.s3.etag\0"[..]), "{names:?}");
    assert_eq!(list(&mut vec![0; len - 1]), Err(Errno::RANGE));
}

#[test]
fn attributes_that_are_not_there_are_told() {
    let mount = readable(bucket(&[("file", "x"), ("dir/x", "x")]));
    for (file, name) in
        [("file", "user.none"), ("file", "security.capability"), ("dir", "user.s3.etag"), ("", "user.x")]
    {
        let got = rustix::fs::getxattr(mount.join(file), name, &mut [0; 64]);
        assert_eq!(got, Err(Errno::NODATA), "{file} {name}");
    }
}
