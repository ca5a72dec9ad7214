//! `p2p`: find each other, talk and share files, with no server.
//!
//! What is where: `args` is what may be typed, `config` joins it with environment and file, `session` is a
//! running node with its screen, `joining` gets it its first links, `console` and `commands` are what one does
//! with it, `output` is how it reads for people and for programs, `failure` is what can go wrong and the exit
//! code it has.

mod args;
mod commands;
mod config;
mod console;
mod failure;
mod joining;
mod logging;
mod output;
mod session;
mod signals;
mod stderr;
mod terminal;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::args::{Cli, Command};
use crate::config::Settings;
use crate::failure::{Exit, Failure};
use crate::logging::Logging;
use crate::output::{Line, Screen};
use crate::signals::Stop;

/// Threads for the node: links, and one console that mostly waits. Blocking work has its own.
const MAX_WORKERS: usize = 4;

fn main() -> ExitCode {
    let Cli { options, command } = Cli::parse();
    let outcome = match command {
        Some(Command::Completions { shell }) => {
            commands::completions(shell, &mut Cli::command()).map(|()| ExitCode::SUCCESS)
        }
        Some(Command::Man) => commands::man(Cli::command()).map(|()| ExitCode::SUCCESS),
        command => Settings::resolve(options).and_then(|settings| with_node(settings, command)),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            let code = failure.exit.into();
            terminal::last_words(move || failure.report());
            code
        }
    }
}

/// Everything that needs a node: logging, a runtime and a screen around it.
fn with_node(settings: Settings, command: Option<Command>) -> Result<ExitCode, Failure> {
    let on_terminal = command.is_none() && !settings.json && std::io::stdin().is_terminal();
    let screen = Screen::open(settings.json, settings.color);
    // People see warnings as events anyway; programs and daemons have them in the log too.
    let default_level = match command {
        Some(Command::Daemon) => 1,
        _ if settings.json => 0,
        _ => -1,
    };
    let logging = Logging::start(&settings, default_level, on_terminal.then(|| screen.clone()))?;
    let stderr = logging.stderr();
    let workers = std::thread::available_parallelism().map_or(2, usize::from).min(MAX_WORKERS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .map_err(|source| Failure::failed("runtime", format!("the runtime did not start: {source}")))?;
    let json = settings.json;
    let outcome = runtime.block_on(async {
        let stop = Stop::on_signals()?;
        let word = command.as_ref().map(Command::word);
        let outcome = Box::pin(dispatch(settings, command, screen.clone(), logging, stop)).await;
        if let (Err(failure), true) = (&outcome, json)
            && !failure.told
        {
            screen.show(&Line::error(word, failure)).await;
        }
        let unwritten = screen.close().await;
        if unwritten > 0 {
            let text =
                format!("nobody reads standard output; the last lines, {unwritten} or so, were not written");
            terminal::last_words(move || failure::warn(&text));
        }
        // Whatever was done, not all of it was said; the screen has told why.
        let code = if screen.has_failed() { Exit::Failed.into() } else { ExitCode::SUCCESS };
        outcome.map(|()| code)
    });
    terminal::restore();
    if let Some(stderr) = stderr {
        stderr.end();
    }
    // A thread that still waits for the next line of input must not keep the process.
    runtime.shutdown_background();
    outcome
}

async fn dispatch(
    settings: Settings,
    command: Option<Command>,
    screen: Screen,
    logging: Logging,
    stop: Stop,
) -> Result<(), Failure> {
    match command {
        None => console::run(settings, screen, logging, stop).await,
        Some(Command::Daemon) => commands::daemon(settings, screen, stop).await,
        Some(Command::Share { paths, qr }) => commands::share(settings, screen, stop, paths, qr).await,
        Some(Command::Unshare { hash }) => commands::unshare(settings, screen, stop, &hash).await,
        Some(Command::Get { what, only, list, output, timeout }) => {
            let what = commands::Wanted { what, only, list };
            commands::get(settings, screen, stop, &what, output, timeout).await
        }
        Some(Command::Hash { paths }) => commands::hash(screen, stop, paths).await,
        Some(Command::Torrent { path, output }) => commands::torrent(screen, stop, path, output).await,
        Some(Command::Send { text, to, topic, wait }) => {
            let how = commands::Sending { to, topic, wait };
            commands::send(settings, screen, stop, text, how).await
        }
        Some(Command::Listen { topic, since }) => {
            commands::listen(settings, screen, stop, topic, since).await
        }
        Some(Command::Log { topic, since }) => commands::log(settings, screen, stop, topic, since).await,
        Some(Command::Id) => commands::id(settings, screen, stop).await,
        Some(Command::Import { file }) => commands::import(settings, screen, stop, &file).await,
        Some(Command::Completions { .. } | Command::Man) => Ok(()),
    }
}
