//! Fetches that an earlier run of this node did not bring to their end go on by themselves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use p2p_files::{Destination, FileHash, Folder, Kind, Library, Selection, Unfinished};

use crate::event::Event;
use crate::fetch::{self, FetchOptions, FetchTarget};
use crate::shared::Shared;

/// Fetches that go on at the same time; the others wait for one of them to end.
const AT_ONCE: usize = 8;

/// How long such a fetch looks for somebody who has the file: as good as for ever. It asks seldom meanwhile.
const LOOK_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is known of a hash before anybody is asked.
#[derive(Debug, Default)]
pub(crate) struct Before {
    /// It is here, or a part of it, and this is what it names.
    pub(crate) kind: Option<Kind>,
    /// The name under which a fetch of it into this folder was begun, else the one it has here.
    pub(crate) name: Option<String>,
    /// The destination is the folder itself that an earlier fetch made, or began to, without all that is in it.
    pub(crate) is_root: bool,
}

/// Looks at what is here of a hash that is to be fetched to `to`. Blocks.
pub(crate) fn look(library: &Library, hash: FileHash, to: &Path) -> Before {
    let mut unfinished: Vec<Folder> = library.folders().unwrap_or_default();
    unfinished.retain(|folder| folder.hash == hash && !folder.is_whole());
    let here = library.get(&hash);
    let kind = if unfinished.is_empty() { here.as_ref().map(|s| s.info.kind) } else { Some(Kind::Dir) };
    let to = std::fs::canonicalize(to).ok();
    let is_root = unfinished.iter().any(|folder| Some(&folder.path) == to.as_ref());
    let begun = to.and_then(|to| name_in(library, hash, &to));
    let folder = || Some(unfinished.first()?.path.file_name()?.to_string_lossy().into_owned());
    let name = begun.or_else(folder).or_else(|| here.map(|share| share.name));
    Before { kind, name, is_root }
}

fn name_in(library: &Library, hash: FileHash, folder: &Path) -> Option<String> {
    library.unfinished().ok()?.into_iter().filter(|u| u.hash == hash).find_map(|u| match u.destination {
        Destination::Dir(dir, name) if dir == folder => name,
        _ => None,
    })
}

/// Goes on with everything that was left unfinished; returns when all of it has ended or the node stops.
pub(crate) async fn go_on(shared: Arc<Shared>) {
    let library = Arc::clone(&shared.library);
    let unfinished = match tokio::task::spawn_blocking(move || library.unfinished()).await {
        Ok(Ok(unfinished)) => unfinished,
        Ok(Err(error)) => {
            let text = format!("cannot look for unfinished fetches: {error}");
            shared.events.publish(Event::Warning(text));
            return;
        }
        Err(_) => return,
    };
    let library = Arc::clone(&shared.library);
    let folders = tokio::task::spawn_blocking(move || library.folders()).await;
    let folders = folders.ok().and_then(Result::ok).unwrap_or_default();
    let folders = folders.into_iter().filter(|folder| !folder.complete).map(Rest::from);
    let mut running = tokio::task::JoinSet::new();
    for one in unfinished.into_iter().filter_map(Rest::of).chain(folders) {
        if running.len() >= AT_ONCE {
            running.join_next().await;
        }
        if shared.stop.is_cancelled() {
            break;
        }
        running.spawn(fetch_rest(Arc::clone(&shared), one));
    }
    while running.join_next().await.is_some() {}
}

/// What is left to fetch of something.
struct Rest {
    hash: FileHash,
    length: u64,
    to: PathBuf,
    selection: Selection,
}

impl Rest {
    fn of(unfinished: Unfinished) -> Option<Self> {
        let (Destination::Dir(to, _) | Destination::File(to)) = unfinished.destination else { return None };
        let (hash, length) = (unfinished.hash, unfinished.length);
        Some(Self { hash, length, to, selection: Selection::all() })
    }
}

impl From<Folder> for Rest {
    fn from(folder: Folder) -> Self {
        Self { hash: folder.hash, length: folder.bytes, to: folder.path, selection: folder.selection }
    }
}

async fn fetch_rest(shared: Arc<Shared>, rest: Rest) {
    let Rest { hash, length, to, selection } = rest;
    let short = hash.short();
    shared
        .events
        .publish(Event::Notice(format!("going on with {short} ({length} bytes) to {}", to.display())));
    let options = FetchOptions { to: Some(to), selection, list: false, timeout: Some(LOOK_FOR) };
    let mut fetch = fetch::begin(&shared, FetchTarget::Hash(hash), options);
    match fetch.finish().await {
        Ok(done) => {
            let text = format!("{short} is complete: {}", done.path.display());
            shared.events.publish(Event::Notice(text));
        }
        Err(crate::FetchError::Stopped) => {}
        Err(error) => shared.events.publish(Event::Warning(format!("{short}: {error}"))),
    }
}
