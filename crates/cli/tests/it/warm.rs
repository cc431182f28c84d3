//! `sluicefs warm`: what it brings into the cache, what it tells, and what a mount then asks for.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::Value;
use sluicefs_embedded_s3::Operation;
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::Content;
use sluicefs_s3_client::testing::memory::pattern;

use crate::cache::data_file;
use crate::sandbox::{Foreground, Listen, Outcome, Sandbox, run};

/// One large object, of several parts and a short last block, and 40 small ones.
const LARGE: u64 = (20 << 20) + 77;
const SMALL: u64 = 3000;
const SMALLS: u64 = 40;
const ALL: u64 = LARGE + SMALLS * SMALL;

struct Rig {
    sandbox: Sandbox,
    cache: PathBuf,
}

impl Rig {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        sandbox.bucket.put("model/large.safetensors", Content::Pattern { seed: 1, len: LARGE });
        for i in 0..SMALLS {
            sandbox.bucket.put(&format!("model/small/{i:02}.json"), Content::Pattern { seed: i, len: SMALL });
        }
        let cache = sandbox.path("cache");
        Self { sandbox, cache }
    }

    fn warm(&self, options: &[&str]) -> Outcome {
        let mut command =
            self.sandbox.sluicefs(["warm", "--endpoint-url", &self.sandbox.server.endpoint_url()]);
        run({
            command.arg("--cache").arg(&self.cache).args(options);
            command
        })
    }

    /// The last line of what was printed with `--json`.
    fn told(&self, options: &[&str]) -> Value {
        let outcome = self.warm(&[&["--json"], options].concat()).expect_success();
        serde_json::from_str(outcome.stdout.lines().last().unwrap()).unwrap()
    }

    fn gets(&self) -> u64 {
        self.sandbox.server.requests().of(Operation::Get)
    }

    fn mount(&self) -> Foreground {
        let options = ["--foreground", "--read-only", "--cache", self.cache.to_str().unwrap()];
        let mut mount = Foreground::start(self.sandbox.mount(&options), Listen::Stderr);
        mount.wait_for(" mounted");
        mount
    }

    fn unmount(&self, mut mount: Foreground) {
        mount.signal(Signal::TERM);
        mount.wait();
    }
}

const DIR: &str = "s3://models/model/";

#[test]
fn what_was_warmed_is_read_without_a_request_for_bytes() {
    let rig = Rig::new();
    let told = rig.told(&[DIR]);
    assert_eq!((&told["objects"], &told["fetched_bytes"]), (&(1 + SMALLS).into(), &ALL.into()));
    let before = rig.gets();
    let again = rig.told(&[DIR]);
    assert_eq!((&again["fetched_bytes"], &again["missing_bytes"]), (&0.into(), &0.into()));
    let mount = rig.mount();
    let directory = rig.sandbox.target().join("model");
    let large = fs::read(directory.join("large.safetensors")).unwrap();
    assert!(large == pattern(1, ByteRange::new(0, LARGE)));
    for i in 0..SMALLS {
        let small = fs::read(directory.join(format!("small/{i:02}.json"))).unwrap();
        assert!(small == pattern(i, ByteRange::new(0, SMALL)), "{i}");
    }
    rig.unmount(mount);
    assert_eq!(rig.gets(), before);
}

#[test]
fn only_what_is_absent_or_damaged_is_fetched() {
    let rig = Rig::new();
    let mount = rig.mount();
    let mut part = vec![0; 3 << 20];
    let large = rig.sandbox.target().join("model/large.safetensors");
    File::open(large).unwrap().read_exact(&mut part).unwrap();
    rig.unmount(mount);
    let told = rig.told(&["--include", "*.safetensors", DIR]);
    let fetched = told["fetched_bytes"].as_u64().unwrap();
    assert!((1..=LARGE - part.len() as u64).contains(&fetched), "{told}");
    rig.warm(&["--check", "--include", "large*", DIR]).expect_success();

    File::options().write(true).open(data_file(&rig.cache)).unwrap().write_all_at(b"wrong", 1 << 20).unwrap();
    let checked = rig.warm(&["--check", "--json", "--include", "large*", DIR]);
    assert_eq!(checked.code, Some(1), "{checked:?}");
    let told: Value = serde_json::from_str(&checked.stdout).unwrap();
    assert_eq!((&told["incomplete_objects"], &told["missing_bytes"]), (&1.into(), &(128 << 10).into()));
    assert_eq!(rig.told(&["--include", "large*", DIR])["fetched_bytes"], 128 << 10);
}

#[test]
fn lists_and_patterns_choose_and_what_is_evicted_is_gone() {
    let rig = Rig::new();
    let list = rig.sandbox.path("list");
    fs::write(&list, "small/01.json\n\nsmall/02.json\nlarge.safetensors\n").unwrap();
    let from_list = ["--from-list", list.to_str().unwrap()];
    let told = rig.told(&[&from_list[..], &["--include", "small/*", DIR]].concat());
    assert_eq!((&told["objects"], &told["fetched_bytes"]), (&2.into(), &(2 * SMALL).into()));
    let one = rig.told(&["s3://models/model/small/03.json"]);
    assert_eq!((&one["objects"], &one["fetched_bytes"]), (&1.into(), &SMALL.into()));

    rig.warm(&["--evict", "--include", "small/*", DIR]).expect_success();
    let checked = rig.warm(&["--check", "--json", "--include", "small/*", DIR]);
    assert_eq!(checked.code, Some(1), "{checked:?}");
    assert!(checked.stdout.contains(&format!("\"missing_bytes\":{}", SMALLS * SMALL)), "{checked:?}");

    fs::write(&list, "small/99.json\n").unwrap();
    let absent = rig.warm(&[&from_list[..], &[DIR]].concat());
    assert_eq!(absent.code, Some(1), "{absent:?}");
    assert!(absent.stderr.contains("there is no object s3://models/model/small/99.json"), "{absent:?}");
    let nothing = rig.warm(&["s3://models/nothing/"]);
    assert_eq!(nothing.code, Some(1), "{nothing:?}");
    assert!(nothing.stderr.contains("there is nothing at"), "{nothing:?}");
    assert_eq!(rig.warm(&["--include", "[", DIR]).code, Some(2));
}

#[test]
fn a_cache_that_is_too_small_is_told() {
    let rig = Rig::new();
    let outcome = rig.warm(&["--max-cache-size", "8", DIR]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("not in the cache: model/large.safetensors: "), "{outcome:?}");
    assert!(outcome.stderr.contains("no room"), "{outcome:?}");
}
