//! A scratch directory, the program with everything local, and waiting for what it says. Nothing here
//! sleeps; every wait has a deadline.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take on a loaded machine before a test gives up on it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A directory for one test, gone with it.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file with `length` bytes that no compression or repetition makes equal to another's.
    pub(crate) fn file(&self, name: &str, length: usize) -> PathBuf {
        let mut state = length as u64 + 1;
        let next = |state: &mut u64| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        let bytes: Vec<u8> = (0..length).map(|_| next(&mut state)).collect();
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// `p2p` on loopback and free ports with its data under `data`; nothing of the environment counts.
pub(crate) fn p2p(data: &Path) -> Command {
    let mut command = bare();
    command.args(["--port", "0", "--file-port", "0", "--no-upnp", "--no-lan", "--host", "127.0.0.1"]);
    command.arg("--data").arg(data);
    command
}

/// `p2p` without options and without what the environment would tell it.
pub(crate) fn bare() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2p"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("P2P_") {
            command.env_remove(name);
        }
    }
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// Runs to the end and returns everything.
pub(crate) fn run(command: &mut Command) -> Output {
    end_of(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// Waits for the end and returns everything that was piped.
pub(crate) fn end_of(child: Child) -> Output {
    let id = child.id();
    let (tell, ended) = sync_channel(1);
    std::thread::spawn(move || tell.send(child.wait_with_output()));
    match ended.recv_timeout(DEADLINE) {
        Ok(output) => output.unwrap(),
        Err(_) => panic!("process {id} did not end"),
    }
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The lines of standard output, each a JSON object and nothing else.
pub(crate) fn lines(output: &Output) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    stdout(output).lines().map(parse).collect()
}

/// A running `p2p`, killed when dropped.
pub(crate) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Receiver<String>,
    /// Read and not yet asked for.
    backlog: Vec<String>,
    stderr: PathBuf,
}

impl Running {
    pub(crate) fn spawn(mut command: Command) -> Self {
        let stderr =
            tempfile::Builder::new().suffix(".stderr").tempfile().unwrap().into_temp_path().keep().unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&stderr).unwrap());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (tell, said) = sync_channel(4096);
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let Ok(line) = line else { return };
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Self { stdin: child.stdin.take(), child, said, backlog: Vec::new(), stderr }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn type_bytes(&mut self, line: &[u8]) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(line).and_then(|()| stdin.write_all(b"\n")).and_then(|()| stdin.flush()).unwrap();
    }

    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// The first line, said or still to come, that `wanted` makes something of; others stay for later.
    pub(crate) fn wait<T>(&mut self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        let until = Instant::now() + DEADLINE;
        if let Some((at, found)) = self.backlog.iter().enumerate().find_map(|(i, l)| Some((i, wanted(l)?))) {
            self.backlog.remove(at);
            return found;
        }
        loop {
            match self.said.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => match wanted(&line) {
                    Some(found) => return found,
                    None => self.backlog.push(line),
                },
                Err(why) => {
                    panic!("waited for {what} ({why}); said {:#?}\nlog:\n{}", self.backlog, self.log())
                }
            }
        }
    }

    /// Everything said and not asked for, to the end of output.
    pub(crate) fn rest(&mut self) -> Vec<String> {
        let until = Instant::now() + DEADLINE;
        let mut rest = std::mem::take(&mut self.backlog);
        loop {
            match self.said.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => rest.push(line),
                Err(RecvTimeoutError::Disconnected) => return rest,
                Err(RecvTimeoutError::Timeout) => panic!("output did not end; said {rest:#?}"),
            }
        }
    }

    /// Waits for the end.
    pub(crate) fn exit_code(&mut self) -> i32 {
        let until = Instant::now() + DEADLINE;
        // Output ends when the process does; only then is waiting for it short.
        loop {
            match self.said.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => self.backlog.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("process {} did not end; log:\n{}", self.id(), self.log())
                }
            }
        }
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    pub(crate) fn log(&self) -> String {
        let mut text = String::new();
        File::open(&self.stderr).and_then(|mut f| f.read_to_string(&mut text)).ok();
        text
    }

    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let id = nix::unistd::Pid::from_raw(i32::try_from(self.id()).unwrap());
        nix::sys::signal::kill(id, signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_file(&self.stderr).ok();
    }
}

/// A console driven through `--json`.
pub(crate) struct Node {
    pub(crate) process: Running,
    pub(crate) id: String,
    pub(crate) addr: String,
    pub(crate) ticket: String,
}

impl Node {
    pub(crate) fn start(data: &Path) -> Self {
        Self::start_with(data, &[] as &[&str])
    }

    pub(crate) fn start_with(data: &Path, args: &[impl AsRef<OsStr>]) -> Self {
        let mut command = p2p(data);
        command.arg("--json").args(args);
        let mut process = Running::spawn(command);
        let ready = process.wait("ready", json_event("ready", |_| true));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self {
            process,
            id: text(&ready["id"]),
            addr: text(&ready["listen"][0]),
            ticket: text(&ready["ticket"]),
        }
    }

    /// Types a command and waits for its answer: the line that carries its name.
    pub(crate) fn ask(&mut self, line: &str) -> Value {
        self.process.type_bytes(line.as_bytes());
        let name = line.split_whitespace().next().unwrap().to_owned();
        self.process.wait(line, move |said| {
            let value: Value = serde_json::from_str(said).expect("every line is JSON");
            (value["command"] == *name).then_some(value)
        })
    }

    /// Waits for an event.
    pub(crate) fn event(&mut self, event: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.process.wait(event, json_event(event, wanted))
    }

    pub(crate) fn connect(&mut self, other: &Self) {
        let answer = self.ask(&format!("connect {}", other.addr));
        assert_eq!(answer["event"], "connected", "{answer}");
        assert_eq!(answer["id"], *other.id, "{answer}");
    }
}

pub(crate) fn json_event(event: &str, wanted: impl Fn(&Value) -> bool) -> impl Fn(&str) -> Option<Value> {
    move |line| {
        let value: Value = serde_json::from_str(line).expect("every line is JSON");
        (value["event"] == *event && wanted(&value)).then_some(value)
    }
}

/// Two nodes, linked, each aware of it.
pub(crate) fn pair(scratch: &Scratch) -> (Node, Node) {
    let (mut a, mut b) = (Node::start(&scratch.path("a")), Node::start(&scratch.path("b")));
    a.connect(&b);
    let id = a.id.clone();
    b.event("peer_up", |e| e["id"] == *id);
    (a, b)
}

/// Asserts that an object has these keys and no others.
pub(crate) fn keys(value: &Value, expected: &[&str]) {
    let mut found: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = expected.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected, "{value}");
}

/// 64 hex digits.
pub(crate) fn is_hash(value: &Value) -> bool {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    value.as_str().is_some_and(|text| text.len() == 64 && text.bytes().all(digit))
}
