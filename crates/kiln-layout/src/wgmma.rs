//! Matrix descriptors: how wgmma finds an operand in shared memory.

use crate::{SharedLayout, SwizzleMode};

/// Bytes along k that one instruction takes of a K-major operand, whatever the type.
const K_BYTES: u32 = 32;

/// Which axis of an operand is dense in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Major {
    /// k.
    K,
    /// m of A, n of B: 16-bit types only.
    Mn,
}

/// The fields of a descriptor, and where each instruction's operand starts (PTX ISA, "Matrix Descriptor Format", "Strides").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WgmmaDescriptor {
    /// Which axis is dense: the instruction's transpose immediate is 1 for [`Major::Mn`].
    pub major: Major,
    /// "Leading dimension byte offset".
    pub leading: u32,
    /// "Stride dimension byte offset".
    pub stride: u32,
    /// Swizzle mode.
    pub swizzle: SwizzleMode,
    /// Bytes to the start of each instruction along k.
    pub k_offsets: Vec<u32>,
    /// Bytes to the start of each instruction along m or n; they add to those of k.
    pub mn_offsets: Vec<u32>,
}

impl WgmmaDescriptor {
    /// The descriptor's bits but for the start address: `bits() | address >> 4 & 0x3fff`.
    pub fn bits(&self) -> u64 {
        let field = |bytes: u32| u64::from(bytes >> 4 & 0x3fff);
        field(self.leading) << 16 | field(self.stride) << 32 | self.swizzle.descriptor_code() << 62
    }

    /// What the hardware adds to the start for an element of one instruction, before the swizzle: the canonical layouts of CUTLASS's
    /// `mma_traits_sm90_gmma.hpp`.
    fn reads(&self, mn: u32, k: u32, bytes: u32) -> u32 {
        let span = self.swizzle.span();
        let dense = if self.major == Major::K { k } else { mn } * bytes;
        let across = if self.major == Major::K { mn } else { k };
        let (piece, row, group) = (dense / span, across % 8 * span, across / 8);
        let (per_piece, per_group) = match (self.major, self.swizzle) {
            (Major::Mn, SwizzleMode::None) => (self.stride, self.leading),
            _ => (self.leading, self.stride),
        };
        dense % span + row + piece * per_piece + group * per_group
    }
}

impl SharedLayout {
    /// The descriptor for an operand of wgmma whose axes are `mn` and `k`, with `extent` of m or n an instruction (64, or N); `None` where
    /// the instruction cannot read this layout.
    pub fn wgmma_descriptor(&self, mn: usize, k: usize, extent: u32) -> Option<WgmmaDescriptor> {
        let bytes = self.element_bytes();
        let swizzle = self.swizzle().mode()?;
        let shape = self.shape();
        let (rows, depth) = (*shape.get(mn)?, *shape.get(k)?);
        let others = shape.iter().enumerate().any(|(axis, &extent)| axis != mn && axis != k && extent != 1);
        let each = K_BYTES / bytes;
        if mn == k
            || others
            || !matches!(bytes, 1 | 2 | 4)
            || extent == 0
            || rows % extent != 0
            || !extent.is_multiple_of(8)
            || depth % each != 0
        {
            return None;
        }
        let major = if self.fastest() == Some(k) { Major::K } else { Major::Mn };
        if major == Major::Mn && bytes != 2 {
            return None;
        }
        let at = |row: u32, deep: u32| {
            let mut coordinate = vec![0; shape.len()];
            (coordinate[mn], coordinate[k]) = (row, deep);
            self.linear(&coordinate)
        };
        // Fields that one instruction never uses are 16 bytes, so that they are never zero.
        let per = swizzle.span() / bytes;
        let step = |along_k: bool, from: u32, most: u32| match (from < most, along_k) {
            (false, _) => 16,
            (true, true) => at(0, from),
            (true, false) => at(from, 0),
        };
        let (leading, stride) = match (major, swizzle) {
            (Major::K, SwizzleMode::None) => (step(true, per, each), step(false, 8, extent)),
            (Major::K, _) => (16, step(false, 8, extent)),
            (Major::Mn, SwizzleMode::None) => (step(true, 8, each), step(false, per, extent)),
            (Major::Mn, _) => (step(false, per, extent), step(true, 8, each)),
        };
        let k_offsets = (0..depth / each).map(|i| at(0, i * each)).collect();
        let mn_offsets = (0..rows / extent).map(|i| at(i * extent, 0)).collect();
        let found = WgmmaDescriptor { major, leading, stride, swizzle, k_offsets, mn_offsets };
        // Of one 16-byte row all bytes follow the first.
        let (mn_step, k_step) = if major == Major::K { (1, 16 / bytes) } else { (16 / bytes, 1) };
        let whole = self.contiguous(if major == Major::K { k } else { mn }) * bytes >= 16;
        let reads = |row: u32, deep: u32| {
            let start = found.mn_offsets[(row / extent) as usize] + found.k_offsets[(deep / each) as usize];
            start + found.reads(row % extent, deep % each, bytes) == at(row, deep)
        };
        let agrees = (0..rows)
            .step_by(mn_step as usize)
            .all(|row| (0..depth).step_by(k_step as usize).all(|deep| reads(row, deep)));
        // A start may be inside a span, but only in the first row of the swizzle's pattern (its base offset is zero).
        let period = self.swizzle().period().max(16);
        let fits =
            [found.leading, found.stride].iter().all(|field| (*field == 16 || field % period == 0) && *field < 1 << 18);
        let starts = found
            .k_offsets
            .iter()
            .chain(&found.mn_offsets)
            .all(|start| start % 16 == 0 && start % period < swizzle.span());
        (whole && agrees && fits && starts).then_some(found)
    }
}
