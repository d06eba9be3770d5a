//! Bytes of memory that hold a part of a register which nothing had written.

use std::collections::HashMap;

/// The store that left them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub pc: u32,
    pub block: [u32; 3],
    pub thread: [u32; 3],
}

/// Whose memory: the device's, that of a CTA's shared memory, or of one thread's local memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Owner {
    Device,
    Cta(usize),
    /// Warp of the cluster and lane.
    Thread(usize, usize),
}

/// Undefined bytes by owner and word.
#[derive(Default)]
pub(crate) struct UndefinedBytes(HashMap<(Owner, u64), (u8, Origin)>);

impl UndefinedBytes {
    /// Which of `bytes` bytes from `at` on are undefined, the first in bit 0.
    pub(crate) fn get(&self, owner: Owner, at: u64, bytes: u32) -> u32 {
        if self.0.is_empty() {
            return 0;
        }
        (0..bytes).fold(0, |all, i| {
            let byte = at + u64::from(i);
            let word = self.0.get(&(owner, byte / 4)).map_or(0, |(mask, _)| *mask);
            all | u32::from(word >> (byte % 4) & 1) << i
        })
    }

    /// Says which of `bytes` bytes from `at` on are undefined after a store. A word keeps the first store that left some of it so.
    pub(crate) fn set(&mut self, owner: Owner, at: u64, bytes: u32, undefined: u32, origin: Origin) {
        if self.0.is_empty() && undefined == 0 {
            return;
        }
        for i in 0..bytes {
            let byte = at + u64::from(i);
            let (key, bit) = ((owner, byte / 4), 1 << (byte % 4));
            if undefined >> i & 1 != 0 {
                let cell = self.0.entry(key).or_insert((0, origin));
                cell.0 |= bit;
            } else if let Some((mask, _)) = self.0.get_mut(&key) {
                *mask &= !bit;
                if *mask == 0 {
                    self.0.remove(&key);
                }
            }
        }
    }

    /// What is left, by ascending address: the word's address and the store.
    pub(crate) fn left(&self) -> Vec<(u64, Origin)> {
        let mut left: Vec<_> = self.0.iter().map(|((owner, word), (_, origin))| (*owner, word * 4, *origin)).collect();
        left.sort_unstable_by_key(|(owner, at, _)| (*owner, *at));
        left.into_iter().map(|(_, at, origin)| (at, origin)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_undefined_until_they_are_overwritten() {
        let origin = Origin { pc: 7, block: [0; 3], thread: [3, 0, 0] };
        let mut bytes = UndefinedBytes::default();
        bytes.set(Owner::Device, 6, 8, 0b1111_0110, origin);
        assert_eq!(bytes.get(Owner::Device, 4, 8), 0b1101_1000);
        assert_eq!(bytes.get(Owner::Cta(0), 4, 8), 0);
        bytes.set(Owner::Device, 8, 2, 0, origin);
        assert_eq!(bytes.get(Owner::Device, 6, 8), 0b1111_0010);
        assert_eq!(bytes.left().len(), 3);
        bytes.set(Owner::Device, 4, 16, 0, origin);
        assert!(bytes.left().is_empty());
    }
}
