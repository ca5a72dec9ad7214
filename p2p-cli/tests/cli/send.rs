//! One message by `p2p send` or through a pipe: it waits for a link, and says why there is none.

use std::fs::{self, File};
use std::path::Path;
use std::process::Output;

use p2p_node::Ticket;
use serde_json::json;

use crate::util::{Node, Running, Scratch, code, lines, p2p, run, stderr};

/// An address where nobody listens.
fn closed() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn send(data: &Path, connect: &[&str], args: &[&str]) -> Output {
    let mut command = p2p(data);
    for target in connect {
        command.args(["--connect", target]);
    }
    run(command.arg("send").args(args))
}

/// A console that reads these lines from a pipe.
fn piped(scratch: &Scratch, connect: &str, script: &str) -> Output {
    let input = scratch.path("script");
    fs::write(&input, script).unwrap();
    let mut command = p2p(&scratch.path("piped"));
    run(command.args(["--json", "--connect", connect]).stdin(File::open(&input).unwrap()))
}

#[test]
fn why_nobody_was_reached_is_told_before_the_deadline() {
    let scratch = Scratch::new();
    let (a, b) = (Node::start(&scratch.path("a")), Node::start(&scratch.path("b")));
    let mut mixed: Ticket = b.ticket.parse().unwrap();
    mixed.id = a.ticket.parse::<Ticket>().unwrap().id;
    let (closed, mixed) = (closed(), mixed.to_string());
    let refused = format!("{closed}: ");
    for (connect, why) in [
        (vec![&*closed], vec![&*refused]),
        (vec!["nohost.invalid"], vec!["nohost.invalid: "]),
        (vec![&*mixed], vec!["identity mismatch", &a.id[..10], &b.id[..10]]),
        (vec![&*mixed, &*closed], vec!["identity mismatch", &*refused]),
    ] {
        let output = send(&scratch.path("c"), &connect, &["hi"]);
        let said = stderr(&output);
        // 4 would be the deadline.
        assert_eq!(code(&output), 1, "{said}");
        assert!(
            said.starts_with("p2p: no peer was reached: ") && why.iter().all(|part| said.contains(part)),
            "{said}"
        );
    }
}

#[test]
fn a_known_peer_is_reached_though_the_one_named_is_gone() {
    let scratch = Scratch::new();
    let mut node = Node::start(&scratch.path("node"));
    for (connect, text) in [(node.addr.clone(), "first"), (closed(), "second")] {
        let output = send(&scratch.path("mouth"), &[&connect], &[text]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        node.event("message", |m| m["text"] == *text);
    }
}

#[test]
fn a_named_host_that_is_gone_is_nobody_else_to_wait_for() {
    let scratch = Scratch::new();
    let node = Node::start(&scratch.path("node"));
    let (_, port) = node.addr.rsplit_once(':').unwrap();
    let host = format!("localhost:{port}");
    let output = send(&scratch.path("mouth"), &[&host], &["first"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    drop(node);
    // It is in the table of peers now. 4 would be the deadline.
    let output = send(&scratch.path("mouth"), &[&host], &["second"]);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(stderr(&output).contains("no peer was reached: "), "{}", stderr(&output));
}

#[test]
fn the_start_of_an_id_is_enough_though_nobody_was_known_before_the_link() {
    let scratch = Scratch::new();
    let mut node = Node::start(&scratch.path("node"));
    let to = node.id[..8].to_owned();
    let output = send(&scratch.path("mouth"), &[&node.addr], &["hi", "--to", &to]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(node.event("message", |_| true)["private"], true);
    // What can't be an id is refused without looking for anybody.
    let output = send(&scratch.path("mouth"), &[&closed()], &["hi", "--to", "nobody"]);
    assert_eq!(code(&output), 2, "{}", stderr(&output));
}

#[test]
fn nothing_and_too_much_are_refused_with_what_to_do() {
    let scratch = Scratch::new();
    let node = Node::start(&scratch.path("node"));
    let data = scratch.path("mouth");
    // Standard input is the null device.
    for text in ["", "-"] {
        let output = send(&data, &[&node.addr], &[text]);
        assert_eq!(code(&output), 2);
        assert!(stderr(&output).contains("empty"), "{}", stderr(&output));
    }
    let large = File::open(scratch.file("large", 3 << 20)).unwrap();
    let output = run(p2p(&data).args(["--connect", &node.addr, "send", "-"]).stdin(large));
    assert_eq!(code(&output), 2);
    let said = stderr(&output);
    assert!(said.contains("`p2p share`") && !said.contains("`add`"), "{said}");
}

#[cfg(unix)]
#[test]
fn one_interrupt_ends_it_while_it_reads() {
    let scratch = Scratch::new();
    let mut command = p2p(&scratch.path("d"));
    command.args(["send", "-"]);
    let mut process = Running::spawn(command);
    // More than a pipe holds: once it is written, the program reads.
    process.type_bytes(&vec![b'x'; 1 << 20]);
    process.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(process.exit_code(), 130);
}

#[test]
fn a_piped_command_waits_for_the_link_that_is_named() {
    let scratch = Scratch::new();
    let mut node = Node::start(&scratch.path("node"));
    let output = piped(&scratch, &node.addr, "msg early\n");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let said = lines(&output);
    assert!(said.iter().any(|line| line["command"] == "msg" && line["queued_links"] == 1), "{said:?}");
    node.event("message", |m| m["text"] == "early");
}

#[test]
fn a_pipe_whose_link_does_not_come_or_whose_command_fails_ends_in_failure() {
    let scratch = Scratch::new();
    let output = piped(&scratch, &closed(), "msg kept\n");
    let said = lines(&output);
    assert_eq!(code(&output), 1, "{said:?}");
    let at = |word: &str| said.iter().position(|line| line["error"] == *word || line["command"] == *word);
    assert!(at("no_link") < at("msg") && at("no_link").is_some(), "{said:?}");
    assert_eq!(said.last(), Some(&json!({"event": "bye", "command": "exit"})));
    // The link is one thing that failed; no command is to blame for the message.
    let wrong = "1 command failed; nobody is known to have taken";
    assert!(stderr(&output).contains(wrong), "{}", stderr(&output));

    // What was kept goes out with the first link, in a later run too.
    let mut node = Node::start(&scratch.path("node"));
    let mut again = Node::start_with(&scratch.path("piped"), &["--connect", &node.addr]);
    node.event("message", |m| m["text"] == "kept");
    again.ask("exit");
    assert_eq!(again.process.exit_code(), 0);
    let output = piped(&scratch, &node.addr, &format!("connect {}\nexit\n", closed()));
    assert_eq!(code(&output), 1, "{}", stderr(&output));
}

/// Large messages are asked for: whoever is gone at the end of input is not asked.
#[test]
fn a_pipe_ends_when_its_large_messages_have_left_and_send_too() {
    let scratch = Scratch::new();
    let mut node = Node::start(&scratch.path("node"));
    let filler = "x".repeat(600_000);
    let script: String = (0..12).map(|n| format!("msg {n} {filler}\n")).collect();
    let output = piped(&scratch, &node.addr, &script);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    for n in 0..12 {
        let text = node.event("message", |_| true)["text"].as_str().unwrap().to_owned();
        assert!(text.starts_with(&format!("{n} ")), "message {n}: {}", &text[..10]);
    }
    let text = scratch.path("text");
    fs::write(&text, &filler).unwrap();
    let mut command = p2p(&scratch.path("sender"));
    command.args(["--connect", &node.addr, "send", "-"]);
    let output = run(command.stdin(File::open(&text).unwrap()));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    node.event("message", |m| m["text"] == *filler);
}

/// A data directory restored from an old copy: numbers that were used since are not used again.
#[test]
fn a_restored_directory_loses_no_message() {
    let scratch = Scratch::new();
    let mut node = Node::start(&scratch.path("node"));
    let (first, copy) = (scratch.path("first"), scratch.path("copy"));
    let mut says = |data: &Path, text: &str| {
        let output = send(data, &[&node.addr], &[text]);
        assert_eq!(code(&output), 0, "{text}: {}", stderr(&output));
        node.event("message", |m| m["text"] == text);
    };
    says(&first, "s1");
    let copied = std::process::Command::new("cp").arg("-r").args([&first, &copy]).status().unwrap();
    assert!(copied.success());
    for text in ["s2", "s3"] {
        says(&first, text);
    }
    for text in ["o1", "o2", "o3"] {
        says(&copy, text);
    }
}

#[test]
fn a_pipe_waits_for_the_receipts_it_asked_for() {
    let scratch = Scratch::new();
    let node = Node::start(&scratch.path("node"));
    // Nobody is there who has this key.
    let absent = "79b5562e8fe654f94078b112e8a98ba7901f853ae695bed7e0e3910bad049664";
    let output = piped(&scratch, &node.addr, &format!("pm --wait 60 {} hello\n", node.id));
    let said = lines(&output);
    assert_eq!(code(&output), 0, "{said:?}");
    let sent = said.iter().find(|line| line["event"] == "sent").unwrap();
    let receipt = json!({"event": "receipt", "seq": sent["seq"], "by": node.id});
    assert!(said.contains(&receipt), "{said:?}");
    assert_eq!(said.last(), Some(&json!({"event": "bye", "command": "exit"})));

    let script = format!("pm --wait 60 {} hello\npm --wait 1 {absent} hello\nexit\n", node.id);
    let output = piped(&scratch, &node.addr, &script);
    let said = lines(&output);
    assert_eq!(code(&output), 1, "{said:?}");
    for event in ["receipt", "no_receipt"] {
        assert_eq!(said.iter().filter(|line| line["event"] == event).count(), 1, "{said:?}");
    }
    assert!(stderr(&output).contains("1 command failed"), "{}", stderr(&output));
}

#[cfg(unix)]
#[test]
fn one_interrupt_ends_a_pipe_that_waits_for_a_receipt() {
    let scratch = Scratch::new();
    let absent = "79b5562e8fe654f94078b112e8a98ba7901f853ae695bed7e0e3910bad049664";
    let mut node = Node::start(&scratch.path("node"));
    node.ask(&format!("pm --wait 3600 {absent} hello"));
    node.process.close_stdin();
    node.process.signal(nix::sys::signal::Signal::SIGINT);
    node.event("bye", |_| true);
    assert_eq!(node.process.exit_code(), 0);
}
