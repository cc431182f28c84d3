//! What a mount is asked to be, and how mount(2) and fusermount3 spell that.
//!
//! `nosuid`, `nodev`, `noatime` and `default_permissions` are not options but always on: a bucket has no say in who becomes
//! root, the store keeps no access times, and the kernel checks the mode bits so that we need not be asked.

use rustix::mount::MountFlags;

/// Who may use the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Only the user who mounts (not even root, unless root mounts).
    #[default]
    Owner,
    /// That user and root. The kernel knows only "everyone": whoever serves the device must refuse the others.
    OwnerAndRoot,
    /// Every user, as far as the mode bits allow.
    Everyone,
}

/// How to mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// mount(2) for root (and fusermount3 where that is refused), fusermount3 for everyone else.
    #[default]
    Auto,
    /// mount(2) or nothing.
    Direct,
    /// fusermount3, even for root.
    Fusermount,
}

/// What to do about users of the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnmountMode {
    /// Refuse while files are open.
    #[default]
    Graceful,
    /// Take it out of the tree now; files that are open live until they are closed.
    Lazy,
}

/// The options of one mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// What `/proc/mounts` names as the source: `s3://models`.
    pub source: String,
    /// Who may use it.
    pub access: Access,
    /// The kernel itself refuses every change (EROFS).
    pub read_only: bool,
    /// How to mount.
    pub method: Method,
}

impl MountOptions {
    /// A read-only mount of `source` for the user who mounts.
    pub fn new(source: impl Into<String>) -> Self {
        Self { source: source.into(), access: Access::Owner, read_only: true, method: Method::Auto }
    }

    pub(crate) fn flags(&self) -> MountFlags {
        let always = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
        if self.read_only { always | MountFlags::RDONLY } else { always }
    }

    /// The data of mount(2) (Documentation/filesystems/fuse/fuse.rst, "Mount options").
    pub(crate) fn kernel_data(&self, owner: &KernelOwner) -> String {
        let KernelOwner { device_fd, root_mode, uid, gid } = owner;
        let mut data =
            format!("fd={device_fd},rootmode={root_mode:o},user_id={uid},group_id={gid},default_permissions");
        if self.access != Access::Owner {
            data.push_str(",allow_other");
        }
        data
    }

    /// The `-o` argument of fusermount3, which adds `nosuid,nodev` for users by itself and takes it from root.
    pub(crate) fn fusermount_options(&self) -> String {
        let mut options = String::from(if self.read_only { "ro" } else { "rw" });
        options.push_str(",nosuid,nodev,noatime,default_permissions,subtype=sluicefs");
        if self.access != Access::Owner {
            options.push_str(",allow_other");
        }
        options.push_str(",fsname=");
        options.push_str(&escape(&self.source));
        options
    }
}

/// What the kernel wants to know about the descriptor and the one who mounts.
#[derive(Debug)]
pub(crate) struct KernelOwner {
    pub(crate) device_fd: i32,
    pub(crate) root_mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// fusermount3 splits at commas; a backslash keeps the next character (util/fusermount.c, `get_string_opt`).
fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, ',' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(access: Access, read_only: bool) -> MountOptions {
        MountOptions { access, read_only, ..MountOptions::new("s3://a,b\\c") }
    }

    #[test]
    fn the_kernel_is_told_descriptor_owner_and_who_else_may() {
        let owner = KernelOwner { device_fd: 7, root_mode: 0o40755, uid: 10, gid: 20 };
        let base = "fd=7,rootmode=40755,user_id=10,group_id=20,default_permissions";
        for (access, expected) in [
            (Access::Owner, base.to_owned()),
            (Access::OwnerAndRoot, format!("{base},allow_other")),
            (Access::Everyone, format!("{base},allow_other")),
        ] {
            assert_eq!(options(access, true).kernel_data(&owner), expected);
        }
    }

    #[test]
    fn setuid_and_devices_are_never_honoured() {
        for read_only in [true, false] {
            let flags = options(Access::Everyone, read_only).flags();
            assert!(flags.contains(MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME));
            assert_eq!(flags.contains(MountFlags::RDONLY), read_only);
            let helper = options(Access::Everyone, read_only).fusermount_options();
            assert!(helper.contains(",nosuid,nodev,noatime,"), "{helper}");
        }
    }

    #[test]
    fn fusermount_gets_an_escaped_source() {
        assert_eq!(
            options(Access::Everyone, true).fusermount_options(),
            "ro,nosuid,nodev,noatime,default_permissions,subtype=sluicefs,allow_other,fsname=s3://a\\,b\\\\c"
        );
        assert!(options(Access::Owner, false).fusermount_options().starts_with("rw,"));
        assert!(!options(Access::Owner, false).fusermount_options().contains("allow_other"));
    }
}
