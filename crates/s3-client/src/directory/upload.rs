//! Uploads in parts: a directory for each in the staging directory, with its key and its parts as files.
//!
//! They outlive the process that began them, as they do at S3, and are found again by their listing.

use std::fs::File;
use std::io::{self, Read, Write};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, fstat, mkdirat, openat, statat, unlinkat};

use super::Shared;
use super::place::{STAGING, is_absence, meta_of_file};
use super::staging::{self, Existing, Staged, is_fresh_name, tidy, within};
use super::write::write_all;
use crate::bucket::{
    CompleteUpload, CopyPart, CreateUpload, MAX_OBJECT_BYTES, MAX_PARTS, ObjectMeta, Part, Timestamp,
    UploadId, UploadMarker, UploadMeta, UploadPage, UploadPart, Written,
};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{ByteRange, KeyPrefix, MAX_KEY_BYTES, ObjectKey};

/// The file with the key of an upload.
const KEY: &str = "key";
/// Uploads in one page of their listing, as at S3.
const MAX_PAGE_UPLOADS: usize = 1000;
/// A part that arrives while its upload is thrown away makes another round necessary.
const MAX_TRIES: u32 = 10;

impl Shared {
    pub(super) fn create_upload(&self, request: &CreateUpload) -> Result<UploadId> {
        const OPERATION: &str = "create upload";
        let key = &request.key;
        self.file_path(OPERATION, key)?;
        let id = self.root.fresh_name();
        self.clear_staging();
        let made = within(&self.root, |staging| {
            mkdirat(staging, &id, Mode::RWXU)?;
            let directory = self.root.open_directory(&directory_of(&id))?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = openat(directory, KEY, flags, Mode::RUSR | Mode::WUSR)?;
            File::from(file).write_all(key.as_str().as_bytes())
        });
        made.map_err(|cause| self.write_error(OPERATION, key, cause))?;
        Ok(UploadId::new(id))
    }

    pub(super) fn upload_part(&self, request: &UploadPart) -> Result<Part> {
        const OPERATION: &str = "upload part";
        let UploadPart { key, upload, number, body } = request;
        let directory = self.upload(OPERATION, key, upload)?;
        let mut staged = self.staged(OPERATION, key)?;
        write_all(&mut staged, body).map_err(|cause| self.write_error(OPERATION, key, cause))?;
        self.keep_part(OPERATION, key, (&directory, *number), staged)
    }

    pub(super) fn copy_part(&self, request: &CopyPart) -> Result<Part> {
        const OPERATION: &str = "copy part";
        let CopyPart { key, upload, number, source, source_range, source_if_match } = request;
        let (file, meta) = self.source(OPERATION, source, source_if_match.as_ref())?;
        let all = ByteRange::new(0, meta.size);
        let Some(file) =
            file.filter(|_| !source_range.is_empty() && source_range.intersect(all) == *source_range)
        else {
            let message = format!("range {source_range} does not lie in an object of {} bytes", meta.size);
            return Err(self.refusal(ErrorKind::Invalid, OPERATION, source).with_message(message));
        };
        let directory = self.upload(OPERATION, key, upload)?;
        let mut staged = self.staged(OPERATION, key)?;
        self.copy_range(OPERATION, source, (&file, &meta), *source_range, &mut staged)?;
        self.keep_part(OPERATION, key, (&directory, *number), staged)
    }

    fn keep_part(
        &self,
        operation: &'static str,
        key: &ObjectKey,
        (directory, number): (&OwnedFd, u16),
        mut staged: Staged<'_>,
    ) -> Result<Part> {
        if !(1..=MAX_PARTS).contains(&number) {
            let message = format!("parts have numbers from 1 to {MAX_PARTS}, not {number}");
            return Err(self.refusal(ErrorKind::Invalid, operation, key).with_message(message));
        }
        let kept = staged
            .place_in(directory, &part_name(number), Existing::Replace)
            .and_then(|()| meta_of_file(&fstat(&staged.file)?));
        match kept {
            Ok(ObjectMeta { size, etag: Some(etag), .. }) => Ok(Part { number, etag, size, checksum: None }),
            Ok(_) => Err(self.no_such_upload(operation, key)),
            // The upload was completed or thrown away meanwhile.
            Err(cause) if is_absence(&cause) => Err(self.no_such_upload(operation, key)),
            Err(cause) => Err(self.write_error(operation, key, cause)),
        }
    }

    pub(super) fn complete_upload(&self, request: &CompleteUpload) -> Result<Written> {
        const OPERATION: &str = "complete upload";
        let CompleteUpload { key, upload, parts, condition } = request;
        let directory = self.upload(OPERATION, key, upload)?;
        let invalid = |message: &str| self.refusal(ErrorKind::Invalid, OPERATION, key).with_message(message);
        if parts.is_empty() || !parts.is_sorted_by(|a, b| a.number < b.number) {
            return Err(invalid("an upload has at least one part, and their numbers rise"));
        }
        let mut opened = Vec::with_capacity(parts.len());
        for part in parts {
            match open_part(&directory, part) {
                Ok(Some(found)) => opened.push(found),
                Ok(None) => {
                    return Err(invalid("a part is not the one that was sent").with_code("InvalidPart"));
                }
                Err(cause) => return Err(self.write_error(OPERATION, key, cause)),
            }
        }
        if opened.iter().map(|(_, meta)| meta.size).sum::<u64>() > MAX_OBJECT_BYTES {
            return Err(self.refusal(ErrorKind::TooLarge, OPERATION, key));
        }
        let mut staged = self.staged(OPERATION, key)?;
        for (file, meta) in &opened {
            let all = ByteRange::new(0, meta.size);
            self.copy_range(OPERATION, key, (file, meta), all, &mut staged)?;
        }
        let written = self.publish(OPERATION, key, staged, condition)?;
        if let Err(error) = self.abort_upload(key, upload) {
            tracing::warn!(%error, "an upload that is complete could not be cleared away");
        }
        Ok(written)
    }

    pub(super) fn abort_upload(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        const OPERATION: &str = "abort upload";
        match self.upload(OPERATION, key, upload) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NoSuchUpload => return Ok(()),
            Err(error) => return Err(error),
        }
        let cleared = self.clear(upload.as_str());
        tidy(&self.root);
        match cleared {
            Err(cause) if !is_absence(&cause) => Err(self.error(OPERATION, key.as_str(), cause)),
            _ => Ok(()),
        }
    }

    /// Removes what writers left in the staging directory who were killed, before the first thing is staged there by us. Uploads that have their
    /// key are left: they outlive their writers as they do at S3.
    pub(super) fn clear_staging(&self) {
        self.cleared_staging.call_once(|| {
            let remove_keyless = |id: &str| {
                let keyed = self.root.open_directory(&directory_of(id)).and_then(|directory| key_of(&directory));
                match keyed {
                    Ok(Some(_)) => Ok(()),
                    Ok(None) => self.clear(id),
                    Err(cause) if is_absence(&cause) => self.clear(id),
                    Err(cause) => Err(cause),
                }
            };
            if let Err(cause) = staging::clear(&self.root, remove_keyless) {
                tracing::warn!(bucket = %self.identity.name, %cause, "what killed writers left in .sluicefs-staging cannot be removed");
            }
        });
    }

    fn clear(&self, id: &str) -> io::Result<()> {
        let mut tries = 0;
        loop {
            let directory = self.root.open_directory(&directory_of(id))?;
            let mut entries = Dir::read_from(&directory)?;
            while let Some(entry) = entries.read() {
                let entry = entry?;
                if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    unlinkat(&directory, entry.file_name(), AtFlags::empty())?;
                }
            }
            let staging = self.root.open_directory(STAGING)?;
            tries += 1;
            match unlinkat(staging, id, AtFlags::REMOVEDIR).map_err(io::Error::from) {
                Err(cause) if cause.kind() == io::ErrorKind::DirectoryNotEmpty && tries < MAX_TRIES => {}
                removed => return removed,
            }
        }
    }

    pub(super) fn list_uploads(
        &self,
        prefix: &KeyPrefix,
        marker: Option<&UploadMarker>,
    ) -> Result<UploadPage> {
        let mut uploads =
            self.uploads().map_err(|cause| self.error("list uploads", prefix.as_str(), cause))?;
        uploads.retain(|meta| meta.key.as_str().starts_with(prefix.as_str()));
        if let Some(marker) = marker {
            let after = (marker.key.as_str(), marker.upload.as_str());
            uploads.retain(|meta| (meta.key.as_str(), meta.upload.as_str()) > after);
        }
        uploads.sort_unstable_by(|a, b| (&a.key, &a.upload).cmp(&(&b.key, &b.upload)));
        let more = uploads.len() > MAX_PAGE_UPLOADS;
        uploads.truncate(MAX_PAGE_UPLOADS);
        let next = uploads.last().filter(|_| more).map(|last| UploadMarker {
            key: last.key.as_str().to_owned(),
            upload: last.upload.as_str().to_owned(),
        });
        Ok(UploadPage { uploads, next })
    }

    fn uploads(&self) -> io::Result<Vec<UploadMeta>> {
        let staging = match self.root.open_directory(STAGING) {
            Err(cause) if is_absence(&cause) => return Ok(Vec::new()),
            opened => opened?,
        };
        let mut uploads = Vec::new();
        let mut entries = Dir::read_from(&staging)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let Some(id) = entry.file_name().to_str().ok().filter(|id| is_fresh_name(id)) else { continue };
            match self.root.open_directory(&directory_of(id)).and_then(|directory| key_of(&directory)) {
                Ok(Some((key, initiated))) => {
                    uploads.push(UploadMeta { key, upload: UploadId::new(id), initiated });
                }
                // It has no key yet, or it is a file in the making.
                Ok(None) => {}
                Err(cause) if is_absence(&cause) => {}
                Err(cause) => return Err(cause),
            }
        }
        Ok(uploads)
    }

    /// The directory of an upload.
    fn upload(&self, operation: &'static str, key: &ObjectKey, upload: &UploadId) -> Result<OwnedFd> {
        if !is_fresh_name(upload.as_str()) {
            return Err(self.no_such_upload(operation, key));
        }
        let found = self.root.open_directory(&directory_of(upload.as_str())).and_then(|directory| {
            let of = key_of(&directory)?;
            Ok(of.filter(|(of, _)| of == key).map(|_| directory))
        });
        match found {
            Ok(Some(directory)) => Ok(directory),
            Ok(None) => Err(self.no_such_upload(operation, key)),
            Err(cause) if is_absence(&cause) => Err(self.no_such_upload(operation, key)),
            Err(cause) => Err(self.error(operation, key.as_str(), cause)),
        }
    }

    fn no_such_upload(&self, operation: &'static str, key: &ObjectKey) -> Error {
        let error = self.refusal(ErrorKind::NoSuchUpload, operation, key);
        error.with_status(404).with_code("NoSuchUpload")
    }
}

fn directory_of(id: &str) -> String {
    format!("{STAGING}/{id}")
}

fn part_name(number: u16) -> String {
    format!("{number:05}")
}

/// What an upload is of, and when it was begun.
fn key_of(directory: &OwnedFd) -> io::Result<Option<(ObjectKey, Timestamp)>> {
    let file = openat(directory, KEY, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let begun = meta_of_file(&fstat(&file)?)?.last_modified;
    let mut text = String::new();
    File::from(file).take(MAX_KEY_BYTES as u64 + 1).read_to_string(&mut text)?;
    Ok(ObjectKey::new(text).ok().map(|key| (key, begun)))
}

/// A part as it was told to the sender; `None` if it is another.
fn open_part(directory: &OwnedFd, part: &Part) -> io::Result<Option<(OwnedFd, ObjectMeta)>> {
    let name = part_name(part.number);
    match statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from) {
        Err(cause) if is_absence(&cause) => return Ok(None),
        found => found?,
    };
    let file = openat(directory, &name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let meta = meta_of_file(&fstat(&file)?)?;
    Ok((meta.etag.as_ref() == Some(&part.etag)).then_some((file, meta)))
}
