//! A whole download on a disk that fails, or a process that is killed, in each step in turn: whatever happens, the next try
//! ends in the right file, and nothing is ever taken for the file that is not it.

use std::path::Path;
use std::sync::Arc;

use crate::buffer::RunBuffer;
use crate::conduct;
use crate::destination::Destination;
use crate::disk::faults::{self, Fault};
use crate::download::DownloadConfig;
use crate::event::{DownloadError, DownloadEvent};
use crate::geometry::CHUNK;
use crate::hash::{FileHash, HASH_LEN, Info};
use crate::library::{Library, ShareState};
use crate::merkle::{self, Digest};
use crate::picker::SourceId;
use crate::shared::Shared;

/// Three chunks, the last one short: all that a tree has.
const SIZE: usize = 2 * CHUNK + 20_000;

/// The content, and each chunk's node and proof, as an honest source sends them.
struct Content {
    data: Vec<u8>,
    info: Info,
    hash: FileHash,
    proofs: Vec<(Digest, Vec<u8>)>,
}

impl Content {
    fn new() -> Self {
        let data: Vec<u8> = (0..SIZE).map(|i| ((i % 251) ^ (i / CHUNK)).to_le_bytes()[0]).collect();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), &data).unwrap();
        let library = Library::open(&dir.path().join("data")).unwrap();
        let share = library.add(&dir.path().join("file"), |_, _| ()).unwrap();
        let open = library.open_share(&share.hash).unwrap().unwrap();
        let proofs = (0..open.geometry.chunks()).map(|chunk| {
            let run = open.geometry.chunk(chunk).unwrap();
            let (mut proof, mut bytes) = (vec![0; run.proof_len() * HASH_LEN], vec![0; run.len()]);
            open.read(run, &mut proof, &mut bytes).unwrap();
            (merkle::verify_run(run, &bytes, &proof, &share.info.root).unwrap(), proof)
        });
        Self { proofs: proofs.collect(), data, info: share.info, hash: share.hash }
    }

    /// One life of a process: it opens the library and downloads what is missing. The number of chunks that it fetched.
    fn fetch(&self, dir: &Path) -> Result<u64, DownloadError> {
        let library = Arc::new(
            Library::open(&dir.join("data"))
                .map_err(|error| DownloadError::io(dir, std::io::Error::other(error)))?,
        );
        let to = Destination::Dir(dir.join("content"), Some("file.bin".into()));
        let shared = Shared::new(library, self.hash, &to, DownloadConfig::default())?;
        if conduct::local(&shared)?.is_some() {
            return Ok(0);
        }
        let (plan, held) = shared.make_plan(self.info)?;
        let plan = Arc::new(plan);
        shared.plan.set(Arc::clone(&plan)).unwrap();
        let written = (|| {
            let missing = (0..plan.geometry.chunks()).filter(|chunk| !held.get(*chunk));
            let fetched = missing.clone().count() as u64;
            for chunk in missing {
                let run = plan.geometry.chunk(chunk).unwrap();
                let (node, proof) = &self.proofs[usize::try_from(chunk).unwrap()];
                let at = usize::try_from(run.offset()).unwrap();
                let data = &self.data[at..at + run.len()];
                plan.write(run, data, node, proof).map_err(|e| DownloadError::io(dir, e).interrupted())?;
                plan.part.sync_some().map_err(|e| DownloadError::io(dir, e))?;
            }
            conduct::sync(&shared)?;
            conduct::finish(&shared).map_err(DownloadError::interrupted)?;
            Ok(fetched)
        })();
        if let Err(error) = &written {
            conduct::let_go(&plan, conduct::stays(error));
        }
        written
    }

    /// What stands in the content folder under a name is the file, or nothing does.
    fn check(&self, dir: &Path, complete: bool, what: &str) {
        let entries = std::fs::read_dir(dir.join("content")).into_iter().flatten();
        let mut names = 0;
        for entry in entries {
            let path = entry.unwrap().path();
            let hidden = path.file_name().unwrap().as_encoded_bytes().starts_with(b".");
            if !hidden {
                names += 1;
                assert!(
                    std::fs::read(&path).unwrap() == self.data,
                    "{what}: {} is not the file",
                    path.display()
                );
            }
            assert!(!(hidden && complete), "{what}: {} is left", path.display());
        }
        assert!(names <= 1 && (names == 1 || !complete), "{what}: {names} files");
        if complete {
            let library = Library::open(&dir.join("data")).unwrap();
            assert_eq!(library.warnings(), [], "{what}");
            assert_eq!(library.get(&self.hash).map(|share| share.state), Some(ShareState::Shared), "{what}");
            assert!(library.unfinished().unwrap().is_empty(), "{what}: a journal is left");
            let open =
                library.open_share(&self.hash).unwrap().unwrap_or_else(|| panic!("{what}: it is not served"));
            for chunk in 0..open.geometry.chunks() {
                let run = open.geometry.chunk(chunk).unwrap();
                let (mut proof, mut data) = (vec![0; run.proof_len() * HASH_LEN], vec![0; run.len()]);
                open.read(run, &mut proof, &mut data).unwrap();
                assert!(
                    merkle::verify_run(run, &data, &proof, &self.info.root).is_ok(),
                    "{what}: chunk {chunk}"
                );
            }
        }
    }
}

/// Every step of a download that meets no fault.
fn steps(content: &Content) -> Vec<&'static str> {
    let dir = tempfile::tempdir().unwrap();
    faults::count();
    faults::set(None);
    assert_eq!(content.fetch(dir.path()).unwrap(), 3);
    let steps = faults::steps();
    content.check(dir.path(), true, "no fault");
    for step in [
        "create",
        "set length",
        "write",
        "sync data",
        "sync file",
        "link",
        "sync folder",
        "rename",
        "index: write",
    ] {
        assert!(steps.contains(&step), "no {step} among {steps:?}");
    }
    steps
}

/// A life with a fault in a step, then one without.
fn survive(content: &Content, fault: Fault, what: &str, between: impl Fn(&Path)) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    faults::set(Some(fault));
    let first = content.fetch(dir.path());
    faults::set(None);
    content.check(dir.path(), false, what);
    if first.is_ok() && matches!(fault, Fault::Fails(_)) {
        // It was of no matter, or the file stands and only the index does not have it.
        return 0;
    }
    between(dir.path());
    let fetched = content.fetch(dir.path()).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    content.check(dir.path(), true, what);
    fetched
}

#[test]
fn after_a_step_that_failed_the_next_try_ends_in_the_file() {
    let content = Content::new();
    for (number, step) in steps(&content).into_iter().enumerate() {
        survive(&content, Fault::Fails(number), &format!("step {number}, {step}, fails"), |_| ());
    }
}

#[test]
fn after_a_kill_in_any_step_the_next_try_ends_in_the_file_and_fetches_little_again() {
    let content = Content::new();
    let steps = steps(&content);
    let writes = steps.iter().position(|step| *step == "sync file").unwrap();
    // One of the record at the start, and those of a chunk: itself, its node, at most two siblings, that it is held.
    let writes_a_chunk = 5 + 1;
    for (number, step) in steps.iter().enumerate() {
        let what = format!("a kill in step {number}, {step}");
        let fetched = survive(&content, Fault::Crashes(number), &what, |dir| {
            let library = Library::open(&dir.join("data")).unwrap();
            assert_eq!(library.warnings(), [], "{what}");
            // A node that starts knows of it without being asked again.
            let knows = library.get(&content.hash).is_some() || !library.unfinished().unwrap().is_empty();
            assert!(knows || number < writes, "{what}: nobody knows of it");
        });
        // All steps of a chunk lie together, so a kill costs the one it was in.
        let recorded = steps[..number].iter().filter(|step| **step == "write").count() / writes_a_chunk;
        assert!(fetched <= 3 - recorded.min(3) as u64, "{what}: {fetched} chunks were fetched again");
        if number >= writes {
            assert_eq!(fetched, 0, "{what}: all was written");
        }
    }
}

#[test]
fn after_a_power_failure_nothing_is_believed_that_was_not_synced() {
    let content = Content::new();
    let steps = steps(&content);
    let synced = steps.iter().position(|step| *step == "sync file").unwrap();
    for (number, step) in steps.iter().enumerate() {
        let what = format!("a power failure in step {number}, {step}");
        survive(&content, Fault::Crashes(number), &what, |dir| {
            faults::reboot();
            if number > synced {
                return;
            }
            // The kernel had the middle of what was written, and lost it.
            for entry in std::fs::read_dir(dir.join("content")).into_iter().flatten() {
                let file = std::fs::File::options().write(true).open(entry.unwrap().path()).unwrap();
                if file.metadata().unwrap().len() == SIZE as u64 {
                    crate::disk::write_all_at(&file, &[0; 70_000], CHUNK as u64 - 35_000).unwrap();
                }
            }
        });
    }
}

#[test]
fn nothing_stays_of_a_download_whose_sync_failed() {
    let content = Content::new();
    let dir = tempfile::tempdir().unwrap();
    let library = Arc::new(Library::open(&dir.path().join("data")).unwrap());
    let to = Destination::Dir(dir.path().join("content"), None);
    let shared = Shared::new(Arc::clone(&library), content.hash, &to, DownloadConfig::default()).unwrap();
    let (plan, _) = shared.make_plan(content.info).unwrap();
    let (node, proof) = &content.proofs[0];
    plan.write(plan.geometry.chunk(0).unwrap(), &content.data[..CHUNK], node, proof).unwrap();
    faults::set(Some(Fault::Fails(0)));
    plan.part.sync_some().unwrap_err();
    faults::set(None);
    // Another sync would not tell what the system forgot.
    plan.part.sync().unwrap_err();
    assert_eq!(std::fs::read_dir(dir.path().join("content")).unwrap().count(), 1);
    conduct::let_go(&plan, true);
    assert_eq!(std::fs::read_dir(dir.path().join("content")).unwrap().count(), 0);
    assert!(library.unfinished().unwrap().is_empty());
}

#[test]
fn a_file_that_does_not_fit_is_refused_and_nothing_is_written() {
    let content = Content::new();
    let dir = tempfile::tempdir().unwrap();
    faults::set_free(Some(SIZE as u64 + 1_000));
    let error = content.fetch(dir.path()).unwrap_err();
    let needed = (SIZE + SIZE / 20) as u64;
    assert!(
        matches!(error, DownloadError::NoRoom { needed: n, free, .. } if n == needed && free == SIZE as u64 + 1_000),
        "{error:?}"
    );
    assert_eq!(std::fs::read_dir(dir.path().join("content")).unwrap().count(), 0);
    faults::set_free(Some(needed));
    assert_eq!(content.fetch(dir.path()).unwrap(), 3);
    faults::set_free(None);
}

#[tokio::test]
async fn a_full_disk_stops_the_asking_and_room_starts_it_again() {
    let content = Content::new();
    let dir = tempfile::tempdir().unwrap();
    let library = Arc::new(Library::open(&dir.path().join("data")).unwrap());
    let to = Destination::Dir(dir.path().join("content"), Some("file.bin".into()));
    let shared = Shared::new(library, content.hash, &to, DownloadConfig::default()).unwrap();
    let (id, token) = shared.admit("source".into());
    let plan = shared.plan(content.info).await.unwrap();
    assert!(token.is_some());
    let received = |chunk: u64| {
        let run = plan.geometry.chunk(chunk).unwrap();
        let at = usize::try_from(run.offset()).unwrap();
        let proof = &content.proofs[usize::try_from(chunk).unwrap()].1;
        (run, [proof, &content.data[at..at + run.len()]].concat())
    };
    let give = |id: SourceId, chunk: u64| {
        let (run, bytes) = received(chunk);
        let mut buffer = RunBuffer::new();
        buffer.receive(run).copy_from_slice(&bytes);
        shared.check(&plan, id, run, &buffer);
    };
    let asked: Vec<u64> = std::iter::from_fn(|| shared.take(id, 0)).take(2).collect();
    faults::set(Some(Fault::Fails(0)));
    give(id, asked[0]);
    faults::set(None);
    assert_eq!(shared.take(id, 0), None, "nothing is asked for");
    give(id, asked[1]);
    assert!(!shared.state().has_some(), "and what still comes is not written");
    assert!(shared.state().failure.is_none());
    shared.state().full = None;
    // All of it is missing again, and comes.
    while let Some(chunk) = shared.take(id, 0) {
        give(id, chunk);
    }
    assert!(shared.is_complete());
}

#[tokio::test(start_paused = true)]
async fn a_download_says_that_there_is_no_room_and_that_there_is_again() {
    let content = Content::new();
    let dir = tempfile::tempdir().unwrap();
    let library = Arc::new(Library::open(&dir.path().join("data")).unwrap());
    let to = Destination::Dir(dir.path().join("content"), None);
    let shared = Shared::new(library, content.hash, &to, DownloadConfig::default()).unwrap();
    let waiting = conduct::wait_for_room(&shared, std::io::ErrorKind::StorageFull.into());
    let (waited, told) = tokio::join!(waiting, async {
        let Some(DownloadEvent::Paused { path, source }) = shared.events.next().await else { panic!() };
        assert!(path.ends_with("content") && crate::disk::is_full(&source));
        shared.events.next().await
    });
    waited.unwrap();
    assert!(matches!(told, Some(DownloadEvent::Resumed)));
    // Whoever gives it up need not wait for room.
    shared.cancel.cancel();
    let ended = conduct::wait_for_room(&shared, std::io::ErrorKind::StorageFull.into()).await;
    assert!(matches!(ended, Err(DownloadError::Cancelled)));
}
