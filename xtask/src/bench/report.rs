//! The table for docs/BENCHMARKS.md, and what must be known to read it: machine, versions, command.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Result;

use super::OURS;
use super::figures::{Figures, Outcome};
use crate::command::Run;

/// One program on one workload.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) net: String,
    pub(super) workload: String,
    pub(super) program: String,
    pub(super) outcome: Outcome,
}

/// The head of the table.
pub(super) const HEAD: &str = "| net | workload | program | median | least to most | ratio | CPU | CPU ratio | peak MB | requests | disturbed |
|---|---|---|---|---|---|---|---|---|---|---|";

/// The lines of one workload; the first row is ours.
pub(super) fn lines(rows: &[Row]) -> String {
    let ours = rows.first().and_then(|row| row.outcome.median());
    rows.iter().map(|row| line(row, ours.as_ref())).collect()
}

fn line(row: &Row, ours: Option<&Figures>) -> String {
    let begin = format!("| {} | {} | {} |", row.net, row.workload, row.program);
    let Some(own) = row.outcome.median() else {
        let failure = row.outcome.failure.as_deref().unwrap_or("not run");
        return format!("{begin} {} | | | | | | | |\n", failure.replace(['|', '\n'], " "));
    };
    let (least, most) = row.outcome.spread();
    let ratio = |of: fn(&Figures, &Figures) -> f64| match ours {
        Some(ours) if row.program != OURS => quotient(of(ours, &own)),
        _ => String::new(),
    };
    format!(
        "{begin} {} {} | {} to {} | {} | {} | {} | {:.0} | {:.0} | {:.1} |\n",
        three_digits(own.value),
        own.unit,
        three_digits(least),
        three_digits(most),
        ratio(Figures::speed_ratio),
        processor_time(&own),
        ratio(Figures::cpu_ratio),
        own.rss_mb,
        own.requests,
        own.disturbance,
    )
}

fn processor_time(figures: &Figures) -> String {
    match figures.unit.as_str() {
        "MB/s" => format!("{} s/GiB", three_digits(figures.cpu)),
        unit if unit.ends_with("/s") => format!("{:.0} us each", figures.cpu * 1e6),
        _ => format!("{} s", three_digits(figures.cpu)),
    }
}

/// Processor time is counted in hundredths of a second, so that of a short run may be none.
fn quotient(value: f64) -> String {
    if value.is_finite() { three_digits(value) } else { "-".to_owned() }
}

pub(super) fn three_digits(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// Where and with what was measured.
#[derive(Debug)]
pub(super) struct Machine {
    date: String,
    commit: String,
    hardware: String,
    kernel: String,
    versions: Vec<String>,
    command: String,
}

impl Machine {
    /// Looks at this machine, this repository, our program and the peers' in the folder `bin`.
    ///
    /// # Errors
    /// Git or our program does not run.
    pub(super) fn look(root: &Path, program: &str, bin: &str, peers: &[String]) -> Result<Self> {
        let git = Run::new("git").dir(root).args(["describe", "--always", "--dirty"]);
        let mut versions = vec![first_line(&Run::new(program).args(["--version"]).output()?)];
        versions.extend(peers.iter().map(|peer| version_of(bin, peer)));
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        Ok(Self {
            date: first_line(&Run::new("date").args(["--utc", "+%Y-%m-%d"]).output()?),
            commit: first_line(&git.output()?),
            hardware: hardware(&read("/proc/cpuinfo"), &read("/proc/meminfo")),
            kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
            versions,
            command: command(std::env::args().skip(1)),
        })
    }
}

/// What a peer's program says of itself. It is called as the peer, or differently.
fn version_of(bin: &str, peer: &str) -> String {
    let file = match peer.split('-').next() {
        Some("mountpoint") => "mount-s3",
        Some("s3fs") => "s3fs-new",
        name => name.unwrap_or(peer),
    };
    match Run::new(Path::new(bin).join(file)).args(["--version"]).output() {
        Ok(text) => format!("{peer}: {}", first_line(&text)),
        Err(_) => format!("{peer} of unknown version"),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// `AMD EPYC, 2 processors, 24 GiB`
fn hardware(cpuinfo: &str, meminfo: &str) -> String {
    let value = |line: &str| line.split_once(':').map(|(_, value)| value.trim().to_owned());
    let model = cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(value);
    let processors = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let kb = meminfo.lines().find(|line| line.starts_with("MemTotal")).and_then(value);
    let kb = kb.and_then(|text| text.trim_end_matches("kB").trim().parse::<f64>().ok());
    let memory =
        kb.map_or_else(|| "unknown memory".to_owned(), |kb| format!("{:.0} GiB", kb / f64::from(1 << 20)));
    format!("{}, {processors} processors, {memory}", model.unwrap_or_else(|| "unknown processor".to_owned()))
}

/// The command to type, without the folders of this machine.
fn command(args: impl Iterator<Item = String>) -> String {
    let mut words = vec!["cargo xtask".to_owned()];
    let mut hide_next = None;
    for arg in args {
        let hidden = |name: &str| match name {
            "--driver" => Some("DIR"),
            "--table" => Some("FILE"),
            _ => None,
        };
        let (name, has_value) = arg.split_once('=').map_or((&*arg, false), |(name, _)| (name, true));
        words.push(match (hide_next.take(), hidden(name)) {
            (Some(word), _) => word,
            (None, Some(word)) if has_value => format!("{name}={word}"),
            (None, word) => {
                hide_next = word.map(str::to_owned);
                if arg.contains([' ', '\'']) { format!("'{}'", arg.replace('\'', r"'\''")) } else { arg }
            }
        });
    }
    words.join(" ")
}

/// The whole report, as a section of a page in Markdown.
pub(super) fn page(machine: &Machine, runs: usize, rows: &[Row], verdict: &str) -> String {
    let mut page = format!(
        "### {} at {}\n\n```\n{}\n```\n\n{}; {}.\n{}.\nMedians of {runs} runs each, in turn.\n\n{HEAD}\n",
        machine.date,
        machine.commit,
        machine.command,
        machine.hardware,
        machine.kernel,
        machine.versions.join("; "),
    );
    for workload in rows.chunk_by(|a, b| a.net == b.net && a.workload == b.workload) {
        page += &lines(workload);
    }
    if !verdict.is_empty() {
        write!(page, "\n{verdict}").expect("a string takes all");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::run_of;
    use super::*;

    fn row(program: &str, values: &[f64], unit: &str) -> Row {
        Row {
            net: "raw".to_owned(),
            workload: "x".to_owned(),
            program: program.to_owned(),
            outcome: Outcome {
                runs: values.iter().map(|value| run_of(*value, unit)).collect(),
                failure: None,
            },
        }
    }

    #[test]
    fn peers_are_held_against_ours() {
        let rows = [row(OURS, &[300.0, 100.0, 400.0], "MB/s"), row("peer", &[100.0], "MB/s")];
        assert_eq!(
            lines(&rows),
            "| raw | x | sluicefs | 300 MB/s | 100 to 400 |  | 0.50 s/GiB |  | 100 | 7 | 0.2 |\n\
             | raw | x | peer | 100 MB/s | 100 to 100 | 3.00 | 0.50 s/GiB | 1.00 | 100 | 7 | 0.2 |\n"
        );
    }

    #[test]
    fn a_peer_that_fails_has_a_line_too() {
        let mut failed = row("peer", &[], "s");
        failed.outcome.failure = Some("timeout | after\n60 s".to_owned());
        let lines = lines(&[row(OURS, &[1.0], "s"), failed]);
        assert!(lines.ends_with("| raw | x | peer | timeout   after 60 s | | | | | | | |\n"), "{lines}");
    }

    #[test]
    fn a_run_too_short_for_the_clock_has_no_cpu_ratio() {
        let mut rows = [row(OURS, &[1.0], "ms"), row("peer", &[1.0], "ms")];
        rows[1].outcome.runs[0].cpu = 0.0;
        assert!(lines(&rows).contains("| 1.00 | 0.00 s | - |"), "{}", lines(&rows));
    }

    #[test]
    fn folders_of_one_machine_stay_out_of_the_command() {
        let args = ["bench", "--driver", "/a/b", "--runs", "5", "--table=/c", "--flags", "--metadata-ttl 60"];
        assert_eq!(
            command(args.into_iter().map(str::to_owned)),
            "cargo xtask bench --driver DIR --runs 5 --table=FILE --flags '--metadata-ttl 60'"
        );
    }

    #[test]
    fn the_machine_is_named() {
        let cpu = "processor\t: 0\nmodel name\t: Fast CPU\nprocessor\t: 1\nmodel name\t: Fast CPU\n";
        assert_eq!(hardware(cpu, "MemTotal:       24683520 kB\n"), "Fast CPU, 2 processors, 24 GiB");
        assert_eq!(hardware("", ""), "unknown processor, 0 processors, unknown memory");
    }

    #[test]
    fn a_page_has_all_that_is_needed_to_repeat_it() {
        let machine = Machine {
            date: "2026-01-02".to_owned(),
            commit: "abc1234".to_owned(),
            hardware: "Fast CPU".to_owned(),
            kernel: "Linux 6".to_owned(),
            versions: vec!["sluicefs 1".to_owned(), "peer 2".to_owned()],
            command: "cargo xtask bench".to_owned(),
        };
        let page = page(&machine, 3, &[row(OURS, &[1.0], "s")], "| mark |\n");
        for part in [
            "2026-01-02 at abc1234",
            "Fast CPU; Linux 6.",
            "sluicefs 1; peer 2.",
            "Medians of 3 runs",
            HEAD,
            "| mark |",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
    }
}
