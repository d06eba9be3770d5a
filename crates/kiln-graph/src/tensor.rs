//! Concrete tensors: constants, weights, inputs and outputs.

use crate::{DType, Error, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A dense row-major tensor in host memory. The bytes are shared: cloning is cheap, and they may be a slice of a mapped file.
///
/// Bytes are little-endian and need not be aligned to the element.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Parts")]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Bytes,
}

/// What is deserialized, before it is checked.
#[derive(Deserialize)]
struct Parts {
    dtype: DType,
    shape: Vec<usize>,
    data: Bytes,
}

impl TryFrom<Parts> for Tensor {
    type Error = Error;

    fn try_from(parts: Parts) -> Result<Tensor> {
        Tensor::new(parts.dtype, parts.shape, parts.data)
    }
}

impl Tensor {
    /// A tensor over `data`, whose length must be exactly what dtype and shape need.
    pub fn new(dtype: DType, shape: Vec<usize>, data: Bytes) -> Result<Tensor> {
        let bytes = numel(&shape)
            .and_then(|n| dtype.bytes_for(n))
            .ok_or_else(|| Error::TooLarge { dtype, shape: shape.clone() })?;
        if bytes != data.len() {
            return Err(Error::DataLength { dtype, shape, expected: bytes, found: data.len() });
        }
        Ok(Tensor { dtype, shape, data })
    }

    /// A tensor over bytes that are known to fit.
    pub(crate) fn raw(dtype: DType, shape: Vec<usize>, data: Bytes) -> Tensor {
        Tensor { dtype, shape, data }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// The raw little-endian bytes.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The same bytes under another shape of equal element count.
    pub fn reshaped(&self, shape: Vec<usize>) -> Result<Tensor> {
        Tensor::new(self.dtype, shape, self.data.clone())
    }
}

/// Element count of a shape, or `None` if the product of any of its extents overflows: that of an empty shape's other extents too, so that strides
/// never do.
pub(crate) fn numel(shape: &[usize]) -> Option<usize> {
    let full = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))?;
    Some(if shape.contains(&0) { 0 } else { full })
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({}{:?}, {} bytes)", self.dtype, self.shape, self.data.len())
    }
}
