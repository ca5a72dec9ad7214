//! A node that prints what it hears, the first lines of the README.
//!
//! ```sh
//! cargo run -p p2p-node --example on_message
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use p2p_node::{Event, Node};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = Node::builder().port(0).file_port(0).start().await?;
    let mut events = node.events();
    println!("a friend may say: connect {}", node.ticket());
    while let Some(event) = events.next().await {
        if let Event::Message(message) = event {
            println!("{}: {}", message.author.short(), message.text().unwrap_or("(not text)"));
            node.send_to(message.author, "got it").await?;
        }
    }
    Ok(())
}
