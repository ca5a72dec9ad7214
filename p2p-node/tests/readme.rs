//! The README's example is `examples/on_message.rs`, and it works.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

use std::env::consts::EXE_SUFFIX;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use p2p_node::{Event, Node, Ticket};
use tokio::time::timeout;

/// Longer than anything here takes on a slow machine; only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(30);
/// What the README promises.
const MOST_LINES: usize = 15;

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(path).unwrap().replace("\r\n", "\n")
}

/// The example from its first `use` on.
fn example() -> String {
    let text = file("examples/on_message.rs");
    text[text.find("\nuse ").unwrap() + 1..].to_owned()
}

#[test]
fn the_readme_shows_the_example_as_it_is_compiled() {
    let example = example();
    assert!(example.lines().count() <= MOST_LINES, "{} lines", example.lines().count());
    let block = format!("```rust\n{example}```\n");
    assert!(file("../README.md").contains(&block), "README.md does not hold examples/on_message.rs");
}

/// The example's program, which `cargo test` has built unless it was told to run this file alone.
fn program() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let profile = here.parent().and_then(Path::parent).unwrap();
    let program = profile.join("examples").join(format!("on_message{EXE_SUFFIX}"));
    if !program.is_file() {
        let target = profile.parent().unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "p2p-node", "--example", "on_message", "--target-dir"]);
        assert!(cargo.arg(target).status().unwrap().success());
    }
    program
}

/// Never leaves a process behind.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_hears_a_message_and_answers() {
    let mut running = Running(Command::new(program()).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let ticket: Ticket = first.rsplit(' ').next().unwrap().parse().unwrap();

    let friend = Node::builder().port(0).file_port(0).start().await.unwrap();
    let mut events = friend.events();
    friend.connect(ticket.clone()).await.unwrap();
    friend.send("hello").await.unwrap();
    let answered = async {
        loop {
            if let Event::Message(message) = events.next().await.unwrap() {
                break message;
            }
        }
    };
    let answer = timeout(DEADLINE, answered).await.expect("the example never answered");
    assert_eq!((answer.author, answer.private, answer.text()), (ticket.id, true, Some("got it")));
    assert_eq!(lines.next().unwrap().unwrap(), format!("{}: hello", friend.id().short()));
    friend.shutdown().await;
}
