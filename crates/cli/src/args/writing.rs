//! The options about what is written. Names and meanings are those of Mountpoint's `mount-s3` wherever it has them.

use clap::{Args, ValueEnum};

use super::values::tag;

/// How files are written, and what is stored with them.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Writing")]
pub(crate) struct WritingArgs {
    /// The first parts of an upload, in bytes; later ones grow. Files up to this long are sent in one request. [default: 8388608]
    #[arg(long, value_name = "BYTES")]
    pub(crate) write_part_size: Option<u64>,
    /// The checksum that goes along with written bytes, for the store to verify and to keep. "off" is for servers that refuse it.
    /// [default: crc64nvme]
    #[arg(long, value_enum, value_name = "ALGORITHM", hide_possible_values = true)]
    pub(crate) upload_checksums: Option<ChecksumArg>,
    /// The storage class of what is written, such as STANDARD_IA or INTELLIGENT_TIERING. [default: the server's]
    #[arg(long, value_name = "CLASS")]
    pub(crate) storage_class: Option<String>,
    /// How the store encrypts what is written. [default: as the bucket says]
    #[arg(long, value_enum, value_name = "KIND", conflicts_with = "sse_c_key_file")]
    pub(crate) sse: Option<SseArg>,
    /// The ARN of the KMS key for --sse aws:kms and aws:kms:dsse. [default: the account's own key for S3]
    #[arg(long, value_name = "ARN", requires = "sse")]
    pub(crate) sse_kms_key_id: Option<String>,
    /// Whether a key of the bucket spares requests to KMS, with --sse aws:kms. [default: as the bucket says]
    #[arg(long, value_name = "true|false", hide_possible_values = true, requires = "sse")]
    pub(crate) sse_bucket_key: Option<bool>,
    /// The canned ACL of what is written, such as bucket-owner-full-control. [default: none]
    #[arg(long, value_name = "ACL")]
    pub(crate) acl: Option<String>,
    /// A tag for everything that is written. May be given ten times.
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = tag)]
    pub(crate) tags: Vec<(String, String)>,
    /// Leave the Content-Type of what is written to the server. Without this, it is that of the name's extension, where it has a
    /// known one.
    #[arg(long)]
    pub(crate) no_content_type: bool,
    /// What to do when an object that is to be replaced was changed by somebody else since its file was opened: fail with ESTALE, or
    /// overwrite it. [default: fail]
    #[arg(long, value_enum, value_name = "fail|overwrite", hide_possible_values = true)]
    pub(crate) on_conflict: Option<OnConflictArg>,
    /// When exclusive creation (O_EXCL) claims its name at the store: at-open, by an empty object, or at-close, which spares a
    /// request and tells the second of two only then. [default: at-open]
    #[arg(long, value_enum, value_name = "at-open|at-close", hide_possible_values = true)]
    pub(crate) excl: Option<ExclArg>,
    /// Remove files at the store a moment after they are gone here, a thousand by one request. Failures are logged, and the file is there
    /// again; what somebody else writes under the name in that moment is removed too. fsync of a directory waits for it, as do rmdir and
    /// unmounting.
    #[arg(long)]
    pub(crate) delete_behind: bool,
    /// When closing a file returns: off, when the store has it; async, when the --cache directory has it durably, and it is sent in the background, also
    /// by the next mount if this one is killed. fsync waits for the store in any case. sluicefs status shows what is not sent yet.
    /// [default: off]
    #[arg(
        long,
        value_enum,
        value_name = "off|async",
        hide_possible_values = true,
        requires_if("async", "cache")
    )]
    pub(crate) write_back: Option<WriteBackArg>,
    /// Refuse to rename directories with more objects than this below them: each is copied by a request. [default: 100000]
    #[arg(long, value_name = "N")]
    pub(crate) max_renamed_objects: Option<u64>,
}

impl WritingArgs {
    /// The first of these options that was given.
    pub(crate) fn first_given(&self) -> Option<&'static str> {
        let given = [
            (self.write_part_size.is_some(), "--write-part-size"),
            (self.upload_checksums.is_some(), "--upload-checksums"),
            (self.no_content_type, "--no-content-type"),
            (self.storage_class.is_some(), "--storage-class"),
            (self.sse.is_some(), "--sse"),
            (self.acl.is_some(), "--acl"),
            (!self.tags.is_empty(), "--tag"),
            (self.on_conflict.is_some(), "--on-conflict"),
            (self.excl.is_some(), "--excl"),
            (self.delete_behind, "--delete-behind"),
            (self.write_back.is_some(), "--write-back"),
            (self.max_renamed_objects.is_some(), "--max-renamed-objects"),
        ];
        given.into_iter().find_map(|(is_given, option)| is_given.then_some(option))
    }
}

/// `--upload-checksums`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChecksumArg {
    /// CRC-64/NVME, of whole objects.
    Crc64nvme,
    /// CRC-32C, of the parts alone where there are parts.
    Crc32c,
    /// None.
    Off,
}

/// `--sse`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SseArg {
    /// With keys of S3.
    #[value(name = "AES256")]
    Aes256,
    /// With a key of KMS.
    #[value(name = "aws:kms")]
    Kms,
    /// Twice, with a key of KMS.
    #[value(name = "aws:kms:dsse")]
    KmsTwice,
}

/// `--on-conflict`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnConflictArg {
    /// What the other wrote stays.
    Fail,
    /// What the other wrote is replaced.
    Overwrite,
}

/// `--write-back`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WriteBackArg {
    /// The store has what was closed.
    Off,
    /// This machine has it, and the store will.
    Async,
}

/// `--excl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExclArg {
    /// By an empty object, at once.
    AtOpen,
    /// With the file's bytes.
    AtClose,
}
