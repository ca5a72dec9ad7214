//! Where the files of a folder go: below one root, through real folders only, beside what is there already.

use std::io;
use std::path::{Path, PathBuf};

use super::path::EntryPath;
use crate::names::FileName;

/// How many names are tried for an entry whose name is taken.
const NUMBERS_MAX: u32 = 1_000;

/// The folder that is being made.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    /// The folder that was looked at last; entries come folder by folder.
    known: Option<EntryPath>,
}

impl Root {
    /// `path` is canonical and exists.
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path, known: None }
    }

    /// The folder an entry lies in, made if it is missing.
    ///
    /// # Errors
    ///
    /// When a file or a symlink is in the way: it is neither followed nor replaced.
    pub(super) fn folder_of(&mut self, path: &EntryPath) -> io::Result<PathBuf> {
        match path.parent() {
            Some(parent) => self.folder(&parent),
            None => Ok(self.path.clone()),
        }
    }

    /// A folder below the root, made if it is missing.
    ///
    /// # Errors
    ///
    /// As [`Root::folder_of`].
    pub(super) fn folder(&mut self, path: &EntryPath) -> io::Result<PathBuf> {
        if self.known.as_ref() == Some(path) {
            return Ok(path.below(&self.path));
        }
        let mut folder = self.path.clone();
        for name in path.names() {
            folder.push(name);
            match std::fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Err(_) if !std::fs::symlink_metadata(&folder)?.is_dir() => {
                    let text = format!("{} is in the way and is no folder", folder.display());
                    return Err(io::Error::new(io::ErrorKind::NotADirectory, text));
                }
                _ => {}
            }
        }
        self.known = Some(path.clone());
        Ok(folder)
    }

    /// The paths an entry may have, best first: its own, then numbered ones.
    pub(super) fn candidates(&self, path: &EntryPath) -> impl Iterator<Item = PathBuf> + use<> {
        let first = path.below(&self.path);
        let name = path.names().next_back().and_then(|name| FileName::parse(name).ok());
        (0..NUMBERS_MAX)
            .map_while(move |number| name.as_ref().map(|name| first.with_file_name(name.numbered(number))))
    }
}

/// Makes a new folder in `parent` that did not exist: `name`, or `name (1)` and so on.
pub(super) fn new_root(parent: &Path, name: &FileName) -> io::Result<PathBuf> {
    for number in 0..NUMBERS_MAX {
        let path = parent.join(name.numbered(number));
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|()| path),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Lets whoever may read a file execute it too.
pub(crate) fn make_executable(file: &std::fs::File) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mut permissions = file.metadata()?.permissions();
        let mode = permissions.mode();
        permissions.set_mode(mode | (mode & 0o444) >> 2);
        file.set_permissions(permissions)?;
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn links_in_the_folder_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("sub")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        let mut place = Root::new(root.clone());
        for path in ["sub/a", "sub/b/c", "file/a"] {
            let error = place.folder_of(&EntryPath::parse(path).unwrap()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotADirectory, "{path}");
        }
        assert!(std::fs::read_dir(&outside).unwrap().next().is_none());
        let path = EntryPath::parse("x/y/z").unwrap();
        assert_eq!(place.folder_of(&path).unwrap(), root.join("x/y"));
        assert!(root.join("x/y").is_dir());
        let names: Vec<_> = place.candidates(&path).take(2).collect();
        assert_eq!(names, [root.join("x/y/z"), root.join("x/y/z (1)")]);
    }

    #[test]
    fn a_taken_name_gets_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let name = FileName::parse("a.b").unwrap();
        assert!(new_root(dir.path(), &name).unwrap().ends_with("a.b"));
        assert!(new_root(dir.path(), &name).unwrap().ends_with("a (1).b"));
    }
}
