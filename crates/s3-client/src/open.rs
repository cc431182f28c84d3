//! From what a person writes to a bucket: the URL, the connection, and the checks before a mount is announced.
//!
//! [`BucketUrl::parse`] is pure. [`connect`] makes a bucket that sends each request once, [`open`] puts the one retry loop
//! around it, and [`probe`] turns the first failure into a line that names cause and remedy.

mod probe;
mod url;

use std::sync::Arc;

use object_store::memory::InMemory;

use crate::aws::AwsBucket;
use crate::bucket::{Bucket, BucketIdentity};
use crate::config::ClientConfig;
use crate::directory::DirectoryBucket;
use crate::error::{Error, ErrorKind, Result};
use crate::interop::object_store::ObjectStoreBucket;
use crate::reliable::ReliableBucket;
use crate::retry::RetryConfig;

pub use probe::probe;
pub use url::{BucketUrl, Location, UrlError, directory_prefix};

/// Opens a bucket with retries, resumed bodies and checked answers around it.
///
/// Sends nothing to the bucket; see [`open_checked`].
///
/// # Errors
/// As [`connect`].
pub async fn open(url: &BucketUrl, config: &ClientConfig) -> Result<Arc<dyn Bucket>> {
    Ok(reliable(connect(url, config).await?, config))
}

/// Opens a bucket and makes sure that it can be listed, within [`ClientConfig::probe_timeout`] for all of it.
///
/// The check goes to the bucket below the retry loop: that would hide the cause until its own, longer deadline.
///
/// # Errors
/// As [`connect`] and [`probe`], each with a message that names cause and remedy.
pub async fn open_checked(url: &BucketUrl, config: &ClientConfig) -> Result<Arc<dyn Bucket>> {
    let deadline = tokio::time::Instant::now() + config.probe_timeout;
    let bucket = tokio::time::timeout_at(deadline, connect(url, config)).await.map_err(|_| {
        Error::new(ErrorKind::Transient, "open")
            .with_bucket(&url.to_string())
            .with_message(format!("no region and endpoint found within {:?}", config.probe_timeout))
    })??;
    probe(&*bucket, &url.prefix, deadline.saturating_duration_since(tokio::time::Instant::now())).await?;
    Ok(reliable(bucket, config))
}

/// Opens a bucket that sends each request once.
///
/// # Errors
/// `Invalid` for settings that cannot work; `BadEndpoint` for an unusable CA bundle; `NoSuchBucket` for a directory that is not there.
pub async fn connect(url: &BucketUrl, config: &ClientConfig) -> Result<Arc<dyn Bucket>> {
    match &url.location {
        Location::S3 { bucket } => Ok(Arc::new(AwsBucket::connect(bucket, config).await?)),
        Location::Directory { path } => Ok(Arc::new(DirectoryBucket::open(path)?)),
        Location::Memory => {
            let identity = BucketIdentity { endpoint: Arc::from("memory"), name: Arc::from("memory:") };
            Ok(Arc::new(ObjectStoreBucket::new(Arc::new(InMemory::new()), identity)))
        }
    }
}

fn reliable(bucket: Arc<dyn Bucket>, config: &ClientConfig) -> Arc<dyn Bucket> {
    let retry = RetryConfig { first_byte_timeout: config.first_byte_timeout, ..RetryConfig::default() };
    Arc::new(ReliableBucket::new(bucket, retry))
}

#[cfg(test)]
mod tests;
