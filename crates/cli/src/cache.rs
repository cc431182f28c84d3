//! `sluicefs cache`: lists, verifies, clears and measures what mounts keep on a local disk.
//!
//! All of it may be done while mounts use the cache: what they have open stays.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sluicefs_cache_dir::objects::{self as disk, CachedObject, Verified};
use time::UtcDateTime;

use crate::args::{CacheCommand, CacheDirArgs};
use crate::failure::Failure;
use crate::{note, say};

/// Does what was asked.
///
/// # Errors
/// If the directory cannot be read, or if something in it was damaged.
pub(crate) fn run(command: &CacheCommand) -> Result<(), Failure> {
    match command {
        CacheCommand::List(args) => list(args),
        CacheCommand::Verify(args) => verify(args),
        CacheCommand::Clear(args) => clear(args),
        CacheCommand::Size(args) => size(args),
    }
}

fn list(args: &CacheDirArgs) -> Result<(), Failure> {
    for object in objects(args)? {
        say(&if args.json { as_json(&object).to_string() } else { as_line(&object) })?;
    }
    Ok(())
}

fn verify(args: &CacheDirArgs) -> Result<(), Failure> {
    let mut all = Verified::default();
    for object in objects(args)? {
        let verified = disk::verify(&args.dir, &object).map_err(|error| failed(args, &error))?;
        if verified.damaged > 0 {
            note(&format!("damaged, and taken out of the cache: {}", name(&object)));
        }
        all.right_blocks += verified.right_blocks;
        all.right_bytes += verified.right_bytes;
        all.damaged += verified.damaged;
    }
    let told = json!({ "right_bytes": all.right_bytes, "damaged": all.damaged }).to_string();
    say(&if args.json {
        told
    } else {
        format!("{} bytes are right, {} blocks were damaged", all.right_bytes, all.damaged)
    })?;
    match all.damaged {
        0 => Ok(()),
        n => Err(Failure::failed(format!(
            "{n} blocks of the cache were damaged; reads fetch them from the store again"
        ))),
    }
}

fn clear(args: &CacheDirArgs) -> Result<(), Failure> {
    let (mut removed, mut bytes, mut in_use) = (0_u64, 0, 0_u64);
    for object in objects(args)? {
        match disk::clear(&object).map_err(|error| failed(args, &error))? {
            true => (removed, bytes) = (removed + 1, bytes + object.disk_bytes),
            false => in_use += 1,
        }
    }
    let told = json!({ "removed": removed, "disk_bytes": bytes, "in_use": in_use }).to_string();
    say(&if args.json { told } else { format!("removed {removed} objects, {bytes} bytes") })?;
    if in_use > 0 {
        note(&format!("{in_use} objects stay: mounts have them open"));
    }
    Ok(())
}

fn size(args: &CacheDirArgs) -> Result<(), Failure> {
    let objects = objects(args)?;
    let bytes: u64 = objects.iter().map(|object| object.disk_bytes).sum();
    let told = json!({ "objects": objects.len(), "disk_bytes": bytes }).to_string();
    say(&if args.json { told } else { format!("{} objects, {bytes} bytes", objects.len()) })
}

fn objects(args: &CacheDirArgs) -> Result<Vec<CachedObject>, Failure> {
    if !args.dir.join("objects").is_dir() {
        let dir = args.dir.display();
        return Err(Failure::usage(format!(
            "{dir} is no cache: name the directory that was given to mount as --cache"
        )));
    }
    disk::list(&args.dir).map_err(|error| failed(args, &error))
}

fn failed(args: &CacheDirArgs, error: &io::Error) -> Failure {
    Failure::failed(format!("the cache {}: {error}", args.dir.display()))
}

fn name(object: &CachedObject) -> String {
    match &object.identity {
        Some(identity) => format!("{}/{}", identity.bucket, identity.key),
        None => "an object whose name is damaged".to_owned(),
    }
}

fn as_line(object: &CachedObject) -> String {
    let used = since_epoch(object.used);
    let used =
        UtcDateTime::from_unix_timestamp(used).map_or_else(|_| used.to_string(), |time| time.to_string());
    format!("{used:<24} {:>14} {}", object.disk_bytes, name(object))
}

fn as_json(object: &CachedObject) -> Value {
    let (used, disk_bytes) = (since_epoch(object.used), object.disk_bytes);
    match &object.identity {
        Some(of) => json!({
            "endpoint": of.endpoint, "bucket": of.bucket, "key": of.key, "etag": of.etag, "size": of.size,
            "disk_bytes": disk_bytes, "used": used,
        }),
        None => json!({ "damaged": true, "disk_bytes": disk_bytes, "used": used }),
    }
}

/// Seconds; negative before 1970.
fn since_epoch(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |secs| -secs),
    }
}
