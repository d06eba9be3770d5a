//! Typed access to tensors.

use crate::number::{float_from_bits, float_to_bits, float_to_int, int_to_float, load_bits, store_bits, wrap_int};
use crate::tensor::numel;
use crate::{DType, Error, Result, Tensor};
use bytes::Bytes;

/// A Rust type that is the element of some [`DType`]. The 8-bit floats and 4-bit integers have none: see [`Tensor::from_f64`] and
/// [`Tensor::from_i128`].
pub trait Element: Copy + 'static {
    /// The element type.
    const DTYPE: DType;

    /// Appends the little-endian bytes.
    fn write(self, to: &mut Vec<u8>);

    /// Reads little-endian bytes, as many as the type is wide.
    fn read(from: &[u8]) -> Self;

    /// The bytes of elements in memory.
    fn as_bytes(elements: &[Self]) -> &[u8];

    /// The bytes of elements for overwriting them; `None` for a type of which not all are a value: see [`Element::read`].
    fn as_bytes_mut(elements: &mut [Self]) -> Option<&mut [u8]>;
}

#[cfg(target_endian = "big")]
compile_error!("tensors are little-endian, and are used in place");

macro_rules! elements {
    ($($ty:ty => $dtype:ident),* $(,)?) => {
        $(impl Element for $ty {
            const DTYPE: DType = DType::$dtype;

            fn write(self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_le_bytes());
            }

            fn read(from: &[u8]) -> Self {
                let mut bytes = [0; size_of::<$ty>()];
                bytes.copy_from_slice(from);
                <$ty>::from_le_bytes(bytes)
            }

            fn as_bytes(elements: &[$ty]) -> &[u8] {
                bytemuck::cast_slice(elements)
            }

            fn as_bytes_mut(elements: &mut [$ty]) -> Option<&mut [u8]> {
                Some(bytemuck::cast_slice_mut(elements))
            }
        })*
    };
}

elements!(f64 => F64, f32 => F32, half::f16 => F16, half::bf16 => BF16, i64 => I64, i32 => I32, i16 => I16, i8 => I8,
    u64 => U64, u32 => U32, u16 => U16, u8 => U8);

impl Element for bool {
    const DTYPE: DType = DType::Bool;

    fn write(self, to: &mut Vec<u8>) {
        to.push(u8::from(self));
    }

    fn read(from: &[u8]) -> bool {
        from != [0]
    }

    fn as_bytes(elements: &[bool]) -> &[u8] {
        bytemuck::cast_slice(elements)
    }

    fn as_bytes_mut(_: &mut [bool]) -> Option<&mut [u8]> {
        None
    }
}

impl Tensor {
    /// A tensor of `values` in row-major order.
    pub fn from_slice<T: Element>(shape: &[usize], values: &[T]) -> Result<Tensor> {
        let mut data = Vec::with_capacity(size_of_val(values));
        for &v in values {
            v.write(&mut data);
        }
        Tensor::new(T::DTYPE, shape.to_vec(), Bytes::from(data))
    }

    /// A rank-0 tensor.
    pub fn scalar<T: Element>(value: T) -> Tensor {
        let mut data = Vec::with_capacity(size_of::<T>());
        value.write(&mut data);
        Tensor::raw(T::DTYPE, Vec::new(), Bytes::from(data))
    }

    /// The elements, when `T` is the Rust type of the dtype.
    pub fn to_vec<T: Element>(&self) -> Option<Vec<T>> {
        (self.dtype() == T::DTYPE).then(|| self.data().chunks_exact(size_of::<T>()).map(T::read).collect())
    }

    /// The elements as f64 (64-bit integers round).
    pub fn to_f64_vec(&self) -> Vec<f64> {
        fn all<T: Element>(t: &Tensor, f: impl Fn(T) -> f64) -> Vec<f64> {
            t.data().chunks_exact(size_of::<T>()).map(|b| f(T::read(b))).collect()
        }
        match self.dtype() {
            DType::F64 => all(self, |v: f64| v),
            DType::F32 => all(self, |v: f32| f64::from(v)),
            DType::F16 => all(self, half::f16::to_f64),
            DType::BF16 => all(self, half::bf16::to_f64),
            dtype if dtype.is_f8() => all(self, |v: u8| float_from_bits(dtype, v.into())),
            _ => self.integers().map(|v| v as f64).collect(),
        }
    }

    /// The elements of an integer or bool tensor; `None` for floats.
    pub fn to_i128_vec(&self) -> Option<Vec<i128>> {
        (!self.dtype().is_float()).then(|| self.integers().collect())
    }

    /// The elements of an integer or bool tensor; `None` for floats and for values beyond i64.
    pub fn to_i64_vec(&self) -> Option<Vec<i64>> {
        if self.dtype().is_float() {
            return None;
        }
        self.integers().map(|v| i64::try_from(v).ok()).collect()
    }

    /// The integers of a tensor that holds integers or bools.
    fn integers(&self) -> impl Iterator<Item = i128> {
        let (dtype, data) = (self.dtype(), self.data());
        (0..self.len()).map(move |i| wrap_int(dtype, load_bits(dtype, data, i).unwrap_or(0).into()))
    }

    /// A tensor of `values` stored as `dtype`: floats round to nearest even, integers truncate and saturate.
    pub fn from_f64(dtype: DType, shape: &[usize], values: &[f64]) -> Result<Tensor> {
        check(dtype, shape, values.len())?;
        Tensor::generate(dtype, shape, |i| values[i])
    }

    /// A tensor of `values` stored as `dtype`: integers wrap, floats round to nearest even.
    pub fn from_i128(dtype: DType, shape: &[usize], values: &[i128]) -> Result<Tensor> {
        check(dtype, shape, values.len())?;
        if dtype.is_float() {
            return Tensor::generate(dtype, shape, |i| int_to_float(dtype, values[i], false));
        }
        pack(dtype, shape, |i| values[i])
    }

    /// The same value everywhere, stored as [`Tensor::from_f64`] does.
    pub fn full(dtype: DType, shape: &[usize], value: f64) -> Result<Tensor> {
        Tensor::generate(dtype, shape, |_| value)
    }

    /// All zeros.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let (mut data, bytes) = room(dtype, shape)?;
        data.resize(bytes, 0);
        Tensor::new(dtype, shape.to_vec(), Bytes::from(data))
    }

    /// A tensor whose element `i` in row-major order is `f(i)`, stored as [`Tensor::from_f64`] does.
    pub fn generate(dtype: DType, shape: &[usize], mut f: impl FnMut(usize) -> f64) -> Result<Tensor> {
        fn write<T: Element>((mut data, bytes): (Vec<u8>, usize), mut f: impl FnMut(usize) -> T) -> Vec<u8> {
            for i in 0..bytes / size_of::<T>() {
                f(i).write(&mut data);
            }
            data
        }
        if !dtype.is_float() {
            return pack(dtype, shape, |i| float_to_int(dtype, f(i)));
        }
        let room = room(dtype, shape)?;
        let data = match dtype {
            DType::F64 => write(room, f),
            DType::F32 => write(room, |i| f(i) as f32),
            DType::F16 | DType::BF16 => write(room, |i| float_to_bits(dtype, f(i), false) as u16),
            _ => write(room, |i| float_to_bits(dtype, f(i), false) as u8),
        };
        Tensor::new(dtype, shape.to_vec(), Bytes::from(data))
    }
}

fn byte_length(dtype: DType, shape: &[usize]) -> Result<usize> {
    numel(shape)
        .and_then(|n| dtype.bytes_for(n))
        .filter(|&n| n <= isize::MAX as usize)
        .ok_or_else(|| Error::TooLarge { dtype, shape: shape.to_vec() })
}

/// An empty vector with room for a tensor, and the tensor's bytes.
fn room(dtype: DType, shape: &[usize]) -> Result<(Vec<u8>, usize)> {
    let bytes = byte_length(dtype, shape)?;
    let mut data = Vec::new();
    data.try_reserve_exact(bytes).map_err(|_| Error::TooLarge { dtype, shape: shape.to_vec() })?;
    Ok((data, bytes))
}

/// Checks that `count` elements fill a shape.
fn check(dtype: DType, shape: &[usize], count: usize) -> Result<()> {
    let expected = byte_length(dtype, shape)?;
    if numel(shape) == Some(count) {
        return Ok(());
    }
    let found = dtype.bytes_for(count).unwrap_or(usize::MAX);
    Err(Error::DataLength { dtype, shape: shape.to_vec(), expected, found })
}

/// Packs integers into their little-endian bytes, two a byte for the 4-bit types.
fn pack(dtype: DType, shape: &[usize], mut f: impl FnMut(usize) -> i128) -> Result<Tensor> {
    let (mut data, bytes) = room(dtype, shape)?;
    data.resize(bytes, 0);
    for i in 0..shape.iter().product() {
        store_bits(dtype, &mut data, i, wrap_int(dtype, f(i)) as u64);
    }
    Tensor::new(dtype, shape.to_vec(), Bytes::from(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_stores_and_gives_back_its_values() {
        for dtype in DType::ALL {
            let shape = [3, 5];
            let t = Tensor::random(dtype, &shape, 11).unwrap();
            let values = t.to_f64_vec();
            assert!(values.iter().any(|&v| v != 0.0), "{dtype}");
            assert_eq!(Tensor::from_f64(dtype, &shape, &values).unwrap(), t, "{dtype}");
            if let Some(ints) = t.to_i128_vec() {
                assert_eq!(Tensor::from_i128(dtype, &shape, &ints).unwrap(), t, "{dtype}");
                assert_eq!(ints.iter().map(|&v| v as f64).collect::<Vec<_>>(), values);
            }
        }
    }

    #[test]
    fn wide_integers_are_exact() {
        let values = [u64::MAX, 1, (1 << 53) + 1];
        let t = Tensor::from_slice(&[3], &values).unwrap();
        assert_eq!(t.to_i128_vec().unwrap(), values.map(i128::from));
        assert_eq!(t.to_i64_vec(), None);
        assert_eq!(t.to_vec::<u64>().unwrap(), values);
        assert_eq!(t.to_vec::<i64>(), None);
    }

    #[test]
    fn nibbles_pack_low_first() {
        let t = Tensor::from_i128(DType::I4, &[3], &[-1, 7, -8]).unwrap();
        assert_eq!(t.data().as_ref(), [0x7f, 0x08]);
        assert_eq!(t.to_i64_vec().unwrap(), [-1, 7, -8]);
    }

    #[test]
    fn wrong_counts_are_errors() {
        assert!(Tensor::from_f64(DType::F32, &[2, 2], &[1.0]).is_err());
        assert!(Tensor::from_i128(DType::I4, &[4], &[1, 2, 3]).is_err());
        assert!(Tensor::from_slice(&[2], &[1u8]).is_err());
        assert!(Tensor::zeros(DType::F64, &[usize::MAX, 2]).is_err());
        assert!(Tensor::zeros(DType::F64, &[usize::MAX / 16]).is_err());
        for dtype in DType::ALL {
            assert!(Tensor::random(dtype, &[1 << 58], 1).is_err(), "{dtype}");
        }
    }
}
