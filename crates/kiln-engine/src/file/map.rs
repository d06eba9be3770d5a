//! The one place that maps a file.
#![allow(unsafe_code)]

use bytes::Bytes;
use std::path::Path;

/// Maps a whole file read-only.
pub fn map(path: &Path) -> std::io::Result<Bytes> {
    let file = kiln_host::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the mapping is private and read-only. Kiln replaces engines by rename and never writes one in place; a user who truncates
    // a file while it is mapped gets a signal, as with any mapped library.
    let mapped = unsafe { memmap2::Mmap::map(&file)? };
    Ok(Bytes::from_owner(mapped))
}
