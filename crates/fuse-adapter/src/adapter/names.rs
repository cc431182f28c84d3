//! Serves what is asked about a name: whether it is there, its attributes, who may use it.

use std::sync::Arc;

use fuser::{AccessFlags, Errno, INodeNo, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyXattr};
use sluicefs_core::ErrorKind;

use super::{Core, GENERATION};
use crate::convert::{Caller, XattrReply, absent, attributes, check_access, inode, xattr_list, xattr_reply};

impl Core {
    pub(super) async fn lookup(self: Arc<Self>, parent: INodeNo, name: String, reply: ReplyEntry) {
        match self.fs.lookup(inode(parent), &name).await {
            Ok(entry) => reply.entry(&entry.ttl, &attributes(&entry.attr), GENERATION),
            Err(error) => {
                let ttl = self.fs.absent_for(inode(parent), &name);
                let errno = self.errors.lookup_errno(&error);
                match error.kind() {
                    ErrorKind::NotFound if !ttl.is_zero() => reply.entry(&ttl, &absent(), GENERATION),
                    _ => reply.error(errno),
                }
            }
        }
    }

    pub(super) async fn getattr(self: Arc<Self>, ino: INodeNo, reply: ReplyAttr) {
        match self.fs.getattr(inode(ino)).await {
            Ok(entry) => reply.attr(&entry.ttl, &attributes(&entry.attr)),
            Err(error) => reply.error(self.errors.errno(&error)),
        }
    }

    pub(super) async fn readlink(self: Arc<Self>, ino: INodeNo, reply: ReplyData) {
        match self.fs.read_link(inode(ino)).await {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(self.errors.errno(&error)),
        }
    }

    pub(super) async fn access(
        self: Arc<Self>,
        ino: INodeNo,
        caller: Caller,
        mask: AccessFlags,
        reply: ReplyEmpty,
    ) {
        let allowed = match self.fs.getattr(inode(ino)).await {
            Ok(entry) => check_access(&entry.attr, caller, mask),
            Err(error) => Err(self.errors.errno(&error)),
        };
        match allowed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) async fn getxattr(self: Arc<Self>, ino: INodeNo, name: String, size: u32, reply: ReplyXattr) {
        match self.fs.xattr(inode(ino), &name).await {
            Ok(value) => send_xattr(&value, size, reply),
            Err(error) => reply.error(self.errors.errno(&error)),
        }
    }

    pub(super) async fn listxattr(self: Arc<Self>, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.fs.xattr_names(inode(ino)).await {
            Ok(names) => send_xattr(&xattr_list(&names), size, reply),
            Err(error) => reply.error(self.errors.errno(&error)),
        }
    }
}

fn send_xattr(value: &[u8], size: u32, reply: ReplyXattr) {
    match xattr_reply(value, size) {
        XattrReply::Size(len) => reply.size(len),
        XattrReply::Data(data) => reply.data(data),
        XattrReply::TooSmall => reply.error(Errno::ERANGE),
    }
}
