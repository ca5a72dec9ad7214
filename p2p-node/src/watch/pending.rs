//! Which files changed, and when it is time to look at them: not while they are being written to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A file is looked at when nothing was heard of it for so long. Longer than a pause in a copy over a network, short enough
/// for somebody who waits for it: a guess.
pub(super) const QUIET: Duration = Duration::from_secs(2);
/// Paths that wait; one more, and everything is looked through instead. About 1 MiB.
pub(super) const MAX_PATHS: usize = 4096;
/// When everything is to be looked through, it is done so long after the first reason for it, however much goes on.
const LATEST: Duration = Duration::from_secs(30);

/// What to look at now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Work {
    Nothing,
    /// These, and what lies below them.
    Paths(Vec<PathBuf>),
    Everything,
}

/// What was heard of and not looked at yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// When each was heard of last.
    paths: BTreeMap<PathBuf, Instant>,
    everything: Option<Everything>,
}

#[derive(Debug)]
struct Everything {
    due: Instant,
    latest: Instant,
}

impl Pending {
    /// Something happened to a file or a folder. True if the deadline may be earlier than before.
    pub(super) fn note(&mut self, now: Instant, path: PathBuf) -> bool {
        if self.everything.is_some() {
            self.note_everything(now);
            return false;
        }
        if self.paths.len() >= MAX_PATHS && !self.paths.contains_key(&path) {
            self.note_everything(now);
            return true;
        }
        // What is put off moves no deadline forward: whoever waits for it looks again then.
        let was_idle = self.paths.is_empty();
        self.paths.insert(path, now);
        was_idle
    }

    /// Something happened, and it is not known to what.
    pub(super) fn note_everything(&mut self, now: Instant) {
        self.paths.clear();
        let latest = self.everything.as_ref().map_or(now + LATEST, |everything| everything.latest);
        let quiet = (now + QUIET).min(latest);
        // What is due sooner for another reason stays so.
        let due = self.everything.as_ref().filter(|e| e.due <= now).map_or(quiet, |e| e.due);
        self.everything = Some(Everything { due, latest });
    }

    /// Everything is to be looked through at once.
    pub(super) fn look_now(&mut self, now: Instant) {
        self.paths.clear();
        self.everything = Some(Everything { due: now, latest: now });
    }

    /// When there is something to look at.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.everything {
            Some(everything) => Some(everything.due),
            None => self.paths.values().min().map(|at| *at + QUIET),
        }
    }

    /// What is due; it is not pending any more.
    pub(super) fn take(&mut self, now: Instant) -> Work {
        if let Some(everything) = &self.everything {
            if everything.due > now {
                return Work::Nothing;
            }
            self.everything = None;
            return Work::Everything;
        }
        let due: Vec<_> =
            self.paths.extract_if(.., |_, at| *at + QUIET <= now).map(|(path, _)| path).collect();
        if due.is_empty() { Work::Nothing } else { Work::Paths(due) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_waits_until_nothing_happens_to_it_any_more() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert!(pending.note(at(0), "a".into()));
        assert!(!pending.note(at(500), "b".into()));
        assert!(!pending.note(at(1_900), "a".into()));
        assert_eq!(pending.deadline(), Some(at(2_500)));
        assert_eq!(pending.take(at(2_499)), Work::Nothing);
        assert_eq!(pending.take(at(2_500)), Work::Paths(vec!["b".into()]));
        assert_eq!(pending.take(at(3_900)), Work::Paths(vec!["a".into()]));
        assert_eq!((pending.deadline(), pending.take(at(9_000))), (None, Work::Nothing));
    }

    #[test]
    fn too_many_files_are_all_files_and_that_does_not_wait_for_ever() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        for n in 0..MAX_PATHS {
            pending.note(start, format!("{n}").into());
        }
        assert!(!pending.note(start, "0".into()), "it is known");
        assert!(pending.note(start, "one more".into()));
        assert_eq!(pending.deadline(), Some(start + QUIET));
        let mut now = start;
        while pending.take(now) == Work::Nothing {
            now += Duration::from_millis(100);
            pending.note(now, "x".into());
            assert!(now < start + Duration::from_secs(31));
        }
        assert!(now >= start + Duration::from_secs(30));
        assert_eq!(pending.deadline(), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Note(u8),
        All,
        Now,
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..6_u8).prop_map(Step::Note),
            1 => Just(Step::All),
            1 => Just(Step::Now),
            4 => Just(Step::Take),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happened_is_looked_at_after_it_happened(steps in prop::collection::vec((step(), 0..3_000_u64), 0..200)) {
            let (mut pending, mut now) = (Pending::default(), Instant::now());
            let mut wanted = std::collections::BTreeSet::new();
            let look = |pending: &mut Pending, now: Instant, wanted: &mut std::collections::BTreeSet<u8>| {
                let due = pending.deadline();
                let work = pending.take(now);
                assert_eq!(work != Work::Nothing, due.is_some_and(|due| due <= now));
                match work {
                    Work::Nothing => {}
                    Work::Everything => wanted.clear(),
                    Work::Paths(paths) => paths.iter().for_each(|path| {
                        assert!(wanted.remove(&path.to_str().unwrap().parse().unwrap()));
                    }),
                }
            };
            for (step, ms) in steps {
                now += Duration::from_millis(ms);
                match step {
                    Step::Note(n) => {
                        pending.note(now, n.to_string().into());
                        wanted.insert(n);
                    }
                    Step::All => pending.note_everything(now),
                    Step::Now => pending.look_now(now),
                    Step::Take => look(&mut pending, now, &mut wanted),
                }
            }
            while let Some(due) = pending.deadline() {
                look(&mut pending, due.max(now), &mut wanted);
            }
            prop_assert!(wanted.is_empty());
        }
    }
}
