//! Damage of every kind done to the cache on disk, again and again: no wrong byte comes of it, no error, and all of it is counted.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sluicefs_core::{DiskCacheConfig, DiskStats, Ended, FileSystem, FsConfig, InodeNo, ReadConfig};
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::memory::{Content, MemoryBucket, pattern};
use tempfile::TempDir;

/// So often something is damaged, unless `SLUICEFS_DAMAGES` says another number.
const DAMAGES: u64 = 500;

/// The objects and their lengths: two that could stand for each other, and one of a single block.
const MODELS: [(&str, u64); 3] = [("a", 700 * 1024 + 5), ("b", 700 * 1024 + 5), ("c", 4096)];

const BLOCK: usize = 128 << 10;
/// Where the checksums of the blocks begin in an index, each of so many bytes.
const HEAD: usize = 4096;
const RECORD: usize = 8;
/// Where the head tells its length, and how long it is before that which the length counts.
const LENGTH_AT: usize = 16;
const FIXED: usize = 20;

fn bucket() -> MemoryBucket {
    let bucket = MemoryBucket::new("test");
    for (seed, (key, len)) in (1..).zip(MODELS) {
        bucket.put(key, Content::Pattern { seed, len });
    }
    bucket
}

/// Reads everything through a mount of its own, which has ended with all its threads when this returns.
fn read_all(cache: &Path, when: &str) -> DiskStats {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let disk =
            DiskCacheConfig { directory: cache.to_owned(), limit_bytes: 64 << 20, max_open_objects: 10 };
        let read = ReadConfig { disk: Some(disk), ..ReadConfig::default() };
        let fs = FileSystem::new(Arc::new(bucket()), FsConfig { read, ..FsConfig::default() }).unwrap();
        for (seed, (key, len)) in (1..).zip(MODELS) {
            let ino = fs.lookup(InodeNo::ROOT, key).await.unwrap().attr.ino;
            let handle = fs.open(ino).await.unwrap().handle;
            let range = ByteRange::new(0, len);
            let data = fs.read(handle, range).await.unwrap_or_else(|error| panic!("{when}: {key}: {error}"));
            let bytes = data.slices().collect::<Vec<_>>().concat();
            assert!(bytes == pattern(seed, range), "{when}: wrong bytes of {key}");
            fs.release(handle);
        }
        fs.finish(Ended::Unmounted, Duration::from_secs(60)).await;
        fs.read_stats().disk
    })
}

/// The two files of an object, and what they must have.
struct Object {
    data: PathBuf,
    index: PathBuf,
    bytes: Vec<u8>,
    right_index: Vec<u8>,
}

/// The objects in the cache, which are all there and right.
fn objects(cache: &Path) -> Vec<Object> {
    let indices = files(cache).into_iter().filter(|path| path.extension().is_some_and(|e| e == "index"));
    let object = |index: PathBuf| {
        let data = index.with_extension("data");
        Object { bytes: fs::read(&data).unwrap(), right_index: fs::read(&index).unwrap(), data, index }
    };
    indices.map(object).collect()
}

impl Object {
    /// How much of it a mount must find damaged.
    fn damaged(&self) -> u64 {
        let Some(index) = read_if_there(&self.index) else { return 0 };
        let len = u32::from_le_bytes(*self.right_index[LENGTH_AT..].first_chunk().unwrap()) as usize;
        let head = ..FIXED + len;
        let Some(data) = read_if_there(&self.data) else { return 0 };
        if index.len() < HEAD || index[head] != self.right_index[head] {
            return 1;
        }
        let is_damaged = |(n, right): (usize, &[u8])| {
            let record = HEAD + n * RECORD..HEAD + (n + 1) * RECORD;
            let mut found = index.get(record.start..).unwrap_or_default().to_vec();
            found.resize(RECORD, 0);
            // What was cut off, or is beyond it, reads as zeros once the file has its length again.
            let mut bytes = data.get(n * BLOCK..).unwrap_or_default().to_vec();
            bytes.resize(right.len(), 0);
            found != [0; RECORD] && (found != self.right_index[record] || bytes != right)
        };
        self.bytes.chunks(BLOCK).enumerate().filter(|block| is_damaged(*block)).count() as u64
    }
}

fn read_if_there(path: &Path) -> Option<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        read => Some(read.unwrap()),
    }
}

/// All files but those of mounts that live.
fn files(cache: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![cache.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            match entry.path() {
                path if path.ends_with("leases") => {}
                path if path.is_dir() => directories.push(path),
                path => files.push(path),
            }
        }
    }
    files.sort();
    files
}

/// Damages something as a broken disk, or a person, would; tells what.
fn damage(cache: &Path, random: &mut StdRng) -> String {
    let files = files(cache);
    let path = &files[random.random_range(0..files.len())];
    let other = &files[random.random_range(0..files.len())];
    let file = File::options().read(true).write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    let at = random.random_range(0..len.max(1));
    let piece = random.random_range(1..=8192);
    let what = match random.random_range(0..10) {
        0 => {
            file.set_len(at).unwrap();
            "cut"
        }
        1 => {
            file.set_len(len + piece).unwrap();
            "made longer"
        }
        2 => {
            file.write_all_at(&vec![0; piece as usize], at).unwrap();
            "zeroed"
        }
        3 => {
            fs::remove_file(path).unwrap();
            "removed"
        }
        4 => {
            // Onto itself it would be cut to nothing, which is "cut" already.
            if path != other {
                fs::copy(other, path).unwrap();
            }
            "replaced"
        }
        5 => {
            swap_files(path, other);
            "swapped"
        }
        6 => {
            let kind = path.extension().unwrap_or_default().to_owned();
            for half in ["data", "index"].iter().filter(|_| kind == "data" || kind == "index") {
                let (one, two) = (path.with_extension(half), other.with_extension(half));
                if one.exists() && two.exists() {
                    swap_files(&one, &two);
                }
            }
            "swapped as a whole object"
        }
        7 => {
            let other = File::options().read(true).write(true).open(other).unwrap();
            swap_blocks(&file, &other, random);
            "given another's block"
        }
        _ => {
            let mut byte = [0];
            file.read_at(&mut byte, at).unwrap();
            byte[0] ^= 1 << random.random_range(0..8);
            file.write_all_at(&byte, at).unwrap();
            "flipped"
        }
    };
    format!("{} at {at}, {what}; other {}", path.display(), other.display())
}

fn swap_files(one: &Path, two: &Path) {
    if one != two {
        let between = one.with_extension("between");
        fs::rename(one, &between).unwrap();
        fs::rename(two, one).unwrap();
        fs::rename(&between, two).unwrap();
    }
}

/// Swaps a block of each, in their own places or in others.
fn swap_blocks(one: &File, two: &File, random: &mut StdRng) {
    let mut blocks = [vec![0; BLOCK], vec![0; BLOCK]];
    let mut places = [0; 2];
    for ((file, block), place) in [one, two].into_iter().zip(&mut blocks).zip(&mut places) {
        let len = file.metadata().unwrap().len();
        *place = random.random_range(0..=len / BLOCK as u64) * BLOCK as u64;
        let read = file.read_at(block, *place).unwrap();
        block.truncate(read);
    }
    one.write_all_at(&blocks[1], places[0]).unwrap();
    two.write_all_at(&blocks[0], places[1]).unwrap();
}

#[test]
fn no_damage_shows_in_what_is_read_and_all_of_it_is_counted() {
    let number =
        |name: &str| std::env::var_os(name).map(|text| text.to_str().unwrap().parse::<u64>().unwrap());
    let seed = number("SLUICEFS_SEED").unwrap_or_else(rand::random);
    let damages = number("SLUICEFS_DAMAGES").unwrap_or(DAMAGES);
    eprintln!("SLUICEFS_SEED={seed} SLUICEFS_DAMAGES={damages}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = TempDir::new().unwrap();
    read_all(dir.path(), "before");
    let objects = objects(dir.path());
    assert_eq!(objects.len(), MODELS.len());
    let mut found = 0;
    for round in 0..damages {
        let what = damage(dir.path(), &mut random);
        let expected: u64 = objects.iter().map(Object::damaged).sum();
        let when = format!("SLUICEFS_SEED={seed}, round {round}: {what}");
        let stats = read_all(dir.path(), &when);
        assert_eq!((stats.errors, stats.damaged), (0, expected), "{when}");
        found += expected;
    }
    eprintln!("{damages} times something was damaged: {found} blocks and objects, none of which was read");
    assert!(found > damages / 5, "seed {seed}: only {found} showed");
}
