//! What the node says, as lines: ids, hashes, times and bytes become text here.

use std::borrow::Cow;
use std::time::SystemTime;

use data_encoding::BASE64;
use p2p_node::{Direction, EntryKind, Event, FileEntry, Kind, LoadedState, Node, PeerInfo, Status};

use super::line::{Entry, Line, Log, Peer};
use crate::failure::Failure;

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

    pub(crate) fn loaded(command: &'static str, loaded: LoadedState) -> Self {
        let LoadedState { path, peers, skipped, .. } = loaded;
        Self::Loaded { command, path: path.display().to_string(), peers, skipped }
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

    /// What a reader of the log is told: it goes on by itself behind what it was too slow for, so that messages it
    /// missed are such as the log has dropped.
    pub(crate) fn logged(event: Event) -> Option<Self> {
        let line = Self::event(event)?;
        Some(match line {
            Self::Lagged { missed, others: 0, from_pos, .. } => {
                Self::Lagged { missed, others: 0, from_pos, gone: true }
            }
            line => line,
        })
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
            Event::Lagged { missed, others, from_pos } => {
                Self::Lagged { missed, others, from_pos, gone: false }
            }
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
    // With as many digits always, so that they sort as text.
    format!("{:.3}", stamp.max(jiff::Timestamp::UNIX_EPOCH))
}

fn ms(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn bytes_that_are_no_text_become_base64() {
        assert_eq!(body(b"caf\xc3\xa9"), (Some("café".into()), None));
        assert_eq!(body(b"\xff\x00"), (None, Some("/wA=".into())));
    }

    #[test]
    fn times_are_rfc_3339_in_utc_whatever_an_author_claims() {
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        assert_eq!(rfc3339(at(1_700_000_000_123)), "2023-11-14T22:13:20.123Z");
        assert_eq!(rfc3339(at(0)), "1970-01-01T00:00:00.000Z");
        assert!(rfc3339(at(u64::MAX / 4)).starts_with("9999-"), "{}", rfc3339(at(u64::MAX / 4)));
    }
}
