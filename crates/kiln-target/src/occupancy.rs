//! How many blocks of a kernel are resident on one SM at a time.
//!
//! The formula of the CUDA occupancy calculator: registers are allotted a warp at a time in units of 256, shared memory in units of
//! 128 bytes (256 on Turing) plus 1 KiB a block that the system keeps from sm_80 on.

use crate::arch::Arch;

/// What one block of a kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockResources {
    /// Threads.
    pub threads: u32,
    /// 32-bit registers a thread.
    pub registers: u32,
    /// Shared memory in bytes, static and dynamic together.
    pub shared_bytes: u32,
}

/// Occupancy of one SM.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Occupancy {
    /// Resident blocks.
    pub blocks: u32,
    /// Resident warps.
    pub warps: u32,
    /// Resident warps over the most the SM holds.
    pub fraction: f64,
    /// What stops one more block.
    pub limit: Limit,
}

/// The resource that runs out first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Block slots.
    Blocks,
    /// Thread slots.
    Threads,
    /// The register file.
    Registers,
    /// Shared memory.
    Shared,
}

/// The occupancy of a kernel; `None` when one block alone does not fit on an SM.
pub fn occupancy(arch: Arch, block: BlockResources) -> Option<Occupancy> {
    let warps = block.threads.div_ceil(32);
    if warps == 0
        || block.threads > 1024
        || block.registers > arch.max_registers_per_thread()
        || block.shared_bytes > arch.max_shared_per_block()
    {
        return None;
    }
    let registers_per_warp = (block.registers.max(1) * 32).next_multiple_of(256);
    let by_registers = arch.registers_per_sm() / registers_per_warp / warps;
    let unit = if arch.capability() >= 80 { 128 } else { 256 };
    let shared = (block.shared_bytes + arch.reserved_shared_per_block()).next_multiple_of(unit);
    let by_shared = arch.shared_per_sm().checked_div(shared).unwrap_or(u32::MAX);
    let by_threads = arch.max_threads_per_sm() / 32 / warps;
    let by_slots = arch.max_blocks_per_sm();
    let (blocks, limit) = [
        (by_slots, Limit::Blocks),
        (by_threads, Limit::Threads),
        (by_registers, Limit::Registers),
        (by_shared, Limit::Shared),
    ]
    .into_iter()
    .min_by_key(|(blocks, _)| *blocks)?;
    if blocks == 0 {
        return None;
    }
    let resident = blocks * warps;
    let fraction = f64::from(resident) / f64::from(arch.max_threads_per_sm() / 32);
    Some(Occupancy { blocks, warps: resident, fraction, limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(arch: Arch, threads: u32, registers: u32, shared_bytes: u32) -> Option<Occupancy> {
        occupancy(arch, BlockResources { threads, registers, shared_bytes })
    }

    #[test]
    fn known_kernels() {
        // 256 threads x 32 registers fill an A100 SM: 8 blocks, 64 warps.
        let full = on(Arch::Sm80, 256, 32, 0).unwrap();
        assert_eq!((full.blocks, full.warps, full.fraction), (8, 64, 1.0));
        // 128 registers: 65536 / (128 * 256) = 2 blocks.
        let heavy = on(Arch::Sm80, 256, 128, 0).unwrap();
        assert_eq!((heavy.blocks, heavy.limit), (2, Limit::Registers));
        // 100 KiB of 228: 2 blocks.
        let shared = on(Arch::Sm90a, 128, 64, 100 << 10).unwrap();
        assert_eq!((shared.blocks, shared.limit), (2, Limit::Shared));
        assert_eq!(on(Arch::Sm75, 64, 16, 0).unwrap().blocks, 16);
    }

    #[test]
    fn what_cannot_launch_has_no_occupancy() {
        assert!(on(Arch::Sm80, 2048, 32, 0).is_none());
        assert!(on(Arch::Sm80, 1024, 128, 0).is_none());
        assert!(on(Arch::Sm86, 128, 32, 100 << 10).is_none());
        assert!(on(Arch::Sm80, 0, 32, 0).is_none());
    }
}
