//! Bytes come out as they went in, whoever asks and however.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sluicefs_core::FsConfig;
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::memory::{Content, MemoryBucket, pattern};

use crate::support::{Gate, TestMount, bucket, doubtful};

const LEN: u64 = (5 << 20) + 123;

fn model() -> MemoryBucket {
    let bucket = bucket(&[("small.txt", "hello"), ("dir/empty", "")]);
    bucket.put("model.bin", Content::Pattern { seed: 7, len: LEN });
    bucket
}

#[test]
fn whole_files_read_back_exactly() {
    let mount = TestMount::new(Arc::new(model()), FsConfig::default());
    assert_eq!(fs::read(mount.join("small.txt")).unwrap(), b"hello");
    assert_eq!(fs::read(mount.join("dir/empty")).unwrap(), b"");
    let whole = fs::read(mount.join("model.bin")).unwrap();
    assert!(whole == pattern(7, ByteRange::new(0, LEN)), "other bytes came out");
}

#[test]
fn stat_shows_size_mode_and_owner() {
    let config = FsConfig { uid: 12, gid: 34, file_mode: 0o640, dir_mode: 0o750, ..FsConfig::default() };
    let mount = TestMount::new(Arc::new(model()), config);
    let file = fs::metadata(mount.join("model.bin")).unwrap();
    assert_eq!((file.len(), file.mode(), file.uid(), file.gid()), (LEN, 0o100_640, 12, 34));
    assert_eq!((file.blksize(), file.blocks()), (1 << 20, LEN.div_ceil(512)));
    let dir = fs::metadata(mount.join("dir")).unwrap();
    assert_eq!((dir.mode(), dir.is_dir()), (0o40_750, true));
    assert!(file.mtime() > 1_500_000_000, "the object was written just now");
}

#[test]
fn reads_at_any_offset_give_those_bytes() {
    let mount = TestMount::new(Arc::new(model()), FsConfig::default());
    let file = File::open(mount.join("model.bin")).unwrap();
    for (offset, len) in
        [(0, 1), (LEN - 1, 1), (4095, 2), ((1 << 20) - 3, 7), (3 << 20, 1 << 20), (LEN - 5, 100), (LEN, 10)]
    {
        let mut buffer = vec![0; len as usize];
        let got = file.read_at(&mut buffer, offset).unwrap();
        let expected = pattern(7, ByteRange::from_len(offset, len).intersect(ByteRange::new(0, LEN)));
        assert_eq!(&buffer[..got], &expected[..], "{offset}+{len}");
    }
    assert_eq!(file.read_at(&mut [0; 4], LEN + (1 << 30)).unwrap(), 0);
}

#[test]
fn unbuffered_reads_give_the_same_bytes() {
    let mount = TestMount::new(Arc::new(model()), FsConfig::default());
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECT;
    let file =
        File::from(rustix::fs::open(mount.join("model.bin"), flags, rustix::fs::Mode::empty()).unwrap());
    for offset in [0, 512, (1 << 20) - 512, 3 << 20] {
        let mut buffer = vec![0; 1 << 20];
        file.read_exact_at(&mut buffer, offset).unwrap();
        assert!(buffer == pattern(7, ByteRange::from_len(offset, 1 << 20)), "{offset}");
    }
}

#[test]
fn many_readers_of_one_file_get_their_own_bytes() {
    let mount = TestMount::new(Arc::new(model()), FsConfig::default());
    let file = File::open(mount.join("model.bin")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let file = &file;
            scope.spawn(move || {
                for step in 0..20_u64 {
                    let offset = (thread * 7919 + step * 271_829) % (LEN - 70_000);
                    let mut buffer = vec![0; 70_000];
                    file.read_exact_at(&mut buffer, offset).unwrap();
                    assert!(buffer == pattern(7, ByteRange::from_len(offset, 70_000)), "{offset}");
                }
            });
        }
    });
}

#[test]
fn mapped_files_show_the_same_bytes() {
    let mount = TestMount::new(Arc::new(model()), FsConfig::default());
    let program = "import mmap, sys
with open(sys.argv[1], 'rb') as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
    at = [(i * 2654435761) % len(m) for i in range(300)]
    sys.stdout.buffer.write(bytes(m[i] for i in at))";
    let output = Command::new("python3").args(["-c", program]).arg(mount.join("model.bin")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let whole = pattern(7, ByteRange::new(0, LEN));
    let expected: Vec<u8> = (0..300_u64).map(|i| whole[(i * 2_654_435_761 % LEN) as usize]).collect();
    assert_eq!(output.stdout, expected);
}

#[test]
fn pages_of_the_same_version_are_kept_from_open_to_open() {
    let gate = Gate::new(model());
    let mount = TestMount::new(Arc::clone(&gate) as _, doubtful());
    let first = fs::read(mount.join("model.bin")).unwrap();
    let fetched = gate.gets.load(Ordering::Relaxed);
    assert!(fetched > 0);
    assert!(fs::read(mount.join("model.bin")).unwrap() == first);
    assert_eq!(gate.gets.load(Ordering::Relaxed), fetched, "the second reader went to the store");
}
