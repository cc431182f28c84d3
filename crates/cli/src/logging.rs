//! Where log lines go, which ones, and in which form.
//!
//! In the foreground they go to standard error; a mount in the background has none and uses the system log; a directory given for
//! them gets one new file per process. The SDK's own lines below `info` may hold session tokens and are never written.

mod syslog;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};

use crate::args::LogArgs;
use crate::failure::Failure;
use syslog::Syslog;

/// Whether somebody looks at standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// A command in the foreground.
    Terminal,
    /// A command that tells by itself what happens, so that only warnings are worth a line.
    Narrated,
    /// A mount in the background.
    Nobody,
}

/// Where the log of this process goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    Nowhere,
    StandardError,
    SystemLog,
    File(PathBuf),
}

/// Starts to log. Call it once, before the first line.
///
/// # Errors
/// If the directory cannot be written to, or the filter makes no sense.
pub(crate) fn init(
    args: &LogArgs,
    audience: Audience,
    filter: Option<OsString>,
) -> Result<Destination, Failure> {
    let filter = env_filter(args, audience, filter)?;
    let (destination, writer, form) = open(args, audience)?;
    let Some(writer) = writer else { return Ok(Destination::Nowhere) };
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(form == Form::Colour);
    let lines: Box<dyn Layer<_> + Send + Sync> = match form {
        _ if args.log_json => Box::new(lines.with_ansi(false).json().flatten_event(true)),
        // The system log adds the time itself.
        Form::Bare => Box::new(lines.without_time()),
        Form::Plain | Form::Colour => Box::new(lines),
    };
    let lines = lines.with_filter(filter.and(filter_fn(is_free_of_secrets)));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(lines))
        .map_err(|error| Failure::failed(format!("cannot start logging: {error}")))?;
    Ok(destination)
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Colour,
    Bare,
}

fn open(args: &LogArgs, audience: Audience) -> Result<(Destination, Option<BoxMakeWriter>, Form), Failure> {
    if args.no_log {
        return Ok((Destination::Nowhere, None, Form::Plain));
    }
    if let Some(directory) = &args.log_directory {
        let (path, file) = create_file(directory).map_err(|error| {
            let directory = directory.display();
            Failure::failed(format!(
                "cannot write a log into {directory}: {error}; choose another --log-directory"
            ))
        })?;
        return Ok((Destination::File(path), Some(BoxMakeWriter::new(file)), Form::Plain));
    }
    if audience == Audience::Nobody {
        // Without a system log (most containers have none) the lines have nowhere to go; the parent says so.
        return Ok(match Syslog::connect() {
            Ok(syslog) => (Destination::SystemLog, Some(BoxMakeWriter::new(syslog)), Form::Bare),
            Err(_) => (Destination::Nowhere, None, Form::Plain),
        });
    }
    let form = if io::stderr().is_terminal() { Form::Colour } else { Form::Plain };
    Ok((Destination::StandardError, Some(BoxMakeWriter::new(io::stderr)), form))
}

/// A new file, readable by its owner alone, since names of objects can be secrets.
fn create_file(directory: &Path) -> io::Result<(PathBuf, File)> {
    let now = time::UtcDateTime::now();
    let (date, clock) = (now.date(), now.time());
    let name = format!(
        "sluicefs-{:04}{:02}{:02}T{:02}{:02}{:02}Z-{}.log",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second(),
        std::process::id(),
    );
    let path = directory.join(name);
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
    Ok((path, file))
}

fn env_filter(args: &LogArgs, audience: Audience, variable: Option<OsString>) -> Result<EnvFilter, Failure> {
    let Some(text) = variable.filter(|text| !text.is_empty()) else {
        let level = match audience {
            _ if args.debug => LevelFilter::DEBUG,
            Audience::Narrated => LevelFilter::WARN,
            Audience::Terminal | Audience::Nobody => LevelFilter::INFO,
        };
        return Ok(default_filter(level));
    };
    let text = text.to_string_lossy();
    EnvFilter::builder().parse(&text).map_err(|error| {
        Failure::usage(format!(
            "the log filter {text:?} makes no sense ({error}): write it like info,sluicefs_core=debug"
        ))
    })
}

/// Our own lines from `level` on, warnings of everybody else.
fn default_filter(level: LevelFilter) -> EnvFilter {
    let ours = [
        "sluicefs",
        "sluicefs_core",
        "sluicefs_csi",
        "sluicefs_fuse",
        "sluicefs_fuse_mount",
        "sluicefs_s3_client",
    ];
    let directives = ours.map(|target| format!("{target}={level}")).join(",");
    EnvFilter::builder().parse_lossy(format!("warn,{directives}"))
}

/// Below `info`, the SDK and the HTTP stack print requests with their headers: signatures and session tokens.
fn is_free_of_secrets(line: &Metadata<'_>) -> bool {
    *line.level() <= Level::INFO
        || !["aws_", "h2", "hyper", "rustls", "tonic", "tower"].iter().any(|p| line.target().starts_with(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> LogArgs {
        LogArgs { log_directory: None, no_log: false, debug: false, log_json: false }
    }

    #[test]
    fn filter_comes_from_flags_or_the_environment() {
        let show = |debug, variable: Option<&str>| {
            env_filter(&LogArgs { debug, ..args() }, Audience::Terminal, variable.map(OsString::from))
                .map(|f| f.to_string())
        };
        assert!(show(false, None).unwrap().contains("sluicefs_core=info"));
        assert!(show(true, Some("")).unwrap().contains("sluicefs_core=debug"));
        assert_eq!(show(true, Some("sluicefs=trace")).unwrap(), "sluicefs=trace");
        assert!(show(false, Some("sluicefs=loud")).unwrap_err().message.contains("loud"));
    }

    #[test]
    fn each_process_gets_a_file_of_its_own_that_others_cannot_read() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (path, file) = create_file(dir.path()).unwrap();
        assert!(path.to_string_lossy().contains(&std::process::id().to_string()));
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let missing = LogArgs { log_directory: Some(dir.path().join("none")), ..args() };
        let error = open(&missing, Audience::Terminal).map(|(to, _, _)| to).unwrap_err();
        assert!(error.message.contains("--log-directory"), "{error}");
    }
}
