//! `--cache` for what is read, and `sluicefs cache`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::Content;
use sluicefs_s3_client::testing::memory::pattern;

use crate::sandbox::{Foreground, Listen, Outcome, Sandbox, run};

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

fn data_file(directory: &Path) -> PathBuf {
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
