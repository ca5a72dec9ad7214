//! What the program says: [`Line`] is one thing said, as JSON for programs (`line`) or as text for people
//! (`human`, `lists`); `convert` makes lines of what the node says; [`Screen`] is where they go.

mod convert;
mod human;
mod line;
mod lists;
mod qr;
mod screen;
mod text;

pub(crate) use convert::kind;
pub(crate) use human::dropped;
pub(crate) use line::{Entry, Line, Manual, Peer, Renewed};
pub(crate) use qr::code as qr_code;
pub(crate) use screen::{Printer, Screen, painted};
pub(crate) use text::{named, visible};
