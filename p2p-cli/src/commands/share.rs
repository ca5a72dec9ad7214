//! `p2p share`.

use std::io::Read as _;
use std::path::PathBuf;

use tokio::sync::oneshot;

use crate::config::Settings;
use crate::failure::{Failure, PORT_IN_USE};
use crate::output::{Line, Screen};
use crate::session::{Session, Show};
use crate::signals::Stop;
use crate::terminal;

/// Shares the files and serves them until it is told to end.
pub(crate) async fn share(
    mut settings: Settings,
    screen: Screen,
    stop: Stop,
    paths: Vec<PathBuf>,
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
        served = serve(&session, paths, until_pipe_ends) => served,
        // Being asked to end is how this command ends well.
        () = asked.wait() => Ok(()),
    };
    session.end_with(outcome).await
}

async fn serve(session: &Session, paths: Vec<PathBuf>, until_pipe_ends: bool) -> Result<(), Failure> {
    for path in paths {
        let share = session.node.share(path).await?;
        session.screen.show(&Line::file_added("share", &session.node, &share)).await;
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
