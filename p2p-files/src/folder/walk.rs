//! Going through a folder on disk, in the order of its manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::fs::FileType;
use std::io;
use std::path::{Path, PathBuf};

use super::path::{DEPTH_MAX, EntryPath, PathError};
use crate::error::AddError;
use crate::names::{FileName, NameError};

/// Most things left out that are named one by one; beyond, they are counted.
const NAMED_MAX: usize = 100;

/// Of these, the ones that are named in one line.
const SHOWN_MAX: usize = 5;

/// A thing in a folder that can be shared.
#[derive(Debug)]
pub(super) enum Found {
    /// A regular file, and where it lies.
    File(EntryPath, PathBuf),
    /// A folder in which there is nothing that can be shared.
    EmptyFolder(EntryPath),
}

/// What of a folder is not shared, and why; nothing is left out in silence.
#[derive(Debug, Default)]
pub struct LeftOut {
    /// How much.
    pub count: u64,
    /// The first 100 of it.
    pub named: Vec<(PathBuf, LeftOutReason)>,
}

/// Why something in a folder is not shared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeftOutReason {
    /// A link would lead others to what it was not said to share.
    #[error("a symlink")]
    Symlink,
    /// A device, a pipe, a socket.
    #[error("not a regular file")]
    NotRegular,
    /// Receivers refuse the name: it is hidden, or cannot be on other systems.
    #[error("a {0}")]
    Name(#[from] NameError),
    /// The name is not Unicode.
    #[error("a name that is not unicode")]
    NotUnicode,
    /// Another name in the same folder is the same in Unicode form NFC.
    #[error("the same name as another in unicode form nfc")]
    SameName,
    /// The path is too long or too deep.
    #[error("a {0}")]
    Path(#[from] PathError),
    /// It is where this library keeps its own files.
    #[error("the data directory itself")]
    OwnData,
    /// It was shared by itself and taken back; adding the folder shares it again.
    #[error("taken back")]
    TakenBack,
    /// It could not be read, or changed while it was.
    #[error("{0}")]
    Unreadable(String),
}

impl LeftOutReason {
    /// Why a file is left out that could not be hashed.
    pub(super) fn of(error: &AddError) -> Self {
        Self::Unreadable(match error {
            AddError::Io { source, .. } => source.to_string(),
            AddError::Changed { .. } => "changed while it was read".to_owned(),
            other => other.to_string(),
        })
    }
}

/// How much, and the first few of it with their reasons.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} not shared", self.count)?;
        for (path, reason) in self.named.iter().take(SHOWN_MAX) {
            write!(f, "; {}: {reason}", path.display())?;
        }
        if self.count > SHOWN_MAX as u64 { f.write_str("; …") } else { Ok(()) }
    }
}

impl LeftOut {
    pub(super) fn add(&mut self, path: PathBuf, reason: LeftOutReason) {
        self.count += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push((path, reason));
        }
    }
}

/// A walk over one folder.
pub(super) struct Walk<'a, V> {
    /// A folder that is never looked into.
    pub(super) own: &'a Path,
    pub(super) left_out: LeftOut,
    /// Names that differ from another's only in case: not all systems can tell them apart.
    pub(super) clashes: u64,
    /// Takes what was found.
    pub(super) visit: V,
}

impl<E, V: FnMut(Found, &mut LeftOut) -> Result<(), E>> Walk<'_, V> {
    /// Visits everything in `folder`, which is `path` inside of what is shared; returns how much was visited.
    pub(super) fn folder(&mut self, folder: &Path, path: Option<&EntryPath>, depth: usize) -> Result<u64, E> {
        let names = match self.names(folder) {
            Ok(names) => names,
            Err(error) => {
                self.left_out.add(folder.to_path_buf(), LeftOutReason::Unreadable(error.to_string()));
                return Ok(0);
            }
        };
        let mut visited = 0;
        for (name, (on_disk, kind)) in names {
            let there = folder.join(on_disk);
            let path = match EntryPath::child(path, &name) {
                Ok(_) if depth >= DEPTH_MAX => Err(PathError::Depth),
                other => other,
            };
            let path = match path {
                Ok(path) => path,
                Err(error) => {
                    self.left_out.add(there, error.into());
                    continue;
                }
            };
            if kind.is_file() {
                visited += 1;
                (self.visit)(Found::File(path, there), &mut self.left_out)?;
            } else {
                let inside = self.folder(&there, Some(&path), depth + 1)?;
                if inside == 0 {
                    (self.visit)(Found::EmptyFolder(path), &mut self.left_out)?;
                }
                visited += inside.max(1);
            }
        }
        Ok(visited)
    }

    /// The files and folders in a folder that can be shared, sorted.
    fn names(&mut self, folder: &Path) -> io::Result<BTreeMap<FileName, (OsString, FileType)>> {
        let mut names = BTreeMap::new();
        let mut folded = BTreeSet::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let there = entry.path();
            match self.name(&there, entry.file_name(), entry.file_type()?) {
                Ok(name) => {
                    if !folded.insert(name.as_str().to_lowercase()) {
                        self.clashes += 1;
                    }
                    // Of two names that are one in form NFC, the one that is in it already stays.
                    let exact = entry.file_name() == name.as_str();
                    let other = names.insert(name.clone(), (entry.file_name(), entry.file_type()?));
                    if let Some(other) = other {
                        let loser = if exact { other.0.clone() } else { entry.file_name() };
                        if !exact {
                            names.insert(name, other);
                        }
                        self.left_out.add(folder.join(loser), LeftOutReason::SameName);
                    }
                }
                Err(reason) => self.left_out.add(there, reason),
            }
        }
        Ok(names)
    }

    fn name(&self, there: &Path, name: OsString, kind: FileType) -> Result<FileName, LeftOutReason> {
        if kind.is_symlink() {
            return Err(LeftOutReason::Symlink);
        }
        if !kind.is_file() && !kind.is_dir() {
            return Err(LeftOutReason::NotRegular);
        }
        if there == self.own {
            return Err(LeftOutReason::OwnData);
        }
        let name = name.into_string().map_err(|_| LeftOutReason::NotUnicode)?;
        Ok(FileName::parse(&name)?)
    }
}
