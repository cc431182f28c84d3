//! What the write path is doing, for people who ask: the files being written, what they take, and what was lost.

use sluicefs_s3_client::{ObjectKey, UploadId};

use super::draft::Draft;
use super::engine::WriteEngine;
use super::lost::LostFile;

/// A snapshot of the write path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteStatus {
    /// Files that some program has open for writing, or that are on their way to the store.
    pub files: Vec<FileBeingWritten>,
    /// Memory that written bytes may take, in bytes.
    pub memory_limit_bytes: u64,
    /// Memory that buffers for them take now, idle ones included.
    pub memory_bytes: u64,
    /// The most memory that they took.
    pub memory_peak_bytes: u64,
    /// Room on disk that written bytes take; `None` without a stage.
    pub stage_bytes: Option<u64>,
    /// Files whose last bytes could not be made durable when nobody was there to be told: how many since the mount began.
    pub lost_count: u64,
    /// The latest of those.
    pub lost: Vec<LostFile>,
}

/// A file while it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileBeingWritten {
    /// Where its object is, or will be.
    pub key: ObjectKey,
    /// Its length now, in bytes.
    pub size_bytes: u64,
    /// Bytes of it that were written here and are in no object yet, those of sent parts included.
    pub written_bytes: u64,
    /// Whether something of it is not in an object at the store.
    pub is_unsaved: bool,
    /// Its upload in parts, if one is under way.
    pub upload: Option<UploadId>,
    /// Parts of that which the store has.
    pub sent_parts: usize,
    /// Bytes in those.
    pub sent_bytes: u64,
    /// Parts on their way.
    pub flying_parts: usize,
    /// Why the latest attempt to send failed, if it did.
    pub error: Option<String>,
}

impl WriteEngine {
    /// What this does now.
    pub(crate) fn status(&self) -> WriteStatus {
        let (lost_count, lost) = self.lost.told();
        WriteStatus {
            files: self.drafts().iter().filter_map(|draft| draft.status()).collect(),
            memory_limit_bytes: self.config.memory_limit_bytes,
            memory_bytes: self.budget.in_use_bytes() + self.loading.in_use_bytes(),
            memory_peak_bytes: self.budget.peak_bytes() + self.loading.peak_bytes(),
            stage_bytes: self.stage.as_ref().map(|stage| stage.used_bytes()),
            lost_count,
            lost,
        }
    }
}

impl Draft {
    /// What it is doing; `None` for a file without a name, which is never sent.
    fn status(&self) -> Option<FileBeingWritten> {
        let is_unsaved = self.needs_commit();
        let state = self.state.lock();
        let upload = state.upload.as_ref().and_then(|upload| upload.known_id());
        let (sent_parts, sent_bytes) = state.content.sent_parts();
        (!state.orphan).then(|| FileBeingWritten {
            key: state.key.clone(),
            size_bytes: state.content.size(),
            written_bytes: state.content.written_bytes(),
            is_unsaved,
            upload,
            sent_parts,
            sent_bytes,
            flying_parts: state.content.parts_under_way(),
            error: state.failed.as_ref().map(ToString::to_string),
        })
    }
}
