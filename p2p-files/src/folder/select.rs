//! Which part of a folder is wanted.

use std::collections::BTreeSet;

use super::path::{EntryPath, PathError};

/// Most paths that can be asked for.
const PATHS_MAX: usize = 1_000;

/// What of a folder is wanted: all of it, or some files and folders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    paths: Vec<EntryPath>,
}

impl Selection {
    /// Everything.
    #[must_use]
    pub const fn all() -> Self {
        Self { paths: Vec::new() }
    }

    /// These files, and all that is in these folders. `./` before a path and `/` behind it do not matter. No paths at
    /// all mean everything.
    ///
    /// # Errors
    ///
    /// [`SelectError`] when a path cannot be one inside a folder.
    pub fn of<T: AsRef<str>>(paths: impl IntoIterator<Item = T>) -> Result<Self, SelectError> {
        let mut parsed = BTreeSet::new();
        for path in paths {
            let path = path.as_ref();
            let bare = path.strip_prefix("./").unwrap_or(path);
            let bare = bare.strip_suffix('/').unwrap_or(bare);
            parsed.insert(
                EntryPath::parse(bare)
                    .map_err(|source| SelectError::Path { path: path.to_owned(), source })?,
            );
            if parsed.len() > PATHS_MAX {
                return Err(SelectError::TooMany);
            }
        }
        Ok(Self { paths: parsed.into_iter().collect() })
    }

    /// Whether everything is wanted.
    #[must_use]
    pub const fn is_all(&self) -> bool {
        self.paths.is_empty()
    }

    /// Whether an entry is wanted.
    #[must_use]
    pub fn takes(&self, path: &EntryPath) -> bool {
        self.is_all() || self.taken_by(path).is_some()
    }

    /// Whether all that the other takes is taken by this one too, whatever is in the folder.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.is_all() || (!other.is_all() && other.paths.iter().all(|path| self.takes(path)))
    }

    /// What at least one of the two takes.
    ///
    /// # Errors
    ///
    /// [`SelectError::TooMany`].
    pub fn or(&self, other: &Self) -> Result<Self, SelectError> {
        if self.is_all() || other.is_all() {
            return Ok(Self::all());
        }
        Self::of(self.paths.iter().chain(&other.paths).map(EntryPath::as_str))
    }

    /// The paths that were asked for, sorted; none for everything.
    #[must_use]
    pub fn paths(&self) -> &[EntryPath] {
        &self.paths
    }

    fn taken_by(&self, path: &EntryPath) -> Option<&EntryPath> {
        // The last one that is not behind the path is the only one that could hold it, or one of those that hold that.
        let end = self.paths.partition_point(|wanted| wanted <= path);
        self.paths[..end].iter().rev().find(|wanted| path.is_within(wanted))
    }
}

/// Notes which of the wanted paths exist.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    selection: &'a Selection,
    missing: BTreeSet<&'a EntryPath>,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(selection: &'a Selection) -> Self {
        Self { selection, missing: selection.paths.iter().collect() }
    }

    /// Whether an entry is wanted.
    pub(super) fn takes(&mut self, path: &EntryPath) -> bool {
        if self.selection.is_all() {
            return true;
        }
        // Of paths within each other all exist with this entry.
        let within: Vec<_> = self.missing.iter().filter(|wanted| path.is_within(wanted)).copied().collect();
        for found in within {
            self.missing.remove(found);
        }
        self.selection.takes(path)
    }

    /// The first wanted path that no entry was found for.
    pub(super) fn missing(&self) -> Option<&'a EntryPath> {
        self.missing.iter().next().copied()
    }
}

/// Why a part of a folder cannot be asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectError {
    /// Not a path inside a folder.
    #[error("{path:?} cannot be in a folder: {source}")]
    Path {
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        source: PathError,
    },
    /// More than 1,000 paths.
    #[error("at most {PATHS_MAX} paths can be asked for; ask for the folder they are in")]
    TooMany,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_what_is_in_folders_are_taken() {
        let path = |text| EntryPath::parse(text).unwrap();
        let selection = Selection::of(["./a/b/", "c.txt", "a"]).unwrap();
        for (text, taken) in
            [("a/b", true), ("a/x", true), ("a/b/c", true), ("c.txt", true), ("c.txt2", false), ("ab", false)]
        {
            assert_eq!(selection.takes(&path(text)), taken, "{text}");
        }
        assert!(Selection::all().takes(&path("x")));
        assert!(Selection::of(["../x"]).is_err() && Selection::of(["/"]).is_err());
        let mut wanted = Wanted::new(&selection);
        assert!(wanted.takes(&path("a/b/c")));
        assert_eq!(wanted.missing(), Some(&path("c.txt")));
        assert!(!wanted.takes(&path("d")));
        assert!(wanted.takes(&path("c.txt")));
        assert_eq!(wanted.missing(), None);
    }

    #[test]
    fn two_selections_are_one_that_covers_both() {
        let of = |paths: &[&str]| Selection::of(paths).unwrap();
        let (all, a, inner, both) = (Selection::all(), of(&["a"]), of(&["a/b"]), of(&["a/b", "c"]));
        assert!(all.covers(&a) && all.covers(&all) && a.covers(&inner) && both.covers(&inner));
        assert!(!a.covers(&all) && !inner.covers(&a) && !a.covers(&both));
        assert_eq!(inner.or(&of(&["c"])), Ok(both.clone()));
        assert_eq!((all.or(&a), a.or(&all)), (Ok(Selection::all()), Ok(Selection::all())));
        let many = |from: usize| Selection::of((from..from + 600).map(|n| n.to_string())).unwrap();
        assert_eq!(many(0).or(&many(0)), Ok(many(0)));
        assert_eq!(many(0).or(&many(600)), Err(SelectError::TooMany));
    }
}
