//! Maps one TCP port on the router until Ctrl-C: `cargo run -p p2p-upnp --example map 8080`.

#![expect(clippy::print_stdout, reason = "a program for the terminal")]

use p2p_upnp::{Config, Mapper, Status};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let Some(port) = std::env::args().nth(1).and_then(|port| port.parse().ok()) else {
        eprintln!("usage: map PORT");
        std::process::exit(2);
    };
    let config = Config { ports: vec![port], ..Config::default() };
    if let Err(error) = config.validate() {
        eprintln!("{error}");
        std::process::exit(2);
    }
    let mapper = Mapper::spawn(config);
    let mut status = mapper.status();
    status.mark_changed();
    loop {
        tokio::select! {
            changed = status.changed() => match changed {
                Ok(()) => show(&status.borrow_and_update()),
                Err(_) => break,
            },
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    mapper.close().await;
    println!("removed");
}

fn show(status: &Status) {
    match status {
        Status::Searching => println!("looking for a router"),
        Status::NoRouter => println!("no router that maps ports"),
        Status::Mapped { mappings } => {
            for mapping in mappings {
                println!("port {} is {}", mapping.local_port, mapping.external);
            }
        }
        Status::DoubleNat { reported } => println!("the router's own address, {reported}, is not reachable"),
        Status::Failed { detail } => println!("failed: {detail}"),
        other => println!("{other:?}"),
    }
}
