//! One thing said. As JSON it is one line with `"event"`; fields may be added, never renamed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::SystemTime;

use data_encoding::BASE64;
use p2p_node::{Direction, EntryKind, Event, FileEntry, Kind, Node, PeerInfo, Status};
use serde::Serialize;

use crate::failure::Failure;

/// What a command answers or the node tells.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Line {
    Ready {
        id: String,
        listen: Vec<String>,
        files: Vec<String>,
        api: Option<String>,
        ticket: String,
        version: &'static str,
        /// For people only: what a friend types after `connect`.
        #[serde(skip)]
        friends: Vec<String>,
        #[serde(skip)]
        console: bool,
    },
    PeerUp {
        id: String,
        addr: String,
        direction: &'static str,
        path: &'static str,
        name: Option<String>,
    },
    PeerDown {
        id: String,
        reason: String,
    },
    Message {
        pos: u64,
        author: String,
        seq: u64,
        topic: String,
        private: bool,
        late: bool,
        time: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<String>,
        /// For people only: the name the author gave itself on a link of ours.
        #[serde(skip)]
        name: Option<String>,
    },
    Lagged {
        missed: u64,
        from_pos: u64,
    },
    Gap {
        author: String,
        from: u64,
        to: u64,
    },
    Forked {
        author: String,
    },
    Receipt {
        seq: u64,
        by: String,
    },
    NoReceipt {
        seq: u64,
        to: String,
    },
    SourceFailed {
        hash: String,
        id: String,
        fault: String,
    },
    Notice {
        text: String,
    },
    Warning {
        text: String,
    },
    Sent {
        command: &'static str,
        seq: u64,
        queued_links: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
    Connected {
        command: &'static str,
        id: String,
        addr: String,
        already: bool,
    },
    Ok {
        command: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        hash: Option<String>,
    },
    FileAdded {
        command: &'static str,
        hash: String,
        length: u64,
        kind: &'static str,
        path: String,
        ticket: String,
    },
    FileProgress {
        hash: String,
        done: u64,
        length: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        files_done: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        files: Option<u64>,
        sources: usize,
        rate: u64,
    },
    FolderEntry {
        path: String,
        kind: &'static str,
        length: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        hash: Option<String>,
        executable: bool,
    },
    Folder {
        command: &'static str,
        hash: String,
        files: u64,
        length: u64,
    },
    Hashed {
        command: &'static str,
        path: String,
        kind: &'static str,
        hash: String,
        length: u64,
        root: String,
        sha256: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        files: Option<u64>,
        #[serde(skip)]
        left_out: Option<String>,
    },
    FileDone {
        command: &'static str,
        hash: String,
        path: String,
        length: u64,
        ms: u64,
        sources: usize,
    },
    FileFailed {
        command: &'static str,
        hash: String,
        error: &'static str,
        detail: String,
    },
    Files {
        command: &'static str,
        files: Vec<Entry>,
    },
    Refreshed {
        command: &'static str,
        added: usize,
        removed: usize,
        failed: Vec<String>,
    },
    Peers {
        command: &'static str,
        peers: Vec<Peer>,
    },
    Id {
        command: &'static str,
        id: String,
        name: Option<String>,
        addrs: Vec<String>,
        ticket: String,
    },
    Status {
        command: &'static str,
        uptime_ms: u64,
        links: usize,
        known_peers: usize,
        messages_in: u64,
        messages_out: u64,
        refused: BTreeMap<&'static str, u64>,
        log: Log,
        files_sent: u64,
        upnp: String,
    },
    Saved {
        command: &'static str,
        path: String,
        peers: usize,
    },
    Loaded {
        command: &'static str,
        path: String,
        peers: usize,
    },
    Debug {
        command: &'static str,
        on: bool,
    },
    Stopped {
        command: &'static str,
    },
    Help {
        command: &'static str,
        commands: &'static [Manual],
    },
    Error {
        #[serde(skip_serializing_if = "Option::is_none")]
        command: Option<Cow<'static, str>>,
        error: &'static str,
        detail: String,
    },
    Bye {
        #[serde(skip_serializing_if = "Option::is_none")]
        command: Option<&'static str>,
    },
}

/// A shared file, or one being fetched.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    pub(crate) hash: String,
    pub(crate) length: Option<u64>,
    pub(crate) kind: &'static str,
    pub(crate) path: String,
    pub(crate) state: &'static str,
    pub(crate) have: u64,
    pub(crate) sources: usize,
    pub(crate) rate: u64,
}

/// A peer, linked or known.
#[derive(Debug, Serialize)]
pub(crate) struct Peer {
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    pub(crate) addr: Option<String>,
    pub(crate) state: &'static str,
    pub(crate) direction: Option<&'static str>,
    pub(crate) rtt_ms: Option<u64>,
    pub(crate) last_heard: Option<String>,
    pub(crate) path: Option<&'static str>,
    pub(crate) agent: Option<String>,
    #[serde(skip)]
    pub(crate) heard: Option<SystemTime>,
}

/// What the message log holds.
#[derive(Debug, Serialize)]
pub(crate) struct Log {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// One command of the console, explained.
#[derive(Debug, Serialize)]
pub(crate) struct Manual {
    pub(crate) name: &'static str,
    pub(crate) args: &'static str,
    pub(crate) help: &'static str,
}

impl Line {
    pub(crate) fn ready(node: &Node, console: bool) -> Self {
        Self::Ready {
            id: node.id().to_string(),
            listen: node.listen_addrs().iter().map(ToString::to_string).collect(),
            files: node.file_addrs().iter().map(ToString::to_string).collect(),
            api: None,
            ticket: node.ticket().to_string(),
            version: env!("CARGO_PKG_VERSION"),
            friends: friends(node),
            console,
        }
    }

    pub(crate) fn id(node: &Node) -> Self {
        Self::Id {
            command: "id",
            id: node.id().to_string(),
            name: node.name().map(str::to_owned),
            addrs: friends(node),
            ticket: node.ticket().to_string(),
        }
    }

    pub(crate) fn status(status: Status) -> Self {
        Self::Status {
            command: "status",
            uptime_ms: ms(status.uptime),
            links: status.links,
            known_peers: status.known_peers,
            messages_in: status.messages_in,
            messages_out: status.messages_out,
            refused: status.refused,
            log: Log { messages: status.log_messages, bytes: status.log_bytes },
            files_sent: status.files_sent,
            upnp: status.upnp,
        }
    }

    pub(crate) fn file_added(command: &'static str, node: &Node, share: &p2p_node::Share) -> Self {
        Self::FileAdded {
            command,
            hash: share.hash.to_string(),
            length: share.bytes,
            kind: kind(share.info.kind),
            path: share.path.display().to_string(),
            ticket: node.file_ticket(share).to_string(),
        }
    }

    pub(crate) fn folder_entry(entry: &p2p_node::Entry) -> Self {
        let (kind, hash, executable) = match entry.kind {
            EntryKind::File { hash, executable, .. } => ("file", Some(hash.to_string()), executable),
            EntryKind::EmptyFolder => ("dir", None, false),
        };
        Self::FolderEntry { path: entry.path.to_string(), kind, length: entry.length(), hash, executable }
    }

    pub(crate) fn error(command: Option<&'static str>, failure: &Failure) -> Self {
        Self::Error {
            command: command.map(Cow::Borrowed),
            error: failure.word,
            detail: failure.detail.clone(),
        }
    }

    /// `None` for events this version has no line for.
    pub(crate) fn event(event: Event) -> Option<Self> {
        Some(match event {
            Event::Message(message) => {
                let (text, data) = body(&message.payload);
                Self::Message {
                    pos: message.pos,
                    author: message.author.to_string(),
                    seq: message.seq,
                    private: message.private,
                    late: message.late,
                    time: rfc3339(message.time),
                    topic: message.topic,
                    text,
                    data,
                    name: None,
                }
            }
            Event::PeerUp { id, addr, direction, name } => Self::PeerUp {
                id: id.to_string(),
                addr: addr.to_string(),
                direction: direction.as_str(),
                path: "direct",
                name,
            },
            Event::PeerDown { id, reason } => Self::PeerDown { id: id.to_string(), reason },
            Event::Lagged { missed, from_pos } => Self::Lagged { missed, from_pos },
            Event::Gap { author, from, to } => Self::Gap { author: author.to_string(), from, to },
            Event::Forked { author } => Self::Forked { author: author.to_string() },
            Event::Receipt { seq, by } => Self::Receipt { seq, by: by.to_string() },
            Event::NoReceipt { seq, to } => Self::NoReceipt { seq, to: to.to_string() },
            Event::SourceFailed { hash, id, fault } => {
                Self::SourceFailed { hash: hash.to_string(), id: id.to_string(), fault }
            }
            Event::Notice(text) => Self::Notice { text },
            Event::Warning(text) => Self::Warning { text },
            _ => return None,
        })
    }
}

impl From<FileEntry> for Entry {
    fn from(entry: FileEntry) -> Self {
        Self {
            hash: entry.hash.to_string(),
            length: entry.length,
            kind: kind(entry.kind),
            path: entry.path.display().to_string(),
            state: entry.state.as_str(),
            have: entry.have,
            sources: entry.sources,
            rate: entry.rate,
        }
    }
}

impl From<PeerInfo> for Peer {
    fn from(peer: PeerInfo) -> Self {
        Self {
            id: peer.id.to_string(),
            name: peer.name,
            addr: peer.addr.map(|a| a.to_string()),
            state: peer.state.as_str(),
            direction: peer.direction.map(Direction::as_str),
            rtt_ms: peer.rtt.map(ms),
            last_heard: peer.last_heard.map(rfc3339),
            path: peer.path,
            agent: peer.agent,
            heard: peer.last_heard,
        }
    }
}

/// `IP:PORT` of each address a friend could reach this node at.
fn friends(node: &Node) -> Vec<String> {
    node.addrs().iter().map(|a| std::net::SocketAddr::new(a.ip, a.port).to_string()).collect()
}

pub(crate) const fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Dir => "dir",
        _ => "file",
    }
}

/// The bytes as `text` where they are UTF-8, else as `data` in base64.
fn body(payload: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(payload) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(BASE64.encode(payload))),
    }
}

/// RFC 3339 in UTC; what lies outside of its years (the author of a message may claim anything) becomes
/// their nearest end.
fn rfc3339(time: SystemTime) -> String {
    let stamp = jiff::Timestamp::try_from(time).unwrap_or(if time < SystemTime::UNIX_EPOCH {
        jiff::Timestamp::UNIX_EPOCH
    } else {
        jiff::Timestamp::MAX
    });
    stamp.max(jiff::Timestamp::UNIX_EPOCH).to_string()
}

fn ms(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn json(line: &Line) -> String {
        serde_json::to_string(line).unwrap()
    }

    #[test]
    fn lines_read_as_specified() {
        assert_eq!(
            json(&Line::Sent { command: "msg", seq: 7, queued_links: 4, to: None }),
            r#"{"event":"sent","command":"msg","seq":7,"queued_links":4}"#
        );
        assert_eq!(
            json(&Line::PeerUp {
                id: "i".into(),
                addr: "a".into(),
                direction: "out",
                path: "direct",
                name: None
            }),
            r#"{"event":"peer_up","id":"i","addr":"a","direction":"out","path":"direct","name":null}"#
        );
        assert_eq!(json(&Line::Bye { command: Some("exit") }), r#"{"event":"bye","command":"exit"}"#);
        assert_eq!(
            json(&Line::Ok { command: "ban", id: Some("i".into()), hash: None }),
            r#"{"event":"ok","command":"ban","id":"i"}"#
        );
        for (line, text) in [
            (Line::Receipt { seq: 9, by: "b".into() }, r#"{"event":"receipt","seq":9,"by":"b"}"#),
            (
                Line::Gap { author: "a".into(), from: 3, to: 5 },
                r#"{"event":"gap","author":"a","from":3,"to":5}"#,
            ),
            (Line::Forked { author: "a".into() }, r#"{"event":"forked","author":"a"}"#),
            (Line::Lagged { missed: 40, from_pos: 12 }, r#"{"event":"lagged","missed":40,"from_pos":12}"#),
        ] {
            assert_eq!(json(&line), text);
        }
    }

    #[test]
    fn bytes_that_are_no_text_become_base64() {
        assert_eq!(body(b"caf\xc3\xa9"), (Some("café".into()), None));
        assert_eq!(body(b"\xff\x00"), (None, Some("/wA=".into())));
    }

    #[test]
    fn times_are_rfc_3339_in_utc_whatever_an_author_claims() {
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        assert_eq!(rfc3339(at(1_700_000_000_123)), "2023-11-14T22:13:20.123Z");
        assert_eq!(rfc3339(at(0)), "1970-01-01T00:00:00Z");
        assert!(rfc3339(at(u64::MAX / 4)).starts_with("9999-"), "{}", rfc3339(at(u64::MAX / 4)));
    }
}
