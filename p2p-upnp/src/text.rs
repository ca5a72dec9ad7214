//! Text that a router chose, made fit for a log line.

use std::fmt::{self, Display, Write};

use crate::status::MAX_DETAIL;

/// At most [`MAX_DETAIL`] characters of what `value` prints, control and invisible characters escaped.
///
/// What lies beyond the limit is never formatted: an error of `igd-next` may hold a megabyte of the router's reply.
pub(crate) fn clip(value: impl Display) -> String {
    let mut out = Clipped { text: String::new(), room: MAX_DETAIL };
    // The only error is our own "full", which is the point.
    let _ = write!(out, "{value}");
    out.text
}

struct Clipped {
    text: String,
    /// Characters that still fit.
    room: usize,
}

impl Write for Clipped {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for c in part.chars() {
            if is_plain(c) {
                self.push(std::iter::once(c), 1)?;
            } else {
                let escaped = c.escape_default();
                self.push(escaped.clone(), escaped.len())?;
            }
        }
        Ok(())
    }
}

impl Clipped {
    fn push(&mut self, chars: impl Iterator<Item = char>, len: usize) -> fmt::Result {
        self.room = self.room.checked_sub(len).ok_or(fmt::Error)?;
        self.text.extend(chars);
        Ok(())
    }
}

/// Neither moves the cursor nor hides or reorders what stands around it.
fn is_plain(c: char) -> bool {
    let hidden = matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    !c.is_control() && !hidden
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_what_would_disturb_a_terminal() {
        assert_eq!(clip("a\x1b[2J\nb\u{202e}c é"), "a\\u{1b}[2J\\nb\\u{202e}c é");
    }

    #[test]
    fn stops_at_the_limit() {
        assert_eq!(clip("x".repeat(1 << 20)).len(), MAX_DETAIL);
    }

    proptest! {
        #[test]
        fn is_short_and_printable_whatever_comes(text: String) {
            let clipped = clip(&text);
            prop_assert!(clipped.chars().count() <= MAX_DETAIL);
            prop_assert!(clipped.chars().all(is_plain));
        }
    }
}
