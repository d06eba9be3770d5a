//! Copies of buffers whose address does not suit their dtype.

use bytes::Bytes;
use kiln_graph::DType;

/// Whether elements of a dtype can be read in place.
pub(crate) fn is_aligned(bytes: &[u8], dtype: DType) -> bool {
    (bytes.as_ptr() as usize).is_multiple_of(alignment(dtype))
}

/// Bytes of which the address of an element is a multiple.
pub(crate) fn alignment(dtype: DType) -> usize {
    (dtype.bits() as usize / 8).max(1)
}

/// The same bytes at an address that suits the dtype.
pub(crate) fn aligned(bytes: &Bytes, dtype: DType) -> Bytes {
    if is_aligned(bytes, dtype) { bytes.clone() } else { Bytes::from_owner(Aligned::copy(bytes)) }
}

/// An aligned copy of a buffer.
pub(crate) struct Aligned {
    words: Vec<u64>,
    len: usize,
}

impl Aligned {
    pub(crate) fn copy(bytes: &[u8]) -> Aligned {
        let mut copy = Aligned { words: vec![0; bytes.len().div_ceil(8)], len: bytes.len() };
        copy.bytes_mut().copy_from_slice(bytes);
        copy
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}
