//! What may be typed after `p2p`. One struct serves the command line, the environment and the config file,
//! so that no option can be forgotten in one of them.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use p2p_node::Since;
use serde::Deserialize;

/// Find each other, talk and share files, with no server.
///
/// Without a command: a node with a console. `help` in the console lists what can be done there.
#[derive(Debug, Parser)]
#[command(name = "p2p", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) options: Options,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed; 2 bad usage, configuration or port in use; 3 nobody has it or no such peer;
4 deadline passed; 5 what came was not what was asked for; 130 interrupted.";

/// Every option, each with an environment variable and, under its long name, a key in the config file.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Options {
    /// Data directory: identity, state.json, shared files, content/ [default: the platform's data folder]
    #[arg(long, global = true, value_name = "DIR", env = "P2P_DATA", hide_env_values = true, value_hint = ValueHint::DirPath)]
    pub(crate) data: Option<PathBuf>,
    /// Where fetched files go and `refresh` looks [default: content in the data directory]
    #[arg(long, global = true, value_name = "DIR", env = "P2P_CONTENT", hide_env_values = true, value_hint = ValueHint::DirPath)]
    pub(crate) content: Option<PathBuf>,
    /// A TOML file with these options as keys; what is typed here or set in the environment counts more
    #[arg(long, global = true, value_name = "FILE", env = "P2P_CONFIG", hide_env_values = true, value_hint = ValueHint::FilePath)]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,
    /// The address to listen on [default: every address]
    #[arg(long, global = true, value_name = "ADDR", env = "P2P_HOST", hide_env_values = true)]
    pub(crate) host: Option<IpAddr>,
    /// The port for nodes; 0 takes a free one [default: 65432]
    #[arg(long, global = true, value_name = "N", env = "P2P_PORT", hide_env_values = true)]
    pub(crate) port: Option<u16>,
    /// The port for files; 0 takes a free one [default: 65433]
    #[arg(long, global = true, value_name = "N", env = "P2P_FILE_PORT", hide_env_values = true)]
    pub(crate) file_port: Option<u16>,
    /// Join through this node at the start; may be repeated
    #[arg(
        long,
        global = true,
        value_name = "ADDR|TICKET",
        env = "P2P_CONNECT",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub(crate) connect: Vec<String>,
    /// A name that others see beside the id, at most 32 bytes
    #[arg(long, global = true, value_name = "NAME", env = "P2P_NAME", hide_env_values = true)]
    pub(crate) name: Option<String>,
    /// Most bytes of files sent a second, such as 500kB or 2MiB [default: no limit]
    #[arg(long, global = true, value_name = "RATE", env = "P2P_UP", hide_env_values = true)]
    pub(crate) up: Option<Rate>,
    /// The same to each peer
    #[arg(long, global = true, value_name = "RATE", env = "P2P_UP_PEER", hide_env_values = true)]
    pub(crate) up_peer: Option<Rate>,
    /// Most bytes of files received a second [default: no limit]
    #[arg(long, global = true, value_name = "RATE", env = "P2P_DOWN", hide_env_values = true)]
    pub(crate) down: Option<Rate>,
    /// The same from each peer
    #[arg(long, global = true, value_name = "RATE", env = "P2P_DOWN_PEER", hide_env_values = true)]
    pub(crate) down_peer: Option<Rate>,
    /// Dial only what is asked for
    #[arg(long, global = true, env = "P2P_NO_DISCOVER", hide_env_values = true, value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub(crate) no_discover: Option<bool>,
    /// Take private and loopback addresses from any peer
    #[arg(long, global = true, env = "P2P_ALLOW_PRIVATE", hide_env_values = true, value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub(crate) allow_private: Option<bool>,
    /// Do not ask the router for port mappings
    #[arg(long, global = true, env = "P2P_NO_UPNP", hide_env_values = true, value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub(crate) no_upnp: Option<bool>,
    /// Do not look by itself for what changes in `content/` and in shared files; `refresh` does
    #[arg(long, global = true, env = "P2P_NO_WATCH", hide_env_values = true, value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub(crate) no_watch: Option<bool>,
    /// Do not look for nodes on the local network (it does not yet)
    #[arg(long, global = true, env = "P2P_NO_LAN", hide_env_values = true, value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub(crate) no_lan: Option<bool>,
    /// Find providers through the BitTorrent DHT (it does not yet)
    #[arg(long, global = true, env = "P2P_DHT", hide_env_values = true, value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub(crate) dht: Option<bool>,
    /// A private network: only holders of the same secret get in (refused: not there yet)
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "P2P_SECRET_FILE",
        hide_env_values = true,
        hide = true
    )]
    pub(crate) secret_file: Option<PathBuf>,
    /// Where the control API listens (refused: not there yet)
    #[arg(long, global = true, value_name = "ADDR", env = "P2P_API", hide_env_values = true, hide = true)]
    pub(crate) api: Option<String>,
    /// No control API (there is none yet)
    #[arg(long, global = true, env = "P2P_NO_API", hide_env_values = true, value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub(crate) no_api: Option<bool>,
    /// Write one JSON object a line and nothing else on standard output
    #[arg(long, global = true, env = "P2P_JSON", hide_env_values = true, value_name = "BOOL",
        num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub(crate) json: Option<bool>,
    /// Log more: -v what happens, -vv why, -vvv everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Log less: -q errors only, -qq nothing
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) quiet: u8,
    /// Append the log to this file instead of writing it to standard error
    #[arg(long, global = true, value_name = "FILE", env = "P2P_LOG", hide_env_values = true, value_hint = ValueHint::FilePath)]
    pub(crate) log: Option<PathBuf>,
    /// Colours [default: auto]
    #[arg(long, global = true, value_name = "WHEN", env = "P2P_COLOR", hide_env_values = true)]
    pub(crate) color: Option<Color>,
}

/// Bytes a second: a number, or one with kB, MB, GB (thousands), KiB, MiB or GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "toml::Value")]
pub(crate) struct Rate(pub(crate) u64);

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no rate: bytes a second, such as 500000, 500kB or 2MiB");
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = match unit.trim_end_matches("/s") {
            "" | "B" => 1,
            "k" | "kB" | "KB" => 1_000,
            "M" | "MB" => 1_000_000,
            "G" | "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(wrong()),
        };
        let rate = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        rate.filter(|rate| *rate > 0).map(Self).ok_or_else(wrong)
    }
}

impl TryFrom<toml::Value> for Rate {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(text) => text.parse(),
            toml::Value::Integer(number) => number.to_string().parse(),
            other => Err(format!("a rate is a number or a text, this is a {}", other.type_str())),
        }
    }
}

/// When to use colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Color {
    /// On a terminal, unless `NO_COLOR` is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A node without a console, until SIGTERM or Ctrl-C
    Daemon,
    /// Share files and folders: print hash and ticket of each, serve until Ctrl-C
    Share {
        /// The files and folders; they are served where they lie
        #[arg(required = true, value_name = "PATH", value_hint = ValueHint::AnyPath)]
        paths: Vec<PathBuf>,
        /// Show the ticket as a QR code too: on a terminal, always or never
        #[arg(long, value_name = "WHEN", default_value = "auto", hide_default_value = true)]
        qr: Color,
    },
    /// Share a file or folder no longer; it stays. No node may run on the data directory (its console has `unshare` too)
    Unshare {
        /// Its hash, or the unique start of it
        #[arg(value_name = "HASH")]
        hash: String,
    },
    /// Fetch a file or a folder; ends when all of it stands verified on disk
    Get {
        /// Its hash, or a ticket from `p2p share`
        #[arg(value_name = "HASH|TICKET")]
        what: String,
        /// Of a folder only this file, or what is in this folder in it; may be repeated
        #[arg(long, value_name = "PATH")]
        only: Vec<String>,
        /// Fetch nothing but the list of what is in the folder, and print it
        #[arg(long, conflicts_with_all = ["only", "output"])]
        list: bool,
        /// File or directory to write to; nothing is ever overwritten [default: the current directory]
        #[arg(short, long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
        output: Option<PathBuf>,
        /// Give up when nobody who has it was found for so long [default: 15]
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
        timeout: Option<u64>,
    },
    /// Send one message and leave
    Send {
        /// The message; `-` reads it from standard input
        text: String,
        /// Seal it to this node, so that nobody else can read it: an id, or the unique start of a known one
        #[arg(long, value_name = "ID", conflicts_with = "topic")]
        to: Option<String>,
        /// Its topic
        #[arg(long, value_name = "TOPIC")]
        topic: Option<String>,
        /// Wait so long for the recipient's signed receipt; exit code 4 if none comes
        #[arg(long, value_name = "SECONDS", requires = "to", value_parser = clap::value_parser!(u64).range(1..=86_400))]
        wait: Option<u64>,
    },
    /// Print messages as they come
    Listen {
        /// Only those of this topic, and private ones; may be repeated
        #[arg(long, value_name = "TOPIC")]
        topic: Vec<String>,
        /// First those of the log, from this position or time (2026-01-31T12:00:00Z) on; 0 is all of it
        #[arg(long, value_name = "POS|TIME", value_parser = since)]
        since: Option<Since>,
    },
    /// Print the messages of the log; no node may run on the data directory
    Log {
        /// Only those of this topic, and private ones; may be repeated
        #[arg(long, value_name = "TOPIC")]
        topic: Vec<String>,
        /// From this position or time (2026-01-31T12:00:00Z) on
        #[arg(long, value_name = "POS|TIME", value_parser = since)]
        since: Option<Since>,
    },
    /// Print the hash of files and folders, with the BitTorrent v2 root and the plain SHA-256; no node is needed
    Hash {
        /// The files and folders
        #[arg(required = true, value_name = "PATH", value_hint = ValueHint::AnyPath)]
        paths: Vec<PathBuf>,
    },
    /// Write a file's BitTorrent v2 torrent, for other programs; no node is needed
    Torrent {
        /// The file
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        path: PathBuf,
        /// Where to write it; nothing is overwritten [default: the file's name and `.torrent`, in the current directory]
        #[arg(short, long, value_name = "PATH", value_hint = ValueHint::FilePath)]
        output: Option<PathBuf>,
    },
    /// Print this node's id, addresses and ticket
    Id,
    /// Take over the peers of a state.json, ours or python-p2p's
    Import {
        /// The file
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

impl Command {
    /// What JSON lines call it.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Share { .. } => "share",
            Self::Unshare { .. } => "unshare",
            Self::Get { .. } => "get",
            Self::Send { .. } => "send",
            Self::Listen { .. } => "listen",
            Self::Log { .. } => "log",
            Self::Hash { .. } => "hash",
            Self::Torrent { .. } => "torrent",
            Self::Id => "id",
            Self::Import { .. } => "import",
            Self::Completions { .. } => "completions",
            Self::Man => "man",
        }
    }
}

/// A position or a time.
fn since(text: &str) -> Result<Since, String> {
    if let Ok(pos) = text.parse() {
        return Ok(Since::Pos(pos));
    }
    let time: Result<jiff::Timestamp, _> = text.parse();
    let time = time.map_err(|_| "neither a position nor a time such as 2026-01-31T12:00:00Z".to_owned())?;
    Ok(Since::Time(time.into()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_parser_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn rates_have_units() {
        for (text, rate) in [("1", 1), ("500kB", 500_000), ("2MiB", 2 << 20), ("3MB/s", 3_000_000), ("7B", 7)]
        {
            assert_eq!(text.parse(), Ok(Rate(rate)), "{text}");
        }
        for text in ["", "0", "kB", "-1", "1.5MB", "1mb", "99999999999999GB", "1 MB"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        let file: Options = toml::from_str("up = \"1MB\"\ndown = 5000").unwrap();
        assert_eq!((file.up, file.down), (Some(Rate(1_000_000)), Some(Rate(5000))));
    }

    #[test]
    fn options_stand_before_or_after_the_command() {
        for line in ["p2p --json --port 7 get abc", "p2p get --json abc --port 7"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!((cli.options.json, cli.options.port), (Some(true), Some(7)), "{line}");
        }
    }

    #[test]
    fn a_switch_can_be_turned_back() {
        let cli = Cli::try_parse_from(["p2p", "--no-upnp=false", "--json"]).unwrap();
        assert_eq!((cli.options.no_upnp, cli.options.json, cli.options.dht), (Some(false), Some(true), None));
    }
}
