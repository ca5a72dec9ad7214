//! The terminal as it was found. The line editor switches it to raw mode; a program that leaves in the
//! middle of a line must switch it back.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::time::Duration;

/// What is written last may take this long: a terminal that takes nothing more must not keep the program.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A line is being typed: the terminal is the editor's.
pub(crate) static TYPING: AtomicBool = AtomicBool::new(false);

#[cfg(unix)]
pub(crate) use unix::{is_gone, remember, stdin_is_pipe};

#[cfg(not(unix))]
pub(crate) use other::{is_gone, remember, stdin_is_pipe};

#[cfg(not(unix))]
use other::give_back;
#[cfg(unix)]
use unix::give_back;

/// Gives the terminal back as it was found, if it was remembered. What fails here has nobody left to be told.
pub(crate) fn restore() {
    last_words(give_back);
}

/// Writes something to a terminal, or whatever it is, at the end of the program, as long as [`LAST_WORDS`] at most.
pub(crate) fn last_words(write: impl FnOnce() + Send + 'static) {
    let (tell, written) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        write();
        tell.send(()).ok();
    });
    written.recv_timeout(LAST_WORDS).ok();
}

#[cfg(unix)]
mod unix {
    use std::io::{self, Write as _};
    use std::sync::atomic::Ordering;
    use std::sync::{Mutex, PoisonError};

    use nix::errno::Errno;
    use nix::sys::stat::{SFlag, fstat};
    use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};

    static FOUND: Mutex<Option<Termios>> = Mutex::new(None);

    pub(crate) fn remember() {
        *FOUND.lock().unwrap_or_else(PoisonError::into_inner) = tcgetattr(io::stdin()).ok();
    }

    /// Does nothing where nothing was remembered.
    pub(super) fn give_back() {
        let Some(found) = FOUND.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        if super::TYPING.load(Ordering::SeqCst) {
            // The editor turned bracketed paste on, and what was typed so far stands on a line of its own.
            let mut stdout = io::stdout().lock();
            let _ = stdout.write_all(b"\x1b[?2004l\n").and_then(|()| stdout.flush());
        }
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &found);
    }

    /// Whether this is what a terminal says that is gone.
    pub(crate) fn is_gone(error: &io::Error) -> bool {
        error.raw_os_error() == Some(Errno::EIO as i32)
    }

    /// Whether somebody holds the other end of standard input. A terminal, a file and the null device do
    /// not count: their end says nothing about the one who started the program.
    pub(crate) fn stdin_is_pipe() -> bool {
        fstat(io::stdin()).is_ok_and(|stat| {
            let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
            kind == SFlag::S_IFIFO || kind == SFlag::S_IFSOCK
        })
    }
}

#[cfg(not(unix))]
mod other {
    use std::io::IsTerminal as _;

    /// The console host gives the shell its own mode back.
    pub(crate) const fn remember() {}

    pub(super) const fn give_back() {}

    pub(crate) const fn is_gone(_error: &std::io::Error) -> bool {
        false
    }

    /// The nearest there is without asking the system.
    pub(crate) fn stdin_is_pipe() -> bool {
        !std::io::stdin().is_terminal()
    }
}

/// Columns of the terminal that standard output is; 80 where it is none.
pub(crate) fn columns() -> usize {
    console::Term::stdout().size_checked().map_or(80, |(_, columns)| usize::from(columns))
}
