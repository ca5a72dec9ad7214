//! The log of a node that does not run, whole and damaged.

use std::fs;
use std::path::{Path, PathBuf};

use crate::util::{Node, Scratch, code, lines, p2p, run, stderr, stdout};

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
    assert!(said[0]["text"].as_str().unwrap().contains("1 records"), "{said:?}");
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
