//! One link after its handshake: reads frames into batches for the driver, writes what the outbox holds.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use p2p_peers::views::Walks;
use p2p_wire::{Frame, FrameCodec, FrameError, NodeId, READ_STEP};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::codec::Decoder;

use crate::budget::Charge;
use crate::command::Admitted;
use crate::config::Limits;
use crate::inbound::{Decoded, Inbound, WORK, decode_batch};
use crate::outbox::{Next, Outbox};
use crate::packet::{ByeReason, Packet};
use crate::rate::Rate;
use crate::shared::Shared;

/// Room to read into, one TLS record's worth; a larger frame makes its own as it comes in.
pub(crate) const READ_BYTES: usize = 16 * 1024;
/// What a writer keeps of the memory in which it joins frames.
const KEPT_BYTES: usize = 512;
/// How long a link that is being closed may take to write what it still holds, however little of it is read at a time, and then
/// reads on.
pub(crate) const FLUSH: Duration = Duration::from_secs(2);

/// Counts links of one node; tells an old link of a peer from its new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(crate) u64);

/// Why a link ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Closed {
    #[error("the other side closed the connection")]
    Eof,
    #[error("{0}")]
    Io(String),
    /// The other side broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
    #[error("it took nothing for {0} s")]
    Stalled(u64),
    /// This side closed it.
    #[error("closed")]
    Local,
}

/// What a link tells the driver.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    Batch { link: LinkId, peer: NodeId, batch: Vec<Inbound>, taken: Taken },
    Closed { link: LinkId, peer: NodeId, cause: Closed },
}

/// What a batch takes of its link's inbox and of the node's queues, until it has been handled.
#[derive(Debug)]
pub(crate) struct Taken {
    _inbox: OwnedSemaphorePermit,
    _total: Charge,
}

/// What the system may keep of a link in either direction: a part of the row that [`Window`](crate::window::Window) keeps
/// short, and all of it towards nodes that have no such window. Enough for 5 MB/s at a round trip of 100 ms.
const RECEIVED_BYTES: usize = 512 * 1024;
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_BYTES: u32 = 128 * 1024;

/// How long what was sent may go without an answer of the other side's system, or its window stay closed: as long as silence
/// is borne (faults row 42), or as [`Limits::stalled_link`] if that is more. Otherwise Linux repeats it for a quarter of an
/// hour, and a link that is being closed keeps its socket for that.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNANSWERED: Duration = Duration::from_secs(30);

/// Keeps queues of a link out of the system, and the system from keeping a dead one, as far as it has the options for it.
pub(crate) fn set_options(tcp: &TcpStream, limits: &Limits) {
    let socket = SockRef::from(tcp);
    socket.set_recv_buffer_size(RECEIVED_BYTES).ok();
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        socket.set_tcp_notsent_lowat(UNSENT_BYTES).ok();
        socket.set_tcp_user_timeout(Some(UNANSWERED.max(limits.stalled_link))).ok();
    }
}

/// The parts of a link that its two halves share.
#[derive(Debug)]
pub(crate) struct LinkParts {
    pub(crate) id: LinkId,
    pub(crate) peer: NodeId,
    pub(crate) outbox: Arc<Outbox>,
    shared: Arc<Shared>,
}

impl LinkParts {
    pub(crate) fn new(shared: &Arc<Shared>, peer: NodeId, admitted: Admitted) -> Self {
        Self { id: admitted.link, peer, outbox: admitted.outbox, shared: Arc::clone(shared) }
    }

    fn limits(&self) -> &Limits {
        &self.shared.config.limits
    }
}

/// Runs a link to its end and reports it.
///
/// `codec` and `buffer` are those of the handshake: the buffer may hold frames that came behind hello.
pub(crate) async fn run<S>(stream: S, codec: FrameCodec<Packet>, buffer: BytesMut, parts: LinkParts)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (cause, hung_up) = {
        let mut read = pin!(read_frames(&mut reader, codec, buffer, &parts));
        let cause = tokio::select! {
            cause = &mut read => cause,
            cause = write_frames(&mut writer, &parts) => cause,
        };
        if parts.outbox.is_closed() {
            // What is left had its time; its room is for others.
            parts.outbox.discard();
        }
        if cause == Closed::Local {
            (hang_up(&mut writer, read, &parts.outbox).await, true)
        } else {
            (cause, false)
        }
    };
    if !hung_up {
        answer_the_end(&mut reader, &mut writer, &cause).await;
    }
    let LinkParts { id, peer, shared, .. } = parts;
    shared.arrivals.push(LinkEvent::Closed { link: id, peer, cause });
}

/// All is written, or it took too long: ends this direction, and hears what the other side sent before it knew. Returns why the
/// link ended.
async fn hang_up<W: AsyncWrite + Unpin>(
    writer: &mut W,
    read: impl Future<Output = Closed>,
    outbox: &Outbox,
) -> Closed {
    let flushed = tokio::select! {
        biased;
        _ = writer.shutdown() => true,
        () = outbox.closed_for(FLUSH) => false,
    };
    // Closing a socket with unread bytes resets it, and the reset may overtake our last frames.
    timeout(FLUSH, read).await.ok();
    if flushed { Closed::Local } else { Closed::Stalled(FLUSH.as_secs()) }
}

/// The link ended by itself or by the other side.
async fn answer_the_end<R, W>(reader: &mut R, writer: &mut W, cause: &Closed)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let misbehaved = matches!(cause, Closed::Protocol(_));
    if misbehaved {
        // Say why before going: the other side may be a different version rather than hostile.
        if let Ok(bye) = p2p_wire::encode_frame(&Packet::Bye(ByeReason::Misbehaved)) {
            timeout(FLUSH, write_all(writer, &[bye])).await.ok();
        }
    }
    timeout(FLUSH, writer.shutdown()).await.ok();
    if misbehaved {
        timeout(FLUSH, drain(reader)).await.ok();
    }
}

async fn read_frames<R>(
    reader: &mut R,
    mut codec: FrameCodec<Packet>,
    mut buffer: BytesMut,
    parts: &LinkParts,
) -> Closed
where
    R: AsyncRead + Unpin,
{
    let limits = parts.limits();
    let mut walks = Walks::default();
    let inbox = Arc::new(Semaphore::new(limits.inbox_bytes));
    let mut rate = Rate::new(Instant::now(), limits.link_bytes_per_sec, limits.link_frames_per_sec);
    let mut frame_began: Option<Instant> = None;
    loop {
        let began = Instant::now();
        let Decoded { batch, bytes, held } =
            match decode_batch(&mut codec, &mut buffer, &mut walks, &parts.shared.records) {
                Ok(decoded) => decoded,
                Err(cause) => return cause,
            };
        if !batch.is_empty() {
            frame_began = None;
            let now = Instant::now();
            let mut pause = rate.spend(now, bytes, batch.len());
            parts.shared.too_fast.fetch_add(u64::from(pause.is_some()), Ordering::Relaxed);
            let worked = now.duration_since(began);
            if worked > WORK {
                pause = pause.max(Some(now + worked));
            }
            // A batch larger than the whole inbox would wait for ever: it then takes all of it.
            let weight = u32::try_from(held.min(limits.inbox_bytes)).unwrap_or(u32::MAX);
            let Ok(inbox) = Arc::clone(&inbox).acquire_many_owned(weight).await else {
                return Closed::Io("its inbox is closed".into());
            };
            let taken = Taken { _inbox: inbox, _total: parts.shared.budget.charge(held).await };
            let event = LinkEvent::Batch { link: parts.id, peer: parts.peer, batch, taken };
            parts.shared.arrivals.push(event);
            if let Some(until) = pause {
                tokio::time::sleep_until(until).await;
            }
            continue;
        }
        if buffer.capacity() - buffer.len() < READ_BYTES / 4 {
            buffer.reserve(READ_BYTES);
        }
        let read = if buffer.is_empty() {
            reader.read_buf(&mut buffer).await
        } else {
            let began = *frame_began.get_or_insert_with(Instant::now);
            match timeout_at(began + limits.frame_timeout, reader.read_buf(&mut buffer)).await {
                Ok(read) => read,
                Err(_) => {
                    let limit = limits.frame_timeout.as_secs();
                    return Closed::Protocol(format!("a frame was not complete after {limit} s"));
                }
            }
        };
        match read {
            Ok(0) => {
                return if buffer.is_empty() { Closed::Eof } else { Closed::Io("cut off in a frame".into()) };
            }
            Ok(_) => {}
            // Peers that vanish without TLS's goodbye are common and no reason for alarm.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Closed::Eof,
            Err(e) => return Closed::Io(e.to_string()),
        }
    }
}

async fn write_frames<W>(writer: &mut W, parts: &LinkParts) -> Closed
where
    W: AsyncWrite + Unpin,
{
    let stalled = parts.limits().stalled_link;
    let (mut batch, mut joined) = (Vec::new(), Vec::new());
    loop {
        match parts.outbox.next_batch(&mut batch, stalled).await {
            Next::Frames => {}
            Next::End => return Closed::Local,
            Next::Stalled => return Closed::Stalled(stalled.as_secs()),
        }
        // Small frames share TLS records and system calls; a large one is worth its own and is not copied.
        for frame in batch.drain(..) {
            if joined.len() + frame.len() <= READ_STEP {
                joined.extend_from_slice(&frame);
                continue;
            }
            for bytes in [std::mem::take(&mut joined).as_slice(), &frame] {
                if let Err(cause) = write_bytes(writer, bytes, parts).await {
                    return cause;
                }
            }
        }
        if let Err(cause) = write_bytes(writer, &joined, parts).await {
            return cause;
        }
        joined.clear();
        joined.shrink_to(KEPT_BYTES);
        if let Err(cause) = in_time(writer.flush(), parts).await {
            return cause;
        }
    }
}

/// A write that is done before it counts as stalled, and while a link that is being closed may write. There is no timer for what
/// can be done at once, as most writes can.
async fn in_time(write: impl Future<Output = io::Result<()>>, parts: &LinkParts) -> Result<(), Closed> {
    let stalled = parts.limits().stalled_link;
    let mut write = pin!(write);
    let written = match poll_fn(|context| Poll::Ready(write.as_mut().poll(context))).await {
        Poll::Ready(written) => Ok(written),
        Poll::Pending => tokio::select! {
            written = timeout(stalled, write) => written,
            () = parts.outbox.closed_for(FLUSH) => return Err(Closed::Local),
        },
    };
    match written {
        Ok(written) => written.map_err(|e| Closed::Io(e.to_string())),
        Err(_) => Err(Closed::Stalled(stalled.as_secs())),
    }
}

/// Writes all, as long as some of it goes [`in_time`].
async fn write_bytes<W>(writer: &mut W, bytes: &[u8], parts: &LinkParts) -> Result<(), Closed>
where
    W: AsyncWrite + Unpin,
{
    for chunk in bytes.chunks(READ_STEP) {
        in_time(writer.write_all(chunk), parts).await?;
        // What is small is handled at once, or shows in what is not; pings go whether anything moves or not.
        if chunk.len() == READ_STEP {
            parts.outbox.wrote(chunk.len());
        }
    }
    Ok(())
}

async fn drain<R: AsyncRead + Unpin>(reader: &mut R) {
    let mut scratch = [0; 4096];
    while reader.read(&mut scratch).await.is_ok_and(|n| n > 0) {}
}

/// Writes frames and flushes; for the handshake, before there is an outbox.
pub(crate) async fn write_all<W: AsyncWrite + Unpin>(writer: &mut W, frames: &[Bytes]) -> io::Result<()> {
    for frame in frames {
        writer.write_all(frame).await?;
    }
    writer.flush().await
}

/// Writes the last frame and lets the other side read it before the connection goes.
pub(crate) async fn write_last<S>(stream: &mut S, frame: Bytes) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    write_all(stream, &[frame]).await?;
    stream.shutdown().await?;
    drain(stream).await;
    Ok(())
}

/// Reads the first frame, which must be hello or a goodbye.
pub(crate) async fn read_first<R>(
    reader: &mut R,
    codec: &mut FrameCodec<Packet>,
    buffer: &mut BytesMut,
) -> Result<Packet, Closed>
where
    R: AsyncRead + Unpin,
{
    loop {
        match codec.decode(buffer) {
            Ok(Some(Frame::Known { message, .. })) => return Ok(message),
            Ok(Some(Frame::Unknown { kind, .. })) => {
                return Err(Closed::Protocol(format!("the first frame is of kind {kind}")));
            }
            Ok(None) => {}
            Err(FrameError::Io(e)) => return Err(Closed::Io(e.to_string())),
            Err(e) => return Err(Closed::Protocol(e.to_string())),
        }
        match reader.read_buf(buffer).await {
            Ok(0) => return Err(Closed::Eof),
            Ok(_) => {}
            Err(e) => return Err(Closed::Io(e.to_string())),
        }
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_link_is_not_kept_by_the_system_for_longer_than_by_us() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        for (stalled, timeout) in [(10, 30), (60, 60)] {
            let limits = Limits { stalled_link: Duration::from_secs(stalled), ..Limits::default() };
            set_options(&tcp, &limits);
            let set = SockRef::from(&tcp).tcp_user_timeout().unwrap();
            assert_eq!(set, Some(Duration::from_secs(timeout)));
        }
    }
}
