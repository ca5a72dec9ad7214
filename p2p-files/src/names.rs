//! File names from others: data, not paths. What could leave the folder, hide, deceive, or fail on some system is
//! refused whole rather than mended, and the content hash takes its place.

use unicode_normalization::UnicodeNormalization as _;

/// Most bytes of a file name, the limit of the usual file systems.
pub const NAME_MAX: usize = 255;

/// A name that is safe as the last part of a path on Linux, macOS and Windows, in Unicode form NFC.
///
/// ```
/// use p2p_files::FileName;
///
/// assert_eq!(FileName::parse("notes.txt")?.as_str(), "notes.txt");
/// assert!(FileName::parse("../notes.txt").is_err());
/// # Ok::<(), p2p_files::NameError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(String);

impl FileName {
    /// Checks a name and brings it into form NFC.
    ///
    /// # Errors
    ///
    /// [`NameError`] says what is wrong with it.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        // Long input is refused before it is copied; composing makes a text at most three times shorter.
        if name.len() > 3 * NAME_MAX {
            return Err(NameError::Length { len: name.len() });
        }
        let name: String = name.nfc().collect();
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(NameError::Length { len: name.len() });
        }
        if let Some(character) = name.chars().find(|&c| is_refused(c)) {
            return Err(NameError::Character { character });
        }
        let edge = |c: char| c == '.' || c.is_whitespace();
        if name.starts_with(edge) || name.ends_with(edge) {
            return Err(NameError::Edge);
        }
        if is_device(&name) {
            return Err(NameError::Device);
        }
        Ok(Self(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name to take when this one is taken `number` times: `notes (1).txt`. At most 255 bytes.
    #[must_use]
    pub fn numbered(&self, number: u32) -> String {
        if number == 0 {
            return self.0.clone();
        }
        let (stem, extension) = match self.0.rfind('.') {
            Some(dot) if dot > 0 && self.0.len() - dot <= 32 => self.0.split_at(dot),
            _ => (self.0.as_str(), ""),
        };
        let suffix = format!(" ({number}){extension}");
        format!("{}{suffix}", cut(stem, NAME_MAX - suffix.len()))
    }
}

/// The longest start of `text` that has at most `max` bytes and ends between two characters.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

fn is_refused(c: char) -> bool {
    c.is_control()
        || matches!(c, '/' | '\\' | '<' | '>' | ':' | '"' | '|' | '?' | '*')
        // Unicode line and paragraph separators, and what turns the direction of text or is invisible.
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{061c}' | '\u{200b}'..='\u{200f}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
        // Look like separators.
        || matches!(c, '\u{2044}' | '\u{2215}' | '\u{29f8}' | '\u{ff0f}' | '\u{ff3c}')
}

/// The names Windows gives to devices, with any extension.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_uppercase();
    match stem.as_str() {
        "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$" | "CLOCK$" => true,
        _ => {
            let mut rest = match stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT")) {
                Some(rest) => rest.chars(),
                None => return false,
            };
            let digit = rest.next().is_some_and(|c| c.is_ascii_digit() || matches!(c, '¹' | '²' | '³'));
            digit && rest.next().is_none()
        }
    }
}

/// Why a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Empty, or longer than 255 bytes.
    #[error("name of {len} bytes, it must have 1 to {NAME_MAX}")]
    Length {
        /// Bytes of the name.
        len: usize,
    },
    /// It has a character that separates paths, steers a terminal, or deceives the eye.
    #[error("name with the character {character:?}")]
    Character {
        /// The first such character.
        character: char,
    },
    /// It begins or ends with a dot or a space (this includes `.` and `..`).
    #[error("name that begins or ends with a dot or a space")]
    Edge,
    /// Windows keeps it for a device.
    #[error("name of a windows device")]
    Device,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_names_are_refused() {
        let table = [
            "",
            ".",
            "..",
            "...",
            "../x",
            "../../x",
            "a/../../b",
            "/etc/passwd",
            "/",
            "//",
            "a/b",
            "a/",
            "./a",
            "..\\x",
            "C:\\x",
            "C:x",
            "\\\\server\\share",
            "\\\\?\\C:\\x",
            "a\\b",
            "..%2f",
            "..;",
            "file:stream",
            "a\u{0}b",
            "\u{0}",
            "a\nb",
            "a\rb",
            "a\tb",
            "\u{1b}]0;title\u{7}",
            "a\u{7f}",
            "a\u{85}b",
            " a",
            "a ",
            "a.",
            "a. ",
            ".a",
            ".bashrc",
            ".ssh",
            "\u{a0}a",
            "a\u{3000}",
            "con",
            "CON",
            "Con.txt",
            "prn",
            "aux.c",
            "nul.txt",
            "NUL",
            "nul.tar.gz",
            "com0",
            "COM1",
            "com9.log",
            "lpt1",
            "LPT9.x",
            "com¹",
            "lpt³.txt",
            "CONIN$",
            "conout$",
            "clock$",
            "nul .txt",
            "a<b",
            "a>b",
            "a:b",
            "a\"b",
            "a|b",
            "a?b",
            "a*b",
            "evil\u{202e}gpj.exe",
            "a\u{200b}b",
            "\u{feff}a",
            "a\u{2066}b",
            "a\u{2028}b",
            "a\u{ff0f}b",
            "a\u{2215}b",
            "a\u{ff3c}b",
        ];
        assert!(table.len() >= 60);
        for name in table {
            assert!(FileName::parse(name).is_err(), "{name:?}");
        }
        assert!(FileName::parse(&"a".repeat(256)).is_err());
        assert!(FileName::parse(&"é".repeat(128)).is_err());
        assert!(FileName::parse(&"a".repeat(1 << 20)).is_err());
    }

    #[test]
    fn ordinary_names_stay() {
        for name in [
            "a",
            "a.txt",
            "a b.tar.gz",
            "Übergröße.pdf",
            "日本語",
            "com",
            "com10",
            "console",
            "nul1",
            "a..b",
            "-rf",
            "~",
            "😀.png",
            "%2e",
        ] {
            assert_eq!(FileName::parse(name).unwrap().as_str(), name);
        }
        assert!(FileName::parse(&"a".repeat(255)).is_ok());
        assert_eq!(FileName::parse("e\u{301}").unwrap().as_str(), "é");
    }

    #[test]
    fn numbers_go_before_the_extension_and_keep_the_limit() {
        let numbered = |name: &str, n| FileName::parse(name).unwrap().numbered(n);
        assert_eq!(numbered("a.txt", 0), "a.txt");
        assert_eq!(numbered("a.txt", 1), "a (1).txt");
        assert_eq!(numbered("a", 12), "a (12)");
        assert_eq!(numbered(&"é".repeat(127), 1).len(), 254);
        assert!(numbered(&format!("{}.txt", "x".repeat(251)), 1000).ends_with("x (1000).txt"));
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_one_part_of_a_path(name in "\\PC{0,20}|.{0,300}") {
            if let Ok(name) = FileName::parse(&name) {
                let parts: Vec<_> = std::path::Path::new(name.as_str()).components().collect();
                prop_assert!(matches!(parts.as_slice(), [std::path::Component::Normal(part)] if *part == name.as_str()));
                prop_assert_eq!(FileName::parse(name.as_str()), Ok(name.clone()));
                prop_assert!(name.numbered(7).len() <= NAME_MAX);
                prop_assert!(FileName::parse(&name.numbered(7)).is_ok());
            }
        }
    }
}
