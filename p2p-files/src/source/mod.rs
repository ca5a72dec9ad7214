//! The requester's side of one connection: asks for chunks ahead, receives them into reused buffers, and hands them to
//! blocking threads to be checked and written while it receives the next.

mod read;
mod speed;

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::buffer::RunBuffer;
use crate::event::{DownloadError, SourceFault};
use crate::geometry::Run;
use crate::hash::{HASH_LEN, Info, Kind};
use crate::picker::SourceId;
use crate::plan::Plan;
use crate::protocol::{self, ErrorCode, HAVE_CHUNKS_MAX, HAVE_WAIT, PREFIX, RUN_HEAD, Reply, Request};
use crate::rate::Throttle;
use crate::shared::Shared;

use speed::Speed;

/// Runs one source until it is cancelled, fails, or has nothing more to give.
pub(crate) async fn run<S>(
    shared: Arc<Shared>,
    id: SourceId,
    token: CancellationToken,
    throttle: Throttle,
    stream: S,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut source = Connection {
        shared: &shared,
        id,
        stream,
        throttle,
        may_read: 0,
        head: [0; HEAD],
        head_len: 0,
        answer_began: None,
        held_back: Duration::ZERO,
        frame: Vec::new(),
        skipped: 0,
        speed: Speed::new(),
    };
    let result = tokio::select! {
        () = token.cancelled() => Ok(()),
        result = source.run() => result,
    };
    if let Err(fault) = result {
        shared.lose(id, fault);
    }
    // A goodbye for streams that have one; the other side also notices without.
    let _ = timeout(Duration::from_millis(100), source.stream.shutdown()).await;
    shared.leave(id);
}

/// Bytes of the length and the kind of a frame.
const HEAD: usize = PREFIX + 1;

/// Beside what the provider holds an answer back, how long it may take.
const HAVE_LATE: Duration = Duration::from_secs(10);

struct Connection<'a, S> {
    shared: &'a Arc<Shared>,
    id: SourceId,
    stream: S,
    throttle: Throttle,
    /// Bytes that the throttle gave and that were not read yet.
    may_read: usize,
    /// Length and kind of the frame that is being received, as far as they are here.
    head: [u8; HEAD],
    head_len: usize,
    /// When the answer that is being received began, and how long the throttle held it back.
    answer_began: Option<Instant>,
    held_back: Duration,
    /// The last small frame, kind and body.
    frame: Vec<u8>,
    skipped: usize,
    speed: Speed,
}

/// What a source has of the file.
#[derive(Debug, Clone, Copy)]
enum Holding {
    Everything,
    /// A part: which chunks are asked about next, and how many of them it is known to have.
    Part {
        first: u64,
        known: u64,
    },
}

/// A request that waits for its answer.
#[derive(Debug)]
enum Asked {
    Run(Run),
    Have { first: u64 },
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<'_, S> {
    async fn run(&mut self) -> Result<(), SourceFault> {
        self.shared.gate.cancelled().await;
        let mut request = Vec::new();
        Request::Open(self.shared.hash).encode(&mut request);
        self.send(&request).await?;
        let (info, holding) = match self.small_reply().await? {
            Reply::Info(info) => (info, Holding::Everything),
            Reply::Part(info) => (info, Holding::Part { first: 0, known: 0 }),
            Reply::NotFound => return Err(SourceFault::NotFound),
            Reply::Error(code) => return Err(fault_of(code)),
            _ => return Err(SourceFault::Protocol("another answer than the info")),
        };
        if check_info(self.shared, &info)?
            && let Some(plan) = self.shared.plan(info).await
        {
            if matches!(holding, Holding::Part { .. }) {
                self.shared.has_part(self.id, 0, &[]);
            }
            self.transfer(&plan, holding).await?;
        }
        Ok(())
    }

    /// Asks and receives until the download is complete.
    async fn transfer(&mut self, plan: &Arc<Plan>, mut holding: Holding) -> Result<(), SourceFault> {
        let mut asked: VecDeque<Asked> = VecDeque::new();
        let mut requests = Vec::new();
        loop {
            // Listens before it looks, so that work given back in between is not missed.
            let shared = Arc::clone(self.shared);
            let work = shared.work.notified();
            let mut work = pin!(work);
            work.as_mut().enable();
            requests.clear();
            self.ask(plan, holding, &mut asked, &mut requests);
            if !requests.is_empty() {
                self.send(&requests).await?;
            }
            match asked.front() {
                Some(Asked::Run(run)) => {
                    let run = *run;
                    asked.pop_front();
                    self.receive(plan, run).await?;
                }
                Some(Asked::Have { first }) => {
                    let first = *first;
                    self.speed.pause();
                    tokio::select! {
                        () = work, if asked.len() == 1 => {}
                        head = self.head_within(HAVE_WAIT + HAVE_LATE) => {
                            head?;
                            let known = self.held(plan, first).await?;
                            asked.pop_front();
                            holding = next_window(plan, first, known);
                        }
                    }
                }
                None if self.shared.is_complete() => return Ok(()),
                None => {
                    self.speed.pause();
                    work.await;
                }
            }
        }
    }

    /// Adds requests: for runs, as far ahead as the source is fast, and for what it has when there is nothing else to
    /// ask of it.
    fn ask(&self, plan: &Plan, holding: Holding, asked: &mut VecDeque<Asked>, requests: &mut Vec<u8>) {
        let window = self.speed.window(self.shared.config.window);
        let mut runs = asked.iter().filter(|asked| matches!(asked, Asked::Run(_))).count();
        while asked.len() < window
            && let Some(chunk) = self.shared.take(self.id, runs)
        {
            runs += 1;
            let run = plan.geometry.chunk(chunk).expect("the picker has as many chunks as the geometry");
            Request::Get { first: run.first(), count: run.count() }.encode(requests);
            asked.push_back(Asked::Run(run));
        }
        if let Holding::Part { first, known } = holding
            && asked.len() < window
            && asked.len() == runs
        {
            let known = u32::try_from(known).unwrap_or(u32::MAX);
            Request::Have { first, known }.encode(requests);
            asked.push_back(Asked::Have { first });
        }
    }

    /// Receives the rest of a frame that says which chunks from `first` on the source has: how many.
    async fn held(&mut self, plan: &Plan, first: u64) -> Result<u64, SourceFault> {
        let reply = self.small_reply().await?;
        let chunks = (plan.geometry.chunks() - first).min(HAVE_CHUNKS_MAX);
        match reply {
            Reply::Held { first: from, bits } if from == first && bits.len() as u64 == chunks.div_ceil(8) => {
                Ok(self.shared.has_part(self.id, first, &bits))
            }
            Reply::Error(code) => Err(fault_of(code)),
            _ => Err(SourceFault::Protocol("another answer than what it holds")),
        }
    }

    /// Receives the answer for one run and has it checked.
    async fn receive(&mut self, plan: &Arc<Plan>, run: Run) -> Result<(), SourceFault> {
        let mut buffer = self.shared.buffer();
        self.begin_answer();
        let received = self.read_run(run, &mut buffer).await;
        self.answer_began = None;
        match received {
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
    async fn read_run(&mut self, run: Run, buffer: &mut RunBuffer) -> Result<(), SourceFault> {
        let body = run.proof_len() * HASH_LEN + run.len();
        let (len, kind) = loop {
            let (len, kind) = self.head().await?;
            if kind == protocol::RUN {
                break (len, kind);
            }
            self.small_body(len, kind).await?;
            match self.decode()? {
                Some(Reply::Error(code)) => return Err(fault_of(code)),
                Some(_) => return Err(SourceFault::Protocol("another answer than a run")),
                None => self.in_time()?,
            }
        };
        // The length is known to the byte, so nothing is allocated on the word of the other side.
        if len != RUN_HEAD + body {
            return Err(SourceFault::Protocol("a run of the wrong length"));
        }
        let mut head = [0; RUN_HEAD];
        head[0] = kind;
        self.read_exact(&mut head[1..]).await?;
        let expected = (run.first(), run.count(), run.proof_len());
        match Reply::decode(&head) {
            Ok(Some(Reply::Run { first, count, hashes }))
                if (first, count, usize::from(hashes)) == expected => {}
            _ => return Err(SourceFault::Protocol("a run that was not asked for")),
        }
        self.read_exact(buffer.receive(run)).await
    }

    /// Gives a run to a blocking thread; waits while too many are being checked.
    async fn hand_over(&mut self, plan: &Arc<Plan>, run: Run, buffer: RunBuffer) {
        let permit = Arc::clone(&self.shared.checks).acquire_owned().await.expect("never closed");
        let (shared, plan, id) = (Arc::clone(self.shared), Arc::clone(plan), self.id);
        // Not awaited here: whoever holds all permits knows that all are done.
        spawn_blocking(move || {
            shared.check(&plan, id, run, &buffer);
            shared.put_back(buffer);
            drop(permit);
        });
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
    if info.kind != shared.config.kind {
        let is_dir = info.kind == Kind::Dir;
        shared.fail(if is_dir { DownloadError::Directory } else { DownloadError::NotDirectory });
        return Ok(false);
    }
    if let Some(said) = shared.config.length.filter(|said| *said != info.length) {
        shared.fail(DownloadError::WrongLength { said, length: info.length });
        return Ok(false);
    }
    let (length, max) = (info.length, shared.config.max_length.min(crate::LENGTH_MAX));
    if length > max {
        shared.fail(DownloadError::TooLarge { length, max });
        return Err(SourceFault::TooLarge { length, max });
    }
    Ok(true)
}

/// What to ask about after `known` chunks of those from `first` on are known. A file has more than one such window
/// above 256 GiB: then they take turns, and answers come at once.
fn next_window(plan: &Plan, first: u64, known: u64) -> Holding {
    let next = first + HAVE_CHUNKS_MAX;
    match plan.geometry.chunks() {
        chunks if chunks <= HAVE_CHUNKS_MAX => Holding::Part { first: 0, known },
        chunks => Holding::Part { first: if next < chunks { next } else { 0 }, known: 0 },
    }
}

const fn fault_of(code: ErrorCode) -> SourceFault {
    match code {
        ErrorCode::Changed => SourceFault::Changed,
        ErrorCode::Busy => SourceFault::Busy,
        ErrorCode::BadRequest => SourceFault::Protocol("it calls our request bad"),
    }
}
