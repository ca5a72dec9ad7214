//! What the program says: [`Line`] is one thing said, as JSON for programs (`line`) or as text for people
//! (`human`); [`Screen`] is where it goes.

mod human;
mod line;
mod qr;
mod screen;
mod text;

pub(crate) use line::{Entry, Line, Manual, Peer, kind};
pub(crate) use qr::code as qr_code;
pub(crate) use screen::{Printer, Screen, painted};
pub(crate) use text::visible;
