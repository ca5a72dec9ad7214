//! What is to be made on disk, and what of it is there already. All of it blocks.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::conduct::ended;
use super::download::Shared;
use super::entry::EntryKind;
use super::manifest::ManifestError;
use super::path::EntryPath;
use super::place::{Root, new_root};
use super::record::Folder;
use super::select::{Selection, Wanted};
use crate::destination::Destination;
use crate::disk::sync_dir;
use crate::error::AddError;
use crate::event::DownloadError;
use crate::geometry::CHUNK;
use crate::hash::{FileHash, Kind};
use crate::index::IndexError;
use crate::library::Library;
use crate::names::FileName;

/// A file to be made.
#[derive(Debug, Clone)]
pub(super) struct Spot {
    pub(super) path: EntryPath,
    pub(super) executable: bool,
}

/// A file that is not here.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) hash: FileHash,
    pub(super) length: u64,
    pub(super) spot: Spot,
    /// The library has the content of this small file somewhere.
    pub(super) local: bool,
}

/// Which files of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// Of at most one chunk, and everything that is no file.
    Small,
    /// Of more than one chunk.
    Large,
}

impl Size {
    const fn takes(self, length: u64) -> bool {
        matches!(self, Self::Large) == (length > CHUNK as u64)
    }
}

/// A folder that is being made.
#[derive(Debug)]
pub(super) struct Plan {
    shared: Arc<Shared>,
    /// With what `before` has already.
    selection: Selection,
    /// What an earlier download recorded of this place.
    before: Option<Folder>,
    root: PathBuf,
    /// A hidden folder in the root for files that have no name yet.
    parts: PathBuf,
    /// Held for as long as this is at work.
    lock: Mutex<Option<File>>,
    /// Everything is here already.
    here: Option<u64>,
    totals: Mutex<Totals>,
}

/// How much is in a folder.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    /// Files that are wanted, and their bytes.
    files: u64,
    bytes: u64,
    /// Bytes of all files.
    whole: u64,
}

/// The bytes of all files of a manifest that is here, and where that is.
pub(super) fn listed(shared: &Shared) -> Result<(PathBuf, u64), DownloadError> {
    let mut reader = shared.library.manifest(&shared.hash)?;
    while reader.next().transpose()?.is_some() {}
    let bytes = reader.total();
    check_bytes(shared, bytes)?;
    let dirs = shared.library.dirs().map_err(|source| DownloadError::io(shared.shown(), source))?;
    Ok((dirs.join(shared.hash.to_string()), bytes))
}

/// Removes the manifest, unless there is a folder that has it.
pub(super) fn drop_manifest(shared: &Shared) {
    if let Err(error) = shared.library.drop_manifest(&shared.hash) {
        tracing::warn!(%error, folder = %shared.hash.short(), "forgetting a folder");
    }
}

/// Where the manifest is to go, if it is not here.
pub(super) fn missing_manifest(shared: &Shared) -> Result<Option<PathBuf>, DownloadError> {
    let io = |source| DownloadError::io(shared.shown(), source);
    let opened = shared.library.open_share(&shared.hash);
    if opened.map_err(|error| index_failed(shared, error))?.is_some() {
        return Ok(None);
    }
    let path = shared.library.dirs().map_err(io)?.join(shared.hash.to_string());
    // One that the index does not know, or not any more, may be anything.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io(error)),
        _ => Ok(Some(path)),
    }
}

/// The index cannot be read: nobody knows what is here. What is here stays.
fn index_failed(shared: &Shared, source: IndexError) -> DownloadError {
    DownloadError::Interrupted { path: shared.shown().to_path_buf(), source: io::Error::other(source) }
}

/// Whoever told of the folder said how large it is.
const fn check_bytes(shared: &Shared, bytes: u64) -> Result<(), DownloadError> {
    match shared.config.bytes {
        Some(said) if said != bytes => Err(DownloadError::WrongLength { said, length: bytes }),
        _ => Ok(()),
    }
}

impl Plan {
    /// Finds the place for a folder: where an earlier try left it, where it is already, or a new one.
    pub(super) fn begin(
        shared: &Arc<Shared>,
        to: &Destination,
        selection: Selection,
    ) -> Result<Self, DownloadError> {
        let io = |source| DownloadError::io(shared.shown(), source);
        let library = &shared.library;
        let known = library.folders().map_err(io)?;
        let known: Vec<_> = known.into_iter().filter(|folder| folder.hash == shared.hash).collect();
        // One that is on its way, else one of which there is a part; both go on where they are.
        let begun = |is_it: &dyn Fn(&Path) -> bool| {
            let there = known.iter().filter(|folder| !folder.is_whole() && is_it(&folder.path));
            there.min_by_key(|folder| folder.complete).map(|folder| folder.path.clone())
        };
        let root = match to {
            Destination::Dir(parent, hint) => {
                std::fs::create_dir_all(parent).map_err(io)?;
                let parent = std::fs::canonicalize(parent).map_err(io)?;
                let covers = |folder: &&Folder| folder.complete && folder.selection.covers(&selection);
                for folder in known.iter().filter(covers) {
                    if let Some((bytes, total)) = is_whole(shared, folder, &selection)? {
                        check_bytes(shared, total)?;
                        let root = folder.path.clone();
                        return Ok(Self::new(shared, selection, root, None, Some(bytes)));
                    }
                }
                match begun(&|path| path.parent() == Some(&parent)) {
                    Some(root) => root,
                    None => {
                        let hint = hint.as_deref().and_then(|hint| FileName::parse(hint).ok());
                        let name = hint.unwrap_or_else(|| {
                            FileName::parse(&shared.hash.to_string())
                                .expect("64 hex characters are a safe name")
                        });
                        new_root(&parent, &name).map_err(io)?
                    }
                }
            }
            Destination::File(path) => {
                let name = path.file_name().ok_or_else(|| io(io::ErrorKind::InvalidInput.into()))?;
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                let parent = std::fs::canonicalize(parent.unwrap_or_else(|| Path::new("."))).map_err(io)?;
                let root = parent.join(name);
                match begun(&|path| path == root) {
                    Some(root) => root,
                    None => std::fs::create_dir(&root).map(|()| root).map_err(io)?,
                }
            }
        };
        let parts = parts_of(&root, &shared.hash);
        let lock = open_parts(&root, &parts).map_err(io)?;
        let mut plan = Self::new(shared, selection, root, Some(lock), None);
        plan.before = known.into_iter().find(|folder| folder.path == plan.root);
        match &plan.before {
            // What was asked for before is fetched too. The record stays as it is until the manifest says that all of it exists.
            Some(before) => plan.selection = before.selection.or(&plan.selection)?,
            None => plan.record(false).save(&library.dirs().map_err(io)?).map_err(io)?,
        }
        Ok(plan)
    }

    fn new(
        shared: &Arc<Shared>,
        selection: Selection,
        root: PathBuf,
        lock: Option<File>,
        here: Option<u64>,
    ) -> Self {
        let parts = parts_of(&root, &shared.hash);
        let totals = Mutex::default();
        let lock = Mutex::new(lock);
        Self { shared: Arc::clone(shared), selection, before: None, root, parts, lock, here, totals }
    }

    /// Path and bytes of a folder that was here already.
    pub(super) fn here(&self) -> Option<(PathBuf, u64)> {
        self.here.map(|bytes| (self.root.clone(), bytes))
    }

    pub(super) fn library(&self) -> &Library {
        &self.shared.library
    }

    pub(super) fn root(&self) -> Root {
        Root::new(self.root.clone())
    }

    pub(super) fn parts(&self) -> &Path {
        &self.parts
    }

    /// The user wants no more.
    pub(super) fn is_over(&self) -> bool {
        self.shared.cancel.is_cancelled()
    }

    fn unless_over(&self) -> Result<(), DownloadError> {
        if self.is_over() { Err(ended(&self.shared)) } else { Ok(()) }
    }

    /// An error of the disk; what is there stays.
    pub(super) fn failed(&self, source: io::Error) -> DownloadError {
        DownloadError::Interrupted { path: self.root.clone(), source }
    }

    fn record(&self, complete: bool) -> Folder {
        let Totals { files, bytes, whole } = *self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        let (hash, path, selection) = (self.shared.hash, self.root.clone(), self.selection.clone());
        Folder { hash, path, complete, follows: false, bytes, files, whole, selection }
    }

    /// Reads the manifest from start to end, before anything is made of it: number and bytes of the files that are wanted.
    pub(super) fn check(&self) -> Result<(u64, u64), DownloadError> {
        let mut reader = self.library().manifest(&self.shared.hash)?;
        let mut wanted = Wanted::new(&self.selection);
        let (mut files, mut bytes) = (0, 0);
        while let Some(entry) = reader.next().transpose()? {
            self.unless_over()?;
            if wanted.takes(&entry.path) {
                files += u64::from(entry.kind != EntryKind::EmptyFolder);
                bytes += entry.length();
            }
        }
        check_bytes(&self.shared, reader.total())?;
        if let Some(path) = wanted.missing() {
            return Err(DownloadError::NoSuchPath { path: path.to_string() });
        }
        let max = self.shared.config.file.max_length;
        if bytes > max {
            return Err(DownloadError::TooLarge { length: bytes, max });
        }
        let totals = Totals { files, bytes, whole: reader.total() };
        *self.totals.lock().unwrap_or_else(PoisonError::into_inner) = totals;
        let dirs = self.library().dirs().map_err(|e| self.failed(e))?;
        self.record(false).save(&dirs).map_err(|e| self.failed(e))?;
        Ok((files, bytes))
    }

    /// Goes through the files of one size and tells of those that are not here; makes empty folders.
    pub(super) fn find(&self, size: Size, tell: &mpsc::Sender<Job>) -> Result<(), DownloadError> {
        let mut root = self.root();
        for entry in self.library().manifest(&self.shared.hash)? {
            let entry = entry?;
            self.unless_over()?;
            if tell.is_closed() {
                return Ok(());
            }
            if !self.selection.takes(&entry.path) {
                continue;
            }
            match entry.kind {
                EntryKind::EmptyFolder if size == Size::Small => {
                    root.folder(&entry.path).map_err(|e| self.failed(e))?;
                }
                EntryKind::File { length, hash, executable } if size.takes(length) => {
                    if self.is_here(&root, &entry.path, length, &hash)? {
                        self.shared.was_here(1, length);
                        continue;
                    }
                    let local = size == Size::Small
                        && length > 0
                        && self.library().index.has(&hash).map_err(|e| index_failed(&self.shared, e))?;
                    let spot = Spot { path: entry.path, executable };
                    if tell.blocking_send(Job { hash, length, spot, local }).is_err() {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a file is in its place, under its name or a numbered one. One that is there and not known is hashed.
    fn is_here(
        &self,
        root: &Root,
        path: &EntryPath,
        length: u64,
        hash: &FileHash,
    ) -> Result<bool, DownloadError> {
        for candidate in root.candidates(path) {
            match std::fs::symlink_metadata(&candidate) {
                Err(error) if is_missing(&error) => return Ok(false),
                Err(error) => return Err(self.failed(error)),
                Ok(metadata) if !metadata.is_file() || metadata.len() != length => {}
                Ok(_) if self.is_known(&candidate, hash)? => return Ok(true),
                Ok(_) => {}
            }
        }
        Ok(false)
    }

    fn is_known(&self, path: &Path, hash: &FileHash) -> Result<bool, DownloadError> {
        let library = self.library();
        let adopted = match library.unchanged(path) {
            Ok(Some(record)) => return Ok(record.hash == *hash),
            Ok(None) => library.adopt(path, Kind::File, hash, None, self.shared.until_cancelled()),
            Err(error) => Err(error),
        };
        match adopted {
            Ok(adopted) => Ok(adopted.is_some()),
            Err(AddError::Index(error)) => Err(index_failed(&self.shared, error)),
            Err(AddError::Stopped { .. }) => Err(ended(&self.shared)),
            // Whatever it is, it is not the file.
            Err(_) => Ok(false),
        }
    }

    /// A path for a file that is free; its folder is made.
    pub(super) fn free(&self, spot: &Spot) -> Result<PathBuf, DownloadError> {
        let mut root = self.root();
        root.folder_of(&spot.path).map_err(|e| self.failed(e))?;
        let free = root.candidates(&spot.path).find(|path| std::fs::symlink_metadata(path).is_err());
        free.ok_or_else(|| DownloadError::Exists { path: spot.path.below(&self.root) })
    }

    /// The end: complete, for now, or for good. Path and bytes of the folder.
    pub(super) fn end(&self, done: bool, stays: bool) -> Result<(PathBuf, u64), DownloadError> {
        let Totals { bytes, .. } = *self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
        let dirs = self.library().dirs().map_err(|e| self.failed(e))?;
        if done {
            let _ = std::fs::remove_dir_all(&self.parts);
            sync_dir(&self.root).map_err(|e| self.failed(e))?;
            self.record(true).save(&dirs).map_err(|e| self.failed(e))?;
        } else if !stays || !dirs.join(self.shared.hash.to_string()).exists() {
            let _ = std::fs::remove_dir_all(&self.parts);
            let cancelled = self.is_over() && !self.shared.is_suspended();
            if let Some(before) = self.before.as_ref().filter(|before| before.complete || !cancelled) {
                // It is what it was: what this one asked for besides is not to be had, or not wanted any more.
                before.save(&dirs).map_err(|e| self.failed(e))?;
            } else {
                self.record(false).forget(&dirs);
                drop_manifest(&self.shared);
                // Goes only if nothing is in it.
                let _ = std::fs::remove_dir(&self.root);
            }
        }
        Ok((self.root.clone(), bytes))
    }
}

/// Of a folder of which all that is wanted is where it was: the bytes of that, and of everything in it.
fn is_whole(
    shared: &Shared,
    folder: &Folder,
    selection: &Selection,
) -> Result<Option<(u64, u64)>, DownloadError> {
    let library = &shared.library;
    let opened = library.open_share(&shared.hash).map_err(|error| index_failed(shared, error))?;
    let (Some(_), Ok(mut reader)) = (opened, library.manifest(&shared.hash)) else { return Ok(None) };
    let mut bytes = 0;
    for entry in reader.by_ref() {
        if shared.cancel.is_cancelled() {
            return Err(ended(shared));
        }
        let Ok(entry) = entry else { return Ok(None) };
        if let EntryKind::File { length, hash, .. } = entry.kind
            && selection.takes(&entry.path)
        {
            match library.unchanged(&entry.path.below(&folder.path)) {
                Ok(Some(record)) if record.hash == hash => bytes += length,
                Err(AddError::Index(error)) => return Err(index_failed(shared, error)),
                _ => return Ok(None),
            }
        }
    }
    Ok(Some((bytes, reader.total())))
}

fn parts_of(root: &Path, hash: &FileHash) -> PathBuf {
    root.join(format!(".{}.part", hash.short()))
}

/// Makes or takes over the folder for files without a name, and locks it.
fn open_parts(root: &Path, parts: &Path) -> io::Result<File> {
    std::fs::create_dir_all(root)?;
    match std::fs::create_dir(parts) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Err(_) if !std::fs::symlink_metadata(parts)?.is_dir() => {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        _ => {}
    }
    let name = parts.join("lock");
    let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&name)?;
    lock.try_lock()?;
    // What an earlier try left without a name is of no use.
    for entry in std::fs::read_dir(parts)? {
        let path = entry?.path();
        if path != name {
            std::fs::remove_file(path)?;
        }
    }
    Ok(lock)
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

impl From<ManifestError> for DownloadError {
    fn from(error: ManifestError) -> Self {
        Self::Manifest(error)
    }
}
