//! The command line of Mountpoint for Amazon S3, for scripts and fstab lines that call `mount-s3`.
//!
//! Under that name this binary takes that whole line with that program's defaults: names are asked for each time, deleting and overwriting are
//! refused unless allowed, and content types are inferred when asked for. Options whose promise would be broken are refused with the reason.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{Args, Parser};

use crate::args::{MountArgs, SymlinksArg, TtlArg};
use crate::failure::{EXIT_CODES_HELP, Failure};

/// Which program was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Personality {
    /// `sluicefs`, with subcommands.
    Sluicefs,
    /// `mount.sluicefs`: mount(8) calls this for fstab lines of type `sluicefs`.
    MountHelper,
    /// `mount-s3`, or `mount.mount-s3` from fstab.
    MountS3,
}

impl Personality {
    /// By the name the binary was started under, `argv[0]`.
    pub(crate) fn of(program: Option<&OsStr>) -> Self {
        match program.and_then(|program| Path::new(program).file_name()).and_then(OsStr::to_str) {
            Some("mount-s3" | "mount.mount-s3") => Self::MountS3,
            Some("mount.sluicefs") => Self::MountHelper,
            _ => Self::Sluicefs,
        }
    }

    /// How long names are believed unless `--metadata-ttl` says it.
    pub(crate) fn default_ttl(self) -> TtlArg {
        match self {
            Self::Sluicefs | Self::MountHelper => TtlArg::Seconds(1),
            Self::MountS3 => TtlArg::Minimal,
        }
    }

    /// The environment variables with the log filter, the first that is set counts.
    pub(crate) fn log_variables(self) -> &'static [&'static str] {
        match self {
            Self::Sluicefs | Self::MountHelper => &["SLUICEFS_LOG"],
            Self::MountS3 => &["SLUICEFS_LOG", "MOUNTPOINT_LOG"],
        }
    }
}

/// Mounts an S3 bucket on a directory. This is sluicefs, taking the command line of mount-s3.
#[derive(Debug, Parser)]
#[command(name = "mount-s3", version, max_term_width = 100, after_help = EXIT_CODES_HELP)]
pub(crate) struct CompatCli {
    #[command(flatten)]
    pub(crate) mount: MountArgs,
    #[command(flatten)]
    allowed: AllowedArgs,
    #[command(flatten)]
    ignored: IgnoredArgs,
    #[command(flatten)]
    refused: RefusedArgs,
}

/// What that program does only when told to.
#[derive(Debug, Args)]
#[command(next_help_heading = "What is done when told to")]
struct AllowedArgs {
    /// Let files and directories be removed.
    #[arg(long)]
    allow_delete: bool,
    /// Let objects that exist be replaced and changed.
    #[arg(long)]
    allow_overwrite: bool,
    /// Give what is written the Content-Type of its name's extension.
    #[arg(long, conflicts_with = "no_content_type")]
    infer_content_type: bool,
}

/// Options without effect here.
#[derive(Debug, Args)]
#[command(next_help_heading = "Taken without effect")]
struct IgnoredArgs {
    /// Appending and partial changes work in every bucket, when the file is closed or synced.
    #[arg(long)]
    incremental_upload: bool,
    /// The number of connections follows the load.
    #[arg(long, value_name = "GBPS")]
    maximum_throughput_gbps: Option<f64>,
    /// The number of threads follows the machine.
    #[arg(long, value_name = "N")]
    max_threads: Option<u64>,
    /// There is no CRT here; see --debug.
    #[arg(long)]
    debug_crt: bool,
    /// There are no metrics in the log yet.
    #[arg(long)]
    log_metrics: bool,
}

/// Options that would be promises broken.
#[derive(Debug, Args)]
#[command(next_help_heading = "Refused: not in this version")]
struct RefusedArgs {
    /// A shared cache in an S3 Express bucket.
    #[arg(long, value_name = "BUCKET")]
    cache_xz: Option<String>,
    /// The network interfaces to use.
    #[arg(long, value_name = "INTERFACE")]
    bind: Vec<String>,
    /// Metrics through OpenTelemetry.
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// How often metrics are sent.
    #[arg(long, value_name = "SECONDS")]
    otlp_export_interval: Option<u64>,
}

impl CompatCli {
    /// The mount that is asked for, and notes on options that have no effect.
    ///
    /// # Errors
    /// If an option is refused.
    pub(crate) fn into_mount(mut self) -> Result<(MountArgs, Vec<String>), Failure> {
        self.refused.check()?;
        self.mount.files.no_delete |= !self.allowed.allow_delete;
        self.mount.files.no_overwrite |= !self.allowed.allow_overwrite;
        // That program shows the objects as they are.
        self.mount.files.allow_symlinks.get_or_insert(SymlinksArg::None);
        self.mount.writing.no_content_type |= !self.allowed.infer_content_type;
        let mut ignored = self.ignored.given();
        if std::mem::take(&mut self.mount.process.auto_unmount) {
            ignored.push("--auto-unmount");
        }
        let mut notes = Vec::new();
        if !ignored.is_empty() {
            notes.push(format!("no effect in this version: {}", ignored.join(", ")));
        }
        Ok((self.mount, notes))
    }
}

impl IgnoredArgs {
    fn given(&self) -> Vec<&'static str> {
        let options = [
            ("--incremental-upload", self.incremental_upload),
            ("--maximum-throughput-gbps", self.maximum_throughput_gbps.is_some()),
            ("--max-threads", self.max_threads.is_some()),
            ("--debug-crt", self.debug_crt),
            ("--log-metrics", self.log_metrics),
        ];
        options.into_iter().filter_map(|(name, given)| given.then_some(name)).collect()
    }
}

impl RefusedArgs {
    fn check(&self) -> Result<(), Failure> {
        let options = [
            ("--cache-xz", self.cache_xz.is_some(), "there is no shared cache; leave it out"),
            ("--bind", !self.bind.is_empty(), "network interfaces cannot be chosen; use the routing table"),
            (
                "--otlp-endpoint",
                self.otlp_endpoint.is_some(),
                "there are no OpenTelemetry metrics yet; leave it out",
            ),
            (
                "--otlp-export-interval",
                self.otlp_export_interval.is_some(),
                "there are no OpenTelemetry metrics yet; leave it out",
            ),
        ];
        match options.into_iter().find(|(_, given, _)| *given) {
            Some((name, _, reason)) => {
                Err(Failure::usage(format!("{name} is not in this version: {reason}")))
            }
            None => Ok(()),
        }
    }
}

/// Replaces `-o OPTIONS`, as mount(8) passes the fourth field of an fstab line, by the long options it stands for.
///
/// # Errors
/// If an `-o` has no value or one that is not UTF-8.
pub(crate) fn expand_fstab_options(args: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    let mut out = Vec::with_capacity(args.len());
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            out.push(arg);
            out.extend(args);
            break;
        }
        let value = match arg.to_str().and_then(|arg| arg.strip_prefix("-o")) {
            Some("") => {
                args.next().ok_or_else(|| Failure::usage("-o needs a value, as in -o ro,region=eu-west-1"))?
            }
            Some(value) => value.into(),
            None => {
                out.push(arg);
                continue;
            }
        };
        let value = value.to_str().ok_or_else(|| Failure::usage("the value of -o is not UTF-8"))?;
        out.extend(
            split_unescaped(value).into_iter().filter_map(|option| fstab_option(&option)).map(OsString::from),
        );
    }
    Ok(out)
}

/// What mount(8) and systemd mean for themselves, and what is so anyway.
const FSTAB_WORDS: [&str; 15] = [
    "", "defaults", "auto", "noauto", "user", "nouser", "users", "_netdev", "nofail", "rw", "nodev",
    "nosuid", "noatime", "relatime", "async",
];

fn fstab_option(option: &str) -> Option<String> {
    if FSTAB_WORDS.contains(&option) || option.starts_with("x-") {
        return None;
    }
    Some(match option {
        "ro" => "--read-only".to_owned(),
        // libfuse's spelling, which other S3 file systems take.
        "allow_other" => "--allow-other".to_owned(),
        "allow_root" => "--allow-root".to_owned(),
        _ => format!("--{option}"),
    })
}

/// Splits at commas; a backslash makes the next character an ordinary one.
fn split_unescaped(value: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        let last = parts.last_mut().expect("begins with one part");
        match c {
            ',' => parts.push(String::new()),
            '\\' => last.extend(chars.next()),
            _ => last.push(c),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::{ChecksumArg, SseArg};

    #[test]
    fn the_definition_is_sound() {
        CompatCli::command().debug_assert();
    }

    #[test]
    fn personality_is_in_the_name() {
        for (program, expected) in [
            (Some("/usr/bin/mount-s3"), Personality::MountS3),
            (Some("mount-s3"), Personality::MountS3),
            (Some("/sbin/mount.mount-s3"), Personality::MountS3),
            (Some("/sbin/mount.sluicefs"), Personality::MountHelper),
            (Some("/usr/bin/sluicefs"), Personality::Sluicefs),
            (Some("mount-s3.bak"), Personality::Sluicefs),
            (None, Personality::Sluicefs),
        ] {
            assert_eq!(Personality::of(program.map(OsStr::new)), expected, "{program:?}");
        }
    }

    /// Every option of mount-s3 1.22, given once: none is an unknown one.
    #[test]
    fn takes_the_whole_line_of_mount_s3() {
        let line = "mount-s3 --prefix p/ --region us-west-2 --endpoint-url https://s3.example.com --force-path-style \
            --transfer-acceleration --dual-stack --requester-pays --bucket-type directory --storage-class GLACIER_IR \
            --expected-bucket-owner 123456789012 --sse aws:kms --sse-kms-key-id arn:aws:kms:k --upload-checksums crc32c --infer-content-type \
            --profile p --read-only --allow-delete --allow-overwrite --incremental-upload --auto-unmount --allow-other \
            --uid 1 --gid 1 --dir-mode 0755 --file-mode 0644 --maximum-throughput-gbps 25 --max-threads 16 --memory-target 512 \
            --part-size 8388608 --read-part-size 8388608 --write-part-size 8388608 --ca-bundle /ca.pem -f -l /log -d --debug-crt \
            --log-metrics --user-agent-prefix ua --metadata-ttl minimal --negative-metadata-ttl 5 bucket /mnt";
        let (mount, notes) =
            CompatCli::try_parse_from(line.split_whitespace()).unwrap().into_mount().unwrap();
        assert_eq!((mount.bucket.as_str(), mount.dir.as_path()), ("bucket", Path::new("/mnt")));
        assert!(notes[0].contains("--log-metrics") && notes[0].contains("--auto-unmount"), "{notes:?}");
        assert!(!mount.files.no_delete && !mount.files.no_overwrite);
        let writing = &mount.writing;
        assert_eq!((writing.sse, writing.upload_checksums), (Some(SseArg::Kms), Some(ChecksumArg::Crc32c)));
        assert_eq!((writing.storage_class.as_deref(), writing.no_content_type), (Some("GLACIER_IR"), false));
        assert!(!notes[0].contains("--sse") && !notes[0].contains("--write-part-size"), "{notes:?}");
        assert!(!mount.process.auto_unmount);
    }

    #[test]
    fn promises_that_would_be_broken_are_refused() {
        for option in ["--cache-xz=b", "--bind=eth0", "--otlp-endpoint=u", "--otlp-export-interval=1"] {
            let refused =
                CompatCli::try_parse_from(["mount-s3", option, "b", "/d"]).unwrap().into_mount().unwrap_err();
            assert!(refused.message.starts_with(option.split_once('=').unwrap().0), "{refused}");
        }
    }

    #[test]
    fn fstab_options_become_long_options() {
        let check = |line: &str, expected: &str| {
            let args = expand_fstab_options(line.split(' ').map(OsString::from).collect()).unwrap();
            assert_eq!(args, expected.split(' ').map(OsString::from).collect::<Vec<_>>(), "{line}");
        };
        check(
            "mount-s3 s3://b/p/ /mnt -o ro,_netdev,nofail,region=eu-west-1,allow-other,x-systemd.automount",
            "mount-s3 s3://b/p/ /mnt --read-only --region=eu-west-1 --allow-other",
        );
        check("mount-s3 b /mnt -oallow_other,rw", "mount-s3 b /mnt --allow-other");
        check(
            "mount-s3 b /mnt -o user-agent-prefix=a\\,b\\\\c",
            "mount-s3 b /mnt --user-agent-prefix=a,b\\c",
        );
        check("mount-s3 b -- -o", "mount-s3 b -- -o");
        assert!(expand_fstab_options(vec!["mount-s3".into(), "-o".into()]).is_err());
    }
}
