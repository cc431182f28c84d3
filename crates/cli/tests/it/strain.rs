//! The cache on disk under strain: mounts that are killed while they fill it, several at once, a disk that is too small.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal};
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::Content;
use sluicefs_s3_client::testing::memory::pattern;
use tokio::time::Instant;

use crate::sandbox::{Foreground, LIMIT, Listen, Sandbox, has_ended, run};

const MIB: u64 = 1 << 20;

/// So often a mount is killed while it fills the cache, unless `SLUICEFS_KILLS` says another number.
const KILLS: u64 = 20;

/// Objects `m0`, `m1`, ... of `len` bytes each, and beside the mount point what they must be, in `right/`.
fn models(sandbox: &Sandbox, count: u64, len: u64) {
    fs::create_dir(sandbox.path("right")).unwrap();
    for seed in 0..count {
        let name = format!("m{seed}");
        sandbox.bucket.put(&name, Content::Pattern { seed, len });
        fs::write(sandbox.path("right").join(name), pattern(seed, ByteRange::new(0, len))).unwrap();
    }
}

fn mount(sandbox: &Sandbox, target: &Path, options: &[&str]) -> Foreground {
    let mut command = sandbox.sluicefs([
        "mount",
        "--foreground",
        "--read-only",
        "--endpoint-url",
        &sandbox.server.endpoint_url(),
    ]);
    command.arg("--state-dir").arg(sandbox.path("state")).arg("--cache").arg(sandbox.path("cache"));
    command.args(options).arg("models").arg(target);
    let mut mount = Foreground::start(command, Listen::Stderr);
    mount.wait_for(" mounted");
    mount
}

/// A shell below the sandbox. It is killed if it outlives this.
struct Shell(Child);

impl Shell {
    fn start(sandbox: &Sandbox, script: &str) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-ec", script]).current_dir(sandbox.path("")).stdin(Stdio::null());
        Self(shell.spawn().unwrap())
    }

    fn has_ended(&self, limit: Duration) -> bool {
        has_ended(Pid::from_child(&self.0), limit)
    }

    /// Whether it succeeded.
    fn end(&mut self) -> bool {
        assert!(self.has_ended(LIMIT), "it hangs");
        self.0.wait().unwrap().success()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn cache(sandbox: &Sandbox, what: &str) -> crate::sandbox::Outcome {
    let mut command = sandbox.sluicefs(["cache", what]);
    command.arg(sandbox.path("cache"));
    run(command)
}

/// Kills a mount at random moments while it fills the cache, which has room for everything or not: what was read until then is right, what
/// the next one reads is, and nothing on disk is damaged.
#[test]
fn a_mount_that_is_killed_while_it_fills_the_cache_leaves_nothing_wrong() {
    let number =
        |name: &str| std::env::var_os(name).map(|text| text.to_str().unwrap().parse::<u64>().unwrap());
    let seed = number("SLUICEFS_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    let kills = number("SLUICEFS_KILLS").unwrap_or(KILLS);
    eprintln!("SLUICEFS_SEED={seed} SLUICEFS_KILLS={kills}");
    let mut random = StdRng::seed_from_u64(seed);
    let sandbox = Sandbox::new();
    models(&sandbox, 3, 8 * MIB);
    let right =
        (0..3).flat_map(|seed| pattern(seed, ByteRange::new(0, 8 * MIB)).to_vec()).collect::<Vec<_>>();
    let read_all = |options: &[&str]| {
        let began = Instant::now();
        let mut living = mount(&sandbox, &sandbox.target(), options);
        assert!(Shell::start(&sandbox, "for m in m0 m1 m2; do cmp mnt/$m right/$m; done").end());
        living.signal(Signal::TERM);
        living.wait();
        began.elapsed()
    };
    let whole = read_all(&[]);
    cache(&sandbox, "clear").expect_success();
    let mut begun = 0;
    for kill in 0..kills {
        // 15 of 24 MiB: something goes while something comes.
        let options: &[&str] = if random.random() { &["--max-cache-size", "15"] } else { &[] };
        let mut living = mount(&sandbox, &sandbox.target(), options);
        let mut reader = Shell::start(&sandbox, "exec cat mnt/m0 mnt/m1 mnt/m2 > read 2> /dev/null");
        reader.has_ended(whole.mul_f64(random.random_range(0.0..1.0)));
        living.signal(Signal::KILL);
        living.wait();
        reader.end();
        let read = fs::read(sandbox.path("read")).unwrap();
        begun += u64::from(!read.is_empty());
        let when = format!("SLUICEFS_SEED={seed}, kill {kill}, {} bytes read", read.len());
        assert!(right.starts_with(&read), "{when}");
        let verified = cache(&sandbox, "verify");
        assert_eq!(verified.code, Some(0), "{when}: {verified:?}");
        match random.random_range(0..4) {
            0 => _ = cache(&sandbox, "clear").expect_success(),
            1 => _ = read_all(options),
            _ => {}
        }
    }
    assert!(begun > kills / 4, "only {begun} of {kills} mounts were read from before they were killed");
    read_all(&[]);
    read_all(&[]);
    let verified = cache(&sandbox, "verify").expect_success().stdout;
    assert_eq!(verified, format!("{} bytes are right, 0 blocks were damaged\n", 24 * MIB));
}

/// What the files below `path` take of the disk. Drafts of indices may go meanwhile.
fn disk_bytes(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    let below = metadata.is_dir().then(|| fs::read_dir(path).unwrap());
    let below = below.into_iter().flatten().map(|entry| disk_bytes(&entry.unwrap().path()));
    metadata.blocks() * 512 + below.sum::<u64>()
}

/// Two mounts fill one directory, in which not all has room, at the same time.
#[test]
fn two_mounts_that_fill_one_cache_give_the_right_bytes_and_keep_the_limit() {
    let sandbox = Sandbox::new();
    models(&sandbox, 8, 5 * MIB);
    let targets = [sandbox.target(), sandbox.path("mnt2")];
    fs::create_dir(&targets[1]).unwrap();
    let mut mounts: Vec<_> =
        targets.iter().map(|target| mount(&sandbox, target, &["--max-cache-size", "16"])).collect();
    let script = |target: &str, order: &str| {
        let script =
            format!("for round in 1 2 3; do for m in {order}; do cmp {target}/$m right/$m; done; done");
        Shell::start(&sandbox, &script)
    };
    let mut readers = [script("mnt", "m0 m1 m2 m3 m4 m5 m6 m7"), script("mnt2", "m7 m0 m5 m1 m3 m2 m6 m4")];
    let count = File::open(sandbox.path("cache/quota")).unwrap();
    let (mut most, mut looks) = (0, 0);
    while !readers.iter().all(|reader| reader.has_ended(Duration::ZERO)) {
        // With the count locked nothing goes, and nothing comes but what was counted: what went during a look would be seen beside what took
        // its place.
        flock(&count, FlockOperation::LockExclusive).unwrap();
        most = most.max(disk_bytes(&sandbox.path("cache/objects")));
        flock(&count, FlockOperation::Unlock).unwrap();
        looks += 1;
    }
    assert!(readers.iter_mut().all(Shell::end), "wrong bytes");
    for mount in &mut mounts {
        mount.signal(Signal::TERM);
        mount.wait();
    }
    eprintln!("{looks} looks while both filled it: at most {most} bytes");
    assert!(looks > 10 && (8 * MIB..=16 * MIB).contains(&most), "{most} bytes in {looks} looks");
    cache(&sandbox, "verify").expect_success();
}

/// The loop device of an image. It is let go if it is still there.
struct Loop(PathBuf);

impl Loop {
    /// Its name, if there is one.
    fn name(&self) -> Option<String> {
        let output = Command::new("losetup").arg("--associated").arg(&self.0).output().unwrap();
        let line = String::from_utf8(output.stdout).unwrap();
        line.split_once(':').map(|(name, _)| name.to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Some(name) = self.name() {
            let gone = Command::new("losetup").arg("--detach").arg(&name).status();
            eprintln!("{name} was left behind; detached: {gone:?}");
        }
    }
}

/// A cache on a disk of 64 MiB of its own: 80 MiB are read through it, and others fill it.
#[test]
fn reads_go_on_when_the_disk_of_the_cache_is_full() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can mount a disk");
        return;
    }
    let sandbox = Sandbox::new();
    models(&sandbox, 5, 16 * MIB);
    let image = sandbox.path("image");
    File::create(&image).unwrap().set_len(64 * MIB).unwrap();
    let device = Loop(image);
    let script = r#"
        mkfs.ext4 -q -E nodiscard image
        mkdir cache
        pid=
        leave() {
            umount -l "$T" 2> /dev/null || true
            if [ -n "$pid" ]; then kill -KILL "$pid" 2> /dev/null || true; wait "$pid" || true; fi
            umount cache || true
        }
        trap leave EXIT
        mount -o loop image cache
        chmod 700 cache
        start() {
            "$B" mount --foreground --read-only --endpoint-url "$U" --state-dir state --cache cache models "$T" &
            pid=$!
            until mountpoint -q "$T"; do kill -0 "$pid"; done
        }
        stop() { "$B" unmount "$T"; wait "$pid"; pid=; }
        read_all() { for m in m0 m1 m2 m3 m4; do cmp "$T/$m" "right/$m"; done; }
        start
        read_all
        stop
        "$B" cache verify cache
        df --block-size=1 --output=avail cache | tail -1
        head -c 64M /dev/zero > cache/others 2> /dev/null || true
        start
        read_all
        rm cache/others
        read_all
        stop
        "$B" cache verify cache
        echo all read"#;
    let shell = ["--mount", "--propagation", "private", "sh", "-ec", script];
    let mut command = sandbox.program("/usr/bin/unshare".as_ref(), shell);
    command
        .env("B", env!("CARGO_BIN_EXE_sluicefs"))
        .env("U", sandbox.server.endpoint_url())
        .env("T", sandbox.target());
    let outcome = run(command);
    assert_eq!(device.name(), None, "{outcome:#?}");
    let outcome = outcome.expect_success();
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert!(lines[0].ends_with(" bytes are right, 0 blocks were damaged"), "{outcome:?}");
    let free: u64 = lines[1].trim().parse().unwrap();
    assert!((2 * MIB..32 * MIB).contains(&free), "{outcome:?}");
    assert!(lines[2].ends_with(" bytes are right, 0 blocks were damaged"), "{outcome:?}");
    assert_eq!(lines.last(), Some(&"all read"), "{outcome:?}");
}
