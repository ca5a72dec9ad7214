//! `p2p torrent`.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use p2p_node::Torrent;

use crate::failure::Failure;
use crate::output::{Line, Screen};
use crate::signals::Stop;

/// Writes the torrent of a file to `output`, or beside where the program runs.
pub(crate) async fn torrent(
    screen: Screen,
    mut stop: Stop,
    path: PathBuf,
    output: Option<PathBuf>,
) -> Result<(), Failure> {
    let work = tokio::task::spawn_blocking(move || export(&path, output));
    let (torrent, path) = tokio::select! {
        done = work => done.map_err(|panic| Failure::failed("disk", panic.to_string()))??,
        () = stop.wait() => return Err(Failure::interrupted()),
    };
    let line = Line::Torrent {
        command: "torrent",
        path: path.display().to_string(),
        length: torrent.info.length,
        hash: torrent.info.hash().to_string(),
        root: HEXLOWER.encode(&torrent.info.root),
        info_hash: HEXLOWER.encode(&torrent.info_hash),
        magnet: torrent.magnet(),
        name: torrent.name,
    };
    screen.show(&line).await;
    Ok(())
}

fn export(path: &Path, output: Option<PathBuf>) -> Result<(Torrent, PathBuf), Failure> {
    let torrent = Torrent::of(path).map_err(|error| Failure::failed("not_read", error.to_string()))?;
    let to = output.unwrap_or_else(|| PathBuf::from(format!("{}.torrent", torrent.name)));
    let write = || {
        let mut file = File::create_new(&to)?;
        file.write_all(torrent.as_bytes())?;
        file.sync_all()
    };
    write()
        .map_err(|error| Failure::failed("not_written", format!("cannot write {}: {error}", to.display())))?;
    Ok((torrent, to))
}
