//! A save that is cut at any moment leaves the old file or the new one, whole.
//!
//! The disk here is a model: what was not synced may be lost, in part or in whole, and so may a rename until its
//! directory is synced. The code under test is the very one of `replace_file`; only its disk is exchanged.

#[path = "../src/replace.rs"]
#[allow(dead_code, unreachable_pub, reason = "the crate uses what this test does not")]
mod replace;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use replace::{Disk, replace_on};

#[derive(Clone, Default)]
struct Content {
    synced: Vec<u8>,
    cached: Vec<u8>,
}

/// A directory whose power goes after `steps` steps.
#[derive(Clone, Default)]
struct Model {
    files: Vec<Content>,
    synced: BTreeMap<PathBuf, usize>,
    cached: BTreeMap<PathBuf, usize>,
    steps: usize,
}

impl Model {
    fn with_file(path: &Path, bytes: &[u8]) -> Self {
        let content = Content { synced: bytes.to_vec(), cached: bytes.to_vec() };
        let names = BTreeMap::from([(path.to_path_buf(), 0)]);
        Self { files: vec![content], synced: names.clone(), cached: names, steps: usize::MAX }
    }

    fn step(&mut self) -> io::Result<()> {
        self.steps = self.steps.checked_sub(1).ok_or_else(|| io::Error::other("power is gone"))?;
        Ok(())
    }

    /// What `path` reads as after the power is back: of what was not synced, any part may be there.
    fn after_crash(&self, path: &Path, rng: &mut impl Rng) -> Option<Vec<u8>> {
        let names = if rng.random() { &self.synced } else { &self.cached };
        let content = &self.files[*names.get(path)?];
        if content.synced == content.cached || rng.random() {
            return Some(content.synced.clone());
        }
        let len = rng.random_range(0..=content.cached.len());
        Some(content.cached[..len].to_vec())
    }
}

impl Disk for Model {
    type Handle = usize;

    fn create(&mut self, path: &Path, _mode: Option<u32>) -> io::Result<usize> {
        self.step()?;
        assert!(!self.cached.contains_key(path), "a new file only");
        self.files.push(Content::default());
        self.cached.insert(path.to_path_buf(), self.files.len() - 1);
        Ok(self.files.len() - 1)
    }

    fn write(&mut self, file: &mut usize, bytes: &[u8]) -> io::Result<()> {
        // The power may go in the middle.
        for half in bytes.chunks(bytes.len().div_ceil(2).max(1)) {
            self.step()?;
            self.files[*file].cached.extend_from_slice(half);
        }
        Ok(())
    }

    fn sync(&mut self, file: &mut usize) -> io::Result<()> {
        self.step()?;
        self.files[*file].synced = self.files[*file].cached.clone();
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        let file = self.cached.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.cached.insert(to.to_path_buf(), file);
        Ok(())
    }

    fn sync_dir(&mut self, _dir: &Path) -> io::Result<()> {
        self.step()?;
        self.synced = self.cached.clone();
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.step()?;
        self.cached.remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

#[test]
fn a_save_cut_at_every_step_leaves_old_or_new() {
    let path = Path::new("data/state.json");
    let (old, new) = (b"the old state".to_vec(), b"the new state, a little longer".to_vec());
    let mut rng = StdRng::seed_from_u64(35);
    let mut completed = 0;
    for cut in 0..10 {
        for _ in 0..200 {
            let mut disk = Model::with_file(path, &old);
            disk.steps = cut;
            let saved = replace_on(&mut disk, path, &new, None);
            let found = disk.after_crash(path, &mut rng).expect("there is always a file");
            assert!(
                found == old || found == new,
                "cut after {cut} steps: {}",
                String::from_utf8_lossy(&found)
            );
            if saved.is_ok() {
                completed += 1;
                assert_eq!(found, new, "what was reported as saved is there");
            }
        }
    }
    assert_eq!(completed, 200 * 4, "a save is six steps");
}

#[test]
fn two_hundred_kills_at_random_steps_never_lose_a_completed_save() {
    let path = Path::new("state.json");
    let mut rng = StdRng::seed_from_u64(200);
    let mut last_saved = 0_u32;
    let mut disk = Model::with_file(path, b"0");
    for round in 1..=200_u32 {
        disk.steps = rng.random_range(0..30);
        let (mut n, mut tried) = (last_saved, last_saved);
        loop {
            tried += 1;
            if replace_on(&mut disk, path, tried.to_string().as_bytes(), None).is_err() {
                break;
            }
            n = tried;
        }
        let found = disk.after_crash(path, &mut rng).expect("there is always a file");
        let found: u32 = String::from_utf8(found).unwrap().parse().expect("whole");
        assert!(found == n || found == tried, "round {round}: {found} instead of {n} or {tried}");
        last_saved = found;
        disk = Model::with_file(path, found.to_string().as_bytes());
    }
}

#[test]
fn a_failed_save_leaves_no_temporary_file() {
    let path = Path::new("state.json");
    let mut disk = Model::with_file(path, b"old");
    disk.steps = 2;
    // The power is back for the clean-up: this was an error, not a crash.
    struct Failing(Model);
    impl Disk for Failing {
        type Handle = usize;
        fn create(&mut self, path: &Path, mode: Option<u32>) -> io::Result<usize> {
            self.0.create(path, mode)
        }
        fn write(&mut self, _: &mut usize, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn sync(&mut self, file: &mut usize) -> io::Result<()> {
            self.0.sync(file)
        }
        fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
            self.0.rename(from, to)
        }
        fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
            self.0.sync_dir(dir)
        }
        fn remove(&mut self, path: &Path) -> io::Result<()> {
            self.0.remove(path)
        }
    }
    let mut disk = Failing(disk);
    let error = replace_on(&mut disk, path, b"new", None).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.0.cached.len(), 1, "only the old file");
}
