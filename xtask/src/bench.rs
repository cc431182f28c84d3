//! Measures a release build side by side with Mountpoint for Amazon S3, run by run in turn.
//!
//! The measuring itself is a driver outside the repository: a folder with `peers.py`, which mounts a peer against an S3 emulator, runs
//! a workload and prints a JSON line, and with `setup.sh`, which prints where the peers' programs are. What is added here is the order
//! (whoever goes first changes each time, so that a machine that slows down slows both) and the comparison.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::command::{Run, cargo};
use crate::workspace;

const OURS: &str = "sluicefs";
const THEIRS: &str = "mountpoint";

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// The folder with the driver `peers.py` and its `setup.sh`.
    #[arg(long, env = "SLUICEFS_BENCH_DRIVER")]
    driver: Option<PathBuf>,
    /// How often each side runs each workload.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Networks to emulate.
    #[arg(long, value_delimiter = ',', default_value = "raw,s3like")]
    net: Vec<String>,
    /// What to run; the driver's help lists all workloads.
    #[arg(long, value_delimiter = ',', default_value = READING)]
    workload: Vec<String>,
    /// More flags for our mount, such as `--metadata-ttl 60`.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    flags: String,
}

/// Every workload that only reads.
const READING: &str = "seq1,seq2,ttfb,rand4k,rand128k,rand128k_t16,mmap_seq,mmap_shuffled,small_serial,small_t16,ls_l_10k,ls_l_100k,find_10k";

impl Bench {
    /// Builds, measures, and prints a table in Markdown.
    ///
    /// # Errors
    /// There is no driver, or the build or a measurement fails.
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        let Some(dir) = self.driver.as_deref().filter(|dir| dir.join("peers.py").is_file()) else {
            bail!("give the folder that has the driver peers.py with --driver, or in SLUICEFS_BENCH_DRIVER");
        };
        cargo(root).args(["build", "--release", "--package", "sluicefs"]).run()?;
        let bin = match std::env::var("PEERS_BIN") {
            Ok(bin) => bin,
            Err(_) => Run::new(dir.join("setup.sh")).output()?.trim().to_owned(),
        };
        let driver = Driver { script: dir.join("peers.py"), bin, mount: self.mount(root)? };
        println!("| net | workload | {OURS} | {THEIRS} | ratio | CPU ratio | peak MB | requests |");
        println!("|---|---|---|---|---|---|---|---|");
        for net in &self.net {
            for workload in &self.workload {
                // The first touch of the machine's memory is slow, and nobody's fault.
                driver.measure(OURS, net, workload)?;
                let mut results = [Vec::new(), Vec::new()];
                for run in 0..self.runs {
                    for turn in [run % 2, 1 - run % 2] {
                        results[turn].push(driver.measure([OURS, THEIRS][turn], net, workload)?);
                    }
                }
                let [ours, theirs] = results.map(|runs| Figures::median(&runs));
                println!("{}", row(net, workload, &ours, &theirs));
            }
        }
        Ok(())
    }

    fn mount(&self, root: &Path) -> Result<String> {
        let program = workspace::target_dir(root)?.join("release/sluicefs");
        let program = program.to_str().context("the build folder's name is UTF-8")?.to_owned();
        Ok(format!(
            "{program} mount --foreground --endpoint-url {{endpoint}} --force-path-style --region us-east-1 {} {{bucket}} {{mnt}}",
            self.flags
        ))
    }
}

struct Driver {
    script: PathBuf,
    bin: String,
    mount: String,
}

impl Driver {
    /// One run of one peer.
    fn measure(&self, peer: &str, net: &str, workload: &str) -> Result<Figures> {
        let ours = format!("{OURS}={}", self.mount);
        let peer = if peer == OURS { ["--cmd", &ours] } else { ["--peer", peer] };
        let run = Run::new("python3").args([&self.script]).args(peer).env("PEERS_BIN", &self.bin);
        let line = run.args(["--net", net, "--workload", workload, "--runs", "1"]).output()?;
        let line: Value = serde_json::from_str(line.trim()).with_context(|| format!("reading {line:?}"))?;
        Figures::read(&line).with_context(|| format!("{} on {net}, {workload}", peer[1]))
    }
}

/// What one run, or the median of several, came to.
#[derive(Debug, Clone, PartialEq)]
struct Figures {
    value: f64,
    unit: String,
    /// CPU seconds of the mount per unit of work: GiB, operation, or the whole run.
    cpu: f64,
    rss_mb: f64,
    requests: f64,
}

impl Figures {
    fn read(line: &Value) -> Result<Self> {
        if let Some(error) = line["error"].as_str() {
            bail!("the run failed: {error}");
        }
        let run = &line["runs"][0];
        let number = |name: &str| run[name].as_f64().with_context(|| format!("no {name} in {run}"));
        let (value, secs) = (number("value")?, number("secs")?);
        let unit = run["unit"].as_str().context("no unit")?.to_owned();
        // A read workload ends after a fixed time, so what it cost is told per byte or per operation.
        let work = match run["bytes"].as_f64() {
            Some(bytes) => bytes / f64::from(1 << 30),
            None if unit.ends_with("/s") => value * secs,
            None => 1.0,
        };
        let cpu = number("cpu_s")? / work;
        Ok(Self { value, unit, cpu, rss_mb: number("rss_mb")?, requests: number("total_requests")? })
    }

    fn median(runs: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(runs.iter().map(figure).collect());
        Self {
            value: of(|run| run.value),
            unit: runs.first().map_or_else(String::new, |run| run.unit.clone()),
            cpu: of(|run| run.cpu),
            rss_mb: of(|run| run.rss_mb),
            requests: of(|run| run.requests),
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
    }
}

/// One line of the table. The ratio is above 1 where ours is the faster, the CPU ratio below 1 where ours is the cheaper.
fn row(net: &str, workload: &str, ours: &Figures, theirs: &Figures) -> String {
    let less_is_better = matches!(ours.unit.as_str(), "s" | "ms");
    let ratio = if less_is_better { theirs.value / ours.value } else { ours.value / theirs.value };
    format!(
        "| {net} | {workload} ({}) | {} | {} | {} | {} | {:.0} : {:.0} | {:.0} : {:.0} |",
        ours.unit,
        three_digits(ours.value),
        three_digits(theirs.value),
        quotient(ratio),
        quotient(ours.cpu / theirs.cpu),
        ours.rss_mb,
        theirs.rss_mb,
        ours.requests,
        theirs.requests,
    )
}

/// Processor time is counted in hundredths of a second, so that of a short run may be none.
fn quotient(value: f64) -> String {
    if value.is_finite() { format!("{value:.2}") } else { "-".to_owned() }
}

fn three_digits(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(value: f64, unit: &str, cpu: f64) -> Value {
        json!({"runs": [{"value": value, "unit": unit, "secs": 2.0, "cpu_s": cpu, "rss_mb": 100, "total_requests": 7}]})
    }

    #[test]
    fn medians_are_of_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn ratios_are_above_one_where_ours_is_faster() {
        let read = |value, unit| Figures::read(&line(value, unit, 1.0)).expect("a whole line");
        let row_of = |ours, theirs, unit| row("raw", "x", &read(ours, unit), &read(theirs, unit));
        assert_eq!(
            row_of(300.0, 100.0, "MB/s"),
            "| raw | x (MB/s) | 300 | 100 | 3.00 | 0.33 | 100 : 100 | 7 : 7 |"
        );
        assert_eq!(row_of(2.0, 4.0, "s"), "| raw | x (s) | 2.00 | 4.00 | 2.00 | 1.00 | 100 : 100 | 7 : 7 |");
    }

    #[test]
    fn a_run_too_short_for_the_clock_has_no_cpu_ratio() {
        let idle = Figures::read(&line(1.0, "ms", 0.0)).expect("a whole line");
        assert_eq!(
            row("raw", "x", &idle, &idle),
            "| raw | x (ms) | 1.00 | 1.00 | 1.00 | - | 100 : 100 | 7 : 7 |"
        );
    }

    #[test]
    fn a_failed_run_is_an_error() {
        let error = Figures::read(&json!({"error": "mount failed"})).expect_err("no figures");
        assert!(error.to_string().contains("mount failed"));
        assert!(Figures::read(&json!({"runs": [{"value": 1.0}]})).is_err());
    }
}
