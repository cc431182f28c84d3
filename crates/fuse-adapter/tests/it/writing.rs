//! Files written through a real mount, as programs write them, and what the bucket has afterwards.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::process::Command;
use std::sync::Arc;

use sluicefs_core::{Allow, FsConfig, Ttl};
use sluicefs_fuse_mount::Access;
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::MemoryBucket;
use sluicefs_s3_client::testing::memory::pattern;

use crate::support::{TestMount, bucket, doubtful};

const MIB: u64 = 1 << 20;

fn writable(bucket: &MemoryBucket) -> TestMount {
    writable_with(bucket, FsConfig::default())
}

fn writable_with(bucket: &MemoryBucket, settings: FsConfig) -> TestMount {
    TestMount::with(Arc::new(bucket.clone()), settings, |config| config.read_only = false)
}

/// The whole object, as the bucket has it.
fn stored(bucket: &MemoryBucket, key: &str) -> Vec<u8> {
    let object = bucket.object(key).unwrap_or_else(|| panic!("no object {key}"));
    object.content.slice(ByteRange::new(0, object.content.len())).to_vec()
}

/// Runs a shell script in the mount; its output.
fn shell(mount: &TestMount, script: &str) -> String {
    let done = Command::new("sh").args(["-euc", script]).current_dir(mount.path()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{script}\n{out}{err}");
    out.into_owned()
}

#[test]
fn a_closed_file_is_an_object() {
    let bucket = bucket(&[]);
    let mount = writable(&bucket);
    fs::write(mount.join("new"), "content").unwrap();
    assert_eq!(stored(&bucket, "new"), b"content");
    assert_eq!(fs::read_to_string(mount.join("new")).unwrap(), "content");
    assert_eq!(fs::metadata(mount.join("new")).unwrap().len(), 7);
}

#[test]
fn nothing_is_at_the_store_before_close_or_fsync() {
    let bucket = bucket(&[("old", "old content")]);
    let mount = writable(&bucket);
    let mut file = File::create(mount.join("old")).unwrap();
    file.write_all(b"new").unwrap();
    assert_eq!(stored(&bucket, "old"), b"old content");
    assert_eq!(fs::read_to_string(mount.join("old")).unwrap(), "new", "this mount sees it at once");
    file.sync_all().unwrap();
    assert_eq!(stored(&bucket, "old"), b"new");
    file.write_all(b"er").unwrap();
    assert_eq!(stored(&bucket, "old"), b"new");
    drop(file);
    assert_eq!(stored(&bucket, "old"), b"newer");
}

#[test]
fn a_large_file_arrives_whole() {
    let bucket = bucket(&[]);
    let mount = writable(&bucket);
    let content = pattern(1, ByteRange::new(0, 50 * MIB + 77));
    fs::write(mount.join("large"), &content).unwrap();
    assert!(stored(&bucket, "large") == content);
    assert!(fs::read(mount.join("large")).unwrap() == content);
}

#[test]
fn a_change_in_the_middle_and_at_the_end() {
    let bucket = bucket(&[("f", "0123456789")]);
    let mount = writable(&bucket);
    let file = OpenOptions::new().read(true).write(true).open(mount.join("f")).unwrap();
    file.write_all_at(b"AB", 4).unwrap();
    let mut whole = String::new();
    (&file).read_to_string(&mut whole).unwrap();
    assert_eq!(whole, "0123AB6789");
    drop(file);
    OpenOptions::new().append(true).open(mount.join("f")).unwrap().write_all(b"!").unwrap();
    assert_eq!(stored(&bucket, "f"), b"0123AB6789!");
}

#[test]
fn cutting_growing_and_holes() {
    let bucket = bucket(&[("f", "0123456789")]);
    let mount = writable(&bucket);
    OpenOptions::new().write(true).open(mount.join("f")).unwrap().set_len(4).unwrap();
    assert_eq!(stored(&bucket, "f"), b"0123");
    let mut file = OpenOptions::new().write(true).open(mount.join("f")).unwrap();
    file.seek(SeekFrom::Start(6)).unwrap();
    file.write_all(b"x").unwrap();
    file.set_len(9).unwrap();
    drop(file);
    assert_eq!(stored(&bucket, "f"), b"0123\0\0x\0\0");
    assert_eq!(fs::read(mount.join("f")).unwrap(), b"0123\0\0x\0\0");
    shell(&mount, "truncate -s 2 f");
    assert_eq!(stored(&bucket, "f"), b"01");
}

#[test]
fn exclusive_creation_has_one_winner() {
    let bucket = bucket(&[]);
    let mount = writable(&bucket);
    let claim = || OpenOptions::new().write(true).create_new(true).open(mount.join("lock"));
    let first = claim().unwrap();
    assert!(bucket.object("lock").is_some(), "others see the claim at once");
    assert_eq!(claim().unwrap_err().kind(), ErrorKind::AlreadyExists);
    drop(first);
    fs::remove_file(mount.join("lock")).unwrap();
    assert!(bucket.object("lock").is_none());
    bucket.put("lock", "somebody else's");
    // The mount believes for a moment that the name is free; the store knows better.
    assert_eq!(claim().unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(stored(&bucket, "lock"), b"somebody else's");
}

#[test]
fn directories_are_made_and_removed() {
    let bucket = bucket(&[]);
    let mount = writable(&bucket);
    fs::create_dir(mount.join("d")).unwrap();
    assert!(bucket.object("d/").is_some());
    assert_eq!(fs::create_dir(mount.join("d")).unwrap_err().kind(), ErrorKind::AlreadyExists);
    fs::write(mount.join("d/f"), "x").unwrap();
    assert_eq!(fs::remove_dir(mount.join("d")).unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    assert_eq!(shell(&mount, "ls d"), "f\n");
    fs::remove_file(mount.join("d/f")).unwrap();
    assert_eq!(shell(&mount, "ls d"), "");
    fs::remove_dir(mount.join("d")).unwrap();
    assert_eq!(bucket.keys(), []);
    assert!(!mount.join("d").exists());
}

#[test]
fn a_directory_that_keys_imply_outlives_its_last_file() {
    let bucket = bucket(&[("d/e/f", "x")]);
    let mount = writable(&bucket);
    fs::remove_file(mount.join("d/e/f")).unwrap();
    assert_eq!(shell(&mount, "ls d; ls d/e"), "e\n");
    shell(&mount, "rm -r d");
    assert!(!mount.join("d").exists());
}

fn names_follow_changes(settings: FsConfig) {
    let bucket = bucket(&[("d/a", "x"), ("d/b", "x")]);
    let mount = writable_with(&bucket, settings);
    assert_eq!(shell(&mount, "ls d"), "a\nb\n");
    let open = File::create(mount.join("d/new")).unwrap();
    fs::remove_file(mount.join("d/a")).unwrap();
    assert_eq!(shell(&mount, "ls d"), "b\nnew\n");
    drop(open);
    assert_eq!(shell(&mount, "ls d"), "b\nnew\n");
}

#[test]
fn new_names_are_listed_at_once_and_removed_ones_no_more() {
    // Once with listings that are older than the changes, once with a new one each time.
    names_follow_changes(FsConfig {
        metadata_ttl: Ttl::Forever,
        negative_ttl: Ttl::Forever,
        ..FsConfig::default()
    });
    names_follow_changes(doubtful());
}

#[test]
fn files_move() {
    let bucket = bucket(&[("a", "of a"), ("d/b", "of b")]);
    let mount = writable(&bucket);
    fs::rename(mount.join("a"), mount.join("d/c")).unwrap();
    fs::rename(mount.join("d/c"), mount.join("d/b")).unwrap();
    assert_eq!(bucket.keys().iter().map(|key| key.as_str()).collect::<Vec<_>>(), ["d/b"]);
    assert_eq!(fs::read_to_string(mount.join("d/b")).unwrap(), "of a");
    fs::write(mount.join("a"), "again").unwrap();
    assert_eq!(shell(&mount, "cat a d/b; ls . d"), "againof a.:\na\nd\n\nd:\nb\n");
}

#[test]
fn a_renamed_file_has_the_type_of_its_new_extension_unless_its_type_was_chosen() {
    let bucket = bucket(&[("chosen.tmp", "text")]);
    bucket.edit("chosen.tmp", |head| head.content_type = Some("text/x-chosen".to_owned()));
    let mount = writable(&bucket);
    fs::write(mount.join("page.part"), "{}").unwrap();
    bucket.edit("page.part", |head| head.user_metadata = vec![("owner".to_owned(), "me".to_owned())]);
    bucket.edit("page.part", |head| head.headers = vec![("cache-control", "no-store".to_owned())]);
    let renames = [
        ("page.part", "page.json", "application/json"),
        ("page.json", "page.html", "text/html"),
        ("page.html", "page.bak", "text/html"),
        ("chosen.tmp", "chosen.json", "text/x-chosen"),
    ];
    for (old, new, expected) in renames {
        fs::rename(mount.join(old), mount.join(new)).unwrap();
        assert_eq!(
            bucket.object(new).unwrap().head.content_type.as_deref(),
            Some(expected),
            "{old} -> {new}"
        );
    }
    let head = bucket.object("page.bak").unwrap().head;
    assert_eq!(head.user_metadata, [("owner".to_owned(), "me".to_owned())]);
    assert_eq!(head.headers, [("cache-control", "no-store".to_owned())]);
    let mut file = File::create(mount.join("open.tmp")).unwrap();
    file.write_all(b"<p>").unwrap();
    fs::rename(mount.join("open.tmp"), mount.join("open.html")).unwrap();
    file.write_all(b"</p>").unwrap();
    drop(file);
    assert_eq!(bucket.object("open.html").unwrap().head.content_type.as_deref(), Some("text/html"));
    let mut settings = FsConfig::default();
    settings.write.infer_content_type = false;
    let mount = writable_with(&bucket, settings);
    fs::rename(mount.join("open.html"), mount.join("open.json")).unwrap();
    assert_eq!(bucket.object("open.json").unwrap().head.content_type.as_deref(), Some("text/html"));
}

#[test]
fn a_file_that_is_being_written_moves_with_what_was_written() {
    let bucket = bucket(&[]);
    let mount = writable(&bucket);
    let mut file = File::create(mount.join("tmp")).unwrap();
    file.write_all(b"half").unwrap();
    fs::rename(mount.join("tmp"), mount.join("final")).unwrap();
    file.write_all(b" and half").unwrap();
    drop(file);
    assert_eq!(stored(&bucket, "final"), b"half and half");
    assert!(bucket.object("tmp").is_none());
}

#[test]
fn directories_move_with_all_that_is_in_them() {
    let keys: Vec<String> = (0..50).map(|n| format!("old/sub{}/f{n}", n % 3)).collect();
    let pairs: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "x")).collect();
    let bucket = bucket(&pairs);
    let mount = writable(&bucket);
    let mut open = File::open(mount.join("old/sub0/f0")).unwrap();
    fs::create_dir(mount.join("old/empty")).unwrap();
    fs::rename(mount.join("old"), mount.join("new")).unwrap();
    assert!(bucket.keys().iter().all(|key| key.as_str().starts_with("new/")));
    assert_eq!(shell(&mount, "ls; ls new; find new -type f | wc -l"), "new\nempty\nsub0\nsub1\nsub2\n50\n");
    let mut content = String::new();
    open.read_to_string(&mut content).unwrap();
    assert_eq!(content, "x", "who had a file open reads on");
    let error = fs::rename(mount.join("new"), mount.join("new/sub0/deeper")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn programs_get_what_they_expect() {
    let bucket = bucket(&[]);
    let mount = writable(&bucket);
    shell(
        &mount,
        "mkdir -p src/a/b && seq 1 5000 > src/numbers && cp src/numbers src/a/b/copy && echo x >> src/a/b/copy
         tar cf all.tar src && mkdir out && tar xf all.tar -C out && diff -r src out/src
         cp -r src again && diff -r src again && mv again moved && rm -r src out && test ! -e src
         dd if=/dev/zero of=moved/numbers bs=1 count=3 seek=10 conv=notrunc 2>/dev/null
         test $(stat -c %s moved/numbers) = $(seq 1 5000 | wc -c) && sed -i s/4999/none/ moved/numbers && grep -q none moved/numbers
         gzip -k moved/numbers && gunzip -c moved/numbers.gz | cmp - moved/numbers",
    );
    assert_eq!(bucket.keys().iter().filter(|key| key.as_str().starts_with("src/")).count(), 0);
}

#[test]
fn a_removed_file_can_be_written_and_read_until_it_is_closed() {
    let bucket = bucket(&[]);
    let mount = writable(&bucket);
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(mount.join("t")).unwrap();
    file.write_all_at(b"still here", 0).unwrap();
    fs::remove_file(mount.join("t")).unwrap();
    file.write_all_at(b"!", 10).unwrap();
    let mut content = [0; 11];
    file.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content, b"still here!");
    fs::write(mount.join("t"), "another").unwrap();
    drop(file);
    assert_eq!(stored(&bucket, "t"), b"another");
}

#[test]
fn a_reader_keeps_a_file_that_is_removed_or_replaced() {
    let bucket = bucket(&[("a", "content of a"), ("b", "content of b"), ("new", "new b")]);
    let mount = writable(&bucket);
    let (a, b) = (File::open(mount.join("a")).unwrap(), File::open(mount.join("b")).unwrap());
    fs::remove_file(mount.join("a")).unwrap();
    fs::rename(mount.join("new"), mount.join("b")).unwrap();
    fs::write(mount.join("a"), "another").unwrap();
    for (file, expected) in [(a, "content of a"), (b, "content of b")] {
        let mut content = String::new();
        (&file).read_to_string(&mut content).unwrap();
        assert_eq!(content, expected);
    }
    assert_eq!((stored(&bucket, "a"), stored(&bucket, "b")), (b"another".to_vec(), b"new b".to_vec()));
}

#[test]
fn a_removed_file_can_be_cut() {
    let bucket = bucket(&[]);
    let mount = writable(&bucket);
    let file = File::create_new(mount.join("t")).unwrap();
    fs::remove_file(mount.join("t")).unwrap();
    file.set_len(100).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 100);
}

#[test]
fn files_below_a_directory_that_moves_are_written_on_to() {
    let bucket = bucket(&[("old/known", "base ")]);
    let mount = writable(&bucket);
    let mut known = OpenOptions::new().append(true).open(mount.join("old/known")).unwrap();
    let mut new = File::create(mount.join("old/new")).unwrap();
    new.write_all(b"before").unwrap();
    fs::rename(mount.join("old"), mount.join("moved")).unwrap();
    known.write_all(b"and more").unwrap();
    new.write_all(b" and after").unwrap();
    drop((known, new));
    assert_eq!(stored(&bucket, "moved/known"), b"base and more");
    assert_eq!(stored(&bucket, "moved/new"), b"before and after");
    assert!(bucket.keys().iter().all(|key| key.as_str().starts_with("moved/")), "{:?}", bucket.keys());
}

#[test]
fn mapped_writes_arrive() {
    let bucket = bucket(&[("m", "0123456789")]);
    let mount = writable(&bucket);
    let script = "import mmap, os\nf = os.open('m', os.O_RDWR)\nm = mmap.mmap(f, 10)\nm[3:6] = b'ABC'\nm.flush()\nm.close()\nos.close(f)";
    let done = Command::new("python3").args(["-c", script]).current_dir(mount.path()).status().unwrap();
    assert!(done.success());
    assert_eq!(stored(&bucket, "m"), b"012ABC6789");
}

#[test]
fn unbuffered_writes_arrive() {
    let bucket = bucket(&[]);
    let mount = writable(&bucket);
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap();
    let file =
        OpenOptions::new().write(true).create(true).custom_flags(direct).open(mount.join("d")).unwrap();
    let content = pattern(3, ByteRange::new(0, 3 * MIB));
    file.write_all_at(&content, 0).unwrap();
    file.write_all_at(&content[..4096], MIB).unwrap();
    drop(file);
    let mut expected = content.to_vec();
    expected[MIB as usize..MIB as usize + 4096].copy_from_slice(&content[..4096]);
    assert!(stored(&bucket, "d") == expected && fs::read(mount.join("d")).unwrap() == expected);
}

#[test]
fn two_handles_see_each_others_writes() {
    let bucket = bucket(&[]);
    let mount = writable(&bucket);
    let (a, b) = (
        File::create(mount.join("f")).unwrap(),
        OpenOptions::new().write(true).open(mount.join("f")).unwrap(),
    );
    a.write_all_at(b"aaaa", 0).unwrap();
    b.write_all_at(b"bb", 2).unwrap();
    assert_eq!(fs::read_to_string(mount.join("f")).unwrap(), "aabb");
    drop(a);
    b.write_all_at(b"c", 4).unwrap();
    drop(b);
    assert_eq!(stored(&bucket, "f"), b"aabbc");
}

#[test]
fn what_is_not_allowed_is_refused() {
    let bucket = bucket(&[("f", "old"), ("d/g", "x")]);
    let allow = Allow { delete: false, overwrite: false, ..Allow::ALL };
    let settings = FsConfig { allow, ..FsConfig::default() };
    let mount = writable_with(&bucket, settings);
    let denied =
        |done: std::io::Result<()>| assert_eq!(done.unwrap_err().kind(), ErrorKind::PermissionDenied);
    denied(fs::remove_file(mount.join("f")));
    denied(fs::write(mount.join("f"), "new"));
    denied(OpenOptions::new().append(true).open(mount.join("f")).map(drop));
    denied(fs::rename(mount.join("f"), mount.join("h")));
    fs::write(mount.join("new"), "allowed").unwrap();
    assert_eq!((stored(&bucket, "f"), stored(&bucket, "new")), (b"old".to_vec(), b"allowed".to_vec()));
}

#[test]
fn a_lost_update_is_told_at_close() {
    let bucket = bucket(&[("f", "base")]);
    let mount = writable(&bucket);
    let mut file = OpenOptions::new().append(true).open(mount.join("f")).unwrap();
    file.write_all(b" mine").unwrap();
    bucket.put("f", "somebody else's");
    let error = file.sync_all().unwrap_err();
    assert_eq!(rustix::io::Errno::from_io_error(&error), Some(rustix::io::Errno::STALE));
    drop(file);
    assert_eq!(stored(&bucket, "f"), b"somebody else's");
}

#[test]
fn no_directory_replaces_one_that_has_entries() {
    let bucket = bucket(&[]);
    let mount = writable(&bucket);
    shell(&mount, "mkdir empty file sub; touch file/f; mkdir sub/d");
    for full in ["file", "sub"] {
        let refused = fs::rename(mount.join("empty"), mount.join(full)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::DirectoryNotEmpty, "{full}");
    }
    assert_eq!(shell(&mount, "ls"), "empty\nfile\nsub\n");
}

#[test]
fn owner_mode_and_times_are_shown_as_they_were_set() {
    let bucket = bucket(&[("f", "x")]);
    let mount = writable(&bucket);
    shell(&mount, "chmod 640 f; chown 7:8 f; touch -d @1000000000 f; touch new; mkdir -m 700 d");
    assert_eq!(shell(&mount, "stat -c '%a %u %g %Y' f"), "640 7 8 1000000000\n");
    assert_eq!(shell(&mount, "umask 077; touch g; stat -c %a g d"), "600\n700\n");
    shell(&mount, "echo more >> f");
    assert_ne!(shell(&mount, "stat -c %Y f"), "1000000000\n", "writing is a change");
}

#[test]
fn what_is_made_belongs_to_its_maker() {
    let bucket = bucket(&[("outside", "x")]);
    let mount = TestMount::with(Arc::new(bucket.clone()), FsConfig::default(), |config| {
        (config.read_only, config.access) = (false, Access::Everyone);
    });
    shell(&mount, "chmod 777 .; mkdir shared; chown 0:50 shared; chmod 2777 shared");
    let as_nobody = |script: &str| {
        shell(&mount, &format!("setpriv --reuid 1000 --regid 100 --clear-groups sh -c '{script}'"))
    };
    as_nobody("umask 022; touch f; mkdir d; touch shared/f; mkdir shared/d");
    let shown = shell(&mount, "stat -c '%u:%g %a' f d shared/f shared/d outside");
    assert_eq!(shown, "1000:100 644\n1000:100 755\n1000:50 644\n1000:50 2755\n0:0 644\n");
    shell(&mount, "chmod 1777 shared");
    shell(
        &mount,
        "touch shared/roots; ! setpriv --reuid 1000 --regid 100 --clear-groups rm -f shared/roots 2>/dev/null",
    );
    as_nobody("rm shared/f; chmod 4755 f");
    assert_eq!(shell(&mount, "stat -c %a f"), "4755\n");
    as_nobody("echo more >> f");
    assert_eq!(shell(&mount, "stat -c %a f"), "755\n", "who writes a program does not become its owner");
}

#[test]
fn times_tell_what_was_changed_and_when() {
    let bucket = bucket(&[("f", "x"), ("d/g", "x")]);
    let mount = writable(&bucket);
    shell(&mount, "touch -d @1000000000 f d d/g");
    let before = shell(&mount, "stat -c '%Y %.9Z' f d");
    assert!(before.starts_with("1000000000 ") && before.contains("\n1000000000 "), "{before}");
    shell(&mount, "chmod 600 f");
    let after = shell(&mount, "stat -c '%Y %.9Z' f d");
    assert_ne!(before.lines().next(), after.lines().next(), "chmod changes ctime");
    assert_eq!(before.lines().nth(1), after.lines().nth(1), "and no other file's");
    shell(&mount, "touch d/new; rm d/new");
    assert_ne!(shell(&mount, "stat -c %Y d"), "1000000000\n", "names in it were changed");
    let ctime = || shell(&mount, "stat -c '%Y %.9Z' d/g");
    let before = ctime();
    shell(&mount, "mv d/g d/h; mv d/h d/g");
    assert_ne!(ctime(), before, "a rename changes ctime");
    assert!(ctime().starts_with("1000000000 "), "{}", ctime());
}

#[test]
fn what_was_written_here_keeps_its_time_and_what_lost_its_name_has_no_link() {
    let bucket = bucket(&[]);
    let mount = writable(&bucket);
    shell(&mount, "echo x > f");
    let written = shell(&mount, "stat -c %.9Y f");
    // The next look asks the store, which knows whole seconds and its own clock.
    assert_eq!(shell(&mount, "ls > /dev/null; stat -c %.9Y f"), written);
    let open = File::open(mount.join("f")).unwrap();
    fs::remove_file(mount.join("f")).unwrap();
    assert_eq!(open.metadata().unwrap().nlink(), 0);
}
