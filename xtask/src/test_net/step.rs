//! A scenario is a list of steps; what one of them says is its line of the report.

use std::time::Instant;

use anyhow::Result;

use crate::test_net::report::Report;

pub(crate) struct Step<S> {
    name: &'static str,
    /// Nothing that follows makes sense without it.
    needed: bool,
    play: fn(&mut S) -> Result<String>,
}

pub(crate) const fn step<S>(name: &'static str, play: fn(&mut S) -> Result<String>) -> Step<S> {
    Step { name, needed: false, play }
}

pub(crate) const fn needed<S>(name: &'static str, play: fn(&mut S) -> Result<String>) -> Step<S> {
    Step { name, needed: true, play }
}

/// Plays every step; what cannot go on without a failed one is not played and counts as failed.
pub(crate) fn play<S>(steps: &[Step<S>], mut scenario: S) -> Report {
    let mut report = Report::default();
    let mut stuck = None;
    for step in steps {
        if let Some(at) = stuck {
            report.not_run(step.name, at);
            continue;
        }
        let begin = Instant::now();
        let result = (step.play)(&mut scenario);
        if result.is_err() && step.needed {
            stuck = Some(step.name);
        }
        report.add(step.name, begin.elapsed(), result);
    }
    report
}
