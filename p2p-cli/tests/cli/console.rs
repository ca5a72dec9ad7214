//! Every command of the console answers as `--json` promises, and reads well without.

use std::fs;

use serde_json::{Value, json};

use crate::util::{Node, Running, Scratch, is_hash, keys, p2p};

#[test]
fn commands_that_need_nobody_answer_as_specified() {
    let scratch = Scratch::new();
    let mut node = Node::start(&scratch.path("d"));

    let id = node.ask("id");
    keys(&id, &["event", "command", "id", "name", "addrs", "ticket"]);
    assert_eq!((&id["id"], &id["name"]), (&Value::from(&*node.id), &Value::Null));
    assert_eq!(id["addrs"], json!([node.addr]));

    let status = node.ask("status");
    keys(
        &status,
        &[
            "event",
            "command",
            "uptime_ms",
            "links",
            "known_peers",
            "messages_in",
            "messages_out",
            "refused",
            "log",
            "files_sent",
            "upnp",
        ],
    );
    keys(&status["log"], &["messages", "bytes"]);
    assert_eq!((&status["links"], &status["upnp"]), (&json!(0), &json!("off")));
    assert_eq!(status["refused"]["forged"], 0);

    assert_eq!(node.ask("peers"), json!({"event": "peers", "command": "peers", "peers": []}));
    assert_eq!(node.ask("files"), json!({"event": "files", "command": "files", "files": []}));
    assert_eq!(node.ask("debug"), json!({"event": "debug", "command": "debug", "on": true}));
    assert_eq!(node.ask("debug"), json!({"event": "debug", "command": "debug", "on": false}));

    let sent = node.ask("msg hello?");
    keys(&sent, &["event", "command", "seq", "queued_links"]);
    assert_eq!((&sent["event"], &sent["queued_links"]), (&json!("sent"), &json!(0)));

    let help = node.ask("help");
    let names: Vec<&str> =
        help["commands"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    let all = "help id status connect disconnect ban unban msg pm publish subscribe add unshare req list files refresh peers save load debug stop exit";
    assert_eq!(names.join(" "), all);
    keys(&help["commands"][0], &["name", "args", "help"]);

    assert_eq!(node.ask("stop"), json!({"event": "stopped", "command": "stop"}));
    assert_eq!(node.ask("exit"), json!({"event": "bye", "command": "exit"}));
    // Nobody has the message.
    node.event("error", |e| e["error"] == "not_taken");
    assert_eq!(node.process.exit_code(), 1);
}

#[test]
fn what_fails_answers_with_an_error() {
    let scratch = Scratch::new();
    let mut node = Node::start(&scratch.path("d"));
    let ticket = format!("req {}", node.ticket);
    let id = "0123456789abcdef".repeat(4);
    for (line, error) in [
        ("frobnicate now", "unknown_command"),
        ("msg", "usage"),
        ("add two words", "usage"),
        ("add 'open", "usage"),
        ("connect a/b", "bad_address"),
        ("connect p2p:nonsense", "bad_address"),
        ("pm abc hello", "no_such_peer"),
        ("pm xyz hello", "bad_id"),
        ("ban 12", "no_such_peer"),
        (&format!("disconnect {id}"), "no_such_peer"),
        ("unshare 12", "no_such_file"),
        (&format!("unshare {id}"), "not_shared"),
        ("req xyz", "bad_id"),
        ("req p2p:nonsense", "bad_ticket"),
        (&ticket, "no_file_in_ticket"),
        ("add does/not/exist", "not_shared"),
        ("load does/not/exist", "not_loaded"),
        ("save does/not/exist", "not_saved"),
    ] {
        let answer = node.ask(line);
        keys(&answer, &["event", "command", "error", "detail"]);
        assert_eq!(
            (&answer["event"], &answer["error"]),
            (&json!("error"), &json!(error)),
            "{line}: {answer}"
        );
    }
    let hint = node.ask("conect 127.0.0.1");
    assert!(hint["detail"].as_str().unwrap().contains("`connect`"), "{hint}");
}

#[test]
fn a_message_that_is_too_large_is_refused_before_it_is_sent() {
    let scratch = Scratch::new();
    let mut node = Node::start(&scratch.path("d"));
    let largest = node.ask(&format!("msg {}", "x".repeat(1 << 20)));
    assert_eq!(largest["event"], "sent", "{largest}");
    let answer = node.ask(&format!("msg {}", "x".repeat((1 << 20) + 1)));
    assert_eq!(answer["error"], "too_large");
    let detail = answer["detail"].as_str().unwrap();
    assert!(detail.contains("1048577") && detail.contains("1048576"), "{detail}");
    node.process.type_bytes(format!("msg {}", "x".repeat(3 << 20)).as_bytes());
    node.event("error", |e| e["error"] == "line_too_long");
    assert_eq!(node.ask("status")["messages_out"], 1);
}

#[test]
fn state_is_saved_where_told_and_loaded_again() {
    let scratch = Scratch::new();
    let mut node = Node::start(&scratch.path("d"));
    let saved = node.ask("save");
    keys(&saved, &["event", "command", "path", "peers"]);
    assert!(saved["path"].as_str().unwrap().ends_with("state.json"), "{saved}");
    let other = scratch.path("my peers.json");
    let answer = node.ask(&format!("save '{}'", other.display()));
    assert_eq!(answer["path"], other.display().to_string());
    let loaded = node.ask(&format!("load \"{}\"", other.display()));
    assert_eq!(
        loaded,
        json!({"event": "loaded", "command": "load", "path": other.display().to_string(), "peers": 0, "skipped": 0})
    );
    fs::write(&other, "no json").unwrap();
    assert_eq!(node.ask(&format!("load '{}'", other.display()))["error"], "not_loaded");
    assert_eq!(fs::read_to_string(&other).unwrap(), "no json");
}

#[test]
fn files_are_added_listed_refreshed_and_forgotten() {
    let scratch = Scratch::new();
    let mut node = Node::start_with(&scratch.path("d"), &["--no-watch"]);
    let path = scratch.file("my file", 100_000);
    let added = node.ask(&format!("add '{}'", path.display()));
    keys(&added, &["event", "command", "hash", "length", "kind", "path", "ticket"]);
    assert_eq!(
        (&added["event"], &added["length"], &added["kind"]),
        (&json!("file_added"), &json!(100_000), &json!("file"))
    );
    assert!(is_hash(&added["hash"]), "{added}");

    let files = node.ask("files");
    keys(&files["files"][0], &["hash", "length", "kind", "path", "state", "have", "rate", "sources"]);
    assert_eq!((&files["files"][0]["hash"], &files["files"][0]["state"]), (&added["hash"], &json!("shared")));

    let short = &added["hash"].as_str().unwrap()[..6];
    let gone = node.ask(&format!("unshare {short}"));
    assert_eq!(gone, json!({"event": "ok", "command": "unshare", "hash": added["hash"]}));
    assert!(path.exists());

    let content = scratch.path("d").join("content");
    fs::create_dir_all(&content).unwrap();
    fs::write(content.join("new"), "new").unwrap();
    let refreshed = node.ask("refresh");
    assert_eq!((&refreshed["added"], &refreshed["removed"]), (&json!(1), &json!(0)), "{refreshed}");
    fs::remove_file(content.join("new")).unwrap();
    let refreshed = node.ask("refresh");
    assert_eq!((&refreshed["added"], &refreshed["removed"]), (&json!(0), &json!(1)), "{refreshed}");
}

#[test]
fn people_read_no_json_and_a_pipe_no_prompt() {
    let scratch = Scratch::new();
    let mut process = Running::spawn(p2p(&scratch.path("d")));
    process.wait("an invitation", |line| line.contains("connect 127.0.0.1:").then_some(()));
    process.wait("a ticket", |line| line.contains("connect p2p:").then_some(()));
    for line in ["help", "peers", "files", "status", "conect x", "msg hello", "debug"] {
        process.type_bytes(line.as_bytes());
    }
    process.wait("a hint", |line| line.contains("did you mean `connect`").then_some(()));
    process.close_stdin();
    let said = process.rest();
    // One of the commands failed.
    assert_eq!(process.exit_code(), 1);
    assert!(
        said.iter().all(|line| !line.starts_with('{') && !line.contains('\x1b') && !line.starts_with("> ")),
        "{said:#?}"
    );
    for part in [
        "disconnect ID",
        "no peers",
        "no files",
        "links",
        "kept: there is no link yet",
        "debug messages are on",
    ] {
        assert!(said.iter().any(|line| line.contains(part)), "{part} not in {said:#?}");
    }
}
