//! The hostile peer: a key, a TLS stream and frames made by hand.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use p2p_node::{ByeReason, NodeId, Packet, SecretKey, Ticket, TicketFile, View};
use p2p_wire::{Frame, FrameCodec, Hello, PROTOCOL_VERSION, PeerAddr, encode_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_util::codec::Decoder;

use super::{CERTIFIED, DEADLINE, server_config};

/// A frame with a true length and any body.
pub(crate) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 1).unwrap();
    [&len.to_be_bytes()[..], &[kind], body].concat()
}

/// A hello with these records.
pub(crate) fn hello(records: Vec<Bytes>) -> Packet {
    Packet::Hello(Box::new(Hello {
        version: PROTOCOL_VERSION,
        agent: "hostile/1".into(),
        name: None,
        observed: None,
        records,
    }))
}

/// One end of a connection to a node, after TLS.
pub(crate) struct Hostile {
    pub(crate) stream: TlsStream<TcpStream>,
    codec: FrameCodec<Packet>,
    buffer: BytesMut,
}

impl Hostile {
    pub(crate) fn new(stream: impl Into<TlsStream<TcpStream>>) -> Self {
        Self { stream: stream.into(), codec: FrameCodec::default(), buffer: BytesMut::new() }
    }

    /// Connects; nothing is said yet.
    pub(crate) async fn open(addr: SocketAddr, key: &SecretKey) -> Self {
        Self::new(CERTIFIED.open(addr, key).await.unwrap())
    }

    /// Connects, says hello and becomes a neighbour like an honest node.
    pub(crate) async fn join(addr: SocketAddr, key: &SecretKey) -> Self {
        let mut peer = Self::greet(addr, key).await;
        assert!(peer.ask(&View::Join).await, "the node refuses a joiner");
        peer
    }

    /// Asks to be a neighbour; the answer.
    pub(crate) async fn ask(&mut self, request: &View<Bytes>) -> bool {
        self.say(&Packet::View(request.clone())).await;
        loop {
            match self.next().await.expect("the node closed the connection") {
                Packet::View(View::Answer { accepted, .. }) => return accepted,
                Packet::Ping(_) | Packet::View(_) => {}
                other => panic!("{other:?} before the answer"),
            }
        }
    }

    /// Connects and says hello, nothing more.
    pub(crate) async fn greet(addr: SocketAddr, key: &SecretKey) -> Self {
        Self::try_greet(addr, key).await.unwrap_or_else(|refusal| panic!("{refusal:?} instead of hello"))
    }

    /// [`Hostile::greet`], or what came instead of hello.
    pub(crate) async fn try_greet(addr: SocketAddr, key: &SecretKey) -> Result<Self, Option<Packet>> {
        let mut peer = Self::open(addr, key).await;
        peer.say(&hello(Vec::new())).await;
        match peer.next().await {
            Some(Packet::Hello(_)) => Ok(peer),
            other => Err(other),
        }
    }

    /// Writes bytes; false if the node has closed the connection.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> bool {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(DEADLINE, write).await.expect("the node does not read").is_ok()
    }

    pub(crate) async fn say(&mut self, packet: &Packet) -> bool {
        self.write(&encode_frame(packet).unwrap()).await
    }

    /// The next packet; `None` once the node has closed the connection.
    pub(crate) async fn next(&mut self) -> Option<Packet> {
        let read = async {
            loop {
                match self.codec.decode(&mut self.buffer).expect("a node's frames are good") {
                    Some(Frame::Known { message, .. }) => return Some(message),
                    Some(Frame::Unknown { kind, .. }) => panic!("unknown kind {kind} of a node"),
                    None => {}
                }
                // A reset is an end too.
                if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        };
        timeout(DEADLINE, read).await.expect("neither a packet nor an end came")
    }

    /// The next packet that is no ping; pings are answered, as by a node that has handled all before them.
    pub(crate) async fn handled(&mut self) -> Option<Packet> {
        loop {
            match self.next().await? {
                Packet::Ping(number) => drop(self.say(&Packet::Pong(number)).await),
                packet => return Some(packet),
            }
        }
    }

    /// Everything until the node closes the connection.
    pub(crate) async fn rest(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        while let Some(packet) = self.next().await {
            packets.push(packet);
        }
        packets
    }

    /// Waits until the node has closed the connection, and returns the reason it gave.
    pub(crate) async fn closed(&mut self) -> Option<ByeReason> {
        match self.rest().await.pop() {
            Some(Packet::Bye(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Everything that comes before the answer to a ping: what was said before has been handled then.
    pub(crate) async fn ping(&mut self, nonce: u64) -> Vec<Packet> {
        self.try_ping(nonce).await.expect("the node closed the connection")
    }

    /// Whether the node has handled all that was said and the link stands.
    pub(crate) async fn answers(&mut self, nonce: u64) -> bool {
        self.try_ping(nonce).await.is_some()
    }

    async fn try_ping(&mut self, nonce: u64) -> Option<Vec<Packet>> {
        if !self.say(&Packet::Ping(nonce)).await {
            return None;
        }
        let mut before = Vec::new();
        loop {
            match self.next().await? {
                Packet::Pong(n) if n == nonce => return Some(before),
                packet => before.push(packet),
            }
        }
    }
}

/// A listener that a node is made to dial.
pub(crate) struct Server {
    pub(crate) key: SecretKey,
    pub(crate) addr: SocketAddr,
    listener: TcpListener,
}

impl Server {
    pub(crate) async fn new(key: SecretKey) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { key, addr: listener.local_addr().unwrap(), listener }
    }

    /// A ticket that leads here, under any id.
    pub(crate) fn ticket(&self, id: NodeId, file: Option<TicketFile>) -> Ticket {
        let addr = PeerAddr { ip: self.addr.ip(), port: self.addr.port(), file_port: self.addr.port() };
        Ticket { id, addrs: vec![addr], file }
    }

    pub(crate) async fn accept_tcp(&self) -> TcpStream {
        let (tcp, _) = timeout(DEADLINE, self.listener.accept()).await.expect("nobody dialled").unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp
    }

    pub(crate) async fn accept_tls(&self) -> io::Result<TlsStream<TcpStream>> {
        let tcp = self.accept_tcp().await;
        let acceptor = TlsAcceptor::from(Arc::new(server_config(&self.key)));
        acceptor.accept(tcp).await.map(TlsStream::from)
    }

    pub(crate) async fn accept(&self) -> Hostile {
        Hostile::new(self.accept_tls().await.unwrap())
    }

    /// Connections that nobody has accepted.
    pub(crate) fn waiting(self) -> usize {
        let listener = self.listener.into_std().unwrap();
        std::iter::from_fn(|| listener.accept().ok()).count()
    }
}
