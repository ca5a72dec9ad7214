//! Developer tasks of the p2p workspace.
fn main() {}
