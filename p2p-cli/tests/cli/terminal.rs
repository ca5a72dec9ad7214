//! The console on a terminal: a pseudo-terminal stands in for one.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
#[cfg(target_os = "linux")]
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Child;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

#[cfg(target_os = "linux")]
use nix::fcntl::OFlag;
#[cfg(target_os = "linux")]
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;

use crate::util::{DEADLINE, Node, Scratch, p2p};
#[cfg(target_os = "linux")]
use crate::util::{code, end_of};

/// `p2p` on a terminal, and whoever sits there.
struct Terminal {
    child: Child,
    keyboard: File,
    /// Kept open, so that what was said last can be read after the process has ended.
    line: OwnedFd,
    shown: Receiver<Vec<u8>>,
    screen: String,
}

impl Terminal {
    fn start(data: &Path, args: &[&str]) -> Self {
        let mut terminal = Self::open(data, args);
        // Nothing is forgotten: what connects quickly is told of before the first prompt.
        terminal.wait("a prompt", |screen| screen.contains("> ").then_some(()));
        terminal
    }

    fn open(data: &Path, args: &[&str]) -> Self {
        let size = Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let child = spawn(data, args, &pty.slave);
        let keyboard = File::from(pty.master);
        let mut output = keyboard.try_clone().unwrap();
        let (tell, shown) = sync_channel(1024);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                if tell.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keyboard, line: pty.slave, shown, screen: String::new() }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the text was shown; what came before it is forgotten.
    fn see(&mut self, text: &str) {
        let end = self.wait(&format!("{text:?}"), |screen| screen.find(text).map(|at| at + text.len()));
        self.screen.drain(..end);
    }

    /// Waits until `wanted` finds what it looks for in what was shown since.
    fn wait<T>(&mut self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = wanted(&self.screen) {
                return found;
            }
            match self.shown.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.screen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(why) => panic!("{what} was not shown ({why}): {:?}", self.screen),
            }
        }
    }

    fn mode(&self) -> Termios {
        tcgetattr(&self.line).unwrap()
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

fn spawn(data: &Path, args: &[&str], line: &OwnedFd) -> Child {
    let stdio = || line.try_clone().unwrap();
    let mut command = p2p(data);
    command.args(args).env("TERM", "xterm").stdin(stdio()).stdout(stdio()).stderr(stdio());
    command.spawn().unwrap()
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_message_does_not_break_the_line_being_typed() {
    let scratch = Scratch::new();
    let mut friend = Node::start_with(&scratch.path("friend"), &["--name", "bob"]);
    let mut terminal = Terminal::start(&scratch.path("d"), &["--connect", &friend.addr]);
    friend.event("peer_up", |_| true);
    terminal.see("+ bob");
    terminal.press("msg half a li");
    terminal.see("half a li");
    friend.ask("msg hello from bob");
    terminal.see("hello from bob\r\n> msg half a li");
    terminal.press("ne\r");
    friend.event("message", |m| m["text"] == "half a line");
    terminal.see("sent on 1 link");
    // Many at once, while lines are typed and commands run.
    for n in 0..200 {
        friend.process.type_bytes(format!("msg flood {n}").as_bytes());
        if n % 20 == 0 {
            terminal.press("status\r");
        }
    }
    let times = |screen: &str, n| screen.matches(&format!("flood {n}\r\n")).count();
    terminal.wait("every message", |screen| (0..200).all(|n| times(screen, n) > 0).then_some(()));
    assert!((0..200).all(|n| times(&terminal.screen, n) == 1), "{:?}", terminal.screen);
    terminal.press("msg last\r");
    friend.event("message", |m| m["text"] == "last");
}

#[test]
fn tab_completes_commands_peers_and_hashes() {
    let scratch = Scratch::new();
    let mut friend = Node::start(&scratch.path("friend"));
    let mut terminal = Terminal::start(&scratch.path("d"), &["--connect", &friend.addr]);
    friend.event("peer_up", |_| true);
    terminal.see("+ ");
    let short = friend.id[..10].to_owned();
    terminal.press("di\t");
    terminal.see("disconnect ");
    terminal.press(&short[..2]);
    // The console learns of a link when it is told of it: what Tab offers is there at the latest now.
    terminal.press("\t\r");
    terminal.see(&format!("{short} done"));
    let file = scratch.file("film", 10);
    terminal.press(&format!("add {}\r", file.display()));
    terminal.see("hash    ");
    terminal.see("> ");
    terminal.press("unshare \t\r");
    terminal.see("unshare: ");
}

#[test]
fn the_terminal_is_left_as_it_was_found() {
    for interrupt in [true, false] {
        let scratch = Scratch::new();
        let mut terminal = Terminal::start(&scratch.path("d"), &[]);
        let raw = terminal.mode();
        terminal.press("msg hello\r");
        terminal.see("kept: there is no link yet");
        terminal.see("> ");
        terminal.press("msg not yet se");
        terminal.see("not yet se");
        if interrupt {
            terminal.press("\x03");
        } else {
            kill(Pid::from_raw(i32::try_from(terminal.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        }
        terminal.see("\x1b[?2004l\r\n");
        assert_eq!(terminal.exit_code(), Some(0));
        let left = terminal.mode();
        assert_ne!(left.local_flags, raw.local_flags);
        assert!(left.local_flags.contains(nix::sys::termios::LocalFlags::ECHO), "{left:?}");
        let history = scratch.path("d").join("history");
        assert!(fs::read_to_string(&history).unwrap().contains("msg hello"));
        assert_eq!(fs::metadata(&history).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn what_failed_was_seen_at_a_terminal_and_is_no_failure_of_the_program() {
    let scratch = Scratch::new();
    let mut terminal = Terminal::start(&scratch.path("d"), &[]);
    terminal.press("conect x\r");
    terminal.see("did you mean");
    terminal.see("> ");
    terminal.press("exit\r");
    assert_eq!(terminal.exit_code(), Some(0));
}

#[test]
fn send_says_what_it_waits_for() {
    let scratch = Scratch::new();
    let mut alone = Terminal::open(&scratch.path("alone"), &["send", "hi"]);
    alone.see("p2p: waiting for a link…");
    let node = Node::start(&scratch.path("node"));
    let absent = "79b5562e8fe654f94078b112e8a98ba7901f853ae695bed7e0e3910bad049664";
    let send = |args: &[&str]| {
        let args = [&["--connect", &node.addr, "send", "hi", "--to"], args].concat();
        Terminal::open(&scratch.path("d"), &args)
    };
    let mut waiting = send(&[absent, "--wait", "3600"]);
    waiting.see("sent on 1 link");
    waiting.see("p2p: waiting for the receipt…");
    drop(waiting);
    // The start of an id: who it is must be told.
    send(&[&absent[..8]]).see("p2p: waiting until a neighbour tells of the recipient…");
}

#[test]
fn each_line_that_is_pasted_is_a_command() {
    let scratch = Scratch::new();
    let mut friend = Node::start(&scratch.path("friend"));
    let mut terminal = Terminal::start(&scratch.path("d"), &["--connect", &friend.addr]);
    friend.event("peer_up", |_| true);
    // As a terminal hands over what is pasted.
    terminal.press("\x1b[200~msg one\rmsg two\r\nconect x\x1b[201~\r");
    terminal.see("did you mean");
    for text in ["one", "two"] {
        assert_eq!(friend.event("message", |_| true)["text"], *text);
    }
    terminal.press("exit\r");
    assert_eq!(terminal.exit_code(), Some(0));
    let history = fs::read_to_string(scratch.path("d").join("history")).unwrap();
    assert!(history.contains("msg one\nmsg two\nconect x\n"), "{history}");
}

/// `p2p` on a terminal that nobody looks at once it has shown a prompt, linked to `friend`. No other process has the terminal's
/// other end: it goes with what is returned.
#[cfg(target_os = "linux")]
fn unseen(scratch: &Scratch, friend: &mut Node) -> (Child, PtyMaster) {
    let mut keyboard = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
    grantpt(&keyboard).unwrap();
    unlockpt(&keyboard).unwrap();
    let mut options = File::options();
    options.read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits());
    let line = options.open(ptsname_r(&keyboard).unwrap()).unwrap();
    let child = spawn(&scratch.path("d"), &["--connect", &friend.addr], &line.into());
    friend.event("peer_up", |_| true);
    let (mut screen, mut buffer) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&screen).contains("> ") {
        let length = keyboard.read(&mut buffer).unwrap();
        screen.extend_from_slice(&buffer[..length]);
    }
    (child, keyboard)
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_that_is_gone_ends_it_in_good_order() {
    let scratch = Scratch::new();
    let mut friend = Node::start(&scratch.path("friend"));
    let (child, keyboard) = unseen(&scratch, &mut friend);
    drop(keyboard);
    assert_eq!(friend.event("peer_down", |_| true)["reason"], "it leaves");
    assert_eq!(code(&end_of(child)), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_that_takes_nothing_more_cannot_keep_it() {
    let scratch = Scratch::new();
    let mut friend = Node::start(&scratch.path("friend"));
    let (child, _keyboard) = unseen(&scratch, &mut friend);
    // Far more than a terminal holds.
    let text = "x".repeat(1_000);
    for _ in 0..500 {
        friend.process.type_bytes(format!("msg {text}").as_bytes());
    }
    friend.ask("status");
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGHUP).unwrap();
    assert_eq!(friend.event("peer_down", |_| true)["reason"], "it leaves");
    assert_eq!(code(&end_of(child)), 0);
}
