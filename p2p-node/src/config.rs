//! What a node may be told, and the limits it keeps.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use p2p_wire::SecretKey;

use crate::error::{StartError, TopicsError};
use crate::target::Target;

/// Where nodes listen unless told otherwise; python-p2p's port.
pub const DEFAULT_PORT: u16 = 65_432;
/// Where nodes serve files unless told otherwise; python-p2p's port.
pub const DEFAULT_FILE_PORT: u16 = 65_433;

/// Where the messages that came are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogMode {
    /// In memory, for neighbours that missed something, while the node runs. The application cannot read it
    /// ([`LogError::NoLog`](crate::LogError::NoLog)), and a node that starts again, with its data directory too, delivers again
    /// what its neighbours still hold.
    #[default]
    Memory,
    /// In the folder `log` of the data directory, synced before they are handed over: a restart, even after kill -9,
    /// delivers nothing twice, and positions go on.
    Disk,
}

/// Most topics a node can be told to deliver: each message is held against them.
const MAX_TOPICS: usize = 256;

/// Checks what a caller may get wrong.
pub(crate) fn check_topics(topics: &BTreeSet<String>) -> Result<(), TopicsError> {
    let (count, limit) = (topics.len(), MAX_TOPICS);
    if count > limit {
        return Err(TopicsError::TooMany { count, limit });
    }
    let limit = p2p_wire::MAX_TOPIC;
    match topics.iter().map(String::len).find(|size| *size > limit) {
        Some(size) => Err(TopicsError::TooLong { size, limit }),
        None => Ok(()),
    }
}

/// Everything a node may be told at its start. The program `p2p` uses [`Config::default`] with a data directory, the log on
/// disk, the router's port mapping and the watch of the content folder.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Where identity, peer table, index and fetched files are kept. `None`: a temporary directory that
    /// goes with the node, and a new identity each time unless [`Config::key`] is set.
    pub data_dir: Option<PathBuf>,
    /// The identity; `None` reads `identity.key` from the data directory and makes it at the first start. One that is given is
    /// not written there, so whoever reads the log later gives it again: [`read_log_with_key`](crate::read_log_with_key).
    pub key: Option<SecretKey>,
    /// The address to listen on; `None` is every address, IPv6 and IPv4.
    pub host: Option<IpAddr>,
    /// TCP port for node links; 0 takes a free one. Default 65432.
    pub port: u16,
    /// TCP port for files; 0 takes a free one. Default 65433.
    pub file_port: u16,
    /// A self-chosen name, at most 32 bytes, shown to others beside the id.
    pub name: Option<String>,
    /// What the node calls its program in `hello`, at most 64 bytes.
    pub agent: String,
    /// Dial peers learned from other peers. Off: only what is asked for is dialled.
    pub discover: bool,
    /// Take private and loopback addresses from any peer, not only from one whose link is such itself.
    pub allow_private: bool,
    /// Ask the router for port mappings.
    pub upnp: bool,
    /// Whom to join through at the start; dialled again and again until it works.
    pub connect: Vec<Target>,
    /// Where fetched files go and `refresh` looks; `None` is `content` in the data directory.
    pub content_dir: Option<PathBuf>,
    /// Go on by itself with fetches that an earlier run did not bring to their end. Default true; a program that starts
    /// a node for one thing only turns it off.
    pub resume: bool,
    /// Keep what is shared up to date with the disk: files that are put into the content folder are shared, those that
    /// change are shared as what they are then, those that go are forgotten. The folder is made if it is missing. Off, only
    /// [`Node::refresh`](crate::Node::refresh) looks; a file that changed is not served in any case. Default false.
    pub watch: bool,
    /// Messages of these topics alone are delivered, private ones aside; `None`: of all. What is relayed and
    /// kept for others does not depend on it. See [`Node::subscribe`](crate::Node::subscribe).
    pub topics: Option<BTreeSet<String>>,
    /// Answer private messages whose author asks for a receipt. Whoever knows this node's id learns by it that
    /// the node is there.
    pub receipts: bool,
    /// Where messages are kept. Default: in memory.
    pub log: LogMode,
    /// Links, queues and deadlines.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: None,
            key: None,
            host: None,
            port: DEFAULT_PORT,
            file_port: DEFAULT_FILE_PORT,
            name: None,
            agent: concat!("p2p/", env!("CARGO_PKG_VERSION")).to_owned(),
            discover: true,
            allow_private: false,
            upnp: false,
            connect: Vec::new(),
            content_dir: None,
            resume: true,
            watch: false,
            topics: None,
            receipts: true,
            log: LogMode::default(),
            limits: Limits::default(),
        }
    }
}

impl Config {
    /// For a network of strangers: as the default, but with a quarter of its rates per link, and at most 100 messages per
    /// second of one author.
    #[must_use]
    pub fn open() -> Self {
        let limits = Limits {
            link_bytes_per_sec: 16 << 20,
            link_frames_per_sec: 5_000,
            author_entries_per_sec: Some(100),
            ..Limits::default()
        };
        Self { limits, ..Self::default() }
    }

    /// What of this is for the peer table.
    pub(crate) fn table(&self) -> p2p_peers::Config {
        p2p_peers::Config {
            discover: self.discover,
            allow_private: self.allow_private,
            // The views choose whom to dial.
            target: 0,
            max_out: self.limits.max_out,
            max_in: self.limits.max_in,
            max_peers: self.limits.max_peers,
            ..p2p_peers::Config::default()
        }
    }

    /// Checks what a caller may get wrong.
    ///
    /// # Errors
    /// [`StartError::Config`] with the option and the limit.
    pub fn validate(&self) -> Result<(), StartError> {
        if let Some(name) = &self.name {
            p2p_wire::check_name(name).map_err(|e| StartError::Config(format!("name: {e}")))?;
        }
        p2p_wire::check_agent(&self.agent).map_err(|e| StartError::Config(format!("agent: {e}")))?;
        if let Some(topics) = &self.topics {
            check_topics(topics).map_err(|e| StartError::Config(format!("topics: {e}")))?;
        }
        self.table().validate().map_err(|e| StartError::Config(e.to_string()))?;
        self.limits.validate().map_err(StartError::Config)?;
        let (total, least) = (self.limits.queue_bytes_total, p2p_wire::MAX_FRAME_PAYLOAD + 4);
        if total < least {
            return Err(StartError::Config(format!(
                "queue_bytes_total is {total} bytes; one message takes up to {least}"
            )));
        }
        if self.port != 0 && self.port == self.file_port {
            return Err(StartError::Config(format!(
                "port and file port are both {}; they must differ",
                self.port
            )));
        }
        Ok(())
    }
}

/// Bounds of a node. Each default has its reason beside it; `docs/wire.md` names those a peer can notice. Deadlines of more than
/// a year count as one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Links that others dialled. Default 64: a full mesh of small networks.
    pub max_in: usize,
    /// Links dialled by this node without being asked. Default 16.
    pub max_out: usize,
    /// Handshakes at once, and connections that were refused and have not read why; one more drops the oldest. Default 64.
    pub handshakes: usize,
    /// From accept to the end of hello. Default 10 s, as Syncthing's TLS handshake.
    pub handshake_timeout: Duration,
    /// One address: TCP connect. Default 5 s.
    pub dial_timeout: Duration,
    /// A frame must be complete this long after its first byte. Default 30 s.
    pub frame_timeout: Duration,
    /// Bytes of messages queued towards one link, authors served in turn. What does not fit follows later, in order
    /// (counted as `put_off`), that of the author who takes most first. Control frames have 512 KiB of their
    /// own; a link where those do not fit is closed. Default 2 MiB.
    pub queue_bytes: usize,
    /// Bytes in the queues of all links together, both directions. When they are taken no link is read, and messages are
    /// put off. Default 256 MiB.
    pub queue_bytes_total: usize,
    /// Bytes read from one link per second, with a quarter of a second's worth at once; what is above waits unread in the
    /// socket, so that its sender is slowed down. Default 64 MiB, a good part of what one core decrypts; [`Config::open`]:
    /// 16 MiB.
    pub link_bytes_per_sec: u32,
    /// Frames, of messages and anything else, read from one link per second; the same holds. Default 20,000, as many
    /// signatures as one core checks in a second; [`Config::open`]: 5,000.
    pub link_frames_per_sec: u32,
    /// Messages of one author that are passed on by pushing, per second, with as many at once; what is above is announced
    /// only, and sent to who asks for it, which authors have turns in: others behind the same node do not wait. Default: no limit;
    /// [`Config::open`]: 100.
    pub author_entries_per_sec: Option<u32>,
    /// A link that takes nothing for this long is closed: not a byte, or messages of which the other side handles none.
    /// Default 10 s.
    pub stalled_link: Duration,
    /// Bytes of memory for what was read from one link and not yet handled; the link is not read beyond. Default 512 KiB: with a frame that
    /// is still coming in (at most 1.1 MiB) and what is queued towards the peer, it costs at most 4 MiB.
    pub inbox_bytes: usize,
    /// File uploads at once; further ones are told to come back. Default 16.
    pub uploads: usize,
    /// File connections of one peer at once; further ones are closed. Default 4: room for a few fetches at the same time,
    /// and no peer takes all uploads.
    pub peer_connections: usize,
    /// Most bytes of files sent a second, to all together and to each peer; `None`, the default, is as many as go. Kept
    /// within 5 % over some seconds. Messages are not counted: at 80 % of what a line carries they need not wait.
    pub up: Option<u64>,
    /// See [`Limits::up`].
    pub up_peer: Option<u64>,
    /// Most bytes of files received a second, from all together and from each peer, kept by not reading; `None`, the
    /// default, is as many as come.
    pub down: Option<u64>,
    /// See [`Limits::down`].
    pub down_peer: Option<u64>,
    /// Peer table entries. Default 4,096.
    pub max_peers: usize,
    /// How long a fetch looks for somebody who has the file. Default 15 s.
    pub find_timeout: Duration,
    /// How long a shutdown may take before what is left is dropped. Default 4 s.
    pub shutdown_timeout: Duration,
}

/// Longer deadlines count as this one, so that no moment is too far away to be named: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

impl Limits {
    fn validate(&self) -> Result<(), String> {
        let rate = |rate: Option<u64>| rate == Some(0);
        let nothing = [
            ("handshake_timeout", self.handshake_timeout.is_zero()),
            ("dial_timeout", self.dial_timeout.is_zero()),
            ("frame_timeout", self.frame_timeout.is_zero()),
            ("stalled_link", self.stalled_link.is_zero()),
            ("inbox_bytes", self.inbox_bytes == 0),
            ("link_bytes_per_sec", self.link_bytes_per_sec == 0),
            ("link_frames_per_sec", self.link_frames_per_sec == 0),
            ("up", rate(self.up)),
            ("up_peer", rate(self.up_peer)),
            ("down", rate(self.down)),
            ("down_peer", rate(self.down_peer)),
        ];
        match nothing.iter().find(|(_, is_zero)| *is_zero) {
            Some((field, _)) => Err(format!("{field} is 0: nothing would get through")),
            None => Ok(()),
        }
    }

    /// The same where nothing overflows: what means "no limit" is one that is never reached.
    pub(crate) fn within_reason(mut self) -> Self {
        for time in [
            &mut self.handshake_timeout,
            &mut self.dial_timeout,
            &mut self.frame_timeout,
            &mut self.stalled_link,
            &mut self.find_timeout,
            &mut self.shutdown_timeout,
        ] {
            *time = LONGEST.min(*time);
        }
        // A semaphore counts these, and takes as many as fit into 32 bits at once.
        self.inbox_bytes = self.inbox_bytes.min(u32::MAX as usize);
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_in: 64,
            max_out: 16,
            handshakes: 64,
            handshake_timeout: Duration::from_secs(10),
            dial_timeout: Duration::from_secs(5),
            frame_timeout: Duration::from_secs(30),
            queue_bytes: 2 << 20,
            queue_bytes_total: 256 << 20,
            link_bytes_per_sec: 64 << 20,
            link_frames_per_sec: 20_000,
            author_entries_per_sec: None,
            stalled_link: Duration::from_secs(10),
            inbox_bytes: 512 << 10,
            uploads: 16,
            peer_connections: 4,
            up: None,
            up_peer: None,
            down: None,
            down_peer: None,
            max_peers: 4096,
            find_timeout: Duration::from_secs(15),
            shutdown_timeout: Duration::from_secs(4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Limits)) -> String {
        let mut config = Config::default();
        change(&mut config.limits);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn limits_that_let_nothing_through_are_refused() {
        assert_eq!(
            refused(|l| l.link_bytes_per_sec = 0),
            "link_bytes_per_sec is 0: nothing would get through"
        );
        assert_eq!(refused(|l| l.up = Some(0)), "up is 0: nothing would get through");
        assert_eq!(
            refused(|l| l.max_in = usize::MAX),
            format!("max_peers is 4096, but there may be {} links", usize::MAX)
        );
    }
}
