//! Commands about this node itself: run it, say who it is, give it peers.

use std::path::Path;

use crate::config::Settings;
use crate::failure::Failure;
use crate::output::{Line, Screen};
use crate::session::{Session, Show};
use crate::signals::Stop;

/// A node without a console, until it is told to end. Closed standard output does not end it.
pub(crate) async fn daemon(settings: Settings, screen: Screen, stop: Stop) -> Result<(), Failure> {
    let mut asked = stop.clone();
    let session = Session::start(settings.node, screen.clone(), stop, Show::Everything).await?;
    asked.wait().await;
    session.end().await?;
    screen.show(&Line::Bye { command: None }).await;
    Ok(())
}

/// Who this node is and where it would be found; the identity is made if there is none yet.
pub(crate) async fn id(mut settings: Settings, screen: Screen, stop: Stop) -> Result<(), Failure> {
    keep_to_itself(&mut settings);
    let session = Session::start(settings.node, screen.clone(), stop, Show::Trouble).await?;
    screen.show(&Line::id(&session.node)).await;
    session.end().await
}

/// Reads a peer list into the data directory.
pub(crate) async fn import(
    mut settings: Settings,
    screen: Screen,
    stop: Stop,
    file: &Path,
) -> Result<(), Failure> {
    keep_to_itself(&mut settings);
    settings.take_free_ports();
    let session = Session::start(settings.node, screen.clone(), stop, Show::Trouble).await?;
    let outcome = session
        .unless_stopped(async { Ok(Line::loaded("import", session.node.load_state(Some(file)).await?)) });
    let outcome = outcome.await;
    let line = session.end_with(outcome).await?;
    screen.show(&line).await;
    Ok(())
}

/// A node that is up for a moment dials nobody and asks no router.
pub(super) fn keep_to_itself(settings: &mut Settings) {
    settings.node.upnp = false;
    settings.node.discover = false;
    settings.node.resume = false;
    settings.node.watch = false;
    settings.node.connect.clear();
}
