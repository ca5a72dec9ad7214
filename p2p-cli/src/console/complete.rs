//! What the Tab key offers: commands, then peers, hashes or paths, as the command wants them.

use std::sync::{Mutex, PoisonError};

use p2p_node::{FileEntry, PeerInfo};
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use super::parse::COMMANDS;
use crate::output::{named, visible};

/// Characters of an id or a hash that completion writes: as many as lists show.
const SHORT: usize = 10;

/// Peers and files as the console last saw them.
#[derive(Debug, Default)]
pub(crate) struct Words(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Start of the id, and how it is shown.
    peers: Vec<(String, String)>,
    files: Vec<(String, String)>,
}

impl Words {
    pub(crate) fn learn(&self, peers: &[PeerInfo], files: &[FileEntry]) {
        let peers = peers.iter().map(|p| peer(&p.id.to_string(), p.name.as_deref())).collect();
        let files = files
            .iter()
            .map(|f| (f.hash.to_string(), f.path.file_name().unwrap_or_default().to_string_lossy()))
            .map(|(hash, name)| word(&hash, &visible(&name)))
            .collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Known { peers, files };
    }

    fn matching(&self, what: What, start: &str) -> Vec<Pair> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let words = match what {
            What::Peer => &known.peers,
            What::Hash => &known.files,
            What::Path | What::Nothing => return Vec::new(),
        };
        let pair = |(short, shown): &(String, String)| Pair {
            display: shown.clone(),
            replacement: format!("{short} "),
        };
        let start = start.to_ascii_lowercase();
        words.iter().filter(|(short, _)| short.starts_with(&start)).map(pair).collect()
    }
}

fn peer(id: &str, name: Option<&str>) -> (String, String) {
    word(id, &name.map(named).unwrap_or_default())
}

fn word(id: &str, name: &str) -> (String, String) {
    let short = id.get(..SHORT).unwrap_or(id).to_owned();
    let shown = format!("{short} {name}").trim_end().to_owned();
    (short, shown)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Peer,
    Hash,
    Path,
    Nothing,
}

/// What the argument of that number (from 0) of a command is.
fn wanted(command: &str, argument: usize) -> What {
    match (command, argument) {
        ("disconnect" | "ban" | "unban" | "pm", 0) => What::Peer,
        ("unshare" | "req" | "list", 0) => What::Hash,
        ("add" | "save" | "load", 0) | ("req", 1) => What::Path,
        _ => What::Nothing,
    }
}

/// The editor's helper.
pub(crate) struct Completion {
    pub(crate) words: std::sync::Arc<Words>,
    pub(crate) paths: FilenameCompleter,
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        at: usize,
        context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..at];
        let start = typed.rfind(char::is_whitespace).map_or(0, |space| space + 1);
        let mut before = typed[..start].split_whitespace();
        let Some(command) = before.next() else {
            let names = COMMANDS.iter().filter(|m| m.name.starts_with(&typed[start..]));
            let pair = |m: &crate::output::Manual| Pair {
                display: m.name.into(),
                replacement: format!("{} ", m.name),
            };
            return Ok((start, names.map(pair).collect()));
        };
        match wanted(command, before.count()) {
            What::Path => self.paths.complete(line, at, context),
            what => Ok((start, self.words.matching(what, &typed[start..]))),
        }
    }
}

impl Hinter for Completion {
    type Hint = String;
}

impl Highlighter for Completion {}

impl Validator for Completion {}

impl Helper for Completion {}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustyline::history::DefaultHistory;

    use super::*;

    fn offered(line: &str) -> (usize, Vec<String>) {
        let words = Words::default();
        *words.0.lock().unwrap() = Known {
            peers: vec![peer(&"ab".repeat(32), Some("ann\x1b")), peer(&"cd".repeat(32), None)],
            files: vec![word(&"ef".repeat(32), "film")],
        };
        let completion = Completion { words: Arc::new(words), paths: FilenameCompleter::new() };
        let history = DefaultHistory::new();
        let (start, pairs) = completion.complete(line, line.len(), &Context::new(&history)).unwrap();
        (start, pairs.into_iter().map(|p| p.replacement).collect())
    }

    #[test]
    fn each_place_offers_what_belongs_there() {
        assert_eq!(offered("re"), (0, vec!["req ".into(), "refresh ".into()]));
        assert_eq!(offered("ban a"), (4, vec!["ababababab ".into()]));
        assert_eq!(offered("pm "), (3, vec!["ababababab ".into(), "cdcdcdcdcd ".into()]));
        assert_eq!(offered("req EF"), (4, vec!["efefefefef ".into()]));
        assert_eq!(offered("msg hello a"), (10, vec![]));
        assert_eq!(offered("frob a"), (5, vec![]));
    }

    #[test]
    fn names_in_the_list_are_harmless() {
        assert_eq!(peer(&"ab".repeat(32), Some("ann\x1b")).1, r#"ababababab "ann\u{1b}""#);
        assert_eq!(peer(&"ab".repeat(32), Some("cdcdcdcdcd")).1, r#"ababababab "cdcdcdcdcd""#);
        assert_eq!(peer(&"ab".repeat(32), Some("ann")).1, "ababababab ann");
    }
}
