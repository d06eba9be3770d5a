//! Any bytes as an ONNX model: an error or a graph, never a panic.
#![no_main]

use kiln_import::onnx::{Options, import_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = import_bytes(bytes::Bytes::copy_from_slice(data), &Options::default());
});
