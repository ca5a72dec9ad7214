//! Command line over environment over file over default: one [`Settings`] comes out.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;
use p2p_node::{Config, Target};

use crate::args::{Color, Options};
use crate::failure::Failure;

/// The largest config file; a larger one is something else by mistake.
const MAX_CONFIG_FILE: u64 = 1024 * 1024;

/// What the program was told, complete.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) node: Config,
    /// The ports are the user's own choice: a taken one is an error, not a reason to take another.
    pub(crate) ports_given: bool,
    pub(crate) json: bool,
    pub(crate) color: Color,
    /// Steps above (`-v`) or below (`-q`) the usual log level; `None` if not told.
    pub(crate) verbosity: Option<i16>,
    pub(crate) log: Option<PathBuf>,
}

impl Settings {
    /// Reads the config file, if one is named, and fills what was not said with defaults.
    pub(crate) fn resolve(typed: Options) -> Result<Self, Failure> {
        let file = match &typed.config {
            Some(path) => read(path)?,
            None => Options::default(),
        };
        let options = merge(typed, file);
        refuse_what_is_not_there(&options)?;
        Self::complete(options)
    }

    fn complete(options: Options) -> Result<Self, Failure> {
        let data_dir = options.data.map_or_else(default_data_dir, Ok)?;
        let connect = options.connect.iter().map(|text| target(text)).collect::<Result<Vec<_>, _>>()?;
        let on = |switch: Option<bool>| switch.unwrap_or(false);
        let mut node = Config::default();
        node.data_dir = Some(data_dir);
        node.content_dir = options.content;
        node.host = options.host;
        node.port = options.port.unwrap_or(node.port);
        node.file_port = options.file_port.unwrap_or(node.file_port);
        node.name = options.name;
        node.discover = !on(options.no_discover);
        node.allow_private = on(options.allow_private);
        node.upnp = !on(options.no_upnp);
        node.watch = !on(options.no_watch);
        node.connect = connect;
        node.log = p2p_node::LogMode::Disk;
        node.limits.up = options.up.map(|rate| rate.0);
        node.limits.up_peer = options.up_peer.map(|rate| rate.0);
        node.limits.down = options.down.map(|rate| rate.0);
        node.limits.down_peer = options.down_peer.map(|rate| rate.0);
        let verbosity = i16::from(options.verbose) - i16::from(options.quiet);
        Ok(Self {
            node,
            ports_given: options.port.is_some() || options.file_port.is_some(),
            json: on(options.json),
            color: options.color.unwrap_or_default(),
            verbosity: (options.verbose > 0 || options.quiet > 0).then_some(verbosity),
            log: options.log,
        })
    }

    /// A command that only fetches or asks needs no fixed port, and leaves alone what others began to fetch and what
    /// changed on disk.
    pub(crate) const fn for_one_purpose(&mut self) {
        self.node.resume = false;
        self.node.watch = false;
        self.take_free_ports();
    }

    /// Runs beside a node that has the usual ports, unless others were asked for.
    pub(crate) const fn take_free_ports(&mut self) {
        if !self.ports_given {
            self.node.port = 0;
            self.node.file_port = 0;
        }
    }
}

fn read(path: &Path) -> Result<Options, Failure> {
    let fail = |detail: String| Failure::usage("config", format!("{}: {detail}", path.display()));
    let file = std::fs::File::open(path).map_err(|e| fail(e.to_string()))?;
    let mut text = String::new();
    file.take(MAX_CONFIG_FILE + 1).read_to_string(&mut text).map_err(|e| fail(e.to_string()))?;
    if text.len() as u64 > MAX_CONFIG_FILE {
        return Err(fail(format!("larger than {MAX_CONFIG_FILE} bytes; this is no config file")));
    }
    toml::from_str(&text).map_err(|e| fail(e.to_string().trim_end().to_owned()))
}

/// What was typed or set in the environment, else what the file says.
fn merge(typed: Options, file: Options) -> Options {
    let logged = typed.verbose > 0 || typed.quiet > 0;
    Options {
        data: typed.data.or(file.data),
        content: typed.content.or(file.content),
        config: typed.config,
        host: typed.host.or(file.host),
        port: typed.port.or(file.port),
        file_port: typed.file_port.or(file.file_port),
        connect: if typed.connect.is_empty() { file.connect } else { typed.connect },
        name: typed.name.or(file.name),
        up: typed.up.or(file.up),
        up_peer: typed.up_peer.or(file.up_peer),
        down: typed.down.or(file.down),
        down_peer: typed.down_peer.or(file.down_peer),
        no_discover: typed.no_discover.or(file.no_discover),
        allow_private: typed.allow_private.or(file.allow_private),
        no_upnp: typed.no_upnp.or(file.no_upnp),
        no_watch: typed.no_watch.or(file.no_watch),
        no_lan: typed.no_lan.or(file.no_lan),
        dht: typed.dht.or(file.dht),
        secret_file: typed.secret_file.or(file.secret_file),
        api: typed.api.or(file.api),
        no_api: typed.no_api.or(file.no_api),
        json: typed.json.or(file.json),
        verbose: if logged { typed.verbose } else { file.verbose },
        quiet: if logged { typed.quiet } else { file.quiet },
        log: typed.log.or(file.log),
        color: typed.color.or(file.color),
    }
}

/// Both promise protection or reach that nothing provides yet: going on without would be worse than not to start.
fn refuse_what_is_not_there(options: &Options) -> Result<(), Failure> {
    if options.secret_file.is_some() {
        let why = "--secret-file is not there yet: the network would not be private; leave it out";
        return Err(Failure::usage("not_there_yet", why));
    }
    if options.api.is_some() {
        let why = "--api is not there yet: there is no control API to listen; leave it out";
        return Err(Failure::usage("not_there_yet", why));
    }
    Ok(())
}

fn target(text: &str) -> Result<Target, Failure> {
    text.parse::<Target>().map_err(|e| Failure::usage("bad_address", format!("--connect: {e}")))
}

fn default_data_dir() -> Result<PathBuf, Failure> {
    etcetera::base_strategy::choose_native_strategy().map(|folders| folders.data_dir().join("p2p")).map_err(
        |_| Failure::usage("no_data_dir", "there is no home directory; name a data directory with --data"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Options, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn every_option_has_a_key() {
        use clap::CommandFactory as _;
        for argument in crate::args::Cli::command().get_arguments() {
            let Some(name) = argument.get_long().filter(|n| !["config", "help", "version"].contains(n))
            else {
                continue;
            };
            let error = file(&format!("{name} = []")).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(!error.contains("unknown field"), "{name}: {error}");
        }
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = file("port = 1\nprot = 2").unwrap_err().to_string();
        assert!(error.contains("prot"), "{error}");
    }

    #[test]
    fn what_is_typed_counts_more_than_the_file() {
        let typed = Options { port: Some(1), no_upnp: Some(false), ..Options::default() };
        let merged = merge(typed, file("port = 2\nfile-port = 3\nno-upnp = true\nconnect = ['a']").unwrap());
        assert_eq!((merged.port, merged.file_port, merged.no_upnp), (Some(1), Some(3), Some(false)));
        assert_eq!(merged.connect, ["a"]);
    }
}
