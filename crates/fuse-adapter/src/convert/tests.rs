//! Tables of the conversions.

use sluicefs_core::HandleId;

use super::*;

fn attr(kind: FileKind, mode: u16) -> Attr {
    let mtime = Timestamp { secs: 1_700_000_000, nanos: 5 };
    let (atime, ctime) = (Timestamp { secs: 1, nanos: 0 }, Timestamp { secs: 2, nanos: 0 });
    Attr { ino: InodeNo(7), kind, size: 1025, atime, mtime, ctime, mode, nlink: 1, uid: 10, gid: 20, rdev: 0 }
}

#[test]
fn attributes_become_what_stat_shows() {
    let got = attributes(&attr(FileKind::File, 0o644));
    assert_eq!((got.ino, got.size, got.blocks, got.kind), (INodeNo(7), 1025, 3, FileType::RegularFile));
    assert_eq!((got.perm, got.uid, got.gid, got.nlink), (0o644, 10, 20, 1));
    assert_eq!(got.mtime, UNIX_EPOCH + Duration::new(1_700_000_000, 5));
    let seconds = |secs| UNIX_EPOCH + Duration::from_secs(secs);
    assert_eq!((got.atime, got.ctime), (seconds(1), seconds(2)));
    assert_eq!(attributes(&attr(FileKind::Directory, 0o755)).kind, FileType::Directory);
}

#[test]
fn all_bits_of_a_mode_are_shown() {
    assert_eq!(attributes(&attr(FileKind::File, 0o7755)).perm, 0o7755);
}

#[test]
fn times_before_the_epoch_and_beyond_the_clock_are_kept_or_made_harmless() {
    for (secs, nanos, expected) in [
        (0, 0, UNIX_EPOCH),
        (-1, 500_000_000, UNIX_EPOCH - Duration::from_millis(500)),
        (i64::MAX, 0, UNIX_EPOCH + Duration::from_secs(i64::MAX as u64)),
        (i64::MAX, 999_999_999, UNIX_EPOCH + Duration::new(i64::MAX as u64, 999_999_999)),
    ] {
        assert_eq!(system_time(Timestamp { secs, nanos }), expected, "{secs} {nanos}");
    }
}

#[test]
fn readers_never_flush_and_keep_pages_of_the_same_version() {
    let opened = |keep_cache| fopen_flags(&OpenedFile { handle: HandleId(1), keep_cache });
    assert_eq!(opened(true), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
    assert_eq!(opened(false), FopenFlags::FOPEN_NOFLUSH);
}

#[test]
fn access_follows_owner_group_and_others() {
    let (read, execute, exists) = (AccessFlags::R_OK, AccessFlags::X_OK, AccessFlags::F_OK);
    let file = |mode| attr(FileKind::File, mode);
    let dir = |mode| attr(FileKind::Directory, mode);
    for (attr, uid, gid, mask, expected) in [
        (file(0o640), 10, 99, read, Ok(())),
        (file(0o640), 11, 20, read, Ok(())),
        (file(0o640), 11, 21, read, Err(Errno::EACCES)),
        (file(0o604), 11, 20, read, Err(Errno::EACCES)),
        (file(0o000), 11, 21, exists, Ok(())),
        (file(0o000), 0, 0, read, Ok(())),
        (file(0o644), 0, 0, execute, Err(Errno::EACCES)),
        (file(0o645), 0, 0, execute, Ok(())),
        (dir(0o600), 0, 0, execute, Ok(())),
        (dir(0o755), 11, 21, read | execute, Ok(())),
        (file(0o577), 10, 20, AccessFlags::W_OK, Err(Errno::EACCES)),
        (file(0o444), 0, 0, AccessFlags::W_OK | read, Ok(())),
    ] {
        assert_eq!(
            check_access(&attr, Caller { uid, gid }, mask),
            expected,
            "{:o} {uid} {gid} {mask}",
            attr.mode
        );
    }
}

#[test]
fn xattrs_are_measured_then_fetched() {
    for (len, size, expected) in [
        (3, 0, XattrReply::Size(3)),
        (3, 3, XattrReply::Data(b"abc")),
        (3, 64, XattrReply::Data(b"abc")),
        (3, 2, XattrReply::TooSmall),
        (0, 0, XattrReply::Size(0)),
        (0, 1, XattrReply::Data(b"")),
    ] {
        assert_eq!(xattr_reply(&b"abc"[..len], size), expected, "{len} {size}");
    }
}

#[test]
fn attribute_names_end_in_nul() {
    assert_eq!(xattr_list(&["user.a".to_owned(), "user.b".to_owned()]), b"user.a\0user.b\0");
    assert!(xattr_list(&[]).is_empty());
}
