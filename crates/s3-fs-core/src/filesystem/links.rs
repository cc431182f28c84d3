//! Making and reading symbolic links.

use std::sync::Arc;

use futures::TryStreamExt;
use sluicefs_s3_client::{GetRequest, Payload, PutRequest};
use tokio::time::Instant;

use super::FileSystem;
use super::attributes::new_object;
use crate::attr::{Entry, FileKind, InodeNo, NewAttr};
use crate::config::Symlinks;
use crate::error::{Error, ErrorKind, Result};
use crate::inode::Remote;
use crate::inode::table::Change;
use crate::link::{self, MAX_TARGET_BYTES, Refused};

impl FileSystem {
    /// Makes the symbolic link `name` in `parent`, which leads to `target`, and counts one lookup.
    ///
    /// # Errors
    /// `Exists`; `NotPermitted` for a target that the settings do not let through; `ReadOnly` if the mount changes nothing; `NameTooLong`,
    /// `InvalidName`, `AccessDenied`, `Io`.
    pub async fn symlink(&self, parent: InodeNo, name: &str, target: &[u8], new: NewAttr) -> Result<Entry> {
        const OPERATION: &str = "symlink";
        self.may_change(OPERATION)?;
        let refused = |kind, reason| Error::new(kind, OPERATION).with_name(name).because(reason);
        if self.config.symlinks == Symlinks::None {
            return Err(refused(ErrorKind::NotPermitted, "the mount was told to have no symbolic links"));
        }
        let depth = self.tree.table.depth(parent);
        match link::check_target(target, depth, self.config.symlinks) {
            Ok(()) => {}
            Err(Refused::Outside) => return Err(refused(ErrorKind::NotPermitted, OUTSIDE)),
            Err(Refused::NoPath(reason)) => return Err(refused(ErrorKind::Invalid, reason)),
        }
        self.must_be_free(OPERATION, parent, name).await?;
        let key = || {
            let prefix = self.tree.table.directory(OPERATION, parent)?;
            let too_long = || refused(ErrorKind::NameTooLong, "its key would be too long");
            self.tree.key_of(&prefix, name, FileKind::Symlink).ok_or_else(too_long)
        };
        let (key, _stays) = self.stay(key).await?;
        self.removal_ended(&key).await;
        let target: Arc<[u8]> = Arc::from(target);
        let body = Payload::from(bytes::Bytes::from_owner(Arc::clone(&target)));
        let given = self.birth(parent, FileKind::Symlink, new)?;
        let attributes = self.described(self.writes.attributes(&key), FileKind::Symlink, &given);
        let request = PutRequest { key, body, attributes, condition: self.unless_taken() };
        let written = self.bucket.put(request).await.map_err(|error| Error::from_claim(error, name))?;
        let meta = new_object(target.len() as u64, written.etag);
        let remote = Remote::Object(FileKind::Symlink, meta);
        let entry = self.tree.create(parent, name, &remote, Some(Instant::now()))?;
        self.tree.table.set_target(entry.attr.ino, target);
        self.give_birth(&entry, given)
    }

    /// Where the symbolic link `ino` leads. Asks the store the first time, and keeps the answer for as long as it is the same version.
    ///
    /// # Errors
    /// `NotPermitted` for a target that the settings do not let through; `Io` for what is no path; `Invalid` for what is no link; `NotFound`,
    /// `AccessDenied`.
    pub async fn read_link(&self, ino: InodeNo) -> Result<Arc<[u8]>> {
        const OPERATION: &str = "readlink";
        let known = self.tree.table.known(OPERATION, ino)?;
        let refused = |kind, reason| Error::new(kind, OPERATION).with_name(&known.name).because(reason);
        if known.attr.kind != FileKind::Symlink {
            return Err(refused(ErrorKind::Invalid, "it is no symbolic link"));
        }
        let target = match self.tree.table.target(ino) {
            Some(target) => target,
            None => self.fetch_target(ino).await?,
        };
        // Also what was read before: the link may have moved.
        match link::check_target(&target, self.tree.table.depth(known.parent), self.config.symlinks) {
            Ok(()) => Ok(target),
            Err(Refused::Outside) => Err(refused(ErrorKind::NotPermitted, OUTSIDE)),
            Err(Refused::NoPath(reason)) => Err(refused(ErrorKind::Io, reason)),
        }
    }

    /// The bytes of the link `ino`, whatever they are.
    async fn fetch_target(&self, ino: InodeNo) -> Result<Arc<[u8]>> {
        let key = self.tree.key("readlink", ino)?;
        let failed = |error| Error::from_store("readlink", error).with_name(key.as_str());
        let at = Instant::now();
        let request = GetRequest { key: key.clone(), range: None, if_match: None };
        let reply = self.bucket.get(request).await.map_err(failed)?;
        if reply.meta.size > MAX_TARGET_BYTES {
            let too_long = Error::new(ErrorKind::Io, "readlink").with_name(key.as_str());
            return Err(too_long.because("it has over 4095 bytes"));
        }
        let join = |mut whole: Vec<u8>, part: bytes::Bytes| async move {
            whole.extend_from_slice(&part);
            Ok(whole)
        };
        let bytes = reply.body.try_fold(Vec::new(), join).await.map_err(failed)?;
        let target: Arc<[u8]> = bytes.into();
        match self.tree.take(ino, (&Remote::Object(FileKind::Symlink, reply.meta), None), at) {
            // The name has another number by now, which will be looked up and read.
            Change::Replaced => {}
            Change::None | Change::NewVersion | Change::Outdated => {
                self.tree.table.set_target(ino, Arc::clone(&target));
            }
        }
        Ok(target)
    }

    /// Whether a file may be called `name`.
    pub(super) fn may_be_file(&self, operation: &'static str, name: &str) -> Result<()> {
        if self.tree.is_reserved(name) {
            let error = Error::new(ErrorKind::InvalidName, operation).with_name(name);
            return Err(error.because("a key with that end is a symbolic link's"));
        }
        Ok(())
    }
}

const OUTSIDE: &str = "a symbolic link that may lead out of the mount; --allow-symlinks any lets it through";
