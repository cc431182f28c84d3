//! The whole path, from a program's read to a socket: large objects, large directories, and a server that goes away.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use sluicefs_core::{FsConfig, ReadConfig};
use sluicefs_embedded_s3::{EmbeddedS3, EmbeddedS3Config, Rule, When, WireFault};
use sluicefs_s3_client::config::{AddressingStyle, Secret, StaticKeys};
use sluicefs_s3_client::testing::memory::{Content, pattern};
use sluicefs_s3_client::testing::{MemoryBucket, Operation};
use sluicefs_s3_client::{
    Bucket, BucketIdentity, BucketTraits, BucketUrl, ByteRange, ClientConfig, CredentialSource, GetReply,
    GetRequest, ListPage, ListRequest, ObjectHead, ObjectKey, ReliableBucket, Result, RetryConfig, open,
};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::support::{TestMount, runtime};

const MIB: u64 = 1 << 20;
const LARGE: u64 = 2048 * MIB;
const SEED: u64 = 7;

/// A bucket behind a server, mounted through the client that mounts use.
pub(crate) struct Served {
    // In the order in which they go: the mount before its server.
    pub(crate) mount: TestMount,
    /// How many GETs failed.
    failed: watch::Receiver<u64>,
    pub(crate) server: EmbeddedS3,
    runtime: Runtime,
}

/// Counts the GETs that fail, below the retries.
#[derive(Debug)]
struct Failures {
    inner: Arc<dyn Bucket>,
    failed: watch::Sender<u64>,
}

impl Failures {
    fn new(inner: Arc<dyn Bucket>) -> Self {
        Self { inner, failed: watch::Sender::new(0) }
    }
}

#[async_trait::async_trait]
impl Bucket for Failures {
    fn identity(&self) -> &BucketIdentity {
        self.inner.identity()
    }

    fn traits(&self) -> BucketTraits {
        self.inner.traits()
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectHead> {
        self.inner.head(key).await
    }

    async fn get(&self, request: GetRequest) -> Result<GetReply> {
        self.inner.get(request).await.inspect_err(|_| self.failed.send_modify(|failed| *failed += 1))
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage> {
        self.inner.list(request).await
    }
}

impl Served {
    fn new(store: MemoryBucket) -> Self {
        Self::with(store, |bucket| {
            let failures = Failures::new(bucket);
            let failed = failures.failed.subscribe();
            let bucket = Arc::new(ReliableBucket::new(Arc::new(failures), RetryConfig::default()));
            let read = ReadConfig { memory_limit_bytes: 128 * MIB, ..ReadConfig::default() };
            (TestMount::new(bucket, FsConfig { read, ..FsConfig::default() }), failed)
        })
    }

    /// For reading and writing.
    pub(crate) fn writable(store: MemoryBucket, settings: FsConfig) -> Self {
        Self::with(store, |bucket| {
            let bucket = Arc::new(ReliableBucket::new(bucket, RetryConfig::default()));
            let mount = TestMount::with(bucket, settings, |config| config.read_only = false);
            (mount, watch::Sender::new(0).subscribe())
        })
    }

    fn with(
        store: MemoryBucket,
        mount: impl FnOnce(Arc<dyn Bucket>) -> (TestMount, watch::Receiver<u64>),
    ) -> Self {
        let runtime = runtime();
        let server = runtime.block_on(EmbeddedS3::start(EmbeddedS3Config::new([("models", store)]))).unwrap();
        let config = ClientConfig {
            endpoint_url: Some(server.endpoint_url()),
            region: Some("us-east-1".to_owned()),
            addressing: AddressingStyle::Path,
            credentials: CredentialSource::Static(StaticKeys {
                access_key_id: "sluicefs".to_owned(),
                secret_access_key: Secret::new("sluicefs-secret"),
                session_token: None,
            }),
            ..ClientConfig::default()
        };
        let url = BucketUrl::parse("models").unwrap();
        let (mount, failed) = mount(runtime.block_on(open::connect(&url, &config)).unwrap());
        Self { mount, failed, server, runtime }
    }

    fn with_large_object() -> Self {
        let store = MemoryBucket::new("models");
        store.put("large", Content::Pattern { seed: SEED, len: LARGE });
        Self::new(store)
    }
}

/// Compares what was read at `offset` with what was written there.
fn check(offset: u64, data: &[u8]) {
    let expected = pattern(SEED, ByteRange::from_len(offset, data.len() as u64));
    // Not assert_eq: it would print megabytes.
    assert!(data == &expected[..], "wrong bytes in the {} at {offset}", data.len());
}

fn read_in_order(file: &mut File) {
    let mut piece = vec![0; MIB as usize];
    for offset in (0..LARGE).step_by(MIB as usize) {
        file.read_exact(&mut piece).unwrap();
        check(offset, &piece);
    }
    assert_eq!(file.read(&mut piece).unwrap(), 0, "the end");
}

#[test]
fn two_gib_in_order_are_exact_and_fetched_once() {
    let served = Served::with_large_object();
    read_in_order(&mut File::open(served.mount.join("large")).unwrap());
    let stats = served.mount.fs.read_stats();
    assert_eq!(stats.bytes_fetched, LARGE);
    assert!(stats.memory_peak_bytes <= 128 * MIB, "{stats:?}");
}

#[test]
fn two_gib_by_many_threads_at_random_are_exact() {
    let served = Served::with_large_object();
    let file = File::open(served.mount.join("large")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..16u64 {
            let file = &file;
            scope.spawn(move || {
                let mut at = thread;
                for step in 0..100 {
                    // A fixed walk over odd offsets and lengths, another for each thread.
                    at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let len = 1 + (at >> 33) % (300 << 10);
                    let offset = (at >> 11) % (LARGE - len);
                    let mut data = vec![0; len as usize];
                    file.read_exact_at(&mut data, offset)
                        .unwrap_or_else(|e| panic!("step {step} at {offset}: {e}"));
                    check(offset, &data);
                }
            });
        }
    });
}

#[test]
fn two_gib_through_a_mapping_are_exact() {
    let served = Served::with_large_object();
    // In shuffled pieces, as a loader of weights does; Python maps files, this crate's safe Rust does not.
    let program = "import hashlib, mmap, random, sys
f = open(sys.argv[1], 'rb')
m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
piece = 16 << 20
order = list(range(0, len(m), piece))
random.Random(1).shuffle(order)
digests = {at: hashlib.sha256(m[at:at + piece]).hexdigest() for at in order}
print('\\n'.join(digests[at] for at in sorted(digests)))";
    let output = Command::new("python3")
        .args(["-c", program])
        .arg(served.mount.join("large"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success());
    let digests = String::from_utf8(output.stdout).unwrap();
    let expected = expected_digests(16 * MIB);
    assert_eq!(digests.lines().collect::<Vec<_>>(), expected);
}

/// The SHA-256 of each piece, by a program that was not written here.
fn expected_digests(piece: u64) -> Vec<String> {
    let digest = |offset| {
        let mut sum = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let data = pattern(SEED, ByteRange::from_len(offset, piece));
        std::io::Write::write_all(&mut sum.stdin.take().unwrap(), &data).unwrap();
        let output = sum.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
    };
    (0..LARGE).step_by(piece as usize).map(digest).collect()
}

#[test]
fn a_hundred_thousand_names_are_listed_by_a_hundred_requests() {
    let store = MemoryBucket::new("models");
    for i in 0..100_000 {
        store.put(&format!("d/{i:06}"), "x");
    }
    let served = Served::new(store);
    served.server.requests().reset();
    let names: Vec<String> = fs::read_dir(served.mount.join("d"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 100_000);
    assert!(names.is_sorted());
    // One for the name of the directory.
    assert_eq!(served.server.requests().of(Operation::List), 101);
    assert_eq!(served.server.requests().total(), 101);
}

#[test]
fn a_read_goes_on_when_the_server_comes_back() {
    let mut served = Served::with_large_object();
    let mut file = File::open(served.mount.join("large")).unwrap();
    let mut piece = vec![0; MIB as usize];
    file.read_exact(&mut piece).unwrap();
    check(0, &piece);
    served.runtime.block_on(served.server.stop());
    let rest = std::thread::spawn(move || {
        for offset in (MIB..LARGE).step_by(MIB as usize) {
            file.read_exact(&mut piece).unwrap_or_else(|e| panic!("at {offset}: {e}"));
            check(offset, &piece);
        }
    });
    // No more than the memory limit was fetched before, so that the reader cannot have come to the end.
    let limit = Duration::from_secs(30);
    let met_the_outage = served.failed.wait_for(|failed| *failed > 0);
    served.runtime.block_on(async { tokio::time::timeout(limit, met_the_outage).await.map(drop) }).unwrap();
    served.runtime.block_on(served.server.restart()).unwrap();
    rest.join().unwrap();
}

#[test]
fn broken_and_overloaded_connections_do_not_show() {
    let served = Served::with_large_object();
    let faults = served.server.faults();
    for (fault, every) in [
        (WireFault::Reset(300_000), 0.05),
        (WireFault::Close(100_000), 0.05),
        (WireFault::internal_error(), 0.05),
        (WireFault::slow_down(), 0.02),
    ] {
        faults.add(Rule::new(fault).on(Operation::Get).when(When::Rate(every)));
    }
    read_in_order(&mut File::open(served.mount.join("large")).unwrap());
}
