//! The options of `sluicefs warm`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::values::mebibytes;
use super::{LogArgs, StoreArgs};

/// The most requests of a warm-up at a time, unless it is told.
pub(crate) const REQUESTS: u16 = 32;

/// What to bring into which cache.
#[derive(Debug, Args)]
pub(crate) struct WarmArgs {
    /// The directory to bring into the cache, s3://bucket/dir/, or one object, s3://bucket/key; or a directory or file on a mount with a cache, a
    /// path that begins with "/" or ".": then the mount does the work, in the versions that it shows.
    #[arg(value_name = "URL|PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) place: String,
    /// The directory that mounts are given as --cache. It is made if it is not there. A mount knows its own.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) cache: Option<PathBuf>,
    /// The most that the cache may take, in MiB; then what was used longest ago goes. [default: all but a twentieth of the disk, or 4 GiB of
    /// it]
    #[arg(long, value_name = "MIB", value_parser = mebibytes)]
    pub(crate) max_cache_size: Option<u64>,
    /// Only objects whose key below the directory matches the pattern, such as *.safetensors or shards/**. May be given more than once.
    #[arg(long, value_name = "GLOB")]
    pub(crate) include: Vec<String>,
    /// Only the objects that this file names, a key below the directory in each line; - is the standard input.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) from_list: Option<PathBuf>,
    /// Fetch nothing: tell whether all of it is in the cache and right, reading every block. Fails if it is not.
    #[arg(long)]
    pub(crate) check: bool,
    /// Fetch nothing: remove it from the cache, but for what mounts have open.
    #[arg(long, conflicts_with = "check")]
    pub(crate) evict: bool,
    /// The most requests at a time.
    #[arg(long, value_name = "NUMBER", default_value_t = REQUESTS, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) concurrency: u16,
    /// Print progress each second, and the outcome, as JSON, one object per line.
    #[arg(long)]
    pub(crate) json: bool,
    /// The state directory of the mount, for a path. [default: /var/lib/sluicefs for root, else $XDG_STATE_HOME/sluicefs or
    /// ~/.local/state/sluicefs]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) state_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) logs: LogArgs,
}
