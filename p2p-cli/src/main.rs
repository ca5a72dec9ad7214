//! p2p: find each other, talk and share files, with no server.
fn main() {}
