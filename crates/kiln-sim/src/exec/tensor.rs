//! Tensor maps: the simulator's own 128-byte encoding, and copies of boxes between tensors and shared memory.

use crate::decode::Ty;
use crate::error::{Error, Result};
use crate::launch::{Swizzle, TensorMap};

/// Size of an encoded map.
pub(crate) const MAP_BYTES: usize = 128;
const MAGIC: u32 = u32::from_le_bytes(*b"KTMA");

/// A decoded map with everything a copy needs.
#[derive(Clone, Debug)]
pub(crate) struct Map {
    pub rank: usize,
    pub ty: Ty,
    pub elem: u64,
    pub swizzle: Swizzle,
    pub nan_fill: bool,
    pub base: u64,
    pub dims: [u64; 5],
    /// Byte stride of each dimension.
    pub strides: [u64; 5],
    pub box_dims: [u64; 5],
    pub step: [u64; 5],
}

fn types() -> [(u8, Ty); 11] {
    [
        (0, Ty::U8),
        (1, Ty::U16),
        (2, Ty::U32),
        (3, Ty::S32),
        (4, Ty::U64),
        (5, Ty::S64),
        (6, Ty::F16),
        (7, Ty::F32),
        (8, Ty::F64),
        (9, Ty::Bf16),
        (10, Ty::Tf32),
    ]
}

impl Swizzle {
    /// Bytes of the swizzled span.
    pub(crate) fn span(self) -> u64 {
        match self {
            Swizzle::None => u64::MAX,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        }
    }

    /// Applies `Swizzle<B, 4, 3>` to a byte address: bits [4, 4+B) are xored with bits [7, 7+B).
    #[inline(always)]
    pub(crate) fn apply(self, addr: u32) -> u32 {
        let mask = match self {
            Swizzle::None => 0,
            Swizzle::B32 => 1,
            Swizzle::B64 => 3,
            Swizzle::B128 => 7,
        };
        addr ^ (addr >> 7 & mask) << 4
    }
}

/// Checks a description as the driver would and encodes it.
pub(crate) fn encode(t: &TensorMap) -> Result<[u8; MAP_BYTES]> {
    let bad = |m: String| Err(Error::TensorMap(m));
    let rank = t.dims.len();
    if !(1..=5).contains(&rank) || t.strides.len() + 1 != rank || t.box_dims.len() != rank {
        return bad(format!(
            "rank {rank} with {} strides and {} box sizes; expected rank 1 to 5, rank - 1 strides, rank sizes",
            t.strides.len(),
            t.box_dims.len()
        ));
    }
    let elem = u64::from(t.dtype.bytes());
    if !t.address.is_multiple_of(16) {
        return bad(format!("address {:#x} is not a multiple of 16", t.address));
    }
    if let Some(s) = t.strides.iter().find(|s| !s.is_multiple_of(16) || **s >= 1 << 40) {
        return bad(format!("stride of {s} bytes is not a multiple of 16 below 2^40"));
    }
    if let Some(d) = t.dims.iter().find(|d| **d == 0 || **d > 1 << 32) {
        return bad(format!("dimension {d} is not in 1..=2^32"));
    }
    if let Some(b) = t.box_dims.iter().find(|b| **b == 0 || **b > 256) {
        return bad(format!("box size {b} is not in 1..=256"));
    }
    let inner = u64::from(t.box_dims[0]) * elem;
    if !inner.is_multiple_of(16) {
        return bad(format!("inner box of {inner} bytes is not a multiple of 16"));
    }
    if inner > t.swizzle.span() {
        return bad(format!("inner box of {inner} bytes exceeds the swizzle span of {} bytes", t.swizzle.span()));
    }
    if t.nan_fill && !t.dtype.is_float() {
        return bad(format!("fill with NaNs of {:?}, which has none", t.dtype));
    }
    // Without interleaving the hardware has no stride for the innermost dimension and ignores what is given.
    let step = |i: usize| if i == 0 { 1 } else { t.element_strides.get(i).copied().unwrap_or(1) };
    if let Some(s) = (0..rank).map(step).find(|s| *s == 0 || *s > 8) {
        return bad(format!("element stride {s} is not in 1..=8"));
    }
    let mut out = [0u8; MAP_BYTES];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC.to_le_bytes());
    put(4, &[rank as u8, t.dtype.code(), t.swizzle as u8, u8::from(t.nan_fill)]);
    put(8, &t.address.to_le_bytes());
    for i in 0..rank {
        put(16 + 8 * i, &t.dims[i].to_le_bytes());
        put(56 + 2 * i, &(t.box_dims[i] as u16).to_le_bytes());
        put(66 + i, &[step(i) as u8]);
        if i > 0 {
            put(72 + 8 * (i - 1), &t.strides[i - 1].to_le_bytes());
        }
    }
    Ok(out)
}

impl Map {
    /// Reads an encoded map; `None` when the bytes are not one.
    pub(crate) fn decode(bytes: &[u8; MAP_BYTES]) -> Option<Map> {
        let u64_at = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
        if bytes[..4] != MAGIC.to_le_bytes() {
            return None;
        }
        let rank = bytes[4] as usize;
        let ty = types().into_iter().find(|(c, _)| *c == bytes[5])?.1;
        let swizzle = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128].get(bytes[6] as usize).copied()?;
        if !(1..=5).contains(&rank) {
            return None;
        }
        let elem = u64::from(ty.bits() / 8);
        let mut map = Map {
            rank,
            ty,
            elem,
            swizzle,
            nan_fill: bytes[7] != 0,
            base: u64_at(8)?,
            dims: [1; 5],
            strides: [elem; 5],
            box_dims: [1; 5],
            step: [1; 5],
        };
        for i in 0..rank {
            map.dims[i] = u64_at(16 + 8 * i)?;
            map.box_dims[i] = u64::from(u16::from_le_bytes([bytes[56 + 2 * i], bytes[57 + 2 * i]]));
            map.step[i] = u64::from(bytes[66 + i]);
            if i > 0 {
                map.strides[i] = u64_at(72 + 8 * (i - 1))?;
            }
        }
        // Elements taken of each dimension.
        for i in 0..rank {
            map.box_dims[i] = map.box_dims[i].div_ceil(map.step[i]);
        }
        Some(map)
    }

    /// Bytes of a box in shared memory.
    pub(crate) fn box_bytes(&self) -> u64 {
        self.box_dims.iter().product::<u64>() * self.elem
    }

    /// Calls `f(shared offset, global address if in bounds)` for each element of the box at `coords`.
    pub(crate) fn elements(&self, coords: &[i32], mut f: impl FnMut(u64, Option<u64>)) {
        let b = self.box_dims;
        let mut off = 0;
        for i4 in 0..b[4] {
            for i3 in 0..b[3] {
                for i2 in 0..b[2] {
                    for i1 in 0..b[1] {
                        let outer = [0, i1, i2, i3, i4];
                        for i0 in 0..b[0] {
                            let mut inside = true;
                            let mut addr = self.base;
                            for (d, i) in outer.into_iter().enumerate().take(self.rank) {
                                let i = if d == 0 { i0 } else { i };
                                let at = i64::from(coords.get(d).copied().unwrap_or(0)) + (i * self.step[d]) as i64;
                                inside &= at >= 0 && (at as u64) < self.dims[d];
                                addr = addr.wrapping_add((at as u64).wrapping_mul(self.strides[d]));
                            }
                            f(off, inside.then_some(addr));
                            off += self.elem;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::TensorType;

    #[test]
    fn a_map_survives_encoding_and_bad_maps_are_refused() {
        let t = TensorMap {
            dtype: TensorType::F16,
            address: 0x7_0000_0100,
            dims: vec![100, 37],
            strides: vec![208],
            box_dims: vec![64, 8],
            element_strides: vec![],
            swizzle: Swizzle::B128,
            nan_fill: false,
        };
        let m = Map::decode(&encode(&t).unwrap()).unwrap();
        assert_eq!((m.rank, m.base, m.dims[1], m.strides[1], m.box_bytes()), (2, t.address, 37, 208, 1024));
        let mut seen = 0;
        m.elements(&[90, -1], |off, at| {
            let (row, col) = (off / 128, off % 128 / 2);
            let inside = row > 0 && 90 + col < 100;
            assert_eq!(at, inside.then(|| t.address + (row - 1) * 208 + (90 + col) * 2));
            seen += 1;
        });
        assert_eq!(seen, 512);
        assert!(encode(&TensorMap { strides: vec![200], ..t.clone() }).is_err());
        assert!(encode(&TensorMap { box_dims: vec![128, 8], ..t.clone() }).is_err());
        assert!(encode(&TensorMap { dtype: TensorType::U16, nan_fill: true, ..t.clone() }).is_err());
        let strided = TensorMap { element_strides: vec![2, 3], ..t.clone() };
        assert_eq!(Map::decode(&encode(&strided).unwrap()).unwrap().box_dims[..2], [64, 3]);
        assert_eq!(Swizzle::B128.apply(0x380), 0x3f0);
        assert_eq!(Swizzle::B64.apply(0x380), 0x3b0);
        assert_eq!(Swizzle::B32.apply(0x80), 0x90);
    }
}
