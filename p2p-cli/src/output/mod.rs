//! What the program says: [`Line`] is one thing said, as JSON for programs (`line`) or as text for people
//! (`human`); [`Screen`] is where it goes.

mod human;
mod line;
mod screen;
mod text;

pub(crate) use line::{Entry, Line, Manual, Peer};
pub(crate) use screen::{Printer, Screen, painted};
pub(crate) use text::visible;
