//! Files that the kernel reads by itself from the cache on disk: when it does, when it must not, and that nobody can tell but by the time it takes.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::fs::OFlags;
use sluicefs_cache_dir::objects as disk;
use sluicefs_core::{Allow, DiskCacheConfig, FsConfig, ReadConfig, ReadStats};
use sluicefs_fuse::{MountConfig, Passthrough};
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::memory::{Content, MemoryBucket, pattern};
use tempfile::TempDir;

use crate::support::{Gate, TestMount, bucket, doubtful};

const LEN: u64 = (3 << 20) + 123;
const LIMIT: u64 = 64 << 20;

/// So often something is damaged, unless `SLUICEFS_DAMAGES` says another number.
const DAMAGES: u64 = 400;
/// And so often between two reads of so many objects.
const AT_ONCE: u64 = 20;
const OBJECTS: u64 = 40;

/// What tests wait for takes a moment; nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the kernel can do it at all; says so if not.
fn is_possible() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let is_possible = rustix::process::geteuid().is_root() && version >= (6, 9);
    if !is_possible {
        eprintln!("skipped: only root can let the kernel read other files, from Linux 6.9 on");
    }
    is_possible
}

fn version(seed: u64) -> Vec<u8> {
    pattern(seed, ByteRange::new(0, LEN)).to_vec()
}

fn models() -> MemoryBucket {
    let store = bucket(&[("small.txt", "hello")]);
    store.put("a", Content::Pattern { seed: 1, len: LEN });
    store.put("b", Content::Pattern { seed: 2, len: LEN });
    store
}

/// A read-only mount that believes nothing, with the cache in `directory`.
fn config(directory: &Path, limit_bytes: u64) -> FsConfig {
    let disk = DiskCacheConfig { directory: directory.to_owned(), limit_bytes, max_open_objects: 100 };
    let read = ReadConfig { disk: Some(disk), ..ReadConfig::default() };
    FsConfig { read, allow: Allow::NOTHING, ..doubtful() }
}

struct Rig {
    gate: Arc<Gate>,
    store: MemoryBucket,
    mount: TestMount,
}

impl Rig {
    fn new(cache: &TempDir) -> Self {
        Self::with(models(), config(cache.path(), LIMIT), |_| {})
    }

    fn with(store: MemoryBucket, config: FsConfig, edit: impl FnOnce(&mut MountConfig)) -> Self {
        let gate = Gate::new(store.clone());
        let mount = TestMount::with(Arc::clone(&gate) as _, config, edit);
        Self { gate, store, mount }
    }

    /// A mount through which `store` can be changed, as far as `config` allows it.
    fn writable(store: MemoryBucket, config: FsConfig) -> Self {
        let gate = Gate::new(store.clone());
        let mount = TestMount::with(Arc::new(store.clone()), config, |settings| settings.read_only = false);
        Self { gate, store, mount }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mount.join(name)
    }

    fn stats(&self) -> ReadStats {
        self.mount.fs.read_stats()
    }

    /// Waits for the kernel to let go of what was closed, and for `objects` to have been found right since the mount began.
    fn until_proven(&self, objects: u64) {
        let settled = async {
            while self.stats().disk.proven < objects {
                self.mount.fs.cache_settled().await;
                tokio::task::yield_now().await;
            }
        };
        let settled = async { tokio::time::timeout(PATIENCE, settled).await };
        self.mount.runtime().block_on(settled).unwrap_or_else(|_| panic!("{:?}", self.stats()));
    }

    /// Waits for the kernel to let go of what was closed.
    fn until_all_closed(&self) {
        let closed = async {
            while self.mount.fs.open_counts().0 > 0 {
                tokio::task::yield_now().await;
            }
        };
        let closed = async { tokio::time::timeout(PATIENCE, closed).await };
        self.mount.runtime().block_on(closed).expect("the kernel closes what nobody has open");
    }

    /// Fills the cache with `a` and `b`, which are known to be right then.
    fn fill(&self) {
        for (name, seed) in [("a", 1), ("b", 2)] {
            assert!(fs::read(self.path(name)).unwrap() == version(seed));
        }
        self.until_proven(2);
    }

    /// How much was read here: blocks, requests to the store and bytes of the disk; and how often a file began to be read by the kernel alone.
    fn asked(&self) -> ([u64; 3], u64) {
        let stats = self.stats();
        let blocks = stats.blocks_ready + stats.blocks_awaited + stats.blocks_missed;
        ([blocks, stats.gets, stats.disk.read_bytes], stats.disk.local_opens)
    }
}

#[test]
fn what_is_whole_and_right_is_read_by_the_kernel_alone() {
    let cache = TempDir::new().unwrap();
    let rig = Rig::new(&cache);
    if !is_possible() {
        return;
    }
    rig.fill();
    let (before, local) = rig.asked();
    assert_eq!(local, 0);
    assert!(fs::read(rig.path("a")).unwrap() == version(1));
    let mut file = File::open(rig.path("b")).unwrap();
    for offset in [0, 5, 4095, 1 << 20, LEN - 7, LEN, LEN + 100] {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(offset)).unwrap();
        (&file).take(70_000).read_to_end(&mut bytes).unwrap();
        let range = ByteRange::from_len(offset, 70_000).intersect(ByteRange::new(0, LEN));
        assert!(bytes == pattern(2, range), "{offset}");
    }
    assert_eq!(file.metadata().unwrap().len(), LEN);
    assert_eq!(rig.asked(), (before, 2));
    assert_eq!(fs::read_to_string(rig.path("small.txt")).unwrap(), "hello");
    assert_eq!(rig.stats().disk.local_opens, 2, "one request reads it");
}

#[test]
fn it_is_also_after_a_remount_at_the_first_open() {
    if !is_possible() {
        return;
    }
    let cache = TempDir::new().unwrap();
    Rig::new(&cache).fill();
    let rig = Rig::new(&cache);
    assert!(fs::read(rig.path("a")).unwrap() == version(1));
    assert_eq!(rig.gate.gets.load(Ordering::Relaxed), 0);
    assert_eq!(rig.asked(), ([0; 3], 1));
}

#[test]
fn mapped_files_and_several_programs_are_served_so_too() {
    if !is_possible() {
        return;
    }
    let cache = TempDir::new().unwrap();
    let rig = Rig::new(&cache);
    rig.fill();
    let (before, _) = rig.asked();
    let program = "import mmap, sys
with open(sys.argv[1], 'rb') as f:
    m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
sys.stdout.buffer.write(m)";
    let start = |command: &mut Command| command.arg(rig.path("a")).stdout(Stdio::piped()).spawn().unwrap();
    let children = [
        start(Command::new("python3").args(["-c", program])),
        start(&mut Command::new("cat")),
        start(Command::new("python3").args(["-c", program])),
    ];
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stdout == version(1));
    }
    let (after, local) = rig.asked();
    assert_eq!(after, before);
    assert!((1..=3).contains(&local), "{local}");
}

#[test]
fn all_handles_of_a_file_are_read_in_the_same_way() {
    if !is_possible() {
        return;
    }
    let cache = TempDir::new().unwrap();
    let rig = Rig::new(&cache);
    let ours = File::open(rig.path("a")).unwrap();
    rig.fill_while_open();
    // The file is proven by now, but somebody reads it through the kernel's pages.
    let second = File::open(rig.path("a")).unwrap();
    for file in [&ours, &second] {
        let mut bytes = vec![0; 1000];
        file.read_exact_at(&mut bytes, 2 << 20).unwrap();
        assert!(bytes == pattern(1, ByteRange::from_len(2 << 20, 1000)));
    }
    assert_eq!(rig.stats().disk.local_opens, 0);
    drop((ours, second));
    rig.until_all_closed();
    let local = File::open(rig.path("a")).unwrap();
    assert_eq!(rig.stats().disk.local_opens, 1);
    let (before, _) = rig.asked();
    let mut others: Vec<File> = (0..3).map(|_| File::open(rig.path("a")).unwrap()).collect();
    for file in others.iter_mut().chain([&mut &local].map(|file| file.try_clone().unwrap()).iter_mut()) {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert!(bytes == version(1));
    }
    assert_eq!(rig.asked(), (before, 1));
}

impl Rig {
    /// Reads `a` through a handle that is open already, and has it checked.
    fn fill_while_open(&self) {
        assert!(fs::read(self.path("a")).unwrap() == version(1));
        self.mount.runtime().block_on(self.mount.fs.cache_settled());
        let warmed = &disk::list(self.cache()).unwrap()[0];
        let warmed = until_proven(self.cache(), warmed);
        assert_eq!(warmed.right_bytes, LEN);
    }

    fn cache(&self) -> &Path {
        &self.mount.fs.config().read.disk.as_ref().unwrap().directory
    }
}

/// Verifies until the data was written long enough ago.
fn until_proven(cache: &Path, object: &disk::CachedObject) -> disk::Verified {
    loop {
        let verified = disk::verify(cache, object).unwrap();
        if verified.is_proven {
            return verified;
        }
    }
}

#[test]
fn reads_past_the_pages_work_at_any_place_beside_it() {
    if !is_possible() {
        return;
    }
    let cache = TempDir::new().unwrap();
    let rig = Rig::new(&cache);
    rig.fill();
    let direct = || {
        let mut options = File::options();
        options.read(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(rig.path("a")).unwrap()
    };
    let check = |file: &File| {
        for offset in [0, 1, 512, 4097, LEN - 3] {
            let mut bytes = vec![0; 10_000];
            let got = file.read_at(&mut bytes, offset).unwrap();
            let range = ByteRange::from_len(offset, 10_000).intersect(ByteRange::new(0, LEN));
            assert!(bytes[..got] == pattern(1, range), "{offset}");
        }
    };
    let first = direct();
    check(&first);
    assert_eq!(rig.stats().disk.local_opens, 0);
    drop(first);
    rig.until_all_closed();
    let local = File::open(rig.path("a")).unwrap();
    assert_eq!(rig.stats().disk.local_opens, 1);
    check(&direct());
    check(&local);
}

#[test]
fn another_version_has_another_number_and_the_old_one_stays_as_it_was() {
    if !is_possible() {
        return;
    }
    let cache = TempDir::new().unwrap();
    let rig = Rig::new(&cache);
    rig.fill();
    let old = File::open(rig.path("a")).unwrap();
    assert_eq!(rig.stats().disk.local_opens, 1);
    // Not a byte was asked of us, and still its version is this one for good.
    rig.store.put("a", Content::Pattern { seed: 9, len: LEN });
    assert!(fs::read(rig.path("a")).unwrap() == version(9));
    let mut bytes = Vec::new();
    (&old).read_to_end(&mut bytes).unwrap();
    assert!(bytes == version(1));
    rig.until_proven(3);
    assert!(fs::read(rig.path("a")).unwrap() == version(9));
    assert_eq!(rig.stats().disk.local_opens, 2);
}

#[test]
fn what_is_open_so_is_not_evicted() {
    if !is_possible() {
        return;
    }
    let cache = TempDir::new().unwrap();
    let store = models();
    for n in 0..8 {
        store.put(&format!("other{n}"), Content::Pattern { seed: 100 + n, len: LEN });
    }
    let rig = Rig::with(store, config(cache.path(), 8 << 20), |_| {});
    rig.fill();
    let open = File::open(rig.path("a")).unwrap();
    assert_eq!(rig.stats().disk.local_opens, 1);
    for n in 0..8 {
        assert!(fs::read(rig.path(&format!("other{n}"))).unwrap() == version(100 + n));
    }
    let keys = |rig: &Rig| {
        rig.mount.runtime().block_on(rig.mount.fs.cache_settled());
        let objects = disk::list(cache.path()).unwrap();
        objects.into_iter().map(|object| object.identity.unwrap().key).collect::<Vec<_>>()
    };
    assert!(
        keys(&rig).contains(&"a".to_owned()) && !keys(&rig).contains(&"b".to_owned()),
        "{:?}",
        keys(&rig)
    );
    let mut bytes = Vec::new();
    (&open).read_to_end(&mut bytes).unwrap();
    assert!(bytes == version(1));
    drop(open);
    rig.until_all_closed();
    // While everything was in use nothing was kept, and for a moment after that.
    let is_gone = (8..1000).any(|n| {
        rig.store.put(&format!("other{n}"), Content::Pattern { seed: 100 + n, len: LEN });
        assert!(fs::read(rig.path(&format!("other{n}"))).unwrap() == version(100 + n));
        !keys(&rig).contains(&"a".to_owned())
    });
    assert!(is_gone);
}

#[test]
fn where_objects_can_be_overwritten_or_nobody_wants_it_reads_come_here() {
    let cache = TempDir::new().unwrap();
    let changing = FsConfig { allow: Allow::ALL, ..config(cache.path(), LIMIT) };
    let reading = config(cache.path(), LIMIT);
    for (config, passthrough) in [(changing, Passthrough::WherePossible), (reading, Passthrough::Off)] {
        let rig = Rig::with(models(), config, |settings| {
            settings.read_only = false;
            settings.passthrough = passthrough;
        });
        for _ in 0..2 {
            assert!(fs::read(rig.path("a")).unwrap() == version(1));
            rig.until_all_closed();
            rig.mount.runtime().block_on(rig.mount.fs.cache_settled());
            until_proven(cache.path(), &disk::list(cache.path()).unwrap()[0]);
        }
        assert_eq!(rig.stats().disk.local_opens, 0);
    }
}

#[test]
fn what_is_written_here_is_read_here_until_it_is_closed() {
    if !is_possible() {
        return;
    }
    let cache = TempDir::new().unwrap();
    let allow = Allow { overwrite: false, ..Allow::ALL };
    let config = FsConfig { allow, ..config(cache.path(), LIMIT) };
    let rig = Rig::writable(models(), config);
    let script = r#"
        exec 3> new
        cat right >&3
        cmp new right
        exec 3>&-
        cmp new right"#;
    let right = TempDir::new().unwrap();
    fs::write(right.path().join("right"), version(5)).unwrap();
    let script = script.replace("right", right.path().join("right").to_str().unwrap());
    let done = Command::new("sh").args(["-ec", &script]).current_dir(rig.mount.path()).status().unwrap();
    assert!(done.success());
    // From the store, past the pages that were written.
    let mut options = File::options();
    let direct = options.read(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(rig.path("new"));
    let mut bytes = Vec::new();
    direct.unwrap().read_to_end(&mut bytes).unwrap();
    assert!(bytes == version(5));
    rig.until_proven(1);
    assert!(fs::read(rig.path("new")).unwrap() == version(5));
    assert_eq!(rig.stats().disk.local_opens, 1);
    assert!(File::options().write(true).open(rig.path("new")).is_err(), "it is an object now");
}

/// The files of all objects.
fn files(cache: &Path) -> Vec<PathBuf> {
    let shelves = fs::read_dir(cache.join("objects")).unwrap().map(|shelf| shelf.unwrap().path());
    let mut files: Vec<PathBuf> =
        shelves.flat_map(|shelf| fs::read_dir(shelf).unwrap()).map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// Damages a file, mostly one of data, as a broken disk, or a person, would; tells how.
fn damage(cache: &Path, random: &mut StdRng) -> String {
    let files = files(cache);
    let pick = |random: &mut StdRng| files[random.random_range(0..files.len())].clone();
    let (path, other) = (pick(random), pick(random));
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let len = file.metadata().unwrap().len();
    let at = random.random_range(0..len.max(1));
    let kind = random.random_range(0..8);
    match kind {
        0 => file.set_len(at).unwrap(),
        1 => file.set_len(len + 5).unwrap(),
        2 => fs::remove_file(&path).unwrap(),
        3 if path != other => _ = fs::copy(&other, &path).unwrap(),
        4 if path != other => {
            let between = path.with_extension("between");
            fs::rename(&path, &between).unwrap();
            fs::rename(&other, &path).unwrap();
            fs::rename(&between, &other).unwrap();
        }
        5 => {
            let mut block = vec![0; 128 << 10];
            let got = File::open(&other).unwrap().read_at(&mut block, 0).unwrap();
            file.write_all_at(&block[..got], at / (128 << 10) * (128 << 10)).unwrap();
        }
        _ => {
            let mut byte = [0];
            file.read_at(&mut byte, at).unwrap();
            byte[0] ^= 1 << random.random_range(0..8);
            file.write_all_at(&byte, at).unwrap();
        }
    }
    format!("{kind} at {at} of {}, other {}", path.display(), other.display())
}

#[test]
fn no_damage_shows_in_what_the_kernel_reads() {
    if !is_possible() {
        return;
    }
    let number =
        |name: &str| std::env::var_os(name).map(|text| text.to_str().unwrap().parse::<u64>().unwrap());
    let seed = number("SLUICEFS_SEED").unwrap_or_else(rand::random);
    let damages = number("SLUICEFS_DAMAGES").unwrap_or(DAMAGES);
    eprintln!("SLUICEFS_SEED={seed} SLUICEFS_DAMAGES={damages}");
    let mut random = StdRng::seed_from_u64(seed);
    let cache = TempDir::new().unwrap();
    let store = bucket(&[]);
    let len = |n: u64| (128 << 10) + 1 + n * 5000;
    for n in 0..OBJECTS {
        store.put(&format!("m{n}"), Content::Pattern { seed: n, len: len(n) });
    }
    // A mount of its own each time: what the one before read is in its memory, and in the kernel's pages.
    let read_all = |when: &str| {
        let rig = Rig::with(store.clone(), config(cache.path(), LIMIT), |_| {});
        for n in 0..OBJECTS {
            let bytes = fs::read(rig.path(&format!("m{n}")));
            let bytes = bytes.unwrap_or_else(|error| panic!("SLUICEFS_SEED={seed}, {when}: m{n}: {error}"));
            let right = pattern(n, ByteRange::new(0, len(n)));
            assert!(bytes == right, "SLUICEFS_SEED={seed}, {when}: wrong bytes of m{n}");
        }
        rig.until_all_closed();
        rig.mount.runtime().block_on(rig.mount.fs.cache_settled());
        rig.stats().disk
    };
    let rounds = damages / AT_ONCE;
    let (mut local, mut damaged) = (0, 0);
    read_all("before");
    for round in 0..rounds {
        let done: Vec<String> = (0..AT_ONCE).map(|_| damage(cache.path(), &mut random)).collect();
        let stats = read_all(&format!("round {round}, {done:#?}"));
        assert_eq!(stats.errors, 0, "SLUICEFS_SEED={seed}, round {round}, {done:#?}");
        (local, damaged) = (local + stats.local_opens, damaged + stats.damaged);
    }
    let (damages, reads) = (rounds * AT_ONCE, rounds * OBJECTS);
    eprintln!(
        "{damages} times something was damaged: {local} of {reads} reads were the kernel's alone, {damaged} blocks and objects were found"
    );
    assert!(
        local > reads / 4 && damaged > damages / 4,
        "SLUICEFS_SEED={seed}: {local} of {reads}, {damaged}"
    );
}
