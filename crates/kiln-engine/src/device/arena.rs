//! Host memory for the CPU device: aligned blocks, and safe simultaneous access to disjoint ranges of one.

use std::ops::Range;

const LINE: usize = 64;

/// A block of host memory that starts on a cache line.
pub struct Block {
    storage: Vec<u8>,
    start: usize,
    bytes: usize,
}

impl Block {
    /// A zeroed block, or `None` if there is not the memory.
    pub fn new(bytes: usize) -> Option<Block> {
        let total = bytes.checked_add(LINE)?;
        let mut storage = kiln_host::reserve(total).ok()?;
        storage.resize(total, 0);
        let start = storage.as_ptr().align_offset(LINE);
        Some(Block { storage, start, bytes })
    }

    /// Read access.
    pub fn bytes(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.bytes]
    }

    /// Write access.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.bytes]
    }
}

/// Splits `block` into the ranges of `writes` (mutable, in the order given) and the stretches between them. `None` if writes overlap
/// or leave the block.
pub fn split<'a>(block: &'a mut [u8], writes: &[Range<usize>]) -> Option<(Vec<&'a mut [u8]>, Gaps<'a>)> {
    let mut order: Vec<usize> = (0..writes.len()).collect();
    order.sort_by_key(|&i| (writes[i].start, writes[i].end));
    let mut outputs: Vec<(usize, &mut [u8])> = Vec::with_capacity(writes.len());
    let mut gaps = Vec::with_capacity(writes.len() + 1);
    let (mut rest, mut at) = (block, 0);
    for i in order {
        let range = &writes[i];
        let (gap, tail) = rest.split_at_mut_checked(range.start.checked_sub(at)?)?;
        let (output, tail) = tail.split_at_mut_checked(range.len())?;
        gaps.push((at, &*gap));
        outputs.push((i, output));
        (rest, at) = (tail, range.end);
    }
    gaps.push((at, &*rest));
    outputs.sort_by_key(|(i, _)| *i);
    Some((outputs.into_iter().map(|(_, o)| o).collect(), Gaps(gaps)))
}

/// The readable stretches that [`split`] left, with their offsets in the block.
pub struct Gaps<'a>(Vec<(usize, &'a [u8])>);

impl<'a> Gaps<'a> {
    /// A range of the block, if no write took a part of it.
    pub fn get(&self, range: Range<usize>) -> Option<&'a [u8]> {
        if range.is_empty() {
            return Some(&[]);
        }
        let i = self.0.partition_point(|(at, gap)| at + gap.len() <= range.start);
        let (at, gap) = self.0.get(i)?;
        gap.get(range.start.checked_sub(*at)?..range.end - at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_come_back_in_order_and_reads_avoid_them() {
        let mut block = Block::new(100).unwrap();
        assert_eq!(block.bytes().as_ptr().align_offset(LINE), 0);
        for (i, b) in block.bytes_mut().iter_mut().enumerate() {
            *b = i as u8;
        }
        let (writes, gaps) = split(block.bytes_mut(), &[50..60, 10..20, 60..60]).unwrap();
        assert_eq!((writes[0][0], writes[1][0], writes[2].len()), (50, 10, 0));
        assert_eq!(gaps.get(20..50).unwrap()[0], 20);
        assert_eq!(gaps.get(60..100).unwrap().len(), 40);
        assert!(gaps.get(15..25).is_none() && gaps.get(0..11).is_none() && gaps.get(90..101).is_none());
        assert!(split(block.bytes_mut(), &[0..10, 5..15]).is_none());
        assert!(split(block.bytes_mut(), &[20..30, 90..101]).is_none());
    }
}
