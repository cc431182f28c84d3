//! A store that stops answering holds up only those who wait for it, and those can be killed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluicefs_core::{FsConfig, Ttl};
use sluicefs_s3_client::testing::memory::Content;

use crate::support::{Gate, Program, TestMount, bucket};

/// A killed reader must be gone within a second; a loaded machine may take that long to schedule it.
const KILLED_WITHIN: Duration = Duration::from_secs(3);

const LARGE: u64 = 256 << 20;

/// A mount of a store that can be made to stop answering.
struct Stuck {
    gate: Arc<Gate>,
    mount: TestMount,
}

impl Stuck {
    /// The name of the large file is known, and nothing of its content.
    fn new(metadata_ttl: Ttl) -> Self {
        let store = bucket(&[("small", "content")]);
        store.put("large", Content::Pattern { seed: 1, len: LARGE });
        let gate = Gate::new(store);
        let config = FsConfig { metadata_ttl, ..FsConfig::default() };
        let mount = TestMount::new(Arc::clone(&gate) as _, config);
        fs::metadata(mount.join("large")).unwrap();
        Self { gate, mount }
    }

    /// A program that begins to read the large file.
    fn reader(&self) -> Program {
        let mut command = Command::new("cat");
        command.arg(self.mount.join("large")).stdout(Stdio::null()).stderr(Stdio::null());
        Program(command.spawn().unwrap())
    }

    fn until_somebody_waits(&self) {
        self.gate.until_somebody_waits(self.mount.runtime());
    }
}

fn kill(mut reader: Program) {
    reader.0.kill().unwrap();
    let took = reader.ends_within(Duration::from_secs(20));
    assert!(took.is_some_and(|took| took < KILLED_WITHIN), "the killed reader took {took:?}");
}

#[test]
fn a_reader_that_waits_for_its_first_byte_can_be_killed() {
    let stuck = Stuck::new(Ttl::Forever);
    stuck.gate.hold_everything();
    let reader = stuck.reader();
    stuck.until_somebody_waits();
    kill(reader);
}

#[test]
fn a_reader_whose_store_died_in_the_middle_can_be_killed() {
    // With no time to live the kernel asks for the size again wherever it can: at the end of the file, above all.
    let (middle, end) = (LARGE / 2, LARGE - 10);
    for (ttl, offset) in
        [(Ttl::Forever, middle), (Ttl::For(Duration::ZERO), middle), (Ttl::For(Duration::ZERO), end)]
    {
        let stuck = Stuck::new(ttl);
        // The pause lets the kernel's clock tick, by which attributes with no time to live are over.
        let program = "import os, sys, time
f = os.open(sys.argv[1], os.O_RDONLY)
os.read(f, 65536)
print('begun', flush=True)
sys.stdin.readline()
time.sleep(0.05)
os.pread(f, 65536, int(sys.argv[2]))";
        let mut command = Command::new("python3");
        command.args(["-c", program]).arg(stuck.mount.join("large")).arg(offset.to_string());
        let mut reader = Program(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        let mut begun = [0; 6];
        std::io::Read::read_exact(reader.0.stdout.as_mut().unwrap(), &mut begun).unwrap();
        stuck.gate.hold_everything();
        std::io::Write::write_all(reader.0.stdin.as_mut().unwrap(), b"go\n").unwrap();
        stuck.gate.until_somebody_waits_for(stuck.mount.runtime(), offset);
        kill(reader);
    }
}

#[test]
fn the_others_go_on_while_one_is_stuck() {
    let stuck = Stuck::new(Ttl::Forever);
    assert_eq!(fs::read_to_string(stuck.mount.join("small")).unwrap(), "content");
    stuck.gate.hold_gets();
    // More of them than there are threads that read requests.
    let readers: Vec<_> = (0..8).map(|_| stuck.reader()).collect();
    stuck.until_somebody_waits();
    assert_eq!(fs::read_to_string(stuck.mount.join("small")).unwrap(), "content");
    assert_eq!(fs::metadata(stuck.mount.join("large")).unwrap().len(), LARGE);
    for reader in readers {
        kill(reader);
    }
}

#[test]
fn a_reader_goes_on_when_the_store_is_back() {
    let stuck = Stuck::new(Ttl::Forever);
    let file = File::open(stuck.mount.join("small")).unwrap();
    stuck.gate.hold_everything();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut buffer = [0; 7];
            file.read_exact_at(&mut buffer, 0).map(|()| buffer)
        });
        stuck.until_somebody_waits();
        stuck.gate.open();
        assert_eq!(&reader.join().unwrap().unwrap(), b"content");
    });
}

#[test]
fn unmounting_does_not_wait_for_the_store() {
    let stuck = Stuck::new(Ttl::Forever);
    stuck.gate.hold_everything();
    let reader = stuck.reader();
    stuck.until_somebody_waits();
    kill(reader);
    // Its reads still wait at the store, which gives up on them much later.
    let Stuck { gate, mount } = stuck;
    let began = Instant::now();
    drop(mount);
    assert!(began.elapsed() < KILLED_WITHIN, "{:?}", began.elapsed());
    drop(gate);
}
