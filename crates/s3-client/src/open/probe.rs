//! One listing before a mount is announced, so that what is wrong is said where it can be read.

use std::time::Duration;

use crate::bucket::{Bucket, BucketIdentity, ListRequest};
use crate::error::{Error, ErrorKind, Result};
use crate::key::KeyPrefix;

/// A server that restarts or is busy gets this many chances; a wrong setting is told at once.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(300);
/// The most that a busy server may make of it: all tries are to fit into the deadline of whoever waits for the mount.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Lists one name below `prefix`, within `deadline` for all tries.
///
/// Give it the bucket that [`connect`](super::connect) made: one that retries for longer than `deadline` hides why. An empty listing is fine, a
/// bucket may be.
///
/// # Errors
/// The bucket's own error with a message, on one line, that names the cause and a remedy.
pub async fn probe(bucket: &dyn Bucket, prefix: &KeyPrefix, deadline: Duration) -> Result<()> {
    let mut last = None;
    match tokio::time::timeout(deadline, tries(bucket, prefix, &mut last)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(explain(&error, bucket.identity())),
        Err(_) => Err(match last {
            Some(error) => explain(&error, bucket.identity()),
            None => silent(bucket.identity(), deadline),
        }),
    }
}

async fn tries(bucket: &dyn Bucket, prefix: &KeyPrefix, last: &mut Option<Error>) -> Result<()> {
    let mut attempt = 1;
    loop {
        let request = ListRequest { max_keys: 1, ..ListRequest::directory(prefix.clone()) };
        let error = match bucket.list(request).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let again = matches!(error.kind(), ErrorKind::Transient | ErrorKind::Throttled) && attempt < ATTEMPTS;
        if !again {
            return Err(error.with_attempts(attempt));
        }
        let wait = error.retry_after().unwrap_or_default().clamp(PAUSE, LONGEST_PAUSE);
        *last = Some(error.with_attempts(attempt));
        tokio::time::sleep(wait).await;
        attempt += 1;
    }
}

fn silent(identity: &BucketIdentity, deadline: Duration) -> Error {
    let message = format!(
        "no answer from {} within {deadline:?}; check the endpoint URL, the network and proxies",
        identity.endpoint
    );
    Error::new(ErrorKind::Transient, "list").with_bucket(&identity.name).with_message(message)
}

/// The same error in words that help whoever typed the command.
fn explain(error: &Error, identity: &BucketIdentity) -> Error {
    let endpoint = &identity.endpoint;
    let cause = error.message().unwrap_or("the request failed");
    let message = match error.kind() {
        ErrorKind::NoSuchBucket => format!(
            "there is no such bucket at {endpoint}; check its name, and --endpoint-url if it is elsewhere"
        ),
        ErrorKind::WrongRegion => match error.region() {
            Some(region) => format!(
                "the bucket is in region {region}, which {endpoint} does not serve; give --region {region} and no other region's endpoint"
            ),
            None => {
                "the bucket is in another region, which the server does not name; give --region".to_owned()
            }
        },
        ErrorKind::CredentialsExpired => format!("{cause}; renew them, for example with aws sso login"),
        ErrorKind::Transient => {
            format!("cannot reach {endpoint}: {cause}; check the endpoint URL, the network and proxies")
        }
        ErrorKind::BadEndpoint | ErrorKind::Corrupt => {
            format!("{endpoint} does not answer as S3 does: {cause}; check the endpoint URL")
        }
        ErrorKind::Throttled => format!("{endpoint} asks for fewer requests; try again later"),
        ErrorKind::NotFound => format!("{endpoint} knows no such listing; check the endpoint URL"),
        _ => return error.clone(),
    };
    error.clone().with_message(message)
}
