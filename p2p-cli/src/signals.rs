//! Ctrl-C and its kin: the first asks to leave in good order, the second leaves at once.

use tokio::sync::watch;

use crate::failure::{Exit, Failure};
use crate::terminal;

/// Turns true once the user or the system wants the program to end.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    asked: watch::Receiver<bool>,
}

impl Stop {
    /// Listens for SIGINT and SIGTERM (Ctrl-C and closing on Windows), and for SIGHUP, with which a terminal goes away, unless
    /// that is ignored as by `nohup`.
    pub(crate) fn on_signals() -> Result<Self, Failure> {
        let mut signals = Signals::new()
            .map_err(|source| Failure::failed("signals", format!("signals can't be handled: {source}")))?;
        let (ask, asked) = watch::channel(false);
        tokio::spawn(async move {
            let mut impatient = false;
            loop {
                let signal = signals.next().await;
                if impatient && signal == Signal::Asked {
                    break;
                }
                ask.send_replace(true);
                impatient |= signal == Signal::Asked;
            }
            terminal::restore();
            std::process::exit(i32::from(Exit::Interrupted as u8));
        });
        Ok(Self { asked })
    }

    /// Returns once it was asked for; at once if it was before.
    pub(crate) async fn wait(&mut self) {
        // The sender lives in a task that ends with the process only.
        let _ = self.asked.wait_for(|asked| *asked).await;
    }
}

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    /// Somebody wants it to end, and wants it more the second time.
    Asked,
    /// The terminal is gone. The shell says so, the system says it again once the shell has ended, and some services' managers send it
    /// behind SIGTERM: it makes nothing more urgent.
    #[cfg(unix)]
    HungUp,
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let hangup = (!is_hangup_ignored()).then(|| signal(SignalKind::hangup())).transpose()?;
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
        })
    }

    async fn next(&mut self) -> Signal {
        let hangup = async {
            match &mut self.hangup {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Asked,
            _ = self.terminate.recv() => Signal::Asked,
            _ = hangup => Signal::HungUp,
        }
    }
}

/// Whether whoever started the program had it ignore SIGHUP: then it lives on without its terminal.
#[cfg(unix)]
fn is_hangup_ignored() -> bool {
    use std::io::IsTerminal as _;
    let status = std::fs::read_to_string("/proc/self/status").ok();
    // Where the system has no such file: `nohup` leaves no terminal to standard error.
    status.and_then(|status| ignores_hangup(&status)).unwrap_or_else(|| !std::io::stderr().is_terminal())
}

/// What Linux says of a process.
#[cfg(unix)]
fn ignores_hangup(status: &str) -> Option<bool> {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    // The lowest bit is signal 1.
    u64::from_str_radix(ignored.trim(), 16).ok().map(|ignored| ignored & 1 == 1)
}

#[cfg(windows)]
struct Signals {
    interrupt: tokio::signal::windows::CtrlC,
    close: tokio::signal::windows::CtrlClose,
    shutdown: tokio::signal::windows::CtrlShutdown,
}

#[cfg(windows)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::windows::{ctrl_c, ctrl_close, ctrl_shutdown};
        Ok(Self { interrupt: ctrl_c()?, close: ctrl_close()?, shutdown: ctrl_shutdown()? })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.close.recv() => {}
            _ = self.shutdown.recv() => {}
        }
        Signal::Asked
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_read_from_what_linux_says() {
        let status =
            |ignored| format!("Name:\tp2p\nSigBlk:\t0000000000000001\nSigIgn:\t{ignored}\nSigCgt:\t1\n");
        assert_eq!(ignores_hangup(&status("0000000000001001")), Some(true));
        assert_eq!(ignores_hangup(&status("0000000000001000")), Some(false));
        assert_eq!(ignores_hangup(&status("what?")), None);
        assert_eq!(ignores_hangup("Name:\tp2p\n"), None);
    }
}
