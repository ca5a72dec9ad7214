//! Where a download goes: a folder, and the names to try in it.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::hash::FileHash;
use crate::names::{FileName, NAME_MAX, cut};

/// How many names are tried when the name is taken: `name`, `name (1)` and so on.
const NUMBERS_MAX: u32 = 1_000;

/// Where a finished file goes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Destination {
    /// Into this folder, which is made if it is missing. The name is a hint from others: one that [`FileName`] refuses
    /// is replaced by the hash; one that is taken gets a number.
    Dir(PathBuf, Option<String>),
    /// Exactly here; nothing may be there yet, not even a dangling symlink.
    File(PathBuf),
}

/// A destination whose folder exists and whose name is safe.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    name: Name,
}

#[derive(Debug, Clone)]
enum Name {
    Hint(FileName),
    Exact(OsString),
}

impl Place {
    pub(crate) fn new(destination: &Destination, hash: &FileHash) -> io::Result<Self> {
        match destination {
            Destination::Dir(dir, hint) => {
                std::fs::create_dir_all(dir)?;
                let hint = hint.as_deref().and_then(|hint| FileName::parse(hint).ok());
                let name = hint.unwrap_or_else(|| {
                    FileName::parse(&hash.to_string()).expect("64 hex characters are a safe name")
                });
                // Links on the way are followed once, here: the folder is the user's choice. Nothing below it is.
                Ok(Self { dir: std::fs::canonicalize(dir)?, name: Name::Hint(name) })
            }
            Destination::File(path) => {
                let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
                let dir = match path.parent() {
                    Some(dir) if !dir.as_os_str().is_empty() => dir,
                    _ => Path::new("."),
                };
                let place = Self { dir: std::fs::canonicalize(dir)?, name: Name::Exact(name.to_owned()) };
                match std::fs::symlink_metadata(place.dir.join(name)) {
                    Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(place),
                    Err(error) => Err(error),
                }
            }
        }
    }

    pub(crate) fn part_path(&self, hash: &FileHash) -> PathBuf {
        let name = match &self.name {
            Name::Hint(name) => name.as_str().to_owned(),
            Name::Exact(name) => name.to_string_lossy().into_owned(),
        };
        let end = format!(".{}.part", hash.short());
        self.dir.join(format!(".{}{end}", cut(&name, NAME_MAX - 1 - end.len())))
    }

    /// The place that [`Place::parts`] was asked for, whatever lies there now.
    pub(crate) fn of_parts(exact: bool, dir: PathBuf, name: OsString) -> Self {
        let hint = name.to_str().filter(|_| !exact).and_then(|name| FileName::parse(name).ok());
        Self { dir, name: hint.map_or(Name::Exact(name), Name::Hint) }
    }

    /// Whether the name is exact, the folder, the name.
    pub(crate) fn parts(&self) -> (bool, PathBuf, OsString) {
        match &self.name {
            Name::Hint(name) => (false, self.dir.clone(), name.as_str().into()),
            Name::Exact(name) => (true, self.dir.clone(), name.clone()),
        }
    }

    /// The names to try, best first.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let numbers = if matches!(self.name, Name::Hint(_)) { NUMBERS_MAX } else { 1 };
        (0..numbers).map(|number| match &self.name {
            Name::Hint(name) => self.dir.join(name.numbered(number)),
            Name::Exact(name) => self.dir.join(name),
        })
    }
}
