//! The log: to standard error or a file, and above the line being typed while there is one.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Registry, reload};

use crate::config::Settings;
use crate::failure::Failure;
use crate::output::{Screen, painted, visible};
use crate::stderr::Stderr;

/// From quiet to loud; the usual level is the third.
const LEVELS: [LevelFilter; 6] = [
    LevelFilter::OFF,
    LevelFilter::ERROR,
    LevelFilter::WARN,
    LevelFilter::INFO,
    LevelFilter::DEBUG,
    LevelFilter::TRACE,
];
const USUAL: i16 = 2;

/// The running log; its level can be changed.
#[derive(Debug)]
pub(crate) struct Logging {
    filter: reload::Handle<LevelFilter, Registry>,
    usual: LevelFilter,
    stderr: Option<Arc<Stderr>>,
}

impl Logging {
    /// Starts it. `default` is how much more than warnings a command logs unless told otherwise; with
    /// `screen`, what would go to standard error goes there.
    pub(crate) fn start(settings: &Settings, default: i16, screen: Option<Screen>) -> Result<Self, Failure> {
        let level = level(settings.verbosity.unwrap_or(default));
        let target = match (&settings.log, screen) {
            (Some(path), _) => Target::File(Arc::new(Mutex::new(open(path)?))),
            (None, Some(screen)) => Target::Screen(screen),
            (None, None) => Target::Stderr(Stderr::open()),
        };
        let stderr = match &target {
            Target::Stderr(stderr) => Some(Arc::clone(stderr)),
            _ => None,
        };
        let ansi = match target {
            Target::File(_) => false,
            _ => painted(settings.color, io::stderr().is_terminal()),
        };
        let (filter, handle) = reload::Layer::new(level);
        let layer = tracing_subscriber::fmt::layer().with_ansi(ansi).with_writer(Writer { target, ansi });
        // Fails only when a log was started before, and there is one start.
        let _ = tracing::subscriber::set_global_default(Registry::default().with(filter).with(layer));
        Ok(Self { filter: handle, usual: level, stderr })
    }

    /// What has to be ended with the program, if it goes to standard error.
    pub(crate) fn stderr(&self) -> Option<Arc<Stderr>> {
        self.stderr.clone()
    }

    /// Debug messages on, or back to the usual; what it is now.
    pub(crate) fn toggle_debug(&self) -> bool {
        let usual = self.usual;
        let mut on = false;
        // Fails only when the subscriber is gone, and it is global.
        let _ = self.filter.modify(|level| {
            on = *level == usual;
            *level = if on { usual.max(LevelFilter::DEBUG) } else { usual };
        });
        on
    }
}

fn level(steps: i16) -> LevelFilter {
    let at = usize::try_from((USUAL + steps).max(0)).unwrap_or(0);
    LEVELS[at.min(LEVELS.len() - 1)]
}

fn open(path: &Path) -> Result<File, Failure> {
    File::options()
        .append(true)
        .create(true)
        .open(path)
        .map_err(|source| Failure::usage("log", format!("log file {}: {source}", path.display())))
}

#[derive(Clone)]
enum Target {
    Stderr(Arc<Stderr>),
    File(Arc<Mutex<File>>),
    Screen(Screen),
}

/// One log record is one write and one line, whatever is in it.
#[derive(Clone)]
struct Writer {
    target: Target,
    ansi: bool,
}

impl io::Write for Writer {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(record);
        let mut line = one_line(text.trim_end_matches('\n'), self.ansi);
        line.push('\n');
        match &self.target {
            Target::Stderr(stderr) => stderr.say(line),
            Target::File(file) => {
                file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())?;
            }
            // The log must not wait for a terminal; what finds no room is left out.
            Target::Screen(screen) => {
                screen.try_text(line);
            }
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Escapes all that could forge a second line or steer a terminal; with colours on, the escape character
/// itself stays (the subscriber has already escaped those inside of messages).
fn one_line(record: &str, ansi: bool) -> String {
    if ansi {
        record.split('\x1b').map(visible).collect::<Vec<_>>().join("\x1b")
    } else {
        visible(record).into_owned()
    }
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_whatever_is_in_it() {
        assert_eq!(one_line("a\nb\r\u{202e}\x1b[2J", false), "a\\nb\\r\\u{202e}\\u{1b}[2J");
        assert_eq!(one_line("\x1b[32mINFO\x1b[0m a\nb", true), "\x1b[32mINFO\x1b[0m a\\nb");
    }

    #[test]
    fn verbosity_ends_at_both_ends() {
        assert_eq!((level(-9), level(0), level(1), level(9)), (LEVELS[0], LEVELS[2], LEVELS[3], LEVELS[5]));
    }
}
