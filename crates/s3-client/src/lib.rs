//! One S3 bucket as a trait, and what a file system must demand of it.
//!
//! [`Bucket`] is the seam: everything above it speaks of keys, ranges and pages, nothing above it
//! knows HTTP, signing or retries. [`open::open`] turns a URL and a [`ClientConfig`] into a
//! bucket with one retry loop, resumed bodies and checked answers around it.
#![forbid(unsafe_code)]

pub mod aws;
pub mod bucket;
pub mod checksum;
pub mod config;
mod credentials;
pub mod directory;
pub mod endpoint;
pub mod error;
pub mod fingerprint;
pub mod first_byte;
pub mod hedge;
mod http_client;
pub mod interop;
pub mod journal;
pub mod key;
pub mod limiter;
pub mod open;
mod region;
pub mod reliable;
pub mod retry;
pub mod verify;

#[cfg(any(test, feature = "test-util"))]
pub mod testing;

pub use aws::AwsBucket;
pub use bucket::{
    BodyStream, Bucket, BucketIdentity, BucketTraits, CompleteUpload, CopyPart, CopyRequest, CreateUpload,
    GetReply, GetRequest, ListPage, ListRequest, ListedObject, MAX_COPY_BYTES, MAX_DELETE_KEYS,
    MAX_OBJECT_BYTES, MAX_PART_BYTES, MAX_PARTS, MAX_PUT_BYTES, MIN_PART_BYTES, ObjectAttributes, ObjectHead,
    ObjectMeta, Part, Payload, PutRequest, RenameRequest, StorageClass, Timestamp, UploadId, UploadMarker,
    UploadMeta, UploadPage, UploadPart, WriteCondition, Written,
};
pub use checksum::{Checksum, ChecksumAlgorithm, StoredChecksum};
pub use config::{BucketType, ClientConfig, CredentialSource, Encryption, UploadChecksums, WriteConfig};
pub use directory::DirectoryBucket;
pub use error::{Error, ErrorKind, Result};
pub use fingerprint::Fingerprint;
pub use key::{ByteRange, ContinuationToken, ETag, KeyPrefix, ObjectKey};
pub use open::BucketUrl;
pub use reliable::ReliableBucket;
pub use retry::RetryConfig;
