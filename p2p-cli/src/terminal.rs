//! The terminal as it was found. The line editor switches it to raw mode; a program that leaves in the
//! middle of a line must switch it back.

use std::sync::atomic::AtomicBool;

/// A line is being typed: the terminal is the editor's.
pub(crate) static TYPING: AtomicBool = AtomicBool::new(false);

#[cfg(unix)]
pub(crate) use unix::{remember, restore, stdin_is_pipe};

#[cfg(not(unix))]
pub(crate) use other::{remember, restore, stdin_is_pipe};

#[cfg(unix)]
mod unix {
    use std::io::Write as _;
    use std::sync::atomic::Ordering;
    use std::sync::{Mutex, PoisonError};

    use nix::sys::stat::{SFlag, fstat};
    use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};

    static FOUND: Mutex<Option<Termios>> = Mutex::new(None);

    pub(crate) fn remember() {
        *FOUND.lock().unwrap_or_else(PoisonError::into_inner) = tcgetattr(std::io::stdin()).ok();
    }

    /// Does nothing where nothing was remembered. What fails here has nobody left to be told.
    pub(crate) fn restore() {
        let Some(found) = FOUND.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        if super::TYPING.load(Ordering::SeqCst) {
            // The editor turned bracketed paste on, and what was typed so far stands on a line of its own.
            let mut stdout = std::io::stdout().lock();
            let _ = stdout.write_all(b"\x1b[?2004l\n").and_then(|()| stdout.flush());
        }
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &found);
    }

    /// Whether somebody holds the other end of standard input. A terminal, a file and the null device do
    /// not count: their end says nothing about the one who started the program.
    pub(crate) fn stdin_is_pipe() -> bool {
        fstat(std::io::stdin()).is_ok_and(|stat| {
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

    pub(crate) const fn restore() {}

    /// The nearest there is without asking the system.
    pub(crate) fn stdin_is_pipe() -> bool {
        !std::io::stdin().is_terminal()
    }
}

/// Columns of the terminal that standard output is; 80 where it is none.
pub(crate) fn columns() -> usize {
    console::Term::stdout().size_checked().map_or(80, |(_, columns)| usize::from(columns))
}
