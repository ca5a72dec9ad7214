//! A `p2p --json` process: its events as they come, its commands, and its certain end.
//!
//! No process outlives the task that started it: dropping a [`Program`] kills it, so does Ctrl-C or
//! SIGTERM on the task (see [`kill_on_signal`]), and should the task itself be killed, the program sees
//! the end of its standard input and leaves.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

/// How often a condition that nobody signals (a process has ended) is looked at.
const POLL: Duration = Duration::from_millis(2);
/// Lines of output quoted when something that was waited for did not come.
const QUOTED: usize = 6;

static RUNNING: Mutex<Vec<Weak<Mutex<Child>>>> = Mutex::new(Vec::new());

/// Kills every [`Program`] and ends this process when it is interrupted or told to end.
pub(crate) fn kill_on_signal() -> Result<()> {
    ctrlc::set_handler(|| {
        for child in lock(&RUNNING).iter().filter_map(Weak::upgrade) {
            lock(&child).kill().ok();
        }
        std::process::exit(130);
    })
    .context("the handler of Ctrl-C")
}

/// One object of the program's standard output.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) at: Instant,
    pub(crate) value: Value,
}

impl Event {
    pub(crate) fn is(&self, event: &str) -> bool {
        self.value["event"] == event
    }

    pub(crate) fn str(&self, key: &str) -> &str {
        self.value[key].as_str().unwrap_or_default()
    }
}

/// All that a program has printed; lives on after the program.
#[derive(Debug, Default)]
pub(crate) struct Output {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    events: Vec<Event>,
    /// Lines that were no JSON object.
    noise: Vec<String>,
    ended: bool,
}

impl Output {
    pub(crate) fn events(&self) -> Vec<Event> {
        lock(&self.lines).events.clone()
    }

    pub(crate) fn noise(&self) -> Vec<String> {
        lock(&self.lines).noise.clone()
    }
}

pub(crate) struct Program {
    name: String,
    child: Arc<Mutex<Child>>,
    pub(crate) pid: u32,
    /// Just before the process was made.
    #[cfg(feature = "bench")]
    pub(crate) started: Instant,
    stdin: Option<ChildStdin>,
    output: Arc<Output>,
}

impl Program {
    /// Starts it. Standard error goes to `<logs>/<name>.stderr`, a copy of standard output to
    /// `<logs>/<name>.jsonl`, each line after its time in milliseconds since the start.
    pub(crate) fn start(name: &str, logs: &Path, command: &mut Command) -> Result<Self> {
        let log = |end: &str| -> Result<File> {
            let path: PathBuf = logs.join(format!("{name}.{end}"));
            File::options().create(true).append(true).open(&path).with_context(|| path.display().to_string())
        };
        let copy = log("jsonl")?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log("stderr")?);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(command, 0);
        let started = Instant::now();
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let pid = child.id();
        let child = Arc::new(Mutex::new(child));
        lock(&RUNNING).retain(|c| c.strong_count() > 0);
        lock(&RUNNING).push(Arc::downgrade(&child));
        let output = Arc::new(Output::default());
        let stdout = stdout.context("standard output was piped")?;
        let sink = Arc::clone(&output);
        thread::spawn(move || read_lines(stdout, copy, started, &sink));
        Ok(Self {
            name: name.to_owned(),
            child,
            pid,
            #[cfg(feature = "bench")]
            started,
            stdin,
            output,
        })
    }

    pub(crate) fn output(&self) -> Arc<Output> {
        Arc::clone(&self.output)
    }

    /// How many events there are so far: a place to wait from.
    pub(crate) fn mark(&self) -> usize {
        lock(&self.output.lines).events.len()
    }

    /// Waits until `found` makes something of the events after `mark`.
    pub(crate) fn wait<T>(
        &self,
        what: &str,
        mark: usize,
        limit: Duration,
        mut found: impl FnMut(&[Event]) -> Option<T>,
    ) -> Result<T> {
        let end = Instant::now() + limit;
        let mut lines = lock(&self.output.lines);
        loop {
            if let Some(it) = found(&lines.events[mark..]) {
                return Ok(it);
            }
            let left = end.saturating_duration_since(Instant::now());
            if lines.ended || left.is_zero() {
                let why = if lines.ended {
                    "the program has ended".into()
                } else {
                    format!("not within {limit:?}")
                };
                return Err(anyhow!("{}: {what}: {why}{}", self.name, last_lines(&lines)));
            }
            lines = self.output.more.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for one event after `mark`.
    pub(crate) fn event(
        &self,
        what: &str,
        mark: usize,
        limit: Duration,
        is: impl Fn(&Event) -> bool,
    ) -> Result<Event> {
        self.wait(what, mark, limit, |events| events.iter().find(|e| is(e)).cloned())
    }

    /// Types one line at the console.
    pub(crate) fn type_line(&mut self, line: &str) -> Result<()> {
        let name = &self.name;
        let stdin = self.stdin.as_mut().with_context(|| format!("{name}: standard input is closed"))?;
        stdin.write_all(format!("{line}\n").as_bytes()).with_context(|| format!("{name}: `{line}`"))
    }

    /// Types a command and waits for the one line that it ends in, whatever that says.
    pub(crate) fn ask(&mut self, line: &str, limit: Duration) -> Result<Event> {
        let mark = self.mark();
        self.type_line(line)?;
        self.answer(line, mark, limit)
    }

    /// Waits for the line that the command typed after `mark` ends in.
    pub(crate) fn answer(&self, line: &str, mark: usize, limit: Duration) -> Result<Event> {
        let word = line.split_whitespace().next().unwrap_or_default();
        self.event(&format!("the answer to `{line}`"), mark, limit, |e| e.str("command") == word)
    }

    /// As [`Program::ask`], for a command that must succeed.
    pub(crate) fn tell(&mut self, line: &str, limit: Duration) -> Result<Event> {
        let event = self.ask(line, limit)?;
        if event.is("error") || event.is("file_failed") {
            bail!("{}: `{line}` failed: {}", self.name, event.value);
        }
        Ok(event)
    }

    /// Closes standard input: the end of a console that is driven by a script.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Ends it as an operator would (SIGTERM); where there is no such thing, by the end of its input.
    pub(crate) fn terminate(&mut self) -> Result<()> {
        if cfg!(unix) {
            return self.signal("TERM");
        }
        self.close_stdin();
        Ok(())
    }

    /// Sends it a signal by name, as `kill -NAME` does.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.pid)]).status()?;
        anyhow::ensure!(status.success(), "{}: kill -{name} ended with {status}", self.name);
        Ok(())
    }

    /// Ends it with no chance to say goodbye (SIGKILL).
    pub(crate) fn kill(&self) {
        let mut child = lock(&self.child);
        child.kill().ok();
        child.wait().ok();
    }

    /// Waits for its end and for the rest of its output.
    pub(crate) fn exit(&self, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = lock(&self.child).try_wait()? {
                self.wait("the end of its output", 0, limit, |_| None::<()>).ok();
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!(
                    "{}: still running after {limit:?}{}",
                    self.name,
                    last_lines(&lock(&self.output.lines))
                );
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read_lines(stdout: ChildStdout, mut copy: File, started: Instant, sink: &Output) {
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { break };
        let at = Instant::now();
        writeln!(copy, "{:>7} {line}", (at - started).as_millis()).ok();
        let mut lines = lock(&sink.lines);
        match serde_json::from_str(&line) {
            Ok(value @ Value::Object(_)) => lines.events.push(Event { at, value }),
            _ => lines.noise.push(line),
        }
        drop(lines);
        sink.more.notify_all();
    }
    lock(&sink.lines).ended = true;
    sink.more.notify_all();
}

fn last_lines(lines: &Lines) -> String {
    let mut text = String::new();
    for event in lines.events.iter().rev().take(QUOTED).rev() {
        let mut line = event.value.to_string();
        line.truncate(line.floor_char_boundary(300));
        write!(text, "\n    {line}").expect("a String takes all");
    }
    text
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (Program, PathBuf) {
        let logs =
            std::env::temp_dir().join(format!("xtask-program-{}-{}", std::process::id(), script.len()));
        std::fs::create_dir_all(&logs).unwrap();
        (Program::start("sh", &logs, Command::new("sh").args(["-c", script])).unwrap(), logs)
    }

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn a_command_is_answered_by_the_line_that_carries_its_word() {
        let (mut p, logs) = shell(
            r#"echo '{"event":"ready"}'; echo noise; read l; echo '{"event":"message"}'; echo "{\"event\":\"sent\",\"command\":\"${l%% *}\"}"; read l"#,
        );
        p.event("ready", 0, LONG, |e| e.is("ready")).unwrap();
        assert!(p.tell("msg hello", LONG).unwrap().is("sent"));
        p.close_stdin();
        assert!(p.exit(LONG).unwrap().code().is_some());
        assert_eq!(p.output().events().len(), 3);
        assert_eq!(p.output().noise(), ["noise"]);
        std::fs::remove_dir_all(logs).unwrap();
    }

    #[test]
    fn waiting_ends_at_the_deadline_and_at_the_end_of_the_program() {
        let (p, logs) = shell("read l");
        let late = p.event("news", 0, Duration::from_millis(20), |_| true).unwrap_err().to_string();
        assert!(late.contains("not within"), "{late}");
        p.kill();
        let ended = p.event("news", 0, LONG, |_| true).unwrap_err().to_string();
        assert!(ended.contains("has ended"), "{ended}");
        std::fs::remove_dir_all(logs).unwrap();
    }

    #[test]
    fn a_dropped_program_is_dead() {
        let (p, logs) = shell("while true; do read l || sleep 1; done");
        let pid = p.pid;
        drop(p);
        let alive = Command::new("sh").args(["-c", &format!("kill -0 {pid} 2>&1")]).output().unwrap();
        assert!(!alive.status.success());
        std::fs::remove_dir_all(logs).unwrap();
    }
}
