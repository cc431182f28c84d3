//! `sluicefs warm`: what it brings into the cache, what it tells, and what a mount then asks for.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use sluicefs_embedded_s3::{Operation, Rule, WireFault};
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::Content;
use sluicefs_s3_client::testing::memory::pattern;

use crate::cache::data_file;
use crate::sandbox::{Foreground, LIMIT, Listen, Outcome, Sandbox, run};
use crate::status::status_of;

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

    /// `sluicefs warm` of a path on the mount.
    fn warm_mounted(&self, path: &str, options: &[&str]) -> Command {
        let mut command = self.sandbox.sluicefs(["warm"]);
        command.arg("--state-dir").arg(self.sandbox.path("state")).args(options);
        command.arg(self.sandbox.target().join(path));
        command
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
        self.mount_with(&[])
    }

    fn mount_with(&self, more: &[&str]) -> Foreground {
        let options = ["--foreground", "--read-only", "--cache", self.cache.to_str().unwrap()];
        let options = [&options, more].concat();
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

/// Starts `command`, kills it once some bytes are in the cache and not all, and returns how many were at least.
fn kill_midway(rig: &Rig, command: Command) -> u64 {
    // Each body comes to a standstill, far from its end.
    rig.sandbox.server.faults().add(Rule::new(WireFault::Stall(3 << 20)).on(Operation::Get));
    let mut warm = Foreground::start(command, Listen::Stdout);
    let fetched = loop {
        let told: Value = serde_json::from_str(&warm.wait_for("fetched_bytes")).unwrap();
        assert!(told.get("objects").is_none(), "it came to its end: {told}");
        match told["fetched_bytes"].as_u64().unwrap() {
            0 => {}
            fetched => break fetched,
        }
    };
    warm.signal(Signal::KILL);
    warm.wait();
    rig.sandbox.server.faults().clear();
    assert!(fetched < LARGE, "{fetched}");
    fetched
}

/// Runs `command` to its end, which fetches what is missing and nothing else: `fetched` bytes are there at least.
fn goes_on(rig: &Rig, command: Command, fetched: u64) {
    let before = rig.sandbox.server.traffic().sent_bytes();
    let outcome = run(command).expect_success();
    let lines: Vec<Value> = outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [.., progress, told] = &lines[..] else { panic!("{outcome:?}") };
    let number = |value: &Value| value.as_u64().unwrap();
    assert_eq!((&told["incomplete_objects"], &told["total_bytes"]), (&0.into(), &LARGE.into()));
    assert_eq!(number(&told["fetched_bytes"]) + number(&progress["present_bytes"]), LARGE);
    assert!(number(&progress["present_bytes"]) >= fetched, "{progress}");
    let sent = rig.sandbox.server.traffic().sent_bytes() - before;
    assert!(sent < number(&told["fetched_bytes"]) + (64 << 10), "{sent} bytes for {told}");
}

#[test]
fn a_warm_up_that_was_killed_goes_on_where_it_was() {
    let rig = Rig::new();
    let command = || {
        let mut command =
            rig.sandbox.sluicefs(["warm", "--json", "--endpoint-url", &rig.sandbox.server.endpoint_url()]);
        command.arg("--cache").arg(&rig.cache).args(["--include", "*.safetensors", DIR]);
        command
    };
    let fetched = kill_midway(&rig, command());
    goes_on(&rig, command(), fetched);
}

#[test]
fn a_mount_warms_its_own_cache_and_goes_on_after_a_kill() {
    let rig = Rig::new();
    let mount = rig.mount_with(&["--versions", "pinned"]);
    let command = || rig.warm_mounted("model/large.safetensors", &["--json"]);
    let fetched = kill_midway(&rig, command());
    goes_on(&rig, command(), fetched);
    run(rig.warm_mounted("model", &["--include", "*.json"])).expect_success();
    let before = rig.gets();
    let directory = rig.sandbox.target().join("model");
    assert!(fs::read(directory.join("large.safetensors")).unwrap() == pattern(1, ByteRange::new(0, LARGE)));
    assert!(fs::read(directory.join("small/07.json")).unwrap() == pattern(7, ByteRange::new(0, SMALL)));
    assert_eq!(rig.gets(), before);

    run(rig.warm_mounted("model", &["--check"])).expect_success();
    run(rig.warm_mounted("model/small/", &["--evict"])).expect_success();
    let checked = run(rig.warm_mounted("", &["--check", "--json", "--include", "model/small/*"]));
    assert_eq!(checked.code, Some(1), "{checked:?}");
    assert!(checked.stdout.contains("\"missing_bytes\":"), "{checked:?}");
    let nothing = run(rig.warm_mounted("nothing", &[]));
    assert_eq!(nothing.code, Some(1), "{nothing:?}");
    assert!(nothing.stderr.contains("there is nothing at"), "{nothing:?}");
    let own = run(rig.warm_mounted("model", &["--region", "eu-west-1"]));
    assert_eq!(own.code, Some(2), "{own:?}");
    rig.unmount(mount);
    let gone = run(rig.warm_mounted("model", &[]));
    assert_eq!(gone.code, Some(4), "{gone:?}");
}

#[test]
fn a_mount_without_a_cache_cannot_be_warmed() {
    let rig = Rig::new();
    run(rig.sandbox.mount(&["--read-only"])).expect_success();
    let refused = run(rig.warm_mounted("model", &[]));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("mount it with --cache"), "{refused:?}");
    let refused = rig.sandbox.mount(&["--warm", "*.safetensors"]);
    let refused = run(refused);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("--cache"), "{refused:?}");
}

/// `sluicefs status --ready` of the mount.
fn ready(rig: &Rig) -> Outcome {
    let target = rig.sandbox.target();
    crate::status::status(&rig.sandbox, &["--ready", target.to_str().unwrap()])
}

#[test]
fn a_mount_is_ready_when_its_warm_up_has_ended() {
    let rig = Rig::new();
    assert_eq!(ready(&rig).code, Some(1), "nothing is mounted");
    rig.sandbox.server.faults().add(Rule::new(WireFault::Silence).on(Operation::Get));
    let socket = rig.sandbox.path("notify");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    let cache = rig.cache.to_str().unwrap();
    let options = [
        "--foreground",
        "--read-only",
        "--cache",
        cache,
        "--warm",
        "*.safetensors",
        "--warm",
        "small/*",
        "--warm-wait",
    ];
    let mut command = rig.sandbox.mount(&options);
    command.env("NOTIFY_SOCKET", &socket);
    let mut mount = Foreground::start(command, Listen::Stderr);
    mount.wait_for(" mounted");
    let told = loop {
        let told = status_of(&rig.sandbox);
        match told["warm_up"]["state"].as_str() {
            Some("listing") => std::thread::yield_now(),
            Some("fetching") => break told,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((&told["ready"], &told["warm_up"]["progress"]["total_bytes"]), (&false.into(), &LARGE.into()));
    let not_yet = ready(&rig);
    assert_eq!(not_yet.code, Some(1), "{not_yet:?}");
    assert!(
        not_yet.stderr.contains("is not ready: warm-up of *.safetensors small/*: 0 B of 20.0 MiB"),
        "{not_yet:?}"
    );
    systemd.set_nonblocking(true).unwrap();
    let mut message = [0; 100];
    assert_eq!(systemd.recv(&mut message).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(fs::exists(rig.sandbox.target().join("config.json")).unwrap(), "it can be used meanwhile");

    rig.sandbox.server.faults().clear();
    systemd.set_nonblocking(false).unwrap();
    systemd.set_read_timeout(Some(LIMIT)).unwrap();
    let n = systemd.recv(&mut message).unwrap();
    assert_eq!(&message[..n], b"READY=1\n");
    ready(&rig).expect_success();
    assert_eq!(status_of(&rig.sandbox)["warm_up"]["state"], "complete");
    let before = rig.gets();
    fs::read(rig.sandbox.target().join("model/large.safetensors")).unwrap();
    assert_eq!(rig.gets(), before);
    rig.unmount(mount);
}

#[test]
fn a_mount_in_the_background_returns_when_it_is_warm_and_says_if_it_is_not() {
    let rig = Rig::new();
    let cache = rig.cache.to_str().unwrap();
    let options = ["--read-only", "--cache", cache, "--warm-wait", "--warm"];
    let outcome = run(rig.sandbox.mount(&[&options[..], &["*.safetensors"]].concat())).expect_success();
    assert!(!outcome.stderr.contains("mounted, but"), "{outcome:?}");
    assert_eq!(status_of(&rig.sandbox)["warm_up"]["state"], "complete");
    let before = rig.gets();
    fs::read(rig.sandbox.target().join("model/large.safetensors")).unwrap();
    assert_eq!(rig.gets(), before);
    run(rig.sandbox.sluicefs(["unmount", rig.sandbox.target().to_str().unwrap()])).expect_success();

    let outcome = run(rig.sandbox.mount(&[&options[..], &["*.nothing"]].concat())).expect_success();
    assert!(outcome.stderr.contains("note: mounted, but there is nothing at"), "{outcome:?}");
    let told = status_of(&rig.sandbox);
    assert_eq!((&told["warm_up"]["state"], &told["ready"]), (&"failed".into(), &true.into()));
    assert_eq!(fs::read(rig.sandbox.target().join("config.json")).unwrap(), b"{}");
    let refused = run(rig.sandbox.mount(&[&options[..], &["["]].concat()));
    assert_eq!(refused.code, Some(2), "{refused:?}");
}
