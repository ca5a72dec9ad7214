//! One source of small files at work, a lane: asks for them ahead, receives them, checks them.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::lend::Link;
use super::write::Content;
use crate::Throttle;
use crate::event::SourceFault;
use crate::geometry::{BLOCK, CHUNK, Geometry};
use crate::hash::{FileHash, Info, Kind};
use crate::merkle;
use crate::protocol::{ErrorCode, PREFIX, RUN_HEAD, Reply, Request, SKIPPED_MAX, SMALL_FRAME_MAX};

/// What a lane says.
pub(super) enum Answer {
    /// A content that was checked.
    Got { link: u64, job: Asked, content: Content },
    /// The source does not have it.
    Lacks { link: u64, job: Asked },
    /// The source is at its end; what it did not answer goes to others.
    Failed { link: u64, jobs: Vec<Asked>, fault: SourceFault },
}

/// A content that a source was asked for, or is to be.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) hash: FileHash,
    pub(super) length: u64,
    /// Sources that do not have it.
    pub(super) lack: Vec<u64>,
}

/// One source: asks, receives and checks.
pub(super) struct LaneTask {
    pub(super) asked: mpsc::Receiver<Asked>,
    pub(super) answers: mpsc::Sender<Answer>,
    pub(super) stall: Duration,
    /// For one file.
    pub(super) limit: Duration,
    pub(super) unwritten: Arc<Semaphore>,
    pub(super) throttle: Throttle,
    pub(super) skipped: usize,
}

impl LaneTask {
    /// Works until there is nothing more to ask for; the connection can be used for something else then, unless it failed.
    pub(super) async fn run(mut self, mut link: Link) -> Result<Link, (u64, SourceFault)> {
        let mut sent = VecDeque::new();
        let fault = match self.work(&mut link, &mut sent).await {
            Ok(()) => match timeout(self.stall, link.settle()).await {
                Ok(Ok(())) => return Ok(link),
                Ok(Err(error)) => SourceFault::Io(error.kind()),
                Err(_) => SourceFault::Stalled(self.stall),
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
