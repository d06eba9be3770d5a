//! `TensorProto` to [`Tensor`].

use super::external::ExternalData;
use super::proto::{TensorProto, tensor_proto};
use crate::{Error, Result};
use bytes::Bytes;
use kiln_graph::{DType, Tensor};

/// The Kiln dtype of an ONNX element type, or the name of the one that has no counterpart.
pub(super) fn dtype(onnx: i32) -> Result<DType, String> {
    use tensor_proto::DataType as T;
    Ok(match T::try_from(onnx) {
        Ok(T::Float) => DType::F32,
        Ok(T::Double) => DType::F64,
        Ok(T::Float16) => DType::F16,
        Ok(T::Bfloat16) => DType::BF16,
        Ok(T::Float8e4m3fn) => DType::F8E4M3,
        Ok(T::Float8e5m2) => DType::F8E5M2,
        Ok(T::Int64) => DType::I64,
        Ok(T::Int32) => DType::I32,
        Ok(T::Int16) => DType::I16,
        Ok(T::Int8) => DType::I8,
        Ok(T::Uint64) => DType::U64,
        Ok(T::Uint32) => DType::U32,
        Ok(T::Uint16) => DType::U16,
        Ok(T::Uint8) => DType::U8,
        Ok(T::Int4) => DType::I4,
        Ok(T::Uint4) => DType::U4,
        Ok(T::Bool) => DType::Bool,
        Ok(other) => return Err(format!("element type {} has no counterpart in Kiln", other.as_str_name())),
        Err(_) => return Err(format!("element type {onnx} is not known")),
    })
}

/// Why a tensor cannot be taken.
pub(super) enum TensorError {
    /// Well-formed, but not representable.
    Unsupported(String),
    /// Malformed.
    Malformed(Error),
}

impl From<Error> for TensorError {
    fn from(e: Error) -> TensorError {
        TensorError::Malformed(e)
    }
}

/// The tensor a message describes. Raw and external data stay slices of the file.
pub(super) fn tensor(t: &TensorProto, external: &ExternalData) -> Result<Tensor, TensorError> {
    let name = t.name.as_deref().unwrap_or("");
    let malformed = |message: String| Error::malformed(format!("tensor `{name}`"), message);
    if t.segment.is_some() {
        return Err(TensorError::Unsupported("segmented tensors are not supported".into()));
    }
    let dtype = dtype(t.data_type.unwrap_or(0)).map_err(TensorError::Unsupported)?;
    let shape: Vec<usize> = t
        .dims
        .iter()
        .map(|&d| usize::try_from(d).map_err(|_| malformed(format!("dimension {d} is negative"))))
        .collect::<Result<_>>()?;
    let data = if t.data_location == Some(tensor_proto::DataLocation::External as i32) {
        external.read(t)?
    } else if let Some(raw) = &t.raw_data {
        raw.clone()
    } else {
        typed_data(t, dtype)
    };
    Tensor::new(dtype, shape, data).map_err(|e| malformed(e.to_string()).into())
}

/// Data given in one of the typed fields, as little-endian bytes.
fn typed_data(t: &TensorProto, dtype: DType) -> Bytes {
    fn le<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Bytes {
        values.iter().flat_map(|&v| bytes(v)).collect()
    }
    match dtype {
        DType::F32 => le(&t.float_data, f32::to_le_bytes),
        DType::F64 => le(&t.double_data, f64::to_le_bytes),
        DType::I64 => le(&t.int64_data, i64::to_le_bytes),
        DType::U64 => le(&t.uint64_data, u64::to_le_bytes),
        DType::U32 => le(&t.uint64_data, |v| (v as u32).to_le_bytes()),
        DType::I32 => le(&t.int32_data, i32::to_le_bytes),
        DType::I16 | DType::U16 | DType::F16 | DType::BF16 => le(&t.int32_data, |v| (v as u16).to_le_bytes()),
        // Bytes; 4-bit elements are already packed in pairs, one entry a byte.
        _ => le(&t.int32_data, |v| [v as u8]),
    }
}
