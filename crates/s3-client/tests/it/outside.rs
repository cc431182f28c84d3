//! The contract on servers that were not written here: moto, and s3s-fs.
//!
//! `cargo xtask test` installs them and says where they are. Without that a test prints that it is skipped, since nothing here may
//! depend on what happens to be installed.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, PipeReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures::TryStreamExt;
use sluicefs_s3_client::config::{Secret, StaticKeys};
use sluicefs_s3_client::testing::contract::{Objects, Skip, Subject, bucket_contract};
use sluicefs_s3_client::{
    AwsBucket, Bucket, ClientConfig, CredentialSource, ErrorKind, GetRequest, KeyPrefix, ListRequest,
    ObjectKey,
};

const MOTO: &str = "SLUICEFS_TEST_MOTO";
const S3S_FS: &str = "SLUICEFS_TEST_S3S_FS";

const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const REGION: &str = "us-east-1";

/// Keys that must arrive at the server as they are, whatever URLs, XML and signatures make of them. The contract's own list has
/// more; these are the ones that servers with files or routes behind their keys can hold.
const ODD_KEYS: [&str; 11] = [
    "plain",
    "with space",
    "plus+and%41percent%",
    "question?mark=1&and#hash",
    "quote\"apostrophe'<angle>&amp;",
    "back\\slash",
    "crab-\u{1f980}",
    "e\u{301}-decomposed",
    "tilde~(parentheses)!*'",
    "colon:semicolon;comma,at@equals=",
    "dir/below",
];

#[tokio::test]
async fn moto_keeps_the_contract() {
    let Some(server) = Outside::moto() else { return };
    // Its URLs are routes of Flask, which know no newline and fold slashes.
    keeps_contract(&server, &[Skip::OddKeys]).await;
}

#[tokio::test]
async fn s3s_fs_keeps_the_contract() {
    let Some(server) = Outside::s3s_fs() else { return };
    // Its objects are files, so no key is empty between slashes, or `..`, and it answers 500 for the key of a directory. It ignores
    // If-Match and lists no ETags.
    keeps_contract(&server, &[Skip::OddKeys, Skip::DirectoryKeys, Skip::IfMatch, Skip::ListedETags]).await;
}

async fn keeps_contract(server: &Outside, skips: &[Skip]) {
    let made = AtomicUsize::new(0);
    let make = async |objects: Objects| {
        let name = format!("contract-{}", made.fetch_add(1, Ordering::Relaxed));
        Subject::new(server.bucket(&name, &objects).await)
    };
    bucket_contract(make, skips).await;
}

#[tokio::test]
async fn moto_holds_odd_keys() {
    let Some(server) = Outside::moto() else { return };
    reads_odd_keys(&server, &ODD_KEYS).await;
}

#[tokio::test]
async fn s3s_fs_holds_odd_keys() {
    let Some(server) = Outside::s3s_fs() else { return };
    // It says that the names in its listings are encoded, and does not encode them.
    let plain = |key: &&str| !key.contains(['%', '+']);
    let keys: Vec<_> = ODD_KEYS.into_iter().filter(plain).collect();
    reads_odd_keys(&server, &keys).await;
}

async fn reads_odd_keys(server: &Outside, keys: &[&str]) {
    let objects: Objects =
        keys.iter().map(|key| ((*key).to_owned(), Bytes::from(format!("<{key}>")))).collect();
    let bucket = server.bucket("odd-keys", &objects).await;
    for (key, bytes) in &objects {
        let key = ObjectKey::new(key.as_str()).unwrap();
        let head = bucket.head(&key).await.unwrap();
        assert_eq!(head.meta.size, bytes.len() as u64, "{key}");
        let request = GetRequest { key: key.clone(), range: None, if_match: None };
        let body = bucket.get(request).await.unwrap().body;
        let pieces: Vec<Bytes> = body.try_collect().await.unwrap();
        assert_eq!(pieces.concat(), *bytes, "{key}");
    }
    let everything = ListRequest { delimiter: false, ..ListRequest::directory(KeyPrefix::root()) };
    let page = bucket.list(everything).await.unwrap();
    let listed: BTreeSet<_> = page.objects.iter().map(|object| object.key.as_str()).collect();
    assert_eq!(listed, keys.iter().copied().collect());
}

#[tokio::test]
async fn s3s_fs_refuses_a_wrong_secret() {
    let Some(server) = Outside::s3s_fs() else { return };
    server.bucket("private", &[]).await;
    let bucket = server.connect("private", "not the secret").await;
    let error = bucket.list(ListRequest::directory(KeyPrefix::root())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
}

/// A server in a process of its own, which ends when this is dropped.
struct Outside {
    process: Child,
    url: String,
    /// Holds what a server keeps on disk.
    _root: tempfile::TempDir,
}

impl Outside {
    /// moto's S3 server, which checks no signatures; `None` if the test is to be skipped.
    fn moto() -> Option<Self> {
        let root = tempfile::tempdir().unwrap();
        let mut command = Command::new(program(MOTO)?);
        command.args(["--host", "127.0.0.1", "--port", "0"]);
        Some(Self::start(command, root))
    }

    /// The s3s project's server on a directory, which checks every signature; `None` if the test is to be skipped.
    fn s3s_fs() -> Option<Self> {
        let root = tempfile::tempdir().unwrap();
        let mut command = Command::new(program(S3S_FS)?);
        command.args(["--host", "127.0.0.1", "--port", "0"]);
        command.args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]).arg(root.path());
        command.env("RUST_LOG", "s3s_fs=info");
        Some(Self::start(command, root))
    }

    fn start(mut command: Command, root: tempfile::TempDir) -> Self {
        let (output, writer) = std::io::pipe().unwrap();
        command.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
        let process = command.spawn().unwrap_or_else(|e| panic!("starting {command:?}: {e}"));
        // The command holds ends of the pipe, and would keep it open after the server's death.
        drop(command);
        let mut server = Self { process, url: String::new(), _root: root };
        server.url = announced_url(output);
        server
    }

    /// Makes a bucket with these objects.
    async fn bucket(&self, name: &str, objects: &[(String, Bytes)]) -> AwsBucket {
        let client = self.client();
        client.create_bucket().bucket(name).send().await.unwrap();
        for (key, bytes) in objects {
            let put = client.put_object().bucket(name).key(key).body(ByteStream::from(bytes.clone()));
            put.send().await.unwrap_or_else(|e| panic!("putting {key:?}: {e:?}"));
        }
        self.connect(name, SECRET_KEY).await
    }

    async fn connect(&self, name: &str, secret: &str) -> AwsBucket {
        let keys = StaticKeys {
            access_key_id: ACCESS_KEY.to_owned(),
            secret_access_key: Secret::new(secret),
            session_token: None,
        };
        let config = ClientConfig {
            region: Some(REGION.to_owned()),
            endpoint_url: Some(self.url.clone()),
            credentials: CredentialSource::Static(keys),
            ..ClientConfig::default()
        };
        AwsBucket::connect(name, &config).await.unwrap()
    }

    /// A client of the SDK, to write with.
    fn client(&self) -> aws_sdk_s3::Client {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .region(Region::new(REGION))
            .endpoint_url(&self.url)
            .force_path_style(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test"))
            .build();
        aws_sdk_s3::Client::from_conf(config)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program(variable: &str) -> Option<PathBuf> {
    let program = std::env::var_os(variable).map(PathBuf::from);
    if program.is_none() {
        println!("skipped: {variable} does not name the server's program; run this by `cargo xtask test`");
    }
    program
}

/// Reads on until the server says where it listens. What it says later is read and dropped, so that it never waits for a reader.
fn announced_url(output: PipeReader) -> String {
    let mut lines = BufReader::new(output).lines();
    let mut said = Vec::new();
    for line in lines.by_ref() {
        let line = line.unwrap();
        if let Some(at) = line.find("http://127.0.0.1:") {
            std::thread::spawn(move || lines.for_each(drop));
            let url = line[at..].split(|c: char| !(c.is_ascii_alphanumeric() || ":/.".contains(c))).next();
            return url.unwrap().to_owned();
        }
        said.push(line);
    }
    panic!("the server ended before it listened; it said:\n{}", said.join("\n"));
}
