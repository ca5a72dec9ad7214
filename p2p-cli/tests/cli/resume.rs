//! Downloads that are killed and go on (faults 34), with real processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::util::{Node, Running, Scratch, p2p};

/// Bytes of the file: long enough that a few kills find it unfinished.
const LENGTH: usize = 96 << 20;

/// Kills at most; fewer when the file is complete before.
const KILLS: u64 = 8;

fn begin(data: &Path, ticket: &str, to: &Path) -> Running {
    let mut command = p2p(data);
    command.args(["--json", "get", ticket, "-o"]).arg(to);
    Running::spawn(command)
}

/// Kills a `get` some milliseconds after its first progress: bytes that were verified when it said so last, or `None`
/// when it was complete before.
fn killed(mut process: Running, after: Duration) -> Option<u64> {
    let told = |line: &str| -> Option<(String, u64)> {
        let line: Value = serde_json::from_str(line).ok()?;
        let event = line["event"].as_str()?.to_owned();
        let progress = event == "file_progress" && line["length"].as_u64().is_some();
        (progress || event.starts_with("file_done")).then(|| (event, line["done"].as_u64().unwrap_or(0)))
    };
    let (event, done) = process.wait("progress", told);
    // Not to wait for something: this is the random moment.
    std::thread::sleep(after);
    drop(process);
    (event == "file_progress").then_some(done)
}

fn whole(path: &Path, original: &Path) {
    assert!(fs::read(path).unwrap() == fs::read(original).unwrap(), "{} differs", path.display());
    let folder = fs::read_dir(path.parent().unwrap()).unwrap();
    let parts: Vec<PathBuf> =
        folder.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "part")).collect();
    assert_eq!(parts, [] as [PathBuf; 0]);
}

#[test]
fn a_download_killed_at_random_moments_ends_in_the_same_file_and_fetches_little_twice() {
    let scratch = Scratch::new();
    let mut giver = Node::start(&scratch.path("giver"));
    let original = scratch.file("film.bin", LENGTH);
    let added = giver.ask(&format!("add {}", original.display()));
    let (ticket, data) = (added["ticket"].as_str().unwrap(), scratch.path("taker"));
    let to = scratch.path("out.bin");
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let (mut random, mut before) = (seed, 0);
    for kill in 0..KILLS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let after = Duration::from_millis((random >> 33) % 60);
        let Some(done) = killed(begin(&data, ticket, &to), after) else { break };
        // What was told as verified was recorded before: only what was in flight is lost.
        assert!(done >= before, "kill {kill}: {before} bytes were verified, now {done}");
        println!("kill {kill}: {done} bytes were verified");
        before = before.max(done);
        if to.exists() {
            break;
        }
    }
    if !to.exists() {
        let mut last = begin(&data, ticket, &to);
        last.wait("the end", |line| line.contains("file_done").then_some(()));
    }
    whole(&to, &original);
}

#[test]
fn a_node_goes_on_by_itself_with_what_was_begun() {
    let scratch = Scratch::new();
    let mut giver = Node::start(&scratch.path("giver"));
    let original = scratch.file("film.bin", LENGTH);
    let added = giver.ask(&format!("add {}", original.display()));
    let (ticket, data) = (added["ticket"].as_str().unwrap(), scratch.path("taker"));
    let to = scratch.path("out.bin");
    // At 8 MB/s it takes twelve seconds, however quick the machine.
    let mut command = p2p(&data);
    command.args(["--json", "--down", "8MB", "get", ticket, "-o"]).arg(&to);
    let mut first = Running::spawn(command);
    // The first lines may come before it is known how long the file is, and then nothing has begun.
    let has_begun = |line: &str| -> Option<()> {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["event"] == "file_progress" && line["done"].as_u64() > Some(0)).then_some(())
    };
    first.wait("some of it", has_begun);
    drop(first);
    assert!(!to.exists(), "the file was complete after its first progress");
    let mut taker = Node::start(&data);
    taker.event("notice", |e| e["text"].as_str().is_some_and(|text| text.contains("going on with")));
    taker.connect(&giver);
    taker.event("notice", |e| e["text"].as_str().is_some_and(|text| text.contains("is complete")));
    whole(&to, &original);
}
