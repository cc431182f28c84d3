//! How many cases of a suite passed, which did not, and how many must.

use std::fmt::Write;

/// What came of one suite.
#[derive(Debug)]
pub(super) struct Score {
    pub(super) suite: &'static str,
    /// So many must pass.
    pub(super) mark: usize,
    pub(super) passed: usize,
    /// Cases that failed, with what is known of the reason.
    pub(super) failed: Vec<String>,
    pub(super) skipped: Vec<String>,
}

impl Score {
    pub(super) fn new(suite: &'static str, mark: usize) -> Self {
        Self { suite, mark, passed: 0, failed: Vec::new(), skipped: Vec::new() }
    }

    /// A case passed, or failed for a reason.
    pub(super) fn add(&mut self, case: &str, failure: Option<&str>) {
        match failure {
            None => self.passed += 1,
            Some("") => self.failed.push(case.to_owned()),
            Some(reason) => self.failed.push(format!("{case}: {reason}")),
        }
    }

    /// Whether enough cases passed.
    pub(super) fn is_met(&self) -> bool {
        self.passed >= self.mark
    }

    /// A line for the suite, and one for each case that did not pass.
    pub(super) fn text(&self) -> String {
        let all = self.passed + self.failed.len() + self.skipped.len();
        let verdict = if self.is_met() { "met" } else { "MISSED" };
        let mut text =
            format!("{}: {} of {all} passed; at least {}: {verdict}", self.suite, self.passed, self.mark);
        for (what, cases) in [("failed", &self.failed), ("skipped", &self.skipped)] {
            for case in cases {
                let _infallible = write!(text, "\n  {what}: {case}");
            }
        }
        text
    }
}

/// The lines of [`everyday.py`](../../suites/everyday.py): "pass NAME" and "FAIL NAME: reason".
pub(super) fn read_everyday(mut score: Score, output: &str) -> Score {
    for line in output.lines() {
        if let Some(name) = line.strip_prefix("pass ") {
            score.add(name, None);
        } else if let Some(rest) = line.strip_prefix("FAIL ") {
            let (name, reason) = rest.split_once(": ").unwrap_or((rest, ""));
            score.add(name, Some(reason));
        }
    }
    score
}

/// The table of pjdfstest: a name, blanks, and "ok", "FAILED" or "skipped" for each case, with back-traces between.
pub(super) fn read_pjdfstest(mut score: Score, output: &str) -> Score {
    for line in output.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(result)) = (words.next(), words.next()) else { continue };
        match result {
            "ok" => score.add(name, None),
            "FAILED" => score.add(name, Some("")),
            "skipped" => score.skipped.push(name.to_owned()),
            _ => {}
        }
    }
    score
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyday_programs_are_counted() {
        let score =
            read_everyday(Score::new("apps", 2), "pass cp -r\nFAIL a hard link: ln: failed: no\npass zip\n");
        assert_eq!(
            (score.passed, score.failed.as_slice()),
            (2, ["a hard link: ln: failed: no".to_owned()].as_slice())
        );
        assert!(score.is_met());
        assert_eq!(
            score.text(),
            "apps: 2 of 3 passed; at least 2: met\n  failed: a hard link: ln: failed: no"
        );
    }

    #[test]
    fn cases_of_pjdfstest_are_counted() {
        let output = "unlink::remove_type::symlink      FAILED\n\tcalled `Result::unwrap()` on an `Err` value: EPERM\n\
            Backtrace:\n   1: std::panicking::panic_with_hook\n             at ./csu/libc-start.c:360:3\n\
            unlink::erofs_named               skipped\nchmod::ctime::regular             ok\n\
            Summary: 1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total\n";
        let score = read_pjdfstest(Score::new("pjdfstest", 1), output);
        assert_eq!(score.passed, 1);
        assert_eq!((score.failed.len(), score.skipped.len()), (1, 1), "{score:?}");
    }

    #[test]
    fn a_suite_that_says_nothing_misses_its_mark() {
        let score = read_pjdfstest(Score::new("pjdfstest", 1), "thread main panicked\n");
        assert!(!score.is_met());
        assert!(score.text().ends_with("MISSED"));
    }
}
