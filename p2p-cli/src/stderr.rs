//! The log's way to standard error. Whoever reads that may stop, and every thread of the node logs: none of them writes itself.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Lines that wait. A guess: a burst at the level of debugging; what is more waits for a moment, and is left out then.
const MAX_WAITING: usize = 1_024;
/// A line waits this long for room, and none does any more until a line was written.
const PATIENCE: Duration = Duration::from_millis(100);
/// What is left at the end may take this long.
const END: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<String>,
    /// One that was taken is being written.
    writing: bool,
    /// One had to be left out, and none was written since.
    stuck: bool,
    /// Left out, and not told yet.
    lost: u64,
}

/// Lines that a thread writes.
#[derive(Debug, Default)]
pub(crate) struct Stderr {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Stderr {
    pub(crate) fn open() -> Arc<Self> {
        let stderr = Arc::new(Self::default());
        let writer = Arc::clone(&stderr);
        std::thread::spawn(move || {
            writer.run(|line| {
                // Nobody can be told that standard error is closed.
                let _ = io::stderr().lock().write_all(line.as_bytes());
            });
        });
        stderr
    }

    fn run(&self, mut write: impl FnMut(&str)) {
        loop {
            let waits = self.changed.wait_while(self.lock(), |waiting| waiting.lines.is_empty());
            let mut waiting = waits.unwrap_or_else(PoisonError::into_inner);
            let line = waiting.lines.pop_front();
            waiting.writing = true;
            drop(waiting);
            line.iter().for_each(|line| write(line));
            let mut waiting = self.lock();
            (waiting.writing, waiting.stuck) = (false, false);
            drop(waiting);
            self.changed.notify_all();
        }
    }

    /// Queues a line, which ends in a line feed. Waits a moment if there is no room, and leaves it out if there is none then.
    pub(crate) fn say(&self, line: String) {
        let no_room = |waiting: &mut Waiting| waiting.lines.len() >= MAX_WAITING && !waiting.stuck;
        let waited = self.changed.wait_timeout_while(self.lock(), PATIENCE, no_room);
        let (mut waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if waiting.lines.len() >= MAX_WAITING {
            waiting.stuck = true;
            waiting.lost += 1;
            return;
        }
        let lost = std::mem::take(&mut waiting.lost);
        if lost > 0 {
            waiting
                .lines
                .push_back(format!("p2p: nobody read the log, and {lost} lines of it were left out\n"));
        }
        waiting.lines.push_back(line);
        drop(waiting);
        self.changed.notify_all();
    }

    /// The program ends: waits until all was written, for a moment at most.
    pub(crate) fn end(&self) {
        let is_left = |waiting: &mut Waiting| waiting.writing || !waiting.lines.is_empty();
        drop(self.changed.wait_timeout_while(self.lock(), END, is_left));
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::Instant;

    use super::*;

    #[test]
    fn lines_that_nobody_takes_hold_nobody_up_and_are_counted() {
        let stderr = Arc::new(Stderr::default());
        let (give, taken) = sync_channel(0);
        let writer = Arc::clone(&stderr);
        std::thread::spawn(move || writer.run(|line| drop(give.send(line.to_owned()))));
        let began = Instant::now();
        // One is being written, or waits to be.
        for n in 0..3 * MAX_WAITING {
            stderr.say(format!("{n}\n"));
        }
        stderr.end();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let first: Vec<String> = taken.iter().take(MAX_WAITING).collect();
        assert!(first.iter().enumerate().all(|(n, line)| *line == format!("{n}\n")));
        stderr.say("again\n".into());
        let rest: Vec<String> = taken.iter().take_while(|line| line != "again\n").collect();
        assert!(rest.last().is_some_and(|line| line.contains("lines of it were left out")), "{rest:?}");
        stderr.end();
        assert!(stderr.lock().lines.is_empty());
    }
}
