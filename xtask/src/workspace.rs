//! Where things are, and how cargo is called.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The crates that know no other crate of the workspace.
pub(crate) const LEAVES: [&str; 5] = ["p2p-wire", "p2p-peers", "p2p-gossip", "p2p-files", "p2p-upnp"];

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in the workspace's folder").to_path_buf()
}

/// `cargo`, the one that runs this task if there is one, in the root of the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// `cargo metadata` without the dependencies.
pub(crate) fn metadata() -> Result<Value> {
    let out = output(cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    serde_json::from_str(&out).context("cargo metadata printed no JSON")
}

/// Where cargo builds.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let metadata = metadata()?;
    let dir = metadata["target_directory"].as_str().context("cargo metadata names no target directory")?;
    Ok(PathBuf::from(dir))
}

/// Runs a command whose output is read, not shown.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command.stderr(Stdio::inherit()).output().with_context(|| format!("{command:?}"))?;
    ensure!(out.status.success(), "{command:?} ended with {}", out.status);
    String::from_utf8(out.stdout).with_context(|| format!("{command:?} printed no UTF-8"))
}

/// Runs a command whose output is shown as it comes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// The program `p2p`: the one at this path, or else a release build of it, made now.
pub(crate) fn p2p(built: Option<String>) -> Result<PathBuf> {
    if let Some(path) = built {
        return Ok(PathBuf::from(path));
    }
    run(cargo().args(["build", "--release", "--locked", "--package", "p2p-cli", "--bin", "p2p"]))?;
    Ok(target_dir()?.join("release").join(exe("p2p")))
}

/// The file name of a program on this system.
pub(crate) fn exe(name: &str) -> String {
    format!("{name}{}", std::env::consts::EXE_SUFFIX)
}
