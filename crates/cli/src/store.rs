//! The bucket of a mount: from what the user wrote to an open bucket that has answered.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use sluicefs_s3_client::config::{ClientConfig, WriteConfig};
use sluicefs_s3_client::open::{Location, connect, probe};
use sluicefs_s3_client::{
    Bucket, BucketUrl, Error as StoreError, ErrorKind, KeyPrefix, ReliableBucket, RetryConfig,
};
use tokio::time::{Instant, timeout_at};

use crate::args::StoreArgs;
use crate::failure::Failure;
use crate::settings::client_config;

/// A bucket, the directory in it that is mounted, and how to reach it.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    url: BucketUrl,
    client: ClientConfig,
    retry: RetryConfig,
}

impl Source {
    /// What the options say; `write` is what to store with what is written.
    ///
    /// # Errors
    /// If the bucket or an option makes no sense.
    pub(crate) fn new(bucket: &str, args: &StoreArgs, write: WriteConfig) -> Result<Self, Failure> {
        let mut source = Self::with_client(bucket, client_config(args, write)?)?;
        if let Some(limit) = args.op_timeout {
            source.retry.operation_deadline = limit;
        }
        Ok(source)
    }

    /// The directory `prefix` of the bucket alone, if there is one.
    ///
    /// # Errors
    /// If the bucket was given with a prefix already.
    pub(crate) fn below(mut self, prefix: Option<&str>) -> Result<Self, Failure> {
        let prefix = prefix.unwrap_or_default();
        self.url = self.url.with_prefix(prefix).map_err(|error| Failure::usage(error.to_string()))?;
        Ok(self)
    }

    /// A bucket that is reached as `client` says.
    ///
    /// # Errors
    /// If the bucket makes no sense.
    pub(crate) fn with_client(bucket: &str, client: ClientConfig) -> Result<Self, Failure> {
        let url = BucketUrl::parse(bucket).map_err(|error| Failure::usage(error.to_string()))?;
        let retry = RetryConfig { first_byte_timeout: client.first_byte_timeout, ..RetryConfig::default() };
        Ok(Self { url, client, retry })
    }

    /// The directory that is meant: empty, or ending in `/`.
    pub(crate) fn prefix(&self) -> KeyPrefix {
        self.url.prefix.clone()
    }

    /// The directory of this machine that is mounted, if it is one.
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        match &self.url.location {
            Location::Directory { path } => Some(path.join(self.url.prefix.as_str())),
            _ => None,
        }
    }

    /// Opens the bucket and makes sure that it can be listed, both within the probes' time.
    ///
    /// # Errors
    /// One line with the cause and a remedy.
    pub(crate) async fn open(&self) -> Result<Arc<dyn Bucket>, Failure> {
        self.open_checked().await.map_err(|error| Failure::store(&error))
    }

    /// The check goes to the bucket below the retries, which would hide the cause until their own, longer deadline.
    async fn open_checked(&self) -> Result<Arc<dyn Bucket>, StoreError> {
        let limit = self.client.probe_timeout;
        let deadline = Instant::now() + limit;
        let bucket = timeout_at(deadline, connect(&self.url, &self.client)).await.map_err(|_| {
            StoreError::new(ErrorKind::Transient, "open")
                .with_bucket(&self.to_string())
                .with_message(format!("no region and endpoint found within {limit:?}; name them with --region and --endpoint-url"))
        })??;
        probe(&*bucket, &self.url.prefix, deadline.saturating_duration_since(Instant::now())).await?;
        Ok(Arc::new(ReliableBucket::new(bucket, self.retry.clone())))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::failure::ExitStatus;

    fn source(bucket: &str, options: &[&str]) -> Result<Source, Failure> {
        let line = ["sluicefs", "mount", bucket, "/dir"];
        match Cli::try_parse_from(line.iter().chain(options)).unwrap().command {
            Command::Mount(args) => Source::new(&args.bucket, &args.store, WriteConfig::default())
                .and_then(|source| source.below(args.prefix.as_deref())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn prefix_stands_in_the_url_or_in_the_option() {
        for (bucket, options, expected) in [
            ("b", &[][..], "s3://b"),
            ("b", &["--prefix", "p/q/"], "s3://b/p/q/"),
            ("s3://b/p/q", &[], "s3://b/p/q/"),
        ] {
            assert_eq!(source(bucket, options).unwrap().to_string(), expected);
        }
        for (bucket, options) in [("s3://b/p/", &["--prefix", "q/"][..]), ("b/p", &[]), ("ftp://b", &[])] {
            assert_eq!(source(bucket, options).unwrap_err().status, ExitStatus::Usage, "{bucket}");
        }
    }

    #[test]
    fn op_timeout_bounds_the_retries() {
        let retry = source("b", &["--op-timeout", "7"]).unwrap().retry;
        assert_eq!(retry.operation_deadline, std::time::Duration::from_secs(7));
    }
}
