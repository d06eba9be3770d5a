//! The engine file.
//!
//! ```text
//! 0   8  magic "KILNENG\0"
//! 8   4  format version, little-endian u32
//! 12  4  zero
//! 16  8  header length in bytes, little-endian u64
//! 24  32 BLAKE3 of the header
//! 56     header: UTF-8 JSON (see `Header`), then zeros to the next multiple of 4096
//!        sections, each starting at a multiple of 4096
//!        a signature, if it is signed: "KILNSIG\0", 32 bytes of the signer's public key, 64 bytes of Ed25519 over all that stands before
//! ```
//! Equal inputs give equal bytes: nothing in it depends on time, paths or the machine.

mod header;
mod map;
mod read;
mod sign;
mod write;

pub use header::{FORMAT, Header, Section, Stamp, TargetHeader};
pub(crate) use map::map;
pub(crate) use read::{assemble, contents, format, header_of, model, version};
pub use read::{parse, read_header};
pub use sign::{PrivateKey, PublicKey, sign};

/// First bytes of every engine.
pub(crate) const MAGIC: &[u8; 8] = b"KILNENG\0";
/// Where the header starts.
pub(crate) const HEADER_AT: usize = 56;
/// Alignment of sections, bytes: a page.
pub(crate) const PAGE: usize = 4096;
/// Alignment of tensors within the weight section, bytes.
pub(crate) const TENSOR: usize = 256;
