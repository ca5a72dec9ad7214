//! Verified file transfer by merkle root between peers, over any stream.
