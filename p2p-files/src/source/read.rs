//! Reading from one source: whole frames, each step in time and no faster than the limits allow.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::time::{Instant, timeout};

use super::{Connection, HEAD};
use crate::event::SourceFault;
use crate::protocol::{self, PREFIX, Reply, SKIPPED_MAX, SMALL_FRAME_MAX};

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<'_, S> {
    /// The next small frame of a known kind, within the time of a run.
    pub(super) async fn small_reply(&mut self) -> Result<Reply, SourceFault> {
        self.begin_answer();
        let reply = loop {
            let (len, kind) = self.head().await?;
            self.small_body(len, kind).await?;
            if let Some(reply) = self.decode()? {
                break reply;
            }
            self.in_time()?;
        };
        self.answer_began = None;
        Ok(reply)
    }

    pub(super) fn begin_answer(&mut self) {
        self.answer_began = Some(Instant::now());
        self.held_back = Duration::ZERO;
    }

    /// An answer may drip, or never come behind frames to skip: each byte in time, and the whole never.
    pub(super) fn in_time(&self) -> Result<(), SourceFault> {
        let limit = self.shared.config.run_timeout;
        if self.answer_began.is_some_and(|began| began.elapsed() > limit + self.held_back) {
            return Err(SourceFault::Stalled(limit));
        }
        Ok(())
    }

    /// Length and kind of the next frame; the length counts the kind.
    pub(super) async fn head(&mut self) -> Result<(usize, u8), SourceFault> {
        self.head_within(self.shared.config.stall).await?;
        self.head_len = 0;
        let [a, b, c, d, kind] = self.head;
        match usize::try_from(u32::from_be_bytes([a, b, c, d])) {
            Ok(len) if (1..=protocol::FRAME_MAX).contains(&len) => Ok((len, kind)),
            _ => Err(SourceFault::Protocol("a frame beyond the limits")),
        }
    }

    /// Receives the head of the next frame, each byte within a deadline, for [`Connection::head`] to take.
    ///
    /// Cancel safe: what has come is kept.
    pub(super) async fn head_within(&mut self, limit: Duration) -> Result<(), SourceFault> {
        while self.head_len < HEAD {
            let read = self.stream.read(&mut self.head[self.head_len..]);
            let read = timeout(limit, read).await.map_err(|_| SourceFault::Stalled(limit))?;
            match read.map_err(|error| SourceFault::Io(error.kind()))? {
                0 => return Err(SourceFault::Io(io::ErrorKind::UnexpectedEof)),
                n => self.head_len += n,
            }
        }
        Ok(())
    }

    /// Fills `buf`, no faster than the limits allow; each step has the stall deadline, and an answer one for all of it.
    pub(super) async fn read_exact(&mut self, buf: &mut [u8]) -> Result<(), SourceFault> {
        let limit = self.shared.config.stall;
        let mut at = 0;
        while at < buf.len() {
            if self.may_read == 0 {
                let before = Instant::now();
                self.may_read = self.throttle.take(buf.len() - at).await;
                self.held_back += before.elapsed();
            }
            let end = buf.len().min(at.saturating_add(self.may_read));
            let read = timeout(limit, self.stream.read(&mut buf[at..end])).await;
            match read.map_err(|_| SourceFault::Stalled(limit))?.map_err(|e| SourceFault::Io(e.kind()))? {
                0 => return Err(SourceFault::Io(io::ErrorKind::UnexpectedEof)),
                n => {
                    at += n;
                    self.may_read -= n;
                }
            }
            self.in_time()?;
        }
        Ok(())
    }

    /// Reads the rest of a frame that is not a run.
    pub(super) async fn small_body(&mut self, len: usize, kind: u8) -> Result<(), SourceFault> {
        if len > SMALL_FRAME_MAX {
            return Err(SourceFault::Protocol("a frame beyond the limits"));
        }
        self.frame.clear();
        self.frame.resize(len, 0);
        self.frame[0] = kind;
        let mut frame = std::mem::take(&mut self.frame);
        let read = self.read_exact(&mut frame[1..]).await;
        self.frame = frame;
        read
    }

    /// The small frame that was read; `None` for one to skip.
    pub(super) fn decode(&mut self) -> Result<Option<Reply>, SourceFault> {
        let reply = Reply::decode(&self.frame).map_err(|_| SourceFault::Protocol("a malformed frame"))?;
        if reply.is_none() {
            self.skipped += PREFIX + self.frame.len();
            if self.skipped > SKIPPED_MAX {
                return Err(SourceFault::Protocol("too many frames of unknown kinds"));
            }
        }
        Ok(reply)
    }
}
