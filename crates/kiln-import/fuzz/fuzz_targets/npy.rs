//! Any bytes as a NumPy array: an error or a tensor, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = kiln_import::npy::from_bytes(data, "fuzz");
});
