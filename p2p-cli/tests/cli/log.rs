//! The log of a node that does not run, whole and damaged.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::util::{Node, Running, Scratch, code, lines, p2p, run, stderr, stdout};

/// What a node leaves that has heard `one`, `two` and `three`.
pub(crate) fn heard(scratch: &Scratch) -> PathBuf {
    let (mut a, mut b) = (Node::start(&scratch.path("a")), Node::start(&scratch.path("b")));
    a.connect(&b);
    for text in ["one", "two", "three"] {
        a.ask(&format!("msg {text}"));
        b.event("message", |m| m["text"] == *text);
    }
    b.ask("exit");
    assert_eq!(b.process.exit_code(), 0);
    scratch.path("b")
}

/// The one file of the log that holds messages.
fn segment(data: &Path) -> PathBuf {
    let files = fs::read_dir(data.join("log")).unwrap().map(|entry| entry.unwrap().path());
    files.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

#[test]
fn a_log_that_is_no_log_any_more_is_told_of() {
    let scratch = Scratch::new();
    let data = heard(&scratch);
    let segment = segment(&data);
    let length = usize::try_from(fs::metadata(&segment).unwrap().len()).unwrap();
    fs::copy(scratch.file("noise", length), &segment).unwrap();
    let output = run(p2p(&data).arg("log"));
    assert_eq!((code(&output), stdout(&output).as_str()), (0, ""));
    assert!(
        stderr(&output).contains("damaged") && stderr(&output).contains(".corrupt-"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn what_is_left_of_a_damaged_log_is_shown_and_the_damage_told() {
    let scratch = Scratch::new();
    let data = heard(&scratch);
    let segment = segment(&data);
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(5).position(|text| text == b"three").unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let output = run(p2p(&data).args(["--json", "log"]));
    let said = lines(&output);
    assert_eq!((code(&output), &said[0]["event"]), (0, &"warning".into()), "{said:?}");
    assert!(said[0]["text"].as_str().unwrap().contains("bytes of"), "{said:?}");
    let texts: Vec<_> = said[1..].iter().map(|message| message["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["one", "two"]);
    assert!(stderr(&output).contains("damaged"), "{}", stderr(&output));
}

#[test]
fn a_directory_without_a_log_is_an_error_and_stays_as_it_is() {
    let scratch = Scratch::new();
    let (missing, foreign) = (scratch.path("typo"), scratch.path("var"));
    // A folder of this name alone makes no data directory.
    fs::create_dir_all(foreign.join("log")).unwrap();
    for data in [&missing, &foreign] {
        let output = run(p2p(data).args(["--json", "log"]));
        assert_eq!((code(&output), &lines(&output)[0]["error"]), (2, &"no_log".into()));
        let said = stderr(&output);
        assert!(said.contains("no message log") && said.contains("--data"), "{said}");
    }
    assert!(!missing.exists());
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1);
}

#[test]
fn who_asks_for_a_position_is_told_what_was_dropped_behind_it() {
    let scratch = Scratch::new();
    let data = heard(&scratch);
    // Each start begins a part of its own, and parts are dropped whole.
    let oldest = segment(&data);
    let (mut a, mut b) = (Node::start(&scratch.path("a")), Node::start(&data));
    a.connect(&b);
    a.ask("msg four");
    b.event("message", |m| m["text"] == "four");
    b.ask("exit");
    assert_eq!(b.process.exit_code(), 0);
    fs::remove_file(&oldest).unwrap();

    let log = |args: &[&str]| run(p2p(&data).args(args));
    for (since, told) in [
        ("0", ""),
        ("1", "p2p: messages 1 to 3 are in the log no longer\n"),
        ("3", "p2p: message 3 is in the log no longer\n"),
        ("4", ""),
        ("99", ""),
    ] {
        let output = log(&["log", "--since", since]);
        assert_eq!((code(&output), stderr(&output).as_str()), (0, told), "--since {since}");
        assert_eq!(
            stdout(&output).matches("> four\n").count(),
            usize::from(since != "99"),
            "--since {since}"
        );
    }
    let said = lines(&log(&["--json", "log", "--since", "2"]));
    assert_eq!(said[0], json!({"event": "lagged", "missed": 2, "others": 0, "from_pos": 4}));
    assert_eq!((said[1]["text"].as_str(), said.len()), (Some("four"), 2), "{said:?}");

    let four = format!("{}> four", &a.id[..10]);
    for (since, first) in [("1", "! messages 1 to 3 are in the log no longer"), ("0", &four)] {
        let mut command = p2p(&data);
        command.args(["listen", "--since", since]);
        let mut ear = Running::spawn(command);
        let told = |line: &str| (line.starts_with('!') || line == four).then(|| line.to_owned());
        assert_eq!(ear.wait("the log", told), first);
    }
}

/// Who may write everywhere (root) tests less.
#[cfg(unix)]
#[test]
fn a_copy_that_cannot_be_written_is_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let scratch = Scratch::new();
    let data = heard(&scratch);
    let (log, lock) = (data.join("log"), data.join("lock"));
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for locked in [true, false] {
        if locked {
            mode(&lock, 0o400);
        } else {
            fs::remove_file(&lock).unwrap();
        }
        mode(&log, 0o500);
        mode(&data, 0o500);
        let output = run(p2p(&data).args(["--json", "log"]));
        mode(&data, 0o700);
        mode(&log, 0o700);
        assert_eq!((code(&output), stderr(&output).as_str()), (0, ""), "with a lock: {locked}");
        assert_eq!(lines(&output).len(), 3);
    }
}
