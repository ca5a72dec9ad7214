//! `p2p hash`.

use std::path::PathBuf;

use data_encoding::HEXLOWER;
use p2p_node::Sums;

use crate::failure::Failure;
use crate::output::{Line, Screen, kind};
use crate::signals::Stop;

/// Says the hashes of each path.
pub(crate) async fn hash(screen: Screen, mut stop: Stop, paths: Vec<PathBuf>) -> Result<(), Failure> {
    for path in paths {
        let of = path.clone();
        let work = tokio::task::spawn_blocking(move || Sums::of(&of));
        let sums = tokio::select! {
            sums = work => sums.map_err(|panic| Failure::failed("disk", panic.to_string()))?,
            () = stop.wait() => return Err(Failure::interrupted()),
        };
        let sums = sums.map_err(|error| Failure::failed("not_read", error.to_string()))?;
        let is_dir = sums.info.kind == p2p_node::Kind::Dir;
        let left_out = (sums.left_out.count > 0).then(|| sums.left_out.to_string());
        let line = Line::Hashed {
            command: "hash",
            path: path.display().to_string(),
            kind: kind(sums.info.kind),
            hash: sums.info.hash().to_string(),
            length: sums.bytes,
            root: HEXLOWER.encode(&sums.info.root),
            sha256: HEXLOWER.encode(&sums.sha256),
            files: is_dir.then_some(sums.files),
            left_out,
        };
        screen.show(&line).await;
    }
    Ok(())
}
