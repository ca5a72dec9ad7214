//! The files of at most one chunk: many on the way at once on every source, each with a single exchange.
//!
//! A request for one is two frames, open and get, sent without waiting for an answer: the manifest says how long the file
//! is, and so what to ask for. One task per source asks and receives (a *lane*); this one says who asks for what; a
//! blocking thread writes (`write.rs`). Each of the queues between them is bounded.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::conduct::{Conductor, PROGRESS_EVERY, ended};
use super::lend::Link;
use super::plan::{Job, Plan, Size, Spot};
use super::write::{self, Content, Item, Wrote};
use crate::Throttle;
use crate::event::{DownloadError, SourceFault};
use crate::geometry::{BLOCK, CHUNK, Geometry};
use crate::hash::{FileHash, Info, Kind};
use crate::merkle;
use crate::protocol::{ErrorCode, PREFIX, RUN_HEAD, Reply, Request, SKIPPED_MAX, SMALL_FRAME_MAX};

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

/// What a lane says.
enum Answer {
    /// A content that was checked.
    Got { link: u64, job: Asked, content: Content },
    /// The source does not have it.
    Lacks { link: u64, job: Asked },
    /// The source is at its end; what it did not answer goes to others.
    Failed { link: u64, jobs: Vec<Asked>, fault: SourceFault },
}

/// A content that a source was asked for, or is to be.
#[derive(Debug)]
struct Asked {
    hash: FileHash,
    length: u64,
    /// Sources that do not have it.
    lack: Vec<u64>,
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

/// One source: asks, receives and checks.
struct LaneTask {
    asked: mpsc::Receiver<Asked>,
    answers: mpsc::Sender<Answer>,
    stall: Duration,
    /// For one file.
    limit: Duration,
    unwritten: Arc<Semaphore>,
    throttle: Throttle,
    skipped: usize,
}

impl LaneTask {
    /// Works until there is nothing more to ask for; the connection can be used for something else then, unless it failed.
    async fn run(mut self, mut link: Link) -> Result<Link, (u64, SourceFault)> {
        let mut sent = VecDeque::new();
        let fault = match self.work(&mut link, &mut sent).await {
            Ok(()) => match link.settle().await {
                Ok(()) => return Ok(link),
                Err(error) => SourceFault::Io(error.kind()),
            },
            Err(fault) => fault,
        };
        self.asked.close();
        while let Ok(job) = self.asked.try_recv() {
            sent.push_back(job);
        }
        // Nobody listens any more when all small files are here, or the whole folder has ended.
        let failed = Answer::Failed { link: link.id, jobs: sent.into(), fault: fault.clone() };
        let _ = self.answers.send(failed).await;
        Err((link.id, fault))
    }

    async fn work(&mut self, link: &mut Link, sent: &mut VecDeque<Asked>) -> Result<(), SourceFault> {
        let mut requests = Vec::new();
        loop {
            if sent.is_empty() {
                match self.asked.recv().await {
                    Some(job) => sent.push_back(job),
                    None => return Ok(()),
                }
                request(&sent[0], &mut requests);
            }
            while let Ok(job) = self.asked.try_recv() {
                request(&job, &mut requests);
                sent.push_back(job);
            }
            if !requests.is_empty() {
                self.send(link, &requests).await?;
                requests.clear();
            }
            let job = &sent[0];
            let kib = u32::try_from(job.length / 1024 + 1).unwrap_or(u32::MAX);
            let permit = Arc::clone(&self.unwritten).acquire_many_owned(kib).await.expect("never closed");
            // Waiting for the limits is not stalling.
            let mut left = usize::try_from(job.length).unwrap_or(usize::MAX);
            while left > 0 {
                left = left.saturating_sub(self.throttle.take(left).await);
            }
            let received = timeout(self.limit, self.receive(link, job)).await;
            let received = received.unwrap_or(Err(SourceFault::Stalled(self.limit)))?;
            let Some(job) = sent.pop_front() else { return Ok(()) };
            let answer = match received {
                Some((info, data)) => {
                    Answer::Got { link: link.id, job, content: Content { info, data, permit } }
                }
                None => Answer::Lacks { link: link.id, job },
            };
            let _ = self.answers.send(answer).await;
        }
    }

    /// The answers for one file; `None` when the source does not have it.
    async fn receive(
        &mut self,
        link: &mut Link,
        job: &Asked,
    ) -> Result<Option<(Info, Vec<u8>)>, SourceFault> {
        let info = match self.reply(link).await? {
            Reply::Info(info) if info.hash() != job.hash => return Err(SourceFault::WrongInfo),
            Reply::Info(info) => Some(info),
            // Who is fetching it too has all of a small file or nothing.
            Reply::NotFound | Reply::Part(_) | Reply::Error(ErrorCode::Changed) => None,
            Reply::Error(ErrorCode::Busy) => return Err(SourceFault::Busy),
            Reply::Error(_) => return Err(SourceFault::Protocol("it calls our request bad")),
            Reply::Held { .. } => return Err(SourceFault::Protocol("an answer to what was not asked")),
            Reply::Run { .. } => return Err(SourceFault::Protocol("a run instead of the info")),
        };
        // The manifest may be wrong about the length of what it names; then it is nobody's fault but its author's.
        let Some(info) = info.filter(|info| info.length == job.length && info.kind == Kind::File) else {
            return match self.reply_or_run(link, &mut Vec::new()).await? {
                Reply::Info(_) => Err(SourceFault::Protocol("an info instead of a run")),
                _ => Ok(None),
            };
        };
        let mut data = Vec::new();
        match self.reply_or_run(link, &mut data).await? {
            Reply::Run { first: 0, hashes: 0, .. } if data.len() as u64 == info.length => {}
            Reply::Run { .. } => return Err(SourceFault::Protocol("a run that was not asked for")),
            Reply::NotFound | Reply::Error(ErrorCode::Changed) => return Ok(None),
            Reply::Error(ErrorCode::Busy) => return Err(SourceFault::Busy),
            _ => return Err(SourceFault::Protocol("another answer than a run")),
        }
        let (root, data) = root_of(data).await;
        if root != info.root {
            let blocks = Geometry::new(info.length).map_or(0, Geometry::blocks);
            return Err(SourceFault::Corrupt { first_block: 0, blocks });
        }
        Ok(Some((info, data)))
    }

    /// The next small frame of a known kind.
    async fn reply(&mut self, link: &mut Link) -> Result<Reply, SourceFault> {
        match self.reply_or_run(link, &mut Vec::new()).await? {
            Reply::Run { .. } => Err(SourceFault::Protocol("a run instead of the info")),
            other => Ok(other),
        }
    }

    /// The next frame of a known kind; what follows the head of a run goes to `data`.
    async fn reply_or_run(&mut self, link: &mut Link, data: &mut Vec<u8>) -> Result<Reply, SourceFault> {
        loop {
            let mut head = [0; PREFIX + 1];
            self.read(link, &mut head).await?;
            let [a, b, c, d, kind] = head;
            let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            let is_run = kind == crate::protocol::RUN;
            let max = if is_run { RUN_HEAD + CHUNK } else { SMALL_FRAME_MAX };
            if !(1..=max).contains(&len) || is_run && len < RUN_HEAD {
                return Err(SourceFault::Protocol("a frame beyond the limits"));
            }
            let mut frame = vec![0; if is_run { RUN_HEAD } else { len }];
            frame[0] = kind;
            self.read(link, &mut frame[1..]).await?;
            if is_run {
                data.resize(len - RUN_HEAD, 0);
                self.read(link, data).await?;
            }
            match Reply::decode(&frame).map_err(|_| SourceFault::Protocol("a malformed frame"))? {
                Some(reply) => return Ok(reply),
                None => self.skipped += PREFIX + frame.len(),
            }
            if self.skipped > SKIPPED_MAX {
                return Err(SourceFault::Protocol("too many frames of unknown kinds"));
            }
        }
    }

    async fn read(&self, link: &mut Link, mut buf: &mut [u8]) -> Result<(), SourceFault> {
        while !buf.is_empty() {
            let read =
                timeout(self.stall, link.read(buf)).await.map_err(|_| SourceFault::Stalled(self.stall))?;
            match read.map_err(|error| SourceFault::Io(error.kind()))? {
                0 => return Err(SourceFault::Io(io::ErrorKind::UnexpectedEof)),
                n => buf = &mut buf[n..],
            }
        }
        Ok(())
    }

    async fn send(&self, link: &mut Link, bytes: &[u8]) -> Result<(), SourceFault> {
        let sent = timeout(self.stall, async {
            link.write_all(bytes).await?;
            link.flush().await
        });
        let sent = sent.await.map_err(|_| SourceFault::Stalled(self.stall))?;
        sent.map_err(|error| SourceFault::Io(error.kind()))
    }
}

/// Appends the two requests for a whole file.
fn request(job: &Asked, out: &mut Vec<u8>) {
    let blocks = job.length.div_ceil(BLOCK as u64).max(1).next_power_of_two();
    let count = u8::try_from(blocks).expect("a small file has at most 64 blocks");
    Request::Open(job.hash).encode(out);
    Request::Get { first: 0, count }.encode(out);
}

/// The root of a whole small file. More than a few blocks are hashed where nobody's network waits for it.
async fn root_of(data: Vec<u8>) -> (merkle::Digest, Vec<u8>) {
    if data.len() <= 4 * BLOCK {
        return (merkle::single_chunk_root(&data), data);
    }
    spawn_blocking(move || (merkle::single_chunk_root(&data), data)).await.unwrap_or_default()
}
#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::event::DownloadEvent;
    use crate::folder::{FolderConfig, FolderDownload, FolderGoal, Selection};
    use crate::library::Library;
    use crate::part::Destination;
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
