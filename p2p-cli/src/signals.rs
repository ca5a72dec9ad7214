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
    /// Listens for SIGINT and SIGTERM (Ctrl-C and closing on Windows), and for SIGHUP where a terminal may
    /// go away. `nohup p2p daemon` lives on: only a console asks for the latter.
    pub(crate) fn on_signals(hangup: bool) -> Result<Self, Failure> {
        let mut signals = Signals::new(hangup)
            .map_err(|source| Failure::failed("signals", format!("signals can't be handled: {source}")))?;
        let (ask, asked) = watch::channel(false);
        tokio::spawn(async move {
            signals.next().await;
            ask.send_replace(true);
            signals.next().await;
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

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn new(hangup: bool) -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let hangup = if hangup { Some(signal(SignalKind::hangup())?) } else { None };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
        })
    }

    async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

#[cfg(windows)]
struct Signals {
    interrupt: tokio::signal::windows::CtrlC,
    close: tokio::signal::windows::CtrlClose,
    shutdown: tokio::signal::windows::CtrlShutdown,
}

#[cfg(windows)]
impl Signals {
    fn new(_hangup: bool) -> std::io::Result<Self> {
        use tokio::signal::windows::{ctrl_c, ctrl_close, ctrl_shutdown};
        Ok(Self { interrupt: ctrl_c()?, close: ctrl_close()?, shutdown: ctrl_shutdown()? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.close.recv() => {}
            _ = self.shutdown.recv() => {}
        }
    }
}
