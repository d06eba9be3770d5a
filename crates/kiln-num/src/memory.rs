//! Elements as memory holds them: little-endian, 4-bit ones two a byte with the first in the low half.

use crate::DType;

/// The bits of element `i` in the low end; `None` beyond the end.
#[inline]
pub fn load_bits(dtype: DType, bytes: &[u8], i: usize) -> Option<u64> {
    let width = dtype.bits() as usize / 8;
    if width == 0 {
        return Some(u64::from(bytes.get(i / 2)? >> (i % 2 * 4) & 15));
    }
    let mut raw = [0; 8];
    raw[..width].copy_from_slice(bytes.get(i.checked_mul(width)?..)?.get(..width)?);
    Some(u64::from_le_bytes(raw))
}

/// Makes the low end of `bits` element `i` and leaves all others; nothing happens beyond the end.
#[inline]
pub fn store_bits(dtype: DType, bytes: &mut [u8], i: usize, bits: u64) {
    let width = dtype.bits() as usize / 8;
    if width == 0 {
        if let Some(byte) = bytes.get_mut(i / 2) {
            let shift = i % 2 * 4;
            *byte = *byte & !(15 << shift) | (bits as u8 & 15) << shift;
        }
    } else if let Some(place) = i.checked_mul(width).and_then(|at| bytes.get_mut(at..)?.get_mut(..width)) {
        place.copy_from_slice(&bits.to_le_bytes()[..width]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_lie_where_they_should_and_leave_their_neighbours() {
        for dtype in DType::ALL {
            let mask = u64::MAX >> (64 - dtype.bits());
            let values = [0x0123_4567_89ab_cdef, u64::MAX, 0x5a5a_5a5a_5a5a_5a52].map(|bits: u64| bits & mask);
            let mut bytes = vec![0xa5; dtype.bytes_for(4).unwrap()];
            for (i, bits) in values.into_iter().enumerate() {
                store_bits(dtype, &mut bytes, i, bits);
            }
            let found = [0, 1, 2, 3, 4].map(|i| load_bits(dtype, &bytes, i));
            let rest = 0xa5a5_a5a5_a5a5_a5a5 >> if dtype.bits() == 4 { 4 } else { 0 } & mask;
            assert_eq!(found, [Some(values[0]), Some(values[1]), Some(values[2]), Some(rest & mask), None], "{dtype}");
            store_bits(dtype, &mut bytes, usize::MAX, 0);
        }
        let mut bytes = [0; 2];
        [1, 2, 3].into_iter().enumerate().for_each(|(i, bits)| store_bits(DType::U4, &mut bytes, i, bits));
        assert_eq!(bytes, [0x21, 0x03]);
        store_bits(DType::F16, &mut bytes, 0, 0x3c00);
        assert_eq!(bytes, [0x00, 0x3c]);
    }
}
