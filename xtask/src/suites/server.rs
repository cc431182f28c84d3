//! The S3 server that is mounted: one of those that nobody here wrote, or one that runs already.

use std::fs;
use std::io::{BufRead, BufReader, PipeReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::tools;

pub(super) const BUCKET: &str = "suites";
/// moto takes any; s3s-fs is told these.
const KEYS: [&str; 2] = ["AKIAIOSFODNN7EXAMPLE", "not-a-secret"];

/// A server, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    /// What to mount.
    pub(super) bucket: String,
    /// Flags that lead to it.
    pub(super) flags: Vec<String>,
    /// Keys to show it.
    pub(super) environment: Vec<(&'static str, &'static str)>,
    process: Option<Process>,
}

/// Ends with its guard, and its directory with it.
#[derive(Debug)]
struct Process {
    child: Child,
    directory: Option<PathBuf>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(directory) = &self.directory
            && let Err(error) = fs::remove_dir_all(directory)
        {
            eprintln!("removing {}: {error}", directory.display());
        }
    }
}

impl Server {
    /// Starts what `against` names, with the bucket `bucket` in it.
    ///
    /// # Errors
    /// The server is unknown, cannot be started, or ended before it listened.
    pub(super) fn start(against: &str, bucket: &str, root: &Path, target: &Path) -> Result<Self> {
        match against {
            "moto" => {
                let tools = tools::prepare(root, target)?;
                let mut command = Command::new(tools.moto_server);
                command.args(["--host", "127.0.0.1", "--port", "0"]);
                let (process, url) = Process::start(command, None)?;
                create_bucket(&url, bucket)?;
                Ok(Self::at(&url, bucket, true, Some(process)))
            }
            "s3s-fs" => {
                let tools = tools::prepare(root, target)?;
                let directory = std::env::temp_dir().join(format!("suites-s3s-fs-{}", std::process::id()));
                fs::create_dir_all(directory.join(bucket)).context("making the bucket's directory")?;
                let mut command = Command::new(tools.s3s_fs);
                command.args(["--host", "127.0.0.1", "--port", "0"]).env("RUST_LOG", "s3s_fs=info");
                command.args(["--access-key", KEYS[0], "--secret-key", KEYS[1]]).arg(&directory);
                let (process, url) = Process::start(command, Some(directory))?;
                Ok(Self::at(&url, bucket, true, Some(process)))
            }
            url if url.starts_with("http://") || url.starts_with("https://") => {
                Ok(Self::at(url, bucket, false, None))
            }
            other => bail!("{other:?} is no server: give \"moto\", \"s3s-fs\", or a URL"),
        }
    }

    fn at(url: &str, bucket: &str, is_ours: bool, process: Option<Process>) -> Self {
        let keys =
            [("AWS_ACCESS_KEY_ID", KEYS[0]), ("AWS_SECRET_ACCESS_KEY", KEYS[1]), ("AWS_REGION", "us-east-1")];
        Self {
            bucket: bucket.to_owned(),
            flags: ["--endpoint-url", url, "--force-path-style"].map(str::to_owned).to_vec(),
            environment: if is_ours { keys.to_vec() } else { Vec::new() },
            process,
        }
    }

    /// Whether the server still runs, if it is one of ours.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.process.as_mut().map(|process| process.child.try_wait()) {
            Some(Ok(Some(status))) => bail!("the server ended: {status}"),
            _ => Ok(()),
        }
    }
}

impl Process {
    /// Blocks until it has said where it listens.
    fn start(mut command: Command, directory: Option<PathBuf>) -> Result<(Self, String)> {
        let (output, writer) = std::io::pipe().context("making a pipe")?;
        command.stdin(Stdio::null()).stdout(writer.try_clone().context("making a pipe")?).stderr(writer);
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        let process = Self { child, directory };
        // The command holds ends of the pipe, and would keep it open after the server's death.
        drop(command);
        let url = announced_url(output)?;
        Ok((process, url))
    }
}

/// Reads on until the server says where it listens. What it says later is read and dropped, so that it never waits for a reader.
fn announced_url(output: PipeReader) -> Result<String> {
    let mut lines = BufReader::new(output).lines();
    let mut said = Vec::new();
    for line in lines.by_ref() {
        let line = line.context("reading what the server says")?;
        if let Some(at) = line.find("http://127.0.0.1:") {
            std::thread::spawn(move || lines.for_each(drop));
            let url = line[at..].split(|c: char| !(c.is_ascii_alphanumeric() || ":/.".contains(c))).next();
            return Ok(url.unwrap_or_default().to_owned());
        }
        said.push(line);
    }
    bail!("the server ended before it listened; it said:\n{}", said.join("\n"))
}

/// `PUT /bucket`, to a server that checks no signatures.
fn create_bucket(url: &str, bucket: &str) -> Result<()> {
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(host).with_context(|| format!("connecting to {host}"))?;
    let request = format!(
        "PUT /{bucket} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential={}/20000101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0\r\n\r\n",
        KEYS[0]
    );
    let mut reply = String::new();
    stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.read_to_string(&mut reply))
        .context("making the bucket")?;
    let status = reply.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") { Ok(()) } else { bail!("making the bucket: {status}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_server_is_refused() {
        let here = Path::new(".");
        let error = Server::start("nonsense", BUCKET, here, here).expect_err("no server");
        assert!(error.to_string().contains("nonsense"), "{error}");
        let known = Server::start("http://127.0.0.1:9", BUCKET, here, here).expect("nothing is started");
        assert_eq!(known.flags, ["--endpoint-url", "http://127.0.0.1:9", "--force-path-style"]);
        assert!(known.environment.is_empty(), "its credentials are the caller's");
    }
}
