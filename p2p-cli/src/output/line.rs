//! One thing said. As JSON it is one line with `"event"`; fields may be added, never renamed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;

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
        /// Of these, no messages.
        others: u64,
        from_pos: u64,
        /// For people only: the log has dropped them.
        #[serde(skip)]
        gone: bool,
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
    Torrent {
        command: &'static str,
        path: String,
        name: String,
        length: u64,
        hash: String,
        root: String,
        info_hash: String,
        magnet: String,
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
        folders: Vec<Renewed>,
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
        /// Entries that made no sense.
        skipped: usize,
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

/// A shared folder that changed, with the hash it has now.
#[derive(Debug, Serialize)]
pub(crate) struct Renewed {
    pub(crate) path: String,
    pub(crate) hash: String,
    pub(crate) ticket: String,
    /// For people only: what of it is not shared.
    #[serde(skip)]
    pub(crate) left_out: Option<String>,
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

#[cfg(test)]
mod tests {
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
            (
                Line::Lagged { missed: 40, others: 3, from_pos: 12, gone: false },
                r#"{"event":"lagged","missed":40,"others":3,"from_pos":12}"#,
            ),
        ] {
            assert_eq!(json(&line), text);
        }
    }
}
