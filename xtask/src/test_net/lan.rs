//! A network of its own for a test: two bridges, a cable between them that can be cut, and a network namespace with
//! an address of its own for each node. All of it lies in namespaces that end with the process that made them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};

use crate::test_net::node::Place;
use crate::workspace;

/// One half of the nodes hangs on each.
const BRIDGES: [&str; 2] = ["east", "west"];
/// The end of the cable that is set down and up.
const CABLE: &str = "cable-e";

/// Why this machine has no such network, if it has none.
pub(crate) fn missing() -> Option<&'static str> {
    if !cfg!(target_os = "linux") {
        return Some("network namespaces are Linux's");
    }
    let works = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if !works(Command::new("ip").arg("-V")) {
        return Some("`ip` is not installed (Debian: iproute2)");
    }
    if !works(unshare().arg("true")) {
        return Some("the kernel grants no user and network namespaces");
    }
    None
}

/// A namespace of users too: so it needs no root, and root in there is nobody outside.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "--mount", "--fork", "--kill-child"]);
    command
}

/// Runs this program once more, in namespaces of its own, and ends as it ends.
pub(crate) fn inside(args: &[String]) -> Result<ExitCode> {
    let this = std::env::current_exe().context("where this program is")?;
    let status = unshare().arg(this).args(args).status().context("unshare")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(crate) struct Lan {
    pub(crate) places: Vec<Place>,
}

impl Lan {
    /// Builds it for so many nodes; even ones hang on one bridge, odd ones on the other.
    pub(crate) fn new(nodes: usize) -> Result<Self> {
        // `ip netns` keeps its names in /run, which is our own from here on.
        workspace::run(Command::new("mount").args(["-t", "tmpfs", "none", "/run"]))?;
        let mut ip = String::from("link set lo up\n");
        for bridge in BRIDGES {
            writeln!(ip, "link add {bridge} type bridge\nlink set {bridge} up")?;
        }
        writeln!(ip, "link add {CABLE} type veth peer name cable-w")?;
        writeln!(ip, "link set {CABLE} master {} up\nlink set cable-w master {} up", BRIDGES[0], BRIDGES[1])?;
        let mut places = Vec::new();
        for i in 0..nodes {
            writeln!(ip, "netns add n{i}\nlink add v{i} type veth peer name eth0 netns n{i}")?;
            writeln!(ip, "link set v{i} master {} up", BRIDGES[i % 2])?;
            let host = IpAddr::V4(Ipv4Addr::new(10, 77, 0, u8::try_from(i + 1)?));
            let namespace = Some(Path::new("/run/netns").join(format!("n{i}")));
            places.push(Place { host, namespace, years: 0 });
        }
        batch(None, &ip)?;
        for (i, place) in places.iter().enumerate() {
            let ip = format!("addr add {}/16 dev eth0\nlink set eth0 up\nlink set lo up\n", place.host);
            batch(Some(&format!("n{i}")), &ip)?;
        }
        Ok(Self { places })
    }

    /// Nothing passes from one bridge to the other, and nobody is told.
    pub(crate) fn cut(&self) -> Result<()> {
        batch(None, &format!("link set {CABLE} down\n"))
    }

    pub(crate) fn heal(&self) -> Result<()> {
        batch(None, &format!("link set {CABLE} up\n"))
    }
}

/// Commands for `ip`, in a namespace of nodes or our own.
fn batch(namespace: Option<&str>, commands: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    let mut ip = command.args(["-batch", "-"]).stdin(Stdio::piped()).spawn().context("ip")?;
    ip.stdin.take().context("standard input was piped")?.write_all(commands.as_bytes())?;
    let status = ip.wait()?;
    ensure!(status.success(), "`ip` ended with {status} at\n{commands}");
    Ok(())
}
