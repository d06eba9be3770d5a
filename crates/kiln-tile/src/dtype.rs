//! Element types of buffers and scalar expressions, and how each is stored in memory.

use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Type of a scalar or of a buffer's elements.
///
/// Arithmetic is on *compute types* ([`DType::is_compute`]); the others exist in memory and in registers only to be
/// loaded, stored and cast. A kernel that adds two f16 values casts them to f32, adds, and casts back: the rounding is
/// written where it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // each variant is the type of its name
pub enum DType {
    Bool,
    I4,
    U4,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F8E4M3,
    F8E5M2,
    F16,
    BF16,
    F32,
    F64,
    /// Index arithmetic. Exact; the compiler picks 32 or 64 bits from the proven range. Never stored in memory.
    Index,
}

impl DType {
    /// Bits of one element in memory (4-bit elements are packed two a byte, low half first).
    pub fn bits(self) -> u32 {
        match self {
            DType::I4 | DType::U4 => 4,
            DType::Bool | DType::I8 | DType::U8 | DType::F8E4M3 | DType::F8E5M2 => 8,
            DType::I16 | DType::U16 | DType::F16 | DType::BF16 => 16,
            DType::I32 | DType::U32 | DType::F32 => 32,
            DType::I64 | DType::U64 | DType::F64 | DType::Index => 64,
        }
    }

    /// Whether arithmetic is defined on this type.
    pub fn is_compute(self) -> bool {
        matches!(
            self,
            DType::Bool | DType::I32 | DType::U32 | DType::I64 | DType::U64 | DType::F32 | DType::F64 | DType::Index
        )
    }

    /// Floating point of any width.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F8E4M3 | DType::F8E5M2 | DType::F16 | DType::BF16 | DType::F32 | DType::F64)
    }

    /// Integer of any width, [`DType::Index`] included, `Bool` not.
    pub fn is_int(self) -> bool {
        !self.is_float() && self != DType::Bool
    }

    /// The type arithmetic on values of this type is done in: f32 for the small floats, i32 for the small integers.
    pub fn compute(self) -> DType {
        match self {
            DType::F8E4M3 | DType::F8E5M2 | DType::F16 | DType::BF16 => DType::F32,
            DType::I4 | DType::I8 | DType::I16 | DType::U4 | DType::U8 | DType::U16 => DType::I32,
            other => other,
        }
    }

    /// Least and greatest value of an integer type (0 and 1 for `Bool`); `None` for floats.
    pub fn int_range(self) -> Option<(i128, i128)> {
        let signed = |bits: u32| Some((-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1));
        let unsigned = |bits: u32| Some((0, (1i128 << bits) - 1));
        match self {
            DType::Bool => Some((0, 1)),
            DType::I4 | DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::Index => signed(self.bits()),
            DType::U4 | DType::U8 | DType::U16 | DType::U32 | DType::U64 => unsigned(self.bits()),
            _ => None,
        }
    }

    /// Lower-case name: `f16`, `bf16`, `f8e4m3`, `index`.
    pub fn name(self) -> &'static str {
        match self {
            DType::Bool => "bool",
            DType::I4 => "i4",
            DType::U4 => "u4",
            DType::I8 => "i8",
            DType::U8 => "u8",
            DType::I16 => "i16",
            DType::U16 => "u16",
            DType::I32 => "i32",
            DType::U32 => "u32",
            DType::I64 => "i64",
            DType::U64 => "u64",
            DType::F8E4M3 => "f8e4m3",
            DType::F8E5M2 => "f8e5m2",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::Index => "index",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One value: what constants hold and the interpreter computes with. Integers and `Bool` are exact.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Scalar {
    /// Value of a floating-point type, rounded to that type.
    Float(f64),
    /// Value of an integer type or `Bool` (0 or 1).
    Int(i128),
}

impl Scalar {
    /// As a float, whatever it is.
    pub fn as_f64(self) -> f64 {
        match self {
            Scalar::Float(x) => x,
            Scalar::Int(x) => x as f64,
        }
    }

    /// As an integer; a float truncates toward zero and saturates, NaN gives 0.
    pub fn as_i128(self) -> i128 {
        match self {
            Scalar::Float(x) => x as i128,
            Scalar::Int(x) => x,
        }
    }

    /// Converts to `dtype`: floats round to nearest even, integers wrap, a float becomes an integer by truncation that
    /// saturates at 32 bits (64 for wider types) before it wraps, anything non-zero is `true`.
    pub fn cast(self, dtype: DType) -> Scalar {
        match (self, dtype) {
            (Scalar::Float(x), DType::Bool) => Scalar::Int(i128::from(x != 0.0)),
            (Scalar::Int(x), DType::Bool) => Scalar::Int(i128::from(x != 0)),
            (value, dtype) if dtype.is_float() => Scalar::Float(match value {
                Scalar::Int(x) => round_int(x, dtype),
                Scalar::Float(x) => round_to(x, dtype),
            }),
            (Scalar::Int(x), dtype) => Scalar::Int(wrap(x, dtype)),
            (Scalar::Float(x), dtype) => {
                let through = match dtype {
                    DType::I64 | DType::U64 | DType::U32 | DType::Index => dtype,
                    _ => DType::I32,
                };
                let (lo, hi) = through.int_range().unwrap_or((0, 0));
                Scalar::Int(wrap((x as i128).clamp(lo, hi), dtype))
            }
        }
    }
}

/// Reduces an exact integer to the two's-complement range of `dtype`.
pub fn wrap(x: i128, dtype: DType) -> i128 {
    match dtype.int_range() {
        Some((lo, hi)) => (x - lo).rem_euclid(hi - lo + 1) + lo,
        None => x,
    }
}

fn round_int(x: i128, dtype: DType) -> f64 {
    // A direct conversion rounds once; f64 first would round twice.
    match dtype {
        DType::F64 => x as f64,
        DType::F32 => f64::from(x as f32),
        _ => {
            let nearest = x as f32;
            let found = nearest as i128;
            round_to(odd(nearest, found.unsigned_abs().cmp(&x.unsigned_abs())), dtype)
        }
    }
}

/// An f32 near a value, rounded to odd: what is rounded to 16 bits or fewer from there is rounded once (Boldo and Melquiond, "When
/// double rounding is odd"). `magnitude` compares that of the f32 with that of the value.
fn odd(nearest: f32, magnitude: std::cmp::Ordering) -> f64 {
    f64::from(f32::from_bits(match magnitude {
        std::cmp::Ordering::Equal => nearest.to_bits(),
        std::cmp::Ordering::Less => nearest.to_bits() | 1,
        std::cmp::Ordering::Greater => (nearest.to_bits() - 1) | 1,
    }))
}

/// Rounds to the nearest value of a floating-point type, ties to even; 8-bit floats saturate to their greatest finite
/// value.
pub fn round_to(x: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f64::from(x as f32),
        DType::F16 | DType::BF16 => {
            let nearest = x as f32;
            let magnitude = f64::from(nearest).abs().partial_cmp(&x.abs());
            // `half` converts an f64 by way of f32, where it may round twice.
            let odd = odd(nearest, magnitude.unwrap_or(std::cmp::Ordering::Equal)) as f32;
            if dtype == DType::F16 { f16::from_f32(odd).to_f64() } else { bf16::from_f32(odd).to_f64() }
        }
        DType::F8E4M3 => f8_decode(f8_encode(x, dtype), dtype),
        DType::F8E5M2 => f8_decode(f8_encode(x, dtype), dtype),
        _ => x,
    }
}

struct F8 {
    mantissa_bits: i32,
    bias: i32,
    max: f64,
    nan: u8,
}

fn f8_format(dtype: DType) -> F8 {
    if dtype == DType::F8E4M3 {
        F8 { mantissa_bits: 3, bias: 7, max: 448.0, nan: 0x7f }
    } else {
        F8 { mantissa_bits: 2, bias: 15, max: 57344.0, nan: 0x7f }
    }
}

/// Encodes into an 8-bit float with `cvt.rn.satfinite` semantics (OCP 8-bit Floating Point Specification; PTX ISA, "cvt").
fn f8_encode(x: f64, dtype: DType) -> u8 {
    let format = f8_format(dtype);
    if x.is_nan() {
        return format.nan;
    }
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let magnitude = x.abs().min(format.max);
    // Quantum of the binade, no finer than that of the subnormals.
    let exponent = if magnitude == 0.0 { i32::MIN } else { magnitude.log2().floor() as i32 };
    let exponent = exponent.max(1 - format.bias);
    let quantum = 2f64.powi(exponent - format.mantissa_bits);
    let steps = (magnitude / quantum).round_ties_even() as i32;
    // `steps` counts from zero in this binade, so a carry into the next one needs no care.
    let code = steps + ((exponent + format.bias - 1) << format.mantissa_bits);
    sign | code as u8
}

fn f8_decode(code: u8, dtype: DType) -> f64 {
    let format = f8_format(dtype);
    let sign = if code & 0x80 != 0 { -1.0 } else { 1.0 };
    let magnitude = i32::from(code & 0x7f);
    let exponent = magnitude >> format.mantissa_bits;
    let mantissa = magnitude & ((1 << format.mantissa_bits) - 1);
    if dtype == DType::F8E4M3 && magnitude == 0x7f {
        return f64::NAN;
    }
    if dtype == DType::F8E5M2 && exponent == 31 {
        return if mantissa == 0 { sign * f64::INFINITY } else { f64::NAN };
    }
    let scale = |e: i32| 2f64.powi(e - format.bias - format.mantissa_bits);
    if exponent == 0 {
        sign * f64::from(mantissa) * scale(1)
    } else {
        sign * f64::from(mantissa + (1 << format.mantissa_bits)) * scale(exponent)
    }
}

/// Elements in memory, in the byte layout that a GPU buffer has.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    dtype: DType,
    len: usize,
    bytes: Vec<u8>,
}

impl Array {
    /// `len` zeros.
    pub fn zeros(dtype: DType, len: usize) -> Array {
        let bytes = (len * dtype.bits() as usize).div_ceil(8);
        Array { dtype, len, bytes: vec![0; bytes] }
    }

    /// From values, each cast to `dtype`.
    pub fn from_values(dtype: DType, values: impl IntoIterator<Item = Scalar>) -> Array {
        let values: Vec<Scalar> = values.into_iter().collect();
        let mut array = Array::zeros(dtype, values.len());
        for (i, value) in values.into_iter().enumerate() {
            array.set(i, value);
        }
        array
    }

    /// From floats, each rounded to `dtype`.
    pub fn from_f64(dtype: DType, values: impl IntoIterator<Item = f64>) -> Array {
        Array::from_values(dtype, values.into_iter().map(Scalar::Float))
    }

    /// From bytes in memory order; `None` if they do not hold exactly `len` elements.
    pub fn from_bytes(dtype: DType, len: usize, bytes: Vec<u8>) -> Option<Array> {
        let expected = len.checked_mul(dtype.bits() as usize)?.div_ceil(8);
        (bytes.len() == expected).then_some(Array { dtype, len, bytes })
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes in memory order.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All elements as floats.
    pub fn to_f64(&self) -> Vec<f64> {
        (0..self.len).map(|i| self.get(i).as_f64()).collect()
    }

    /// Element `i`, which must be below [`Array::len`].
    pub fn get(&self, i: usize) -> Scalar {
        let width = self.dtype.bits() as usize / 8;
        if width == 0 {
            let nibble = i128::from(self.bytes[i / 2] >> (4 * (i % 2)) & 0xf);
            return Scalar::Int(wrap(nibble, self.dtype));
        }
        let mut raw = [0u8; 8];
        raw[..width].copy_from_slice(&self.bytes[i * width..(i + 1) * width]);
        let bits = u64::from_le_bytes(raw);
        match self.dtype {
            DType::F64 => Scalar::Float(f64::from_bits(bits)),
            DType::F32 => Scalar::Float(f64::from(f32::from_bits(bits as u32))),
            DType::F16 => Scalar::Float(f16::from_bits(bits as u16).to_f64()),
            DType::BF16 => Scalar::Float(bf16::from_bits(bits as u16).to_f64()),
            DType::F8E4M3 | DType::F8E5M2 => Scalar::Float(f8_decode(bits as u8, self.dtype)),
            dtype => Scalar::Int(wrap(i128::from(bits), dtype)),
        }
    }

    /// Stores `value`, cast to the element type, at `i`, which must be below [`Array::len`].
    pub fn set(&mut self, i: usize, value: Scalar) {
        let value = value.cast(self.dtype);
        let bits: u64 = match (self.dtype, value) {
            (DType::F64, v) => v.as_f64().to_bits(),
            (DType::F32, v) => u64::from((v.as_f64() as f32).to_bits()),
            (DType::F16, v) => u64::from(f16::from_f32(v.as_f64() as f32).to_bits()),
            (DType::BF16, v) => u64::from(bf16::from_f32(v.as_f64() as f32).to_bits()),
            (DType::F8E4M3 | DType::F8E5M2, v) => u64::from(f8_encode(v.as_f64(), self.dtype)),
            (_, v) => v.as_i128() as u64,
        };
        let width = self.dtype.bits() as usize / 8;
        if width == 0 {
            let shift = 4 * (i % 2);
            let byte = &mut self.bytes[i / 2];
            *byte = *byte & !(0xf << shift) | ((bits as u8 & 0xf) << shift);
        } else {
            self.bytes[i * width..(i + 1) * width].copy_from_slice(&bits.to_le_bytes()[..width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f8_round_trips_and_rounds_to_even() {
        for dtype in [DType::F8E4M3, DType::F8E5M2] {
            for code in 0..=255u8 {
                let x = f8_decode(code, dtype);
                if x.is_finite() {
                    assert_eq!(f8_encode(x, dtype), code, "{dtype} {code:#x} = {x}");
                }
            }
        }
        // 17 lies between 16 and 18 in e4m3: the even mantissa is 16.
        assert_eq!(round_to(17.0, DType::F8E4M3), 16.0);
        assert_eq!(round_to(19.0, DType::F8E4M3), 20.0);
        assert_eq!(round_to(1e9, DType::F8E4M3), 448.0);
        assert_eq!(round_to(f64::NEG_INFINITY, DType::F8E5M2), -57344.0);
        assert_eq!(round_to(31.9, DType::F8E4M3), 32.0);
    }

    #[test]
    fn values_round_once_to_sixteen_bits() {
        // Above the middle of two neighbours by less than f32 can tell: by way of f32 it would be a tie, and fall to the even one.
        let above = |exponent: i32| 1.0 + 2f64.powi(-exponent) + 2f64.powi(-40);
        for sign in [1.0, -1.0] {
            assert_eq!(round_to(sign * above(11), DType::F16), sign * (1.0 + 2f64.powi(-10)));
            assert_eq!(round_to(sign * above(8), DType::BF16), sign * (1.0 + 2f64.powi(-7)));
        }
        let big = (1i128 << 62) + (1 << 54) + 1;
        assert_eq!(Scalar::Int(big).cast(DType::BF16), Scalar::Float(2f64.powi(62) + 2f64.powi(55)));
        assert_eq!(Scalar::Int(-big).cast(DType::BF16), Scalar::Float(-2f64.powi(62) - 2f64.powi(55)));
        assert_eq!(round_to(1e300, DType::F16), f64::INFINITY);
        assert_eq!(round_to(-1e-300, DType::BF16).to_bits(), (-0.0f64).to_bits());
        assert!(round_to(f64::NAN, DType::F16).is_nan());
    }

    #[test]
    fn arrays_store_every_type() {
        for dtype in [DType::I4, DType::U4, DType::I8, DType::U16, DType::I64, DType::U64] {
            let (lo, hi) = dtype.int_range().unwrap();
            let values = [lo, hi, 1, lo + 1, hi - 2];
            let array = Array::from_values(dtype, values.map(Scalar::Int));
            for (i, v) in values.into_iter().enumerate() {
                assert_eq!(array.get(i), Scalar::Int(v), "{dtype}");
            }
        }
        let array = Array::from_f64(DType::F16, [1.5, -2049.0, 65504.0]);
        assert_eq!(array.to_f64(), [1.5, -2048.0, 65504.0]);
    }

    #[test]
    fn casts_wrap_and_saturate() {
        assert_eq!(Scalar::Int(300).cast(DType::I8), Scalar::Int(44));
        assert_eq!(Scalar::Int(-1).cast(DType::U64), Scalar::Int(i128::from(u64::MAX)));
        assert_eq!(Scalar::Float(1e20).cast(DType::I32), Scalar::Int(i128::from(i32::MAX)));
        assert_eq!(Scalar::Float(-3.9).cast(DType::I64), Scalar::Int(-3));
        assert_eq!(Scalar::Float(0.5).cast(DType::Bool), Scalar::Int(1));
    }
}
