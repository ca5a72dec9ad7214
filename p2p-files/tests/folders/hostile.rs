//! Providers that lie, and those that say nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use p2p_files::protocol::{Reply, Request};
use p2p_files::{
    DownloadError, DownloadEvent, EntryKind, FileHash, FolderConfig, FolderDownload, FolderGoal, Info, Kind,
    SourceFault, TreeHasher,
};
use tokio::sync::{Notify, Semaphore};

use crate::util::{Frames, Peer, content, reply};
use crate::{Tree, add, end_of, entries, fetch, start, tree, write};

/// What a provider of our own making says of each hash: what it is made of, and its bytes.
pub(crate) type Contents = BTreeMap<FileHash, (Info, Vec<u8>)>;

/// Adds a content under the hash that it really has.
fn put(contents: &mut Contents, kind: Kind, data: &[u8]) -> Info {
    let mut hasher = TreeHasher::new();
    hasher.push(data, |_, _| Ok(())).unwrap();
    let info = Info { kind, ..hasher.finish(|_, _| Ok(())).unwrap() };
    contents.insert(info.hash(), (info, data.to_vec()));
    info
}

/// A provider over a pipe, of contents of at most a chunk; it does not care whether they are true.
pub(crate) fn provider(contents: Contents) -> tokio::io::DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let mut frames = Frames::new(theirs);
        let mut open = None;
        while let Some(frame) = frames.next().await {
            match Request::decode(&frame).unwrap() {
                Some(Request::Open(hash)) => {
                    open = contents.get(&hash);
                    let answer = open.map_or(Reply::NotFound, |(info, _)| Reply::Info(*info));
                    frames.send(reply(&answer)).await;
                }
                Some(Request::Get { first, count }) => {
                    let Some((_, data)) = open else {
                        frames.send(reply(&Reply::NotFound)).await;
                        continue;
                    };
                    let mut run = reply(&Reply::Run { first, count, hashes: 0 }).to_vec();
                    run.extend(data);
                    frames.send(run).await;
                }
                other => panic!("{other:?}"),
            }
        }
    });
    ours
}

/// A manifest as bytes, whatever is in it.
fn manifest(entries: &[(&[u8], Info)]) -> Vec<u8> {
    let mut bytes = vec![1];
    let number = |bytes: &mut Vec<u8>, mut number: u64| {
        while number >= 0x80 {
            bytes.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        bytes.push(number.to_le_bytes()[0]);
    };
    let mut before: &[u8] = b"";
    for (path, info) in entries {
        let shared = before.iter().zip(*path).take_while(|(a, b)| a == b).count();
        bytes.push(0);
        number(&mut bytes, shared as u64);
        number(&mut bytes, (path.len() - shared) as u64);
        bytes.extend(&path[shared..]);
        number(&mut bytes, info.length);
        bytes.extend(info.hash().as_bytes());
        before = path;
    }
    bytes
}

#[tokio::test]
async fn a_hostile_manifest_makes_nothing() {
    for paths in [
        &[&b"../x"[..]][..],
        &[b"/etc/x"],
        &[b"a/../../x"],
        &[b"a\\..\\x"],
        &[b"C:x"],
        &[b"a/.ssh/x"],
        &[b"nul.txt"],
        &[b"a\0b"],
        &[b"a\xff"],
        &[b"evil\xe2\x80\xaegpj.exe"],
        &[b"e\xcc\x81"],
        &[b"x", b"x"],
        &[b"x", b"x/y"],
        &[b"y", b"x"],
        &[b""],
    ] {
        let mut contents = Contents::new();
        let file = put(&mut contents, Kind::File, b"evil");
        let entries: Vec<_> = paths.iter().map(|path| (*path, file)).collect();
        let hash = put(&mut contents, Kind::Dir, &manifest(&entries)).hash();
        let to = Peer::new();
        let before = tree(to.dir.path());
        let list = |to: &Peer, hash| {
            let config = FolderConfig { file: to.config.clone(), bytes: None };
            FolderDownload::start(Arc::clone(&to.library), hash, FolderGoal::List, config)
        };
        for begin in [list, start] {
            let download = begin(&to, hash);
            download.add_source("evil", provider(contents.clone()));
            let (end, _) = end_of(&download).await;
            assert!(matches!(end, Err(DownloadError::Manifest(_))), "{paths:?}: {end:?}");
            assert_eq!(to.library.list(), [], "it is not given to others");
            assert!(!to.dir.path().join("data/dirs").join(hash.to_string()).exists());
        }
        let mut after = tree(to.dir.path());
        after.retain(|path, _| !path.starts_with("data/") && path != "content/");
        let before: Tree = before.into_iter().filter(|(path, _)| !path.starts_with("data/")).collect();
        assert_eq!(after, before, "{paths:?}");
        assert_eq!(to.library.folders().unwrap(), []);
    }
}

#[tokio::test]
async fn a_lying_source_is_named_and_the_others_deliver() {
    let (from, to) = (Peer::new(), Peer::new());
    let root = from.dir.path().join("original");
    for number in 0..40 {
        write(&root, &format!("{number:02}"), &content(1000 * number + 1));
    }
    let hash = add(&from, &root).share.hash;
    // It says the right things of each file, and sends one byte that is wrong.
    let mut contents = Contents::new();
    for entry in entries(&from, &hash) {
        let EntryKind::File { hash, .. } = entry.kind else { continue };
        let mut data = std::fs::read(entry.path.below(&root)).unwrap();
        let info = put(&mut Contents::new(), Kind::File, &data);
        *data.last_mut().unwrap() ^= 1;
        contents.insert(hash, (info, data));
    }
    let download = start(&to, hash);
    download.add_source("liar", provider(contents));
    download.add_source("honest", from.connect());
    let (end, faults) = end_of(&download).await;
    assert_eq!(tree(&end.unwrap().path), tree(&root));
    let blamed: Vec<_> = faults.iter().map(|(label, _)| label.as_str()).collect();
    assert!(blamed.iter().all(|label| *label == "liar"), "{faults:?}");
    assert!(faults.iter().any(|(_, fault)| matches!(fault, SourceFault::Corrupt { .. })), "{faults:?}");
}

#[tokio::test]
async fn a_manifest_that_is_wrong_about_a_file_never_ends_in_a_wrong_file() {
    // The hash is that of four bytes, and the manifest says five.
    let mut contents = Contents::new();
    let file = put(&mut contents, Kind::File, b"four");
    let listed = manifest(&[(b"a", file)]);
    let at = listed.len() - 33;
    let mut wrong = listed;
    assert_eq!(wrong[at], 4);
    wrong[at] = 5;
    let hash = put(&mut contents, Kind::Dir, &wrong).hash();
    let to = Peer::new();
    let download = start(&to, hash);
    download.add_source("author", provider(contents));
    let (end, faults) = end_of(&download).await;
    assert!(matches!(end, Err(DownloadError::Suspended)), "{end:?}");
    assert_eq!(faults, [("author".to_owned(), SourceFault::NotFound)]);
    assert!(!to.content_dir().join("name/a").exists());
}

/// A connection to a peer that holds back what is longer than `len` bytes until the gate opens, and says when it does.
fn gated(peer: &Peer, len: usize, gate: Arc<Gate>) -> tokio::io::DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (mut requester, mut honest) = (Frames::new(theirs), Frames::new(peer.connect()));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(request) = requester.next() => honest.send(request.freeze()).await,
                Some(answer) = honest.next() => {
                    if answer.len() > len {
                        gate.held.notify_one();
                        let _ = gate.open.acquire().await;
                    }
                    requester.send(answer.freeze()).await
                }
                else => return,
            };
        }
    });
    ours
}

struct Gate {
    held: Notify,
    open: Semaphore,
}

impl Gate {
    fn closed() -> Arc<Self> {
        Arc::new(Self { held: Notify::new(), open: Semaphore::new(0) })
    }

    async fn has_held(&self) {
        tokio::time::timeout(Duration::from_secs(30), self.held.notified()).await.expect("within 30 s");
    }
}

#[tokio::test]
async fn a_good_source_outlives_any_number_of_bad_ones() {
    let (from, mut to) = (Peer::new(), Peer::new());
    to.config.max_sources = 2;
    let root = from.dir.path().join("original");
    write(&root, "one", &content((1 << 20) + 1));
    write(&root, "two", &content((1 << 20) + 2));
    let hash = add(&from, &root).share.hash;
    let download = start(&to, hash);
    let gate = Gate::closed();
    download.add_source("good", gated(&from, 100_000, Arc::clone(&gate)));
    gate.has_held().await;
    for number in 0..5 {
        let label = format!("bad {number}");
        download.add_source(label.as_str(), tokio::io::duplex(64).0);
        let event = tokio::time::timeout(Duration::from_secs(30), download.next_event()).await.unwrap();
        let Some(DownloadEvent::SourceFailed { label: failed, fault: SourceFault::Io(_) }) = event else {
            panic!("{event:?}")
        };
        assert_eq!(failed, label);
    }
    gate.open.close();
    let (end, faults) = end_of(&download).await;
    assert_eq!(tree(&end.unwrap().path), tree(&root));
    assert_eq!(faults, []);
}

/// A provider of these contents that says nothing any more once it is asked for another, and notes that.
fn mute(contents: Contents, asked: Arc<Notify>) -> tokio::io::DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let (mut provider, mut requester) = (Frames::new(provider(contents.clone())), Frames::new(theirs));
        while let Some(frame) = requester.next().await {
            if let Some(Request::Open(hash)) = Request::decode(&frame).unwrap()
                && !contents.contains_key(&hash)
            {
                asked.notify_one();
                std::future::pending::<()>().await;
            }
            provider.send(frame.freeze()).await;
            requester.send(provider.next().await.unwrap().freeze()).await;
        }
    });
    ours
}

/// What a source knows that has the manifest of a folder and none of its files.
pub(crate) fn manifest_alone(from: &Peer, hash: &FileHash) -> Contents {
    let mut contents = Contents::new();
    let manifest = std::fs::read(from.dir.path().join("data/dirs").join(hash.to_string())).unwrap();
    assert_eq!(put(&mut contents, Kind::Dir, &manifest).hash(), *hash);
    contents
}

#[tokio::test]
async fn nobody_who_says_nothing_holds_up_the_end_of_small_files() {
    let (from, mut to) = (Peer::new(), Peer::new());
    // Far longer than the test may take.
    (to.config.stall, to.config.run_timeout) = (Duration::from_secs(600), Duration::from_secs(600));
    let root = from.dir.path().join("original");
    for number in 0..50 {
        write(&root, &format!("{number}"), &content(number));
    }
    let hash = add(&from, &root).share.hash;
    for for_now in [false, true] {
        let download = start(&to, hash);
        for label in ["a", "b"] {
            let asked = Arc::new(Notify::new());
            download.add_source(label, mute(manifest_alone(&from, &hash), Arc::clone(&asked)));
            tokio::time::timeout(Duration::from_secs(30), asked.notified()).await.unwrap();
        }
        if for_now {
            download.suspend();
        } else {
            download.cancel();
        }
        let (end, faults) = end_of(&download).await;
        let ended = |error: &DownloadError| match error {
            DownloadError::Suspended => for_now,
            DownloadError::Cancelled => !for_now,
            _ => false,
        };
        assert!(end.as_ref().is_err_and(ended), "{end:?}");
        assert_eq!(faults, []);
    }
    let finished = fetch(&to, hash, &[("honest", &from)]).await.unwrap();
    assert_eq!(tree(&finished.path), tree(&root));
}

#[tokio::test(start_paused = true)]
async fn nobody_who_says_nothing_holds_up_the_end_of_large_files() {
    let (from, mut to) = (Peer::new(), Peer::new());
    (to.config.stall, to.config.run_timeout) = (Duration::from_secs(600), Duration::from_secs(600));
    let root = from.dir.path().join("original");
    write(&root, "large", &content((1 << 20) + 1));
    let hash = add(&from, &root).share.hash;
    let download = start(&to, hash);
    let asked = Arc::new(Notify::new());
    download.add_source("a", mute(manifest_alone(&from, &hash), Arc::clone(&asked)));
    asked.notified().await;
    let before = tokio::time::Instant::now();
    download.suspend();
    assert!(matches!(end_of(&download).await.0, Err(DownloadError::Suspended)));
    // Virtual time, which only waiting moves on.
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
}
