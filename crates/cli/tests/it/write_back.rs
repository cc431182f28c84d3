//! `--write-back async`: what is acknowledged at close survives whatever happens to the mount, and reaches the store as it was written.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use sluicefs_embedded_s3::{Operation, Rule, WireFault};

use crate::sandbox::{Foreground, Listen, Sandbox, run};
use crate::status::{status, status_of};

fn command(sandbox: &Sandbox, options: &[&str]) -> Command {
    let cache = sandbox.path("cache");
    let mut all = vec!["-f", "--op-timeout=2", "--write-back=async", "--cache", cache.to_str().unwrap()];
    all.extend(options);
    sandbox.mount(&all)
}

fn start_with(sandbox: &Sandbox, options: &[&str]) -> Foreground {
    let mut mount = Foreground::start(command(sandbox, options), Listen::Stderr);
    mount.wait_for(" mounted");
    mount
}

fn start(sandbox: &Sandbox) -> Foreground {
    start_with(sandbox, &[])
}

/// The store takes no objects until the faults are cleared.
fn refuse_writes(sandbox: &Sandbox) {
    for operation in [Operation::Put, Operation::CreateUpload] {
        let refused = WireFault::Status { status: 403, code: "AccessDenied", retry_after: None };
        sandbox.server.faults().add(Rule::new(refused).on(operation));
    }
}

fn queue(sandbox: &Sandbox) -> Vec<Value> {
    status_of(sandbox)["queue"]["files"].as_array().unwrap().clone()
}

/// Asks until `is_so`.
#[track_caller]
fn wait_for_queue(sandbox: &Sandbox, is_so: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let found = (0..2000).map(|_| queue(sandbox)).find(|files| is_so(files));
    found.unwrap_or_else(|| panic!("the queue is {:?}", queue(sandbox)))
}

fn stored(sandbox: &Sandbox, key: &str) -> Option<Vec<u8>> {
    sandbox.bucket.object(key).map(|object| object.content.pieces().flatten().collect())
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u64).wrapping_mul(2_654_435_761).to_le_bytes()[2] ^ seed).collect()
}

fn kill(mut mount: Foreground) {
    mount.signal(Signal::KILL);
    mount.wait();
}

fn end(mut mount: Foreground) {
    mount.signal(Signal::TERM);
    assert_eq!(mount.wait().code(), Some(0), "{}", mount.rest());
}

fn stages(sandbox: &Sandbox) -> Vec<PathBuf> {
    let entries = fs::read_dir(sandbox.path("cache/stage")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_dir()).collect()
}

#[test]
fn what_was_closed_survives_a_kill_and_is_there_before_it_is_sent() {
    let sandbox = Sandbox::new();
    let old = pattern(1, 12 << 20);
    sandbox.bucket.put("changed", old.clone());
    let mount = start(&sandbox);
    refuse_writes(&sandbox);
    let at = |name: &str| sandbox.target().join(name);
    let mut changed = old.clone();
    changed[9 << 20..(9 << 20) + 5].copy_from_slice(b"other");
    let large = pattern(2, (21 << 20) + 7);
    fs::write(at("small"), "small").unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::write(at("large"), &large).unwrap();
    OpenOptions::new().write(true).open(at("changed")).unwrap().write_all_at(b"other", 9 << 20).unwrap();
    fs::write(at("dir/in a directory"), "below").unwrap();
    // Written over before it is sent, longer and shorter.
    fs::write(at("twice"), pattern(3, 300_000)).unwrap();
    fs::write(at("twice"), "second").unwrap();
    let expected: [(&str, &[u8]); 6] = [
        ("small", b"small"),
        ("empty", b""),
        ("large", &large),
        ("changed", &changed),
        ("dir/in a directory", b"below"),
        ("twice", b"second"),
    ];
    let queued =
        wait_for_queue(&sandbox, |files| files.len() == 6 && files.iter().all(|file| file["failures"] != 0));
    for (key, content) in expected {
        let file = queued.iter().find(|file| file["key"] == key).unwrap();
        assert_eq!(file["size_bytes"], content.len(), "{file}");
        assert!(
            file["error"].as_str().unwrap().contains("403")
                && Path::new(file["kept_in"].as_str().unwrap()).exists(),
            "{file}"
        );
    }
    let text = status(&sandbox, &[]).expect_success().stdout;
    assert!(
        text.contains("closed and not at the store yet: 6 file(s)") && text.contains("small: 5 B, "),
        "{text}"
    );
    kill(mount);
    assert!(stored(&sandbox, "small").is_none() && stored(&sandbox, "changed").unwrap() == old);

    // The store takes nothing yet.
    let mount = start(&sandbox);
    for (key, content) in expected {
        assert_eq!(fs::metadata(at(key)).unwrap().len(), content.len() as u64, "{key}");
        assert!(fs::read(at(key)).unwrap() == content, "{key}");
    }
    let mut names: Vec<_> =
        fs::read_dir(sandbox.target()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort_unstable();
    assert_eq!(names, ["changed", "config.json", "dir", "empty", "large", "small", "twice"]);
    assert_eq!(fs::read_dir(at("dir")).unwrap().count(), 2);
    assert_eq!(queue(&sandbox).len(), 6);
    sandbox.server.faults().clear();
    wait_for_queue(&sandbox, <[Value]>::is_empty);
    for (key, content) in expected {
        assert!(stored(&sandbox, key).unwrap() == content, "{key}");
    }
    end(mount);
    assert_eq!(stages(&sandbox).len(), 0, "nothing is left to send");
    assert_eq!(sandbox.uploads(), 0);
}

#[test]
fn the_last_write_wins_and_names_that_change_take_their_files_along() {
    let sandbox = Sandbox::new();
    let mount = start(&sandbox);
    let at = |name: &str| sandbox.target().join(name);
    refuse_writes(&sandbox);
    fs::write(at("same"), "first").unwrap();
    wait_for_queue(&sandbox, |files| files.len() == 1 && files[0]["failures"] != 0);
    fs::write(at("same"), "second, longer").unwrap();
    OpenOptions::new().append(true).open(at("same")).unwrap().write_all(b", and more").unwrap();
    fs::write(at("removed"), "never sent").unwrap();
    assert_eq!(queue(&sandbox).len(), 2);
    fs::remove_file(at("removed")).unwrap();
    wait_for_queue(&sandbox, |files| files.len() == 1 && files[0]["key"] == "same");
    fs::write(at("moved"), "moves").unwrap();
    // It is made durable first, and cannot be now.
    fs::rename(at("moved"), at("new name")).unwrap_err();
    assert_eq!(fs::read(at("moved")).unwrap(), b"moves");
    kill(mount);

    let mount = start(&sandbox);
    assert!(!at("removed").exists());
    assert_eq!(fs::read_to_string(at("same")).unwrap(), "second, longer, and more");
    fs::write(at("over"), "is replaced").unwrap();
    sandbox.server.faults().clear();
    fs::rename(at("moved"), at("new name")).unwrap();
    fs::rename(at("new name"), at("over")).unwrap();
    assert_eq!(fs::read(at("over")).unwrap(), b"moves");
    end(mount);
    assert_eq!(stored(&sandbox, "same").unwrap(), b"second, longer, and more");
    assert_eq!(stored(&sandbox, "over").unwrap(), b"moves");
    for key in ["removed", "moved", "new name"] {
        assert!(stored(&sandbox, key).is_none(), "{key}");
    }
    assert_eq!(stages(&sandbox).len(), 0);
}

#[test]
fn fsync_returns_when_the_store_has_the_file_or_says_why_it_has_not() {
    let sandbox = Sandbox::new();
    let mount = start(&sandbox);
    refuse_writes(&sandbox);
    let mut file = File::create(sandbox.target().join("f")).unwrap();
    file.write_all(b"synced").unwrap();
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(13));
    sandbox.server.faults().clear();
    file.sync_all().unwrap();
    assert_eq!(stored(&sandbox, "f").unwrap(), b"synced");
    assert!(queue(&sandbox).is_empty());
    // Also of a file that was closed, by whoever opens it.
    refuse_writes(&sandbox);
    file.write_all(b" twice").unwrap();
    drop(file);
    assert_eq!(stored(&sandbox, "f").unwrap(), b"synced");
    sandbox.server.faults().clear();
    File::open(sandbox.target().join("f")).unwrap().sync_all().unwrap();
    assert_eq!(stored(&sandbox, "f").unwrap(), b"synced twice");
    end(mount);
}

#[test]
fn a_store_that_is_away_at_the_end_leaves_the_files_for_the_next_mount() {
    let mut sandbox = Sandbox::new();
    let mut mount = start(&sandbox);
    let mut file = File::create(sandbox.target().join("late")).unwrap();
    sandbox.stop_server();
    file.write_all(b"closed while the store is away").unwrap();
    drop(file);
    mount.signal(Signal::TERM);
    assert_eq!(mount.wait().code(), Some(3));
    let said = mount.rest();
    let cache = sandbox.path("cache");
    assert!(
        said.contains("files that were closed are not at the store yet: late")
            && said.contains(cache.to_str().unwrap()),
        "{said}"
    );
    sandbox.restart_server();
    assert!(stored(&sandbox, "late").is_none());
    let mount = start(&sandbox);
    assert_eq!(fs::read(sandbox.target().join("late")).unwrap(), b"closed while the store is away");
    end(mount);
    assert_eq!(stored(&sandbox, "late").unwrap(), b"closed while the store is away");
}

#[test]
fn what_somebody_else_wrote_meanwhile_stays_and_ours_is_kept() {
    let sandbox = Sandbox::new();
    sandbox.bucket.put("changed", "old");
    sandbox.bucket.put("cut", "old");
    let mut mount = start(&sandbox);
    refuse_writes(&sandbox);
    OpenOptions::new()
        .append(true)
        .open(sandbox.target().join("changed"))
        .unwrap()
        .write_all(b" and ours")
        .unwrap();
    fs::write(sandbox.target().join("cut"), "ours").unwrap();
    fs::write(sandbox.target().join("new"), "ours").unwrap();
    for key in ["changed", "cut", "new"] {
        sandbox.bucket.put(key, "theirs");
    }
    sandbox.server.faults().clear();
    let files = wait_for_queue(&sandbox, |files| files.iter().all(|file| file["state"] == "conflict"));
    assert_eq!(files.len(), 3);
    for file in &files {
        assert!(file["remedy"].as_str().unwrap().contains("--on-conflict overwrite"), "{file}");
        assert!(Path::new(file["kept_in"].as_str().unwrap()).exists(), "{file}");
    }
    assert_eq!(fs::read(sandbox.target().join("cut")).unwrap(), b"ours");
    mount.signal(Signal::TERM);
    assert_eq!(mount.wait().code(), Some(3));
    for key in ["changed", "cut", "new"] {
        assert_eq!(stored(&sandbox, key).unwrap(), b"theirs", "{key}");
    }
    // What was read of the old bytes would do.
    fs::remove_dir_all(sandbox.path("cache/objects")).unwrap();
    let mount = start_with(&sandbox, &["--on-conflict=overwrite"]);
    // Of "changed" they are gone, so it cannot be made.
    wait_for_queue(&sandbox, |files| {
        files.len() == 1 && files[0]["state"] == "conflict" && files[0]["key"] == "changed"
    });
    assert_eq!(stored(&sandbox, "cut").unwrap(), b"ours");
    assert_eq!(stored(&sandbox, "new").unwrap(), b"ours");
    kill(mount);
}

#[test]
fn what_was_sent_before_the_kill_is_no_conflict() {
    let sandbox = Sandbox::new();
    let mut changed = pattern(6, 2 << 20);
    sandbox.bucket.put("changed", "old");
    sandbox.bucket.put("in part", changed.clone());
    let mount = start(&sandbox);
    refuse_writes(&sandbox);
    OpenOptions::new()
        .append(true)
        .open(sandbox.target().join("in part"))
        .unwrap()
        .write_all(b"end")
        .unwrap();
    let large = pattern(5, 20 << 20);
    fs::write(sandbox.target().join("large"), &large).unwrap();
    fs::write(sandbox.target().join("changed"), "ours").unwrap();
    fs::write(sandbox.target().join("empty"), "").unwrap();
    wait_for_queue(&sandbox, |files| files.len() == 4 && files.iter().all(|file| file["failures"] != 0));
    // As if the mount died after the store had answered, and before it noted that.
    let [stage] = &stages(&sandbox)[..] else { panic!("one stage") };
    let kept = sandbox.path("kept");
    assert!(Command::new("cp").arg("-r").args([stage, &kept]).status().unwrap().success());
    sandbox.server.faults().clear();
    wait_for_queue(&sandbox, <[Value]>::is_empty);
    kill(mount);
    fs::remove_dir_all(stage).unwrap();
    fs::rename(&kept, stage).unwrap();

    let mount = start(&sandbox);
    wait_for_queue(&sandbox, <[Value]>::is_empty);
    end(mount);
    assert!(stored(&sandbox, "large").unwrap() == large);
    assert_eq!(stored(&sandbox, "changed").unwrap(), b"ours");
    changed.extend(b"end");
    assert!(stored(&sandbox, "in part").unwrap() == changed);
    assert_eq!(stages(&sandbox).len(), 0);
}

#[test]
fn a_living_neighbours_files_are_left_to_it() {
    let sandbox = Sandbox::new();
    let mount = start(&sandbox);
    refuse_writes(&sandbox);
    fs::write(sandbox.target().join("theirs"), "pending").unwrap();
    let (second, cache) = (sandbox.path("second"), sandbox.path("cache"));
    fs::create_dir(&second).unwrap();
    let mut neighbour = sandbox.sluicefs([
        "mount",
        "-f",
        "--write-back=async",
        "--endpoint-url",
        &sandbox.server.endpoint_url(),
    ]);
    neighbour
        .arg("--cache")
        .arg(&cache)
        .arg("--state-dir")
        .arg(sandbox.path("state"))
        .arg("models")
        .arg(&second);
    let mut neighbour = Foreground::start(neighbour, Listen::Stderr);
    neighbour.wait_for(" mounted");
    assert!(!second.join("theirs").exists());
    assert_eq!(queue(&sandbox).len(), 1);
    neighbour.signal(Signal::TERM);
    assert_eq!(neighbour.wait().code(), Some(0));
    sandbox.server.faults().clear();
    end(mount);
    assert_eq!(stored(&sandbox, "theirs").unwrap(), b"pending");
}

#[test]
fn closing_waits_for_the_store_when_the_disk_has_no_room() {
    let sandbox = Sandbox::new();
    let mount = start_with(&sandbox, &["--stage-size=1048576"]);
    let content = pattern(4, 4 << 20);
    fs::write(sandbox.target().join("f"), &content).unwrap();
    assert!(stored(&sandbox, "f").unwrap() == content);
    assert!(queue(&sandbox).is_empty());
    end(mount);
}

#[test]
fn needs_a_cache() {
    let sandbox = Sandbox::new();
    let refused = run(sandbox.mount(&["--write-back=async"]));
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("--cache"), "{refused:?}");
}
