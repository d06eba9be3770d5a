//! What this machine's memory has room for: a simulated device is made of it.

/// Bytes that are free, where the system says so.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Whether `bytes` may be taken: half of what is free, so that the rest of the work has room too. Where the system does not say, anything.
pub(crate) fn check_memory(bytes: u64) -> Result<(), String> {
    // Not worth asking.
    const SMALL: u64 = 1 << 24;
    match available().filter(|_| bytes > SMALL) {
        Some(free) if bytes > free / 2 => Err(format!("{bytes} bytes are more than half of the {free} that are free")),
        _ => Ok(()),
    }
}
