//! What a mount says of itself when it is asked through its admin socket.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sluicefs_core::{
    DiskStats, FileBeingWritten, FileReads, FileSystem, FsConfig, LostFile, Pattern, QueuedFile, QueuedState,
    Taken, Ttl, WriteStatus,
};
use tokio::time::Instant;

use crate::advice;

/// A mount that can be asked.
#[derive(Debug)]
pub(crate) struct Snapshots {
    pub(crate) fs: Arc<FileSystem>,
    pub(crate) source: String,
    pub(crate) mount_point: String,
    /// The directory of `--cache`, and the most that may be staged there.
    pub(crate) cache: Option<(String, Option<u64>)>,
    pub(crate) since: Instant,
    /// Its settings, and who chose them.
    pub(crate) preset: Value,
}

impl Snapshots {
    /// How the file at `path` is read, counted from the mount point.
    pub(crate) fn explain(&self, path: &str) -> Value {
        let read = self.fs.reads_of(path);
        let config = &self.fs.config().read;
        let mount =
            advice::Mount { memory_limit_bytes: config.memory_limit_bytes, has_cache: config.disk.is_some() };
        json!({
            "mount_point": self.mount_point,
            "source": self.source,
            "path": path,
            "read": read.as_ref().map(reads),
            "advice": read.as_ref().map(|read| advice::advice(read, mount)).unwrap_or_default(),
        })
    }

    /// How it is now.
    pub(crate) fn status(&self) -> Value {
        let (reading, writing, removals) =
            (self.fs.read_stats(), self.fs.write_status(), self.fs.removal_stats());
        let (open_files, open_directories) = self.fs.open_counts();
        let config = self.fs.config();
        json!({
            "state": "serving",
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "source": self.source,
            "mount_point": self.mount_point,
            "uptime_seconds": self.since.elapsed().as_secs(),
            "options": options(config, self.cache.as_ref()),
            "preset": self.preset,
            "pins": self.fs.pin_stats().map(|pins| json!({ "objects": pins.objects, "limit": pins.limit })),
            "memory": {
                "limit_bytes": config.read.memory_limit_bytes + writing.memory_limit_bytes,
                "used_bytes": reading.memory_bytes + writing.memory_bytes,
                "reading": {
                    "limit_bytes": config.read.memory_limit_bytes,
                    "used_bytes": reading.memory_bytes,
                    "peak_bytes": reading.memory_peak_bytes,
                },
                "writing": {
                    "limit_bytes": writing.memory_limit_bytes,
                    "used_bytes": writing.memory_bytes,
                    "peak_bytes": writing.memory_peak_bytes,
                },
            },
            "stage": self.cache.as_ref().and_then(|(directory, limit_bytes)| {
                let limit_bytes = (*limit_bytes)?;
                Some(json!({
                    "directory": directory,
                    "used_bytes": writing.stage_bytes,
                    "limit_bytes": (limit_bytes != u64::MAX).then_some(limit_bytes),
                }))
            }),
            "disk_cache": config.read.disk.is_some().then(|| disk_cache(&reading.disk)),
            "open_files": open_files,
            "open_directories": open_directories,
            "fetched_bytes": reading.bytes_fetched,
            "gets": reading.gets,
            "headers_parsed": reading.headers_parsed,
            "headers_ignored": reading.headers_ignored,
            "shards_begun": reading.shards_begun,
            "files_being_written": writing.files.iter().map(file).collect::<Vec<_>>(),
            "uploads_under_way": uploads(&writing),
            "queue": queue(&self.fs.queued_files()),
            "removals": { "pending": removals.pending, "failed": removals.failed },
            "lost": {
                "count": writing.lost_count,
                "latest": writing.lost.iter().map(lost).collect::<Vec<_>>(),
            },
        })
    }
}

fn reads(read: &FileReads) -> Value {
    let pattern = match read.pattern() {
        Pattern::Unread => "not at all",
        Pattern::InOrder => "in order",
        Pattern::Streams => "in several places, in each of them in order",
        Pattern::ByName => "by name, tensor after tensor",
        Pattern::Random => "at random",
    };
    let wanted = read.blocks_ready + read.blocks_awaited + read.blocks_missed;
    json!({
        "size_bytes": read.size_bytes,
        "since_seconds": read.since.as_secs(),
        "pattern": pattern,
        "reads": read.reads,
        "read_bytes": read.read_bytes,
        "largest_read_bytes": read.largest_read_bytes,
        "page_reads": read.page_reads,
        "jumps": read.jumps,
        "blocks": {
            "ready": read.blocks_ready,
            "awaited": read.blocks_awaited,
            "missed": read.blocks_missed,
        },
        "hit_rate": read.blocks_ready as f64 / wanted.max(1) as f64,
        "waits": taken(&read.waits),
        "memory_waits": read.memory_waits,
        "refusals": read.refusals,
        "gets": read.gets,
        "fetched_bytes": read.fetched_bytes,
        "disk_bytes": read.disk_bytes,
        "first_byte": taken(&read.first_bytes),
        "failures": read.failures,
    })
}

fn taken(taken: &Taken) -> Value {
    let millis = |duration: Duration| duration.as_secs_f64() * 1000.0;
    json!({ "count": taken.count, "mean_ms": millis(taken.mean()), "longest_ms": millis(taken.longest) })
}

fn options(config: &FsConfig, cache: Option<&(String, Option<u64>)>) -> Value {
    json!({
        "read_only": !config.allow.changes,
        "no_delete": !config.allow.delete,
        "no_overwrite": !config.allow.overwrite,
        "versions": format!("{:?}", config.versions).to_lowercase(),
        "metadata_ttl_seconds": seconds(config.metadata_ttl),
        "negative_metadata_ttl_seconds": seconds(config.negative_ttl),
        "read_part_size": config.read.part_size_bytes,
        "write_part_size": config.write.part_size_bytes,
        "on_conflict": format!("{:?}", config.write.on_conflict).to_lowercase(),
        "delete_behind": config.write.delete_behind,
        "write_back": format!("{:?}", config.write.write_back).to_lowercase(),
        "attributes": format!("{:?}", config.attributes).to_lowercase(),
        "allow_symlinks": format!("{:?}", config.symlinks).to_lowercase(),
        "cache": cache.map(|(directory, _)| directory),
    })
}

fn disk_cache(disk: &DiskStats) -> Value {
    json!({
        "read_bytes": disk.read_bytes,
        "written_bytes": disk.written_bytes,
        "left_out_blocks": disk.left_out_blocks,
        "damaged": disk.damaged,
        "errors": disk.errors,
        "checked_objects": disk.proven,
        "passed_through": disk.local_opens,
    })
}

/// `null` is for ever.
fn seconds(ttl: Ttl) -> Option<f64> {
    match ttl {
        Ttl::For(duration) => Some(Duration::as_secs_f64(&duration)),
        Ttl::Forever => None,
    }
}

fn uploads(writing: &WriteStatus) -> usize {
    writing.files.iter().filter(|file| file.upload.is_some()).count()
}

fn file(file: &FileBeingWritten) -> Value {
    json!({
        "key": file.key.as_str(),
        "size_bytes": file.size_bytes,
        "written_bytes": file.written_bytes,
        "unsaved": file.is_unsaved,
        "upload": file.upload.as_ref().map(|upload| upload.as_str()),
        "sent_parts": file.sent_parts,
        "sent_bytes": file.sent_bytes,
        "parts_under_way": file.flying_parts,
        "error": file.error,
    })
}

fn queue(files: &[QueuedFile]) -> Value {
    json!({
        "count": files.len(),
        "bytes": files.iter().map(|file| file.size_bytes).sum::<u64>(),
        "files": files.iter().map(queued).collect::<Vec<_>>(),
    })
}

fn queued(file: &QueuedFile) -> Value {
    let (state, retry) = match file.state {
        QueuedState::Waiting => ("waiting", None),
        QueuedState::Sending => ("sending", None),
        QueuedState::Paused(left) => ("paused", Some(left.as_secs_f64())),
        QueuedState::Conflict => ("conflict", None),
    };
    let remedy = (file.state == QueuedState::Conflict).then(|| {
        format!(
            "somebody else replaced the object; mount with --on-conflict overwrite to send this one all the same, if it was written as a whole, or copy it elsewhere through the mount, unmount, and remove {}",
            file.kept_in.with_extension("*").display()
        )
    });
    json!({
        "key": file.key.as_str(),
        "size_bytes": file.size_bytes,
        "state": state,
        "retry_in_seconds": retry,
        "failures": file.failures,
        "error": file.error,
        "kept_in": file.kept_in.to_string_lossy(),
        "remedy": remedy,
    })
}

fn lost(file: &LostFile) -> Value {
    json!({ "key": file.key.as_str(), "error": file.error })
}
