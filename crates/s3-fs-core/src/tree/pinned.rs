//! Names that stand for what was seen of them first, whatever became of it.

use sluicefs_s3_client::KeyPrefix;

use super::Tree;
use crate::attr::FileKind;
use crate::inode::Remote;
use crate::listing::Named;

impl Tree {
    /// What `name` was when it was seen first, where versions are pinned and the store has it no more.
    pub(super) fn pinned(&self, prefix: &KeyPrefix, name: &str) -> Option<Named> {
        let pins = self.pins.as_ref()?;
        [FileKind::File, FileKind::Symlink].into_iter().find_map(|kind| {
            let is_reserved = kind == FileKind::File && self.is_reserved(name);
            let key = self.key_of(prefix, name, kind).filter(|_| !is_reserved)?;
            let meta = pins.get(&key)?;
            Some(Named { name: Box::from(name), remote: Remote::Object(kind, meta) })
        })
    }
}
