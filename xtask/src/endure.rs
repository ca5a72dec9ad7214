//! `cargo xtask endure`: minutes of attack on a node in a process of its own, on a release build.

use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::args::Args;
use crate::workspace;

pub(crate) fn run(mut args: Args) -> Result<ExitCode> {
    let only = args.word();
    args.finish()?;
    ensure!(
        cfg!(target_os = "linux"),
        "endure reads memory and CPU time from /proc, which is there on Linux"
    );
    let test = ["test", "--release", "--locked", "--package=p2p-node", "--test=hostile", "--"];
    let all = ["--include-ignored", "--nocapture", "--test-threads=1", "--skip=endurance::victim"];
    let name = only.unwrap_or_else(|| "endurance::".to_owned());
    workspace::run(workspace::cargo().args(test).args(all).arg(name))?;
    Ok(ExitCode::SUCCESS)
}
