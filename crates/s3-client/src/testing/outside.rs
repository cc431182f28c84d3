//! S3 servers that were not written here, each in a process of its own: moto's, and the s3s project's on a directory.
//!
//! What two sides of one mistake agree on, tests with our own server cannot see. Where the programs are, the caller knows; this starts
//! one, waits until it listens, and fills buckets through Amazon's SDK.

use std::io::{self, BufRead, BufReader, PipeReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;

use crate::config::{ClientConfig, CredentialSource, Secret, StaticKeys};

/// Where `cargo xtask test` says, to tests, which program is moto's S3 server.
pub const MOTO: &str = "SLUICEFS_TEST_MOTO";

/// The same for s3s-fs.
pub const S3S_FS: &str = "SLUICEFS_TEST_S3S_FS";

const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const REGION: &str = "us-east-1";

/// A server, which ends when this is dropped.
#[derive(Debug)]
pub struct OutsideServer {
    _process: Process,
    url: String,
    /// Amazon's own, to write with.
    client: aws_sdk_s3::Client,
}

impl OutsideServer {
    /// moto's S3 server in memory, which checks no signatures. Blocks until it listens.
    ///
    /// # Errors
    /// It cannot be started, or ended; then with what it said.
    pub fn moto(program: &Path) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.args(["--host", "127.0.0.1", "--port", "0"]);
        Self::start(command)
    }

    /// The s3s project's server on the directory `root`, which checks every signature. Blocks until it listens.
    ///
    /// # Errors
    /// As for [`OutsideServer::moto`].
    pub fn s3s_fs(program: &Path, root: &Path) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.args(["--host", "127.0.0.1", "--port", "0"]);
        command.args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]).arg(root);
        command.env("RUST_LOG", "s3s_fs=info");
        Self::start(command)
    }

    fn start(mut command: Command) -> io::Result<Self> {
        let (output, writer) = io::pipe()?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let spawned = command.spawn();
        let process = Process(
            spawned
                .map_err(|error| io::Error::new(error.kind(), format!("starting {command:?}: {error}")))?,
        );
        // The command holds ends of the pipe, and would keep it open after the server's death.
        drop(command);
        let url = announced_url(output)?;
        let client = client(&url);
        Ok(Self { _process: process, url, client })
    }

    /// How a client reaches it.
    pub fn client_config(&self) -> ClientConfig {
        self.client_config_with(SECRET_KEY)
    }

    /// The same with a secret that may be wrong.
    pub fn client_config_with(&self, secret: &str) -> ClientConfig {
        let keys = StaticKeys {
            access_key_id: ACCESS_KEY.to_owned(),
            secret_access_key: Secret::new(secret),
            session_token: None,
        };
        ClientConfig {
            region: Some(REGION.to_owned()),
            endpoint_url: Some(self.url.clone()),
            credentials: CredentialSource::Static(keys),
            ..ClientConfig::default()
        }
    }

    /// Makes a bucket.
    ///
    /// # Errors
    /// What the server answered.
    pub async fn create_bucket(&self, name: &str) -> io::Result<()> {
        let made = self.client.create_bucket().bucket(name).send().await;
        made.map(drop).map_err(|error| io::Error::other(format!("creating the bucket {name}: {error:?}")))
    }

    /// Writes an object.
    ///
    /// # Errors
    /// What the server answered.
    pub async fn put(&self, bucket: &str, key: &str, bytes: impl Into<Bytes>) -> io::Result<()> {
        let body = ByteStream::from(bytes.into());
        let put = self.client.put_object().bucket(bucket).key(key).body(body).send().await;
        put.map(drop).map_err(|error| io::Error::other(format!("putting {key:?}: {error:?}")))
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// What the server answered.
    pub async fn delete(&self, bucket: &str, key: &str) -> io::Result<()> {
        let deleted = self.client.delete_object().bucket(bucket).key(key).send().await;
        deleted.map(drop).map_err(|error| io::Error::other(format!("deleting {key:?}: {error:?}")))
    }
}

fn client(url: &str) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .region(Region::new(REGION))
        .endpoint_url(url)
        .force_path_style(true)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test"))
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

/// Ends with its guard.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads on until the server says where it listens. What it says later is read and dropped, so that it never waits for a reader.
fn announced_url(output: PipeReader) -> io::Result<String> {
    let mut lines = BufReader::new(output).lines();
    let mut said = Vec::new();
    for line in lines.by_ref() {
        let line = line?;
        if let Some(at) = line.find("http://127.0.0.1:") {
            std::thread::spawn(move || lines.for_each(drop));
            let url = line[at..].split(|c: char| !(c.is_ascii_alphanumeric() || ":/.".contains(c))).next();
            return Ok(url.unwrap_or_default().to_owned());
        }
        said.push(line);
    }
    Err(io::Error::other(format!("the server ended before it listened; it said:\n{}", said.join("\n"))))
}
