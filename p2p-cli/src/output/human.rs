//! A [`Line`] for people. Whatever a peer could have chosen (names, messages, reasons, file names, agents)
//! goes through [`visible`] before it is written.

use std::fmt::Write as _;
use std::time::Duration;

use super::line::Line;
use super::lists::{help, listed_files, listed_peers, status};
use super::text::{duration, named, shortened, size, visible};

/// Of a longer message only the start is shown, with its size; `--json` has all of it.
const MAX_SHOWN: usize = 4096;
/// Characters of an id or a hash in lists and messages.
const SHORT: usize = 10;

/// Whether to paint, and with what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint(pub(crate) bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    fn red(self, text: &str) -> String {
        self.with("31", text)
    }
}

/// The text of a line, line feed included; empty where people need none.
pub(crate) fn render(line: &Line, paint: Paint) -> String {
    let mut text = match line {
        Line::Ready { id, listen, files, ticket, version, friends, console, .. } => {
            ready(id, listen, files, version, friends, ticket, *console)
        }
        Line::Message { author, topic, private, late, text, data, name, .. } => message(
            paint,
            author,
            name.as_deref(),
            topic,
            (*private, *late),
            text.as_deref(),
            data.as_deref(),
        ),
        Line::PeerUp { id, addr, name, .. } => {
            let name = name.as_deref().map(|n| format!("{} ", named(n))).unwrap_or_default();
            paint.dim(&format!("+ {name}{} at {addr}", short(id)))
        }
        Line::PeerDown { id, reason } => paint.dim(&format!("- {}: {}", short(id), visible(reason))),
        Line::Lagged { missed, from_pos, gone: true, .. } => {
            paint.red(&format!("! {}", dropped(*missed, *from_pos)))
        }
        Line::Lagged { missed, others, from_pos, .. } => {
            paint.red(&lagged(*missed, if others < missed { *from_pos } else { 0 }))
        }
        Line::Gap { author, from, to } if from == to => {
            paint.red(&format!("! message {from} of {} is missing, and no peer has it", short(author)))
        }
        Line::Gap { author, from, to } => paint.red(&format!(
            "! messages {from} to {to} of {} are missing, and no peer has them",
            short(author)
        )),
        Line::Forked { author } => paint.red(&format!(
            "! {} signed two different messages under one number; its key may be in use twice",
            short(author)
        )),
        Line::Receipt { seq, by } => paint.dim(&format!("* {} has message {seq}", short(by))),
        Line::NoReceipt { seq, to } => paint
            .red(&format!("! no receipt of {} for message {seq} in time; it may arrive still", short(to))),
        Line::SourceFailed { hash, id, fault } => {
            paint.red(&format!("! {} failed for file {}: {}", short(id), short(hash), visible(fault)))
        }
        Line::Notice { text } => paint.dim(&format!("* {}", visible(text))),
        Line::Warning { text } => paint.red(&format!("! {}", visible(text))),
        Line::Error { detail, .. } => paint.red(&format!("! {}", visible(detail))),
        Line::FileFailed { detail, .. } => paint.red(&format!("! {}", visible(detail))),
        other => reply(other, paint),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn lagged(missed: u64, from_pos: u64) -> String {
    let mut text = format!("! {missed} events were not shown: they came faster than they could be written");
    if from_pos > 0 {
        let _ = write!(text, "; once this node has ended, `p2p log --since {from_pos}` shows the messages");
    }
    text
}

/// What stood before `from_pos`, in words.
pub(crate) fn dropped(missed: u64, from_pos: u64) -> String {
    match missed {
        1 => format!("message {} is in the log no longer", from_pos - 1),
        _ => format!("messages {} to {} are in the log no longer", from_pos - missed, from_pos - 1),
    }
}

fn reply(line: &Line, paint: Paint) -> String {
    match line {
        Line::Sent { queued_links: 0, .. } => {
            paint.dim("kept: there is no link yet; it goes out with the first one")
        }
        Line::Sent { queued_links: 1, .. } => paint.dim("sent on 1 link"),
        Line::Sent { queued_links, .. } => paint.dim(&format!("sent on {queued_links} links")),
        Line::Connected { id, addr, already: true, .. } => {
            format!("already connected to {} at {addr}", short(id))
        }
        Line::Connected { id, addr, .. } => format!("connected to {} at {addr}", short(id)),
        Line::Ok { command, id: Some(id), .. } => format!("{command}: {} done", short(id)),
        Line::Ok { command, hash: Some(hash), .. } => format!("{command}: {} done", short(hash)),
        Line::Ok { command, .. } => format!("{command}: done"),
        Line::FileAdded { hash, length, path, ticket, .. } => format!(
            "{} ({}) is shared\n  hash    {hash}\n  ticket  {ticket}",
            paint.bold(&visible(path)),
            size(*length)
        ),
        Line::FolderEntry { path, kind: "dir", .. } => format!("{:>10}  {}/", "", visible(path)),
        Line::FolderEntry { path, length, executable, .. } => {
            format!("{:>10}  {}{}", size(*length), visible(path), if *executable { " *" } else { "" })
        }
        Line::Folder { hash, files, length, .. } => {
            format!("{files} file{} ({}) in folder {hash}", plural(*files), size(*length))
        }
        Line::Hashed { path, hash, length, root, sha256, files, left_out, .. } => {
            let files = files.map(|files| format!(" in {files} file{}", plural(files))).unwrap_or_default();
            let left_out =
                left_out.as_deref().map(|text| format!("\n! {}", visible(text))).unwrap_or_default();
            format!(
                "{} ({}{files})\n  hash    {hash}\n  root    {root}\n  sha256  {sha256}{left_out}",
                paint.bold(&visible(path)),
                size(*length)
            )
        }
        Line::Torrent { path, name, length, hash, root, info_hash, magnet, .. } => format!(
            "{}: {} ({})\n  hash       {hash}\n  root       {root}\n  info-hash  {info_hash}\n{magnet}",
            paint.bold(&visible(path)),
            visible(name),
            size(*length)
        ),
        Line::FileDone { path, length, ms, sources, .. } => done(paint, path, *length, *ms, *sources),
        Line::Files { files, .. } => listed_files(files),
        Line::Refreshed { added, removed, folders, failed, .. } => {
            let mut text = format!("{added} added, {removed} removed");
            for folder in folders {
                text.push_str(&format!("\n{} changed and is {} now", visible(&folder.path), folder.hash));
                text.extend(folder.left_out.iter().map(|left| format!("\n! {}", visible(left))));
                text.push_str(&format!("\n{}", folder.ticket));
            }
            failed.iter().for_each(|detail| text.push_str(&format!("\n! {}", visible(detail))));
            text
        }
        Line::Peers { peers, .. } => listed_peers(peers),
        Line::Id { id, name, addrs, ticket, .. } => {
            let name = name.as_deref().map(|n| format!("name {}\n", named(n))).unwrap_or_default();
            format!("id   {id}\n{name}{}", invitation(addrs, ticket))
        }
        Line::Status { .. } => status(line),
        Line::Saved { path, peers, .. } => {
            format!("{peers} peer{} saved to {}", plural(*peers as u64), visible(path))
        }
        Line::Loaded { path, peers, skipped, .. } => {
            let left_out = match skipped {
                0 => String::new(),
                1 => "; 1 entry made no sense and was left out".to_owned(),
                _ => format!("; {skipped} entries made no sense and were left out"),
            };
            format!("{peers} peer{} loaded from {}{left_out}", plural(*peers as u64), visible(path))
        }
        Line::Debug { on, .. } => format!("debug messages are {}", if *on { "on" } else { "off" }),
        Line::Stopped { .. } => "left the network; `connect` joins again".to_owned(),
        Line::Help { commands, .. } => help(commands),
        _ => String::new(),
    }
}

pub(super) const fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

pub(super) fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

fn ready(
    id: &str,
    listen: &[String],
    files: &[String],
    version: &str,
    friends: &[String],
    ticket: &str,
    console: bool,
) -> String {
    let (listen, files) = (listen.join(", "), files.join(", "));
    let hint = if console { "`help` lists the commands.\n" } else { "" };
    format!(
        "p2p {version}, {id}\nlistening on {listen}; files on {files}\n{}{hint}",
        invitation(friends, ticket)
    )
}

/// What to tell a friend.
fn invitation(addrs: &[String], ticket: &str) -> String {
    let mut text = "Tell a friend one of these lines:\n".to_owned();
    for addr in addrs {
        // Writing to a String can't fail.
        let _ = writeln!(text, "  connect {addr}");
    }
    let _ = writeln!(text, "  connect {ticket}");
    text
}

fn message(
    paint: Paint,
    author: &str,
    name: Option<&str>,
    topic: &str,
    (private, late): (bool, bool),
    text: Option<&str>,
    data: Option<&str>,
) -> String {
    let name = name.map(|n| format!("{} ", named(n))).unwrap_or_default();
    let mut head = format!("{name}{}", short(author));
    if !topic.is_empty() {
        let _ = write!(head, " [{}]", shortened(topic, 64));
    }
    for (set, word) in [(private, " (private)"), (late, " (late)")] {
        head.push_str(if set { word } else { "" });
    }
    let body = match (text, data) {
        (Some(text), _) if text.len() > MAX_SHOWN => {
            format!("{} ({} in all)", shortened(text, MAX_SHOWN), size(text.len() as u64))
        }
        (Some(text), _) => visible(text).into_owned(),
        (None, data) => format!("({} that are no text)", size(data.map_or(0, decoded))),
    };
    format!("{} {body}", paint.bold(&format!("{head}>")))
}

/// Bytes behind base64.
fn decoded(data: &str) -> u64 {
    let padding = data.bytes().rev().take_while(|&b| b == b'=').count();
    (data.len() / 4 * 3 - padding) as u64
}

fn done(paint: Paint, path: &str, length: u64, ms: u64, sources: usize) -> String {
    let rate = u64::try_from(u128::from(length) * 1000 / u128::from(ms.max(1))).unwrap_or(u64::MAX);
    let time = duration(Duration::from_millis(ms));
    let plural = if sources == 1 { "" } else { "s" };
    let path = paint.bold(&visible(path));
    format!("{path} ({}) is here: {time}, {}/s, {sources} source{plural}", size(length), size(rate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Entry, Peer};

    fn plain(line: &Line) -> String {
        render(line, Paint(false))
    }

    const EVIL: &str = "\x1b[2J\r\u{202e}evil\u{9b}1m\n";

    fn harmless(text: &str) {
        let hostile = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!text.contains(hostile), "{text:?}");
        assert!(text.contains("evil"), "{text:?}");
    }

    #[test]
    fn what_peers_choose_never_reaches_the_terminal_raw() {
        let evil = || EVIL.to_owned();
        let id = || "ab".repeat(32);
        harmless(&plain(&Line::PeerUp {
            id: id(),
            addr: "a".into(),
            direction: "in",
            path: "direct",
            name: Some(evil()),
        }));
        harmless(&plain(&Line::PeerDown { id: id(), reason: evil() }));
        harmless(&plain(&Line::SourceFailed { hash: id(), id: id(), fault: evil() }));
        harmless(&plain(&Line::Notice { text: evil() }));
        harmless(&plain(&Line::Warning { text: evil() }));
        harmless(&plain(&Line::Error { command: None, error: "x", detail: evil() }));
        harmless(&plain(&Line::FileDone {
            command: "req",
            hash: id(),
            path: evil(),
            length: 1,
            ms: 0,
            sources: 1,
        }));
        harmless(&plain(&Line::FolderEntry {
            path: evil(),
            kind: "file",
            length: 1,
            hash: None,
            executable: false,
        }));
        let (hash, path) = (id(), evil());
        let entry =
            Entry { hash, length: None, kind: "file", path, state: "shared", have: 0, sources: 0, rate: 0 };
        harmless(&plain(&Line::Files { command: "files", files: vec![entry] }));
        let peer = Peer {
            id: id(),
            name: Some(evil()),
            addr: None,
            state: "known",
            direction: None,
            rtt_ms: None,
            last_heard: None,
            path: None,
            agent: Some(evil()),
            heard: None,
        };
        harmless(&plain(&Line::Peers { command: "peers", peers: vec![peer] }));
    }

    #[test]
    fn a_message_stays_on_one_line() {
        let line = Line::Message {
            pos: 1,
            author: "ab".repeat(32),
            seq: 1,
            topic: EVIL.into(),
            private: true,
            late: false,
            time: String::new(),
            text: Some(EVIL.into()),
            data: None,
            name: Some(EVIL.into()),
        };
        let text = plain(&line);
        harmless(&text);
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
    }

    #[test]
    fn a_name_cannot_pose_as_a_message_of_somebody_else() {
        let by = |name| {
            let text =
                message(Paint(false), &"ab".repeat(32), Some(name), "", (false, false), Some("x"), None);
            text.split_once("> x").map(|(head, _)| head.to_owned()).unwrap()
        };
        assert_eq!(by("anna"), "anna ababababab");
        assert_eq!(by("anna 0857a8ce22> yes"), r#""anna 0857a8ce22> yes" ababababab"#);
    }

    #[test]
    fn bytes_that_are_no_text_are_counted() {
        for bytes in 0..7_usize {
            let data = data_encoding::BASE64.encode(&vec![0xff; bytes]);
            let text = message(Paint(false), "author", None, "", (false, false), None, Some(&data));
            assert_eq!(text, format!("author> ({bytes} B that are no text)"));
        }
    }

    #[test]
    fn who_missed_messages_is_told_where_they_are() {
        let told = plain(&Line::Lagged { missed: 40, others: 39, from_pos: 12, gone: false });
        assert!(told.contains("40 events") && told.contains("`p2p log --since 12`"), "{told}");
        assert!(
            !plain(&Line::Lagged { missed: 40, others: 0, from_pos: 0, gone: false }).contains("--since")
        );
        assert!(
            !plain(&Line::Lagged { missed: 40, others: 40, from_pos: 12, gone: false }).contains("--since")
        );
    }

    #[test]
    fn what_the_log_has_dropped_is_named() {
        let told = |missed| plain(&Line::Lagged { missed, others: 0, from_pos: 12, gone: true });
        assert_eq!(told(1), "! message 11 is in the log no longer\n");
        assert_eq!(told(3), "! messages 9 to 11 are in the log no longer\n");
    }

    #[test]
    fn one_is_no_plural() {
        let loaded = |peers, skipped| {
            plain(&Line::Loaded { command: "load", path: "p".into(), peers, skipped }).trim_end().to_owned()
        };
        assert_eq!(loaded(2, 0), "2 peers loaded from p");
        assert_eq!(loaded(1, 1), "1 peer loaded from p; 1 entry made no sense and was left out");
        assert_eq!(loaded(0, 2), "0 peers loaded from p; 2 entries made no sense and were left out");
        assert_eq!(
            plain(&Line::Saved { command: "save", path: "p".into(), peers: 1 }),
            "1 peer saved to p\n"
        );
        let mut status = p2p_node::Status::default();
        (status.known_peers, status.log_messages) = (1, 1);
        let one = plain(&Line::status(status));
        assert!(one.contains("1 peer known") && one.contains("1 message,"), "{one}");
    }

    #[test]
    fn a_long_message_is_cut_and_says_so() {
        let text =
            message(Paint(false), "author", None, "", (false, false), Some(&"x".repeat(100_000)), None);
        assert!(text.len() < 5000 && text.ends_with("(97.6 KiB in all)"), "{}", &text[text.len() - 40..]);
    }
}
