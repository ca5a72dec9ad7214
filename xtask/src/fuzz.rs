//! `cargo xtask fuzz`: runs the targets of `fuzz/`, each for a while.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::args::Args;
use crate::workspace;

/// No input needs more; a target that takes more holds what it should not.
const RSS_LIMIT_MIB: u32 = 512;
/// Seconds that one input may take.
const SLOWEST: u32 = 1;

pub(crate) fn run(mut args: Args) -> Result<ExitCode> {
    let chosen = args.words();
    let seconds: u32 = args.parsed("--seconds", 60)?;
    args.finish()?;
    let all = targets()?;
    if let Some(unknown) = chosen.iter().find(|c| !all.contains(c)) {
        bail!("there is no target `{unknown}`; there are {}", all.join(", "));
    }
    let works = Command::new("cargo")
        .args(["+nightly", "fuzz", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    ensure!(
        works,
        "needs cargo-fuzz and a nightly toolchain: `cargo install cargo-fuzz` and `rustup toolchain install nightly`"
    );
    let mut failed = Vec::new();
    for target in all.iter().filter(|t| chosen.is_empty() || chosen.contains(t)) {
        println!("=== fuzz {target}, {seconds} s");
        if let Err(error) = run_target(target, seconds) {
            eprintln!("=== fuzz {target} failed: {error:#}");
            failed.push(target.clone());
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("fuzz: failed: {}; inputs are in fuzz/artifacts", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

fn run_target(target: &str, seconds: u32) -> Result<()> {
    let mut command = Command::new("cargo");
    command.current_dir(workspace::root()).args(["+nightly", "fuzz", "run", target]);
    if let Some(elsewhere) = std::env::var_os("CARGO_TARGET_DIR") {
        command.arg("--target-dir").arg(Path::new(&elsewhere).join("fuzz"));
    }
    command.arg("--");
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-rss_limit_mb={RSS_LIMIT_MIB}"));
    command.arg(format!("-timeout={SLOWEST}"));
    command.args(["-print_final_stats=1", "-verbosity=0"]);
    // The sanitizer keeps freed memory to find its use; by default half of what a target may have.
    command.env("ASAN_OPTIONS", "quarantine_size_mb=64");
    // The toolchain is chosen by `+nightly`; what this task was started with must not decide it again.
    for key in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "CARGO_TARGET_DIR"] {
        command.env_remove(key);
    }
    workspace::run(&mut command)
}

fn targets() -> Result<Vec<String>> {
    let folder = workspace::root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut names: Vec<String> =
        entries.filter_map(|e| Some(e.ok()?.path().file_stem()?.to_str()?.to_owned())).collect();
    names.sort_unstable();
    Ok(names)
}
