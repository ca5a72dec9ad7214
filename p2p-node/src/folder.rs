//! Folders among what a node shares.

use std::collections::BTreeSet;
use std::path::Path;

use p2p_files::{Kind, Share, ShareState};

use crate::error::ShareError;
use crate::event::Event;
use crate::info::{FileEntry, FileState};
use crate::shared::Shared;
use crate::watch;

/// Shares a folder, and tells what of it is not shared. Blocks.
pub(crate) fn share(shared: &Shared, path: &Path) -> Result<Share, ShareError> {
    let added = shared.library.add_folder(path, |_| ())?;
    if added.left_out.count > 0 {
        shared.events.publish(Event::Warning(format!("{}: {}", added.share.name, added.left_out)));
    }
    if added.clashes > 0 {
        let text = format!(
            "{}: {} names differ from another in case only; on Windows and macOS they get a number",
            added.share.name, added.clashes
        );
        shared.events.publish(Event::Warning(text));
    }
    if let Err(why) = shared.watch.also_folder(&added.share.path) {
        watch::tell_blind(shared, &why);
    }
    Ok(added.share)
}

/// Everything that is shared; files in a folder that is shared are not listed by themselves. Blocks.
pub(crate) fn list(shared: &Shared) -> Vec<FileEntry> {
    let fetching: BTreeSet<_> = {
        let fetches = shared.fetches.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        fetches.values().map(|fetch| fetch.hash).collect()
    };
    let folders = shared.library.folders().unwrap_or_default();
    let roots: BTreeSet<&Path> = folders.iter().map(|folder| folder.path.as_path()).collect();
    let is_inside = |share: &Share| share.path.ancestors().skip(1).any(|folder| roots.contains(folder));
    let (files, manifests): (Vec<_>, Vec<_>) =
        shared.library.list().into_iter().partition(|share| share.info.kind == Kind::File);
    let served = manifests.into_iter().filter(|manifest| manifest.state != ShareState::Gone);
    let served: BTreeSet<_> = served.map(|manifest| manifest.hash).collect();
    let mut listed: Vec<_> = files
        .into_iter()
        .filter(|share| !is_inside(share))
        .map(|share| {
            let (state, have) = match share.state {
                ShareState::Gone => (FileState::Gone, 0),
                _ => (FileState::Shared, share.bytes),
            };
            let length = Some(share.bytes);
            FileEntry {
                hash: share.hash,
                kind: Kind::File,
                length,
                path: share.path,
                state,
                have,
                sources: 0,
                rate: 0,
            }
        })
        .collect();
    for folder in folders.into_iter().filter(|folder| folder.complete || !fetching.contains(&folder.hash)) {
        let (state, have) = match folder.complete {
            // Without its manifest nobody can ask for it.
            true if !served.contains(&folder.hash) => (FileState::Gone, 0),
            true if folder.is_whole() => (FileState::Shared, folder.bytes),
            true => (FileState::Partial, folder.bytes),
            false => (FileState::Partial, 0),
        };
        // Not known before the manifest has come.
        let (hash, length) = (folder.hash, Some(folder.whole).filter(|whole| folder.complete || *whole > 0));
        listed.push(FileEntry {
            hash,
            kind: Kind::Dir,
            length,
            path: folder.path,
            state,
            have,
            sources: 0,
            rate: 0,
        });
    }
    listed.sort_by(|a, b| (a.hash, &a.path).cmp(&(b.hash, &b.path)));
    listed
}
