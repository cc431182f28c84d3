//! Measures a release build side by side with other programs, run by run in turn.
//!
//! The measuring itself is a driver outside the repository: a folder with `peers.py`, which mounts a peer against an S3 emulator, runs
//! a workload and prints a JSON line, and with `setup.sh`, which prints where the peers' programs are. What is added here is the order
//! (whoever goes first changes each time, so that a machine that slows down slows all), the comparison, and whether the marks are met.

mod driver;
mod figures;
mod marks;
mod report;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::command::{Run, cargo};
use crate::workspace;
use driver::Driver;
use figures::Outcome;
use report::{Machine, Row};

const OURS: &str = "sluicefs";

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// The folder with the driver `peers.py` and its `setup.sh`.
    #[arg(long, env = "SLUICEFS_BENCH_DRIVER")]
    driver: Option<PathBuf>,
    /// How often each program runs each workload.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Networks to emulate.
    #[arg(long, value_delimiter = ',', default_value = "raw,s3like")]
    net: Vec<String>,
    /// What to run; the driver's help lists all workloads.
    #[arg(long, value_delimiter = ',', default_value = READING)]
    workload: Vec<String>,
    /// Run what the marks are about, and nothing else.
    #[arg(long, conflicts_with = "workload")]
    marks: bool,
    /// Whom to compare with; the driver's help lists all peers.
    #[arg(long, value_delimiter = ',', default_value = marks::RIVAL)]
    peer: Vec<String>,
    /// More flags for our mount, such as `--metadata-ttl 60`.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    flags: String,
    /// The priority of all that is measured; below 0 as root alone.
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    nice: i32,
    /// Seconds to wait before each run for other programs to become quiet.
    #[arg(long, default_value_t = 3)]
    quiet: u32,
    /// Write the table to this file too, in Markdown, with what is known of the machine.
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
}

/// Every workload that only reads.
const READING: &str = "seq1,seq2,ttfb,rand4k,rand128k,rand128k_t16,mmap_seq,mmap_shuffled,small_serial,small_t16,ls_l_10k,ls_l_100k,find_10k";

impl Bench {
    /// Builds, measures, and prints a table in Markdown.
    ///
    /// # Errors
    /// There is no driver, the build or a measurement of ours fails, or the table cannot be written. A peer that fails is noted.
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        let Some(dir) = self.driver.as_deref().filter(|dir| dir.join("peers.py").is_file()) else {
            bail!("give the folder that has the driver peers.py with --driver, or in SLUICEFS_BENCH_DRIVER");
        };
        cargo(root).args(["build", "--release", "--package", "sluicefs"]).run()?;
        let bin = match std::env::var("PEERS_BIN") {
            Ok(bin) => bin,
            Err(_) => Run::new(dir.join("setup.sh")).output()?.trim().to_owned(),
        };
        let program = workspace::target_dir(root)?.join("release/sluicefs");
        let program = program.to_str().context("the build folder's name is UTF-8")?;
        let mount = format!(
            "{program} mount --foreground --endpoint-url {{endpoint}} --force-path-style --region us-east-1 {} {{bucket}} {{mnt}}",
            self.flags
        );
        let driver =
            Driver { script: dir.join("peers.py"), bin, mount, nice: self.nice, quiet_secs: self.quiet };
        let machine = Machine::look(root, program, &driver.bin, &self.peer)?;
        println!("{}", report::HEAD);
        let mut rows = Vec::new();
        for (net, workload) in self.plan() {
            let measured = self.measure(&driver, &net, &workload)?;
            print!("{}", report::lines(&measured));
            rows.extend(measured);
        }
        let verdict = marks::verdict(&rows);
        print!("\n{verdict}");
        if let Some(file) = &self.table {
            std::fs::write(file, report::page(&machine, self.runs, &rows, &verdict))
                .with_context(|| format!("writing {}", file.display()))?;
        }
        Ok(())
    }

    /// Networks and workloads in the order they are run.
    fn plan(&self) -> Vec<(String, String)> {
        let mut plan = Vec::new();
        for net in &self.net {
            let workloads = if self.marks { marks::workloads(net) } else { self.workload.clone() };
            plan.extend(workloads.into_iter().map(|workload| (net.clone(), workload)));
        }
        plan
    }

    /// All programs on one workload, ours first.
    fn measure(&self, driver: &Driver, net: &str, workload: &str) -> Result<Vec<Row>> {
        let programs: Vec<&str> = std::iter::once(OURS).chain(self.peer.iter().map(String::as_str)).collect();
        // The first touch of the machine's memory is slow, and nobody's fault.
        driver.measure(OURS, net, workload)?;
        let mut outcomes = vec![Outcome::default(); programs.len()];
        for run in 0..self.runs {
            for turn in 0..programs.len() {
                let turn = (run + turn) % programs.len();
                match driver.measure(programs[turn], net, workload) {
                    Ok(figures) => outcomes[turn].runs.push(figures),
                    Err(error) if programs[turn] == OURS => return Err(error),
                    Err(error) => outcomes[turn].failure = Some(format!("{error:#}")),
                }
            }
        }
        let rows = programs.iter().zip(outcomes).map(|(program, outcome)| Row {
            net: net.to_owned(),
            workload: workload.to_owned(),
            program: (*program).to_owned(),
            outcome,
        });
        Ok(rows.collect())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        bench: Bench,
    }

    fn plan(args: &[&str]) -> Vec<(String, String)> {
        let args = std::iter::once("bench").chain(args.iter().copied());
        Command::try_parse_from(args).expect("valid arguments").bench.plan()
    }

    #[test]
    fn workloads_are_run_on_each_net() {
        let pair = |net: &str, workload: &str| (net.to_owned(), workload.to_owned());
        assert_eq!(
            plan(&["--net", "raw,s3like", "--workload", "seq1,ttfb"]),
            [pair("raw", "seq1"), pair("raw", "ttfb"), pair("s3like", "seq1"), pair("s3like", "ttfb")]
        );
        let marks = plan(&["--marks", "--net", "raw"]);
        assert!(marks.contains(&pair("raw", "rand128k_t16")));
        assert!(!marks.iter().any(|(net, workload)| net != "raw" || workload == "small_t16"), "{marks:?}");
    }
}
