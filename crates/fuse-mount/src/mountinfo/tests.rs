//! What the parser makes of mountinfo lines.

use super::*;

const LINES: &[u8] = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/root rw,discard
90 27 0:47 / /mnt/a\\040b\\134c\\012d ro,nosuid,nodev,noatime - fuse.sluicefs s3://models\\040x ro,user_id=0,group_id=0
91 27 0:48 / /mnt/stack rw - tmpfs tmpfs rw
92 91 0:49 / /mnt/stack rw,nosuid propagate_from:3 - fuse.mount-s3 mountpoint-s3 rw
93 27 0:50 / /mnt/raw\xff rw - fuse none
this line makes no sense
94 27 x:y / /mnt/bad rw - fuse none rw
95 27 0:51 / /mnt/nohyphen rw fuse none rw
";

fn point(path: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(path.to_vec()))
}

#[test]
fn lines_become_entries_and_nonsense_is_left_out() {
    let table = MountTable::parse(LINES);
    let seen: Vec<_> =
        table.iter().map(|e| (e.mount_point.clone(), e.fs_type.as_str(), e.source.as_str())).collect();
    let expected = [
        (point(b"/proc"), "proc", "proc"),
        (point(b"/"), "ext4", "/dev/root"),
        (point(b"/mnt/a b\\c\nd"), "fuse.sluicefs", "s3://models x"),
        (point(b"/mnt/stack"), "tmpfs", "tmpfs"),
        (point(b"/mnt/stack"), "fuse.mount-s3", "mountpoint-s3"),
        (point(b"/mnt/raw\xff"), "fuse", "none"),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn all_fields_are_kept() {
    let table = MountTable::parse(LINES);
    let entry = table.top(&point(b"/mnt/a b\\c\nd")).unwrap();
    assert_eq!(entry.device, DeviceNo { major: 0, minor: 47 });
    assert_eq!(entry.device.to_string(), "0:47");
    assert_eq!(entry.options, "ro,nosuid,nodev,noatime");
    assert_eq!(entry.super_options, "ro,user_id=0,group_id=0");
    assert!(entry.is_fuse() && entry.is_ours());
}

#[test]
fn the_last_mount_on_a_path_is_the_one_seen() {
    let table = MountTable::parse(LINES);
    let top = table.top(Path::new("/mnt/stack")).unwrap();
    assert_eq!(top.fs_type, "fuse.mount-s3");
    assert!(top.is_fuse() && !top.is_ours());
    assert_eq!(table.top(Path::new("/mnt")), None);
}

#[test]
fn octal_escapes_are_undone_and_other_backslashes_stay() {
    for (escaped, plain) in [
        (&b"a\\040b"[..], &b"a b"[..]),
        (b"\\011\\012\\043\\134", b"\t\n#\\"),
        (b"\\134040", b"\\040"),
        (b"\\377", b"\xff"),
        (b"\\400\\08\\", b"\\400\\08\\"),
        (b"", b""),
    ] {
        assert_eq!(unescape(escaped), plain, "{}", escaped.escape_ascii());
    }
}

#[test]
fn the_mounts_of_this_machine_parse() {
    let table = MountTable::read().unwrap();
    assert!(table.top(Path::new("/proc")).is_some_and(|entry| entry.fs_type == "proc"));
}
