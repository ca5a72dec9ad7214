//! `cargo xtask bench`: what it costs, measured the same way each time, on release builds.

#[cfg(feature = "bench")]
mod files;
#[cfg(feature = "bench")]
mod floor;
#[cfg(feature = "bench")]
mod folders;
#[cfg(feature = "bench")]
mod gossip;
#[cfg(feature = "bench")]
mod limits;
#[cfg(feature = "bench")]
mod log;
#[cfg(feature = "bench")]
mod measure;
#[cfg(feature = "bench")]
mod processes;
#[cfg(feature = "bench")]
mod shares;
#[cfg(feature = "bench")]
mod startup;
#[cfg(feature = "bench")]
mod stats;
#[cfg(feature = "bench")]
mod swarm;
#[cfg(feature = "bench")]
mod tls;

use std::process::ExitCode;

use anyhow::Result;

use crate::args::Args;

/// Builds the release programs with the benches in and lets those do it.
#[cfg(not(feature = "bench"))]
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    use crate::workspace;
    use std::process::Command;

    // What the command line holds is for the other program to judge.
    drop(args);
    let build = ["build", "--release", "--locked", "--package=p2p-cli", "--package=xtask"];
    workspace::run(workspace::cargo().args(build).args(["--features=xtask/bench", "--bins"]))?;
    let built = workspace::target_dir()?.join("release").join(workspace::exe("xtask"));
    let status = Command::new(built).args(std::env::args_os().skip(1)).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(feature = "bench")]
pub(crate) fn run(mut args: Args) -> Result<ExitCode> {
    let what = args.word().unwrap_or_default();
    match what.as_str() {
        "files" => files::run(args)?,
        "folders" => folders::run(args)?,
        "gossip" => gossip::run(args)?,
        "gossip-node" => processes::node(args)?,
        "log" => log::run(args)?,
        "shares" => shares::run(args)?,
        "startup" => startup::run(args)?,
        "startup-probe" => startup::probe(args)?,
        "swarm" => swarm::run(args)?,
        _ => {
            anyhow::bail!("bench what? files, folders, gossip, log, shares, startup, startup-probe or swarm")
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The program `p2p` that was built beside this one, in the same profile.
#[cfg(feature = "bench")]
fn program() -> Result<std::path::PathBuf> {
    use anyhow::{Context, ensure};

    let this = std::env::current_exe().context("where this program is")?;
    let path = this.with_file_name(crate::workspace::exe("p2p"));
    ensure!(path.is_file(), "{} is not there: run `cargo xtask bench` to build it", path.display());
    ensure!(!cfg!(debug_assertions), "this is a debug build: its numbers mean nothing");
    Ok(path)
}

/// A file of random bytes, the same ones for the same size.
#[cfg(feature = "bench")]
fn make_source(folder: &std::path::Path, size: u64) -> Result<std::path::PathBuf> {
    use std::io::Write;

    use anyhow::Context;

    use crate::random::Random;

    let path = folder.join("source.bin");
    let mut file = std::fs::File::create(&path).with_context(|| path.display().to_string())?;
    let (mut random, mut left, mut buffer) = (Random::new(size), size, vec![0; 1 << 20]);
    while left > 0 {
        random.fill(&mut buffer);
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        file.write_all(&buffer[..n])?;
        left -= n as u64;
    }
    file.sync_all()?;
    Ok(path)
}

/// A folder of its own on the disk of the target directory; gone with the value.
#[cfg(feature = "bench")]
struct Scratch(std::path::PathBuf);

#[cfg(feature = "bench")]
impl Scratch {
    fn new(name: &str) -> Result<Self> {
        use anyhow::Context;

        let this = std::env::current_exe().context("where this program is")?;
        let target = this.parent().and_then(std::path::Path::parent).context("a folder of cargo's")?;
        let path = target.join("bench").join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

#[cfg(feature = "bench")]
impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}
