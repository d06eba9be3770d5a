//! Any bytes as the JSON header of an engine whose hash is right: an error or an engine, never a panic. What follows the first zero byte is its sections.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|&b| b == 0).unwrap_or(data.len());
    let (header, sections) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let mut file = b"KILNENG\0".to_vec();
    file.extend(u64::from(kiln_engine::FORMAT).to_le_bytes());
    file.extend((header.len() as u64).to_le_bytes());
    file.extend(blake3::hash(header).as_bytes());
    file.extend(header);
    file.resize(file.len().next_multiple_of(4096), 0);
    file.extend(sections);
    let _ = kiln_engine::parse(&file.into(), "fuzz".as_ref());
});
