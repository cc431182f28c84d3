//! `sluicefs uploads`: lists uploads in parts that were begun and never ended, and aborts them.
//!
//! A writer that is killed leaves one behind. Its parts cost storage, and no listing of objects shows them.

use std::time::Duration;

use futures::{StreamExt, stream};
use serde_json::{Value, json};
use sluicefs_s3_client::config::WriteConfig;
use sluicefs_s3_client::{Bucket, Error as StoreError, KeyPrefix, Timestamp, UploadMeta};
use time::UtcDateTime;

use crate::args::{UploadsAbortArgs, UploadsCommand, UploadsListArgs};
use crate::failure::Failure;
use crate::logging::Audience;
use crate::store::Source;
use crate::{note, runtime, say, start_log};

/// Lists or aborts.
///
/// # Errors
/// If the bucket cannot be asked, an upload that was named is not there, or one could not be aborted; each of these is named.
pub(crate) fn run(command: &UploadsCommand) -> Result<(), Failure> {
    match command {
        UploadsCommand::List(args) => {
            start_log(&args.logs, Audience::Narrated)?;
            runtime::new()?.block_on(list(args))
        }
        UploadsCommand::Abort(args) => {
            start_log(&args.logs, Audience::Narrated)?;
            runtime::new()?.block_on(abort(args))
        }
    }
}

async fn list(args: &UploadsListArgs) -> Result<(), Failure> {
    let source = Source::new(&args.bucket, &args.store, WriteConfig::default())?;
    let bucket = source.open().await?;
    let which = Which { ids: Vec::new(), older_than: args.older_than.unwrap_or_default() };
    let (uploads, now) = (under_way(&*bucket, &source.prefix()).await?, now());
    let mut shown = 0_usize;
    for upload in uploads.iter().filter(|upload| which.takes(upload, now)) {
        shown += 1;
        say(&if args.json { as_json(upload, now).to_string() } else { as_line(upload, now) })?;
    }
    if shown == 0 && !args.json {
        note(&format!("no such uploads in {source}"));
    }
    Ok(())
}

async fn abort(args: &UploadsAbortArgs) -> Result<(), Failure> {
    let source = Source::new(&args.bucket, &args.store, WriteConfig::default())?;
    let bucket = source.open().await?;
    let which = Which::to_abort(args);
    let (mut uploads, now) = (under_way(&*bucket, &source.prefix()).await?, now());
    let missing: Vec<&String> =
        which.ids.iter().filter(|id| uploads.iter().all(|upload| upload.upload.as_str() != *id)).collect();
    for id in &missing {
        note(&format!("no upload under way in {source} has the id {id}"));
    }
    uploads.retain(|upload| which.takes(upload, now));
    let mut failed = 0_usize;
    let mut ended = abort_all(&*bucket, &uploads);
    while let Some((upload, result)) = ended.next().await {
        if let Err(error) = &result {
            failed += 1;
            note(&format!("not aborted: {error}"));
        }
        match (args.json, result) {
            (true, result) => say(&outcome_as_json(upload, now, &result).to_string())?,
            (false, Ok(())) => say(&format!("aborted {}", as_line(upload, now)))?,
            (false, Err(_)) => {}
        }
    }
    if !args.json && missing.is_empty() && uploads.is_empty() {
        note(&format!("no such uploads in {source}"));
    }
    if failed + missing.len() > 0 {
        let asked = uploads.len() + missing.len();
        let message = format!("{} of {asked} uploads were not aborted", failed + missing.len());
        return Err(Failure::failed(message));
    }
    Ok(())
}

/// So many requests at once: abort is quick, and Amazon takes thousands of them per second.
const CONCURRENT_ABORTS: usize = 16;

/// What becomes of each upload, in their order.
fn abort_all<'a>(
    bucket: &'a dyn Bucket,
    uploads: &'a [UploadMeta],
) -> impl StreamExt<Item = (&'a UploadMeta, Result<(), StoreError>)> + Unpin {
    let abort = move |upload: &'a UploadMeta| {
        Box::pin(async move { (upload, bucket.abort_upload(&upload.key, &upload.upload).await) })
    };
    stream::iter(uploads).map(abort).buffered(CONCURRENT_ABORTS)
}

/// All uploads below `prefix`, in the store's order.
async fn under_way(bucket: &dyn Bucket, prefix: &KeyPrefix) -> Result<Vec<UploadMeta>, Failure> {
    let (mut uploads, mut marker) = (Vec::new(), None);
    loop {
        let page = bucket.list_uploads(prefix, marker).await.map_err(|error| Failure::store(&error))?;
        uploads.extend(page.uploads);
        marker = page.next;
        if marker.is_none() {
            return Ok(uploads);
        }
    }
}

/// Which of the uploads are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Which {
    /// One of these, if there are any.
    ids: Vec<String>,
    /// Begun at least so long ago.
    older_than: Duration,
}

impl Which {
    /// Who names no upload does not mean those that are being written now.
    fn to_abort(args: &UploadsAbortArgs) -> Self {
        let default = if args.ids.is_empty() { A_DAY } else { Duration::ZERO };
        Self { ids: args.ids.clone(), older_than: args.older_than.unwrap_or(default) }
    }

    fn takes(&self, upload: &UploadMeta, now: Timestamp) -> bool {
        let named = self.ids.is_empty() || self.ids.iter().any(|id| id == upload.upload.as_str());
        named && age(upload, now) >= self.older_than
    }
}

const A_DAY: Duration = Duration::from_secs(24 * 3600);

/// Zero for what a server whose clock is ahead says to have begun later than now.
fn age(upload: &UploadMeta, now: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(now.secs - upload.initiated.secs).unwrap_or(0))
}

fn as_line(upload: &UploadMeta, now: Timestamp) -> String {
    let age = short_age(age(upload, now));
    format!("{}  {age:>4}  {}  {}", utc(upload.initiated), upload.upload, upload.key)
}

fn as_json(upload: &UploadMeta, now: Timestamp) -> Value {
    json!({
        "key": upload.key.as_str(),
        "id": upload.upload.as_str(),
        "begun": utc(upload.initiated),
        "age_seconds": age(upload, now).as_secs(),
    })
}

fn outcome_as_json(upload: &UploadMeta, now: Timestamp, result: &Result<(), StoreError>) -> Value {
    let mut value = as_json(upload, now);
    value["aborted"] = result.is_ok().into();
    if let Err(error) = result {
        value["error"] = error.to_string().into();
    }
    value
}

/// In the largest unit of which it is at least one: `45s`, `3h`, `12d`.
fn short_age(age: Duration) -> String {
    match age.as_secs() {
        secs @ 0..60 => format!("{secs}s"),
        secs @ 60..3600 => format!("{}m", secs / 60),
        secs @ 3600..86_400 => format!("{}h", secs / 3600),
        secs => format!("{}d", secs / 86_400),
    }
}

/// As RFC 3339 has it, to the second.
fn utc(at: Timestamp) -> String {
    let at = UtcDateTime::from_unix_timestamp(at.secs).unwrap_or(UtcDateTime::UNIX_EPOCH);
    let (date, clock) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second()
    )
}

fn now() -> Timestamp {
    Timestamp { secs: UtcDateTime::now().unix_timestamp(), nanos: 0 }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use sluicefs_s3_client::{ObjectKey, UploadId};

    use super::*;
    use crate::args::{Cli, Command};

    const NOW: Timestamp = Timestamp { secs: 1_800_000_000, nanos: 0 };

    fn begun_ago(id: &str, secs: i64) -> UploadMeta {
        let initiated = Timestamp { secs: NOW.secs - secs, nanos: 0 };
        UploadMeta { key: ObjectKey::new("a\nb").unwrap(), upload: UploadId::new(id), initiated }
    }

    fn to_abort(options: &[&str]) -> Which {
        let line = ["sluicefs", "uploads", "abort", "bucket"].iter().chain(options);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Uploads(args) => match args.command {
                UploadsCommand::Abort(args) => Which::to_abort(&args),
                UploadsCommand::List(args) => panic!("{args:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_young_is_aborted_only_when_named() {
        let (young, old) = (begun_ago("young", 3600), begun_ago("old", 90_000));
        for (options, takes_young, takes_old) in [
            (&[][..], false, true),
            (&["--older-than=0s"], true, true),
            (&["--older-than=1h"], true, true),
            (&["--older-than=2d"], false, false),
            (&["--id=young"], true, false),
            (&["--id=young", "--id=old"], true, true),
            (&["--id=young", "--older-than=1d"], false, false),
        ] {
            let which = to_abort(options);
            let took = (which.takes(&young, NOW), which.takes(&old, NOW));
            assert_eq!(took, (takes_young, takes_old), "{options:?}");
        }
    }

    #[test]
    fn a_clock_that_is_ahead_makes_no_negative_age() {
        assert_eq!(age(&begun_ago("ahead", -30), NOW), Duration::ZERO);
    }

    #[test]
    fn lines_tell_time_age_id_and_key() {
        assert_eq!(as_line(&begun_ago("id", 7300), NOW), "2027-01-15T05:58:20Z    2h  id  a\\nb");
        assert_eq!(
            as_json(&begun_ago("id", 7300), NOW),
            json!({ "key": "a\nb", "id": "id", "begun": "2027-01-15T05:58:20Z", "age_seconds": 7300 })
        );
        let ages = [0, 59, 60, 3599, 86_399, 86_400].map(|secs| short_age(Duration::from_secs(secs)));
        assert_eq!(ages, ["0s", "59s", "1m", "59m", "23h", "1d"]);
    }
}
