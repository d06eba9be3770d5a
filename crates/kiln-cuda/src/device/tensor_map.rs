//! Tensor descriptors ("tensor maps"): what bulk copies (TMA) are told of a tensor, as the driver encodes it.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;

use cudarc::driver::sys;
use cudarc::driver::sys::{
    CUtensorMapDataType as DataType, CUtensorMapFloatOOBfill as Fill, CUtensorMapInterleave as Interleave,
    CUtensorMapL2promotion as Promotion, CUtensorMapSwizzle as Swizzle,
};

use super::memory::DevicePtr;
use super::{CudaDevice, driver_error};
use crate::{CudaError, Result};

/// A tensor in device memory, as `cuTensorMapEncodeTiled` and `cuTensorMapEncodeIm2col` take it. Axes are innermost first; nothing is interleaved,
/// and what lies outside reads as zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorDescriptor {
    /// Element 0.
    pub address: DevicePtr,
    /// Element type.
    pub element: TensorElement,
    /// Elements along each axis.
    pub extents: Vec<u64>,
    /// Byte strides of all axes but the innermost.
    pub strides: Vec<u64>,
    /// What one copy takes.
    pub window: TensorWindow,
    /// Elements from one that is taken to the next, along each axis.
    pub element_strides: Vec<u32>,
    /// Span of the swizzle in shared memory: 0 (none), 32, 64 or 128 bytes.
    pub swizzle_bytes: u32,
    /// What a miss fetches into L2: 0 (no more than needed), 64, 128 or 256 bytes.
    pub promotion_bytes: u32,
}

/// Element type of a [`TensorDescriptor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TensorElement {
    U8,
    U16,
    U32,
    I32,
    U64,
    I64,
    F16,
    F32,
    F64,
    Bf16,
    Tf32,
}

/// What one copy of a [`TensorDescriptor`] takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TensorWindow {
    /// Elements along each axis.
    Tiled(Vec<u32>),
    /// Channels of the pixels of a window that moves over an image.
    Im2col {
        /// First position of the window's corner along each axis of space, from the first pixel.
        lower: Vec<i32>,
        /// Last position, from the last pixel.
        upper: Vec<i32>,
        /// Channels of one pixel.
        channels: u32,
        /// Pixels of one copy.
        pixels: u32,
    },
}

impl TensorDescriptor {
    /// Checks what the driver would read past the end of a list for.
    fn check(&self) -> Result<usize> {
        let bad = |reason: String| Err(CudaError::BadOperation { what: "encoding a tensor map", reason });
        let rank = self.extents.len();
        if !(1..=5).contains(&rank) {
            return bad(format!("expected rank 1 to 5, found {rank}"));
        }
        let (spatial, lists) = (rank.saturating_sub(2), [self.strides.len() + 1, self.element_strides.len()]);
        let (expected, window) = match &self.window {
            TensorWindow::Tiled(extents) => (rank, [extents.len(); 2]),
            TensorWindow::Im2col { .. } if rank < 3 => {
                return bad(format!("expected an image's rank 3 to 5, found {rank}"));
            }
            TensorWindow::Im2col { lower, upper, .. } => (spatial, [lower.len(), upper.len()]),
        };
        if lists != [rank; 2] || window != [expected; 2] {
            return bad(format!("lists of other lengths than rank {rank} has: {self:?}"));
        }
        Ok(rank)
    }

    fn element(&self) -> DataType {
        match self.element {
            TensorElement::U8 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
            TensorElement::U16 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT16,
            TensorElement::U32 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT32,
            TensorElement::I32 => DataType::CU_TENSOR_MAP_DATA_TYPE_INT32,
            TensorElement::U64 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT64,
            TensorElement::I64 => DataType::CU_TENSOR_MAP_DATA_TYPE_INT64,
            TensorElement::F16 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            TensorElement::F32 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
            TensorElement::F64 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT64,
            TensorElement::Bf16 => DataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            TensorElement::Tf32 => DataType::CU_TENSOR_MAP_DATA_TYPE_TFLOAT32,
        }
    }

    fn swizzle(&self) -> Result<Swizzle> {
        Ok(match self.swizzle_bytes {
            0 => Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
            32 => Swizzle::CU_TENSOR_MAP_SWIZZLE_32B,
            64 => Swizzle::CU_TENSOR_MAP_SWIZZLE_64B,
            128 => Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            other => return Err(bad_bytes("0, 32, 64 or 128 bytes of swizzle", other)),
        })
    }

    fn promotion(&self) -> Result<Promotion> {
        Ok(match self.promotion_bytes {
            0 => Promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
            64 => Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_64B,
            128 => Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            256 => Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            other => return Err(bad_bytes("0, 64, 128 or 256 bytes for L2", other)),
        })
    }
}

fn bad_bytes(expected: &str, found: u32) -> CudaError {
    let reason = format!("expected {expected}, found {found}");
    CudaError::BadOperation { what: "encoding a tensor map", reason }
}

impl CudaDevice {
    /// The 128 bytes that a kernel takes by value as `const __grid_constant__ CUtensorMap`.
    ///
    /// # Errors
    /// [`CudaError::BadOperation`] for lists of the wrong length; [`CudaError::Driver`] for a rule of the hardware that is broken.
    pub fn encode(&self, map: &TensorDescriptor) -> Result<[u8; 128]> {
        let rank = map.check()? as u32;
        let (swizzle, promotion) = (map.swizzle()?, map.promotion()?);
        let (element, address) = (map.element(), ptr::with_exposed_provenance_mut::<c_void>(map.address.0 as usize));
        let mut out = MaybeUninit::<sys::CUtensorMap>::zeroed();
        let (interleave, fill) = (Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE, Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
        // SAFETY: every list has the length that the rank says (checked above), and `out` is a descriptor's size and alignment. The device exists,
        // so the driver does: it is 12.0 or newer, which has both functions. The address is not dereferenced.
        let encoded = unsafe {
            match &map.window {
                TensorWindow::Tiled(extents) => sys::cuTensorMapEncodeTiled(
                    out.as_mut_ptr(),
                    element,
                    rank,
                    address,
                    map.extents.as_ptr(),
                    map.strides.as_ptr(),
                    extents.as_ptr(),
                    map.element_strides.as_ptr(),
                    interleave,
                    swizzle,
                    promotion,
                    fill,
                ),
                TensorWindow::Im2col { lower, upper, channels, pixels } => sys::cuTensorMapEncodeIm2col(
                    out.as_mut_ptr(),
                    element,
                    rank,
                    address,
                    map.extents.as_ptr(),
                    map.strides.as_ptr(),
                    lower.as_ptr(),
                    upper.as_ptr(),
                    *channels,
                    *pixels,
                    map.element_strides.as_ptr(),
                    interleave,
                    swizzle,
                    promotion,
                    fill,
                ),
            }
        };
        encoded.result().map_err(driver_error(|| format!("encoding the tensor map {map:?}")))?;
        // SAFETY: zeroed first, then written by the driver; plain words.
        let words = unsafe { out.assume_init() }.opaque;
        let mut bytes = [0; 128];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_do_not_fit_the_rank_are_refused() {
        let good = TensorDescriptor {
            address: DevicePtr(0x7f00_0000_0000),
            element: TensorElement::Bf16,
            extents: vec![64, 9, 9, 2],
            strides: vec![128, 1152, 10_368],
            window: TensorWindow::Tiled(vec![64, 4, 4, 1]),
            element_strides: vec![1; 4],
            swizzle_bytes: 128,
            promotion_bytes: 256,
        };
        assert_eq!(good.check().unwrap(), 4);
        let im2col = |n| TensorWindow::Im2col { lower: vec![-1; n], upper: vec![0; 2], channels: 64, pixels: 128 };
        assert_eq!(TensorDescriptor { window: im2col(2), ..good.clone() }.check().unwrap(), 4);
        for (bad, expected) in [
            (TensorDescriptor { extents: vec![1; 9], ..good.clone() }, "rank 1 to 5, found 9"),
            (TensorDescriptor { strides: vec![128], ..good.clone() }, "lists of other lengths"),
            (TensorDescriptor { element_strides: vec![], ..good.clone() }, "lists of other lengths"),
            (TensorDescriptor { window: TensorWindow::Tiled(vec![64]), ..good.clone() }, "lists of other lengths"),
            (TensorDescriptor { window: im2col(3), ..good.clone() }, "lists of other lengths"),
            (TensorDescriptor { extents: vec![1; 2], window: im2col(0), ..good.clone() }, "3 to 5, found 2"),
        ] {
            let text = bad.check().unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
        }
        let text = TensorDescriptor { swizzle_bytes: 16, ..good.clone() }.swizzle().unwrap_err().to_string();
        assert!(text.contains("found 16"), "{text}");
        assert!(TensorDescriptor { promotion_bytes: 32, ..good }.promotion().is_err());
    }
}
