//! Any bytes as an archive of NumPy arrays: an error or tensors, never a panic.
#![no_main]

use kiln_import::npy::Npz;
use libfuzzer_sys::fuzz_target;
use std::io::Cursor;

fuzz_target!(|data: &[u8]| {
    let Ok(mut archive) = Npz::new(Cursor::new(data), "fuzz".into()) else { return };
    for name in archive.names().to_vec() {
        let _ = archive.array(&name);
    }
});
