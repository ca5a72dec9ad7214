//! `cargo xtask ci`: everything a change must pass, here as on the servers.

use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::args::Args;
use crate::{test_net, workspace};

type Step = (&'static str, fn() -> Result<()>);

/// In this order: what fails soonest and most often comes first. The last one's verdict is the last line.
const STEPS: [Step; 9] = [
    ("fmt", fmt),
    ("tidy", tidy),
    ("clippy", clippy),
    ("doc", doc),
    ("test", test),
    ("package", package),
    ("fuzz", fuzz),
    ("hardship", hardship),
    ("test-net", test_net),
];

/// The tests have built the program in this run.
static TESTED: AtomicBool = AtomicBool::new(false);

pub(crate) fn run(mut args: Args) -> Result<ExitCode> {
    let chosen = args.words();
    let keep_going = args.flag("--keep-going");
    args.finish()?;
    if let Some(unknown) = chosen.iter().find(|c| !STEPS.iter().any(|(name, _)| name == c)) {
        bail!("there is no step `{unknown}`");
    }
    let begin = Instant::now();
    let mut failed = Vec::new();
    let mut table = Vec::new();
    for (name, step) in STEPS.iter().filter(|(name, _)| chosen.is_empty() || chosen.iter().any(|c| c == name))
    {
        println!("=== {name}");
        if *name == "test-net" {
            print_table(&table, begin);
        }
        let at = Instant::now();
        let result = step();
        table.push((*name, result.is_ok(), at.elapsed().as_secs_f64()));
        if let Err(error) = result {
            eprintln!("=== {name} failed: {error:#}");
            failed.push(*name);
            if !keep_going {
                break;
            }
        }
    }
    if !table.iter().any(|(name, ..)| *name == "test-net") {
        print_table(&table, begin);
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("ci: failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

fn print_table(table: &[(&str, bool, f64)], begin: Instant) {
    for (name, ok, seconds) in table {
        println!("ci: {name:<10} {:<6} {seconds:>6.1} s", if *ok { "ok" } else { "FAILED" });
    }
    println!("ci: {:.1} s so far", begin.elapsed().as_secs_f64());
}

fn cargo(args: &[&str]) -> Result<()> {
    workspace::run(workspace::cargo().args(args))
}

fn fmt() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    workspace::run(workspace::cargo().current_dir(workspace::root().join("fuzz")).args(["fmt", "--check"]))
}

fn tidy() -> Result<()> {
    let this = std::env::current_exe().context("where this program is")?;
    workspace::run(Command::new(this).arg("tidy"))
}

fn clippy() -> Result<()> {
    cargo(&["clippy", "--workspace", "--all-targets", "--all-features", "--locked", "--", "-D", "warnings"])
}

fn doc() -> Result<()> {
    let mut command = workspace::cargo();
    command.env("RUSTDOCFLAGS", "-D warnings");
    command.args([
        "doc",
        "--workspace",
        "--all-features",
        "--no-deps",
        "--document-private-items",
        "--locked",
    ]);
    workspace::run(&mut command)
}

/// Unit, integration and doc tests. All features, so that dependencies are built in one shape for every step.
fn test() -> Result<()> {
    cargo(&["test", "--workspace", "--all-features", "--locked", "--no-fail-fast"])?;
    TESTED.store(true, Ordering::Relaxed);
    Ok(())
}

/// Each crate must be one that a user can pick alone from a registry.
fn package() -> Result<()> {
    cargo(&["package", "--workspace", "--no-verify", "--allow-dirty", "--locked", "--quiet"])
}

/// The fuzz targets compile. Without libFuzzer itself, which is C++ and of no use here.
fn fuzz() -> Result<()> {
    let mut command = workspace::cargo();
    command.args([
        "check",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--bins",
        "--no-default-features",
        "--locked",
    ]);
    command.arg("--target-dir").arg(workspace::target_dir()?);
    workspace::run(&mut command)
}

/// Where the kernel grants no namespaces there is no such network; it says so and is not counted as passed.
fn hardship() -> Result<()> {
    if let Some(why) = test_net::no_namespaces() {
        println!("hardship: not run: {why}");
        return Ok(());
    }
    // Longer than the pause after which a node asks before it gives others up; by hand it is 60 s.
    net(&["--hardship", "--stopped", "20"])
}

fn test_net() -> Result<()> {
    net(&[])
}

/// With the program that the tests have just been run on, if they were.
fn net(more: &[&str]) -> Result<()> {
    let this = std::env::current_exe().context("where this program is")?;
    let mut command = Command::new(this);
    command.arg("test-net").args(more);
    let built = workspace::target_dir()?.join("debug").join(workspace::exe("p2p"));
    if TESTED.load(Ordering::Relaxed) {
        ensure!(built.is_file(), "{} is not there", built.display());
        command.arg("--program").arg(built);
    }
    workspace::run(&mut command)
}
