//! What came out: one line a step as it ends, then the failures once more, then the verdict.

use std::time::Duration;

use anyhow::Result;

#[derive(Debug, Default)]
pub(crate) struct Report {
    steps: usize,
    failures: Vec<(&'static str, String)>,
}

impl Report {
    pub(crate) fn add(&mut self, step: &'static str, took: Duration, result: Result<String>) {
        match result {
            Ok(note) => self.line(step, "ok", took, &note),
            Err(error) => {
                self.line(step, "FAILED", took, "");
                self.failures.push((step, format!("{error:#}")));
            }
        }
    }

    pub(crate) fn not_run(&mut self, step: &'static str, because: &str) {
        self.line(step, "not run", Duration::ZERO, "");
        self.failures.push((step, format!("needs `{because}`")));
    }

    fn line(&mut self, step: &str, result: &str, took: Duration, note: &str) {
        if self.steps == 0 {
            println!("{:<46} {:<8} {:>8}", "step", "result", "time");
        }
        self.steps += 1;
        let line = format!("{step:<46} {result:<8} {:>6.2} s  {note}", took.as_secs_f64());
        println!("{}", line.trim_end());
    }

    pub(crate) fn print_summary(&self) {
        for (step, why) in &self.failures {
            println!("\n{step}: {why}");
        }
    }

    pub(crate) const fn all_passed(&self) -> bool {
        self.failures.is_empty() && self.steps > 0
    }

    pub(crate) fn verdict(&self) -> String {
        let failed = self.failures.len();
        format!("{} passed, {failed} failed", self.steps - failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_run_counts_as_failed() {
        let mut report = Report::default();
        assert!(!report.all_passed(), "nothing played is no success");
        report.add("start", Duration::ZERO, Ok(String::new()));
        assert!(report.all_passed());
        report.add("join", Duration::ZERO, Err(anyhow::anyhow!("nobody came")));
        report.not_run("talk", "join");
        assert!(!report.all_passed());
        assert_eq!(report.verdict(), "1 passed, 2 failed");
    }
}
