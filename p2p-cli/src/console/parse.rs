//! What was typed, understood: the first word is the command, the rest its arguments, quotes group words.
//! The text of a message is taken as it stands, quotes and all.

use std::path::PathBuf;

use crate::output::Manual;

/// A command with its arguments; ids and hashes are still as typed, for only the node knows which are short
/// for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Id,
    Status,
    Connect(String),
    Disconnect(String),
    Ban(String),
    Unban(String),
    Msg(Vec<u8>),
    Pm(String, Vec<u8>),
    PmWait(u64, String, Vec<u8>),
    Publish(String, Vec<u8>),
    Subscribe(Vec<String>),
    Add(PathBuf),
    Unshare(String),
    Req(String, Option<PathBuf>, Vec<String>),
    List(String),
    Files,
    Refresh,
    Peers,
    Save(Option<PathBuf>),
    Load(Option<PathBuf>),
    Debug,
    Stop,
    Exit,
}

/// The longest wait for a receipt, seconds: a day, as long as messages are kept.
const MAX_WAIT: u64 = 86_400;

/// Every command, in the order of `help`.
pub(crate) const COMMANDS: &[Manual] = &[
    Manual { name: "help", args: "", help: "this list" },
    Manual { name: "id", args: "", help: "who this node is, and what to tell a friend" },
    Manual { name: "status", args: "", help: "links, messages, what was refused, the router" },
    Manual {
        name: "connect",
        args: "ADDR|TICKET",
        help: "join through a node: IP, IP:PORT, HOST:PORT or p2p:…",
    },
    Manual { name: "disconnect", args: "ID", help: "hang up on a peer" },
    Manual { name: "ban", args: "ID", help: "hang up on a peer and never link to it again" },
    Manual { name: "unban", args: "ID", help: "take a ban back" },
    Manual { name: "msg", args: "TEXT", help: "send a message to everybody" },
    Manual {
        name: "pm",
        args: "[--wait SECONDS] ID TEXT",
        help: "send a message that only one node can read; --wait tells when it has it",
    },
    Manual {
        name: "publish",
        args: "TOPIC TEXT",
        help: "send a message on a topic; quotes group a topic of several words",
    },
    Manual {
        name: "subscribe",
        args: "[TOPIC]...",
        help: "show messages of these topics only; without a topic, all",
    },
    Manual { name: "add", args: "PATH", help: "share a file or a folder; prints its hash" },
    Manual { name: "unshare", args: "HASH", help: "share it no longer; the file or folder stays" },
    Manual {
        name: "req",
        args: "HASH|TICKET [PATH] [--only PATH]...",
        help: "fetch a file or a folder from whoever has it; --only names what of a folder",
    },
    Manual { name: "list", args: "HASH|TICKET", help: "what is in a folder, without fetching it" },
    Manual { name: "files", args: "", help: "files and folders shared and being fetched" },
    Manual { name: "refresh", args: "", help: "share what is new in content/, forget what is gone" },
    Manual { name: "peers", args: "", help: "nodes linked and known" },
    Manual { name: "save", args: "[FILE]", help: "write the known peers to state.json or FILE" },
    Manual {
        name: "load",
        args: "[FILE]",
        help: "read peers from state.json or FILE, also python-p2p's list",
    },
    Manual { name: "debug", args: "", help: "debug messages on or off" },
    Manual { name: "stop", args: "", help: "leave the network; `connect` joins again" },
    Manual { name: "exit", args: "", help: "save and leave" },
];

impl Command {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Help => "help",
            Self::Id => "id",
            Self::Status => "status",
            Self::Connect(_) => "connect",
            Self::Disconnect(_) => "disconnect",
            Self::Ban(_) => "ban",
            Self::Unban(_) => "unban",
            Self::Msg(_) => "msg",
            Self::Pm(..) | Self::PmWait(..) => "pm",
            Self::Publish(..) => "publish",
            Self::Subscribe(_) => "subscribe",
            Self::Add(_) => "add",
            Self::Unshare(_) => "unshare",
            Self::Req(..) => "req",
            Self::List(_) => "list",
            Self::Files => "files",
            Self::Refresh => "refresh",
            Self::Peers => "peers",
            Self::Save(_) => "save",
            Self::Load(_) => "load",
            Self::Debug => "debug",
            Self::Stop => "stop",
            Self::Exit => "exit",
        }
    }
}

/// A line that is no command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParseError {
    /// The command it would be for.
    pub(crate) command: Option<String>,
    pub(crate) word: &'static str,
    pub(crate) detail: String,
}

/// The command in a line; `None` for an empty one.
pub(crate) fn parse(line: &[u8]) -> Result<Option<Command>, ParseError> {
    let line = line.trim_ascii_start();
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    if end == 0 {
        return Ok(None);
    }
    // One space ends the word; what follows belongs to the text of a message.
    let (word, rest) = (&line[..end], line.get(end + 1..).unwrap_or_default());
    let name = String::from_utf8_lossy(word);
    let Some(manual) = COMMANDS.iter().find(|m| m.name == name) else { return Err(unknown(&name)) };
    let fail =
        |word: &'static str, detail: String| ParseError { command: Some(name.to_string()), word, detail };
    let usage = || fail("usage", format!("usage: {} {}", manual.name, manual.args).trim_end().to_owned());
    match manual.name {
        "msg" if rest.is_empty() => return Err(usage()),
        "msg" => return Ok(Some(Command::Msg(rest.to_vec()))),
        "pm" => return pm(rest).ok_or_else(usage).map(Some),
        "publish" => return publish(rest).ok_or_else(usage).map(Some),
        _ => {}
    }
    let rest =
        std::str::from_utf8(rest).map_err(|_| fail("usage", "the arguments are no UTF-8".to_owned()))?;
    let words = split(rest, cfg!(unix)).map_err(|detail| fail("usage", detail.to_owned()))?;
    build(manual.name, words).map(Some).ok_or_else(usage)
}

/// `[--wait SECONDS] ID TEXT`, the text as it stands.
fn pm(rest: &[u8]) -> Option<Command> {
    let (first, text) = first_word(rest)?;
    if first != "--wait" {
        return (!text.is_empty()).then(|| Command::Pm(first, text.to_vec()));
    }
    let (seconds, rest) = first_word(text)?;
    let seconds = seconds.parse().ok().filter(|s| (1..=MAX_WAIT).contains(s))?;
    let (id, text) = first_word(rest)?;
    (!text.is_empty()).then(|| Command::PmWait(seconds, id, text.to_vec()))
}

/// `TOPIC TEXT`, the text as it stands.
fn publish(rest: &[u8]) -> Option<Command> {
    let rest = rest.trim_ascii_start();
    let (topic, text) = match rest.first()? {
        quote @ (b'\'' | b'"') => {
            let end = 1 + rest[1..].iter().position(|byte| byte == quote)?;
            let text = rest[end + 1..].strip_prefix(b" ")?;
            (std::str::from_utf8(&rest[1..end]).ok()?.to_owned(), text)
        }
        _ => first_word(rest)?,
    };
    (!topic.is_empty() && !text.is_empty()).then(|| Command::Publish(topic, text.to_vec()))
}

/// A word, and what follows behind one space.
fn first_word(text: &[u8]) -> Option<(String, &[u8])> {
    let text = text.trim_ascii_start();
    let end = text.iter().position(u8::is_ascii_whitespace)?;
    Some((std::str::from_utf8(&text[..end]).ok()?.to_owned(), &text[end + 1..]))
}

fn build(name: &str, words: Vec<String>) -> Option<Command> {
    let mut words = words.into_iter();
    let mut next = || words.next();
    let command = match name {
        "help" => Command::Help,
        "id" => Command::Id,
        "status" => Command::Status,
        "connect" => Command::Connect(next()?),
        "disconnect" => Command::Disconnect(next()?),
        "ban" => Command::Ban(next()?),
        "unban" => Command::Unban(next()?),
        "subscribe" => return Some(Command::Subscribe(words.collect())),
        "add" => Command::Add(path(next()?)),
        "unshare" => Command::Unshare(next()?),
        "req" => return req(words),
        "list" => Command::List(next()?),
        "files" => Command::Files,
        "refresh" => Command::Refresh,
        "peers" => Command::Peers,
        "save" => Command::Save(next().map(path)),
        "load" => Command::Load(next().map(path)),
        "debug" => Command::Debug,
        "stop" => Command::Stop,
        "exit" => Command::Exit,
        _ => return None,
    };
    // A word too many is a mistake: `add my file` must not share `my`.
    next().is_none().then_some(command)
}

/// `HASH|TICKET [PATH] [--only PATH]...`
fn req(words: impl Iterator<Item = String>) -> Option<Command> {
    let (mut plain, mut only) = (Vec::new(), Vec::new());
    let mut words = words;
    while let Some(word) = words.next() {
        match word.as_str() {
            "--only" => only.push(words.next()?),
            _ => plain.push(word),
        }
    }
    let mut plain = plain.into_iter();
    let (what, to) = (plain.next()?, plain.next().map(path));
    plain.next().is_none().then_some(Command::Req(what, to, only))
}

/// A leading `~/` is the home directory, as people expect; `./~/` is a directory of that name.
fn path(text: String) -> PathBuf {
    match (text.strip_prefix("~/"), etcetera::home_dir()) {
        (Some(rest), Ok(home)) => home.join(rest),
        _ => PathBuf::from(text),
    }
}

/// Words at white space. `'…'` and `"…"` group; with `escapes` a backslash takes the next character as it is
/// (outside of quotes any, inside of double quotes `"` and `\`); Windows has it in its paths.
fn split(text: &str, escapes: bool) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('"'), '\\') if escapes && matches!(chars.peek(), Some('"' | '\\')) => {
                word.get_or_insert_default().extend(chars.next());
            }
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '\\') if escapes => {
                let next = chars.next().ok_or("nothing follows the backslash at the end")?;
                word.get_or_insert_default().push(next);
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed");
    }
    words.extend(word);
    Ok(words)
}

fn unknown(name: &str) -> ParseError {
    // What was typed may be anything, a file pasted by mistake too.
    let shown: String = name.chars().take(40).collect();
    let lower = shown.to_ascii_lowercase();
    let near = COMMANDS.iter().map(|m| (distance(&lower, m.name), m.name)).min();
    let hint = match near {
        Some((0..=2, near)) => format!("did you mean `{near}`?"),
        _ => "`help` lists them all".to_owned(),
    };
    let detail = format!("there is no command `{shown}`; {hint}");
    ParseError { command: Some(shown), word: "unknown_command", detail }
}

/// Letters to add, drop or change to make one word of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(line: &str) -> Command {
        parse(line.as_bytes()).unwrap().unwrap()
    }

    fn word(line: &str) -> &'static str {
        parse(line.as_bytes()).unwrap_err().word
    }

    #[test]
    fn the_first_word_is_the_command_wherever_others_stand() {
        assert_eq!(ok("msg please connect to bob"), Command::Msg(b"please connect to bob".into()));
        assert_eq!(ok("  connect 127.0.0.1:7"), Command::Connect("127.0.0.1:7".into()));
        assert_eq!(ok("exit"), Command::Exit);
    }

    #[test]
    fn the_text_of_a_message_is_taken_as_it_stands() {
        assert_eq!(ok("msg say \"hi\"  \\o/ it's"), Command::Msg(b"say \"hi\"  \\o/ it's".into()));
        assert_eq!(ok("msg  two"), Command::Msg(b" two".into()));
        assert_eq!(ok("pm abc 'x' y "), Command::Pm("abc".into(), b"'x' y ".into()));
        assert_eq!(ok("pm --wait 5 abc  x"), Command::PmWait(5, "abc".into(), b" x".into()));
        assert_eq!(ok("subscribe"), Command::Subscribe(Vec::new()));
        assert_eq!(ok("subscribe a 'b c'"), Command::Subscribe(vec!["a".into(), "b c".into()]));
        assert_eq!(parse(b"msg \xff\x00"), Ok(Some(Command::Msg(b"\xff\x00".into()))));
    }

    #[test]
    fn quotes_and_escapes_group_words() {
        assert_eq!(ok("add 'my file'"), Command::Add("my file".into()));
        assert_eq!(ok("req abc \"a 'b' c\""), Command::Req("abc".into(), Some("a 'b' c".into()), vec![]));
        assert_eq!(
            ok("req abc --only a/b to --only c"),
            Command::Req("abc".into(), Some("to".into()), vec!["a/b".into(), "c".into()])
        );
        assert_eq!(ok("publish news it's  here"), Command::Publish("news".into(), b"it's  here".into()));
        assert_eq!(ok("publish 'b c' \"x"), Command::Publish("b c".into(), b"\"x".into()));
        assert_eq!(ok("list abc"), Command::List("abc".into()));
        assert_eq!(
            split(r#"a\ b "c\"d\e" ''"#, true),
            Ok(vec!["a b".into(), r#"c"d\e"#.into(), String::new()])
        );
        assert_eq!(split(r"C:\a\b 'c d'", false), Ok(vec![r"C:\a\b".into(), "c d".into()]));
        assert!(split("'open", true).is_err() && split("end\\", true).is_err());
    }

    #[test]
    fn what_is_no_command_is_refused_with_a_hint() {
        assert_eq!(word("frobnicate"), "unknown_command");
        assert!(parse(b"conect x").unwrap_err().detail.contains("`connect`"));
        assert!(parse(b"PM x").unwrap_err().detail.contains("`pm`"));
        for line in [
            "msg",
            "msg ",
            "pm",
            "pm abc",
            "pm abc ",
            "pm --wait 5 abc",
            "pm --wait 0 abc x",
            "pm --wait x abc y",
            "publish",
            "publish news",
            "publish news ",
            "publish 'a b",
            "publish 'a b' ",
            "publish '' x",
            "connect",
            "add a b",
            "req",
            "exit now",
            "ban",
            "add 'x",
        ] {
            assert_eq!(word(line), "usage", "{line:?}");
        }
        assert_eq!(parse(b"   "), Ok(None));
        assert_eq!(parse(b""), Ok(None));
    }

    #[test]
    fn every_command_of_the_manual_is_there_under_its_name() {
        for manual in COMMANDS {
            let arguments =
                ["a", "b"].map(str::to_owned).into_iter().take(manual.args.split_whitespace().count());
            let command = match manual.name {
                "msg" => Some(Command::Msg(Vec::new())),
                "pm" => pm(b"a b"),
                "publish" => publish(b"a b"),
                name => build(name, arguments.collect()),
            };
            assert_eq!(command.map(|c| c.name()), Some(manual.name));
        }
    }

    #[test]
    fn no_bytes_panic() {
        // Every pair of bytes after every command: the parser looks at single characters only.
        for manual in COMMANDS {
            for pair in 0..=u16::MAX {
                let mut line = manual.name.as_bytes().to_vec();
                line.push(b' ');
                line.extend(pair.to_be_bytes());
                let _ = parse(&line);
            }
        }
    }
}
