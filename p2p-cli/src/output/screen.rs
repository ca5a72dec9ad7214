//! Where lines go. One thread owns standard output, so that a reader that does not read, or a terminal that
//! is slow, never holds up the node: what waits for it is bounded, and whoever says more waits too.

use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::human::{Paint, render};
use super::line::Line;
use crate::args::Color;
use crate::{failure, terminal};

/// Lines that wait to be written. A full queue makes the speaker wait; events that pile up behind it are
/// bounded by the node, which says how many were missed.
const MAX_WAITING: usize = 16;
/// Text collected before it is written while more is waiting.
const BATCH: usize = 256 * 1024;
/// How long a command that never had a node to stop waits at the end for a reader that does not read.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Writes a piece of text around a line that is being typed.
pub(crate) type Printer = Box<dyn FnMut(&str) -> io::Result<()> + Send>;

enum Job {
    Text(String),
    Progress(Progress),
    ProgressEnd,
    Attach(Printer),
    Close(oneshot::Sender<()>),
}

/// Standard output as its writer found it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outlet {
    Open,
    /// Whoever read it wants no more, which is no failure: `p2p log | head`. Or the terminal was closed.
    Closed,
    /// What was to be written is lost: the disk is full, say.
    Failed,
}

/// How far a download is.
struct Progress {
    done: u64,
    length: Option<u64>,
    /// Files that are complete, and in all.
    files: Option<(u64, u64)>,
    sources: usize,
    rate: u64,
}

impl Progress {
    /// Rate, sources and the time that is left at this rate, which is the rate of the last seconds and not of what was
    /// here before.
    fn words(&self) -> String {
        let files = self.files.map(|(done, all)| format!("{done}/{all} files  ")).unwrap_or_default();
        let sources = format!("{} source{}", self.sources, if self.sources == 1 { "" } else { "s" });
        let left = self.length.unwrap_or(self.done).saturating_sub(self.done);
        let left = match left.checked_div(self.rate) {
            _ if left == 0 => "finishing".to_owned(),
            Some(seconds) => format!("{} left", super::text::duration(Duration::from_secs(seconds))),
            None => "waiting".to_owned(),
        };
        format!("{files}{}/s  {sources}  {left}", super::text::size(self.rate))
    }
}

/// A handle to standard output; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Screen {
    jobs: mpsc::Sender<Job>,
    outlet: watch::Receiver<Outlet>,
    /// Set once the program leaves: from then on nobody waits any longer than this.
    leave_by: Arc<OnceLock<Instant>>,
    /// Texts that were to be written and were not yet.
    unwritten: Arc<AtomicU64>,
    json: bool,
    paint: Paint,
}

impl Screen {
    /// Takes standard output.
    pub(crate) fn open(json: bool, color: Color) -> Self {
        let (jobs, waiting) = mpsc::channel(MAX_WAITING);
        let (tell, outlet) = watch::channel(Outlet::Open);
        let unwritten = Arc::new(AtomicU64::new(0));
        let writer = Writer::new(tell, Arc::clone(&unwritten));
        std::thread::spawn(move || writer.run(waiting));
        let paint = Paint(!json && painted(color, io::stdout().is_terminal()));
        Self { jobs, outlet, leave_by: Arc::default(), unwritten, json, paint }
    }

    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    pub(crate) const fn is_painted(&self) -> bool {
        self.paint.0
    }

    /// Says one thing. Returns once it is queued.
    pub(crate) async fn show(&self, line: &Line) {
        if self.json {
            // Lines are structs of strings and numbers: serializing them can't fail.
            let mut text = serde_json::to_string(line).expect("a line is always valid JSON");
            text.push('\n');
            return self.give(Job::Text(text)).await;
        }
        match *line {
            Line::FileProgress { done, length, files_done, files, sources, rate, .. } => {
                let files = files_done.zip(files);
                return self.give(Job::Progress(Progress { done, length, files, sources, rate })).await;
            }
            // The list of a folder ends in a line of its own.
            Line::FileDone { .. } | Line::FileFailed { .. } => self.give(Job::ProgressEnd).await,
            _ => {}
        }
        let text = render(line, self.paint);
        if !text.is_empty() {
            self.give(Job::Text(text)).await;
        }
    }

    /// Text for people as it is; nothing with `--json`.
    pub(crate) async fn hint(&self, text: &str) {
        if !self.json {
            self.give(Job::Text(format!("{text}\n"))).await;
        }
    }

    /// Says something if there is room, from code that must not wait: the log of a console.
    pub(crate) fn try_text(&self, text: String) -> bool {
        let room = self.jobs.try_send(Job::Text(text)).is_ok();
        self.unwritten.fetch_add(u64::from(room), Ordering::Relaxed);
        room
    }

    /// From now on text goes through `printer`.
    pub(crate) async fn attach(&self, printer: Printer) {
        self.give(Job::Attach(printer)).await;
    }

    /// Returns once standard output takes nothing more: whoever read it has closed it, or it failed.
    pub(crate) async fn wait_closed(&self) {
        let mut outlet = self.outlet.clone();
        // The thread goes only when all handles are gone.
        let _ = outlet.wait_for(|outlet| *outlet != Outlet::Open).await;
    }

    /// Whether something could not be written, other than because nobody wants it. Standard error has been told why.
    pub(crate) fn has_failed(&self) -> bool {
        *self.outlet.borrow() == Outlet::Failed
    }

    /// The program leaves: what finds no reader until then is not said any more.
    pub(crate) fn leave_by(&self, deadline: Instant) {
        self.leave_by.get_or_init(|| deadline);
    }

    /// Waits, within the limit of [`Screen::leave_by`], until all was written. Returns how many texts were not, because
    /// nobody reads them; one who closed standard output wants no more, and one that failed is told of elsewhere.
    pub(crate) async fn close(&self) -> u64 {
        self.leave_by(Instant::now() + CLOSE_TIMEOUT);
        let (done, written) = oneshot::channel();
        self.give(Job::Close(done)).await;
        let written =
            matches!(self.in_time(written).await, Some(Ok(()))) || *self.outlet.borrow() != Outlet::Open;
        if written { 0 } else { self.unwritten.load(Ordering::Relaxed) }
    }

    async fn give(&self, job: Job) {
        if matches!(job, Job::Text(_)) {
            self.unwritten.fetch_add(1, Ordering::Relaxed);
        }
        // The writer outlives its handles; were it gone, there would be nowhere to say so.
        let _ = self.in_time(self.jobs.send(job)).await;
    }

    /// `None` if the program leaves before it is done.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        match self.leave_by.get() {
            Some(deadline) => tokio::time::timeout_at(*deadline, work).await.ok(),
            None => Some(work.await),
        }
    }
}

/// Whether to use colours on a stream.
pub(crate) fn painted(color: Color, terminal: bool) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => terminal && !set("NO_COLOR") && !dumb,
    }
}

struct Writer {
    stdout: BufWriter<Stdout>,
    /// At the start; of one that is gone the system does not say so any more.
    on_terminal: bool,
    printer: Option<Printer>,
    bar: Option<ProgressBar>,
    outlet: watch::Sender<Outlet>,
    unwritten: Arc<AtomicU64>,
    /// Texts written since the last flush: they count once they have left.
    buffered: u64,
}

impl Writer {
    fn new(outlet: watch::Sender<Outlet>, unwritten: Arc<AtomicU64>) -> Self {
        let stdout = BufWriter::with_capacity(BATCH, io::stdout());
        let on_terminal = io::stdout().is_terminal();
        Self { stdout, on_terminal, printer: None, bar: None, outlet, unwritten, buffered: 0 }
    }

    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.blocking_recv() {
            self.perform(job);
            // A lone line leaves at once; a flood leaves in large pieces.
            if jobs.is_empty() {
                self.flush();
            }
        }
    }

    fn perform(&mut self, job: Job) {
        match job {
            Job::Text(text) => self.text(&text),
            Job::Progress(progress) => self.progress(&progress),
            Job::ProgressEnd => self.end_progress(),
            Job::Attach(printer) => {
                self.flush();
                self.printer = Some(printer);
            }
            Job::Close(done) => {
                self.end_progress();
                self.flush();
                let _ = done.send(());
            }
        }
    }

    fn flush(&mut self) {
        let flushed = self.stdout.flush();
        self.note(flushed);
        self.unwritten.fetch_sub(std::mem::take(&mut self.buffered), Ordering::Relaxed);
    }

    fn text(&mut self, text: &str) {
        self.buffered += 1;
        if *self.outlet.borrow() != Outlet::Open {
            return;
        }
        let Self { stdout, printer, bar, .. } = self;
        // While a bar stands, nothing may be left to be written over it later.
        let at_once = bar.is_some();
        let mut write = || match printer {
            Some(print) => print(text),
            None if at_once => stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()),
            None => stdout.write_all(text.as_bytes()),
        };
        let written = match bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        };
        self.note(written);
    }

    fn progress(&mut self, progress: &Progress) {
        let Some(length) = progress.length else { return };
        let bar = self.bar.get_or_insert_with(|| {
            // On standard error, and only if that is a terminal.
            let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {msg}")
                .expect("the template is constant and valid");
            ProgressBar::new(length).with_style(style)
        });
        bar.set_length(length);
        bar.set_message(progress.words());
        bar.set_position(progress.done);
    }

    fn end_progress(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn note(&self, written: io::Result<()>) {
        let Err(error) = written else { return };
        if *self.outlet.borrow() != Outlet::Open {
            return;
        }
        if error.kind() == io::ErrorKind::BrokenPipe || (self.on_terminal && terminal::is_gone(&error)) {
            self.outlet.send_replace(Outlet::Closed);
            return;
        }
        // At once: who goes on (a daemon) would otherwise be silent for days.
        let warn =
            || failure::warn(&format!("standard output: {error}; what comes from here on is not written"));
        match &self.bar {
            Some(bar) => bar.suspend(warn),
            None => warn(),
        }
        self.outlet.send_replace(Outlet::Failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_rate_sources_and_the_time_left() {
        let progress = |done, rate| Progress { done, length: Some(10 << 20), files: None, sources: 1, rate };
        assert_eq!(progress(0, 1 << 20).words(), "1.0 MiB/s  1 source  10.0 s left");
        assert_eq!(progress(1 << 20, 0).words(), "0 B/s  1 source  waiting");
        assert_eq!(progress(10 << 20, 5).words(), "5 B/s  1 source  finishing");
        let folder = Progress { files: Some((3, 7)), sources: 2, ..progress(0, 1 << 20) };
        assert_eq!(folder.words(), "3/7 files  1.0 MiB/s  2 sources  10.0 s left");
    }
}
