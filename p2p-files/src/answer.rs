//! The half of a served connection that answers.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until, timeout};

use crate::geometry::Run;
use crate::hash::{FileHash, HASH_LEN};
use crate::index::IndexError;
use crate::library::Library;
use crate::open::{ReadError, Source};
use crate::protocol::{ErrorCode, HAVE_CHUNKS_MAX, HAVE_WAIT, PREFIX, RUN_HEAD, Reply, Request};
use crate::serve::{Counted, ServeError, ServeLimits, ServeStats};

/// What was received: a request, or why reading ends.
type Received = Result<Request, ServeError>;

/// The half that answers.
pub(crate) struct Answers<'a, W> {
    write: W,
    waiting: mpsc::Receiver<Received>,
    library: Arc<Library>,
    limits: ServeLimits,
    stats: &'a ServeStats,
    upload: Option<Counted<'a>>,
    open: Option<Source>,
    /// How the last open was refused; requests for runs that follow it are answered alike.
    refused: Option<Refusal>,
    /// Runs being read, oldest first.
    jobs: VecDeque<Job>,
    /// Buffers for runs that are not in use.
    spare: Vec<Vec<u8>>,
    /// A request that has to wait until the jobs before it are done.
    held: Option<Received>,
}

/// Why nothing is open after an open.
#[derive(Debug, Clone, Copy)]
enum Refusal {
    NotFound,
    Busy,
}

/// A run being read on a blocking thread: the whole frame, or why not.
struct Job {
    source: Source,
    read: JoinHandle<(Vec<u8>, Result<usize, ReadError>)>,
}

impl<'a, W: AsyncWrite + Unpin> Answers<'a, W> {
    pub(crate) fn new(
        write: W,
        waiting: mpsc::Receiver<Received>,
        library: Arc<Library>,
        limits: ServeLimits,
        stats: &'a ServeStats,
    ) -> Self {
        Self {
            write,
            waiting,
            library,
            limits,
            stats,
            upload: None,
            open: None,
            refused: None,
            jobs: VecDeque::new(),
            spare: Vec::new(),
            held: None,
        }
    }

    pub(crate) async fn run(mut self) -> Result<(), ServeError> {
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
                Some(Ok(Request::Have { first, known })) => self.have(first, known).await?,
                Some(Ok(get)) if self.open.is_some() => self.held = Some(Ok(get)),
                Some(Ok(_)) => match self.refused {
                    Some(why) => self.refuse_open(why).await?,
                    // Nothing was opened: the run cannot exist.
                    None => return self.refuse(ServeError::BadRun).await,
                },
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
    async fn next_request(&mut self) -> Result<Option<Received>, ServeError> {
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
            match (&self.open, request) {
                (Some(source), Ok(Request::Get { first, count })) => {
                    match source.geometry().run(first, count) {
                        Ok(run) => {
                            let source = source.clone();
                            let buf = self.spare.pop().unwrap_or_default();
                            let reader = source.clone();
                            let read = spawn_blocking(move || read_run(&reader, run, buf));
                            self.jobs.push_back(Job { source, read });
                        }
                        Err(_) => {
                            self.held = Some(Err(ServeError::BadRun));
                            return;
                        }
                    }
                }
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
                if let Source::Whole(share) = job.source {
                    let mark = move || library.mark_gone(&share.path, &share.record);
                    spawn_blocking(mark).await.map_err(io::Error::other)?;
                }
                self.stats.changed.fetch_add(1, Relaxed);
                self.reply(Reply::Error(ErrorCode::Changed)).await
            }
            Err(ReadError::NotHeld) => {
                self.stats.busy.fetch_add(1, Relaxed);
                self.reply(Reply::Error(ErrorCode::Busy)).await
            }
            Err(ReadError::Io(error)) => {
                tracing::warn!(%error, hash = %job.source.info().hash().short(), "reading a shared file");
                self.stats.busy.fetch_add(1, Relaxed);
                self.reply(Reply::Error(ErrorCode::Busy)).await
            }
        }
    }

    async fn open(&mut self, hash: FileHash) -> Result<(), ServeError> {
        self.open = None;
        if self.upload.is_none() {
            self.upload = Counted::new(self.stats, |stats| &stats.uploads, self.limits.uploads);
        }
        if self.upload.is_none() {
            self.stats.busy.fetch_add(1, Relaxed);
            return self.refuse_open(Refusal::Busy).await;
        }
        let library = Arc::clone(&self.library);
        let opened = spawn_blocking(move || find(&library, &hash)).await.map_err(io::Error::other)??;
        let Some(source) = opened else {
            self.upload = None;
            self.stats.not_found.fetch_add(1, Relaxed);
            return self.refuse_open(Refusal::NotFound).await;
        };
        self.refused = None;
        self.stats.opened.fetch_add(1, Relaxed);
        let info = source.info();
        let reply = if matches!(source, Source::Whole(_)) { Reply::Info(info) } else { Reply::Part(info) };
        self.open = Some(source);
        self.reply(reply).await
    }

    /// Answers which chunks are held; holds the answer back while it is no news.
    async fn have(&mut self, first: u64, known: u32) -> Result<(), ServeError> {
        let chunks = self.open.as_ref().map_or(0, |source| source.geometry().chunks());
        if first >= chunks || !first.is_multiple_of(8) {
            return self.refuse(ServeError::BadRun).await;
        }
        let bits = match self.open.clone() {
            Some(Source::Part(part)) => {
                let mut news = part.news();
                let until = Instant::now() + HAVE_WAIT;
                self.write.flush().await?;
                while part.count_of(first, HAVE_CHUNKS_MAX) <= u64::from(known) {
                    tokio::select! {
                        // The sender lives as long as the part does.
                        _ = news.changed() => {}
                        request = self.waiting.recv(), if self.held.is_none() => {
                            // At the end of the stream the answer is of no use to anybody.
                            let Some(request) = request else { return Ok(()) };
                            self.held = Some(request);
                            break;
                        }
                        () = sleep_until(until) => break,
                    }
                }
                let bits = part.bits(first, HAVE_CHUNKS_MAX);
                // A long answer for a few new chunks comes less often, so that no more than 64 kB/s go into them.
                let pause = Duration::from_millis(bits.len() as u64 / 64);
                if !pause.is_zero() && self.held.is_none() {
                    tokio::time::sleep(pause).await;
                }
                bits
            }
            _ => all_ones(chunks - first),
        };
        self.reply(Reply::Held { first, bits }).await
    }

    async fn refuse_open(&mut self, why: Refusal) -> Result<(), ServeError> {
        self.refused = Some(why);
        self.reply(match why {
            Refusal::NotFound => Reply::NotFound,
            Refusal::Busy => Reply::Error(ErrorCode::Busy),
        })
        .await
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

    /// Writes all of it, no faster than the limits allow; waiting for them is not stalling.
    async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), ServeError> {
        while !bytes.is_empty() {
            let may = self.limits.throttle.take(bytes.len()).await;
            let (mut now, later) = bytes.split_at(may);
            while !now.is_empty() {
                let stalled = |_| ServeError::Stalled(self.limits.stall);
                let written = timeout(self.limits.stall, self.write.write(now)).await.map_err(stalled)??;
                if written == 0 {
                    return Err(io::Error::from(io::ErrorKind::WriteZero).into());
                }
                now = &now[written..];
            }
            bytes = later;
        }
        Ok(())
    }
}

/// The whole file, or what a download of it has so far.
fn find(library: &Library, hash: &FileHash) -> Result<Option<Source>, IndexError> {
    let whole = library.open_share(hash)?.map(|share| Source::Whole(Arc::new(share)));
    Ok(whole.or_else(|| library.running.find(hash).map(Source::Part)))
}

/// The bits of so many chunks, or as many as one answer holds, all of them held.
fn all_ones(chunks: u64) -> Vec<u8> {
    let chunks = usize::try_from(chunks.min(HAVE_CHUNKS_MAX)).expect("at most 2^18");
    let mut bits = vec![0xff; chunks.div_ceil(8)];
    if let (Some(last), used @ 1..) = (bits.last_mut(), chunks % 8) {
        *last <<= 8 - used;
    }
    bits
}

/// Reads one run into a whole frame; gives the buffer back with the bytes of content in it.
fn read_run(source: &Source, run: Run, mut buf: Vec<u8>) -> (Vec<u8>, Result<usize, ReadError>) {
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
    let read = source.read(run, proof, data).map(|()| run.len());
    (buf, read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bitfield;

    #[test]
    fn all_ones_are_those_of_a_bitfield() {
        for chunks in (1..20).chain([HAVE_CHUNKS_MAX - 1, HAVE_CHUNKS_MAX, HAVE_CHUNKS_MAX + 5]) {
            let mut bits = Bitfield::new(chunks);
            for chunk in 0..chunks {
                bits.set(chunk);
            }
            assert_eq!(all_ones(chunks), bits.to_bytes(0, HAVE_CHUNKS_MAX), "{chunks}");
        }
    }
}
