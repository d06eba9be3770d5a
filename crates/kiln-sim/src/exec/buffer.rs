//! Global memory: allocations of atomic words, so that CTAs on different threads may race without undefined
//! behaviour, as on the device.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::check::GlobalShadow;

/// One allocation.
pub(crate) struct Buffer {
    pub base: u64,
    /// Length in bytes as asked for; accesses past it are out of bounds even inside the last word.
    pub len: u64,
    pub words: Box<[AtomicU32]>,
    pub shadow: GlobalShadow,
}

impl Buffer {
    pub(crate) fn new(base: u64, len: u64, fill: u32) -> Self {
        let words = len.div_ceil(4) as usize;
        Buffer { base, len, words: (0..words).map(|_| AtomicU32::new(fill)).collect(), shadow: GlobalShadow::default() }
    }

    /// Whether `bytes` bytes at `addr` lie inside.
    #[inline(always)]
    pub(crate) fn holds(&self, addr: u64, bytes: u64) -> bool {
        let off = addr.wrapping_sub(self.base);
        off < self.len && self.len - off >= bytes
    }

    /// Word at a byte offset (rounded down).
    #[inline(always)]
    pub(crate) fn word(&self, off: u64) -> u32 {
        self.words[(off / 4) as usize].load(Relaxed)
    }

    #[inline(always)]
    pub(crate) fn set_word(&self, off: u64, value: u32) {
        self.words[(off / 4) as usize].store(value, Relaxed);
    }

    /// Replaces the bits of `mask` in the word at a byte offset.
    pub(crate) fn set_bits(&self, off: u64, value: u32, mask: u32) {
        set_bits(&self.words[(off / 4) as usize], value, mask);
    }

    pub(crate) fn read(&self, off: u64, out: &mut [u8]) {
        for (i, byte) in out.iter_mut().enumerate() {
            let at = off + i as u64;
            *byte = (self.word(at) >> (8 * (at % 4))) as u8;
        }
    }

    pub(crate) fn write(&self, off: u64, data: &[u8]) {
        let (mut at, mut rest) = (off, data);
        while !rest.is_empty() {
            if at.is_multiple_of(4)
                && let Some((word, tail)) = rest.split_first_chunk::<4>()
            {
                self.set_word(at, u32::from_le_bytes(*word));
                (at, rest) = (at + 4, tail);
            } else {
                let shift = 8 * (at % 4);
                self.set_bits(at, u32::from(rest[0]) << shift, 0xff << shift);
                (at, rest) = (at + 1, &rest[1..]);
            }
        }
    }
}

/// Replaces the bits of `mask` in a word.
pub(crate) fn set_bits(word: &AtomicU32, value: u32, mask: u32) {
    let mut old = word.load(Relaxed);
    while let Err(now) = word.compare_exchange_weak(old, old & !mask | value & mask, Relaxed, Relaxed) {
        old = now;
    }
}
