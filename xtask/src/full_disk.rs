//! `cargo xtask full-disk`: a real node on a real disk that is too small, and on one that becomes full under it.
//!
//! The disk is a tmpfs in a user and mount namespace of its own (`unshare -Urm`), which needs no rights and goes with the
//! process.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::args::Args;
use crate::digest::digest;
use crate::kills::make;
use crate::program::kill_on_signal;
use crate::test_net::node::{Launch, Node};
use crate::workspace;

/// Longer than anything here takes; only a failure waits for it.
const LIMIT: Duration = Duration::from_secs(120);
/// The disk, and files that fit on it or do not.
const DISK: u64 = 512 << 20;
const TOO_LARGE: u64 = 600 << 20;
const FITS: u64 = 400 << 20;
/// Set for the process inside the namespace.
const INSIDE: &str = "P2P_XTASK_FULL_DISK";

pub(crate) fn run(mut args: Args) -> Result<ExitCode> {
    let built = args.value("--program")?;
    args.finish()?;
    if let Some(folder) = std::env::var_os(INSIDE) {
        let program = built.context("--program")?;
        inside(PathBuf::from(program), Path::new(&folder))?;
        return Ok(ExitCode::SUCCESS);
    }
    let unshare =
        |command: &mut Command| command.args(["-Urm", "true"]).output().is_ok_and(|o| o.status.success());
    if !unshare(&mut Command::new("unshare")) {
        println!("full-disk: not run, there is no `unshare -Urm` here");
        return Ok(ExitCode::SUCCESS);
    }
    let target = workspace::target_dir()?;
    let program = workspace::p2p(built)?;
    let program = fs::canonicalize(&program).with_context(|| program.display().to_string())?;
    let folder = target.join("full-disk").join(std::process::id().to_string());
    fs::create_dir_all(folder.join("disk")).with_context(|| folder.display().to_string())?;
    let this = std::env::current_exe().context("where this program is")?;
    let mut command = Command::new("unshare");
    command.arg("-Urm").arg(this).args(["full-disk", "--program"]).arg(program).env(INSIDE, &folder);
    let status = command.status().context("unshare")?;
    if status.success() {
        fs::remove_dir_all(&folder).ok();
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("logs: {}", folder.display());
    Ok(ExitCode::FAILURE)
}

fn inside(program: PathBuf, folder: &Path) -> Result<()> {
    kill_on_signal()?;
    let disk = folder.join("disk");
    let size = format!("size={DISK}");
    workspace::run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(&disk))?;
    let (large, fits) = (folder.join("large.bin"), folder.join("fits.bin"));
    make(&large, TOO_LARGE, 1)?;
    make(&fits, FITS, 2)?;
    let launch = Launch { program, folder: folder.to_path_buf() };
    let mut sharer = launch.start("share", &["--no-watch"])?;
    let large = add(&mut sharer, &large)?;
    let wanted = digest(&fits)?;
    let fits = add(&mut sharer, &fits)?;

    let on_disk = Launch { folder: disk.clone(), ..launch };
    let mut node = on_disk.start("node", &["--connect", &sharer.addr.to_string()])?;
    node.program.event("a link", 0, LIMIT, |e| e.is("peer_up"))?;
    let saved = node.program.tell("save", LIMIT)?;
    let state = PathBuf::from(saved.str("path"));

    let used = used(&disk);
    let refused = node.program.ask(&format!("req {large}"), LIMIT)?;
    ensure!(refused.is("file_failed") && refused.str("error") == "no_room", "not refused: {}", refused.value);
    ensure!(self::used(&disk) < used + (1 << 20), "something was written: {}", refused.value);
    println!("full-disk: a file that does not fit is refused: {}", refused.str("detail"));

    let mark = node.program.mark();
    node.program.type_line(&format!("req {fits}"))?;
    let begin = Instant::now();
    while self::used(&disk) < used + (8 << 20) {
        ensure!(begin.elapsed() < LIMIT, "the download does not begin");
        thread::sleep(Duration::from_millis(1));
    }
    let filler = disk.join("filler");
    fill(&filler)?;
    let told = node.program.event("a word about the full disk", mark, LIMIT, |e| {
        e.is("warning") && e.str("text").contains("no room") || e.is("file_done") || e.is("file_failed")
    })?;
    ensure!(told.is("warning"), "the download ended: {}", told.value);
    println!("full-disk: a download that fills it waits: {}", told.str("text"));

    // Keep it full, whatever was freed meanwhile.
    fill(&filler)?;
    sharer.program.tell("msg still there?", LIMIT)?;
    node.program.event("a message", mark, LIMIT, |e| e.is("message") && e.str("text") == "still there?")?;
    let text = fs::read_to_string(&state).with_context(|| state.display().to_string())?;
    serde_json::from_str::<serde_json::Value>(&text).context("state.json is no JSON any more")?;
    println!("full-disk: messages come, state.json is whole");

    fs::remove_file(&filler)?;
    let done = node.program.event("the end", mark, LIMIT, |e| e.is("file_done") || e.is("file_failed"))?;
    ensure!(done.is("file_done"), "it did not go on: {}", done.value);
    ensure!(digest(Path::new(done.str("path")))? == wanted, "the file differs");
    node.program.tell("save", LIMIT)?;
    let files = node.program.tell("files", LIMIT)?;
    ensure!(files.value["files"][0]["state"] == "shared", "it is not shared: {}", files.value);
    println!("full-disk: with room again it went on by itself; the file is identical and shared");
    Ok(())
}

fn add(sharer: &mut Node, path: &Path) -> Result<String> {
    let added = sharer.program.tell(&format!("add \"{}\"", path.display()), LIMIT)?;
    Ok(added.str("ticket").to_owned())
}

/// Bytes that stand on a disk, as far as this process can see: all files below, holes left out.
fn used(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => used(&entry.path()),
            #[cfg(unix)]
            Ok(data) => std::os::unix::fs::MetadataExt::blocks(&data) * 512,
            #[cfg(not(unix))]
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Writes until there is no room.
fn fill(path: &Path) -> Result<()> {
    let mut file =
        File::options().create(true).append(true).open(path).with_context(|| path.display().to_string())?;
    let mut block = vec![0; 1 << 20];
    loop {
        match file.write(&block) {
            Ok(_) => {}
            // To the last page.
            Err(error) if error.kind() == ErrorKind::StorageFull && block.len() > 4096 => {
                block.truncate(4096)
            }
            Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
            Err(error) => bail!("{}: {error}", path.display()),
        }
    }
}
