//! Files and folders: sharing them, fetching them, and which there are.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use p2p_files::{FileHash, Kind, ManifestError, ManifestReader, Refreshed, Share};
use p2p_wire::{Ticket, TicketFile, TicketKind};

use super::Node;
use crate::error::ShareError;
use crate::fetch::{self, Fetch, FetchEntry, FetchOptions, FetchTarget};
use crate::folder;
use crate::info::FileEntry;
use crate::shared::Shared;

impl Node {
    /// What to give a friend to fetch a file: who has it, where, and what it is.
    #[must_use]
    pub fn file_ticket(&self, share: &Share) -> Ticket {
        let kind = match share.info.kind {
            Kind::Dir => TicketKind::Dir,
            _ => TicketKind::File,
        };
        // A name that does not fit is left out; it is a hint only.
        let name =
            if share.name.len() <= p2p_wire::MAX_FILE_NAME { share.name.clone() } else { String::new() };
        let file = TicketFile { kind, hash: *share.hash.as_bytes(), length: share.bytes, name };
        Ticket { file: Some(file), ..self.ticket() }
    }

    /// Shares a file or a folder where it lies; nothing is copied. What in a folder is not shared (symlinks, names that
    /// others would refuse) is told by an [`Event::Warning`](crate::Event::Warning).
    ///
    /// # Errors
    /// [`ShareError`].
    pub async fn share(&self, path: impl Into<PathBuf>) -> Result<Share, ShareError> {
        let path = path.into();
        self.blocking(move |shared| {
            if path.is_dir() {
                return folder::share(shared, &path);
            }
            let share = shared.library.add(&path, |_, _| {})?;
            shared.watch.also(&share.path);
            Ok(share)
        })
        .await
    }

    /// What is in a folder that is shared here, or whose list was fetched ([`FetchOptions::list`]), entry by entry.
    ///
    /// # Errors
    /// [`ManifestError`] when it is not here.
    pub async fn manifest(&self, hash: FileHash) -> Result<ManifestReader<File>, ManifestError> {
        let library = Arc::clone(&self.shared().library);
        let open = tokio::task::spawn_blocking(move || library.manifest(&hash));
        open.await.map_err(std::io::Error::other)?
    }

    /// Forgets the list of a folder that was fetched to look into it; one that is shared or being fetched keeps it.
    ///
    /// # Errors
    /// [`ShareError`].
    pub async fn drop_manifest(&self, hash: FileHash) -> Result<(), ShareError> {
        self.blocking(move |shared| Ok(shared.library.drop_manifest(&hash)?)).await
    }

    /// Ends the sharing of a file or folder; it stays, and neither [`Node::refresh`] nor
    /// [`Config::watch`](crate::Config::watch) shares it again: only [`Node::share`] does. Returns whether it was shared.
    ///
    /// # Errors
    /// [`ShareError`].
    pub async fn unshare(&self, hash: FileHash) -> Result<bool, ShareError> {
        self.blocking(move |shared| {
            let is_dir = shared.library.get(&hash).is_some_and(|share| share.info.kind == Kind::Dir);
            let removed =
                if is_dir { shared.library.remove_folder(&hash) } else { shared.library.remove(&hash) };
            Ok(removed?)
        })
        .await
    }

    /// Looks through the content folder and everything else that is shared: shares what is new, forgets what is gone, gives
    /// shared folders that changed their new hash.
    ///
    /// # Errors
    /// [`ShareError`]; single files that can't be shared are in the result.
    pub async fn refresh(&self) -> Result<Refreshed, ShareError> {
        self.blocking(|shared| Ok(shared.library.refresh(&shared.content_dir)?)).await
    }

    /// What is shared and what is being fetched.
    pub async fn files(&self) -> Vec<FileEntry> {
        let listed = self.blocking(|shared| Ok(folder::list(shared))).await;
        let mut files = listed.unwrap_or_default();
        let fetches = self.shared().fetches.lock().unwrap_or_else(PoisonError::into_inner);
        files.extend(fetches.values().map(FetchEntry::file_entry));
        files
    }

    /// Begins to fetch a file or a folder; it goes on by itself until it ends or the [`Fetch`] is dropped.
    #[must_use]
    pub fn fetch(&self, what: impl Into<FetchTarget>, options: FetchOptions) -> Fetch {
        fetch::begin(self.shared(), what.into(), options)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, ShareError> + Send + 'static,
    ) -> Result<T, ShareError> {
        let shared = Arc::clone(self.shared());
        tokio::task::spawn_blocking(move || work(&shared)).await.unwrap_or(Err(ShareError::Stopped))
    }
}
