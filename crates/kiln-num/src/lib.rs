//! Element types, what is true of each, and the exact conversions between them: the one place that knows how a number is stored.
//!
//! Floats round once, ties to even (or as a [`Round`] says), straight from f64, so that nothing is rounded twice. Overflow gives
//! infinity, or NaN in f8e4m3, which has no infinity; saturating conversions give the largest finite value instead, for infinities
//! too, as ONNX and the GPU's `cvt.satfinite` do. What is encoded from a NaN is [`Format::nan`]'s one pattern, the GPU's.
//!
//! Must not know: tensors, programs or devices.
#![forbid(unsafe_code)]

mod convert;
mod dtype;
mod format;
mod memory;

pub use convert::{float_from_bits, float_to_bits, float_to_int, int_to_float, round_to, wrap_i64, wrap_int};
pub use dtype::{DType, UnknownDType};
pub use format::{BF16, E4M3, E5M2, F16, Format, Round, TF32};
pub use memory::{load_bits, store_bits};
