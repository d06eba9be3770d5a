//! What Kiln asks of the host: files that are regular or refused and are written whole or not at all, caches kept under a size, and memory
//! that is there before it is used.
//!
//! Must not know: what is in any of them.
#![forbid(unsafe_code)]

mod cache;
mod file;
mod memory;

pub use cache::{Cache, DEFAULT_LIMIT, Entry, Total, parse_size};
pub use file::{describe, destination, open, same, write};
pub use memory::{OutOfMemory, check_memory, reserve};
