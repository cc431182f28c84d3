//! The options of the commands that work on a bucket without mounting it.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::values::age;
use super::{LogArgs, StoreArgs};

/// What to do with uploads.
#[derive(Debug, Args)]
pub(crate) struct UploadsArgs {
    #[command(subcommand)]
    pub(crate) command: UploadsCommand,
}

/// What to do with uploads.
#[derive(Debug, Subcommand)]
pub(crate) enum UploadsCommand {
    /// Lists uploads in parts that are neither completed nor aborted: when each was begun, its age, its id and its key.
    List(Box<UploadsListArgs>),
    /// Aborts uploads in parts, which gives the storage of their parts back.
    ///
    /// Without --id and --older-than, those that were begun more than a day ago. Who still writes to one that is aborted gets an
    /// error, or sends everything again.
    Abort(Box<UploadsAbortArgs>),
}

/// Which uploads to list.
#[derive(Debug, Args)]
pub(crate) struct UploadsListArgs {
    /// The bucket: its name, or s3://bucket/prefix/ for the uploads below a prefix.
    #[arg(value_name = "BUCKET")]
    pub(crate) bucket: String,
    /// Only uploads begun at least so long ago: 30s, 15m, 12h, 7d, 2w.
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub(crate) older_than: Option<Duration>,
    /// Print one JSON object per upload.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) logs: LogArgs,
}

/// Which uploads to abort.
#[derive(Debug, Args)]
pub(crate) struct UploadsAbortArgs {
    /// The bucket: its name, or s3://bucket/prefix/ for the uploads below a prefix.
    #[arg(value_name = "BUCKET")]
    pub(crate) bucket: String,
    /// Only uploads begun at least so long ago: 30s, 15m, 12h, 7d, 2w. With 0s all, also those that programs write to now.
    /// [default: 1d, unless --id is given]
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub(crate) older_than: Option<Duration>,
    /// Only the upload with this id. May be given more than once.
    #[arg(long = "id", value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// Print one JSON object per upload.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) logs: LogArgs,
}

/// What to remove.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// The object to remove, s3://bucket/key, or with -r the directory, s3://bucket/dir/.
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    /// Remove everything below the directory, and an object of its name.
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Only print what would be removed.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) logs: LogArgs,
}
