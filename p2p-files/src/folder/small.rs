//! The files of at most one chunk: many on the way at once on every source, each with a single exchange.
//!
//! A request for one is two frames, open and get, sent without waiting for an answer: the manifest says how long the file
//! is, and so what to ask for. One task per source asks and receives (a *lane*, `lane.rs`); this one says who asks for what; a
//! blocking thread writes (`write.rs`). Each of the queues between them is bounded.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::conduct::{Conductor, PROGRESS_EVERY, ended};
use super::lane::{Answer, Asked, LaneTask};
use super::lend::Link;
use super::plan::{Job, Plan, Size, Spot};
use super::write::{self, Content, Item, Wrote};
use crate::event::{DownloadError, SourceFault};
use crate::hash::FileHash;

/// Files a source is asked for ahead: two requests each, and a provider takes 64.
const FILES_AHEAD: usize = 24;

/// Bytes of files a source is asked for ahead. A guess: 4 ms at 1 GB/s.
const BYTES_AHEAD: u64 = 4 << 20;

/// Files that wait for a source.
const WAITING: usize = 256;

/// Files whose content is on its way: any number of them may wait for the same one.
const PLACES: usize = if cfg!(test) { 16 } else { 4096 };

/// Contents that are given to the writer and not written yet.
const WRITING: usize = 512;

/// Bytes of files that are received and not written yet, in all.
const UNWRITTEN_KIB: usize = 16 * 1024;

/// Fetches everything small; returns how many files no source has. The sources are idle again then.
pub(super) async fn fetch(conductor: &mut Conductor, plan: &Arc<Plan>) -> Result<u64, DownloadError> {
    let (tell, jobs) = mpsc::channel(WAITING);
    // Room for all that may be under way: neither side ever waits for the other.
    let (write, items) = mpsc::channel(WRITING);
    let (wrote, written) = mpsc::channel(WRITING);
    let on_thread = Arc::clone(plan);
    let mut threads = JoinSet::new();
    threads.spawn_blocking(move || on_thread.find(Size::Small, &tell));
    let on_thread = Arc::clone(plan);
    threads.spawn_blocking(move || write::run(&on_thread, items, &wrote));
    let (answers, answered) = mpsc::channel(4);
    let mut dispatch = Dispatch {
        conductor,
        found: Some(jobs),
        waiting: VecDeque::new(),
        lanes: BTreeMap::new(),
        tasks: JoinSet::new(),
        answers,
        write: Some(write),
        unwritten: Arc::new(Semaphore::new(UNWRITTEN_KIB)),
        under_way: BTreeMap::new(),
        places: 0,
        writing: 0,
        nowhere: 0,
    };
    let outcome = dispatch.run(answered, written).await;
    let nowhere = dispatch.nowhere;
    dispatch.end(outcome.is_ok()).await;
    // The threads end when nobody listens to them; what they have to say counts if nothing else was wrong.
    let mut ended = Ok(());
    while let Some(thread) = threads.join_next().await {
        let thread = conductor.joined(thread);
        ended = ended.and(thread);
    }
    outcome.and(ended).map(|()| nowhere)
}

/// A source at work.
struct Lane {
    label: String,
    ask: mpsc::Sender<Asked>,
    files: usize,
    bytes: u64,
}

impl Lane {
    const fn has_room_for(&self, length: u64) -> bool {
        self.files == 0 || self.files < FILES_AHEAD && self.bytes + length <= BYTES_AHEAD
    }
}

struct Dispatch<'a> {
    conductor: &'a mut Conductor,
    found: Option<mpsc::Receiver<Job>>,
    waiting: VecDeque<Asked>,
    lanes: BTreeMap<u64, Lane>,
    tasks: JoinSet<Result<Link, (u64, SourceFault)>>,
    answers: mpsc::Sender<Answer>,
    write: Option<mpsc::Sender<Item>>,
    unwritten: Arc<Semaphore>,
    /// Contents that were asked for and are not entered in the library yet, with the files that are to have them.
    under_way: BTreeMap<FileHash, Vec<Spot>>,
    /// The files that are to have them, in all.
    places: usize,
    /// Contents that the writer has.
    writing: usize,
    nowhere: u64,
}

impl Dispatch<'_> {
    async fn run(
        &mut self,
        mut answered: mpsc::Receiver<Answer>,
        mut written: mpsc::Receiver<Wrote>,
    ) -> Result<(), DownloadError> {
        let shared = Arc::clone(&self.conductor.shared);
        let mut tick = interval(PROGRESS_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let idle: Vec<_> = self.conductor.idle.drain(..).collect();
            for link in idle.into_iter().chain(self.conductor.take_incoming()) {
                self.open(link);
            }
            self.hand_out();
            if self.found.is_none() && self.under_way.is_empty() {
                return Ok(());
            }
            // What comes may go to the writer at once.
            let room = self.writing < WRITING;
            let wanted = room && self.waiting.len() < WAITING && self.places < PLACES;
            tokio::select! {
                () = shared.cancel.cancelled() => return Err(ended(&shared)),
                () = shared.came.notified() => {}
                _ = tick.tick() => shared.tell_progress(),
                job = next(self.found.as_mut()), if wanted => match job {
                    Some(job) => self.take(job),
                    None => self.found = None,
                },
                Some(answer) = answered.recv(), if room => self.on_answer(answer),
                wrote = written.recv() => match wrote {
                    Some(wrote) => self.on_wrote(wrote)?,
                    None => {
                        let source = io::Error::other("the writer has ended");
                        return Err(DownloadError::Interrupted { path: shared.shown().to_path_buf(), source });
                    }
                },
            }
        }
    }

    /// A file that is not here.
    fn take(&mut self, job: Job) {
        let Job { hash, length, spot, local } = job;
        self.places += 1;
        if let Some(spots) = self.under_way.get_mut(&hash) {
            spots.push(spot);
            return;
        }
        self.under_way.insert(hash, vec![spot]);
        if length == 0 || local {
            self.write(hash, length, None);
        } else {
            self.waiting.push_back(Asked { hash, length, lack: Vec::new() });
        }
    }

    /// Has the writer take a content, from the library if it is not given, for all files that are to have it.
    fn write(&mut self, hash: FileHash, length: u64, content: Option<Content>) {
        let spots = self.under_way.get_mut(&hash).map(std::mem::take).unwrap_or_default();
        self.writing += 1;
        // There is room; and a writer that is gone says why by itself.
        if let Some(write) = &self.write {
            let _ = write.try_send(Item { hash, length, content, spots });
        }
    }

    fn open(&mut self, link: Link) {
        let (ask, asked) = mpsc::channel(FILES_AHEAD);
        let lane = Lane { label: link.label.clone(), ask, files: 0, bytes: 0 };
        self.lanes.insert(link.id, lane);
        let config = &self.conductor.shared.config.file;
        let task = LaneTask {
            asked,
            answers: self.answers.clone(),
            stall: config.stall,
            limit: config.run_timeout,
            unwritten: Arc::clone(&self.unwritten),
            throttle: config.throttle.and(link.limit.clone()),
            skipped: 0,
        };
        self.tasks.spawn(task.run(link));
    }

    /// Gives what waits to sources with room; what none of them has is given up for now.
    fn hand_out(&mut self) {
        let nobody = self.lanes.is_empty();
        for _ in 0..self.waiting.len() {
            let Some(job) = self.waiting.pop_front() else { return };
            let mut able = self.lanes.iter_mut().filter(|(id, _)| !job.lack.contains(id)).peekable();
            if able.peek().is_none() && !nobody {
                let spots = self.under_way.remove(&job.hash).unwrap_or_default();
                self.places = self.places.saturating_sub(spots.len());
                self.nowhere += spots.len() as u64;
                continue;
            }
            let lane =
                able.filter(|(_, lane)| lane.has_room_for(job.length)).min_by_key(|(_, lane)| lane.bytes);
            let Some((_, lane)) = lane else {
                self.waiting.push_back(job);
                // Nobody has room: no need to look at the others. Some may be had from others only.
                if self.lanes.values().all(|lane| !lane.has_room_for(1)) {
                    return;
                }
                continue;
            };
            (lane.files, lane.bytes) = (lane.files + 1, lane.bytes + job.length);
            // It has room for as many as a lane may be asked for.
            if let Err(error) = lane.ask.try_send(job) {
                self.waiting.push_front(error.into_inner());
                return;
            }
        }
    }

    fn on_answer(&mut self, answer: Answer) {
        match answer {
            Answer::Got { link, job, content } => {
                self.answered(link, &job);
                self.conductor.givers.insert(link);
                self.write(job.hash, job.length, Some(content));
            }
            Answer::Lacks { link, mut job } => {
                self.answered(link, &job);
                job.lack.push(link);
                self.waiting.push_front(job);
            }
            Answer::Failed { link, jobs, fault } => {
                let Some(lane) = self.lanes.remove(&link) else { return };
                self.conductor.shared.lose(lane.label, fault);
                jobs.into_iter().rev().for_each(|job| self.waiting.push_front(job));
            }
        }
    }

    fn answered(&mut self, link: u64, job: &Asked) {
        if let Some(lane) = self.lanes.get_mut(&link) {
            (lane.files, lane.bytes) = (lane.files.saturating_sub(1), lane.bytes.saturating_sub(job.length));
        }
    }

    fn on_wrote(&mut self, wrote: Wrote) -> Result<(), DownloadError> {
        self.writing = self.writing.saturating_sub(1);
        match wrote {
            Wrote::Done { hash, length, files } => {
                self.conductor.shared.completed(files, files * length);
                self.places = self.places.saturating_sub(usize::try_from(files).unwrap_or(usize::MAX));
                // Files that wanted it meanwhile take it from the library.
                if self.under_way.get(&hash).is_some_and(|spots| !spots.is_empty()) {
                    self.write(hash, length, None);
                } else {
                    self.under_way.remove(&hash);
                }
            }
            Wrote::Lost { hash, length, spots } => {
                self.under_way.entry(hash).or_default().extend(spots);
                self.waiting.push_back(Asked { hash, length, lack: Vec::new() });
            }
            Wrote::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// Takes the sources back; what they still have to say is read and dropped before they are used again. When nothing
    /// follows they are dropped where they are: one that says nothing would be waited for.
    async fn end(mut self, more: bool) {
        self.write = None;
        if !more {
            self.tasks.shutdown().await;
            return;
        }
        drop(self.answers);
        // With nobody to ask them for more they end.
        let mut labels: BTreeMap<_, _> = self.lanes.into_iter().map(|(id, lane)| (id, lane.label)).collect();
        while let Some(lane) = self.tasks.join_next().await {
            match lane {
                Ok(Ok(link)) => {
                    labels.remove(&link.id);
                    self.conductor.idle.push(link);
                }
                // What it did is known, unless it did it just now.
                Ok(Err((id, fault))) => {
                    if let Some(label) = labels.remove(&id) {
                        self.conductor.shared.lose(label, fault);
                    }
                }
                Err(_) => {}
            }
        }
        for label in labels.into_values() {
            self.conductor.shared.lose(label, SourceFault::Io(io::ErrorKind::Other));
        }
    }
}

async fn next(found: Option<&mut mpsc::Receiver<Job>>) -> Option<Job> {
    match found {
        Some(found) => found.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::destination::Destination;
    use crate::event::DownloadEvent;
    use crate::folder::{FolderConfig, FolderDownload, FolderGoal, Selection};
    use crate::library::Library;
    use crate::serve::{ServeLimits, serve};

    fn library(dir: &Path) -> Arc<Library> {
        Arc::new(Library::open(&dir.join("data")).unwrap())
    }

    #[tokio::test]
    async fn more_equal_files_than_may_wait_for_their_content_come_all_the_same() {
        const FILES: usize = 10 * PLACES + 1;
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = from.path().join("original");
        std::fs::create_dir(&root).unwrap();
        for number in 0..FILES {
            // Two contents in turns.
            std::fs::write(root.join(number.to_string()), ["x", "y"][number % 2]).unwrap();
        }
        let giver = library(from.path());
        let hash = giver.add_folder(&root, |_| ()).unwrap().share.hash;
        let out = to.path().join("out");
        let goal = FolderGoal::Files { to: Destination::File(out.clone()), selection: Selection::all() };
        let download = FolderDownload::start(library(to.path()), hash, goal, FolderConfig::default());
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(serve(theirs, giver, ServeLimits::default(), Arc::default()));
        download.add_source("a", ours);
        match download.next_event().await {
            Some(DownloadEvent::Finished(finished)) => assert_eq!(finished.length, FILES as u64),
            other => panic!("{other:?}"),
        }
        assert_eq!(std::fs::read_dir(out).unwrap().count(), FILES);
    }
}
