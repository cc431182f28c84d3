//! `--preset` and `sluicefs refresh` on real mounts.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use rustix::io::Errno;
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use sluicefs_embedded_s3::Operation;
use sluicefs_fuse_mount::BackingDevice;
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::Content;
use sluicefs_s3_client::testing::memory::pattern;

use crate::sandbox::{Outcome, Sandbox, run, serving};
use crate::status::{status, status_of};

const LEN: u64 = (3 << 20) + 11;

fn errno<T>(result: io::Result<T>) -> Option<Errno> {
    result.err().and_then(|error| Errno::from_io_error(&error))
}

fn refresh(sandbox: &Sandbox, args: &[&str]) -> Outcome {
    let mut command = sandbox.sluicefs(["refresh"]);
    command.arg("--state-dir").arg(sandbox.path("state")).args(args);
    run(command)
}

/// What the status says of a setting: its value, and who chose it.
fn setting<'a>(status: &'a Value, name: &str) -> (&'a str, &'a str) {
    let all = status["preset"]["settings"].as_array().unwrap();
    let setting = all.iter().find(|setting| setting["setting"] == name).unwrap();
    (setting["value"].as_str().unwrap(), setting["by"].as_str().unwrap())
}

fn read_ahead_kb(sandbox: &Sandbox) -> u64 {
    let entry = sluicefs_fuse_mount::MountTable::read().unwrap();
    let device = entry.top(&sandbox.target().canonicalize().unwrap()).unwrap().device;
    BackingDevice::new(device).read_ahead_kb().unwrap()
}

#[test]
fn a_preset_is_what_the_mount_does_and_what_is_given_wins() {
    let sandbox = Sandbox::new();
    run(sandbox.mount(&["--preset", "model"])).expect_success();
    let told = status_of(&sandbox);
    assert_eq!(told["preset"]["name"], "model");
    assert_eq!(setting(&told, "versions"), ("pinned", "preset"));
    let options = &told["options"];
    assert_eq!((&options["read_only"], &options["versions"]), (&true.into(), &"pinned".into()));
    assert_eq!(options["metadata_ttl_seconds"], Value::Null);
    let by_preset: u64 = setting(&told, "read-ahead-kb").0.parse().unwrap();
    assert_eq!(read_ahead_kb(&sandbox), by_preset);
    assert_eq!(errno(File::create(sandbox.target().join("new"))), Some(Errno::ROFS));
    let shown = status(&sandbox, &[]).expect_success().stdout;
    assert!(shown.contains("preset model") && shown.contains("versions pinned (all files"), "{shown}");
    run(sandbox.sluicefs(["unmount", sandbox.target().to_str().unwrap()])).expect_success();

    run(sandbox.mount(&["--preset", "model", "--metadata-ttl", "7", "--read-ahead-kb", "256"]))
        .expect_success();
    let told = status_of(&sandbox);
    assert_eq!(setting(&told, "metadata-ttl"), ("7", "given"));
    assert_eq!(
        (&told["options"]["metadata_ttl_seconds"], &told["options"]["versions"]),
        (&7.0.into(), &"pinned".into())
    );
    assert_eq!(read_ahead_kb(&sandbox), 256);
}

#[test]
fn a_preset_for_reading_refuses_options_about_writing() {
    let sandbox = Sandbox::new();
    let refused = run(sandbox.mount(&["--preset", "model", "--storage-class", "STANDARD_IA"]));
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("--storage-class is about writing"), "{refused:?}");
    let refused = run(sandbox.mount(&["--versions", "pinned"]));
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("--preset model"), "{refused:?}");
    assert!(!sandbox.is_mounted());
}

#[test]
fn a_model_is_of_one_moment_until_it_is_refreshed() {
    let sandbox = Sandbox::new();
    let version = |seed| pattern(seed, ByteRange::new(0, LEN));
    for key in ["m/read", "m/unread", "m/gone"] {
        sandbox.bucket.put(key, Content::Pattern { seed: 1, len: LEN });
    }
    run(sandbox.mount(&["--preset", "model"])).expect_success();
    let path = |name: &str| sandbox.target().join("m").join(name);
    let size = |name: &str| fs::metadata(path(name)).unwrap().len();
    let mut names: Vec<_> = fs::read_dir(path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["gone", "read", "unread"]);
    let mut open = File::open(path("read")).unwrap();
    let mut half = vec![0; LEN as usize / 2];
    open.read_exact(&mut half).unwrap();
    assert_eq!(errno(fs::metadata(path("new"))), Some(Errno::NOENT));

    for key in ["m/read", "m/unread"] {
        sandbox.bucket.put(key, Content::Pattern { seed: 2, len: LEN + 1 });
    }
    sandbox.bucket.remove("m/gone");
    sandbox.bucket.put("m/new", "new");
    for name in ["unread", "gone"] {
        assert_eq!(size(name), LEN);
        assert_eq!(errno(fs::read(path(name))), Some(Errno::STALE), "{name}");
    }
    assert_eq!(errno(fs::metadata(path("new"))), Some(Errno::NOENT));

    let told = refresh(&sandbox, &["--json", sandbox.target().to_str().unwrap()]).expect_success().stdout;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert!(told["released"].as_u64() >= Some(3) && told["untold"] == 0, "{told}");
    for name in ["read", "unread"] {
        assert_eq!(size(name), LEN + 1);
        assert!(fs::read(path(name)).unwrap() == pattern(2, ByteRange::new(0, LEN + 1)), "{name}");
    }
    assert_eq!(errno(fs::metadata(path("gone"))), Some(Errno::NOENT));
    assert_eq!(fs::read(path("new")).unwrap(), b"new");
    // Who has it open reads on in the old version, or not at all.
    let mut rest = vec![0; LEN as usize - half.len()];
    match open.read_exact_at(&mut rest, half.len() as u64) {
        Ok(()) => assert!(rest[..] == version(1)[half.len()..]),
        Err(error) => assert_eq!(Errno::from_io_error(&error), Some(Errno::STALE)),
    }
    let before = sandbox.server.requests().of(Operation::List);
    assert_eq!(size("unread"), LEN + 1);
    assert_eq!(sandbox.server.requests().of(Operation::List), before, "it is believed again");
}

#[test]
fn a_place_below_refreshes_the_whole_mount_and_others_are_refused() {
    let sandbox = Sandbox::new();
    run(sandbox.mount(&["--read-only", "--metadata-ttl", "indefinite"])).expect_success();
    let config = sandbox.target().join("config.json");
    assert_eq!(fs::metadata(&config).unwrap().len(), 2);
    sandbox.bucket.put("config.json", "{ }");
    assert_eq!(fs::metadata(&config).unwrap().len(), 2);
    let outcome = refresh(&sandbox, &[sandbox.target().join("dir").to_str().unwrap()]).expect_success();
    assert!(outcome.stdout.contains("as a whole"), "{outcome:?}");
    assert_eq!(fs::metadata(&config).unwrap().len(), 3);
    let pid = serving(&sandbox.target())[0];
    kill_process(pid, Signal::STOP).unwrap();
    let silent = refresh(&sandbox, &[sandbox.target().to_str().unwrap()]);
    kill_process(pid, Signal::CONT).unwrap();
    assert_eq!(silent.code, Some(4), "{silent:?}");
    assert!(silent.stderr.contains("does not answer") && silent.stderr.contains("kill -CONT"), "{silent:?}");
    let nowhere = refresh(&sandbox, &["/"]);
    assert_eq!(nowhere.code, Some(4), "{nowhere:?}");
    assert!(nowhere.stderr.contains("no mount of yours at /"), "{nowhere:?}");
}
