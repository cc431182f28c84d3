//! The contract over the wire: the SDK bucket against the embedded server, with and without the retry loop, and object_store.

use std::sync::Arc;

use sluicefs_embedded_s3::{EmbeddedS3, EmbeddedS3Config, MemoryBucket};
use sluicefs_s3_client::config::{Secret, StaticKeys};
use sluicefs_s3_client::interop::object_store::ObjectStoreBucket;
use sluicefs_s3_client::testing::contract::{Objects, Skip, Subject, bucket_contract, write_contract};
use sluicefs_s3_client::{
    AwsBucket, BucketIdentity, BucketType, ClientConfig, CredentialSource, DirectoryBucket, ReliableBucket,
    RetryConfig, UploadChecksums,
};

/// The name of the one bucket that a server of these tests has.
pub(crate) const BUCKET: &str = "bucket";

/// A server with one bucket.
pub(crate) async fn serve(bucket: MemoryBucket) -> EmbeddedS3 {
    EmbeddedS3::start(EmbeddedS3Config::new([(BUCKET, bucket)])).await.unwrap()
}

/// The one bucket of `server`, each request sent once.
pub(crate) async fn aws_bucket(server: &EmbeddedS3) -> AwsBucket {
    aws_bucket_with(server, |_| {}).await
}

/// The same, after `edit` changed its settings.
pub(crate) async fn aws_bucket_with(server: &EmbeddedS3, edit: impl FnOnce(&mut ClientConfig)) -> AwsBucket {
    let defaults = EmbeddedS3Config::new::<String>([]);
    let keys = StaticKeys {
        access_key_id: defaults.access_key_id,
        secret_access_key: Secret::new(defaults.secret_access_key),
        session_token: None,
    };
    let mut config = ClientConfig {
        region: Some(defaults.region),
        endpoint_url: Some(server.endpoint_url()),
        credentials: CredentialSource::Static(keys),
        ..ClientConfig::default()
    };
    edit(&mut config);
    AwsBucket::connect(BUCKET, &config).await.unwrap()
}

async fn served(objects: Objects) -> (AwsBucket, EmbeddedS3) {
    served_with(MemoryBucket::new(BUCKET), objects, |_| {}).await
}

async fn served_with(
    bucket: MemoryBucket,
    objects: Objects,
    edit: impl FnOnce(&mut ClientConfig),
) -> (AwsBucket, EmbeddedS3) {
    objects.into_iter().for_each(|(key, bytes)| _ = bucket.put(&key, bytes));
    let server = serve(bucket).await;
    (aws_bucket_with(&server, edit).await, server)
}

fn subject((bucket, server): (AwsBucket, EmbeddedS3)) -> Subject {
    Subject { bucket: Arc::new(bucket), keep: Box::new(server) }
}

#[tokio::test]
async fn aws_bucket_keeps_the_contract() {
    bucket_contract(async |objects| subject(served(objects).await), &[]).await;
}

#[tokio::test]
async fn aws_bucket_writes_as_the_contract_says() {
    for checksums in [UploadChecksums::Crc64Nvme, UploadChecksums::Crc32c, UploadChecksums::Off] {
        let make = async |objects| {
            let edit = |config: &mut ClientConfig| config.write.upload_checksums = checksums;
            subject(served_with(MemoryBucket::new(BUCKET), objects, edit).await)
        };
        write_contract(make, &[]).await;
    }
}

#[tokio::test]
async fn directory_buckets_move_objects() {
    let make = async |objects| {
        let memory = MemoryBucket::new(BUCKET).with_traits(|traits| traits.rename = true);
        subject(served_with(memory, objects, |config| config.bucket_type = Some(BucketType::Directory)).await)
    };
    write_contract(make, &[]).await;
}

#[tokio::test]
async fn aws_bucket_with_retries_keeps_the_contract() {
    let make = async |objects: Objects| {
        let (bucket, server) = served(objects).await;
        let reliable = ReliableBucket::new(Arc::new(bucket), RetryConfig::default());
        Subject { bucket: Arc::new(reliable), keep: Box::new(server) }
    };
    bucket_contract(make, &[]).await;
    write_contract(make, &[]).await;
}

/// What no store of object_store does: parts are numbered as they come, and only so; copies change nothing.
const OBJECT_STORE: [Skip; 4] =
    [Skip::OddKeys, Skip::PartNumbers, Skip::SmallParts, Skip::CopyWithAttributes];

#[tokio::test]
async fn object_store_in_memory_keeps_the_contract_for_keys_that_are_paths() {
    use object_store::ObjectStoreExt;
    let make = async |objects: Objects| {
        let store = object_store::memory::InMemory::new();
        for (key, bytes) in objects {
            store.put(&object_store::path::Path::parse(key).unwrap(), bytes.into()).await.unwrap();
        }
        let identity = BucketIdentity { endpoint: Arc::from("memory"), name: Arc::from("memory:") };
        Subject::new(ObjectStoreBucket::new(Arc::new(store), identity))
    };
    bucket_contract(make, &OBJECT_STORE).await;
    write_contract(make, &OBJECT_STORE).await;
}

#[tokio::test]
async fn object_store_on_disk_writes_as_the_contract_says() {
    use object_store::ObjectStoreExt;
    let make = async |objects: Objects| {
        let directory = tempfile::tempdir().unwrap();
        let store = object_store::local::LocalFileSystem::new_with_prefix(directory.path()).unwrap();
        for (key, bytes) in objects {
            store.put(&object_store::path::Path::parse(key).unwrap(), bytes.into()).await.unwrap();
        }
        let identity = BucketIdentity { endpoint: Arc::from("file"), name: Arc::from("file:") };
        let bucket = ObjectStoreBucket::new(Arc::new(store), identity);
        Subject { bucket: Arc::new(bucket), keep: Box::new(directory) }
    };
    let skips: Vec<_> = OBJECT_STORE.into_iter().chain([Skip::Attributes]).collect();
    write_contract(make, &skips).await;
}

/// A directory with these files.
async fn directory(objects: Objects) -> Subject {
    let directory = tempfile::tempdir().unwrap();
    for (key, bytes) in objects {
        let path = directory.path().join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let bucket = DirectoryBucket::open(directory.path()).unwrap();
    Subject { bucket: Arc::new(bucket), keep: Box::new(directory) }
}

#[tokio::test]
async fn a_directory_keeps_the_contract_for_keys_that_are_paths() {
    bucket_contract(directory, &[Skip::OddKeys]).await;
}

#[tokio::test]
async fn a_directory_is_written_to_by_the_contract() {
    write_contract(directory, &[Skip::OddKeys, Skip::Attributes]).await;
}
