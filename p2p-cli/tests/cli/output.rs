//! Standard output that takes nothing more: nobody reads it, or it fails.

use std::fs::{self, File};
use std::process::{Command, Output, Stdio};

use crate::log::heard;
use crate::util::{Node, Scratch, bare, code, end_of, p2p, stderr};

/// Runs it with a standard output whose reader is gone before the first word.
fn unread(command: &mut Command) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    ended(command.stdout(writer))
}

/// As `run`, with the standard output that the command has.
fn ended(command: &mut Command) -> Output {
    end_of(command.stderr(Stdio::piped()).spawn().unwrap())
}

#[test]
fn a_reader_that_is_gone_is_no_failure() {
    let scratch = Scratch::new();
    let data = heard(&scratch);
    for args in [&["log"][..], &["--json", "log"], &["listen"], &["id"]] {
        let output = unread(p2p(&data).args(args));
        assert_eq!((code(&output), stderr(&output).as_str()), (0, ""), "{args:?}");
    }
    for word in ["man", "completions"] {
        let mut command = bare();
        command.arg(word).args((word == "completions").then_some("bash"));
        let output = unread(&mut command);
        assert_eq!((code(&output), stderr(&output).as_str()), (0, ""), "{word}");
    }
}

/// `/dev/full` is a disk without room.
#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_written_is_a_failure_and_told() {
    let scratch = Scratch::new();
    let data = heard(&scratch);
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for args in [&["log"][..], &["--json", "log"], &["listen"], &["--json", "listen"], &["id"], &[]] {
        let output = ended(p2p(&data).args(args).stdout(full()));
        let said = stderr(&output);
        assert_eq!(code(&output), 1, "{args:?}: {said}");
        // Once, however much was to be written.
        assert_eq!(said.matches("standard output: No space left").count(), 1, "{args:?}: {said}");
    }
}

#[test]
fn a_script_is_run_to_its_end_though_nobody_reads_the_answers() {
    let scratch = Scratch::new();
    let mut node = Node::start(&scratch.path("node"));
    let script = scratch.path("script");
    let piped = |data: &str, last: &str| {
        fs::write(&script, format!("msg one\nstatus\n{last}\n")).unwrap();
        let mut command = p2p(&scratch.path(data));
        command.args(["--json", "--connect", &node.addr]).stdin(File::open(&script).unwrap());
        unread(&mut command)
    };
    let (well, failing) = (piped("a", "msg two"), piped("b", "frobnicate"));
    assert_eq!((code(&well), stderr(&well).as_str()), (0, ""));
    assert_eq!(code(&failing), 1);
    assert!(stderr(&failing).contains("1 command failed"), "{}", stderr(&failing));
    for text in ["one", "two", "one"] {
        node.event("message", |m| m["text"] == *text);
    }
}
