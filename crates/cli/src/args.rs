//! The command line of `sluicefs`. Every text of `--help` and of the reference is the comment of its field here.

mod cache;
mod mount;
mod objects;
mod values;
mod warm;
mod writing;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use sluicefs_csi::Endpoint;

use crate::failure::EXIT_CODES_HELP;

pub(crate) use cache::{CacheArgs, CacheCommand, CacheDirArgs};
pub(crate) use mount::{
    AttributesArg, BucketTypeArg, FileArgs, LogArgs, MountArgs, PresetArg, StoreArgs, SymlinksArg,
    VersionsArg,
};
pub(crate) use objects::{RmArgs, UploadsAbortArgs, UploadsArgs, UploadsCommand, UploadsListArgs};
pub(crate) use values::TtlArg;
pub(crate) use warm::{REQUESTS, WarmArgs};
pub(crate) use writing::{ChecksumArg, ExclArg, OnConflictArg, SseArg, WriteBackArg, WritingArgs};

/// Mounts an S3 bucket as a file system.
#[derive(Debug, Parser)]
#[command(name = "sluicefs", version, max_term_width = 100, after_help = EXIT_CODES_HELP)]
#[command(after_long_help = EXIT_CODES_HELP, propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Mounts a bucket, or a part of it, on a directory.
    ///
    /// Returns when the mount answers; the process that serves it goes on in the background until the directory is unmounted.
    /// Credentials and region are found as the AWS command line finds them.
    Mount(Box<MountArgs>),
    /// Unmounts a directory.
    Unmount(UnmountArgs),
    /// Shows what a mount is doing, or all mounts of this user: memory, open files, what is being written, sent and removed, and what was
    /// lost.
    ///
    /// Fails if one is dead or does not answer.
    Status(StatusArgs),
    /// Lets a mount ask the store anew for all that it knows: names, sizes, and with --versions pinned the versions of objects.
    ///
    /// What is opened after that is what the bucket holds now. A file that is open stays of its version: what was not read of it yet may be stale
    /// (ESTALE).
    #[command(after_help = REFRESH_EXAMPLES, after_long_help = REFRESH_EXAMPLES)]
    Refresh(RefreshArgs),
    /// Tells how a file of a mount is read, how that is served, and what would make it faster.
    ///
    /// Asks the mount about what was read lately; what the kernel's page cache gave by itself is not seen. Fails if the file is in no mount of
    /// this user's that answers.
    Explain(ExplainArgs),
    /// Removes an object of a bucket, or everything below a directory, without mounting it. Nothing is asked.
    #[command(after_help = RM_EXAMPLES, after_long_help = RM_EXAMPLES)]
    Rm(Box<RmArgs>),
    /// Lists and aborts uploads in parts that were begun and never ended. They cost storage, and no listing shows them.
    Uploads(UploadsArgs),
    /// Brings objects into the cache on disk before a mount reads them.
    ///
    /// What is there already is not fetched again, so an interrupted warm-up goes on where it was. Mounts may use the cache meanwhile.
    /// Fails if at the end an object is not in the cache as a whole.
    #[command(after_help = WARM_EXAMPLES, after_long_help = WARM_EXAMPLES)]
    Warm(Box<WarmArgs>),
    /// Looks at what mounts keep on a local disk.
    Cache(CacheArgs),
    /// Shows a mount at work on this machine, without an account: starts a small S3 server, mounts it, reads a model back, writes a
    /// file.
    Demo(DemoArgs),
    /// Serves the Container Storage Interface (its identity service) for Kubernetes.
    Csi(CsiArgs),
    /// Prints the completions for a shell.
    #[command(after_help = "Example:\n\n    sluicefs completions bash > /etc/bash_completion.d/sluicefs")]
    Completions(CompletionsArgs),
    /// Prints the reference of the command line as Markdown.
    #[command(hide = true)]
    DocsMarkdown,
}

/// For the help of `mount`, behind the table of presets.
pub(crate) const MOUNT_EXAMPLES: &str = "\
Examples:

    sluicefs mount my-bucket /mnt/models
    sluicefs mount --preset model --cache /var/cache/models s3://my-bucket/llama/ /mnt/llama
    sluicefs mount --region eu-west-1 s3://my-bucket/llama/ /mnt/models
    sluicefs mount --no-sign-request --metadata-ttl indefinite public-bucket /mnt/data
    sluicefs mount --endpoint-url http://127.0.0.1:9000 my-bucket /mnt/models
    sluicefs mount file:///srv/models /mnt/models";

const REFRESH_EXAMPLES: &str = "\
Example:

    sluicefs refresh /mnt/llama";

const RM_EXAMPLES: &str = "\
Examples:

    sluicefs rm s3://my-bucket/checkpoints/step-100.pt
    sluicefs rm -r --dry-run s3://my-bucket/checkpoints/
    sluicefs rm -r s3://my-bucket/checkpoints/";

const WARM_EXAMPLES: &str = "\
Examples:

    sluicefs warm --cache /var/cache/models s3://my-bucket/llama/
    sluicefs warm --cache /var/cache/models --include '*.safetensors' s3://my-bucket/llama/
    sluicefs warm --cache /var/cache/models --check s3://my-bucket/llama/
    sluicefs mount --cache /var/cache/models s3://my-bucket/llama/ /mnt/llama
    sluicefs warm /mnt/llama";

/// What to unmount.
#[derive(Debug, Args)]
pub(crate) struct UnmountArgs {
    /// The directory that something is mounted on.
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,
    /// Unmount even while it is in use: files that are open live until they are closed.
    #[arg(short, long)]
    pub(crate) lazy: bool,
}

/// How a mount is found that is asked something.
#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    /// The state directory of the mount. [default: /var/lib/sluicefs for root, else $XDG_STATE_HOME/sluicefs or
    /// ~/.local/state/sluicefs]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) state_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) logs: LogArgs,
}

/// Whose status.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The directory that the bucket is mounted on. [default: all mounts of yours]
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,
    /// Say nothing, and succeed if the mount is ready: it answers, and what --warm-wait waits for has ended. Else fail with 1, and the reason. For
    /// readiness probes.
    #[arg(long, requires = "dir", conflicts_with = "json")]
    pub(crate) ready: bool,
    /// Print one JSON object per mount.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

/// What to refresh.
#[derive(Debug, Args)]
pub(crate) struct RefreshArgs {
    /// The directory that the bucket is mounted on. With one below it the whole mount is refreshed too, since its files belong together.
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,
    /// Print the outcome as a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

/// Which file.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// A file in a mount.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

/// How to demonstrate.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Leave it mounted until Ctrl-C, to look around.
    #[arg(long)]
    pub(crate) keep: bool,
    /// The size of the model, in MiB.
    #[arg(long, hide = true, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub(crate) size: u64,
    #[command(flatten)]
    pub(crate) logs: LogArgs,
}

/// Where to serve.
#[derive(Debug, Args)]
pub(crate) struct CsiArgs {
    /// The socket to listen on.
    #[arg(long, value_name = "URL", env = "CSI_ENDPOINT", default_value = "unix:///csi/csi.sock")]
    pub(crate) endpoint: Endpoint,
    #[command(flatten)]
    pub(crate) logs: LogArgs,
}

/// Which completions.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    pub(crate) shell: Shell,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_visible_argument_has_a_text() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn takes_the_line_that_mount_s3_takes() {
        let cli =
            Cli::try_parse_from(["sluicefs", "mount", "--region", "us-west-2", "my-bucket", "/opt/model/"]);
        let Ok(Cli { command: Command::Mount(args) }) = cli else { panic!("{cli:?}") };
        assert_eq!((args.store.region.as_deref(), args.bucket.as_str()), (Some("us-west-2"), "my-bucket"));
        assert_eq!(args.dir, PathBuf::from("/opt/model/"));
    }

    #[test]
    fn contradictions_are_refused() {
        for extra in [
            &["--allow-root", "--allow-other"][..],
            &["--no-sign-request", "--profile", "p"],
            &["--no-log", "--debug"],
            &["--prefix", "a"],
            &["--dir-mode", "999"],
            &["--metadata-ttl", "soon"],
            &["--sse-kms-key-id", "k"],
            &["--sse", "rot13"],
            &["--sse", "AES256", "--sse-c-key-file", "k"],
            &["--tag", "no-value"],
            &["--on-conflict", "ask"],
            &["--write-back", "async"],
        ] {
            let line = ["sluicefs", "mount", "b", "/d"].iter().chain(extra);
            assert!(Cli::try_parse_from(line).is_err(), "{extra:?}");
        }
    }
}
