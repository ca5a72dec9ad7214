//! What went wrong: a stable word for programs, a sentence for people, and the exit code.

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use p2p_node::{
    ConnectError, FetchError, LogError, NoSuchPeer, ReceiptError, SendError, ShareError, StartError,
    StateError, TopicsError,
};

use crate::output::visible;

/// The word for a port that another process has.
pub(crate) const PORT_IN_USE: &str = "port_in_use";

/// The exit codes of `p2p`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Failed = 1,
    /// Bad usage, configuration, or a port or data directory in use.
    Usage = 2,
    /// Nobody has it, or there is no such peer.
    NotFound = 3,
    Deadline = 4,
    /// What came was not what was asked for.
    WrongContent = 5,
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command, or the program, ended without doing what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// Never changes between versions.
    pub(crate) word: &'static str,
    pub(crate) detail: String,
    /// A JSON line has said it already.
    pub(crate) told: bool,
}

impl Failure {
    pub(crate) fn new(exit: Exit, word: &'static str, detail: impl Into<String>) -> Self {
        Self { exit, word, detail: detail.into(), told: false }
    }

    pub(crate) fn failed(word: &'static str, detail: impl Into<String>) -> Self {
        Self::new(Exit::Failed, word, detail)
    }

    pub(crate) fn usage(word: &'static str, detail: impl Into<String>) -> Self {
        Self::new(Exit::Usage, word, detail)
    }

    pub(crate) fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "interrupted", "interrupted")
    }

    /// Own messages are not known to be anywhere else.
    pub(crate) fn not_taken() -> Self {
        let detail = "nobody is known to have taken all that was sent; it is kept, and goes out when this node runs again";
        Self::new(Exit::Deadline, "not_taken", detail)
    }

    pub(crate) const fn told(mut self) -> Self {
        self.told = true;
        self
    }

    /// For people, on standard error.
    pub(crate) fn report(&self) {
        warn(&self.detail);
    }
}

/// For people, on standard error: it is not what was asked for, and must not stand among it.
pub(crate) fn warn(text: &str) {
    // Nobody can be told that standard error is closed.
    let _ = writeln!(std::io::stderr().lock(), "p2p: {}", visible(text));
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let (exit, word) = match &error {
            StartError::InUse { .. } => (Exit::Usage, "in_use"),
            StartError::Listen { source, .. } if source.kind() == ErrorKind::AddrInUse => {
                (Exit::Usage, PORT_IN_USE)
            }
            StartError::Listen { .. } => (Exit::Usage, "listen"),
            StartError::Config(_) => (Exit::Usage, "config"),
            StartError::Identity { .. } => (Exit::Failed, "identity"),
            StartError::DataDir { .. } => (Exit::Failed, "data_dir"),
            _ => (Exit::Failed, "start"),
        };
        let mut detail = error.to_string();
        if matches!(error, StartError::DataDir { .. }) {
            detail.push_str("; choose another directory with --data");
        }
        Self::new(exit, word, detail)
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        let (exit, word) = match &error {
            LogError::InUse { .. } => (Exit::Usage, "in_use"),
            LogError::NoKey { .. } => (Exit::Usage, "no_key"),
            _ => (Exit::Failed, "log"),
        };
        Self::new(exit, word, error.to_string())
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::failed(error.code(), error.to_string())
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        let exit = match error {
            SendError::TooLarge { .. }
            | SendError::Topic { .. }
            | SendError::Recipient(_)
            | SendError::Itself => Exit::Usage,
            _ => Exit::Failed,
        };
        Self::new(exit, error.code(), error.to_string())
    }
}

impl From<ReceiptError> for Failure {
    fn from(error: ReceiptError) -> Self {
        let exit = match error {
            ReceiptError::TimedOut { .. } => Exit::Deadline,
            _ => Exit::Failed,
        };
        Self::new(exit, error.code(), error.to_string())
    }
}

impl From<TopicsError> for Failure {
    fn from(error: TopicsError) -> Self {
        Self::usage("bad_topics", error.to_string())
    }
}

impl From<ShareError> for Failure {
    fn from(error: ShareError) -> Self {
        let word = match error {
            ShareError::Add(_) | ShareError::Folder(_) => "not_shared",
            ShareError::Library(_) => "index",
            _ => "stopped",
        };
        Self::failed(word, error.to_string())
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let exit = match &error {
            FetchError::NotFound { .. } => Exit::NotFound,
            FetchError::Providers { lied: true, .. }
            | FetchError::WrongLength { .. }
            | FetchError::BadFolder { .. } => Exit::WrongContent,
            FetchError::NoSuchPath { .. } => Exit::Usage,
            _ => Exit::Failed,
        };
        Self::new(exit, error.code(), error.to_string())
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        let word = match error {
            StateError::Load { .. } => "not_loaded",
            StateError::Save { .. } => "not_saved",
            _ => "stopped",
        };
        Self::failed(word, error.to_string())
    }
}

impl From<NoSuchPeer> for Failure {
    fn from(error: NoSuchPeer) -> Self {
        Self::new(Exit::NotFound, "no_such_peer", error.to_string())
    }
}
