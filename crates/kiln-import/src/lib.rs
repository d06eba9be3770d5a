//! Models from files, lowered onto a `kiln-graph` [`Graph`](kiln_graph::Graph).
//!
//! Knows: the ONNX format and the meaning of its operators in every opset, safetensors, and Hugging Face's `config.json` for
//! encoders of the BERT family. Files are memory-mapped and weights are slices of the mapping, never copies.
//!
//! Must not know: GPUs, fusion, or how a graph is executed. Its only use of execution is the reference interpreter, which folds
//! small constants.
//!
//! Input is hostile until proven otherwise: a malformed file is an error, never a panic, and nothing is allocated from a length
//! field that the file's own size does not back.
#![deny(unsafe_code)]

mod error;
pub mod hf;
mod mapped;
mod nibbles;
pub mod npy;
pub mod onnx;
pub mod safetensors;

pub use error::{Error, Result, UnsupportedOp, UnsupportedOps};
pub use nibbles::declared;
