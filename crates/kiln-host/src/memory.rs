//! Memory that is asked for before it is used. Linux grants any allocation and kills the process that touches it, so the allocator's word is not enough.

use std::fmt;
use std::fs;

/// More memory was asked for than there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub bytes: usize,
    /// Bytes that there are, where the system tells.
    pub available: Option<u64>,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of memory are needed", self.bytes)?;
        match self.available {
            Some(available) => write!(f, ", and {available} are available"),
            None => write!(f, ", which are not available"),
        }
    }
}

impl std::error::Error for OutOfMemory {}

/// Fewer bytes than this are not worth asking the system for, which takes longer than most launches.
const SMALL: usize = 64 << 20;

/// An error if the machine cannot provide that many bytes now.
pub fn check_memory(bytes: usize) -> Result<(), OutOfMemory> {
    if bytes < SMALL {
        return Ok(());
    }
    let available = available();
    match available {
        Some(n) if bytes as u64 > n => Err(OutOfMemory { bytes, available }),
        _ => Ok(()),
    }
}

/// An empty vector with room for that many bytes, if they can be had.
pub fn reserve(bytes: usize) -> Result<Vec<u8>, OutOfMemory> {
    check_memory(bytes)?;
    let mut memory = Vec::new();
    memory.try_reserve_exact(bytes).map_err(|_| OutOfMemory { bytes, available: None })?;
    Ok(memory)
}

/// Bytes that can be used without swapping or being killed: what Linux reckons available, and no more than the limit of the control group.
fn available() -> Option<u64> {
    let free = available_in(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    Some(limit.map_or(free, |limit: u64| free.min(limit)))
}

fn available_in(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_has_is_refused() {
        assert!(reserve(1 << 50).is_err() && reserve(usize::MAX).is_err());
        assert_eq!(reserve(1000).unwrap().capacity(), 1000);
        assert_eq!(available_in("MemTotal: 9 kB\nMemAvailable:    7 kB\n"), Some(7 * 1024));
        assert_eq!(available_in("MemTotal: 9 kB\n"), None);
        let error = OutOfMemory { bytes: 9, available: Some(7) };
        assert_eq!(error.to_string(), "9 bytes of memory are needed, and 7 are available");
    }
}
