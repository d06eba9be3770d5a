//! Read-only file mapping: the crate's only unsafe code.
#![allow(unsafe_code, reason = "memmap2 cannot know that nobody truncates the file")]

use crate::{Error, Result};
use bytes::Bytes;
use std::path::Path;

/// The contents of a file as shared bytes. Nothing is read before it is touched, and slices keep the mapping alive.
///
/// Like every memory mapping, it relies on the file not being truncated or rewritten in place while it is in use.
pub(crate) fn map(path: &Path) -> Result<Bytes> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let file = kiln_host::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the mapping is private and read-only, and model files are not modified while a model is loaded; that is
    // the documented condition of the public loaders.
    let mapping = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
    Ok(Bytes::from_owner(mapping))
}
