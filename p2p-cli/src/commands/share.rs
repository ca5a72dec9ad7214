//! `p2p share` and `p2p unshare`.

use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;

use p2p_node::Node;
use tokio::sync::oneshot;

use super::node::keep_to_itself;
use super::resolve;
use crate::args::Color;
use crate::config::Settings;
use crate::failure::{Exit, Failure, PORT_IN_USE};
use crate::output::{Line, Screen, qr_code};
use crate::session::{Session, Show};
use crate::signals::Stop;
use crate::terminal;

/// Shares the files and serves them until it is told to end.
pub(crate) async fn share(
    mut settings: Settings,
    screen: Screen,
    stop: Stop,
    paths: Vec<PathBuf>,
    qr: Color,
) -> Result<(), Failure> {
    // Before the node starts: a mistyped path needs none.
    if let Some((path, source)) = paths.iter().find_map(|p| Some((p, p.metadata().err()?))) {
        return Err(Failure::failed("not_shared", format!("{}: {source}", path.display())));
    }
    let start = |settings: &Settings| {
        Session::start(settings.node.clone(), screen.clone(), stop.clone(), Show::Trouble)
    };
    let session = match start(&settings).await {
        // A node may run on the usual ports; a ticket names whatever ports there are.
        Err(failure) if failure.word == PORT_IN_USE && !settings.ports_given => {
            settings.take_free_ports();
            start(&settings).await?
        }
        started => started?,
    };
    let until_pipe_ends = screen.is_json() && terminal::stdin_is_pipe();
    let mut asked = stop.clone();
    let outcome = tokio::select! {
        served = serve(&session, paths, qr, until_pipe_ends) => served,
        // Being asked to end is how this command ends well.
        () = asked.wait() => Ok(()),
    };
    session.end_with(outcome).await
}

/// Ends the sharing of a file, without a network.
pub(crate) async fn unshare(
    mut settings: Settings,
    screen: Screen,
    stop: Stop,
    typed: &str,
) -> Result<(), Failure> {
    keep_to_itself(&mut settings);
    settings.take_free_ports();
    let session = Session::start(settings.node, screen.clone(), stop, Show::Trouble).await?;
    let outcome = session.unless_stopped(unshare_from(&session.node, typed)).await;
    let line = session.end_with(outcome).await?;
    screen.show(&line).await;
    Ok(())
}

/// Ends the sharing of the file whose hash was typed, whole or its start.
pub(crate) async fn unshare_from(node: &Node, typed: &str) -> Result<Line, Failure> {
    let hash = resolve::hash(typed, &node.files().await)?;
    if node.unshare(hash).await? {
        return Ok(Line::Ok { command: "unshare", id: None, hash: Some(hash.to_string()) });
    }
    Err(Failure::new(Exit::NotFound, "not_shared", format!("{} is not shared", hash.short())))
}

async fn serve(
    session: &Session,
    paths: Vec<PathBuf>,
    qr: Color,
    until_pipe_ends: bool,
) -> Result<(), Failure> {
    for path in paths {
        let share = session.node.share(path).await?;
        session.screen.show(&Line::file_added("share", &session.node, &share)).await;
        let wanted = match qr {
            Color::Auto => std::io::stdout().is_terminal(),
            Color::Always => true,
            Color::Never => false,
        };
        if wanted {
            let ticket = session.node.file_ticket(&share);
            let code = qr_code(&ticket, terminal::columns(), session.screen.is_painted());
            let code = code.unwrap_or_else(|| "(the terminal is too narrow for a QR code)".to_owned());
            session.screen.hint(code.trim_end_matches('\n')).await;
        }
    }
    session.screen.hint("Served until Ctrl-C. To fetch it: p2p get TICKET").await;
    if until_pipe_ends {
        end_of_input().await;
    } else {
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// Returns when whoever holds the other end of standard input closes it.
async fn end_of_input() {
    let (tell, ended) = oneshot::channel();
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut ignored = [0; 4096];
        while matches!(stdin.read(&mut ignored), Ok(1..)) {}
        let _ = tell.send(());
    });
    let _ = ended.await;
}
