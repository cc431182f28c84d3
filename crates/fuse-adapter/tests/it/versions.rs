//! Objects that are replaced while somebody reads them: never a byte of two versions.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::io::Errno;
use sluicefs_core::{FsConfig, Ttl};
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::memory::{Content, MemoryBucket, pattern};

use crate::support::{Program, TestMount, bucket, doubtful};

const LEN: u64 = (5 << 20) + 123;
const HALF: u64 = LEN / 2;

const SIGBUS: i32 = rustix::process::Signal::BUS.as_raw();

fn model() -> MemoryBucket {
    let bucket = bucket(&[("small.txt", "hello")]);
    bucket.put("model.bin", Content::Pattern { seed: 7, len: LEN });
    bucket
}

fn version(seed: u64) -> Vec<u8> {
    pattern(seed, ByteRange::new(0, LEN)).to_vec()
}

/// Reads what is left of the version 7 from `offset` on, and all before it again: each piece is of that version, or `ESTALE`.
fn reads_on_in_the_old_version(file: &File, offset: u64) {
    let old = version(7);
    for at in (offset..LEN).chain(0..offset).step_by(100_000) {
        let mut buffer = vec![0; 100_000];
        match file.read_at(&mut buffer, at) {
            Ok(got) => {
                assert!(got > 0, "the end at {at}");
                assert!(buffer[..got] == old[at as usize..][..got], "bytes of another version at {at}");
            }
            Err(error) => assert_eq!(Errno::from_io_error(&error), Some(Errno::STALE), "at {at}"),
        }
    }
}

#[test]
fn a_reader_keeps_its_version_while_others_read_the_next() {
    for config in [doubtful(), FsConfig::default(), believing()] {
        let store = model();
        let mount = TestMount::new(Arc::new(store.clone()), config);
        let mut reader = File::open(mount.join("model.bin")).unwrap();
        let mut half = vec![0; HALF as usize];
        reader.read_exact(&mut half).unwrap();
        assert!(half == version(7)[..HALF as usize]);
        let before = reader.metadata().unwrap();
        store.put("model.bin", Content::Pattern { seed: 8, len: LEN });
        assert!(fs::read(mount.join("model.bin")).unwrap() == version(8), "a new open sees the new version");
        reads_on_in_the_old_version(&reader, HALF);
        let (old, new) = (reader.metadata().unwrap(), fs::metadata(mount.join("model.bin")).unwrap());
        assert_eq!((old.ino(), old.len(), old.mtime()), (before.ino(), LEN, before.mtime()));
        assert_ne!(old.ino(), new.ino());
        assert!(fs::read(mount.join("model.bin")).unwrap() == version(8));
    }
}

/// A mount that asks the store as little as it may, but at each open of what was read.
fn believing() -> FsConfig {
    FsConfig { metadata_ttl: Ttl::Forever, ..FsConfig::default() }
}

#[test]
fn a_mapping_keeps_its_version_while_others_read_the_next() {
    let store = model();
    let mount = TestMount::new(Arc::new(store.clone()), FsConfig::default());
    let program = "import mmap, os, sys
f = open(sys.argv[1], 'rb')
m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
for at in range(0, len(m) // 2, 4096):
    os.write(1, m[at:at + 1])
sys.stdin.readline()
for at in range(0, len(m), 4096):
    os.write(1, m[at:at + 1])";
    let mut command = Command::new("python3");
    command.args(["-c", program]).arg(mount.join("model.bin")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut reader = Program(command.spawn().unwrap());
    let old: Vec<u8> = version(7).into_iter().step_by(4096).collect();
    let mut half = vec![0; HALF.div_ceil(4096) as usize];
    let mut output = reader.0.stdout.take().unwrap();
    output.read_exact(&mut half).unwrap();
    assert!(half == old[..half.len()]);
    store.put("model.bin", Content::Pattern { seed: 8, len: LEN });
    assert!(fs::read(mount.join("model.bin")).unwrap() == version(8));
    reader.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).unwrap();
    assert!(rest.len() >= half.len(), "the pages that were read are kept");
    assert!(rest == old[..rest.len()], "bytes of another version");
    let status = reader.0.wait().unwrap();
    // A page of the old version that nobody has any more cannot be had: the access is answered by SIGBUS.
    assert!(status.success() || status.signal() == Some(SIGBUS), "{status}");
}

#[test]
fn a_file_that_is_replaced_again_and_again_is_each_time_the_newest() {
    let store = model();
    let mount = TestMount::new(Arc::new(store.clone()), FsConfig::default());
    let mut readers = Vec::new();
    for seed in 10..20 {
        store.put("model.bin", Content::Pattern { seed, len: 70_000 });
        let reader = File::open(mount.join("model.bin")).unwrap();
        let expected = pattern(seed, ByteRange::new(0, 70_000));
        let mut first = vec![0; 70_000];
        reader.read_exact_at(&mut first, 0).unwrap();
        assert!(first == expected[..], "version {seed}");
        readers.push((reader, expected));
    }
    for (reader, expected) in &readers {
        let mut again = vec![0; 70_000];
        reader.read_exact_at(&mut again, 0).unwrap();
        assert!(again == expected[..], "its pages were not dropped");
    }
}

#[test]
fn the_next_open_sees_the_new_version() {
    let store = model();
    let mount = TestMount::new(Arc::new(store.clone()), doubtful());
    for content in ["first", "other", "longer than before", "short"] {
        store.put("small.txt", content);
        assert_eq!(fs::read_to_string(mount.join("small.txt")).unwrap(), content);
    }
}

#[test]
fn a_reader_never_gets_two_versions() {
    let store = model();
    let mount = TestMount::new(Arc::new(store.clone()), doubtful());
    let file = File::open(mount.join("model.bin")).unwrap();
    let mut buffer = vec![0; 4096];
    file.read_exact_at(&mut buffer, 0).unwrap();
    store.put("model.bin", Content::Pattern { seed: 8, len: LEN + 5000 });
    // Shows the kernel the new size.
    assert_eq!(fs::metadata(mount.join("model.bin")).unwrap().len(), LEN + 5000);
    let old = pattern(7, ByteRange::new(0, LEN));
    for offset in [0, 4096, LEN - 100, LEN, LEN + 1000] {
        let mut buffer = vec![0; 4096];
        match file.read_at(&mut buffer, offset) {
            Ok(got) => {
                let expected = &old[offset.min(LEN) as usize..(offset + got as u64).min(LEN) as usize];
                assert_eq!(&buffer[..got], expected, "{offset}: bytes that the open version does not have");
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(Errno::STALE.raw_os_error()), "{offset}")
            }
        }
    }
}

/// The versions of an object that is replaced all the time: each byte tells its version, and so does the length.
fn numbered(n: u8) -> Vec<u8> {
    let len = [70_000, 5, 4096, 1_200_000, 8191, 70_001][usize::from(n) % 6];
    vec![n; len]
}

/// Checks what one reader got: all of one version, or a part of one before an error.
fn check_numbered(read: &[u8], result: io::Result<usize>) {
    let Some(&n) = read.first() else { return };
    let expected = numbered(n);
    assert!(n > 0 && read.len() <= expected.len(), "{} bytes of version {n}", read.len());
    if let Some(at) = read.iter().position(|byte| *byte != n) {
        panic!("byte {} at {at} of {} in version {n} of {} bytes", read[at], read.len(), expected.len());
    }
    match result {
        Ok(_) => assert_eq!(read.len(), expected.len(), "version {n} ends early"),
        Err(error) => assert_eq!(Errno::from_io_error(&error), Some(Errno::STALE)),
    }
}

#[test]
fn readers_of_an_object_that_is_replaced_all_the_time_get_one_version_each() {
    for config in [doubtful(), FsConfig::default(), believing()] {
        let store = bucket(&[]);
        store.put("file", numbered(1));
        let mount = TestMount::new(Arc::new(store.clone()), config);
        let path = mount.join("file");
        let whole = AtomicU32::new(0);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for reader in 0..6 {
                let (path, whole, is_over) = (&path, &whole, &is_over);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        // Replaced twice between a look-up and its open, it is ESTALE.
                        let Ok(mut file) = File::open(path) else { continue };
                        if reader % 3 == 1 {
                            file.metadata().unwrap();
                            std::thread::yield_now();
                        }
                        let mut read = Vec::new();
                        let result = match reader % 3 {
                            0 => file.read_to_end(&mut read),
                            _ => BufReader::with_capacity(10_000, file).read_to_end(&mut read),
                        };
                        whole.fetch_add(u32::from(result.is_ok()), Ordering::Relaxed);
                        check_numbered(&read, result);
                    }
                });
            }
            for n in (2..=255).chain(2..=255) {
                store.put("file", numbered(n));
                // Until somebody has seen it, or nobody can.
                let seen = whole.load(Ordering::Relaxed);
                for _ in 0..100 {
                    if whole.load(Ordering::Relaxed) > seen {
                        break;
                    }
                    std::thread::yield_now();
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert!(whole.load(Ordering::Relaxed) > 100, "the readers got {whole:?} whole versions");
        assert_eq!(fs::read(&path).unwrap(), numbered(255));
    }
}
