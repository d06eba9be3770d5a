//! Bank conflicts of accesses to shared memory.

use crate::{RegisterLayout, SharedLayout};
use std::ops::AddAssign;

/// Banks of shared memory, each 4 bytes wide.
const BANKS: u32 = 32;

/// Passes over the banks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conflicts {
    /// Instructions, a warp each.
    pub requests: u32,
    /// Passes that they take.
    pub wavefronts: u32,
    /// Passes that their words would take if spread evenly.
    pub ideal: u32,
}

impl Conflicts {
    /// Whether no access waits for another.
    pub fn is_free(self) -> bool {
        self.wavefronts == self.ideal
    }
}

impl AddAssign for Conflicts {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.wavefronts += other.wavefronts;
        self.ideal += other.ideal;
    }
}

/// The passes of one warp's access of `bytes` at each of its lanes' byte addresses: lanes go in halves where they move 8 bytes, in
/// quarters where 16; a pass serves every bank once, and lanes that want the same word share it.
pub fn wavefronts(addresses: &[u32], bytes: u32) -> Conflicts {
    let lanes = match bytes {
        0..=4 => 32,
        5..=8 => 16,
        _ => 8,
    };
    let mut total = Conflicts { requests: 1, ..Conflicts::default() };
    for part in addresses.chunks(lanes) {
        let mut words: Vec<u32> = part.iter().flat_map(|at| at / 4..=(at + bytes.max(1) - 1) / 4).collect();
        words.sort_unstable();
        words.dedup();
        let mut banks = [0; BANKS as usize];
        words.iter().for_each(|word| banks[(word % BANKS) as usize] += 1);
        total.wavefronts += banks.into_iter().max().unwrap_or(0);
        total.ideal += (words.len() as u32).div_ceil(BANKS);
    }
    total
}

impl SharedLayout {
    /// The passes that storing (or loading) a tile in registers takes, `vector` elements an access; `None` where so many registers do not
    /// lie together here.
    pub fn bank_conflicts(&self, registers: &RegisterLayout, vector: u32) -> Option<Conflicts> {
        let apart = vector > 1 && {
            let axis = self.fastest()?;
            !registers.contiguous(axis).is_multiple_of(vector) || !self.contiguous(axis).is_multiple_of(vector)
        };
        if vector == 0 || apart || registers.shape() != self.shape() {
            return None;
        }
        let mut total = Conflicts::default();
        let threads: Vec<u32> = (0..registers.threads()).collect();
        for register in (0..registers.registers()).step_by(vector as usize) {
            for warp in threads.chunks(32) {
                let at = |thread: &u32| self.offset(&registers.coordinate(register, *thread));
                let addresses: Vec<u32> = warp.iter().map(at).collect();
                total += wavefronts(&addresses, vector * self.element_bytes());
            }
        }
        Some(total)
    }
}
