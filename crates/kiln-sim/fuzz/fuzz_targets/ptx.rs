//! Any bytes as PTX: parsed and decoded, or an error, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(module) = kiln_sim::Module::parse(&String::from_utf8_lossy(data)) else { return };
    for entry in module.entries() {
        let _ = module.kernel(&entry.name);
    }
});
