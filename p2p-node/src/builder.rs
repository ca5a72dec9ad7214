//! [`NodeBuilder`]: setting up a node in one expression.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use p2p_wire::SecretKey;

use crate::config::{Config, Limits, LogMode};
use crate::error::StartError;
use crate::node::Node;
use crate::target::Target;

/// Sets up a [`Node`]; each method is the field of [`Config`] with its name.
#[derive(Debug, Clone, Default)]
pub struct NodeBuilder {
    config: Config,
}

/// From [`Config::open`], say.
impl From<Config> for NodeBuilder {
    fn from(config: Config) -> Self {
        Self { config }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty => $value:expr;)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $name: $type) -> Self {
            self.config.$name = $value;
            self
        }
    )*};
}

impl NodeBuilder {
    setters! {
        /// [`Config::data_dir`].
        data_dir: impl Into<PathBuf> => Some(data_dir.into());
        /// [`Config::key`].
        key: SecretKey => Some(key);
        /// [`Config::host`].
        host: impl Into<IpAddr> => Some(host.into());
        /// [`Config::port`].
        port: u16 => port;
        /// [`Config::file_port`].
        file_port: u16 => file_port;
        /// [`Config::name`].
        name: impl Into<String> => Some(name.into());
        /// [`Config::agent`].
        agent: impl Into<String> => agent.into();
        /// [`Config::discover`].
        discover: bool => discover;
        /// [`Config::allow_private`].
        allow_private: bool => allow_private;
        /// [`Config::upnp`].
        upnp: bool => upnp;
        /// [`Config::content_dir`].
        content_dir: impl Into<PathBuf> => Some(content_dir.into());
        /// [`Config::resume`].
        resume: bool => resume;
        /// [`Config::watch`].
        watch: bool => watch;
        /// [`Config::topics`].
        topics: BTreeSet<String> => Some(topics);
        /// [`Config::receipts`].
        receipts: bool => receipts;
        /// [`Config::log`].
        log: LogMode => log;
        /// [`Config::limits`].
        limits: Limits => limits;
    }

    /// Adds to [`Config::connect`].
    #[must_use]
    pub fn connect(mut self, target: impl Into<Target>) -> Self {
        self.config.connect.push(target.into());
        self
    }

    /// Starts the node.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start(self) -> Result<Node, StartError> {
        Node::start(self.config).await
    }
}
