//! A connection that one download after another may use.
//!
//! A [`Download`](crate::Download) takes a stream for itself and closes it in the end. A folder has many files, so what
//! they get is a [`Lent`]: it is not closed but given back, and counts frames on the way, so that it is known which
//! answers are still to come.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::mpsc::OwnedPermit;

use crate::RateLimit;
use crate::hash::{FileHash, HASH_LEN};
use crate::protocol::{ERROR, FRAME_MAX, GET, HAVE, HELD, INFO, NOT_FOUND, OPEN, PART, PREFIX, RUN, Request};

/// What a provider can be reached through.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection, and what is still to come on it.
pub(super) struct Link {
    pub(super) id: u64,
    pub(super) label: String,
    /// A rate that what it sends is held to.
    pub(super) limit: Option<Arc<RateLimit>>,
    stream: Box<dyn Stream>,
    sent: Frames,
    received: Frames,
    /// Answers that are still to come.
    owed: u64,
    /// Of these, the ones that are held back until there is news or another request.
    haves: u64,
    /// It ended, or does not speak the protocol.
    broken: bool,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("label", &self.label).field("owed", &self.owed).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(
        id: u64,
        label: String,
        limit: Option<Arc<RateLimit>>,
        stream: Box<dyn Stream>,
    ) -> Self {
        Self {
            id,
            label,
            limit,
            stream,
            sent: Frames::default(),
            received: Frames::default(),
            owed: 0,
            haves: 0,
            broken: false,
        }
    }

    /// Lends it; it comes back through the place that is kept for it.
    pub(super) const fn lend(self, back: OwnedPermit<Self>) -> Lent {
        Lent { lent: Some((self, back)) }
    }

    /// Reads and drops what is still to come, so that the next request gets its own answer.
    ///
    /// # Errors
    ///
    /// When the connection cannot be used any more.
    pub(super) async fn settle(&mut self) -> io::Result<()> {
        let mut buf = vec![0; 16 * 1024];
        if self.haves > 0 && self.sent.is_between() {
            // Any request will do, so one for what nobody has.
            let mut request = Vec::new();
            Request::Open(FileHash::from_bytes([0; HASH_LEN])).encode(&mut request);
            self.write_all(&request).await?;
            self.flush().await?;
        }
        loop {
            if self.broken || !self.sent.is_between() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if self.owed == 0 && self.received.is_between() {
                return Ok(());
            }
            if self.read(&mut buf).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        let this = &mut *self;
        let new = &buf.filled()[before..];
        this.broken |= new.is_empty() && buf.capacity() > before || result.is_err();
        let (owed, haves) = (&mut this.owed, &mut this.haves);
        let sane = this.received.pass(new, |kind| {
            if matches!(kind, INFO | NOT_FOUND | RUN | ERROR | PART | HELD) {
                *owed = owed.saturating_sub(1);
            }
            *haves = haves.saturating_sub(u64::from(kind == HELD));
        });
        this.broken |= !sane;
        Poll::Ready(result)
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        let this = &mut *self;
        match &result {
            Ok(written) => {
                let (owed, haves) = (&mut this.owed, &mut this.haves);
                this.sent.pass(&buf[..*written], |kind| {
                    *owed += u64::from(matches!(kind, OPEN | GET | HAVE));
                    *haves += u64::from(kind == HAVE);
                });
            }
            Err(_) => this.broken = true,
        }
        Poll::Ready(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A [`Link`] in use; dropping it gives it back, closing does nothing.
#[derive(Debug)]
pub(super) struct Lent {
    lent: Option<(Link, OwnedPermit<Link>)>,
}

impl Lent {
    fn link(&mut self) -> Pin<&mut Link> {
        let (link, _) = self.lent.as_mut().expect("given back only when dropped");
        Pin::new(link)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some((link, back)) = self.lent.take() {
            back.send(link);
        }
    }
}

impl AsyncRead for Lent {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.link().poll_read(cx, buf)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.link().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Follows the frames of one direction.
#[derive(Debug, Default)]
struct Frames {
    /// Length and kind of the frame that is passing, as far as they are known.
    head: [u8; PREFIX + 1],
    known: usize,
    /// Bytes of it that are still to come.
    left: usize,
}

impl Frames {
    /// Follows `bytes`; `ended` gets the kind of each frame that ends in them. False for what is no frame.
    fn pass(&mut self, mut bytes: &[u8], mut ended: impl FnMut(u8)) -> bool {
        while !bytes.is_empty() {
            if self.known < self.head.len() {
                let take = bytes.len().min(self.head.len() - self.known);
                self.head[self.known..self.known + take].copy_from_slice(&bytes[..take]);
                self.known += take;
                bytes = &bytes[take..];
                if self.known < self.head.len() {
                    return true;
                }
                let [a, b, c, d, _] = self.head;
                match usize::try_from(u32::from_be_bytes([a, b, c, d])) {
                    Ok(len) if (1..=FRAME_MAX).contains(&len) => self.left = len - 1,
                    _ => return false,
                }
            }
            let take = bytes.len().min(self.left);
            self.left -= take;
            bytes = &bytes[take..];
            if self.left == 0 {
                self.known = 0;
                ended(self.head[PREFIX]);
            }
        }
        true
    }

    const fn is_between(&self) -> bool {
        self.known == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::sync::mpsc;

    use super::*;
    use crate::protocol::Reply;

    proptest! {
        #[test]
        fn frames_end_where_they_end_however_they_come(bodies in prop::collection::vec((1..255u8, 0..40usize), 0..20),
                                                       cuts in prop::collection::vec(1..9usize, 1..9)) {
            let mut bytes = Vec::new();
            for (kind, len) in &bodies {
                bytes.extend(u32::try_from(len + 1).unwrap().to_be_bytes());
                bytes.push(*kind);
                bytes.extend(vec![9; *len]);
            }
            let (mut frames, mut kinds, mut rest) = (Frames::default(), Vec::new(), bytes.as_slice());
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                prop_assert!(frames.pass(now, |kind| kinds.push(kind)));
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(frames.is_between());
            prop_assert_eq!(kinds, bodies.iter().map(|(kind, _)| *kind).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn a_link_that_was_given_back_is_read_empty_before_it_is_used_again() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let (back, mut returned) = mpsc::channel(1);
        let place = || back.clone().try_reserve_owned();
        let mut lent = Link::new(1, "a".into(), None, Box::new(ours)).lend(place().unwrap());
        assert!(place().is_err(), "its place is kept");
        let mut requests = Vec::new();
        Request::Get { first: 0, count: 1 }.encode(&mut requests);
        lent.write_all(&requests).await.unwrap();
        lent.shutdown().await.unwrap();
        drop(lent);
        let mut link = returned.recv().await.unwrap();
        let mut reply = Vec::new();
        Reply::NotFound.encode(0, &mut reply);
        theirs.write_all(&reply).await.unwrap();
        link.settle().await.unwrap();

        // One that was left within a request cannot be used any more.
        let mut lent = link.lend(place().unwrap());
        lent.write_all(&requests[..3]).await.unwrap();
        drop(lent);
        assert!(returned.recv().await.unwrap().settle().await.is_err());
    }
}
