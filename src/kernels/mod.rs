//! Kernels of one's own: files of them, and what checks them.

mod check;

pub use check::{Check, Checked, Failure, Level};
pub use kiln_kernels::own::{Candidate, Config, Instance, Kernel};

use crate::{Error, Result};
use kiln_kernels::own::{MOST_BYTES, from_text, to_text};
use std::borrow::Borrow;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

/// Writes kernels to a `.tile` file, which [`load`] and `--kernels` read: the functions that they implement, and a tile program for each Config.
///
/// # Errors
/// A file that cannot be written.
pub fn export(path: impl AsRef<Path>, kernels: &[impl Borrow<Kernel>]) -> Result<()> {
    let (path, text) = (path.as_ref(), to_text(kernels));
    kiln_host::write(path, |file| file.write_all(text.as_bytes())).map_err(|source| Error::KernelFile {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

/// Reads the kernels of a `.tile` file.
///
/// # Errors
/// A file that cannot be read, is too large, or is none of kernels, with the line at fault.
pub fn load(path: impl AsRef<Path>) -> Result<Vec<Arc<Kernel>>> {
    let path = path.as_ref();
    let failed = |source| Error::KernelFile { action: "read", path: path.to_owned(), source };
    let mut text = String::new();
    let file = kiln_host::open(path).map_err(failed)?;
    // One byte more tells a file that is larger.
    let read = file.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if read as u64 > MOST_BYTES {
        return Err(failed(std::io::Error::other(format!("it is larger than {MOST_BYTES} bytes"))));
    }
    let kernels = from_text(&text).map_err(|source| Error::KernelText { path: path.to_owned(), source })?;
    Ok(kernels.into_iter().map(Arc::new).collect())
}
