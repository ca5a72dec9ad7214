//! `cargo xtask tidy`: the rules of this repository that no compiler checks.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::args::Args;
use crate::workspace::{self, LEAVES};

/// The crates that must stay free of sockets, clocks and runtimes.
const SANS_IO: [&str; 2] = ["p2p-peers", "p2p-gossip"];
/// What must not be in the dependency trees of those.
const NOT_IN_CORES: [&str; 8] =
    ["tokio", "tokio-util", "mio", "socket2", "rustls", "tokio-rustls", "aws-lc-rs", "async-std"];
/// The largest tracked file, bytes.
const LARGEST_FILE: u64 = 512 * 1024;
/// Home directories and the like: where a path on somebody's machine begins.
const MACHINE_ROOTS: [&str; 4] = ["home", "root", "Users", "work"];

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    args.finish()?;
    let metadata = workspace::metadata()?;
    let files = tracked_files()?;
    let mut faults = Vec::new();
    faults.extend(layering(&metadata)?);
    faults.extend(cores()?);
    faults.extend(crates(&metadata)?);
    for file in &files {
        faults.extend(tracked_file(file)?);
    }
    for fault in &faults {
        println!("tidy: {fault}");
    }
    println!("tidy: {} files, {} faults", files.len(), faults.len());
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Leaf crates know no crate of the workspace; the program knows the node only.
fn layering(metadata: &Value) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let names: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let dependencies = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
        for dependency in dependencies.iter().filter_map(|d| d["name"].as_str()).filter(|d| names.contains(d))
        {
            if LEAVES.contains(&name) {
                faults.push(format!("{name} depends on {dependency}: leaf crates know no other crate"));
            } else if name == "p2p-cli" && LEAVES.contains(&dependency) {
                faults.push(format!("p2p-cli depends on {dependency}: it sees p2p-node only"));
            }
        }
    }
    Ok(faults)
}

/// The sans-IO crates have no runtime in their trees and forbid themselves the clock.
fn cores() -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for core in SANS_IO {
        let tree = workspace::output(workspace::cargo().args([
            "tree",
            "--package",
            core,
            "--edges=normal,build",
            "--all-features",
            "--prefix=none",
            "--format={p}",
        ]))?;
        let in_tree: BTreeSet<&str> = tree.lines().filter_map(|l| l.split(' ').next()).collect();
        let wrong = NOT_IN_CORES.iter().filter(|n| in_tree.contains(**n));
        faults.extend(wrong.map(|n| format!("{core}: {n} is in its dependency tree")));
        let clippy = fs::read_to_string(workspace::root().join(core).join("clippy.toml")).unwrap_or_default();
        for clock in ["std::time::Instant::now", "std::time::SystemTime::now"] {
            if !clippy.contains(clock) {
                faults.push(format!("{core}/clippy.toml does not disallow {clock}"));
            }
        }
    }
    Ok(faults)
}

/// What every crate has beside its code.
fn crates(metadata: &Value) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().context("a package without a name")?;
        let folder = workspace::root().join(name);
        if !folder.join("README.md").is_file() {
            faults.push(format!("{name} has no README.md"));
        }
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).with_context(|| name.to_owned())?;
        if !manifest.contains("[lints]\nworkspace = true") {
            faults.push(format!("{name}/Cargo.toml does not take the workspace's lints"));
        }
        if LEAVES.contains(&name) || name == "p2p-node" {
            let examples = fs::read_dir(folder.join("examples")).map_or(0, Iterator::count);
            if examples == 0 {
                faults.push(format!("{name} has no example"));
            }
            let lib = fs::read_to_string(folder.join("src/lib.rs")).with_context(|| name.to_owned())?;
            if let Some(line) = code_in_lib(&lib) {
                faults.push(format!("{name}/src/lib.rs:{line}: only docs, `mod` and `pub use` belong here"));
            }
        }
    }
    Ok(faults)
}

/// The first line that is neither comment, attribute, module nor re-export.
fn code_in_lib(lib: &str) -> Option<usize> {
    let mut until: Option<char> = None;
    for (number, line) in lib.lines().enumerate() {
        let line = line.trim();
        if let Some(end) = until {
            if line.ends_with(end) {
                until = None;
            }
            continue;
        }
        if line.is_empty() || line.starts_with("//") {
            continue;
        }
        let end = if line.starts_with("#[") || line.starts_with("#![") {
            ']'
        } else if line.ends_with('{') && line.contains("mod ") {
            return Some(number + 1);
        } else if ["mod ", "pub mod ", "pub(crate) mod ", "pub use "].iter().any(|s| line.starts_with(s)) {
            ';'
        } else {
            return Some(number + 1);
        };
        if !line.ends_with(end) {
            until = Some(end);
        }
    }
    None
}

fn tracked_files() -> Result<Vec<String>> {
    let list =
        workspace::output(Command::new("git").current_dir(workspace::root()).args(["ls-files", "-z"]))?;
    let files: Vec<String> = list.split('\0').filter(|f| !f.is_empty()).map(String::from).collect();
    ensure!(!files.is_empty(), "git lists no files");
    Ok(files)
}

fn tracked_file(name: &str) -> Result<Vec<String>> {
    let path = workspace::root().join(name);
    // Deleted and not committed yet, or a link to nowhere.
    let Ok(data) = fs::metadata(&path) else { return Ok(Vec::new()) };
    if data.len() > LARGEST_FILE {
        return Ok(vec![format!("{name} has {} bytes, the limit is {LARGEST_FILE}", data.len())]);
    }
    let bytes = fs::read(&path).with_context(|| name.to_owned())?;
    let Ok(text) = String::from_utf8(bytes) else { return Ok(Vec::new()) };
    let is_rust = Path::new(name).extension().is_some_and(|e| e == "rs");
    let mut faults = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let at = number + 1;
        if let Some(root) = machine_path(line) {
            faults.push(format!("{name}:{at}: a path of somebody's machine (/{root}/…)"));
        }
        if is_rust && vague_todo(line) {
            faults
                .push(format!("{name}:{at}: a TODO names the condition that ends it (when, once, until …)"));
        }
    }
    Ok(faults)
}

/// `/home/…` and its like at the beginning of a word.
fn machine_path(line: &str) -> Option<&'static str> {
    MACHINE_ROOTS.into_iter().find(|root| {
        let begin = format!("/{root}/");
        line.match_indices(&begin).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = line[at + begin.len()..].chars().next();
            !before.is_some_and(|c| c.is_alphanumeric() || "._-~*/}>$".contains(c))
                && after.is_some_and(|c| c.is_alphanumeric() || c == '.')
        })
    })
}

fn vague_todo(line: &str) -> bool {
    let words = |text: &str| text.split(|c: char| !c.is_alphanumeric()).map(String::from).collect::<Vec<_>>();
    let Some((_, comment)) = line.split_once("//") else { return false };
    let all = words(comment);
    if all.iter().any(|w| w == "FIXME") {
        return true;
    }
    let Some(at) = all.iter().position(|w| w == "TODO") else { return false };
    !all[at..].iter().any(|w| ["when", "once", "until", "after", "if"].contains(&w.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_paths_are_found_and_others_left_alone() {
        let slash = "/";
        for root in MACHINE_ROOTS {
            assert_eq!(machine_path(&format!("see {slash}{root}{slash}me/p2p")), Some(root));
            assert_eq!(machine_path(&format!("\"{slash}{root}{slash}x\"")), Some(root));
            assert_eq!(machine_path(&format!("https://example.org{slash}{root}{slash}x")), None);
            assert_eq!(machine_path(&format!("{slash}{root}{slash}")), None, "no path, a word about one");
        }
        assert_eq!(machine_path("/etc/passwd and ~/.local/share"), None);
    }

    #[test]
    fn a_todo_without_a_condition_is_vague() {
        let todo = "TODO";
        assert!(vague_todo(&format!("    // {todo}: make this fast")));
        assert!(!vague_todo(&format!("    // {todo}: drop this once folders can be shared")));
        assert!(!vague_todo(&format!("let {todo} = 1;")));
    }

    #[test]
    fn lib_rs_holds_docs_modules_and_reexports() {
        let lib = "//! Docs.\n#![expect(a, reason = \"b\")]\n#![doc = include_str!(\n\"x\"\n)]\n\nmod a;\n\
                   #[cfg(test)]\nmod b;\npub use a::{\n    B,\n};\npub use b::C;\n";
        assert_eq!(code_in_lib(lib), None);
        assert_eq!(code_in_lib("//! Docs.\nmod a;\nfn f() {}\n"), Some(3));
        assert_eq!(code_in_lib("mod a;\n#[cfg(test)]\nmod b {\n}\n"), Some(3), "a module has its own file");
    }
}
