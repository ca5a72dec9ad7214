//! From an address to a link: race the addresses, prove the id, say hello.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use p2p_peers::{DialFailure, Target};
use p2p_wire::{FrameCodec, NodeId, encode_frame};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::claims;
use crate::command::{Agreed, Claim, Command, Offer};
use crate::error::ConnectError;
use crate::event::Direction;
use crate::inbound;
use crate::info::Connected;
use crate::link::{self, Closed};
use crate::offer::{self, Offered};
use crate::packet::{ByeReason, Packet};
use crate::shared::Shared;
use crate::tls::{Protocol, Secured};

/// Between the starts of two attempts (RFC 8305, section 8: "Connection Attempt Delay").
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses tried in one dial; the rest of a longer list is left out.
const MAX_ADDRS: usize = 16;
/// Where dials cross, the hello of the one that won comes a round trip after the other was refused; later, none does.
const CROSSING: Duration = Duration::from_secs(2);

/// A dial that brought no link, and what the peer table should make of it.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: ConnectError,
    pub(crate) cause: DialFailure,
}

impl Failed {
    pub(crate) const fn new(error: ConnectError, cause: DialFailure) -> Self {
        Self { error, cause }
    }
}

/// What one address came to.
enum Attempt {
    Refused(String),
    TimedOut,
    /// TCP stood, TLS did not.
    NotP2p(String),
}

/// Makes a link to whoever is at one of `addrs`; to `expected` and nobody else if it is given.
///
/// A link that stands already counts as success. `asked`: the application wants this link kept.
pub(crate) async fn establish(
    shared: &Arc<Shared>,
    addrs: Vec<SocketAddr>,
    expected: Option<NodeId>,
    target: Target<NodeId>,
    asked: bool,
) -> Result<Connected, Failed> {
    let (secured, addr) = open(shared, addrs, expected, Protocol::Node).await?;
    let peer = secured.peer;
    let (reply, answer) = oneshot::channel();
    send(shared, Command::Claim { peer, addr, reply }).await?;
    match answer.await.map_err(|_| stopped())? {
        Claim::Go { claim, hello } => {
            let (agreed, agreement) = oneshot::channel();
            let agreed = asked.then_some(agreed);
            let result = greet(shared, secured, addr, (target, agreed), Packet::Hello(hello), claim).await;
            match result {
                // Who asked for the link is told when it is one; what the table dials it hears of elsewhere.
                Ok(connected) if asked => agreed_on(shared, agreement, connected).await,
                // The other side's dial won; its link comes, or is there. Or it has a link that is not ours.
                Err(Failed { cause: DialFailure::Duplicate, .. }) => other_link(shared, peer, true).await,
                result => result,
            }
        }
        Claim::Linked | Claim::Pending => other_link(shared, peer, false).await,
        Claim::Banned => Err(Failed::new(ConnectError::Banned(peer), DialFailure::Refused)),
    }
}

/// Waits for a link to the peer that somebody else is making; `refused`: the peer says so.
async fn other_link(shared: &Arc<Shared>, peer: NodeId, refused: bool) -> Result<Connected, Failed> {
    let (reply, mut answer) = oneshot::channel();
    send(shared, Command::AwaitLink { peer, reply }).await?;
    let deadline = Instant::now() + shared.config.limits.handshake_timeout;
    let crossing = deadline.min(Instant::now() + CROSSING);
    let answered = match timeout_at(crossing, &mut answer).await {
        Err(_) if refused && !is_linking(shared, peer).await? => {
            return Err(Failed::new(linked_elsewhere(), DialFailure::Duplicate));
        }
        Err(_) => timeout_at(deadline, answer).await,
        answered => answered,
    };
    match answered {
        Ok(Ok(Ok(connected))) => Ok(Connected { already: true, ..connected }),
        // Its end came to the table with the link.
        Ok(Ok(Err(reason))) => Err(Failed::new(ConnectError::Refused { reason }, DialFailure::Duplicate)),
        Ok(Err(_)) => Err(stopped()),
        Err(_) => {
            let detail = format!("{}: a link was being made and never came", peer.short());
            Err(Failed::new(ConnectError::TimedOut { detail }, DialFailure::Duplicate))
        }
    }
}

async fn is_linking(shared: &Shared, peer: NodeId) -> Result<bool, Failed> {
    let (reply, answer) = oneshot::channel();
    send(shared, Command::IsLinking { peer, reply }).await?;
    answer.await.map_err(|_| stopped())
}

fn linked_elsewhere() -> ConnectError {
    let reason = "this identity is linked there already. Is its key in use on another machine? If this node was cut off a \
                  moment ago, the old link is given up within 30 s";
    ConnectError::Refused { reason: reason.to_owned() }
}

/// Waits until the other side has taken the link or not.
async fn agreed_on(
    shared: &Arc<Shared>,
    agreement: oneshot::Receiver<Agreed>,
    connected: Connected,
) -> Result<Connected, Failed> {
    match timeout(shared.config.limits.handshake_timeout, agreement).await {
        Ok(Ok(Ok(connected))) => Ok(connected),
        Ok(Ok(Err(reason))) => Err(Failed::new(ConnectError::Refused { reason }, DialFailure::Refused)),
        Ok(Err(_)) => Err(stopped()),
        Err(_) => {
            let detail = format!("{}: it does not say whether it takes the link", connected.addr);
            Err(Failed::new(ConnectError::TimedOut { detail }, DialFailure::TimedOut))
        }
    }
}

/// Opens an authenticated connection: every address is tried, a little after the one before.
pub(crate) async fn open(
    shared: &Arc<Shared>,
    mut addrs: Vec<SocketAddr>,
    expected: Option<NodeId>,
    protocol: Protocol,
) -> Result<(Secured, SocketAddr), Failed> {
    addrs.truncate(MAX_ADDRS);
    let mut attempts = JoinSet::new();
    let mut waiting = addrs.iter().copied();
    let mut failures = Vec::new();
    let mut wrong = None;
    let mut next_start = Instant::now();
    loop {
        let more = waiting.len() > 0;
        tokio::select! {
            () = tokio::time::sleep_until(next_start), if more => {
                if let Some(addr) = waiting.next() {
                    let node = Arc::clone(shared);
                    // Counted, since it ends a moment after this one does, and holds the node until then.
                    attempts.spawn(shared.tasks.track_future(async move {
                        (addr, attempt(&node, addr, protocol).await)
                    }));
                }
                next_start = Instant::now() + STAGGER;
            }
            Some(done) = attempts.join_next(), if !attempts.is_empty() => {
                let Ok((addr, result)) = done else { continue };
                // A failure lets the next address start at once.
                next_start = Instant::now();
                match result {
                    Ok(secured) if secured.peer == shared.id => wrong = Some((DialFailure::Itself, shared.id, addr)),
                    Ok(secured) => match expected {
                        Some(id) if id != secured.peer => {
                            wrong.get_or_insert((DialFailure::WrongIdentity, secured.peer, addr));
                        }
                        _ => return Ok((secured, addr)),
                    },
                    Err(attempt) => failures.push((addr, attempt)),
                }
            }
            () = shared.stop.cancelled(), if more || !attempts.is_empty() => return Err(stopped()),
            else => break,
        }
    }
    Err(match (wrong, expected) {
        (Some((DialFailure::Itself, ..)), None) => Failed::new(ConnectError::Itself, DialFailure::Itself),
        (Some((_, found, _)), Some(expected)) => {
            Failed::new(ConnectError::WrongIdentity { expected, found }, DialFailure::WrongIdentity)
        }
        _ => failed(&failures),
    })
}

fn failed(failures: &[(SocketAddr, Attempt)]) -> Failed {
    if let [(addr, Attempt::NotP2p(detail))] = failures {
        let error = ConnectError::Protocol { addr: *addr, detail: detail.clone() };
        return Failed::new(error, DialFailure::Protocol);
    }
    let each = failures.iter().map(|(addr, attempt)| match attempt {
        Attempt::Refused(e) | Attempt::NotP2p(e) => format!("{addr}: {e}"),
        Attempt::TimedOut => format!("{addr}: no answer"),
    });
    let mut detail = each.collect::<Vec<_>>().join("; ");
    if detail.is_empty() {
        detail = "no address to try".into();
    }
    if !failures.is_empty() && failures.iter().all(|(_, a)| matches!(a, Attempt::TimedOut)) {
        Failed::new(ConnectError::TimedOut { detail }, DialFailure::TimedOut)
    } else {
        Failed::new(ConnectError::Unreachable { detail }, DialFailure::Unreachable)
    }
}

async fn attempt(shared: &Shared, addr: SocketAddr, protocol: Protocol) -> Result<Secured, Attempt> {
    let limits = &shared.config.limits;
    let tcp = match timeout(limits.dial_timeout, TcpStream::connect(addr)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(e)) => return Err(Attempt::Refused(describe(&e))),
        Err(_) => return Err(Attempt::TimedOut),
    };
    tcp.set_nodelay(true).ok();
    match timeout(limits.handshake_timeout, shared.tls.connect(tcp, protocol)).await {
        Ok(Ok(secured)) if secured.protocol == protocol => Ok(secured),
        Ok(Ok(_)) => Err(Attempt::NotP2p("it speaks another protocol".into())),
        Ok(Err(e)) => Err(Attempt::NotP2p(e.to_string())),
        Err(_) => Err(Attempt::TimedOut),
    }
}

/// The system's words without its error number.
fn describe(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// Hello there and back; the driver runs the link then. The peer is claimed until this has returned or is dropped.
async fn greet(
    shared: &Arc<Shared>,
    secured: Secured,
    addr: SocketAddr,
    (target, agreed): (Target<NodeId>, Option<oneshot::Sender<Agreed>>),
    hello: Packet,
    claim: claims::Claim,
) -> Result<Connected, Failed> {
    link::set_options(secured.tcp(), &shared.config.limits);
    let Secured { mut stream, peer, .. } = secured;
    let mut codec = FrameCodec::<Packet>::default();
    let mut buffer = BytesMut::with_capacity(link::READ_BYTES);
    let not_p2p =
        |detail: String| Failed::new(ConnectError::Protocol { addr, detail }, DialFailure::Protocol);
    let deadline = Instant::now() + shared.config.limits.handshake_timeout;
    let exchange = async {
        let frame = encode_frame(&hello).map_err(|e| Closed::Protocol(e.to_string()))?;
        link::write_all(&mut stream, &[frame]).await.map_err(|e| Closed::Io(e.to_string()))?;
        link::read_first(&mut stream, &mut codec, &mut buffer).await
    };
    let hello = match timeout_at(deadline, exchange).await {
        Ok(Ok(Packet::Hello(hello))) => hello,
        Ok(Ok(Packet::Bye(reason))) => return Err(refused(reason)),
        Ok(Ok(_)) => return Err(not_p2p("its first frame is not hello".into())),
        Ok(Err(closed)) => return Err(not_p2p(closed.to_string())),
        Err(_) => {
            let detail = format!("{addr}: no hello");
            return Err(Failed::new(ConnectError::TimedOut { detail }, DialFailure::TimedOut));
        }
    };
    let records = inbound::verify_own_records(&hello, peer, &shared.records)
        .map_err(|closed| not_p2p(closed.to_string()))?;
    let direction = Direction::Out;
    let asked = agreed.is_some();
    let offer = Offer { peer, addr, direction, target: Some(target), asked, agreed, hello, records };
    match offer::make(shared, offer, stream, (codec, buffer), Some(claim)).await {
        Offered::Taken => Ok(Connected::new(peer, addr, false)),
        Offered::Refused(reason, mut stream) => {
            if let Ok(bye) = encode_frame(&Packet::Bye(reason)) {
                link::write_all(&mut stream, &[bye]).await.ok();
            }
            Err(Failed::new(
                ConnectError::Refused { reason: "no room for another link here".into() },
                cause(reason),
            ))
        }
        Offered::Stopped => Err(stopped()),
    }
}

fn refused(reason: ByeReason) -> Failed {
    Failed::new(ConnectError::Refused { reason: reason.as_str().into() }, cause(reason))
}

const fn cause(reason: ByeReason) -> DialFailure {
    match reason {
        ByeReason::Duplicate => DialFailure::Duplicate,
        _ => DialFailure::Refused,
    }
}

pub(crate) const fn stopped() -> Failed {
    Failed::new(ConnectError::Stopped, DialFailure::Refused)
}

async fn send(shared: &Shared, command: Command) -> Result<(), Failed> {
    shared.commands.send(command).await.map_err(|_| stopped())
}
