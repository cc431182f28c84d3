//! The marks: by how much the defaults must beat the rival's, in the same run.

use std::fmt::Write;

use super::OURS;
use super::figures::Figures;
use super::report::{Row, three_digits};

/// Whom the marks are about.
pub(super) const RIVAL: &str = "mountpoint";

/// What a mark limits.
#[derive(Debug, Clone, Copy)]
enum Bound {
    /// At least so many times the rival's speed.
    Speed(f64),
    /// At most so many times its processor time.
    Cpu(f64),
}

const MARKS: [(&str, &str, Bound); 12] = [
    ("raw", "seq1", Bound::Speed(1.0)),
    ("raw", "seq1", Bound::Cpu(0.85)),
    ("raw", "rand128k_t16", Bound::Speed(3.0)),
    ("raw", "mmap_shuffled", Bound::Speed(2.0)),
    ("raw", "ttfb", Bound::Speed(1.0)),
    ("raw", "ls_l_100k", Bound::Speed(1.0)),
    ("s3like", "seq1", Bound::Speed(1.1)),
    ("s3like", "rand128k_t16", Bound::Speed(12.0)),
    ("s3like", "small_t16", Bound::Speed(10.0)),
    ("s3like", "find_10k", Bound::Speed(4.0)),
    ("s3like", "ls_l_100k", Bound::Speed(1.2)),
    ("s3like", "ttfb", Bound::Speed(2.0)),
];

impl Bound {
    fn is_met(self, ours: &Figures, theirs: &Figures) -> bool {
        match self {
            Self::Speed(least) => ours.speed_ratio(theirs) >= least,
            Self::Cpu(most) => ours.cpu_ratio(theirs) <= most,
        }
    }

    fn words(self) -> String {
        match self {
            Self::Speed(least) => format!("at least {least} times {RIVAL}'s speed"),
            Self::Cpu(most) => format!("at most {most} times {RIVAL}'s CPU"),
        }
    }

    fn measured(self, ours: &Figures, theirs: &Figures) -> f64 {
        match self {
            Self::Speed(_) => ours.speed_ratio(theirs),
            Self::Cpu(_) => ours.cpu_ratio(theirs),
        }
    }
}

/// What to run on `net` for its marks.
pub(super) fn workloads(net: &str) -> Vec<String> {
    let mut workloads = Vec::new();
    for (_, workload, _) in MARKS.iter().filter(|(on, _, _)| *on == net) {
        if !workloads.iter().any(|known| known == workload) {
            workloads.push((*workload).to_owned());
        }
    }
    workloads
}

/// Each mark that was measured, as a table in Markdown; empty if none was.
pub(super) fn verdict(rows: &[Row]) -> String {
    let mut table = String::new();
    for (net, workload, bound) in MARKS {
        let of = |program: &str| {
            let mut rows = rows.iter().filter(|row| row.net == net && row.workload == workload);
            rows.find(|row| row.program == program)?.outcome.median()
        };
        let (Some(ours), Some(theirs)) = (of(OURS), of(RIVAL)) else { continue };
        if table.is_empty() {
            table.push_str("| net | workload | mark | measured | verdict |\n|---|---|---|---|---|\n");
        }
        let (words, measured) = (bound.words(), three_digits(bound.measured(&ours, &theirs)));
        let met = if bound.is_met(&ours, &theirs) { "met" } else { "**missed**" };
        writeln!(table, "| {net} | {workload} | {words} | {measured} | {met} |").expect("a string takes all");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::figures::Outcome;
    use super::super::figures::tests::run_of;
    use super::*;

    fn rows(workload: &str, ours: f64, theirs: f64, unit: &str) -> Vec<Row> {
        let row = |program: &str, value| Row {
            net: "raw".to_owned(),
            workload: workload.to_owned(),
            program: program.to_owned(),
            outcome: Outcome { runs: vec![run_of(value, unit)], failure: None },
        };
        vec![row(OURS, ours), row(RIVAL, theirs)]
    }

    #[test]
    fn marks_are_met_from_their_bound_on() {
        let of = |ours| verdict(&rows("rand128k_t16", ours, 1000.0, "reads/s"));
        assert!(
            of(3000.0).contains("| at least 3 times mountpoint's speed | 3.00 | met |"),
            "{}",
            of(3000.0)
        );
        assert!(of(2990.0).contains("| 2.99 | **missed** |"), "{}", of(2990.0));
        assert!(verdict(&rows("ls_l_100k", 3.0, 3.1, "s")).contains("| 1.03 | met |"));
    }

    #[test]
    fn one_workload_may_have_two_marks() {
        let both = verdict(&rows("seq1", 1000.0, 900.0, "MB/s"));
        assert!(both.contains("speed | 1.11 | met |"), "{both}");
        assert!(both.contains("CPU | 1.00 | **missed** |"), "{both}");
    }

    #[test]
    fn what_was_not_measured_has_no_verdict() {
        assert_eq!(verdict(&rows("rand4k", 1.0, 1.0, "reads/s")), "");
        assert_eq!(verdict(&rows("seq1", 1.0, 1.0, "MB/s")[..1]), "");
        assert!(workloads("raw").contains(&"seq1".to_owned()) && workloads("no net").is_empty());
    }
}
