//! Paths inside a folder: relative, of safe names, in one order.

use std::cmp::Ordering;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::names::{FileName, NameError};

/// Most bytes of a path inside a folder: what Linux takes for a whole path (`PATH_MAX`).
pub const PATH_MAX: usize = 4_096;

/// Most names in a path inside a folder.
pub const DEPTH_MAX: usize = 64;

/// A path inside a shared folder: names that [`FileName`] accepts, joined by `/`, in Unicode form NFC.
///
/// Ordered name by name, each by its bytes: what lies in one folder stays together, and a folder comes before what is in it.
///
/// ```
/// use p2p_files::EntryPath;
///
/// let path = EntryPath::parse("notes/2026/plan.txt")?;
/// assert_eq!(path.names().last(), Some("plan.txt"));
/// assert!(EntryPath::parse("notes/../../.ssh/config").is_err());
/// assert!(EntryPath::parse("a/b")? < EntryPath::parse("a b")?);
/// # Ok::<(), p2p_files::PathError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EntryPath(String);

impl EntryPath {
    /// Checks a path. Nothing is mended: one that is not in form NFC is refused.
    ///
    /// # Errors
    ///
    /// [`PathError`] says what is wrong with it.
    pub fn parse(path: &str) -> Result<Self, PathError> {
        if path.is_empty() || path.len() > PATH_MAX {
            return Err(PathError::Length { len: path.len() });
        }
        let mut depth = 0;
        for name in path.split('/') {
            depth += 1;
            if depth > DEPTH_MAX {
                return Err(PathError::Depth);
            }
            if FileName::parse(name)?.as_str() != name {
                return Err(PathError::Form);
            }
        }
        Ok(Self(path.to_owned()))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its names, outermost first; at least one.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The folder it lies in; `None` at the top.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('/').map(|(parent, _)| Self(parent.to_owned()))
    }

    /// Whether it is `other` or lies below it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.strip_prefix(&other.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Where it is below `root`.
    #[must_use]
    pub fn below(&self, root: &Path) -> PathBuf {
        let mut path = root.to_path_buf();
        path.extend(self.names());
        path
    }

    /// The path of a name in this folder, or at the top. The caller keeps to [`DEPTH_MAX`].
    pub(super) fn child(parent: Option<&Self>, name: &FileName) -> Result<Self, PathError> {
        let path = parent.map_or_else(
            || name.as_str().to_owned(),
            |parent| format!("{}/{}", parent.as_str(), name.as_str()),
        );
        if path.len() > PATH_MAX {
            return Err(PathError::Length { len: path.len() });
        }
        Ok(Self(path))
    }
}

impl Ord for EntryPath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.names().cmp(other.names())
    }
}

impl PartialOrd for EntryPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a path cannot be one inside a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// Empty, or longer than 4,096 bytes.
    #[error("path of {len} bytes, it must have 1 to {PATH_MAX}")]
    Length {
        /// Bytes of the path.
        len: usize,
    },
    /// More than 64 names.
    #[error("path deeper than {DEPTH_MAX}")]
    Depth,
    /// Not in Unicode form NFC.
    #[error("path that is not in unicode form nfc")]
    Form,
    /// One of its names is refused.
    #[error("path with a {0}")]
    Name(#[from] NameError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_paths_are_refused() {
        for path in [
            "",
            "/",
            "/etc/passwd",
            "a/",
            "a//b",
            "../a",
            "a/../b",
            "a/./b",
            "a/..",
            "C:/x",
            "a\\b",
            "a/.git/config",
            "a/nul.txt",
            "a/b ",
            "a/\u{202e}b",
            "a/\0",
            "e\u{301}/a",
        ] {
            assert!(EntryPath::parse(path).is_err(), "{path:?}");
        }
        assert!(EntryPath::parse(&vec!["a"; DEPTH_MAX].join("/")).is_ok());
        assert_eq!(EntryPath::parse(&vec!["a"; DEPTH_MAX + 1].join("/")), Err(PathError::Depth));
        let long = vec!["a".repeat(255); 17].join("/");
        assert_eq!(EntryPath::parse(&long), Err(PathError::Length { len: long.len() }));
    }

    #[test]
    fn order_keeps_folders_together() {
        let mut paths: Vec<_> =
            ["b", "a/c", "a b", "a", "a/b/c", "a.txt", "a/b"].map(|p| EntryPath::parse(p).unwrap()).into();
        paths.sort();
        let text: Vec<_> = paths.iter().map(EntryPath::as_str).collect();
        assert_eq!(text, ["a", "a/b", "a/b/c", "a/c", "a b", "a.txt", "b"]);
        assert!(paths[2].is_within(&paths[0]) && paths[0].is_within(&paths[0]));
        assert!(!paths[4].is_within(&paths[0]));
        assert_eq!(paths[2].parent().unwrap().as_str(), "a/b");
    }
}
