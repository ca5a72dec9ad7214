//! The provider's side of one connection.
//!
//! Three things go on at once: requests are read, runs are read from disk ahead of the socket on blocking threads, and
//! answers are written in order (`answer.rs`). All of it lives in the caller's task.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::sync::mpsc;

use crate::answer::Answers;
use crate::index::IndexError;
use crate::library::Library;
use crate::protocol::{DecodeError, PREFIX, Request, SKIPPED_MAX, SMALL_FRAME_MAX};
use crate::rate::Throttle;

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
    /// Rates that what is sent is held to. Default none.
    pub throttle: Throttle,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            uploads: 16,
            queued: 64,
            read_ahead: 2,
            idle: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            throttle: Throttle::default(),
        }
    }
}

/// What was served, for all connections that share it.
#[derive(Debug, Default)]
pub struct ServeStats {
    pub(crate) connections: AtomicU64,
    pub(crate) uploads: AtomicU64,
    pub(crate) opened: AtomicU64,
    pub(crate) not_found: AtomicU64,
    pub(crate) runs: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) busy: AtomicU64,
    pub(crate) changed: AtomicU64,
    pub(crate) bad_requests: AtomicU64,
    pub(crate) skipped_frames: AtomicU64,
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
    let answers = Answers::new(write, waiting, library, limits, &stats);
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

/// A counter that goes down again when this is dropped.
pub(crate) struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    /// Counts one more, unless there are `max` already.
    pub(crate) fn new(
        stats: &'a ServeStats,
        counter: fn(&ServeStats) -> &AtomicU64,
        max: u64,
    ) -> Option<Self> {
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
