//! A program of its own that writes to a file and keeps it open.
//!
//! A child that any test of this process starts has a copy of each open file until it runs its program; closing that makes what is written durable,
//! as each close does.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, stdin};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const PATH: &str = "SLUICEFS_TEST_WRITER_PATH";
const MEBIBYTES: &str = "SLUICEFS_TEST_WRITER_MEBIBYTES";
const WRITTEN: &str = "all is written";

/// The program. It ends, and closes the file, when this is dropped.
pub(crate) struct Writer(Child);

impl Writer {
    /// Creates the file `path`, and writes a MiB at each offset, in MiB, of `mebibytes`.
    pub(crate) fn start(path: &Path, mebibytes: impl Iterator<Item = u64>) -> Self {
        let mebibytes: Vec<String> = mebibytes.map(|at| at.to_string()).collect();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer::child", "--ignored", "--nocapture", "--test-threads=1"])
            .envs([(PATH, path.as_os_str()), (MEBIBYTES, mebibytes.join(",").as_ref())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.as_mut().unwrap()).lines().map_while(Result::ok);
        assert!(said.into_iter().any(|line| line.contains(WRITTEN)), "the writer failed");
        Self(child)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // The file may be broken by now.
        drop(self.0.wait());
    }
}

#[test]
#[ignore = "runs as a program of its own"]
fn child() {
    let file = File::create(std::env::var_os(PATH).unwrap()).unwrap();
    for at in std::env::var_os(MEBIBYTES).unwrap().to_str().unwrap().split(',') {
        let at: u64 = at.parse().unwrap();
        file.write_all_at(&[at as u8; 1 << 20], at << 20).unwrap();
    }
    println!("{WRITTEN}");
    stdin().read_to_end(&mut Vec::new()).unwrap();
}
