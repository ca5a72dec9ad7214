//! The provider's side of one connection.
//!
//! Three things go on at once: requests are read, runs are read from disk ahead of the socket on blocking threads, and
//! answers are written in order. All of it lives in the caller's task.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use crate::geometry::Run;
use crate::hash::{FileHash, HASH_LEN};
use crate::index::IndexError;
use crate::library::Library;
use crate::open::{OpenShare, ReadError};
use crate::protocol::{
    DecodeError, ErrorCode, PREFIX, RUN_HEAD, Reply, Request, SKIPPED_MAX, SMALL_FRAME_MAX,
};

/// Bounds for one connection that is served.
#[derive(Debug, Clone)]
pub struct ServeLimits {
    /// Connections that may have a file open at once, counted in the [`ServeStats`] they share; beyond that `Open` is
    /// answered Busy. Default 16, which with the buffers below is 48 MiB at worst.
    pub uploads: u64,
    /// Requests of one connection that wait for their answer; then no more are read. Default 64.
    pub queued: usize,
    /// Runs read from disk ahead of the one being written, 1 MiB each. Default 2: one is read while one waits, a guess.
    pub read_ahead: usize,
    /// How long a connection may be without a request. Default 60 s.
    pub idle: Duration,
    /// How long a write may make no progress. Default 30 s: a receiver may be waiting for its disk.
    pub stall: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            uploads: 16,
            queued: 64,
            read_ahead: 2,
            idle: Duration::from_secs(60),
            stall: Duration::from_secs(30),
        }
    }
}

/// What was served, for all connections that share it.
#[derive(Debug, Default)]
pub struct ServeStats {
    connections: AtomicU64,
    uploads: AtomicU64,
    opened: AtomicU64,
    not_found: AtomicU64,
    runs: AtomicU64,
    bytes: AtomicU64,
    busy: AtomicU64,
    changed: AtomicU64,
    bad_requests: AtomicU64,
    skipped_frames: AtomicU64,
}

/// The counters of a [`ServeStats`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ServeCounts {
    /// Connections being served now.
    pub connections: u64,
    /// Of these, the ones that have a file open.
    pub uploads: u64,
    /// Files opened so far.
    pub opened: u64,
    /// Requests for files that are not shared.
    pub not_found: u64,
    /// Runs sent.
    pub runs: u64,
    /// Bytes of content sent.
    pub bytes: u64,
    /// Requests answered Busy.
    pub busy: u64,
    /// Requests answered Changed.
    pub changed: u64,
    /// Connections ended because of a bad request.
    pub bad_requests: u64,
    /// Frames of unknown kinds that were skipped.
    pub skipped_frames: u64,
}

impl ServeStats {
    /// The counters now.
    #[must_use]
    pub fn counts(&self) -> ServeCounts {
        ServeCounts {
            connections: self.connections.load(Relaxed),
            uploads: self.uploads.load(Relaxed),
            opened: self.opened.load(Relaxed),
            not_found: self.not_found.load(Relaxed),
            runs: self.runs.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            busy: self.busy.load(Relaxed),
            changed: self.changed.load(Relaxed),
            bad_requests: self.bad_requests.load(Relaxed),
            skipped_frames: self.skipped_frames.load(Relaxed),
        }
    }
}

/// Why serving a connection ended before the other side closed it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// A frame is longer than its kind may be.
    #[error("request frame of {len} bytes, the limit is {SMALL_FRAME_MAX}")]
    FrameTooLong {
        /// Bytes it claims to have.
        len: u32,
    },
    /// A frame could not be read.
    #[error("malformed request")]
    Malformed(#[from] DecodeError),
    /// A request names a run that does not exist, or no file was opened before it.
    #[error("request for a run that does not exist")]
    BadRun,
    /// More than 1 MiB of frames of unknown kinds.
    #[error("too many frames of unknown kinds")]
    TooMuchSkipped,
    /// No request came within the idle deadline.
    #[error("no request for {0:?}")]
    Idle(Duration),
    /// The other side takes nothing.
    #[error("no progress in writing for {0:?}")]
    Stalled(Duration),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Serves the files of `library` on one connection until the other side closes it, orderly or not.
///
/// Holds at most `read_ahead + 1` buffers of 1 MiB, and none while no request waits. A file that changed since it was
/// added is answered with Changed, marked [`Gone`](crate::ShareState::Gone) and not served again until it is re-added.
///
/// # Errors
///
/// [`ServeError`] when the connection fails, the other side breaks the protocol, or a deadline passes.
///
/// # Cancel safety
///
/// Dropping the future drops the connection in the middle of a frame; nothing else is lost.
pub async fn serve<S>(
    stream: S,
    library: Arc<Library>,
    limits: ServeLimits,
    stats: Arc<ServeStats>,
) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let _connection = Counted::new(&stats, |stats| &stats.connections, u64::MAX);
    let (read, write) = tokio::io::split(stream);
    let (requests, waiting) = mpsc::channel(limits.queued.max(1));
    let answers = Answers {
        write,
        waiting,
        library,
        limits,
        stats: &stats,
        upload: None,
        share: None,
        jobs: VecDeque::new(),
        spare: Vec::new(),
        held: None,
    };
    // Whichever side fails ends both; when reading ends well, what was asked is still answered.
    match tokio::try_join!(read_requests(read, requests, &stats), answers.run()) {
        Err(ServeError::Io(error)) if is_goodbye(&error) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Whether the other side just went away, as a requester does that has all it wants.
fn is_goodbye(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// Passes requests on until the other side closes; an error goes to the answering half, which says so to the other side.
async fn read_requests<R: AsyncRead + Unpin>(
    mut read: R,
    requests: mpsc::Sender<Result<Request, ServeError>>,
    stats: &ServeStats,
) -> Result<(), ServeError> {
    let mut buf = Vec::with_capacity(64);
    let mut skipped = 0;
    loop {
        let next = match read_frame(&mut read, &mut buf).await {
            Ok(false) => return Ok(()),
            Ok(true) => Request::decode(&buf).map_err(ServeError::from),
            Err(error) => Err(error),
        };
        let request = match next {
            Ok(Some(request)) => Ok(request),
            Ok(None) => {
                stats.skipped_frames.fetch_add(1, Relaxed);
                skipped += PREFIX + buf.len();
                if skipped <= SKIPPED_MAX {
                    continue;
                }
                Err(ServeError::TooMuchSkipped)
            }
            Err(error) => Err(error),
        };
        let last = request.is_err();
        if requests.send(request).await.is_err() || last {
            return Ok(());
        }
    }
}

/// Reads a small frame's kind and body into `buf`; false at the end of the stream between two frames.
async fn read_frame<R: AsyncRead + Unpin>(read: &mut R, buf: &mut Vec<u8>) -> Result<bool, ServeError> {
    let mut prefix = [0; PREFIX];
    if read.read(&mut prefix[..1]).await? == 0 {
        return Ok(false);
    }
    read.read_exact(&mut prefix[1..]).await?;
    let len = u32::from_be_bytes(prefix);
    let wanted = usize::try_from(len).ok().filter(|len| *len <= SMALL_FRAME_MAX);
    let wanted = wanted.ok_or(ServeError::FrameTooLong { len })?;
    buf.clear();
    buf.resize(wanted, 0);
    read.read_exact(buf).await?;
    Ok(true)
}

/// The half that answers.
struct Answers<'a, W> {
    write: W,
    waiting: mpsc::Receiver<Result<Request, ServeError>>,
    library: Arc<Library>,
    limits: ServeLimits,
    stats: &'a ServeStats,
    upload: Option<Counted<'a>>,
    share: Option<Arc<OpenShare>>,
    /// Runs being read, oldest first.
    jobs: VecDeque<Job>,
    /// Buffers for runs that are not in use.
    spare: Vec<Vec<u8>>,
    /// A request that has to wait until the jobs before it are done.
    held: Option<Result<Request, ServeError>>,
}

/// A run being read on a blocking thread: the whole frame, or why not.
struct Job {
    share: Arc<OpenShare>,
    read: JoinHandle<(Vec<u8>, Result<usize, ReadError>)>,
}

impl<W: AsyncWrite + Unpin> Answers<'_, W> {
    async fn run(mut self) -> Result<(), ServeError> {
        loop {
            self.start_jobs();
            if let Some(job) = self.jobs.pop_front() {
                self.answer_run(job).await?;
                continue;
            }
            let next = match self.held.take() {
                Some(held) => Some(held),
                None => self.next_request().await?,
            };
            match next {
                Some(Ok(Request::Open(hash))) => self.open(hash).await?,
                Some(Ok(get)) if self.share.is_some() => self.held = Some(Ok(get)),
                // Nothing was opened: the run cannot exist.
                Some(Ok(_)) => return self.refuse(ServeError::BadRun).await,
                Some(Err(error)) => return self.refuse(error).await,
                None => {
                    // The other side may be gone already; then there is nobody to say goodbye to.
                    let _ = timeout(self.limits.stall, self.write.shutdown()).await;
                    return Ok(());
                }
            }
        }
    }

    /// Waits for a request; `None` when the other side closed.
    async fn next_request(&mut self) -> Result<Option<Result<Request, ServeError>>, ServeError> {
        if let Ok(request) = self.waiting.try_recv() {
            return Ok(Some(request));
        }
        self.write.flush().await?;
        self.spare.clear();
        timeout(self.limits.idle, self.waiting.recv()).await.map_err(|_| ServeError::Idle(self.limits.idle))
    }

    /// Starts reading the runs that wait, up to the read-ahead.
    fn start_jobs(&mut self) {
        while self.jobs.len() <= self.limits.read_ahead {
            let Some(request) = self.held.take().or_else(|| self.waiting.try_recv().ok()) else { return };
            match (&self.share, request) {
                (Some(share), Ok(Request::Get { first, count })) => match share.geometry.run(first, count) {
                    Ok(run) => {
                        let share = Arc::clone(share);
                        let buf = self.spare.pop().unwrap_or_default();
                        let reader = Arc::clone(&share);
                        let read = spawn_blocking(move || read_run(&reader, run, buf));
                        self.jobs.push_back(Job { share, read });
                    }
                    Err(_) => {
                        self.held = Some(Err(ServeError::BadRun));
                        return;
                    }
                },
                (_, other) => {
                    self.held = Some(other);
                    return;
                }
            }
        }
    }

    async fn answer_run(&mut self, job: Job) -> Result<(), ServeError> {
        let (buf, read) = job.read.await.map_err(io::Error::other)?;
        match read {
            Ok(content) => {
                self.write_all(&buf).await?;
                self.stats.runs.fetch_add(1, Relaxed);
                self.stats.bytes.fetch_add(content as u64, Relaxed);
                self.spare.push(buf);
                Ok(())
            }
            Err(ReadError::Changed) => {
                let library = Arc::clone(&self.library);
                let mark = move || library.mark_gone(&job.share.path, &job.share.record);
                spawn_blocking(mark).await.map_err(io::Error::other)?;
                self.stats.changed.fetch_add(1, Relaxed);
                self.reply(Reply::Error(ErrorCode::Changed)).await
            }
            Err(ReadError::Io(error)) => {
                tracing::warn!(%error, hash = %job.share.record.hash.short(), "reading a shared file");
                self.stats.busy.fetch_add(1, Relaxed);
                self.reply(Reply::Error(ErrorCode::Busy)).await
            }
        }
    }

    async fn open(&mut self, hash: FileHash) -> Result<(), ServeError> {
        self.share = None;
        if self.upload.is_none() {
            self.upload = Counted::new(self.stats, |stats| &stats.uploads, self.limits.uploads);
        }
        if self.upload.is_none() {
            self.stats.busy.fetch_add(1, Relaxed);
            return self.reply(Reply::Error(ErrorCode::Busy)).await;
        }
        let library = Arc::clone(&self.library);
        let opened = spawn_blocking(move || library.open_share(&hash)).await.map_err(io::Error::other)??;
        match opened {
            Some(share) => {
                self.stats.opened.fetch_add(1, Relaxed);
                let info = share.record.info;
                self.share = Some(Arc::new(share));
                self.reply(Reply::Info(info)).await
            }
            None => {
                self.upload = None;
                self.stats.not_found.fetch_add(1, Relaxed);
                self.reply(Reply::NotFound).await
            }
        }
    }

    /// Tells the other side that its request is bad, and ends.
    async fn refuse(&mut self, error: ServeError) -> Result<(), ServeError> {
        if !matches!(error, ServeError::Io(_)) {
            self.stats.bad_requests.fetch_add(1, Relaxed);
            self.reply(Reply::Error(ErrorCode::BadRequest)).await?;
            self.write.flush().await?;
            self.write.shutdown().await?;
        }
        Err(error)
    }

    async fn reply(&mut self, reply: Reply) -> Result<(), ServeError> {
        let mut frame = Vec::with_capacity(64);
        reply.encode(0, &mut frame);
        self.write_all(&frame).await
    }

    async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), ServeError> {
        while !bytes.is_empty() {
            let stalled = |_| ServeError::Stalled(self.limits.stall);
            let written = timeout(self.limits.stall, self.write.write(bytes)).await.map_err(stalled)??;
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            bytes = &bytes[written..];
        }
        Ok(())
    }
}

/// Reads one run into a whole frame; gives the buffer back with the bytes of content in it.
fn read_run(share: &OpenShare, run: Run, mut buf: Vec<u8>) -> (Vec<u8>, Result<usize, ReadError>) {
    let hashes = u8::try_from(run.proof_len()).expect("a tree has at most 34 levels");
    let data_len = u32::try_from(run.len()).expect("a run has at most 1 MiB");
    let proof_at = PREFIX + RUN_HEAD;
    let data_at = proof_at + run.proof_len() * HASH_LEN;
    let mut head = Vec::with_capacity(proof_at);
    Reply::Run { first: run.first(), count: run.count(), hashes }.encode(data_len, &mut head);
    // Only the first use of a buffer, and the step from a short run to a longer one, fill it with zeros.
    buf.resize(data_at + run.len(), 0);
    buf[..proof_at].copy_from_slice(&head);
    let (proof, data) = buf[proof_at..].split_at_mut(data_at - proof_at);
    let read = share.read(run, proof, data).map(|()| run.len());
    (buf, read)
}

/// A counter that goes down again when this is dropped.
struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    /// Counts one more, unless there are `max` already.
    fn new(stats: &'a ServeStats, counter: fn(&ServeStats) -> &AtomicU64, max: u64) -> Option<Self> {
        let counter = counter(stats);
        let up = |n: u64| (n < max).then(|| n + 1);
        counter.fetch_update(Relaxed, Relaxed, up).ok().map(|_| Self(counter))
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
