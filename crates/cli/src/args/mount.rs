//! The options of a mount. Names and meanings are those of Mountpoint's `mount-s3` wherever the meaning is the same.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};

use super::WritingArgs;
use super::values::{TtlArg, mebibytes, mebibytes_or_none, mode, prefix, seconds};

/// Mounts a bucket, or a part of it, on a directory.
#[derive(Debug, Clone, Args)]
pub(crate) struct MountArgs {
    /// What to mount: a bucket's name, s3://bucket/prefix/, the ARN or alias of an access point, file:///dir for a local
    /// directory, or memory: for an empty bucket in memory.
    #[arg(value_name = "BUCKET")]
    pub(crate) bucket: String,
    /// The directory to mount on. It must exist.
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,
    /// Mount only the keys that begin with this, as if it were the bucket's root. Ends in "/". [default: the whole bucket]
    #[arg(long, value_parser = prefix, help_heading = "Bucket and credentials")]
    pub(crate) prefix: Option<String>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) files: FileArgs,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    #[command(flatten)]
    pub(crate) writing: WritingArgs,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
    #[command(flatten)]
    pub(crate) logs: LogArgs,
}

/// Which bucket, where, and as whom.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Bucket and credentials")]
pub(crate) struct StoreArgs {
    /// The bucket's region. Without it AWS_REGION, the profile and EC2 instance metadata are asked; a wrong guess is corrected by
    /// the server.
    #[arg(long)]
    pub(crate) region: Option<String>,
    /// The URL of an S3-compatible service, such as https://minio.example.com:9000. AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL are read
    /// too. [default: Amazon S3]
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub(crate) endpoint_url: Option<String>,
    /// Put the bucket's name into the path of URLs, not into the host name. This is the default at an --endpoint-url.
    #[arg(long)]
    pub(crate) force_path_style: bool,
    /// Use the bucket's transfer-acceleration endpoint.
    #[arg(long)]
    pub(crate) transfer_acceleration: bool,
    /// Use an endpoint that has IPv6 and IPv4 addresses.
    #[arg(long)]
    pub(crate) dual_stack: bool,
    /// Agree to pay for the requests, as requester-pays buckets demand.
    #[arg(long)]
    pub(crate) requester_pays: bool,
    /// The kind of bucket, where its name does not tell (S3 Express names end in --x-s3).
    #[arg(long, value_enum)]
    pub(crate) bucket_type: Option<BucketTypeArg>,
    /// The 12-digit account that must own the bucket; anybody else's is refused.
    #[arg(long, value_name = "ACCOUNT")]
    pub(crate) expected_bucket_owner: Option<String>,
    /// Send no credentials: for public buckets.
    #[arg(long, conflicts_with = "profile")]
    pub(crate) no_sign_request: bool,
    /// The profile of ~/.aws/config and ~/.aws/credentials to use. [default: AWS_PROFILE, else the whole chain of sources]
    #[arg(long)]
    pub(crate) profile: Option<String>,
    /// A PEM file of certificates to trust besides the system's. AWS_CA_BUNDLE is read too.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) ca_bundle: Option<PathBuf>,
    /// A file with the key that the objects are encrypted with (SSE-C): 32 bytes, or those in base64.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) sse_c_key_file: Option<PathBuf>,
    /// Begin the User-Agent header of every request with this, to find it in access logs.
    #[arg(long, value_name = "TEXT")]
    pub(crate) user_agent_prefix: Option<String>,
    /// Give up on a request, retries included, after this many seconds; who reads a mount then gets an input/output error.
    /// [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) op_timeout: Option<Duration>,
}

/// `--bucket-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BucketTypeArg {
    /// An ordinary bucket.
    GeneralPurpose,
    /// S3 Express One Zone.
    Directory,
}

/// Who may see the files, and as whose.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Files and access")]
pub(crate) struct FileArgs {
    /// Refuse all changes.
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Refuse to remove files and directories, and to move them.
    #[arg(long)]
    pub(crate) no_delete: bool,
    /// Refuse to change or replace objects that exist: only new files can be written.
    #[arg(long)]
    pub(crate) no_overwrite: bool,
    /// Let root use the mount too. Needs user_allow_other in /etc/fuse.conf unless you are root.
    #[arg(long, conflicts_with = "allow_other")]
    pub(crate) allow_root: bool,
    /// Let all users use the mount, as far as the permission bits allow. Needs user_allow_other in /etc/fuse.conf unless you are
    /// root.
    #[arg(long)]
    pub(crate) allow_other: bool,
    /// The owner of all files and directories, of new ones too. [default: you; of new ones, whoever makes them]
    #[arg(long)]
    pub(crate) uid: Option<u32>,
    /// The group of all files and directories, of new ones too. [default: yours; of new ones, that of whoever makes them]
    #[arg(long)]
    pub(crate) gid: Option<u32>,
    /// The permission bits of directories, in octal.
    #[arg(long, value_name = "MODE", value_parser = mode, default_value = "0755")]
    pub(crate) dir_mode: u16,
    /// The permission bits of files, in octal.
    #[arg(long, value_name = "MODE", value_parser = mode, default_value = "0644")]
    pub(crate) file_mode: u16,
    /// Which symbolic links there are: inside, those with a relative target that stays below the mount point; any; or none. A link
    /// called NAME is the object NAME.rclonelink, as rclone keeps it; with none, that object is a file. [default: inside; as mount-s3:
    /// none]
    #[arg(long, value_enum, value_name = "inside|any|none", hide_possible_values = true)]
    pub(crate) allow_symlinks: Option<SymlinksArg>,
    /// In whose words mode, owner, times, extended attributes and kinds of files are kept in the metadata of objects: s3fs, or rclone.
    /// Each name that is looked at then costs a request. [default: none, they last as long as the mount]
    #[arg(long, value_enum, value_name = "none|s3fs|rclone", hide_possible_values = true)]
    pub(crate) attributes: Option<AttributesArg>,
    /// Show what S3 knows of an object as extended attributes: user.s3.etag, user.s3.storage_class and more. Off by default, since
    /// ls -l then asks twice more for each file.
    #[arg(long)]
    pub(crate) xattr: bool,
}

/// `--allow-symlinks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SymlinksArg {
    /// Those that stay inside the mount.
    Inside,
    /// All.
    Any,
    /// None.
    None,
}

/// `--attributes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AttributesArg {
    /// They are not kept.
    None,
    /// As s3fs does.
    S3fs,
    /// As rclone does.
    Rclone,
}

/// What is kept, and how far reading runs ahead.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Caching and memory")]
pub(crate) struct ReadingArgs {
    /// What the mount is for: model, files that are loaded as they are and do not change under a reader; dataset, files that are read again
    /// and again, and new ones now and then; checkpoint, large files written in one go; or general. It chooses what is not given, by the table
    /// at the end of sluicefs mount --help; sluicefs status shows what was chosen, and why. [default: general]
    #[arg(long, value_enum, value_name = "model|dataset|checkpoint|general", hide_possible_values = true)]
    pub(crate) preset: Option<PresetArg>,
    /// How long names, sizes and listings are believed: a number of seconds, "indefinite" for data that never changes, or "minimal"
    /// to ask each time. [default: 1; as mount-s3: minimal]
    #[arg(long, value_name = "SECONDS|indefinite|minimal")]
    pub(crate) metadata_ttl: Option<TtlArg>,
    /// How long the absence of a name is believed. [default: as --metadata-ttl]
    #[arg(long, value_name = "SECONDS|indefinite|minimal")]
    pub(crate) negative_metadata_ttl: Option<TtlArg>,
    /// Which version of an object its name stands for: the newest, or with pinned the one that this mount saw first. What was changed or removed
    /// since is ESTALE then, until sluicefs refresh takes the new versions. Needs a mount that changes nothing. [default: newest]
    #[arg(long, value_enum, value_name = "newest|pinned", hide_possible_values = true)]
    pub(crate) versions: Option<VersionsArg>,
    /// The memory for read buffers, cached blocks and written bytes, in MiB. [default: an eighth of the RAM or of the container's limit,
    /// from 128 to 1024]
    #[arg(long, value_name = "MIB", value_parser = mebibytes)]
    pub(crate) memory_target: Option<u64>,
    /// A directory of your own on a local disk. What was read is kept there, also for the next mount and for others that name the same
    /// directory, and so are written bytes that memory cannot hold until the store has them. Without one, a file that is written
    /// out of order must fit into memory.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) cache: Option<PathBuf>,
    /// The most that what was read takes in the --cache directory, in MiB; then what was used longest ago goes; 0 keeps nothing. [default: all but a
    /// twentieth of the disk, or 4 GiB of it]
    #[arg(long, value_name = "MIB", requires = "cache", value_parser = mebibytes_or_none)]
    pub(crate) max_cache_size: Option<u64>,
    /// Bring objects into the cache when it is mounted, in the background: those whose key below the mount point matches the pattern, such as
    /// *.safetensors, or llama/**. May be given more than once. Needs --cache. sluicefs status shows how far it is.
    #[arg(long, value_name = "GLOB", requires = "cache")]
    pub(crate) warm: Vec<String>,
    /// Return, or tell systemd, only when that has ended. If it fails, the mount works all the same; a note, the log and the status say so.
    #[arg(long, requires = "warm")]
    pub(crate) warm_wait: bool,
    /// The most that written bytes take in the --cache directory, in bytes. [default: all but a twentieth of the disk, or 4 GiB of it]
    #[arg(long, value_name = "BYTES", requires = "cache")]
    pub(crate) stage_size: Option<u64>,
    /// Check every block of the --cache directory at each read. Without this, root's mounts that overwrite nothing let the kernel read objects that are whole there, and
    /// were checked once, by itself: as fast as local files.
    #[arg(long, requires = "cache")]
    pub(crate) no_passthrough: bool,
    /// The largest single GET, in bytes. [default: 8388608]
    #[arg(long, value_name = "BYTES")]
    pub(crate) read_part_size: Option<u64>,
    /// The same as --read-part-size and --write-part-size, which win where they are given.
    #[arg(long, value_name = "BYTES")]
    pub(crate) part_size: Option<u64>,
    /// How far the kernel itself reads ahead, in KiB. Setting it needs root. [default: chosen for the mount]
    #[arg(long, value_name = "KIB")]
    pub(crate) read_ahead_kb: Option<u32>,
}

/// `--preset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PresetArg {
    /// What nothing is known of.
    General,
    /// Weights.
    Model,
    /// Training data.
    Dataset,
    /// What training saves.
    Checkpoint,
}

/// `--versions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum VersionsArg {
    /// The newest.
    Newest,
    /// The one that was seen first.
    Pinned,
}

/// How the process runs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Process")]
pub(crate) struct ProcessArgs {
    /// Stay in the foreground; SIGINT (Ctrl-C) and SIGTERM unmount. Without it the command returns when the mount answers.
    #[arg(short, long)]
    pub(crate) foreground: bool,
    /// Where a mount keeps what the next one must know if this one is killed: which uploads were under way; and the socket that
    /// sluicefs status asks. A directory that nobody else can write to; it is made if it is not there. [default: /var/lib/sluicefs for root, else $XDG_STATE_HOME/sluicefs or
    /// ~/.local/state/sluicefs]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) state_dir: Option<PathBuf>,
    /// Not supported: the mount point of a killed process stays until it is unmounted, or until the next mount there, which cleans
    /// it.
    #[arg(long, hide = true)]
    pub(crate) auto_unmount: bool,
    /// Tells the process that started us, through standard output, how mounting went.
    #[arg(long, hide = true, requires = "foreground")]
    pub(crate) report_to_parent: bool,
}

/// What is logged, where.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logging")]
pub(crate) struct LogArgs {
    /// Write the log to a new file in this directory. [default: standard error in the foreground, else the system log]
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) log_directory: Option<PathBuf>,
    /// Log nothing.
    #[arg(long, conflicts_with_all = ["log_directory", "debug", "log_json"])]
    pub(crate) no_log: bool,
    /// Log every request too. SLUICEFS_LOG chooses in detail, such as sluicefs_core=trace.
    #[arg(short, long)]
    pub(crate) debug: bool,
    /// Log one JSON object per line.
    #[arg(long)]
    pub(crate) log_json: bool,
}
