//! 4-bit integers, which files hold one a byte and a [`Tensor`] two.

use crate::{Error, Result};
use bytes::Bytes;
use kiln_graph::{DType, Tensor};

/// Two a byte, the first in the low half, from one a byte of which the low half counts.
pub(crate) fn pack(dtype: DType, shape: Vec<usize>, bytes: &[u8]) -> Result<Tensor> {
    let pair = |pair: &[u8]| pair[0] & 15 | pair.get(1).map_or(0, |high| high << 4);
    Ok(Tensor::new(dtype, shape, Bytes::from_iter(bytes.chunks(2).map(pair)))?)
}

/// One a byte, in its low half; the high half is 0.
pub(crate) fn unpack(tensor: &Tensor) -> Vec<u8> {
    (0..tensor.len()).map(|i| tensor.data()[i / 2] >> (i % 2 * 4) & 15).collect()
}

/// A tensor as a model declares it: one of i8 or u8 becomes 4-bit integers where those are `expected`; any other stays what it is.
///
/// # Errors
/// [`Error::Option`] if a value needs more than 4 bits.
pub fn declared(tensor: Tensor, expected: Option<DType>) -> Result<Tensor> {
    let Some(dtype) = expected.filter(|dtype| dtype.bits() == 4) else { return Ok(tensor) };
    let low = match tensor.dtype() {
        DType::I8 | DType::U8 => dtype.int_range().map_or(0, |(low, _)| low),
        _ => return Ok(tensor),
    };
    let values = tensor.to_i128_vec().unwrap_or_default();
    match values.iter().find(|v| !(low..low + 16).contains(*v)) {
        Some(v) => Err(Error::Option(format!(
            "an array of {} holds {v}, which is no {dtype}: {low} to {}",
            tensor.dtype(),
            low + 15
        ))),
        None => pack(dtype, tensor.shape().to_vec(), tensor.data()),
    }
}
