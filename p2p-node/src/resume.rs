//! Fetches that an earlier run of this node did not bring to their end go on by themselves.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use p2p_files::{Destination, FileHash, Library, Unfinished};

use crate::event::Event;
use crate::fetch::{self, FetchOptions, FetchTarget};
use crate::shared::Shared;

/// Fetches that go on at the same time; the others wait for one of them to end.
const AT_ONCE: usize = 8;

/// How long such a fetch looks for somebody who has the file: as good as for ever. It asks seldom meanwhile.
const LOOK_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// The name under which a fetch of this file into this folder was begun.
pub(crate) fn name_in(library: &Library, hash: FileHash, folder: &Path) -> Option<String> {
    let folder = std::fs::canonicalize(folder).ok()?;
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
    let mut running = tokio::task::JoinSet::new();
    for one in unfinished {
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

async fn fetch_rest(shared: Arc<Shared>, unfinished: Unfinished) {
    let (hash, length) = (unfinished.hash, unfinished.length);
    let (Destination::Dir(to, _) | Destination::File(to)) = unfinished.destination else { return };
    let short = hash.short();
    shared
        .events
        .publish(Event::Notice(format!("going on with {short} ({length} bytes) to {}", to.display())));
    let options = FetchOptions { to: Some(to), timeout: Some(LOOK_FOR) };
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
