//! Files, between consoles and with `share` and `get`.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::util::{Node, Running, Scratch, code, is_hash, keys, lines, p2p, pair, run, stderr, stdout};

fn same(a: &Path, b: &Path) {
    assert!(fs::read(a).unwrap() == fs::read(b).unwrap(), "{} and {} differ", a.display(), b.display());
}

#[test]
fn a_file_is_fetched_by_its_hash() {
    let scratch = Scratch::new();
    let (mut a, mut b) = pair(&scratch);
    let file = scratch.file("film.bin", 3_000_000);
    let added = a.ask(&format!("add {}", file.display()));
    let done = b.ask(&format!("req {}", added["hash"].as_str().unwrap()));
    keys(&done, &["event", "command", "hash", "path", "length", "ms", "sources"]);
    assert_eq!(
        (&done["event"], &done["hash"], &done["length"]),
        (&json!("file_done"), &added["hash"], &json!(3_000_000))
    );
    same(&file, Path::new(done["path"].as_str().unwrap()));
    assert_eq!(b.ask("files")["files"][0]["state"], "shared");
    let ticket = added["ticket"].as_str().unwrap();
    let to = scratch.path("my copy.bin");
    let done = b.ask(&format!("req {ticket} '{}'", to.display()));
    assert_eq!(done["path"], to.display().to_string(), "{done}");
    same(&file, &to);
    let taken = b.ask(&format!("req {ticket} '{}'", to.display()));
    keys(&taken, &["event", "command", "hash", "error", "detail"]);
    assert_eq!((&taken["event"], &taken["error"]), (&json!("file_failed"), &json!("exists")));
}

#[test]
fn fetched_files_go_where_the_content_folder_is_told_to_be() {
    let scratch = Scratch::new();
    let mut a = Node::start(&scratch.path("a"));
    let content = scratch.path("downloads");
    let mut b = Node::start_with(
        &scratch.path("b"),
        &["--no-watch".as_ref(), "--content".as_ref(), content.as_os_str()],
    );
    b.connect(&a);
    let file = scratch.file("film.bin", 100_000);
    let added = a.ask(&format!("add {}", file.display()));
    b.ask(&format!("req {}", added["hash"].as_str().unwrap()));
    same(&file, &content.join("film.bin"));
    fs::write(content.join("notes.txt"), "new").unwrap();
    assert_eq!(b.ask("refresh")["added"], 1);
}

#[test]
fn what_is_put_into_content_is_shared_by_itself_until_it_is_unshared() {
    let scratch = Scratch::new();
    let data = scratch.path("d");
    let mut node = Node::start(&data);
    fs::create_dir_all(data.join("content")).unwrap();
    fs::write(data.join("content/notes.txt"), "notes").unwrap();
    let told = node.event("notice", |e| e["text"].as_str().unwrap().starts_with("notes.txt is shared as "));
    let hash = told["text"].as_str().unwrap().rsplit_once(' ').unwrap().1.to_owned();
    let unshare = |hash: &str| run(p2p(&data).args(["--json", "unshare", hash]));
    let output = unshare(&hash);
    assert_eq!(code(&output), 2, "a node runs there: {}", stdout(&output));
    node.ask("exit");
    assert_eq!(node.process.exit_code(), 0);
    let output = unshare(&hash[..8]);
    assert_eq!(lines(&output), [json!({"event": "ok", "command": "unshare", "hash": hash})]);
    let output = unshare(&hash);
    assert_eq!(
        (code(&output), &lines(&output)[0]["error"]),
        (3, &json!("not_shared")),
        "{}",
        stderr(&output)
    );
    let mut node = Node::start_with(&data, &["--no-watch"]);
    assert_eq!(node.ask("refresh")["added"], 0);
    assert_eq!(node.ask("files")["files"], json!([]));
    assert!(data.join("content/notes.txt").exists());
}

/// A running `p2p share`, and what it said of the file.
fn share(scratch: &Scratch, file: &Path) -> (Running, Value) {
    let mut command = p2p(&scratch.path("giver"));
    command.args(["--json", "share"]).arg(file);
    let mut process = Running::spawn(command);
    let added = process.wait("file_added", |line| line.contains("file_added").then(|| line.to_owned()));
    (process, serde_json::from_str(&added).unwrap())
}

fn get(scratch: &Scratch, data: &str) -> Command {
    let mut command = p2p(&scratch.path(data));
    command.args(["--json", "get"]);
    command
}

#[test]
fn share_and_get_hand_over_a_file() {
    let scratch = Scratch::new();
    let file = scratch.file("film.bin", 5_000_000);
    let (mut giver, added) = share(&scratch, &file);
    keys(&added, &["event", "command", "hash", "length", "kind", "path", "ticket"]);
    assert_eq!((&added["command"], &added["length"]), (&json!("share"), &json!(5_000_000)));
    assert!(is_hash(&added["hash"]), "{added}");
    let ticket = added["ticket"].as_str().unwrap();

    let out = scratch.path("out.bin");
    let output = run(get(&scratch, "taker").arg(ticket).arg("-o").arg(&out));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let said = lines(&output);
    let done = said.last().unwrap();
    keys(done, &["event", "command", "hash", "path", "length", "ms", "sources"]);
    assert_eq!((&done["event"], &done["command"]), (&json!("file_done"), &json!("get")));
    assert_eq!(done["path"], out.display().to_string());
    for progress in said.iter().filter(|line| line["event"] == "file_progress") {
        keys(progress, &["event", "hash", "done", "length", "sources", "rate"]);
    }
    same(&file, &out);

    // Nothing is overwritten.
    let output = run(get(&scratch, "taker").arg(ticket).arg("-o").arg(&out));
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert_eq!(lines(&output).last().unwrap()["error"], "exists");

    // Into a directory, and without -o, it takes the ticket's name.
    let folder = scratch.path("folder");
    fs::create_dir(&folder).unwrap();
    let output = run(get(&scratch, "other").arg(ticket).current_dir(&folder));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    same(&file, &folder.join("film.bin"));

    giver.close_stdin();
    assert_eq!(giver.exit_code(), 0, "{}", giver.log());
}

#[test]
fn people_see_hash_ticket_and_where_the_file_is() {
    let scratch = Scratch::new();
    let file = scratch.file("film.bin", 100);
    let mut command = p2p(&scratch.path("giver"));
    command.arg("share").arg(&file);
    let mut giver = Running::spawn(command);
    let ticket = giver.wait("a ticket", |line| Some(line.trim().strip_prefix("ticket")?.trim().to_owned()));
    let out = scratch.path("out.bin");
    let output = run(p2p(&scratch.path("taker")).arg("get").arg(&ticket).arg("-o").arg(&out));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("out.bin (100 B) is here"), "{}", stdout(&output));
    // Without --json the end of input does not end it; an interrupt does, well.
    giver.close_stdin();
    #[cfg(unix)]
    {
        giver.signal(nix::sys::signal::Signal::SIGINT);
        assert_eq!(giver.exit_code(), 0, "{}", giver.log());
    }
}

#[test]
fn what_nobody_has_is_exit_3() {
    let scratch = Scratch::new();
    let hash = "0123456789abcdef".repeat(4);
    let output =
        run(get(&scratch, "taker").args([&hash, "--timeout", "1"]).arg("-o").arg(scratch.path("out")));
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    let said = lines(&output);
    let failed = said.last().unwrap();
    keys(failed, &["event", "command", "hash", "error", "detail"]);
    assert_eq!((&failed["event"], &failed["command"]), (&json!("file_failed"), &json!("get")));
    assert_eq!((&failed["hash"], &failed["error"]), (&json!(hash), &json!("not_found")));
    assert!(!scratch.path("out").exists());
}

#[cfg(unix)]
#[test]
fn an_interrupted_get_is_exit_130_and_leaves_nothing() {
    let scratch = Scratch::new();
    let folder = scratch.path("folder");
    fs::create_dir(&folder).unwrap();
    let mut command = get(&scratch, "taker");
    command.arg("0123456789abcdef".repeat(4)).arg("-o").arg(folder.join("out")).args(["-v"]);
    let mut taker = Running::spawn(command);
    // It says nothing while it looks; the data directory shows that it has come so far.
    let until = std::time::Instant::now() + crate::util::DEADLINE;
    while !taker.log().contains("node started") {
        assert!(std::time::Instant::now() < until, "{}", taker.log());
        std::thread::yield_now();
    }
    taker.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(taker.exit_code(), 130, "{}", taker.log());
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn a_path_that_is_not_there_is_not_shared() {
    let scratch = Scratch::new();
    let output = run(p2p(&scratch.path("d")).args(["--json", "share"]).arg(scratch.path("none")));
    assert_eq!(code(&output), 1);
    let said = lines(&output);
    assert_eq!((&said[0]["command"], &said[0]["error"]), (&json!("share"), &json!("not_shared")));
    assert!(stderr(&output).contains("none"), "{}", stderr(&output));
}
