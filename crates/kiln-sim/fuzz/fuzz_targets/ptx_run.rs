//! Any PTX, run for a little while with every check on: a report or an error, never a panic. The first byte chooses the schedule.
#![no_main]

use kiln_sim::{Device, LaunchConfig, Module, Options};
use libfuzzer_sys::fuzz_target;
use std::time::Duration;

fuzz_target!(|data: &[u8]| {
    let Some((seed, text)) = data.split_first() else { return };
    let Ok(module) = Module::parse(&String::from_utf8_lossy(text)) else { return };
    for entry in module.entries().into_iter().take(2) {
        let Ok(kernel) = module.kernel(&entry.name) else { continue };
        let device = Device::new(1 << 24);
        let Ok(memory) = device.alloc(1 << 16) else { continue };
        // Every parameter is the same valid address.
        let bytes = kernel.params().iter().map(|(at, size)| (at + size) as usize).max().unwrap_or(0);
        let params: Vec<u8> = memory.to_le_bytes().into_iter().cycle().take(bytes).collect();
        let options = Options {
            seed: Some((*seed).into()),
            counters: seed % 2 == 0,
            budget: 20_000,
            timeout: Some(Duration::from_secs(1)),
            ..Options::default()
        };
        let config = LaunchConfig { shared: 1024, ..LaunchConfig::linear(2, 64) };
        let _ = device.launch_block(&kernel, config, &params, &options);
    }
});
