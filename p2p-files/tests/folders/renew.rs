//! Shared folders that change on disk.

use std::time::Duration;

use p2p_files::{LeftOutReason, Refreshed};

use crate::util::{Peer, content};
use crate::{add, fetch, original, tree, write};

fn refresh(peer: &Peer) -> Refreshed {
    peer.library.refresh(&peer.content_dir()).unwrap()
}

#[tokio::test]
async fn a_folder_that_changed_is_shared_as_what_it_is_now() {
    let from = Peer::new();
    let root = original(&from);
    let before = add(&from, &root).share;
    let found = refresh(&from);
    assert!(found.folders.is_empty() && found.removed.is_empty() && found.added.is_empty(), "{found:?}");

    write(&root, "notes.txt", b"hello again");
    write(&root, "new/large", &content((2 << 20) + 1));
    std::fs::remove_file(root.join("sub/chunk")).unwrap();
    std::fs::remove_dir_all(root.join("nothing")).unwrap();
    let found = refresh(&from);
    let [now] = &found.folders[..] else { panic!("{found:?}") };
    assert!(found.added.is_empty() && found.removed.contains(&before.hash), "{found:?}");
    assert_ne!(now.share.hash, before.hash);
    assert_eq!((&now.share.path, &now.share.name), (&before.path, &before.name));

    // The old one is not to be had, the new one is, and it is the one that adding it gives.
    assert_eq!((from.library.on_offer(&before.hash), from.library.get(&before.hash)), (None, None));
    assert!(!from.dir.path().join("data/dirs").join(before.hash.to_string()).exists());
    assert_eq!(from.library.on_offer(&now.share.hash).unwrap().path, root.canonicalize().unwrap());
    let (to, late) = (Peer::new(), Peer::new());
    assert!(fetch(&late, before.hash, &[("a", &from)]).await.is_err());
    let finished = fetch(&to, now.share.hash, &[("a", &from)]).await.unwrap();
    assert_eq!(tree(&finished.path), tree(&root));
    assert_eq!(add(&Peer::new(), &root).share.hash, now.share.hash);
    assert_eq!(add(&from, &root).share.hash, now.share.hash);
    let again = refresh(&from);
    assert!(again.folders.is_empty() && again.removed.is_empty(), "{again:?}");

    // What was fetched stays what was fetched.
    write(&finished.path, "notes.txt", b"mine");
    let found = refresh(&to);
    assert!(found.folders.is_empty(), "{found:?}");
    assert_eq!(to.library.folders().unwrap()[0].hash, now.share.hash);

    // Away with it.
    std::fs::remove_dir_all(&root).unwrap();
    assert!(refresh(&from).removed.contains(&now.share.hash));
    assert_eq!((from.library.folders().unwrap(), from.library.list()), (vec![], vec![]));
}

#[test]
fn what_is_written_to_is_waited_for() {
    let from = Peer::new();
    let root = original(&from);
    let before = add(&from, &root).share.hash;
    let (content, hour) = (from.content_dir(), Duration::from_secs(3600));
    let at_rest = |only: Option<&[std::path::PathBuf]>, rest| {
        from.library.refresh_at_rest(&content, only, rest, || false).unwrap()
    };
    // A new file, and then one that is known.
    for path in ["new", "notes.txt"] {
        let path = write(&root, path, b"not all of it").canonicalize().unwrap();
        let found = at_rest(Some(std::slice::from_ref(&path)), hour);
        assert_eq!((found.unsettled, found.folders.len()), (vec![path], 0));
        assert_eq!(from.library.folders().unwrap()[0].hash, before);
    }
    // Another place does not concern it; a file in it, and a folder that it is in, do.
    assert!(at_rest(Some(&[from.dir.path().join("elsewhere")]), Duration::ZERO).folders.is_empty());
    let here = root.canonicalize().unwrap();
    assert_eq!(at_rest(Some(&[here.join("new")]), Duration::ZERO).folders.len(), 1);
    std::fs::remove_file(root.join("new")).unwrap();
    assert_eq!(at_rest(Some(&[here.parent().unwrap().to_owned()]), Duration::ZERO).folders.len(), 1);

    // Whoever does not want to wait has what was there before.
    write(&root, "new", b"all of it");
    let shared = from.library.folders().unwrap();
    let stopped = from.library.refresh_at_rest(&content, None, Duration::ZERO, || true).unwrap();
    assert!(stopped.folders.is_empty());
    assert_eq!(from.library.folders().unwrap(), shared);
}

#[test]
fn what_was_taken_back_is_not_shared_again_by_a_change() {
    let from = Peer::new();
    let root = original(&from);
    add(&from, &root);
    let secret = from.library.add(&root.join("bin/tool"), |_, _| ()).unwrap().hash;
    assert!(from.library.remove(&secret).unwrap());
    let found = refresh(&from);
    let left_out = &found.folders[0].left_out;
    assert!(matches!(&left_out.named[..], [(path, LeftOutReason::TakenBack)] if path.ends_with("bin/tool")));
    assert_eq!((from.library.get(&secret), refresh(&from).folders.len()), (None, 0));
    // Whoever adds the folder shares all of it.
    assert_eq!(add(&from, &root).left_out.count, 0);
    assert!(from.library.get(&secret).is_some());
}

#[cfg(unix)]
#[test]
fn a_link_in_its_place_is_not_followed() {
    let from = Peer::new();
    let root = original(&from);
    let shared = add(&from, &root).share;
    let moved = from.dir.path().join("moved");
    std::fs::rename(&root, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &root).unwrap();
    let found = refresh(&from);
    assert!(found.removed.contains(&shared.hash) && found.folders.is_empty(), "{found:?}");
    assert_eq!(from.library.folders().unwrap(), []);
}
