//! The requester's side of one connection: asks for chunks ahead, receives them into reused buffers, and hands them to
//! blocking threads to be checked and written while it receives the next.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::event::{DownloadError, SourceFault};
use crate::geometry::{CHUNK, Run};
use crate::hash::{HASH_LEN, Info, Kind};
use crate::picker::SourceId;
use crate::protocol::{self, ErrorCode, PREFIX, RUN_HEAD, Reply, Request, SKIPPED_MAX, SMALL_FRAME_MAX};
use crate::shared::{Plan, Shared};

/// Requests ahead before anything is known about a source's speed.
const WINDOW_START: usize = 2;

/// Runs one source until it is cancelled, fails, or has nothing more to give.
pub(crate) async fn run<S>(shared: Arc<Shared>, id: SourceId, token: CancellationToken, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut source =
        Connection { shared: &shared, id, stream, frame: Vec::new(), skipped: 0, speed: Speed::new() };
    let result = tokio::select! {
        () = token.cancelled() => Ok(()),
        result = source.run() => result,
    };
    if let Err(fault) = result {
        shared.lose(id, fault);
    }
    // A goodbye for streams that have one; the other side also notices without.
    let _ = timeout(std::time::Duration::from_millis(100), source.stream.shutdown()).await;
    shared.leave(id);
}

struct Connection<'a, S> {
    shared: &'a Arc<Shared>,
    id: SourceId,
    stream: S,
    /// The last small frame, kind and body.
    frame: Vec<u8>,
    skipped: usize,
    speed: Speed,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<'_, S> {
    async fn run(&mut self) -> Result<(), SourceFault> {
        self.shared.gate.cancelled().await;
        let mut request = Vec::new();
        Request::Open(self.shared.hash).encode(&mut request);
        self.send(&request).await?;
        let info = match self.small_reply().await? {
            Reply::Info(info) => info,
            Reply::NotFound => return Err(SourceFault::NotFound),
            Reply::Error(code) => return Err(fault_of(code)),
            Reply::Run { .. } => return Err(SourceFault::Protocol("a run instead of the info")),
        };
        if check_info(self.shared, &info)?
            && let Some(plan) = self.shared.plan(info).await
        {
            self.transfer(&plan).await?;
        }
        Ok(())
    }

    /// Asks and receives until the download is complete.
    async fn transfer(&mut self, plan: &Arc<Plan>) -> Result<(), SourceFault> {
        let mut asked: VecDeque<Run> = VecDeque::new();
        let mut requests = Vec::new();
        loop {
            // Listens before it looks, so that work given back in between is not missed.
            let work = self.shared.work.notified();
            let mut work = pin!(work);
            work.as_mut().enable();
            requests.clear();
            let window = self.speed.window(self.shared.config.window);
            while asked.len() < window
                && let Some(chunk) = self.shared.take(self.id, asked.len())
            {
                let run = plan.geometry.chunk(chunk).expect("the picker has as many chunks as the geometry");
                Request::Get { first: run.first(), count: run.count() }.encode(&mut requests);
                asked.push_back(run);
            }
            if !requests.is_empty() {
                self.send(&requests).await?;
            }
            match asked.pop_front() {
                Some(run) => self.receive(plan, run).await?,
                None if self.shared.is_complete() => return Ok(()),
                None => {
                    self.speed.pause();
                    work.await;
                }
            }
        }
    }

    /// Receives the answer for one run and has it checked.
    async fn receive(&mut self, plan: &Arc<Plan>, run: Run) -> Result<(), SourceFault> {
        let limit = self.shared.config.run_timeout;
        let mut buffer = self.shared.buffer();
        let received = timeout(limit, self.read_run(run, &mut buffer)).await;
        match received.unwrap_or(Err(SourceFault::Stalled(limit))) {
            Ok(()) => {
                self.speed.received(run.len());
                self.hand_over(plan, run, buffer).await;
                Ok(())
            }
            Err(fault) => {
                self.shared.put_back(buffer);
                Err(fault)
            }
        }
    }

    /// Reads the frame that answers the request for `run`: proof and data into `buffer`.
    async fn read_run(&mut self, run: Run, buffer: &mut Vec<u8>) -> Result<(), SourceFault> {
        let body = run.proof_len() * HASH_LEN + run.len();
        let (len, kind) = self.head().await?;
        if kind != protocol::RUN {
            self.small_body(len, kind).await?;
            return match self.decode()? {
                Some(Reply::Error(code)) => Err(fault_of(code)),
                Some(_) => Err(SourceFault::Protocol("another answer than a run")),
                None => Box::pin(self.read_run(run, buffer)).await,
            };
        }
        // The length is known to the byte, so nothing is allocated on the word of the other side.
        if len != RUN_HEAD + body {
            return Err(SourceFault::Protocol("a run of the wrong length"));
        }
        let mut head = [0; RUN_HEAD];
        head[0] = kind;
        read_exact(&mut self.stream, &mut head[1..], self.shared).await?;
        let expected = (run.first(), run.count(), run.proof_len());
        match Reply::decode(&head) {
            Ok(Some(Reply::Run { first, count, hashes }))
                if (first, count, usize::from(hashes)) == expected => {}
            _ => return Err(SourceFault::Protocol("a run that was not asked for")),
        }
        buffer.resize(body, 0);
        read_exact(&mut self.stream, buffer, self.shared).await
    }

    /// Gives a run to a blocking thread; waits while too many are being checked.
    async fn hand_over(&mut self, plan: &Arc<Plan>, run: Run, buffer: Vec<u8>) {
        let permit = Arc::clone(&self.shared.checks).acquire_owned().await.expect("never closed");
        let (shared, plan, id) = (Arc::clone(self.shared), Arc::clone(plan), self.id);
        // Not awaited here: whoever holds all permits knows that all are done.
        spawn_blocking(move || {
            shared.check(&plan, id, run, &buffer);
            shared.put_back(buffer);
            drop(permit);
        });
    }

    /// The next small frame of a known kind.
    async fn small_reply(&mut self) -> Result<Reply, SourceFault> {
        loop {
            let (len, kind) = self.head().await?;
            self.small_body(len, kind).await?;
            if let Some(reply) = self.decode()? {
                return Ok(reply);
            }
        }
    }

    /// Length and kind of the next frame; the length counts the kind.
    async fn head(&mut self) -> Result<(usize, u8), SourceFault> {
        let mut head = [0; PREFIX + 1];
        read_exact(&mut self.stream, &mut head, self.shared).await?;
        let [a, b, c, d, kind] = head;
        match usize::try_from(u32::from_be_bytes([a, b, c, d])) {
            Ok(len) if (1..=protocol::FRAME_MAX).contains(&len) => Ok((len, kind)),
            _ => Err(SourceFault::Protocol("a frame beyond the limits")),
        }
    }

    /// Reads the rest of a frame that is not a run.
    async fn small_body(&mut self, len: usize, kind: u8) -> Result<(), SourceFault> {
        if len > SMALL_FRAME_MAX {
            return Err(SourceFault::Protocol("a frame beyond the limits"));
        }
        self.frame.clear();
        self.frame.resize(len, 0);
        self.frame[0] = kind;
        read_exact(&mut self.stream, &mut self.frame[1..], self.shared).await
    }

    /// The small frame that was read; `None` for one to skip.
    fn decode(&mut self) -> Result<Option<Reply>, SourceFault> {
        let reply = Reply::decode(&self.frame).map_err(|_| SourceFault::Protocol("a malformed frame"))?;
        if reply.is_none() {
            self.skipped += PREFIX + self.frame.len();
            if self.skipped > SKIPPED_MAX {
                return Err(SourceFault::Protocol("too many frames of unknown kinds"));
            }
        }
        Ok(reply)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), SourceFault> {
        let limit = self.shared.config.stall;
        let sent = timeout(limit, async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        });
        sent.await.map_err(|_| SourceFault::Stalled(limit))?.map_err(|error| SourceFault::Io(error.kind()))
    }
}

/// Checks what a source says the hash is made of, before its data; false when the download fails for it.
fn check_info(shared: &Shared, info: &Info) -> Result<bool, SourceFault> {
    if info.hash() != shared.hash {
        return Err(SourceFault::WrongInfo);
    }
    // From here on it is the truth about the hash, whoever says it.
    if info.kind != Kind::File {
        shared.fail(DownloadError::Directory);
        return Ok(false);
    }
    let (length, max) = (info.length, shared.config.max_length.min(crate::LENGTH_MAX));
    if length > max {
        shared.fail(DownloadError::TooLarge { length, max });
        return Err(SourceFault::TooLarge { length, max });
    }
    Ok(true)
}

/// Fills `buf`; each step has the stall deadline.
async fn read_exact<S: AsyncRead + Unpin>(
    stream: &mut S,
    mut buf: &mut [u8],
    shared: &Shared,
) -> Result<(), SourceFault> {
    let limit = shared.config.stall;
    while !buf.is_empty() {
        let read = timeout(limit, stream.read(buf)).await.map_err(|_| SourceFault::Stalled(limit))?;
        match read.map_err(|error| SourceFault::Io(error.kind()))? {
            0 => return Err(SourceFault::Io(io::ErrorKind::UnexpectedEof)),
            n => buf = &mut buf[n..],
        }
    }
    Ok(())
}

const fn fault_of(code: ErrorCode) -> SourceFault {
    match code {
        ErrorCode::Changed => SourceFault::Changed,
        ErrorCode::Busy => SourceFault::Busy,
        ErrorCode::BadRequest => SourceFault::Protocol("it calls our request bad"),
    }
}

/// How fast a source is, and so how much to ask ahead: about a second's worth, so that little has to be asked again
/// when it fails, and a slow source holds little at the end.
struct Speed {
    last: Instant,
    bytes_per_second: f64,
}

impl Speed {
    fn new() -> Self {
        Self { last: Instant::now(), bytes_per_second: 0.0 }
    }

    /// Time without a request does not count.
    fn pause(&mut self) {
        self.last = Instant::now();
    }

    #[expect(clippy::cast_precision_loss, reason = "at most 1 MiB")]
    fn received(&mut self, bytes: usize) {
        let now = Instant::now();
        let seconds = (now - self.last).as_secs_f64().max(1e-6);
        let rate = bytes as f64 / seconds;
        // The first measure counts whole, later ones a quarter.
        let weight = if self.bytes_per_second == 0.0 { 1.0 } else { 0.25 };
        self.bytes_per_second += weight * (rate - self.bytes_per_second);
        self.last = now;
    }

    fn window(&self, max: usize) -> usize {
        #[expect(clippy::cast_precision_loss, reason = "exactly 2^20")]
        let runs = self.bytes_per_second / CHUNK as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 64")]
        let ahead = runs.clamp(0.0, 64.0) as usize;
        (ahead + 1).clamp(WINDOW_START, max.clamp(WINDOW_START, protocol::GETS_MAX))
    }
}
