//! Writing to a directory: objects, copies, moves and removals.
//!
//! A file is written aside and renamed, so that a reader sees the old one or the new one and nothing between. Conditions are kept among those who
//! write through the same bucket, and that a name is free also against everybody else; a file that another program changes between the
//! look at its version and the rename is replaced all the same.

use std::io::{self, Write};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, copy_file_range, fstat, fsync, unlinkat};

use super::Shared;
use super::place::{Place, file_name, is_absence, marker_meta, meta_of_file, parent};
use super::staging::{Existing, Staged, move_file};
use crate::bucket::{
    CopyRequest, MAX_DELETE_KEYS, ObjectMeta, Payload, PutRequest, RenameRequest, WriteCondition, Written,
};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{ByteRange, ETag, ObjectKey};

/// What is copied at once where the kernel does not do it by itself.
const COPY_BYTES: usize = 1 << 20;
/// Somebody who removes a directory may do so under somebody who writes into it; nobody meets that so often.
const MAX_TRIES: u32 = 10;

impl Shared {
    pub(super) fn put(&self, request: &PutRequest) -> Result<Written> {
        const OPERATION: &str = "put";
        let PutRequest { key, body, condition, .. } = request;
        match self.place(OPERATION, key)? {
            Place::File(_) => {
                let mut staged = self.staged(OPERATION, key)?;
                write_all(&mut staged, body).map_err(|cause| self.write_error(OPERATION, key, cause))?;
                self.publish(OPERATION, key, staged, condition)
            }
            Place::Marker(path) if body.is_empty() => self.make_marker(OPERATION, key, path, condition),
            Place::Marker(_) => {
                let error = self.refusal(ErrorKind::Invalid, OPERATION, key);
                Err(error.with_message("a key that ends in / is a directory here, which holds no bytes"))
            }
        }
    }

    fn make_marker(
        &self,
        operation: &'static str,
        key: &ObjectKey,
        path: &str,
        condition: &WriteCondition,
    ) -> Result<Written> {
        let _writing = self.writing.lock();
        self.check(operation, key, condition)?;
        let made = self.root.make_directories(path).and_then(|directory| {
            sync(&self.root.open_directory(parent(path))?)?;
            marker_meta(directory)
        });
        made.map(written).map_err(|cause| self.write_error(operation, key, cause))
    }

    pub(super) fn staged(&self, operation: &'static str, key: &ObjectKey) -> Result<Staged<'_>> {
        self.clear_staging();
        Staged::new(&self.root).map_err(|cause| self.write_error(operation, key, cause))
    }

    /// Gives a whole file its place, if the condition holds. It is on disk when this returns.
    pub(super) fn publish(
        &self,
        operation: &'static str,
        key: &ObjectKey,
        mut staged: Staged<'_>,
        condition: &WriteCondition,
    ) -> Result<Written> {
        let path = self.file_path(operation, key)?;
        let failed = |cause| self.failed_write(operation, key, cause);
        staged.file.sync_all().map_err(failed)?;
        let mut tries = 0;
        let directory = loop {
            let directory = self.root.make_directories(parent(path)).map_err(failed)?;
            let writing = self.writing.lock();
            self.check(operation, key, condition)?;
            let placed = staged.place_in(&directory, file_name(path), existing(condition));
            drop(writing);
            tries += 1;
            match placed {
                Ok(()) => break directory,
                // Its directory was removed in between.
                Err(cause) if cause.kind() == io::ErrorKind::NotFound && tries < MAX_TRIES => {}
                Err(cause) => return Err(failed(cause)),
            }
        };
        let stat = sync(&directory).and_then(|()| Ok(fstat(&staged.file)?));
        stat.and_then(|stat| meta_of_file(&stat)).map(written).map_err(failed)
    }

    pub(super) fn delete(&self, key: &ObjectKey) -> Result<()> {
        let removed = match Place::of(key.as_str()) {
            Some(Place::File(path)) => self.remove_file(path),
            Some(Place::Marker(path)) => self.remove_directory(path),
            None => Ok(()),
        };
        match removed {
            Err(cause) if !is_absence(&cause) => Err(self.error("delete", key.as_str(), cause)),
            _ => Ok(()),
        }
    }

    /// Removes what a bucket shows by this name: the link, where it is one, and nothing that is hidden.
    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.root.stat_file(path)?;
        let directory = self.root.open_directory(parent(path))?;
        unlinkat(&directory, file_name(path), AtFlags::empty())?;
        sync(&directory)
    }

    fn remove_directory(&self, path: &str) -> io::Result<()> {
        let directory = self.root.open_directory(parent(path))?;
        match unlinkat(&directory, file_name(path), AtFlags::REMOVEDIR).map_err(io::Error::from) {
            // Then it was no object.
            Err(cause) if cause.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => removed.and_then(|()| sync(&directory)),
        }
    }

    pub(super) fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        if let Some(key) = keys.get(MAX_DELETE_KEYS) {
            let message = format!("at most {MAX_DELETE_KEYS} keys can be removed at once");
            return Err(self.refusal(ErrorKind::Invalid, "delete many", key).with_message(message));
        }
        let failed = keys.iter().filter_map(|key| Some((key.clone(), self.delete(key).err()?)));
        Ok(failed.collect())
    }

    pub(super) fn copy(&self, request: &CopyRequest) -> Result<Written> {
        const OPERATION: &str = "copy";
        let CopyRequest { source, source_if_match, target, attributes, condition, .. } = request;
        let (file, meta) = self.source(OPERATION, source, source_if_match.as_ref())?;
        if source == target {
            let (kind, message) = match attributes {
                Some(_) => (ErrorKind::Unsupported, "files of a directory keep no metadata"),
                None => (ErrorKind::Invalid, "a copy onto itself changes nothing"),
            };
            return Err(self.refusal(kind, OPERATION, target).with_message(message));
        }
        match (self.place(OPERATION, target)?, file) {
            (Place::File(_), Some(file)) => {
                let mut staged = self.staged(OPERATION, target)?;
                let all = ByteRange::new(0, meta.size);
                self.copy_range(OPERATION, source, (&file, &meta), all, &mut staged)?;
                self.publish(OPERATION, target, staged, condition)
            }
            (Place::Marker(path), None) => self.make_marker(OPERATION, target, path, condition),
            _ => Err(self.other_sort(OPERATION, target)),
        }
    }

    /// An object to copy from; without a file if it stands for a directory.
    pub(super) fn source(
        &self,
        operation: &'static str,
        key: &ObjectKey,
        if_match: Option<&ETag>,
    ) -> Result<(Option<OwnedFd>, ObjectMeta)> {
        let (file, meta) = self.open(key).map_err(|cause| self.error(operation, key.as_str(), cause))?;
        if if_match.is_some() && if_match != meta.etag.as_ref() {
            return Err(self.failed_condition(operation, key));
        }
        Ok((file, meta))
    }

    /// Copies a part of a source, which must be the same afterwards.
    pub(super) fn copy_range(
        &self,
        operation: &'static str,
        key: &ObjectKey,
        (file, meta): (&OwnedFd, &ObjectMeta),
        range: ByteRange,
        target: &mut Staged<'_>,
    ) -> Result<()> {
        let failed = |cause| self.write_error(operation, key, cause);
        copy_bytes(file, range, target).map_err(failed)?;
        let now =
            fstat(file).map_err(io::Error::from).and_then(|stat| meta_of_file(&stat)).map_err(failed)?;
        if now.etag == meta.etag { Ok(()) } else { Err(self.failed_condition(operation, key)) }
    }

    pub(super) fn rename(&self, request: &RenameRequest) -> Result<()> {
        const OPERATION: &str = "rename";
        let RenameRequest { source, source_if_match, target, condition } = request;
        let (from, to) = match (self.place(OPERATION, source)?, self.place(OPERATION, target)?) {
            (Place::File(from), Place::File(to)) | (Place::Marker(from), Place::Marker(to)) => (from, to),
            _ => return Err(self.other_sort(OPERATION, target)),
        };
        let _writing = self.writing.lock();
        self.source(OPERATION, source, source_if_match.as_ref())?;
        self.check(OPERATION, target, condition)?;
        let moved = || {
            let directory = self.root.open_directory(parent(from))?;
            let target = self.root.make_directories(parent(to))?;
            move_file((&directory, file_name(from)), (&target, file_name(to)), existing(condition))?;
            sync(&target)?;
            sync(&directory)
        };
        moved().map_err(|cause| self.failed_write(OPERATION, target, cause))
    }

    /// Whether a condition holds of what is there now.
    fn check(&self, operation: &'static str, key: &ObjectKey, condition: &WriteCondition) -> Result<()> {
        if *condition == WriteCondition::Any {
            return Ok(());
        }
        let current = match self.head(key) {
            Ok(meta) => Some(meta.etag),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let holds = match condition {
            WriteCondition::Any => true,
            WriteCondition::Absent => current.is_none(),
            WriteCondition::Matches(etag) => current.flatten().as_ref() == Some(etag),
        };
        if holds { Ok(()) } else { Err(self.failed_condition(operation, key)) }
    }

    /// What a key names that can be written.
    fn place<'k>(&self, operation: &'static str, key: &'k ObjectKey) -> Result<Place<'k>> {
        Place::of(key.as_str()).ok_or_else(|| {
            let error = self.refusal(ErrorKind::Invalid, operation, key);
            error.with_message(
                "no file has this name: a part of its path is empty, . or .., or it is reserved",
            )
        })
    }

    pub(super) fn file_path<'k>(&self, operation: &'static str, key: &'k ObjectKey) -> Result<&'k str> {
        match self.place(operation, key)? {
            Place::File(path) => Ok(path),
            Place::Marker(_) => Err(self.other_sort(operation, key)),
        }
    }

    fn other_sort(&self, operation: &'static str, key: &ObjectKey) -> Error {
        let error = self.refusal(ErrorKind::Invalid, operation, key);
        error.with_message("a key that ends in / is a directory here, and any other a file")
    }

    fn failed_condition(&self, operation: &'static str, key: &ObjectKey) -> Error {
        let error = self.refusal(ErrorKind::PreconditionFailed, operation, key);
        error.with_status(412).with_code("PreconditionFailed")
    }

    fn failed_write(&self, operation: &'static str, key: &ObjectKey, cause: io::Error) -> Error {
        match cause.kind() {
            io::ErrorKind::AlreadyExists => self.failed_condition(operation, key),
            _ => self.write_error(operation, key, cause),
        }
    }

    pub(super) fn write_error(&self, operation: &'static str, key: &ObjectKey, cause: io::Error) -> Error {
        let message = match cause.kind() {
            io::ErrorKind::NotADirectory => "a part of its path is a file, which can hold nothing",
            io::ErrorKind::IsADirectory | io::ErrorKind::DirectoryNotEmpty => {
                "there is a directory of that name"
            }
            io::ErrorKind::InvalidFilename => "a part of its path is longer than a file name may be",
            io::ErrorKind::CrossesDevices => {
                "another file system is mounted there, to which nothing can be moved at once"
            }
            _ => return self.error(operation, key.as_str(), cause),
        };
        self.refusal(ErrorKind::Invalid, operation, key).with_message(message).with_source(cause)
    }
}

fn existing(condition: &WriteCondition) -> Existing {
    match condition {
        WriteCondition::Absent => Existing::Keep,
        WriteCondition::Any | WriteCondition::Matches(_) => Existing::Replace,
    }
}

fn written(meta: ObjectMeta) -> Written {
    Written { etag: meta.etag, version_id: None }
}

pub(super) fn write_all(staged: &mut Staged<'_>, body: &Payload) -> io::Result<()> {
    for piece in body.pieces() {
        staged.file.write_all(piece)?;
        body.note_sent(piece.len() as u64);
    }
    Ok(())
}

/// Appends a part of `file`, in the kernel where it can: some file systems share the blocks.
fn copy_bytes(file: &OwnedFd, range: ByteRange, target: &mut Staged<'_>) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let len = usize::try_from(range.end - at).unwrap_or(usize::MAX);
        let mut from = at;
        match copy_file_range(file, Some(&mut from), target.file.as_fd(), None, len).map_err(io::Error::from)
        {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(copied) => at += copied as u64,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause)
                if at == range.start
                    && matches!(
                        cause.kind(),
                        io::ErrorKind::CrossesDevices
                            | io::ErrorKind::InvalidInput
                            | io::ErrorKind::Unsupported
                    ) =>
            {
                return copy_by_hand(file, range, target);
            }
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

fn copy_by_hand(file: &OwnedFd, range: ByteRange, target: &mut Staged<'_>) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let source = std::fs::File::from(file.try_clone()?);
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = range.start;
    while at < range.end {
        let len = COPY_BYTES.min(usize::try_from(range.end - at).unwrap_or(usize::MAX));
        source.read_exact_at(&mut buffer[..len], at)?;
        target.file.write_all(&buffer[..len])?;
        at += len as u64;
    }
    Ok(())
}

fn sync(directory: &OwnedFd) -> io::Result<()> {
    Ok(fsync(directory)?)
}
