//! The hashes of files and folders, without sharing anything.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use sha2::{Digest as _, Sha256};

use super::add::{AddFolderError, is_executable};
use super::entry::{Entry, EntryKind};
use super::manifest::ManifestWriter;
use super::walk::{Found, LeftOut, LeftOutReason, Walk};
use crate::buffer::PageBuffer;
use crate::error::AddError;
use crate::geometry::{CHUNK, LENGTH_MAX};
use crate::hash::{HASH_LEN, Info, Kind};
use crate::merkle::TreeHasher;

/// Buffers of 1 MiB between the two hashers of a file.
const BUFFERS: usize = 4;

/// What there is to know of a content: its hash, what that is made of, and its plain SHA-256.
///
/// ```
/// use p2p_files::Sums;
///
/// let dir = tempfile::tempdir()?;
/// let file = dir.path().join("abc");
/// std::fs::write(&file, "abc")?;
/// let sums = Sums::of(&file)?;
/// assert_eq!(sums.bytes, 3);
/// assert_eq!(sums.sha256[..4], [0xba, 0x78, 0x16, 0xbf]);
/// // Of at most one block, both are the same.
/// assert_eq!(sums.info.root, sums.sha256);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Sums {
    /// Kind, length and BEP 52 root of the file, or of the folder's manifest; with these, the hash.
    pub info: Info,
    /// SHA-256 of the file, or of the folder's manifest.
    pub sha256: [u8; HASH_LEN],
    /// Bytes of the file, or of all files of the folder.
    pub bytes: u64,
    /// Number of files.
    pub files: u64,
    /// What of the folder would not be shared.
    pub left_out: LeftOut,
}

impl Sums {
    /// Reads a file once, or every file of a folder.
    ///
    /// # Errors
    ///
    /// [`AddFolderError`], as for sharing it.
    pub fn of(path: &Path) -> Result<Self, AddFolderError> {
        if std::fs::metadata(path).map_err(|source| AddError::io(path, source))?.is_dir() {
            return Self::of_folder(path);
        }
        let (info, sha256) = of_file(path, true)?;
        let left_out = LeftOut::default();
        Ok(Self { info, sha256, bytes: info.length, files: 1, left_out })
    }

    fn of_folder(root: &Path) -> Result<Self, AddFolderError> {
        drop(std::fs::read_dir(root).map_err(|source| AddError::io(root, source))?);
        let in_manifest = |source| AddFolderError::Manifest { path: root.to_path_buf(), source };
        let mut writer = ManifestWriter::new(Hashing::default()).map_err(|e| in_manifest(e.into()))?;
        let mut files = 0;
        let visit = |found, left_out: &mut LeftOut| {
            let (path, kind) = match found {
                Found::EmptyFolder(path) => (path, EntryKind::EmptyFolder),
                Found::File(path, there) => match of_file(&there, false).and_then(|(info, _)| {
                    let metadata =
                        std::fs::metadata(&there).map_err(|source| AddError::io(&there, source))?;
                    Ok((info, is_executable(&metadata)))
                }) {
                    Ok((info, executable)) => {
                        files += 1;
                        (path, EntryKind::File { length: info.length, hash: info.hash(), executable })
                    }
                    Err(error) => {
                        left_out.add(there, LeftOutReason::of(&error));
                        return Ok(());
                    }
                },
            };
            writer.push(&Entry { path, kind }).map_err(in_manifest)
        };
        let mut walk = Walk { own: Path::new(""), left_out: LeftOut::default(), clashes: 0, visit };
        walk.folder(root, None, 0)?;
        let left_out = walk.left_out;
        let bytes = writer.total();
        let Hashing { tree, plain } = writer.finish().map_err(|e| in_manifest(e.into()))?;
        let info = tree.finish(|_, _| Ok(())).map_err(|e| in_manifest(e.into()))?;
        let info = Info { kind: Kind::Dir, ..info };
        Ok(Self { info, sha256: plain.finalize().into(), bytes, files, left_out })
    }
}

/// What a file's hash is made of, and its plain SHA-256 (zeros if that is not asked for), in one pass.
fn of_file(path: &Path, plain: bool) -> Result<(Info, [u8; HASH_LEN]), AddError> {
    let io = |source| AddError::io(path, source);
    // Looked at before it is opened: opening a pipe would wait for its other end.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(AddError::NotRegular { path: path.to_path_buf() });
    }
    let file = File::open(path).map_err(io)?;
    let (info, sha256) = if plain { hash_both(&file) } else { hash_tree(&file) }.map_err(io)?;
    if info.length > LENGTH_MAX {
        return Err(AddError::TooLarge { path: path.to_path_buf(), length: info.length });
    }
    Ok((info, sha256))
}

fn hash_tree(file: &File) -> io::Result<(Info, [u8; HASH_LEN])> {
    let mut tree = TreeHasher::new();
    each_buffer(file, |buf| tree.push(buf.data(), |_, _| Ok(())))?;
    Ok((tree.finish(|_, _| Ok(()))?, [0; HASH_LEN]))
}

/// The tree on this thread, the plain hash on another: the file is read once.
fn hash_both(file: &File) -> io::Result<(Info, [u8; HASH_LEN])> {
    thread::scope(|scope| {
        let (give, buffers) = sync_channel::<Arc<PageBuffer>>(BUFFERS);
        let plain = scope.spawn(move || {
            let mut plain = Sha256::new();
            while let Ok(buf) = buffers.recv() {
                plain.update(buf.data());
            }
            plain.finalize().into()
        });
        let mut tree = TreeHasher::new();
        each_buffer(file, |buf| {
            let buf = Arc::new(buf);
            // It listens until this end is dropped.
            let _ = give.send(Arc::clone(&buf));
            tree.push(buf.data(), |_, _| Ok(()))
        })?;
        drop(give);
        let sha256 = plain.join().map_err(|_| io::Error::other("a hashing thread panicked"))?;
        Ok((tree.finish(|_, _| Ok(()))?, sha256))
    })
}

fn each_buffer(mut file: &File, mut with: impl FnMut(PageBuffer) -> io::Result<()>) -> io::Result<()> {
    loop {
        let mut buf = PageBuffer::new(CHUNK);
        let mut len = 0;
        while len < CHUNK {
            match file.read(&mut buf.room(CHUNK)[len..]) {
                Ok(0) => break,
                Ok(more) => len += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buf.room(len);
        if len == 0 {
            return Ok(());
        }
        with(buf)?;
    }
}

/// Takes a manifest and keeps nothing but its hashes.
#[derive(Debug, Default)]
struct Hashing {
    tree: TreeHasher,
    plain: Sha256,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tree.push(bytes, |_, _| Ok(()))?;
        self.plain.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
