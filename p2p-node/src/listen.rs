//! Sockets that take connections: bind, accept, handshake, hand over.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use p2p_wire::{FrameCodec, encode_frame};
use socket2::{Domain, Protocol as Transport, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use crate::command::Offer;
use crate::error::StartError;
use crate::event::Direction;
use crate::inbound;
use crate::link;
use crate::offer::{self, Offered};
use crate::packet::Packet;
use crate::shared::Shared;
use crate::tls::{Protocol, Secured};

/// Connections that the kernel holds for us.
const BACKLOG: i32 = 1024;
/// How long one that is refused may take to read why; it counts as a handshake so long, and an honest one closes at once.
const REFUSAL: Duration = Duration::from_secs(2);
/// Out of file descriptors: how long to wait for some to be freed, and how often to say so.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
const EXHAUSTED_LOG: Duration = Duration::from_secs(10);

/// Binds one port: on `host`, or on every address, IPv6 and IPv4 with one socket.
pub(crate) fn bind(host: Option<IpAddr>, port: u16) -> Result<TcpListener, StartError> {
    let bound = match host {
        Some(ip) => bind_one(SocketAddr::new(ip, port)).map_err(|source| (SocketAddr::new(ip, port), source)),
        None => match bind_one(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)) {
            // No IPv6 on this machine.
            Err(e)
                if matches!(e.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
                    || is_no_family(&e) =>
            {
                let addr = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
                bind_one(addr).map_err(|source| (addr, source))
            }
            result => result.map_err(|source| (SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), source)),
        },
    };
    bound.map_err(|(addr, source)| StartError::Listen { addr, source })
}

/// EAFNOSUPPORT has no `ErrorKind` of its own.
fn is_no_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(97 | 47 | 10047))
}

fn bind_one(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Transport::TCP))?;
    if addr.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    // On Unix a node that restarts finds its port in TIME_WAIT; on Windows the option means something else.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until the node stops.
pub(crate) async fn accept_loop(shared: Arc<Shared>, listener: TcpListener) {
    let mut complained: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, addr)) => {
                let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
                begin(&shared, tcp, addr);
            }
            Err(e) => {
                if complained.is_none_or(|at| at.elapsed() > EXHAUSTED_LOG) {
                    tracing::warn!(error = %e, "cannot accept a connection");
                    complained = Some(Instant::now());
                }
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

fn begin(shared: &Arc<Shared>, tcp: TcpStream, addr: SocketAddr) {
    tcp.set_nodelay(true).ok();
    let (number, over) = shared.handshakes.begin();
    if over {
        shared.refused_connections.fetch_add(1, Ordering::Relaxed);
    }
    let task = shared.tasks.spawn(handshake(Arc::clone(shared), tcp, addr, number));
    shared.handshakes.attach(number, task.abort_handle());
}

/// One deadline from accept to the end of hello. It may be aborted at any time until it has ended as a handshake.
async fn handshake(shared: Arc<Shared>, tcp: TcpStream, addr: SocketAddr, number: u64) {
    let deadline = shared.config.limits.handshake_timeout;
    let greeting = async {
        let secured = shared.tls.accept(tcp).await.map_err(|e| e.to_string())?;
        match secured.protocol {
            Protocol::Files => Ok((secured, None)),
            Protocol::Node => {
                link::set_options(secured.tcp(), &shared.config.limits);
                let Secured { mut stream, peer, protocol } = secured;
                let mut codec = FrameCodec::<Packet>::default();
                let mut buffer = BytesMut::with_capacity(link::READ_BYTES);
                let first = link::read_first(&mut stream, &mut codec, &mut buffer)
                    .await
                    .map_err(|e| e.to_string())?;
                let Packet::Hello(hello) = first else {
                    return Err("its first frame is not hello".to_owned());
                };
                let records =
                    inbound::verify_own_records(&hello, peer, &shared.records).map_err(|e| e.to_string())?;
                Ok((Secured { stream, peer, protocol }, Some((codec, buffer, hello, records))))
            }
        }
    };
    let greeted = tokio::select! {
        () = shared.stop.cancelled() => return,
        greeted = timeout(deadline, greeting) => greeted,
    };
    match greeted {
        Ok(Ok((secured, None))) => {
            shared.handshakes.end(number);
            crate::transfer::serve(&shared, secured, addr).await;
        }
        Ok(Ok((secured, Some((codec, buffer, hello, records))))) => {
            let peer = secured.peer;
            let offer = Offer {
                peer,
                addr,
                direction: Direction::In,
                target: None,
                asked: false,
                agreed: None,
                hello,
                records,
            };
            let offered = offer::make(&shared, offer, secured.stream, (codec, buffer), None).await;
            if let Offered::Refused(reason, mut stream) = offered
                && let Ok(bye) = encode_frame(&Packet::Bye(reason))
            {
                timeout(REFUSAL, link::write_last(&mut stream, bye)).await.ok();
            }
        }
        Ok(Err(detail)) => {
            shared.refused_connections.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%addr, %detail, "handshake failed");
        }
        Err(_) => {
            shared.refused_connections.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%addr, "handshake was not done within its deadline");
        }
    }
    shared.handshakes.end(number);
}
