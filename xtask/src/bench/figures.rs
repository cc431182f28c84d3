//! What runs came to, and the middle of several.

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// What one run, or the median of several, came to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Figures {
    pub(super) value: f64,
    pub(super) unit: String,
    /// CPU seconds of the mount per unit of work: GiB, operation, or the whole run.
    pub(super) cpu: f64,
    pub(super) rss_mb: f64,
    pub(super) requests: f64,
    /// How many processors other programs kept busy meanwhile.
    pub(super) disturbance: f64,
}

impl Figures {
    /// Takes the one run of a line of the driver.
    ///
    /// # Errors
    /// The run failed, or the line is not whole.
    pub(super) fn read(line: &Value) -> Result<Self> {
        if let Some(error) = line["error"].as_str() {
            bail!("the run failed: {error}");
        }
        let run = &line["runs"][0];
        let number = |name: &str| run[name].as_f64().with_context(|| format!("no {name} in {run}"));
        let (value, secs) = (number("value")?, number("secs")?);
        let unit = run["unit"].as_str().context("no unit")?.to_owned();
        // A read workload ends after a fixed time, so what it cost is told per byte or per operation.
        let work = match unit.as_str() {
            "MB/s" => number("bytes")? / f64::from(1 << 30),
            rate if rate.ends_with("/s") => value * secs,
            _ => 1.0,
        };
        Ok(Self {
            value,
            cpu: number("cpu_s")? / work,
            rss_mb: number("rss_mb")?,
            requests: number("total_requests")?,
            // Very short runs are measured more roughly than they are long.
            disturbance: (number("other_cpu_s")? / secs.max(0.5)).max(0.0),
            unit,
        })
    }

    /// Whether less of it is better.
    pub(super) fn is_time(&self) -> bool {
        matches!(self.unit.as_str(), "s" | "ms")
    }

    /// How many times as fast as `other` this is.
    pub(super) fn speed_ratio(&self, other: &Self) -> f64 {
        if self.is_time() { other.value / self.value } else { self.value / other.value }
    }

    /// How many times the processor time of `other` this took.
    pub(super) fn cpu_ratio(&self, other: &Self) -> f64 {
        self.cpu / other.cpu
    }
}

/// All runs of one program on one workload.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    pub(super) runs: Vec<Figures>,
    /// Why the last run that failed did.
    pub(super) failure: Option<String>,
}

impl Outcome {
    /// Figure by figure; `None` without a run that did not fail.
    pub(super) fn median(&self) -> Option<Figures> {
        let of = |figure: fn(&Figures) -> f64| median(self.runs.iter().map(figure).collect());
        Some(Figures {
            unit: self.runs.first()?.unit.clone(),
            value: of(|run| run.value),
            cpu: of(|run| run.cpu),
            rss_mb: of(|run| run.rss_mb),
            requests: of(|run| run.requests),
            disturbance: of(|run| run.disturbance),
        })
    }

    /// The least and the largest value.
    pub(super) fn spread(&self) -> (f64, f64) {
        let values = self.runs.iter().map(|run| run.value);
        values
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
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

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// One run of two seconds and one CPU second.
    pub(in super::super) fn run_of(value: f64, unit: &str) -> Figures {
        let run = json!({
            "value": value, "unit": unit, "secs": 2.0, "bytes": 2_147_483_648_u64, "cpu_s": 1.0, "rss_mb": 100,
            "total_requests": 7, "other_cpu_s": 0.5
        });
        Figures::read(&json!({"runs": [run]})).expect("a whole line")
    }

    #[test]
    fn medians_are_of_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
        let outcome =
            Outcome { runs: [30.0, 10.0, 20.0].map(|value| run_of(value, "MB/s")).into(), failure: None };
        assert_eq!(outcome.median().expect("three runs").value, 20.0);
        assert_eq!(outcome.spread(), (10.0, 30.0));
        assert_eq!(Outcome::default().median(), None);
    }

    #[test]
    fn processor_time_is_told_per_unit_of_work() {
        assert_eq!(run_of(100.0, "MB/s").cpu, 0.5, "per GiB");
        assert_eq!(run_of(100.0, "reads/s").cpu, 0.005, "per read");
        assert_eq!(run_of(100.0, "ms").cpu, 1.0, "per run");
        assert_eq!(run_of(100.0, "s").disturbance, 0.25);
    }

    #[test]
    fn ratios_are_above_one_where_ours_is_faster() {
        let ratio = |ours, theirs, unit| run_of(ours, unit).speed_ratio(&run_of(theirs, unit));
        assert_eq!(ratio(300.0, 100.0, "MB/s"), 3.0);
        assert_eq!(ratio(2.0, 4.0, "s"), 2.0);
    }

    #[test]
    fn a_failed_run_is_an_error() {
        let error = Figures::read(&json!({"error": "mount failed"})).expect_err("no figures");
        assert!(error.to_string().contains("mount failed"));
        assert!(Figures::read(&json!({"runs": [{"value": 1.0}]})).is_err());
    }
}
