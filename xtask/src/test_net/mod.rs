//! `cargo xtask test-net`: a network of real `p2p` processes on loopback, driven as any script would drive
//! them, through `--json`. Nothing sleeps to wait: every step waits for an event under a deadline.

mod clock;
mod hardship;
pub(crate) mod lan;
pub(crate) mod node;
mod report;
mod scenario;
mod step;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

use crate::args::Args;
pub(crate) use crate::test_net::lan::missing as no_namespaces;
use crate::test_net::scenario::Scenario;
use crate::test_net::step::play;
use crate::{program, workspace};

/// Files larger than this do not stay with the logs of a failed run.
const LARGEST_KEPT: u64 = 1 << 20;

pub(crate) fn run(mut args: Args) -> Result<ExitCode> {
    let mut again = std::env::args().skip(1).collect::<Vec<_>>();
    let hardship = args.flag("--hardship");
    let nodes: usize = args.parsed("--nodes", if hardship { 20 } else { 5 })?;
    let seed: u64 = args.parsed("--seed", 1)?;
    let stopped_for: u64 = args.parsed("--stopped", 60)?;
    let keep = args.flag("--keep-logs");
    let built = args.value("--program")?;
    let inside = args.flag("--inside");
    args.finish()?;
    ensure!((3..=50).contains(&nodes), "--nodes {nodes}: 3 to 50 make sense here");
    let target = workspace::target_dir()?;
    let program = match built {
        Some(path) => PathBuf::from(path),
        None => {
            workspace::run(workspace::cargo().args(["build", "--package", "p2p-cli", "--bin", "p2p"]))?;
            target.join("debug").join(workspace::exe("p2p"))
        }
    };
    if hardship && !inside {
        if let Some(why) = lan::missing() {
            bail!("test-net --hardship needs network namespaces: {why}");
        }
        again.push("--inside".into());
        if !again.iter().any(|a| a.starts_with("--program")) {
            let program = program.to_str().context("the program's path is no text")?;
            again.extend(["--program".into(), program.into()]);
        }
        return lan::inside(&again);
    }
    let stamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let folder = target.join("test-net").join(format!("{stamp}-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    program::kill_on_signal()?;

    println!("test-net: {nodes} nodes, seed {seed}, {}", program.display());
    let report = if hardship {
        play(hardship::STEPS, hardship::new(program, folder.clone(), nodes, stopped_for)?)
    } else {
        play(scenario::STEPS, Scenario::new(program, folder.clone(), nodes, seed))
    };
    report.print_summary();
    if report.all_passed() && !keep {
        fs::remove_dir_all(&folder).ok();
    } else {
        remove_large_files(&folder);
        let shape = if hardship { " --hardship" } else { "" };
        println!("logs: {} (repeat with{shape} --seed {seed} --nodes {nodes})", folder.display());
    }
    println!("{}", report.verdict());
    Ok(if report.all_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn remove_large_files(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.metadata() {
            Ok(data) if data.is_dir() => remove_large_files(&path),
            Ok(data) if data.len() > LARGEST_KEPT && data.is_file() => drop(fs::remove_file(&path)),
            _ => {}
        }
    }
}
