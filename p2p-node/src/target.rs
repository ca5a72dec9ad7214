//! What a person types to name another node.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use p2p_wire::{NodeId, ParseTicketError, Ticket};

use crate::config::DEFAULT_PORT;

/// Who to connect to: an address, a host name, a ticket, or the id of a peer already known.
///
/// ```
/// use p2p_node::Target;
///
/// assert!(matches!("192.0.2.7".parse(), Ok(Target::Addr(a)) if a.port() == 65432));
/// assert!(matches!("[2001:db8::1]:7000".parse(), Ok(Target::Addr(a)) if a.port() == 7000));
/// assert!(matches!("example.org:7000".parse(), Ok(Target::Host(_, 7000))));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An IP address and a port.
    Addr(SocketAddr),
    /// A host name and a port; every address it resolves to is tried.
    Host(String, u16),
    /// A ticket: the id is known beforehand and anybody else who answers is refused.
    Ticket(Box<Ticket>),
    /// A peer whose addresses this node has already learned.
    Peer(NodeId),
}

/// The text names no node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseTargetError {
    /// The text is empty.
    #[error("an address, a ticket or an id is needed")]
    Empty,
    /// It starts like a ticket and is none.
    #[error("not a usable ticket: {0}")]
    Ticket(#[source] ParseTicketError),
    /// Neither an address nor a host name.
    #[error("`{0}` is neither IP, IP:PORT, HOST, HOST:PORT, a ticket nor an id of 64 hex digits")]
    Address(String),
}

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.is_empty() {
            return Err(ParseTargetError::Empty);
        }
        // A ticket, unless it is a host of that name and its port: no ticket is that short.
        if text.len() > 4
            && text.is_char_boundary(4)
            && text[..4].eq_ignore_ascii_case("p2p:")
            && text[4..].parse::<u16>().is_err()
        {
            let ticket = text.parse().map_err(ParseTargetError::Ticket)?;
            return Ok(Self::Ticket(Box::new(ticket)));
        }
        if text.len() == 64
            && let Ok(id) = text.parse()
        {
            return Ok(Self::Peer(id));
        }
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Ok(Self::Addr(addr));
        }
        if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(Self::Addr(SocketAddr::new(ip, DEFAULT_PORT)));
        }
        host(text).ok_or_else(|| ParseTargetError::Address(text.to_owned()))
    }
}

/// `HOST` or `HOST:PORT` with the characters of a host name (RFC 1123, and `_` as seen in the wild).
fn host(text: &str) -> Option<Target> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().ok().filter(|p| *p != 0)?),
        None => (text, DEFAULT_PORT),
    };
    let usable = !name.is_empty()
        && name.len() <= 253
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    usable.then(|| Target::Host(name.to_owned(), port))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => addr.fmt(f),
            Self::Host(name, port) => write!(f, "{name}:{port}"),
            Self::Ticket(ticket) => ticket.fmt(f),
            Self::Peer(id) => id.fmt(f),
        }
    }
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        Self::Addr(addr)
    }
}

impl From<Ticket> for Target {
    fn from(ticket: Ticket) -> Self {
        Self::Ticket(Box::new(ticket))
    }
}

impl From<NodeId> for Target {
    fn from(id: NodeId) -> Self {
        Self::Peer(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_name_no_node_are_refused() {
        for bad in ["", "  ", "a b", "host:", "host:0", "host:65536", ":7", "p2p:", "p2p:zzzz", "a/b", "é"] {
            assert!(bad.parse::<Target>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_missing_port_is_the_default_one() {
        assert_eq!("::1".parse(), Ok(Target::Addr("[::1]:65432".parse().unwrap())));
        assert_eq!("p2p:7000".parse(), Ok(Target::Host("p2p".into(), 7000)));
        assert_eq!("localhost".parse(), Ok(Target::Host("localhost".into(), DEFAULT_PORT)));
    }
}
