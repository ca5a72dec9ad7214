//! A peer-to-peer node: links, discovery, broadcast and files behind one handle.
