//! A peer: a library in a scratch folder, with helpers to serve and to fetch.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use p2p_files::protocol::{Reply, Request};
use p2p_files::{
    Destination, Download, DownloadConfig, DownloadError, DownloadEvent, DownloadHandle, FileHash, Finished,
    Library, ServeLimits, ServeStats, Share, serve,
};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::bytes::{Bytes, BytesMut};
use tokio_util::codec::{Decoder as _, Encoder as _, LengthDelimitedCodec};

pub struct Peer {
    pub dir: TempDir,
    pub library: Arc<Library>,
    pub stats: Arc<ServeStats>,
    pub limits: ServeLimits,
    pub config: DownloadConfig,
}

impl Peer {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let library = Arc::new(Library::open(&dir.path().join("data")).unwrap());
        let config =
            DownloadConfig { stall: Duration::from_secs(5), start: Some(0), ..DownloadConfig::default() };
        Self { dir, library, stats: Arc::default(), limits: ServeLimits::default(), config }
    }

    /// Writes a file and shares it.
    pub fn add(&self, name: &str, data: &[u8]) -> Share {
        let path = self.dir.path().join(name);
        std::fs::write(&path, data).unwrap();
        self.library.add(&path, |_, _| ()).unwrap()
    }

    pub fn content_dir(&self) -> PathBuf {
        self.dir.path().join("content")
    }

    /// A connection to this peer, in memory.
    pub fn connect(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(serve(theirs, Arc::clone(&self.library), self.limits.clone(), Arc::clone(&self.stats)));
        ours
    }

    /// A connection to this peer over loopback.
    pub async fn connect_tcp(&self) -> TcpStream {
        let (ours, theirs) = sockets().await;
        tokio::spawn(serve(theirs, Arc::clone(&self.library), self.limits.clone(), Arc::clone(&self.stats)));
        ours
    }

    pub fn download(&self, hash: FileHash, to: Destination) -> Result<DownloadHandle, DownloadError> {
        Download::start(Arc::clone(&self.library), hash, to, self.config.clone())
    }

    /// Nothing half-done is left in the content folder or among the trees.
    pub fn no_part_files(&self) {
        for dir in [self.content_dir(), self.dir.path().join("data/trees")] {
            for entry in std::fs::read_dir(dir).into_iter().flatten() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(!name.ends_with(".part") && !name.ends_with(".tmp"), "{name}");
            }
        }
    }
}

/// Both ends of a connection over loopback.
pub async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (theirs, _) = listener.accept().await.unwrap();
    (ours, theirs)
}

/// Bytes that differ from block to block.
pub fn content(size: usize) -> Vec<u8> {
    let pattern: Vec<u8> = (0..251 + 16_384).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
    let mut data = Vec::with_capacity(size + 16_384);
    while data.len() < size {
        let shift = data.len() / 16_384 * 3 % 251;
        data.extend_from_slice(&pattern[shift..shift + 16_384]);
    }
    data.truncate(size);
    data
}

pub fn start(to: &Peer, hash: FileHash) -> DownloadHandle {
    to.download(hash, Destination::Dir(to.content_dir(), Some("name.bin".into()))).unwrap()
}

/// The end of a download, whatever else happens before; fails after 10 s.
pub async fn end(download: &DownloadHandle) -> Result<Finished, DownloadError> {
    let end = async {
        loop {
            match download.next_event().await.expect("an end comes before the end of events") {
                DownloadEvent::Finished(finished) => return Ok(finished),
                DownloadEvent::Failed(error) => return Err(error),
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), end).await.expect("within 10 s")
}

pub async fn fetch(to: &Peer, hash: FileHash, from: &[(&str, &Peer)]) -> Result<Finished, DownloadError> {
    let download = start(to, hash);
    for (label, peer) in from {
        download.add_source(*label, peer.connect());
    }
    end(&download).await
}

/// Frames by tokio-util's codec: another implementation than ours.
pub struct Frames<S> {
    pub stream: S,
    codec: LengthDelimitedCodec,
    buf: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    pub fn new(stream: S) -> Self {
        let codec = LengthDelimitedCodec::builder().max_frame_length(2 << 20).new_codec();
        Self { stream, codec, buf: BytesMut::new() }
    }

    /// The next frame; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<BytesMut> {
        loop {
            if let Some(frame) = self.codec.decode(&mut self.buf).unwrap() {
                return Some(frame);
            }
            if self.stream.read_buf(&mut self.buf).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Sends a frame; false when the other side is gone.
    pub async fn send(&mut self, frame: impl Into<Bytes>) -> bool {
        let mut out = BytesMut::new();
        self.codec.encode(frame.into(), &mut out).unwrap();
        self.stream.write_all(&out).await.is_ok()
    }
}

/// Kind and body of the frame of a reply other than a run.
pub fn reply(reply: &Reply) -> Bytes {
    let mut frame = Vec::new();
    reply.encode(0, &mut frame);
    Bytes::from(frame).slice(4..)
}

/// Kind and body of the frame of a request.
pub fn request(request: &Request) -> Bytes {
    let mut frame = Vec::new();
    request.encode(&mut frame);
    Bytes::from(frame).slice(4..)
}
