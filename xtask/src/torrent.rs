//! `cargo xtask torrent`: the torrents that `p2p torrent` writes, in the hands of libtorrent (its Python package).

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use crate::args::Args;
use crate::random::Random;
use crate::workspace;

/// Lengths around what blocks, pieces and layers end at.
const LENGTHS: [usize; 9] = [
    1,
    16_384,
    16_385,
    (1 << 20) - 1,
    1 << 20,
    (1 << 20) + 1,
    3 << 20,
    (5 << 20) + 12_345,
    (8 << 20) - 16_384,
];

/// What the script ends with when there is no libtorrent.
const NOT_INSTALLED: i32 = 3;

/// Takes the folder. Of each torrent: libtorrent makes the same of the file, and finds the file complete by it.
const SCRIPT: &str = r"
import glob, os, sys, time
try:
    import libtorrent as lt
except ImportError:
    sys.exit(3)
import warnings
warnings.simplefilter('ignore', DeprecationWarning)
folder = sys.argv[1]
session = lt.session({'listen_interfaces': '', 'enable_dht': False, 'enable_lsd': False,
                      'enable_upnp': False, 'enable_natpmp': False})
for name in sorted(glob.glob(os.path.join(folder, '*.torrent'))):
    info = lt.torrent_info(name)
    path = name[:-len('.torrent')]
    storage = lt.file_storage()
    lt.add_files(storage, path)
    own = lt.create_torrent(storage, 1 << 20, lt.create_torrent.v2_only)
    lt.set_piece_hashes(own, folder)
    own = lt.torrent_info(own.generate())
    assert info.info_hashes().v2 == own.info_hashes().v2, (path, 'another info-hash')
    torrent = session.add_torrent({'ti': info, 'save_path': folder})
    torrent.force_recheck()
    end = time.monotonic() + 60
    while not torrent.status().is_seeding:
        assert time.monotonic() < end, (path, str(torrent.status().state), torrent.status().progress)
        time.sleep(0.02)
    print(os.path.getsize(path), info.info_hashes().v2)
print('libtorrent', lt.__version__)
";

pub(crate) fn run(mut args: Args) -> Result<ExitCode> {
    let python = args.value("--python")?.unwrap_or_else(|| "python3".into());
    let program = args.value("--program")?;
    args.finish()?;
    let target = workspace::target_dir()?;
    let program = match program {
        Some(path) => PathBuf::from(path),
        None => {
            let build = ["build", "--locked", "--package", "p2p-cli", "--bin", "p2p"];
            workspace::run(workspace::cargo().args(build))?;
            target.join("debug").join(workspace::exe("p2p"))
        }
    };
    let folder = target.join("torrent").join(std::process::id().to_string());
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let checked = check(&python, &program, &folder);
    fs::remove_dir_all(&folder).ok();
    checked
}

fn check(python: &str, program: &Path, folder: &Path) -> Result<ExitCode> {
    let mut random = Random::new(1);
    for length in LENGTHS {
        let file = folder.join(format!("{length}.bin"));
        let mut bytes = vec![0; length];
        random.fill(&mut bytes);
        File::create_new(&file)?.write_all(&bytes)?;
        let torrent = folder.join(format!("{length}.bin.torrent"));
        workspace::output(Command::new(program).arg("torrent").arg(&file).arg("-o").arg(&torrent))?;
    }
    let script = folder.join("check.py");
    fs::write(&script, SCRIPT)?;
    let run = Command::new(python).arg(&script).arg(folder).status();
    let status = run.with_context(|| format!("{python} does not run (--python names another)"))?;
    if status.code() == Some(NOT_INSTALLED) {
        println!("torrent: skipped, {python} has no package libtorrent");
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(status.success(), "libtorrent has another opinion");
    println!("torrent: {} files of ours are complete for libtorrent", LENGTHS.len());
    Ok(ExitCode::SUCCESS)
}
