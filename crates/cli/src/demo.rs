//! `sluicefs demo`: the whole way from an S3 server to a file, on this machine and without an account.
//!
//! The server runs in this process, but nothing is short-circuited: the mount reaches it over a socket, with signed requests, through
//! the client that reaches Amazon. Whatever happens, the mount, its directory and the server end with the command.

mod model;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sluicefs_core::{FileSystem, FsConfig, ReadConfig};
use sluicefs_embedded_s3::{EmbeddedS3, EmbeddedS3Config, MemoryBucket, Unsigned};
use sluicefs_fuse::{MountConfig, MountError, MountedSession};
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::config::{ClientConfig, CredentialSource, Secret, StaticKeys};
use tokio::time::Instant;

use crate::args::DemoArgs;
use crate::failure::Failure;
use crate::mount::{self, attach};
use crate::signals::Signals;
use crate::store::Source;
use crate::{memory, runtime, say};

const BUCKET: &str = "demo";
const MODEL: &str = "llm/model.safetensors";
const SEED: u64 = 0x5_1u64;

/// The small files beside the model.
const FILES: [(&str, &str); 4] = [
    ("README.txt", "Every file here is an object in a bucket of the demo's own S3 server.\n"),
    ("llm/config.json", "{ \"model_type\": \"demo\", \"num_hidden_layers\": 16 }\n"),
    ("llm/tokenizer/vocab.txt", "hello\nworld\n"),
    ("llm/tokenizer/merges.txt", "h e\nl o\n"),
];

/// The file that is written through the mount.
const WRITTEN: (&str, &str) = ("notes/hello.md", "Written through the mount, kept as an object.\n");

/// Runs the demonstration.
///
/// # Errors
/// If a step fails, with its remedy; everything is cleaned up.
pub(crate) fn run(args: &DemoArgs) -> Result<(), Failure> {
    if !Path::new("/dev/fuse").exists() {
        return Err(MountError::NoDevice.into());
    }
    let runtime = runtime::new()?;
    let result = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let directory = TemporaryDirectory::create()?;
        let demonstration = tokio::select! {
            demonstration = prepare(args, directory.path()) => demonstration?,
            signal = signals.next() => return Err(stopped_by(signal)),
        };
        let used = demonstration.use_it(args, &mut signals).await;
        if used.is_ok() && args.keep {
            say(&format!(
                "\nIt stays mounted at {} for reading and writing, until you press Ctrl-C.",
                demonstration.session.target().display()
            ))?;
            signals.next().await;
        }
        let Demonstration { session, server: _server, .. } = demonstration;
        used.and(mount::stop(session, &mut signals).await.map(drop))
    });
    // A reader that Ctrl-C has cut off may still wait for the kernel.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result?;
    say("Unmounted, and everything cleaned up.")
}

fn stopped_by(signal: &str) -> Failure {
    Failure::failed(format!("stopped by {signal}"))
}

/// What lives until the end of the demonstration; the session first, so that it can still ask the server.
#[derive(Debug)]
struct Demonstration {
    session: MountedSession,
    server: EmbeddedS3,
    bucket: MemoryBucket,
    /// Of the model's tensors.
    checksums: Vec<String>,
}

/// Starts the server, fills its bucket, and mounts it.
async fn prepare(args: &DemoArgs, directory: &Path) -> Result<Demonstration, Failure> {
    let bucket = MemoryBucket::new(BUCKET);
    let config =
        EmbeddedS3Config { unsigned: Unsigned::Refused, ..EmbeddedS3Config::new([(BUCKET, bucket.clone())]) };
    let keys = StaticKeys {
        access_key_id: config.access_key_id.clone(),
        secret_access_key: Secret::new(config.secret_access_key.clone()),
        session_token: None,
    };
    let server = EmbeddedS3::start(config)
        .await
        .map_err(|error| Failure::failed(format!("cannot start the S3 server of the demo: {error}")))?;
    let endpoint = server.endpoint_url();
    say(&format!("1. An S3 server runs at {endpoint}, in this process."))?;

    let checksums = write(bucket.clone(), args.size).await?;
    say(&format!(
        "2. It holds s3://{BUCKET}: {} small files and a model of {} MiB.",
        FILES.len(),
        args.size
    ))?;

    let started = Instant::now();
    let session = mount(&endpoint, keys, directory).await?;
    say(&format!("3. It is mounted at {} ({} ms).", directory.display(), started.elapsed().as_millis()))?;
    Ok(Demonstration { session, server, bucket, checksums })
}

impl Demonstration {
    /// Reads and writes through the mount. A signal ends that, and returns once nobody uses the mount any more: what would go on reading from
    /// it would keep its threads alive when the runtime is gone.
    async fn use_it(&self, args: &DemoArgs, signals: &mut Signals) -> Result<(), Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let reader = Reader {
            root: self.session.target().to_owned(),
            checksums: self.checksums.clone(),
            size_mib: args.size,
            stop: Arc::clone(&stop),
        };
        let bucket = self.bucket.clone();
        let mut used = tokio::task::spawn_blocking(move || {
            reader.read_back()?;
            write_through(&reader.root, &bucket)
        });
        let used = tokio::select! {
            used = &mut used => used.map_err(mount::panicked)?,
            signal = signals.next() => {
                stop.store(true, Ordering::Relaxed);
                // It ends by the flag or by itself; either way the signal is why.
                let _ended = used.await.map_err(mount::panicked)?;
                Err(stopped_by(signal))
            }
        };
        used?;
        say(&format!("   The server answered {} requests for all of this.", self.server.requests().total()))?;
        say(WHAT_NEXT)
    }
}

const WHAT_NEXT: &str = "
What to try next:
  sluicefs demo --keep                          look around in it with another terminal
  sluicefs mount my-bucket /mnt/models          mount a bucket of yours (credentials as for the aws command)
  sluicefs mount file:///srv/models /mnt/models mount a local directory
  sluicefs mount --help                         all options";

/// Fills the bucket; the checksum of each tensor comes back.
async fn write(bucket: MemoryBucket, size_mib: u64) -> Result<Vec<String>, Failure> {
    let write = move || {
        for (key, content) in FILES {
            bucket.put(key, content);
        }
        let bar = progress_bar("writing", size_mib << 20);
        let model = model::generate(size_mib, SEED, |bytes| bar.inc(bytes));
        bar.finish_and_clear();
        bucket.put(MODEL, model.file);
        model.checksums
    };
    tokio::task::spawn_blocking(write).await.map_err(mount::panicked)
}

async fn mount(endpoint: &str, keys: StaticKeys, directory: &Path) -> Result<MountedSession, Failure> {
    let client = ClientConfig {
        endpoint_url: Some(endpoint.to_owned()),
        region: Some("us-east-1".to_owned()),
        credentials: CredentialSource::Static(keys),
        ..ClientConfig::default()
    };
    let source = Source::with_client(&format!("s3://{BUCKET}"), client)?;
    let fs = FsConfig {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        read: ReadConfig { memory_limit_bytes: memory::default_target_bytes(), ..ReadConfig::default() },
        ..FsConfig::default()
    };
    let bucket = source.open().await?;
    let fs = FileSystem::new(Arc::clone(&bucket), fs).map_err(|error| Failure::failed(error.to_string()))?;
    let session = MountConfig { read_only: false, ..MountConfig::new(source.to_string()) };
    attach(fs, directory.to_owned(), session).await
}

/// Whoever reads the files of the demo.
#[derive(Debug)]
struct Reader {
    root: PathBuf,
    checksums: Vec<String>,
    size_mib: u64,
    /// Set when it is to end.
    stop: Arc<AtomicBool>,
}

impl Reader {
    /// Reads all files through the mount, as any program would.
    fn read_back(&self) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::failed(format!("reading through the mount: {error}"));
        for (key, expected) in FILES {
            if std::fs::read(self.root.join(key)).map_err(failed)? != expected.as_bytes() {
                return Err(Failure::failed(format!("{key} reads back wrong through the mount")));
            }
        }
        let bar = progress_bar("reading", self.size_mib << 20);
        let once = self.read_model(&bar)?;
        bar.finish_and_clear();
        say(&format!(
            "4. The model reads back through the mount, every checksum right: {}.",
            rate(self.size_mib, once)
        ))?;
        let again = self.read_model(&ProgressBar::hidden())?;
        say(&format!("   Once more, now cached by the kernel: {}.", rate(self.size_mib, again)))
    }

    /// Reads and checks the tensors one after another; how long reading took.
    fn read_model(&self, bar: &ProgressBar) -> Result<Duration, Failure> {
        let failed =
            |error: io::Error| Failure::failed(format!("reading the model through the mount: {error}"));
        let progress = |bytes| {
            bar.inc(bytes);
            match self.stop.load(Ordering::Relaxed) {
                true => Err(io::Error::new(io::ErrorKind::Interrupted, "the demo was stopped")),
                false => Ok(()),
            }
        };
        let started = Instant::now();
        let mut file = File::open(self.root.join(MODEL)).map_err(failed)?;
        let tensors = model::read_header(&mut file).map_err(failed)?;
        let mut spent = started.elapsed();
        if tensors.len() != self.checksums.len() {
            return Err(Failure::failed("the model has another number of tensors than was written"));
        }
        for (tensor, expected) in tensors.iter().zip(&self.checksums) {
            let started = Instant::now();
            let bytes = model::read_tensor(&file, tensor.range, progress).map_err(failed)?;
            spent += started.elapsed();
            if model::checksum(bytes) != *expected {
                return Err(Failure::failed(format!(
                    "{} reads back with another checksum than was written",
                    tensor.name
                )));
            }
        }
        Ok(spent)
    }
}

/// Writes a file through the mount, as any program would, and looks whether the bucket holds it.
fn write_through(root: &Path, bucket: &MemoryBucket) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::failed(format!("writing through the mount: {error}"));
    let (key, text) = WRITTEN;
    let path = root.join(key);
    let started = Instant::now();
    std::fs::create_dir(path.parent().unwrap_or(root)).map_err(failed)?;
    std::fs::write(&path, text).map_err(failed)?;
    let spent = started.elapsed();
    let held = bucket.object(key).map(|object| object.content);
    let held = held.map(|content| content.slice(ByteRange::new(0, content.len())));
    if held.as_deref() != Some(text.as_bytes()) {
        return Err(Failure::failed(format!("the bucket does not hold {key} as it was written")));
    }
    say(&format!(
        "5. A file written through the mount is in the bucket when it is closed: s3://{BUCKET}/{key} ({} ms).",
        spent.as_millis()
    ))
}

fn rate(size_mib: u64, spent: Duration) -> String {
    let seconds = spent.as_secs_f64().max(1e-6);
    format!("{size_mib} MiB in {seconds:.2} s, {:.0} MiB/s", size_mib as f64 / seconds)
}

fn progress_bar(what: &'static str, bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("   {msg} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}")
        .expect("the template is right");
    ProgressBar::new(bytes).with_style(style).with_message(what)
}

/// A directory to mount on; it goes with this value. Never removed with its content, for that is the bucket's.
#[derive(Debug)]
struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    fn create() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("sluicefs-demo-{}", std::process::id()));
        std::fs::create_dir(&path)
            .map_err(|error| Failure::failed(format!("cannot create {}: {error}", path.display())))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove the directory of the demo");
        }
    }
}
