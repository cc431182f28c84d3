//! The contract on servers that were not written here: moto, and s3s-fs.
//!
//! `cargo xtask test` installs them and says where they are. Without that a test prints that it is skipped, since nothing here may
//! depend on what happens to be installed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::TryStreamExt;
use sluicefs_s3_client::testing::OutsideServer;
use sluicefs_s3_client::testing::contract::{Objects, Skip, Subject, bucket_contract, write_contract};
use sluicefs_s3_client::testing::outside;
use sluicefs_s3_client::{
    AwsBucket, Bucket, ErrorKind, GetRequest, KeyPrefix, ListRequest, ObjectKey, UploadChecksums,
};

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
async fn moto_is_written_to_by_the_contract() {
    let Some(server) = Outside::moto() else { return };
    // It does not look at the conditions of completions and copies, cuts ranges to copy, and fails with 500 where an upload is no more.
    let skips = [
        Skip::OddKeys,
        Skip::CompleteConditions,
        Skip::CopyConditions,
        Skip::CopyRangeChecks,
        Skip::CopyTargetConditions,
        Skip::GoneUploads,
    ];
    keeps_write_contract(&server, UploadChecksums::Crc64Nvme, &skips).await;
}

#[tokio::test]
async fn s3s_fs_is_written_to_by_the_contract() {
    let Some(server) = Outside::s3s_fs() else { return };
    // It wants parts numbered without a gap and does not look at their ETags, answers 403 where an upload is no more and lists none,
    // copies an object onto itself, and looks at no conditions but those of a put.
    let skips = [
        Skip::OddKeys,
        Skip::CompleteConditions,
        Skip::CopyConditions,
        Skip::CopyOntoItself,
        Skip::CopyTargetConditions,
        Skip::GoneUploads,
        Skip::ListUploads,
        Skip::PartETags,
        Skip::PartNumbers,
    ];
    // A completed upload has the checksum of the object that it replaced.
    keeps_write_contract(&server, UploadChecksums::Off, &skips).await;
}

async fn keeps_write_contract(server: &Outside, upload_checksums: UploadChecksums, skips: &[Skip]) {
    let made = AtomicUsize::new(0);
    let make = async |objects: Objects| {
        let name = format!("writes-{}", made.fetch_add(1, Ordering::Relaxed));
        server.bucket(&name, &objects).await;
        let mut config = server.server.client_config();
        config.write.upload_checksums = upload_checksums;
        Subject::new(AwsBucket::connect(&name, &config).await.unwrap())
    };
    write_contract(make, skips).await;
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
    let config = server.server.client_config_with("not the secret");
    let bucket = AwsBucket::connect("private", &config).await.unwrap();
    let error = bucket.list(ListRequest::directory(KeyPrefix::root())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
}

/// A server, and what it keeps on disk.
struct Outside {
    server: OutsideServer,
    _root: tempfile::TempDir,
}

impl Outside {
    /// `None` if the test is to be skipped.
    fn moto() -> Option<Self> {
        let root = tempfile::tempdir().unwrap();
        Some(Self { server: OutsideServer::moto(&program(outside::MOTO)?).unwrap(), _root: root })
    }

    /// `None` if the test is to be skipped.
    fn s3s_fs() -> Option<Self> {
        let root = tempfile::tempdir().unwrap();
        let server = OutsideServer::s3s_fs(&program(outside::S3S_FS)?, root.path()).unwrap();
        Some(Self { server, _root: root })
    }

    /// Makes a bucket with these objects.
    async fn bucket(&self, name: &str, objects: &[(String, Bytes)]) -> AwsBucket {
        self.server.create_bucket(name).await.unwrap();
        for (key, bytes) in objects {
            self.server.put(name, key, bytes.clone()).await.unwrap();
        }
        AwsBucket::connect(name, &self.server.client_config()).await.unwrap()
    }
}

fn program(variable: &str) -> Option<PathBuf> {
    let program = std::env::var_os(variable).map(PathBuf::from);
    if program.is_none() {
        println!("skipped: {variable} does not name the server's program; run this by `cargo xtask test`");
    }
    program
}
