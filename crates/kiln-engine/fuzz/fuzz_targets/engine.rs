//! Any bytes as an engine: an error or an engine, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = kiln_engine::parse(&bytes::Bytes::copy_from_slice(data), "fuzz".as_ref());
});
