//! Types of scalar expressions, single values, and arrays as memory holds them.

use kiln_num::{float_from_bits, float_to_bits, float_to_int, int_to_float, load_bits, round_to, store_bits, wrap_int};
use serde::{Deserialize, Serialize};
use std::fmt;

pub use kiln_num::DType;

/// Type of a scalar expression.
///
/// Arithmetic is on *compute types* ([`Type::is_compute`]); the others exist in memory and in registers only to be
/// loaded, stored and cast. A kernel that adds two f16 values casts them to f32, adds, and casts back: the rounding is
/// written where it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// Index arithmetic. Exact; the compiler picks 32 or 64 bits from the proven range. Never stored in memory.
    Index,
    /// What an element of a buffer is.
    Element(DType),
}

impl From<DType> for Type {
    fn from(dtype: DType) -> Type {
        Type::Element(dtype)
    }
}

impl PartialEq<DType> for Type {
    fn eq(&self, dtype: &DType) -> bool {
        *self == Type::Element(*dtype)
    }
}

impl Type {
    /// The element type; `None` for an index.
    pub fn element(self) -> Option<DType> {
        match self {
            Type::Index => None,
            Type::Element(dtype) => Some(dtype),
        }
    }

    /// The element type that holds its values, [`DType::I64`] for an index.
    fn stored(self) -> DType {
        self.element().unwrap_or(DType::I64)
    }

    /// Bits of its widest value.
    pub fn bits(self) -> u32 {
        self.stored().bits()
    }

    /// Whether arithmetic is defined on this type.
    pub fn is_compute(self) -> bool {
        self.stored().compute() == self.stored()
    }

    /// Floating point of any width.
    pub fn is_float(self) -> bool {
        self.stored().is_float()
    }

    /// Integer of any width, [`Type::Index`] included, `Bool` not.
    pub fn is_int(self) -> bool {
        self.stored().is_int()
    }

    /// Least and greatest value of an integer type (0 and 1 for `Bool`); `None` for floats.
    pub fn int_range(self) -> Option<(i128, i128)> {
        self.stored().int_range()
    }

    /// Lower-case name: `f16`, `bf16`, `f8e4m3`, `index`.
    pub fn name(self) -> &'static str {
        self.element().map_or("index", DType::name)
    }
}

impl fmt::Display for Type {
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

    /// Converts to type `to`: floats round to nearest even and the 8-bit ones saturate, integers wrap, a float becomes an integer by
    /// truncation that saturates at 32 bits (64 for wider types) before it wraps, anything non-zero is `true`.
    pub fn cast(self, to: impl Into<Type>) -> Scalar {
        let to = to.into().stored();
        match self {
            Scalar::Float(x) if to.is_float() => Scalar::Float(round_to(to, x, true)),
            Scalar::Int(x) if to.is_float() => Scalar::Float(int_to_float(to, x, true)),
            Scalar::Float(x) => {
                let through = if to.is_int() && to.bits() < 32 { DType::I32 } else { to };
                Scalar::Int(wrap_int(to, float_to_int(through, x)))
            }
            Scalar::Int(x) => Scalar::Int(wrap_int(to, x)),
        }
    }
}

/// Reduces an exact integer to the two's-complement range of `ty`.
pub fn wrap(x: i128, ty: Type) -> i128 {
    wrap_int(ty.stored(), x)
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
        assert!(i < self.len, "element {i} of {}", self.len);
        let bits = load_bits(self.dtype, &self.bytes, i).unwrap_or(0);
        match self.dtype.is_float() {
            true => Scalar::Float(float_from_bits(self.dtype, bits)),
            false => Scalar::Int(wrap_int(self.dtype, bits.into())),
        }
    }

    /// Stores `value`, cast to the element type, at `i`, which must be below [`Array::len`].
    pub fn set(&mut self, i: usize, value: Scalar) {
        let bits = match value.cast(self.dtype) {
            Scalar::Float(x) => float_to_bits(self.dtype, x, true),
            Scalar::Int(x) => x as u64,
        };
        assert!(i < self.len, "element {i} of {}", self.len);
        store_bits(self.dtype, &mut self.bytes, i, bits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
