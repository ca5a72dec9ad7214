//! Ids and hashes as people type them: whole, or any unique start.

use p2p_node::{FetchTarget, FileEntry, FileHash, NodeId, PeerInfo, Ticket};

use crate::failure::{Exit, Failure};

/// The peer meant. A whole id need not be known.
pub(crate) fn peer(typed: &str, known: &[PeerInfo]) -> Result<NodeId, Failure> {
    if let Ok(id) = typed.parse() {
        return Ok(id);
    }
    let ids = known.iter().map(|peer| (peer.id, peer.id.to_string()));
    unique(typed, ids, "peer").map_err(|problem| problem.failure("an id", "no_such_peer"))
}

/// Refuses what is no id and no start of one, whoever is known.
pub(crate) fn check_id(typed: &str) -> Result<(), Failure> {
    match peer(typed, &[]) {
        Err(failure) if failure.exit != Exit::NotFound => Err(failure),
        _ => Ok(()),
    }
}

/// The file meant. A whole hash need not be known.
pub(crate) fn hash(typed: &str, known: &[FileEntry]) -> Result<FileHash, Failure> {
    if let Ok(hash) = typed.parse() {
        return Ok(hash);
    }
    let hashes = known.iter().map(|file| (file.hash, file.hash.to_string()));
    unique(typed, hashes, "file").map_err(|problem| problem.failure("a hash", "no_such_file"))
}

/// A hash or a ticket, complete.
pub(crate) fn fetch_target(typed: &str) -> Result<FetchTarget, Failure> {
    if looks_like_ticket(typed) {
        return file_ticket(typed).map(FetchTarget::from);
    }
    let hash: FileHash = typed.parse().map_err(|_| {
        let length = typed.chars().count();
        let detail = format!(
            "a hash is 64 hex digits, a ticket begins with p2p:; this is neither ({length} characters)"
        );
        Failure::usage("bad_hash", detail)
    })?;
    Ok(hash.into())
}

/// Whether it is meant to be a ticket, whatever it is worth.
pub(crate) fn looks_like_ticket(typed: &str) -> bool {
    typed.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("p2p:"))
}

/// A ticket that names a file.
pub(crate) fn file_ticket(typed: &str) -> Result<Ticket, Failure> {
    let ticket = typed.parse::<Ticket>().map_err(|e| Failure::usage("bad_ticket", e.to_string()))?;
    if ticket.file.is_none() {
        let detail = "this ticket names a node, no file; `connect` takes it";
        return Err(Failure::usage("no_file_in_ticket", detail));
    }
    Ok(ticket)
}

#[derive(Debug, PartialEq, Eq)]
enum Problem {
    NotHex { typed: String },
    Unknown { typed: String, what: &'static str },
    Ambiguous { typed: String, what: &'static str, count: usize, two: [String; 2] },
}

impl Problem {
    fn failure(self, thing: &str, unknown: &'static str) -> Failure {
        match self {
            Self::NotHex { typed } => Failure::usage(
                "bad_id",
                format!("`{typed}` is not {thing}: 64 hex digits, or the start of a known one"),
            ),
            Self::Unknown { typed, what } => Failure::new(
                Exit::NotFound,
                unknown,
                format!("no {what} known here has {thing} that starts with `{typed}`"),
            ),
            Self::Ambiguous { typed, what, count, two: [a, b] } => {
                let detail =
                    format!("`{typed}` may be any of {count} {what}s, such as {a} and {b}; type more of it");
                Failure::usage("ambiguous", detail)
            }
        }
    }
}

/// The one among `known` that starts with what was typed.
fn unique<T: Copy>(
    typed: &str,
    known: impl Iterator<Item = (T, String)>,
    what: &'static str,
) -> Result<T, Problem> {
    let start = typed.to_ascii_lowercase();
    let typed: String = typed.chars().take(64).collect();
    if start.is_empty() || start.len() > 64 || !start.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Problem::NotHex { typed });
    }
    let mut matching: Vec<(T, String)> = known.filter(|(_, id)| id.starts_with(&start)).collect();
    matching.sort_by(|a, b| a.1.cmp(&b.1));
    matching.dedup_by(|a, b| a.1 == b.1);
    // As much of both as tells them apart, at least what lists show.
    let shown = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count().max(9) + 1;
    match matching.as_slice() {
        [] => Err(Problem::Unknown { typed, what }),
        [(one, _)] => Ok(*one),
        [(_, a), (_, b), ..] => {
            let end = shown(a, b).min(a.len());
            let two = [a[..end].to_owned(), b[..end].to_owned()];
            Err(Problem::Ambiguous { typed, what, count: matching.len(), two })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(typed: &str) -> Result<u8, Problem> {
        let ids = [(1, "aa".repeat(32)), (2, format!("{}b0", "aa".repeat(31))), (3, "c1".repeat(32))];
        unique(typed, ids.into_iter(), "peer")
    }

    #[test]
    fn a_unique_start_is_enough() {
        assert_eq!(find("c"), Ok(3));
        assert_eq!(find("C1c"), Ok(3));
        assert_eq!(find(&"aa".repeat(32)), Ok(1));
    }

    #[test]
    fn an_ambiguous_start_is_refused_with_enough_to_go_on() {
        let Err(Problem::Ambiguous { count: 2, two: [a, b], .. }) = find("aa") else {
            panic!("not ambiguous")
        };
        assert_ne!(a, b);
    }

    #[test]
    fn what_nobody_has_or_is_no_hex_is_refused() {
        assert!(matches!(find("d"), Err(Problem::Unknown { .. })));
        for bad in ["", "xyz", "a b", &"a".repeat(65)] {
            assert!(matches!(find(bad), Err(Problem::NotHex { .. })), "{bad:?}");
        }
    }
}
