//! The few options that the tasks have: words, `--flag`, `--name VALUE` and `--name=VALUE`.

use std::str::FromStr;

use anyhow::{Context, Result, bail};

/// The command line, taken apart piece by piece; [`Args::finish`] refuses what nobody took.
#[derive(Debug, Clone)]
pub(crate) struct Args {
    rest: Vec<String>,
}

impl Args {
    pub(crate) fn from_env() -> Self {
        Self { rest: std::env::args().skip(1).collect() }
    }

    /// The first word, unless an option stands there.
    pub(crate) fn word(&mut self) -> Option<String> {
        let first = self.rest.first()?;
        if first.starts_with("--") && first != "--help" {
            return None;
        }
        Some(self.rest.remove(0))
    }

    /// All words up to the first option.
    pub(crate) fn words(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.word()).collect()
    }

    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.rest.len();
        self.rest.retain(|a| a != name);
        self.rest.len() < before
    }

    pub(crate) fn value(&mut self, name: &str) -> Result<Option<String>> {
        let with_value = format!("{name}=");
        if let Some(at) = self.rest.iter().position(|a| a.starts_with(&with_value)) {
            return Ok(Some(self.rest.remove(at).split_off(with_value.len())));
        }
        let Some(at) = self.rest.iter().position(|a| a == name) else {
            return Ok(None);
        };
        if at + 1 >= self.rest.len() {
            bail!("{name} needs a value");
        }
        self.rest.remove(at);
        Ok(Some(self.rest.remove(at)))
    }

    pub(crate) fn parsed<T>(&mut self, name: &str, default: T) -> Result<T>
    where
        T: FromStr,
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        match self.value(name)? {
            None => Ok(default),
            Some(text) => text.parse().with_context(|| format!("{name} {text}")),
        }
    }

    /// A number of bytes: `1GiB`, `32MiB`, `64KiB` or a bare number.
    pub(crate) fn size(&mut self, name: &str, default: u64) -> Result<u64> {
        let text = self.value(name)?;
        text.map_or(Ok(default), |text| parse_size(&text).with_context(|| format!("{name} {text}")))
    }

    pub(crate) fn finish(self) -> Result<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        bail!("not understood: {}; `cargo xtask` lists what there is", self.rest.join(" "))
    }
}

fn parse_size(text: &str) -> Result<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => bail!("bytes, KiB, MiB or GiB"),
    };
    number.parse::<u64>()?.checked_mul(unit).context("too large")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("1GiB").unwrap(), 1 << 30);
        assert_eq!(parse_size("5").unwrap(), 5);
        assert!(parse_size("1GB").is_err(), "what would that be?");
        assert!(parse_size("MiB").is_err());
        assert!(parse_size("99999999999GiB").is_err());
    }

    fn args(text: &str) -> Args {
        Args { rest: text.split_whitespace().map(String::from).collect() }
    }

    #[test]
    fn words_flags_and_values_are_taken_in_any_order() {
        let mut a = args("gossip --nodes 7 --json --burst=90 --seed 3");
        assert_eq!(a.word().as_deref(), Some("gossip"));
        assert_eq!(a.parsed("--burst", 1u32).unwrap(), 90);
        assert!(a.flag("--json") && !a.flag("--json"));
        assert_eq!(a.parsed("--nodes", 5usize).unwrap(), 7);
        assert_eq!(a.parsed("--window", 128usize).unwrap(), 128);
        assert!(a.clone().finish().is_err(), "--seed was not taken");
        assert_eq!(a.value("--seed").unwrap().as_deref(), Some("3"));
        a.finish().unwrap();
    }

    #[test]
    fn a_missing_or_bad_value_is_refused() {
        assert!(args("--nodes").value("--nodes").is_err());
        assert!(args("--nodes many").parsed("--nodes", 5usize).is_err());
    }
}
