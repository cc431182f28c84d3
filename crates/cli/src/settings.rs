//! What the options of a mount mean to the crates below: defaults filled in, contradictions found, files read.

mod writing;

use std::fs;
use std::path::{Path, PathBuf};

use sluicefs_core::{
    Allow, Attributes, DiskCacheConfig, FsConfig, OwnerOfNew, ReadConfig, Symlinks, VersionPolicy,
};
use sluicefs_s3_client::KeyPrefix;
use sluicefs_s3_client::config::{
    AddressingStyle, BucketType, ClientConfig, CredentialSource, SseCustomerKey, WriteConfig,
};

use crate::args::{
    AttributesArg, BucketTypeArg, FileArgs, MountArgs, StoreArgs, SymlinksArg, TtlArg, VersionsArg,
};
use crate::failure::Failure;

pub(crate) use writing::stored_config;

/// What the process is, for options that default to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) memory_target_bytes: u64,
    /// How many files this process may have open.
    pub(crate) open_files: usize,
    pub(crate) metadata_ttl: TtlArg,
    /// Written bytes have one of so many shares of the memory.
    pub(crate) shares_of_memory: u64,
}

/// How to reach the bucket, and what to store with what is written.
///
/// # Errors
/// If an option makes no sense, or the key file cannot be read.
pub(crate) fn client_config(args: &StoreArgs, write: WriteConfig) -> Result<ClientConfig, Failure> {
    let mut config = ClientConfig {
        region: args.region.clone(),
        endpoint_url: args.endpoint_url.clone(),
        addressing: if args.force_path_style { AddressingStyle::Path } else { AddressingStyle::Auto },
        profile: args.profile.clone(),
        ca_bundle: args.ca_bundle.as_deref().map(absolute).transpose()?,
        requester_pays: args.requester_pays,
        expected_bucket_owner: args.expected_bucket_owner.clone(),
        sse_customer_key: args.sse_c_key_file.as_deref().map(read_sse_key).transpose()?,
        write,
        transfer_acceleration: args.transfer_acceleration,
        dual_stack: args.dual_stack,
        bucket_type: args.bucket_type.map(|kind| match kind {
            BucketTypeArg::GeneralPurpose => BucketType::GeneralPurpose,
            BucketTypeArg::Directory => BucketType::Directory,
        }),
        user_agent_prefix: args.user_agent_prefix.clone(),
        ..ClientConfig::default()
    };
    if args.no_sign_request {
        config.credentials = CredentialSource::Anonymous;
    }
    config.validate().map_err(|error| Failure::usage(error.to_string()))?;
    Ok(config)
}

/// How the bucket looks as a tree.
///
/// # Errors
/// If the options do not fit together.
pub(crate) fn fs_config(
    args: &MountArgs,
    prefix: KeyPrefix,
    around: Surroundings,
) -> Result<FsConfig, Failure> {
    let metadata_ttl = args.reading.metadata_ttl.unwrap_or(around.metadata_ttl);
    let negative_ttl = args.reading.negative_metadata_ttl.unwrap_or(metadata_ttl);
    let memory_bytes = args.reading.memory_target.unwrap_or(around.memory_target_bytes);
    let write_bytes = writing::memory_bytes(args, memory_bytes, around.shares_of_memory)?;
    let versions = args.reading.versions.map_or(VersionPolicy::default(), |versions| match versions {
        VersionsArg::Newest => VersionPolicy::Newest,
        VersionsArg::Pinned => VersionPolicy::Pinned,
    });
    let config = FsConfig {
        prefix,
        uid: args.files.uid.unwrap_or(around.uid),
        gid: args.files.gid.unwrap_or(around.gid),
        uid_of_new: owner_of_new(args.files.uid),
        gid_of_new: owner_of_new(args.files.gid),
        file_mode: args.files.file_mode,
        dir_mode: args.files.dir_mode,
        metadata_ttl: metadata_ttl.ttl(),
        negative_ttl: negative_ttl.ttl(),
        // Who says that nothing ever changes, or that changes do not count, need not be asked at each open.
        revalidate_on_open: metadata_ttl != TtlArg::Indefinite && versions == VersionPolicy::Newest,
        versions,
        attributes: args.files.attributes.map_or(Attributes::default(), |whose| match whose {
            AttributesArg::None => Attributes::None,
            AttributesArg::S3fs => Attributes::S3fs,
            AttributesArg::Rclone => Attributes::Rclone,
        }),
        symlinks: args.files.allow_symlinks.map_or(Symlinks::default(), |which| match which {
            SymlinksArg::Inside => Symlinks::Inside,
            SymlinksArg::Any => Symlinks::Any,
            SymlinksArg::None => Symlinks::None,
        }),
        allow: allow(&args.files),
        read: read_config(args, memory_bytes - write_bytes, around.open_files)?,
        write: writing::write_config(args, write_bytes),
    };
    config.validate().map_err(|error| Failure::usage(error.to_string()))?;
    Ok(config)
}

/// Who says whose the files are means new ones too.
fn owner_of_new(chosen: Option<u32>) -> OwnerOfNew {
    if chosen.is_some() { OwnerOfNew::Settings } else { OwnerOfNew::Maker }
}

fn allow(files: &FileArgs) -> Allow {
    if files.read_only {
        return Allow::NOTHING;
    }
    Allow { changes: true, delete: !files.no_delete, overwrite: !files.no_overwrite }
}

/// The cache on disk may take a quarter of all open files, three for each object: the rest is for connections and for what is written.
const OPEN_FILES_OF_AN_OBJECT: usize = 12;

fn read_config(args: &MountArgs, memory_limit_bytes: u64, open_files: usize) -> Result<ReadConfig, Failure> {
    let defaults = ReadConfig::default();
    let limit_bytes = args.reading.max_cache_size.unwrap_or(u64::MAX);
    let cache = args.reading.cache.as_deref().filter(|_| limit_bytes > 0);
    let disk = |directory| Ok::<_, Failure>(disk_cache(absolute(directory)?, limit_bytes, open_files));
    Ok(ReadConfig {
        memory_limit_bytes,
        part_size_bytes: args
            .reading
            .read_part_size
            .or(args.reading.part_size)
            .unwrap_or(defaults.part_size_bytes),
        disk: cache.map(disk).transpose()?,
        // The store's own limit comes first.
        stuck_after: args.store.op_timeout.map_or(defaults.stuck_after, |limit| limit * 2),
        ..defaults
    })
}

/// The cache in `directory` of a process that may have `open_files`.
pub(crate) fn disk_cache(directory: PathBuf, limit_bytes: u64, open_files: usize) -> DiskCacheConfig {
    DiskCacheConfig { directory, limit_bytes, max_open_objects: open_files / OPEN_FILES_OF_AN_OBJECT }
}

/// The same path from any directory: a mount in the background leaves the one it was started in.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::usage(format!("the path {path:?} makes no sense: {error}")))
}

fn read_sse_key(path: &Path) -> Result<SseCustomerKey, Failure> {
    let shown = path.display();
    let bytes = fs::read(path)
        .map_err(|error| Failure::usage(format!("cannot read the SSE-C key file {shown}: {error}")))?;
    // Thirty-two bytes are the key itself: in base64 it has forty-four.
    if let Ok(key) = <[u8; 32]>::try_from(bytes.as_slice()) {
        return Ok(SseCustomerKey::new(key));
    }
    std::str::from_utf8(&bytes).ok().and_then(|text| SseCustomerKey::from_base64(text).ok()).ok_or_else(
        || Failure::usage(format!("{shown} holds no SSE-C key: it must be 32 bytes, or those in base64")),
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use clap::Parser;
    use sluicefs_core::Ttl;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::preset::Chosen;

    const AROUND: Surroundings = Surroundings {
        uid: 1000,
        gid: 100,
        memory_target_bytes: 512 << 20,
        open_files: 1024,
        metadata_ttl: TtlArg::Seconds(1),
        shares_of_memory: 4,
    };

    pub(crate) fn parse(options: &[&str]) -> MountArgs {
        let line = ["sluicefs", "mount"].iter().chain(options).chain(&["bucket", "/dir"]);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Mount(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn fs(options: &[&str]) -> Result<FsConfig, Failure> {
        fs_config(&parse(options), KeyPrefix::root(), AROUND)
    }

    /// The settings that were chosen, on a machine as above.
    pub(crate) fn fs_of(chosen: &Chosen) -> Result<FsConfig, Failure> {
        let around = Surroundings { shares_of_memory: chosen.shares_of_memory, ..AROUND };
        fs_config(&chosen.args, KeyPrefix::root(), around)
    }

    pub(crate) fn client(options: &[&str]) -> Result<ClientConfig, Failure> {
        let args = parse(options);
        client_config(&args.store, stored_config(&args.writing)?)
    }

    #[test]
    fn defaults_come_from_the_surroundings() {
        let config = fs(&[]).unwrap();
        assert_eq!((config.uid, config.gid, config.file_mode, config.dir_mode), (1000, 100, 0o644, 0o755));
        assert_eq!((config.read.memory_limit_bytes, config.write.memory_limit_bytes), (384 << 20, 128 << 20));
        assert_eq!(
            (config.metadata_ttl, config.negative_ttl),
            (Ttl::For(Duration::from_secs(1)), config.metadata_ttl)
        );
    }

    #[test]
    fn options_win() {
        let config =
            fs(&["--uid=0", "--gid=5", "--file-mode=0400", "--memory-target=64", "--read-part-size=1048576"])
                .unwrap();
        assert_eq!((config.uid, config.gid, config.file_mode), (0, 5, 0o400));
        assert_eq!((config.read.memory_limit_bytes, config.read.part_size_bytes), (32 << 20, 1 << 20));
        assert_eq!((config.write.memory_limit_bytes, config.allow), (32 << 20, Allow::ALL));
        let config = fs(&["--part-size=8388608", "--read-part-size=2097152"]).unwrap();
        assert_eq!(config.read.part_size_bytes, 2 << 20);
    }

    #[test]
    fn a_read_only_mount_has_all_memory_for_reading() {
        let config = fs(&["--read-only", "--memory-target=64"]).unwrap();
        assert_eq!((config.read.memory_limit_bytes, config.allow), (64 << 20, Allow::NOTHING));
    }

    #[test]
    fn removing_and_replacing_can_be_refused() {
        let allow = |options: &[&str]| fs(options).unwrap().allow;
        assert_eq!(allow(&["--no-delete"]), Allow { delete: false, ..Allow::ALL });
        assert_eq!(allow(&["--no-overwrite"]), Allow { overwrite: false, ..Allow::ALL });
    }

    #[test]
    fn links_inside_are_there_unless_others_are_asked_for() {
        for (options, expected) in [
            (&[][..], Symlinks::Inside),
            (&["--allow-symlinks=any"], Symlinks::Any),
            (&["--allow-symlinks=none"], Symlinks::None),
        ] {
            assert_eq!(fs(options).unwrap().symlinks, expected, "{options:?}");
        }
    }

    #[test]
    fn attributes_are_kept_when_asked_for() {
        let kept = |options: &[&str]| fs(options).unwrap().attributes;
        assert_eq!(kept(&[]), Attributes::None);
        assert_eq!(kept(&["--attributes=s3fs"]), Attributes::S3fs);
        assert_eq!(kept(&["--attributes=rclone"]), Attributes::Rclone);
    }

    #[test]
    fn new_files_belong_to_their_maker_unless_an_owner_is_named() {
        let owners = |options: &[&str]| fs(options).map(|c| (c.uid_of_new, c.gid_of_new)).unwrap();
        assert_eq!(owners(&[]), (OwnerOfNew::Maker, OwnerOfNew::Maker));
        assert_eq!(owners(&["--uid=5"]), (OwnerOfNew::Settings, OwnerOfNew::Maker));
    }

    #[test]
    fn absence_is_believed_as_long_as_presence_unless_told() {
        let ttls = |options: &[&str]| fs(options).map(|c| (c.metadata_ttl, c.negative_ttl)).unwrap();
        assert_eq!(ttls(&["--metadata-ttl=indefinite"]), (Ttl::Forever, Ttl::Forever));
        let five = Ttl::For(Duration::from_secs(5));
        assert_eq!(ttls(&["--metadata-ttl=indefinite", "--negative-metadata-ttl=5"]), (Ttl::Forever, five));
    }

    #[test]
    fn settings_that_do_not_fit_are_refused() {
        for options in
            [&["--memory-target=1"][..], &["--part-size=1"], &["--memory-target=64", "--part-size=33554432"]]
        {
            assert!(fs(options).is_err(), "{options:?}");
        }
        for options in
            [&["--endpoint-url=minio:9000"][..], &["--region=eu west"], &["--expected-bucket-owner=1"]]
        {
            assert!(client(options).is_err(), "{options:?}");
        }
    }

    #[test]
    fn client_options_arrive() {
        let config = client(&[
            "--no-sign-request",
            "--force-path-style",
            "--bucket-type=directory",
            "--region=eu-west-1",
        ])
        .unwrap();
        assert_eq!(config.credentials, CredentialSource::Anonymous);
        assert_eq!(config.addressing, AddressingStyle::Path);
        assert_eq!(
            (config.bucket_type, config.region.as_deref()),
            (Some(BucketType::Directory), Some("eu-west-1"))
        );
    }

    #[test]
    fn sse_key_file_holds_32_bytes_or_their_base64() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for (content, expected) in [
            (&b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"[..], true),
            (b"YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=\n", true),
            (b"short", false),
            (b"", false),
        ] {
            fs::write(&path, content).unwrap();
            let config = client(&["--sse-c-key-file", path.to_str().unwrap()]);
            let key = config.as_ref().ok().and_then(|config| config.sse_customer_key.clone());
            assert_eq!(key, expected.then(|| SseCustomerKey::new([b'a'; 32])), "{config:?}");
        }
    }
}
