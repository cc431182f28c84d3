//! `sluicefs status`: what living mounts tell, and how dead and stopped ones are told apart.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{
    Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, kill_process, prlimit, waitid,
};
use serde_json::Value;
use sluicefs_embedded_s3::{Operation, Rule, WireFault};

use crate::sandbox::{Foreground, LIMIT, Listen, Outcome, Sandbox, has_ended, run, serving};

/// `sluicefs status` of the sandbox's state directory.
pub(crate) fn status(sandbox: &Sandbox, args: &[&str]) -> Outcome {
    let mut command = sandbox.sluicefs(["status"]);
    command.arg("--state-dir").arg(sandbox.path("state")).args(args);
    run(command)
}

/// The status of the mount on the sandbox's mount point.
#[track_caller]
pub(crate) fn status_of(sandbox: &Sandbox) -> Value {
    let outcome = status(sandbox, &["--json", sandbox.target().to_str().unwrap()]).expect_success();
    serde_json::from_str(&outcome.stdout).unwrap()
}

fn mount_at(sandbox: &Sandbox, target: &Path) {
    fs::create_dir(target).unwrap();
    let mut command =
        sandbox.sluicefs(["mount", "--read-only", "--endpoint-url", &sandbox.server.endpoint_url()]);
    command.arg("--state-dir").arg(sandbox.path("state")).arg("models").arg(target);
    run(command).expect_success();
}

#[test]
fn a_mount_that_had_no_descriptor_for_a_question_answers_it_later() {
    let sandbox = Sandbox::new();
    let mut mount = Foreground::start(sandbox.mount(&["-f"]), Listen::Stderr);
    mount.wait_for(" mounted");
    let names = fs::read_dir(sandbox.path("state")).unwrap().map(|entry| entry.unwrap().path());
    let socket =
        names.into_iter().find(|path| path.extension().is_some_and(|found| found == "sock")).unwrap();
    let usual = getrlimit(Resource::Nofile);
    let before = prlimit(Some(mount.pid()), Resource::Nofile, Rlimit { current: Some(0), ..usual }).unwrap();
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    writeln!(stream, "{}", serde_json::json!({ "ask": "status" })).unwrap();
    mount.wait_for("the admin socket accepts nobody");
    prlimit(Some(mount.pid()), Resource::Nofile, before).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    assert!(answer.ends_with('\n'), "{answer}");
    assert_eq!(status_of(&sandbox)["state"], "serving");
    mount.signal(Signal::TERM);
    assert_eq!(mount.wait().code(), Some(0));
}

#[test]
fn a_mount_tells_who_it_is_and_what_is_being_written() {
    let sandbox = Sandbox::new();
    let cache = sandbox.path("cache");
    run(sandbox.mount(&["--memory-target=128", "--delete-behind", "--cache", cache.to_str().unwrap()]))
        .expect_success();
    let pid = serving(&sandbox.target())[0].as_raw_nonzero().get();
    let quiet = status_of(&sandbox);
    assert_eq!(quiet["state"], "serving");
    assert_eq!((&quiet["pid"], quiet["version"].as_str()), (&pid.into(), Some(env!("CARGO_PKG_VERSION"))));
    assert_eq!(quiet["source"], "s3://models");
    assert_eq!(quiet["mount_point"].as_str(), sandbox.target().to_str());
    assert!(quiet["uptime_seconds"].as_u64().unwrap() < 3600);
    assert_eq!(quiet["options"]["delete_behind"], true);
    assert_eq!(quiet["options"]["metadata_ttl_seconds"], 1.0);
    assert_eq!(
        (&quiet["stage"]["directory"], &quiet["stage"]["used_bytes"]),
        (&cache.to_str().unwrap().into(), &0.into())
    );
    assert_eq!((&quiet["open_files"], &quiet["files_being_written"]), (&0.into(), &Value::Array(Vec::new())));
    assert_eq!(quiet["memory"]["limit_bytes"], 128 << 20);

    // A program of its own: a child of this process would close a copy of the file, which makes it durable.
    let output = File::create(sandbox.target().join("out")).unwrap();
    let mut writer = Command::new("cat").stdin(Stdio::piped()).stdout(output).spawn().unwrap();
    let input = writer.stdin.as_mut().unwrap();
    let begun = (0..200).find_map(|_| {
        input.write_all(&vec![7; 1 << 20]).unwrap();
        let now = status_of(&sandbox);
        (now["files_being_written"][0]["sent_parts"].as_u64() > Some(0)).then_some(now)
    });
    let busy = begun.expect("200 MiB were written, and no part was sent");
    let file = &busy["files_being_written"][0];
    let number = |value: &Value| value.as_u64().unwrap();
    assert_eq!(
        (&file["key"], &file["unsaved"], &busy["uploads_under_way"]),
        (&"out".into(), &true.into(), &1.into())
    );
    assert!(file["upload"].is_string() && file["error"].is_null(), "{file}");
    assert!(number(&file["written_bytes"]) >= number(&file["sent_bytes"]), "{file}");
    assert!(
        number(&file["sent_bytes"]) >= 8 << 20 && number(&busy["memory"]["writing"]["used_bytes"]) > 0,
        "{busy}"
    );
    assert_eq!(busy["open_files"], 1);
    let text = status(&sandbox, &[]).expect_success().stdout;
    assert!(
        text.contains("s3://models on ") && text.contains("  out: ") && text.contains("upload"),
        "{text}"
    );
    drop(writer.stdin.take());
    assert!(writer.wait().unwrap().success());
    assert!(
        status_of(&sandbox)["files_being_written"]
            .as_array()
            .unwrap()
            .iter()
            .all(|file| file["unsaved"] == false)
    );
}

#[test]
fn the_socket_is_its_owners_and_goes_with_the_mount() {
    let sandbox = Sandbox::new();
    run(sandbox.mount(&[])).expect_success();
    let entries = || fs::read_dir(sandbox.path("state")).unwrap().map(|entry| entry.unwrap());
    let socket = entries().find(|entry| entry.file_type().unwrap().is_socket()).expect("a socket is there");
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let pid = serving(&sandbox.target())[0];
    run(sandbox.sluicefs(["unmount".as_ref(), sandbox.target().as_os_str()])).expect_success();
    assert!(has_ended(pid, LIMIT));
    assert_eq!(entries().count(), 0);
    let gone = status(&sandbox, &[sandbox.target().to_str().unwrap()]);
    assert_eq!(gone.code, Some(4), "{gone:?}");
    assert!(gone.stderr.contains("no mount of yours at"), "{gone:?}");
    let none = status(&sandbox, &[]).expect_success();
    assert!(none.stdout.is_empty() && none.stderr.contains("nothing is mounted"), "{none:?}");
}

#[test]
fn all_mounts_are_listed_also_those_that_only_read() {
    let sandbox = Sandbox::new();
    let second = sandbox.path("second");
    run(sandbox.mount(&[])).expect_success();
    mount_at(&sandbox, &second);
    let listed = status(&sandbox, &["--json"]).expect_success();
    let found: Vec<Value> = listed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |index: usize| (found[index]["mount_point"].as_str(), &found[index]["options"]["read_only"]);
    assert_eq!(found.len(), 2);
    assert_eq!(told(0), (sandbox.target().to_str(), &false.into()));
    assert_eq!(told(1), (second.to_str(), &true.into()));
    // By a link to it, and relative, it is the same one.
    std::os::unix::fs::symlink(&second, sandbox.path("link")).unwrap();
    let one = status(&sandbox, &["--json", "link"]).expect_success();
    assert_eq!(one.stdout.lines().count(), 1);
    assert!(one.stdout.contains(second.to_str().unwrap()), "{one:?}");
    run(sandbox.sluicefs(["unmount".as_ref(), second.as_os_str()])).expect_success();
}

#[test]
fn a_dead_mount_is_said_to_be_dead_until_it_is_taken_away() {
    let sandbox = Sandbox::new();
    run(sandbox.mount(&[])).expect_success();
    let pid = serving(&sandbox.target())[0];
    kill_process(pid, Signal::KILL).unwrap();
    assert!(has_ended(pid, LIMIT));
    let number = pid.as_raw_nonzero().to_string();
    for args in [&[][..], &[sandbox.target().to_str().unwrap()]] {
        let dead = status(&sandbox, args);
        assert_eq!(dead.code, Some(4), "{dead:?}");
        assert!(dead.stderr.contains("is dead") && dead.stderr.contains(&number), "{dead:?}");
    }
    let dead = status(&sandbox, &["--json"]);
    let told: Value = serde_json::from_str(&dead.stdout).unwrap();
    assert_eq!((&told["state"], &told["pid"].to_string()), (&"dead".into(), &number));
    run(sandbox.sluicefs(["unmount".as_ref(), sandbox.target().as_os_str()])).expect_success();
    assert!(status(&sandbox, &[]).expect_success().stderr.contains("nothing is mounted"));
    let names = fs::read_dir(sandbox.path("state")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.filter(|name| !name.to_str().unwrap().ends_with(".uploads")).count(), 0);
}

#[test]
fn a_mount_that_does_not_answer_is_an_error_with_its_pid() {
    let sandbox = Sandbox::new();
    let second = sandbox.path("second");
    mount_at(&sandbox, &second);
    let mut mount = Foreground::start(sandbox.mount(&["-f"]), Listen::Stderr);
    mount.wait_for(" mounted");
    let pid = mount.pid();
    mount.signal(Signal::STOP);
    waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).unwrap();
    let silent = status(&sandbox, &[]);
    mount.signal(Signal::CONT);
    assert_eq!(silent.code, Some(4), "{silent:?}");
    let number = pid.as_raw_nonzero().to_string();
    assert!(silent.stderr.contains("does not answer") && silent.stderr.contains(&number), "{silent:?}");
    assert!(silent.stdout.contains(second.to_str().unwrap()), "the other one answers: {silent:?}");
    assert_eq!(status_of(&sandbox)["state"], "serving");
    run(sandbox.sluicefs(["unmount".as_ref(), second.as_os_str()])).expect_success();
}

#[test]
fn bytes_mapped_after_close_that_cannot_be_sent_are_counted_and_named() {
    let sandbox = Sandbox::new();
    sandbox.bucket.put("mapped", "0123456789");
    run(sandbox.mount(&[])).expect_success();
    let refused = WireFault::Status { status: 403, code: "AccessDenied", retry_after: None };
    sandbox.server.faults().add(Rule::new(refused).on(Operation::Put));
    let script = "import mmap, os\nf = os.open('mapped', os.O_RDWR)\nm = mmap.mmap(f, 10)\nos.close(f)\nm[3:6] = b'ABC'\nm.close()";
    let done = Command::new("python3").args(["-c", script]).current_dir(sandbox.target()).status().unwrap();
    assert!(done.success());
    // The kernel tells of the last unmapping after the program has ended.
    let told = (0..1000).map(|_| status_of(&sandbox)["lost"].clone()).find(|lost| lost["count"] != 0);
    let lost = told.expect("nothing is told to be lost");
    assert_eq!((&lost["count"], &lost["latest"][0]["key"]), (&1.into(), &"mapped".into()), "{lost}");
    assert!(lost["latest"][0]["error"].as_str().unwrap().contains("403"), "{lost}");
    let text = status(&sandbox, &[]).expect_success().stdout;
    assert!(
        text.contains("1 file(s) are not as they were written last") && text.contains("mapped: "),
        "{text}"
    );
    assert_eq!(sandbox.bucket.object("mapped").unwrap().content.len(), 10);
}
