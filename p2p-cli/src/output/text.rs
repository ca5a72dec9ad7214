//! Text for people: hostile characters made visible, sizes and times made readable.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

/// The text without a character that could move the cursor, change colours or the title of a terminal,
/// reorder what stands beside it or hide in it: each is written as `\n`, `\r`, `\t` or `\u{1b}`.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hostile(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Control characters (C0, DEL, C1), line and paragraph separators, bidi controls (UAX #9), and characters
/// that show nothing. Joiners (U+200C, U+200D) stay: scripts and emoji need them.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{180e}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// A name that somebody gave itself, beside an id. One that could be taken for what stands around it (an id, a topic, the
/// `>` before a message) is quoted.
pub(crate) fn named(name: &str) -> Cow<'_, str> {
    // Eight digits of an id are what people compare.
    let like_an_id = name.len() >= 8 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let plain = !name.is_empty() && name.chars().all(is_of_names);
    if plain && !like_an_id { Cow::Borrowed(name) } else { visible(&format!("{name:?}")).into_owned().into() }
}

/// Letters and digits of any script, but for the fillers of Hangul: they are letters and look like spaces.
fn is_of_names(c: char) -> bool {
    let filler = matches!(c, '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}');
    c.is_alphanumeric() && !filler || matches!(c, '_' | '-' | '.')
}

/// `visible`, and no longer than `limit` characters.
pub(crate) fn shortened(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => visible(text).into_owned(),
        Some((end, _)) => format!("{}…", visible(&text[..end])),
    }
}

/// `1.5 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let step = (bytes.ilog2() / 10) as usize;
    let tenths = (u128::from(bytes) * 10) >> (10 * step);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[step - 1])
}

/// `850 ms`, `12.3 s`, `5 min 2 s`, `3 h 20 min`, `4 d 7 h`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{}.{} s", seconds, time.subsec_millis() / 100),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// How long ago that was; a clock that ran backwards makes it `now`.
pub(crate) fn ago(then: SystemTime) -> String {
    match SystemTime::now().duration_since(then) {
        Ok(time) if time.as_secs() >= 60 => format!("{} ago", duration(time)),
        Ok(time) if time.as_secs() > 0 => format!("{} s ago", time.as_secs()),
        _ => "now".to_owned(),
    }
}

/// Rows in columns two spaces apart; the last column is not padded.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            // Writing to a String can't fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_or_hides_gets_through() {
        for (hostile, shown) in [
            ("\x1b]0;title\x07", "\\u{1b}]0;title\\u{7}"),
            ("a\rb\nc\td", "a\\rb\\nc\\td"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{202e}gpj.exe", "\\u{202e}gpj.exe"),
            ("a\u{2066}b\u{200b}c\u{feff}", "a\\u{2066}b\\u{200b}c\\u{feff}"),
            ("\u{7f}", "\\u{7f}"),
        ] {
            assert_eq!(visible(hostile), shown);
        }
    }

    #[test]
    fn plain_text_stays_as_it_is() {
        for text in ["", "hello", "grüße, 世界", "👩\u{200d}🔬", "C:\\x \"quoted\""] {
            assert!(matches!(visible(text), Cow::Borrowed(t) if t == text));
        }
    }

    #[test]
    fn a_name_that_poses_as_something_else_is_quoted() {
        for plain in ["anna", "Zoë-2", "bob_the.3rd", "世界", "Ольга", "1234567", "deadbeefs"] {
            assert_eq!(named(plain), plain);
        }
        for (name, shown) in [
            ("anna 0857a8ce22> yes, I agree", r#""anna 0857a8ce22> yes, I agree""#),
            ("[news] (private)", r#""[news] (private)""#),
            ("0857A8ce", r#""0857A8ce""#),
            ("", r#""""#),
            ("a\"> b\\", r#""a\"> b\\""#),
            ("anna\u{3164}b", "\"anna\u{3164}b\""),
            ("\u{202e}x\u{1b}\u{200b}\u{feff}", r#""\u{202e}x\u{1b}\u{200b}\u{feff}""#),
        ] {
            assert_eq!(named(name), shown);
        }
    }

    #[test]
    fn sizes_and_durations_read_well() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_572_864, "1.5 MiB"), (u64::MAX, "15.9 EiB")]
        {
            assert_eq!(size(bytes), text);
        }
        for (ms, text) in
            [(0, "0 ms"), (999, "999 ms"), (1_250, "1.2 s"), (61_000, "1 min 1 s"), (90_000_000, "1 d 1 h")]
        {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        assert_eq!(shortened("äöü", 2), "äö…");
        assert_eq!(shortened("äöü", 3), "äöü");
    }
}
