//! The SHA-256 of a file, to see whether two are the same.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

pub(crate) fn digest(path: &Path) -> Result<[u8; 32]> {
    let named = || path.display().to_string();
    let mut file = File::open(path).with_context(named)?;
    let (mut buffer, mut hash) = (vec![0; 1 << 18], Sha256::new());
    loop {
        match file.read(&mut buffer).with_context(named)? {
            0 => return Ok(hash.finalize().into()),
            n => hash.update(&buffer[..n]),
        }
    }
}
