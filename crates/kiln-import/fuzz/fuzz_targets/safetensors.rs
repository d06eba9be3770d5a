//! Any bytes as a safetensors file: an error or tensors, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = kiln_import::safetensors::from_bytes(&bytes::Bytes::copy_from_slice(data));
});
