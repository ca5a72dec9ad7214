//! From a handshake, of either side, to a link that the driver runs.

use std::sync::Arc;

use bytes::BytesMut;
use p2p_wire::FrameCodec;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use crate::claims::Claim;
use crate::command::{Command, Offer};
use crate::driver::LinkTask;
use crate::link::{self, LinkParts};
use crate::packet::{ByeReason, Packet};
use crate::shared::Shared;

/// What became of a link that was offered.
pub(crate) enum Offered<S> {
    /// The driver runs it.
    Taken,
    /// What to tell the other side.
    Refused(ByeReason, S),
    /// The node stops.
    Stopped,
}

/// Offers a link after its handshake to the driver. Whoever waits for the answer may be gone before it comes, since dials are
/// given up and handshakes dropped: what was taken is run all the same, and the
/// peer is claimed until it is.
pub(crate) async fn make<S>(
    shared: &Arc<Shared>,
    offer: Offer,
    stream: S,
    (codec, buffer): (FrameCodec<Packet>, BytesMut),
    claim: Option<Claim>,
) -> Offered<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let node = Arc::clone(shared);
    let offered = shared.tasks.spawn(async move {
        let (shared, peer, _claim) = (node, offer.peer, claim);
        let (reply, answer) = oneshot::channel();
        if shared.commands.send(Command::Admit { offer: Box::new(offer), reply }).await.is_err() {
            return Offered::Stopped;
        }
        match answer.await {
            Ok(Ok(admitted)) => {
                let parts = LinkParts::new(&shared, peer, admitted);
                let task = LinkTask::new(link::run(stream, codec, buffer, parts));
                let taken = shared.commands.send(Command::Run(task)).await;
                taken.map_or(Offered::Stopped, |()| Offered::Taken)
            }
            Ok(Err(reason)) => Offered::Refused(reason, stream),
            Err(_) => Offered::Stopped,
        }
    });
    offered.await.unwrap_or(Offered::Stopped)
}
