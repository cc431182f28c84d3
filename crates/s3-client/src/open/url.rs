//! How buckets are written: `my-bucket`, `s3://my-bucket/prefix`, an ARN, `file:///dir`, `memory:`.

use std::fmt;
use std::path::PathBuf;

use crate::key::KeyPrefix;

/// Which store a URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A bucket at S3: its name, an access point alias, or the ARN of an access point.
    S3 {
        /// As requests name it.
        bucket: String,
    },
    /// A directory of this machine.
    Directory {
        /// Absolute.
        path: PathBuf,
    },
    /// An empty store in memory.
    Memory,
}

/// A bucket, and the directory inside that is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketUrl {
    /// The store.
    pub location: Location,
    /// Empty, or ending in `/`.
    pub prefix: KeyPrefix,
}

/// Why a text names no bucket, and how to write it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Nothing was given.
    #[error("the bucket is missing; write my-bucket, s3://my-bucket/prefix, file:///dir or memory:")]
    Empty,
    /// The part before `:` is not known.
    #[error("{0:?} is not supported; write s3://my-bucket/prefix, file:///dir or memory:")]
    Scheme(String),
    /// The endpoint's URL was given for the bucket's.
    #[error("{0:?} is an endpoint, no bucket; give the bucket's name and --endpoint-url with that URL")]
    Endpoint(String),
    /// A prefix after a bare name.
    #[error("{name:?} is no bucket name; for a prefix of a bucket write s3://{name}")]
    Slash {
        /// As given.
        name: String,
    },
    /// Characters or length that no bucket has.
    #[error("{0:?} is no bucket name: 1 to 255 letters, digits, dots, hyphens and underscores")]
    Name(String),
    /// An ARN of something else.
    #[error("{0:?} is no ARN of a bucket's access point; write arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME")]
    Arn(String),
    /// A directory that depends on where the program was started, or on another machine.
    #[error("{0:?} is no absolute directory; write file:///dir")]
    Relative(String),
    /// A prefix where there can be none.
    #[error("the URL names the prefix {0:?} already; give it there or with --prefix, not both")]
    TwoPrefixes(String),
}

impl BucketUrl {
    /// Reads a bucket as a person writes it. A prefix gets a `/` at its end if it has none, since it is mounted as a directory; nothing
    /// in it is decoded.
    ///
    /// # Errors
    /// [`UrlError`], whose text says how to write it.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (location, prefix) = match text.split_once(':') {
            _ if text.is_empty() => return Err(UrlError::Empty),
            None if text.contains('/') => return Err(UrlError::Slash { name: text.to_owned() }),
            None => (s3(text)?, ""),
            Some(("arn", _)) => (arn(text)?, ""),
            Some(("memory", rest)) if rest.trim_matches('/').is_empty() => (Location::Memory, ""),
            Some(("s3", rest)) => parse_s3(text, rest)?,
            Some(("file", rest)) => (directory(text, rest)?, ""),
            Some(("http" | "https", _)) => return Err(UrlError::Endpoint(text.to_owned())),
            Some((scheme, _)) => return Err(UrlError::Scheme(format!("{scheme}:"))),
        };
        Ok(Self { location, prefix: directory_prefix(prefix) })
    }

    /// The same bucket at `prefix`, which may be empty.
    ///
    /// # Errors
    /// [`UrlError::TwoPrefixes`] if the URL had one.
    pub fn with_prefix(self, prefix: &str) -> Result<Self, UrlError> {
        match (self.prefix.is_root(), prefix.is_empty()) {
            (_, true) => Ok(self),
            (true, false) => Ok(Self { prefix: directory_prefix(prefix), ..self }),
            (false, false) => Err(UrlError::TwoPrefixes(self.prefix.as_str().to_owned())),
        }
    }
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Location::S3 { bucket } => write!(f, "s3://{bucket}")?,
            Location::Directory { path } => write!(f, "file://{}", path.display())?,
            Location::Memory => f.write_str("memory:")?,
        }
        if self.prefix.is_root() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

/// The prefix of the keys in the directory `text`: empty, or ending in `/`.
pub fn directory_prefix(text: &str) -> KeyPrefix {
    match text {
        "" => KeyPrefix::root(),
        _ if text.ends_with('/') => KeyPrefix::new(text),
        _ => KeyPrefix::new(format!("{text}/")),
    }
}

fn parse_s3<'a>(text: &str, rest: &'a str) -> Result<(Location, &'a str), UrlError> {
    let rest = rest.strip_prefix("//").ok_or_else(|| UrlError::Scheme(text.to_owned()))?;
    if rest.starts_with("arn:") {
        let end = arn_end(rest).ok_or_else(|| UrlError::Arn(rest.to_owned()))?;
        let prefix = rest[end..].strip_prefix('/').unwrap_or_default();
        return Ok((arn(&rest[..end])?, prefix));
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() { Err(UrlError::Empty) } else { Ok((s3(bucket)?, prefix)) }
}

/// Amazon allows 3 to 63 lower-case characters today, 255 of more kinds long ago; other services follow either.
fn s3(name: &str) -> Result<Location, UrlError> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let fits =
        (1..=255).contains(&name.len()) && name.bytes().all(legal) && !name.trim_matches('.').is_empty();
    if fits { Ok(Location::S3 { bucket: name.to_owned() }) } else { Err(UrlError::Name(name.to_owned())) }
}

/// Where the ARN at the beginning of `text` ends: after the access point's name.
fn arn_end(text: &str) -> Option<usize> {
    const MARK: &str = "accesspoint";
    let name = text.find(MARK)? + MARK.len() + 1;
    Some(text.get(name..)?.find('/').map_or(text.len(), |at| name + at))
}

/// `arn:PARTITION:SERVICE:REGION:ACCOUNT:accesspoint/NAME`; the region is empty for a multi-region access point.
fn arn(text: &str) -> Result<Location, UrlError> {
    let error = || UrlError::Arn(text.to_owned());
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let [_, partition, service, _, account, resource] = parts[..] else { return Err(error()) };
    let known = matches!(service, "s3" | "s3-outposts" | "s3-object-lambda" | "s3express");
    let named = match resource.split_once("accesspoint") {
        Some((before, name)) => {
            (before.is_empty() || before.starts_with("outpost"))
                && name.strip_prefix(['/', ':']).is_some_and(|name| !name.is_empty() && !name.contains('/'))
        }
        None => false,
    };
    let whole = partition.starts_with("aws") && !account.is_empty() && known && named;
    if whole { Ok(Location::S3 { bucket: text.to_owned() }) } else { Err(error()) }
}

fn directory(text: &str, rest: &str) -> Result<Location, UrlError> {
    let error = || UrlError::Relative(text.to_owned());
    let path = rest.strip_prefix("//").ok_or_else(error)?;
    let path = path.strip_prefix("localhost").unwrap_or(path);
    if path.starts_with('/') { Ok(Location::Directory { path: PathBuf::from(path) }) } else { Err(error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, bucket: &str, prefix: &str) {
        let url = BucketUrl::parse(text).unwrap();
        assert_eq!(url.location, Location::S3 { bucket: bucket.to_owned() }, "{text}");
        assert_eq!(url.prefix.as_str(), prefix, "{text}");
    }

    #[test]
    fn buckets_are_read_in_all_their_forms() {
        check("my-bucket", "my-bucket", "");
        check("s3://my-bucket", "my-bucket", "");
        check("s3://my-bucket/", "my-bucket", "");
        check("s3://my-bucket/models/llama", "my-bucket", "models/llama/");
        check("s3://my-bucket/models/", "my-bucket", "models/");
        check("s3://my-bucket//odd%20 name", "my-bucket", "/odd%20 name/");
        check("fast--use1-az4--x-s3", "fast--use1-az4--x-s3", "");
        check("Legacy_Bucket.v1", "Legacy_Bucket.v1", "");
        let access_point = "arn:aws:s3:eu-west-1:123456789012:accesspoint/models";
        check(access_point, access_point, "");
        check(&format!("s3://{access_point}"), access_point, "");
        check(&format!("s3://{access_point}/llama/8b"), access_point, "llama/8b/");
        let multi_region = "arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap";
        check(multi_region, multi_region, "");
        let outpost = "arn:aws:s3-outposts:us-east-1:123456789012:outpost/op-1/accesspoint/ap";
        check(outpost, outpost, "");
    }

    #[test]
    fn other_stores_have_schemes() {
        assert_eq!(BucketUrl::parse("memory:").unwrap().location, Location::Memory);
        for text in ["file:///srv/models", "file://localhost/srv/models"] {
            let url = BucketUrl::parse(text).unwrap();
            assert_eq!(url.location, Location::Directory { path: "/srv/models".into() });
            assert_eq!(url.to_string(), "file:///srv/models");
        }
    }

    #[test]
    fn mistakes_are_told_with_the_right_way_to_write_it() {
        for (text, part) in [
            ("", "s3://my-bucket/prefix"),
            ("s3://", "my-bucket"),
            ("s3:bucket", "s3://my-bucket"),
            ("my-bucket/models", "s3://my-bucket/models"),
            ("./dir", "s3://./dir"),
            ("https://minio:9000", "--endpoint-url"),
            ("gs://bucket", "not supported"),
            ("s3://my bucket", "no bucket name"),
            ("..", "no bucket name"),
            ("file:dir", "file:///dir"),
            ("file://server/dir", "file:///dir"),
            ("arn:aws:s3:::my-bucket", "accesspoint/NAME"),
            ("arn:aws:iam::123456789012:role/x", "accesspoint/NAME"),
            ("s3://arn:aws:s3:::my-bucket/x", "accesspoint/NAME"),
        ] {
            let error = BucketUrl::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_prefix_is_given_once() {
        let url = |text| BucketUrl::parse(text).unwrap();
        assert_eq!(url("b").with_prefix("models").unwrap().to_string(), "s3://b/models/");
        assert_eq!(url("s3://b/x").with_prefix("").unwrap().to_string(), "s3://b/x/");
        assert!(url("s3://b/x").with_prefix("y").is_err());
    }
}
