//! Objects that are replaced by others of another length after they were opened and before a byte of them was read.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::io::Errno;
use sluicefs_core::{FsConfig, Ttl};
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::memory::{Content, MemoryBucket, pattern};

use crate::support::{Gate, Program, TestMount, bucket, doubtful};

/// The length that was opened, and that of what is read. In one page, over pages, on their borders, and over several requests.
const LENGTHS: [(u64, u64); 13] = [
    (5, 7),
    (7, 5),
    (100, 5000),
    (5000, 100),
    (4096, 8192),
    (8192, 4096),
    (8192, 4097),
    (4095, 4096),
    (100_000, 3_000_000),
    (3_000_000, 100_000),
    (12 << 20, (8 << 20) + 1),
    ((8 << 20) - 1, 12 << 20),
    (12 << 20, 1 << 20),
];

fn old(len: u64) -> Content {
    Content::Pattern { seed: 1, len }
}

fn new(len: u64) -> Content {
    Content::Pattern { seed: 2, len }
}

fn new_bytes(len: u64) -> Vec<u8> {
    pattern(2, ByteRange::new(0, len)).to_vec()
}

/// A mount of one file whose reads are held back.
struct Subject {
    store: MemoryBucket,
    gate: Arc<Gate>,
    mount: TestMount,
}

impl Subject {
    fn new(len: u64, config: FsConfig) -> Self {
        let store = bucket(&[]);
        store.put("file", old(len));
        let gate = Gate::new(store.clone());
        let mount = TestMount::new(Arc::clone(&gate) as _, config);
        gate.hold_gets();
        Self { store, gate, mount }
    }

    /// Starts a program that opens the file and reads it, and replaces the object while the first read is under way.
    fn output_of(&self, command: &mut Command, len: u64) -> (Vec<u8>, std::process::ExitStatus) {
        let mut program = Program(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
        let mut output = program.0.stdout.take().unwrap();
        self.gate.until_somebody_waits(self.mount.runtime());
        self.store.put("file", new(len));
        self.gate.open();
        let mut read = Vec::new();
        output.read_to_end(&mut read).unwrap();
        (read, program.0.wait().unwrap())
    }
}

fn python(program: &str, subject: &Subject) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", program]).arg(subject.mount.join("file"));
    command
}

fn check(config: &FsConfig, command: impl Fn(&Subject) -> Command + Copy) {
    check_lengths(config, &LENGTHS, command);
    check_lengths(config, &[(70_000, 0)], command);
}

fn check_lengths(config: &FsConfig, lengths: &[(u64, u64)], command: impl Fn(&Subject) -> Command) {
    for &(before, after) in lengths {
        let subject = Subject::new(before, config.clone());
        let (read, status) = subject.output_of(&mut command(&subject), after);
        assert!(status.success(), "{before} -> {after}: {status}");
        let expected = new_bytes(after);
        assert!(
            read == expected,
            "{before} -> {after}: {} bytes, right {}",
            read.len(),
            agree(&read, &expected)
        );
        let shown = fs::metadata(subject.mount.join("file")).unwrap().len();
        assert_eq!(shown, after, "{before} -> {after}: what stat shows");
    }
}

/// How many bytes at the beginning are the same.
fn agree(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn believing() -> FsConfig {
    FsConfig { metadata_ttl: Ttl::Forever, ..FsConfig::default() }
}

#[test]
fn cat_reads_the_new_version_whole() {
    for config in [believing(), doubtful()] {
        check(&config, |subject| {
            let mut command = Command::new("cat");
            command.arg(subject.mount.join("file"));
            command
        });
    }
}

#[test]
fn cp_copies_the_new_version_whole() {
    check(&believing(), |subject| {
        let mut command = Command::new("sh");
        let script = "copy=$(mktemp) && cp -- \"$1\" \"$copy\" && cat \"$copy\" && rm \"$copy\"";
        command.args(["-c", script, "sh"]).arg(subject.mount.join("file"));
        command
    });
}

#[test]
fn python_reads_the_new_version_whole_and_sees_its_length() {
    let program = "import os, sys
with open(sys.argv[1], 'rb') as f:
    data = f.read()
    assert os.fstat(f.fileno()).st_size == len(data), os.fstat(f.fileno()).st_size
sys.stdout.buffer.write(data)";
    check(&believing(), |subject| python(program, subject));
}

#[test]
fn small_reads_see_the_new_version_and_its_length_after_the_first() {
    let program = "import os, sys
f = os.open(sys.argv[1], os.O_RDONLY)
piece = os.read(f, 3)
length = os.fstat(f).st_size
data = [piece]
while piece:
    piece = os.read(f, 1000)
    data.append(piece)
data = b''.join(data)
assert length == len(data), length
sys.stdout.buffer.write(data)";
    check(&believing(), |subject| python(program, subject));
}

#[test]
fn unbuffered_readers_see_the_new_version_whole() {
    check(&believing(), |subject| {
        let mut command = Command::new("dd");
        command.args(["iflag=direct", "bs=1M", "status=none"]);
        command.arg(format!("if={}", subject.mount.join("file").display()));
        command
    });
}

#[test]
fn a_mapping_shows_the_new_version_as_far_as_it_reaches() {
    // The mapping is as long as the file was; what the new version lacks of that may not be touched.
    let program = "import mmap, os, sys
f = os.open(sys.argv[1], os.O_RDONLY)
m = mmap.mmap(f, 0, prot=mmap.PROT_READ)
m[0]
length = os.fstat(f).st_size
data = m[:min(length, len(m))]
if length > len(m):
    data = mmap.mmap(f, 0, prot=mmap.PROT_READ)[:]
sys.stdout.buffer.write(data)";
    check_lengths(&believing(), &LENGTHS, |subject| python(program, subject));
}

#[test]
fn a_mapping_has_no_pages_behind_the_end_of_what_shrank() {
    for (touch, status) in [(90_000, None), (100_000 - 1, None), (200_000, Some(SIGBUS))] {
        let subject = Subject::new(3_000_000, believing());
        let program = format!(
            "import mmap, os, sys
f = os.open(sys.argv[1], os.O_RDONLY)
m = mmap.mmap(f, 0, prot=mmap.PROT_READ)
m[0]
os.write(1, m[{touch}:{touch} + 1])"
        );
        let (read, ended) = subject.output_of(&mut python(&program, &subject), 100_000);
        assert_eq!(ended.signal(), status, "at {touch}");
        if status.is_none() {
            assert_eq!(read, new_bytes(100_000)[touch..=touch]);
        }
    }
}

#[test]
fn a_read_behind_the_new_end_is_stale_until_the_length_is_known() {
    let store = bucket(&[]);
    store.put("file", old(3_000_000));
    let mount = TestMount::new(Arc::new(store.clone()), believing());
    let file = File::open(mount.join("file")).unwrap();
    store.put("file", new(100_000));
    let mut buffer = [0; 8];
    for _ in 0..2 {
        let error = file.read_at(&mut buffer, 3_000_000 - 8).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::STALE));
    }
    assert_eq!(file.metadata().unwrap().len(), 100_000);
    assert_eq!(file.read_at(&mut buffer, 3_000_000 - 8).unwrap(), 0, "the end");
    assert_eq!(file.read_at(&mut buffer, 100_000 - 5).unwrap(), 5);
    assert_eq!(buffer[..5], new_bytes(100_000)[100_000 - 5..]);
}

/// Attributes that are asked for at the same time are what could make the kernel take a short reply for a hole.
#[test]
fn what_others_ask_meanwhile_makes_no_zeros() {
    let store = bucket(&[]);
    let mount = TestMount::new(Arc::new(store.clone()), doubtful());
    for round in 0..50_u64 {
        let (name, after) = (format!("file{round}"), 100_003 + round * 977);
        store.put(&name, old(3_000_000));
        let path = mount.join(&name);
        let readers: Vec<_> = (0..4).map(|_| File::open(&path).unwrap()).collect();
        let expected = new_bytes(after);
        store.put(&name, new(after));
        std::thread::scope(|scope| {
            for (n, mut reader) in readers.into_iter().enumerate() {
                let (path, expected) = (&path, &expected);
                scope.spawn(move || {
                    if n == 0 {
                        // All of the old length, in many requests at once.
                        rustix::fs::fadvise(&reader, 0, None, rustix::fs::Advice::WillNeed).unwrap();
                    }
                    let mut read = Vec::new();
                    reader.read_to_end(&mut read).unwrap();
                    assert!(read == *expected, "{} bytes, right {}", read.len(), agree(&read, expected));
                    assert_eq!(reader.metadata().unwrap().len(), after);
                    assert_eq!(fs::metadata(path).unwrap().len(), after);
                });
                scope.spawn(move || {
                    for _ in 0..20 {
                        let shown = fs::metadata(path).unwrap().len();
                        assert!([3_000_000, after].contains(&shown), "{shown}");
                    }
                });
            }
        });
    }
}

const SIGBUS: i32 = rustix::process::Signal::BUS.as_raw();
