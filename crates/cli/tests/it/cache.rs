//! `--cache` for what is read, and `sluicefs cache`.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::process::Signal;
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::Content;
use sluicefs_s3_client::testing::memory::pattern;

use crate::sandbox::{Foreground, Listen, Outcome, Sandbox, run};
use crate::status::status_of;

const LEN: u64 = 5 << 20;

struct Rig {
    sandbox: Sandbox,
    cache: PathBuf,
}

impl Rig {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        sandbox.bucket.put("model", Content::Pattern { seed: 7, len: LEN });
        let cache = sandbox.path("cache");
        Self { sandbox, cache }
    }

    fn dir(&self) -> &str {
        self.cache.to_str().unwrap()
    }

    /// Reads the model through a mount of its own that is ended by `signal`.
    fn read(&self, signal: Signal) {
        let options = ["--foreground", "--read-only", "--cache", self.dir()];
        let mut mount = Foreground::start(self.sandbox.mount(&options), Listen::Stderr);
        mount.wait_for(" mounted");
        let expected = pattern(7, ByteRange::new(0, LEN));
        assert!(fs::read(self.sandbox.target().join("model")).unwrap() == expected);
        mount.signal(signal);
        mount.wait();
    }

    fn cache(&self, args: &[&str]) -> Outcome {
        let mut command = self.sandbox.sluicefs(["cache"]);
        command.args(args).arg(&self.cache);
        run(command)
    }

    fn gets(&self) -> u64 {
        self.sandbox.server.requests().of(sluicefs_embedded_s3::Operation::Get)
    }
}

pub(crate) fn data_file(directory: &Path) -> PathBuf {
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            match entry.path() {
                path if path.is_dir() => directories.push(path),
                path if path.extension().is_some_and(|extension| extension == "data") => return path,
                _ => {}
            }
        }
    }
    panic!("nothing is cached");
}

#[test]
fn the_next_mount_reads_from_disk() {
    let rig = Rig::new();
    rig.read(Signal::TERM);
    let before = rig.gets();
    rig.read(Signal::KILL);
    rig.read(Signal::TERM);
    assert_eq!(rig.gets(), before);
}

#[test]
fn the_cache_is_listed_verified_and_cleared() {
    let rig = Rig::new();
    let none = rig.cache(&["list"]);
    assert_ne!(none.code, Some(0));
    assert!(none.stderr.contains("is no cache"), "{none:?}");
    rig.read(Signal::TERM);
    let listed = rig.cache(&["list"]).expect_success().stdout;
    assert!(listed.ends_with(" s3://models/model\n"), "{listed}");
    let listed = rig.cache(&["list", "--json"]).expect_success().stdout;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed["key"], &listed["size"]), (&"model".into(), &LEN.into()));
    let verified = rig.cache(&["verify"]).expect_success().stdout;
    assert_eq!(verified, format!("{LEN} bytes are right, 0 blocks were damaged\n"));
    File::options().write(true).open(data_file(&rig.cache)).unwrap().write_all_at(b"wrong", 1 << 20).unwrap();
    let damaged = rig.cache(&["verify"]);
    assert_ne!(damaged.code, Some(0));
    assert!(damaged.stderr.contains("taken out of the cache: s3://models/model"), "{damaged:?}");
    rig.read(Signal::TERM);
    rig.cache(&["verify"]).expect_success();
    let size = rig.cache(&["size"]).expect_success().stdout;
    assert!(size.starts_with("1 objects, "), "{size}");
    rig.cache(&["clear"]).expect_success();
    assert_eq!(rig.cache(&["size"]).expect_success().stdout, "0 objects, 0 bytes\n");
}

/// The model is read as a local file by the first open after it was checked.
#[test]
fn what_was_checked_once_is_read_by_the_kernel_alone() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can let the kernel read other files");
        return;
    }
    let rig = Rig::new();
    let passed_through = |options: &[&str]| {
        let options = [&["--foreground", "--read-only", "--cache", rig.dir()], options].concat();
        let mut mount = Foreground::start(rig.sandbox.mount(&options), Listen::Stderr);
        mount.wait_for(" mounted");
        assert!(fs::read(rig.sandbox.target().join("model")).unwrap() == pattern(7, ByteRange::new(0, LEN)));
        let status = status_of(&rig.sandbox);
        mount.signal(Signal::KILL);
        mount.wait();
        (status["disk_cache"]["passed_through"].as_u64(), status["gets"].as_u64())
    };
    // It may still be too young to be known for good, and be checked by the mounts meanwhile.
    let is_proven = || {
        (0..100).any(|_| {
            rig.cache(&["verify"]).expect_success();
            passed_through(&[]) == (Some(1), Some(0))
        })
    };
    let mut warm = rig.sandbox.sluicefs(["warm", "--cache", rig.dir()]);
    warm.args(["--endpoint-url", &rig.sandbox.server.endpoint_url(), "--include", "model", "models"]);
    run(warm).expect_success();
    assert!(is_proven());
    assert_eq!(passed_through(&["--no-passthrough"]), (Some(0), Some(0)));
    File::options().write(true).open(data_file(&rig.cache)).unwrap().set_len(LEN).unwrap();
    File::options()
        .write(true)
        .open(data_file(&rig.cache))
        .unwrap()
        .write_all_at(&pattern(7, ByteRange::new(0, 9)), 0)
        .unwrap();
    assert_eq!(passed_through(&[]), (Some(0), Some(0)), "somebody wrote to it");
    assert!(is_proven());
}

#[test]
fn a_cache_without_room_keeps_nothing() {
    let rig = Rig::new();
    let options = ["--foreground", "--read-only", "--cache", rig.dir(), "--max-cache-size", "0"];
    let mut mount = Foreground::start(rig.sandbox.mount(&options), Listen::Stderr);
    mount.wait_for(" mounted");
    fs::read(rig.sandbox.target().join("model")).unwrap();
    mount.signal(Signal::TERM);
    mount.wait();
    assert!(!rig.cache.join("objects").exists());
}

/// A cache on a file system of 16 MiB: 15.2 of it may be taken.
#[test]
fn a_small_disk_is_never_filled_and_a_full_one_does_not_show() {
    let rig = Rig::new();
    for model in ["a", "b", "c", "d"] {
        rig.sandbox.bucket.put(model, Content::Pattern { seed: 7, len: LEN });
    }
    fs::write(rig.sandbox.path("expected"), pattern(7, ByteRange::new(0, LEN))).unwrap();
    let script = r#"
        mkdir -m 700 cache
        mount -t tmpfs -o size=16m,mode=700 none cache
        start() { "$B" mount --read-only --no-passthrough --endpoint-url "$U" --state-dir state --cache cache models "$T"; }
        trap 'umount -l "$T" 2>/dev/null || true' EXIT
        start
        for model in a b c d; do cmp "$T/$model" expected; done
        "$B" unmount "$T"
        "$B" cache list cache | sed 's/.* //'
        df --block-size=1 --output=avail cache | tail -1
        head -c 16M /dev/zero > cache/others || true
        start
        for model in a b c d; do cmp "$T/$model" expected; done
        rm cache/others
        cmp "$T/a" expected
        "$B" unmount "$T"
        "$B" cache verify cache"#;
    let shell = ["--mount", "--propagation", "private", "sh", "-ec", script];
    let mut command = rig.sandbox.program("/usr/bin/unshare".as_ref(), shell);
    command
        .env("B", env!("CARGO_BIN_EXE_sluicefs"))
        .env("U", rig.sandbox.server.endpoint_url())
        .env("T", rig.sandbox.target());
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can mount a small disk");
        return;
    }
    let outcome = run(command).expect_success();
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!(lines[..3], ["s3://models/b", "s3://models/c", "s3://models/d"], "{outcome:?}");
    let free: u64 = lines[3].trim().parse().unwrap();
    assert!((800 << 10..8 << 20).contains(&free), "{outcome:?}");
    assert!(lines[4].ends_with(" bytes are right, 0 blocks were damaged"), "{outcome:?}");
}

/// A store in memory counts its versions anew in each process: what one had, the next one has not.
#[test]
fn what_a_store_in_memory_had_is_not_kept() {
    let rig = Rig::new();
    for text in ["first", "other"] {
        let mut command = rig.sandbox.sluicefs(["mount", "--foreground", "--cache", rig.dir()]);
        command.arg("--state-dir").arg(rig.sandbox.path("state")).arg("memory:").arg(rig.sandbox.target());
        let mut mount = Foreground::start(command, Listen::Stderr);
        mount.wait_for(" mounted");
        let file = rig.sandbox.target().join("file");
        fs::write(&file, text).unwrap();
        // Past the kernel's pages, which still hold what was written.
        let direct =
            File::options().read(true).custom_flags(OFlags::DIRECT.bits() as i32).open(&file).unwrap();
        let mut found = String::new();
        (&direct).read_to_string(&mut found).unwrap();
        assert_eq!(found, text);
        drop(direct);
        mount.signal(Signal::TERM);
        mount.wait();
    }
}
