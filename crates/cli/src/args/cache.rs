//! The options of `sluicefs cache`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

/// What to do with a cache.
#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    pub(crate) command: CacheCommand,
}

/// What to do with a cache.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Lists the objects that it has something of, those used longest ago first: when they were used, what they take of the disk, and what they are.
    List(CacheDirArgs),
    /// Reads all that it has and holds it against its checksums. What is damaged is taken out; it will come from the store again.
    Verify(CacheDirArgs),
    /// Removes all that no mount has open.
    Clear(CacheDirArgs),
    /// Prints how many objects it has something of, and what they take of the disk.
    Size(CacheDirArgs),
}

/// Which cache.
#[derive(Debug, Args)]
pub(crate) struct CacheDirArgs {
    /// The directory that was given to mount as --cache.
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,
    /// Print JSON: for list one object per line, else one in all.
    #[arg(long)]
    pub(crate) json: bool,
}
