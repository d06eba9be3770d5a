//! Values while they are interpreted: f64 for floats, i64 for integers and bools.

use crate::number::{round_to, wrap_int};
use crate::{DType, Element, Result, Tensor};
use std::rc::Rc;

/// What an evaluation gives; the text becomes an error that names the node.
pub(crate) type Eval<T> = std::result::Result<T, String>;

/// Elements. Integers are i64; u64 keeps its bit pattern.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    Float(Vec<f64>),
    Int(Vec<i64>),
}

/// Applies a generic expression to either kind of elements.
macro_rules! with_data {
    ($data:expr, $v:ident => $body:expr) => {
        match $data {
            $crate::interp::array::Data::Float($v) => $crate::interp::array::Data::Float($body),
            $crate::interp::array::Data::Int($v) => $crate::interp::array::Data::Int($body),
        }
    };
}
pub(crate) use with_data;

/// A dense row-major array. Cloning shares the elements.
#[derive(Clone, Debug)]
pub(crate) struct Array {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub data: Rc<Data>,
}

impl Array {
    pub fn new(dtype: DType, shape: Vec<usize>, data: Data) -> Array {
        Array { dtype, shape, data: Rc::new(data) }
    }

    /// Floats that still have to be rounded to `dtype`.
    pub fn rounded(dtype: DType, shape: Vec<usize>, mut values: Vec<f64>) -> Array {
        if dtype != DType::F64 {
            values.iter_mut().for_each(|v| *v = round_to(dtype, *v, false));
        }
        Array::new(dtype, shape, Data::Float(values))
    }

    /// Integers that still have to wrap to `dtype`.
    pub fn wrapped(dtype: DType, shape: Vec<usize>, mut values: Vec<i64>) -> Array {
        if dtype.bits() != 64 {
            values.iter_mut().for_each(|v| *v = store(dtype, i128::from(*v)));
        }
        Array::new(dtype, shape, Data::Int(values))
    }

    pub fn from_tensor(t: &Tensor) -> Array {
        let data = match t.to_i128_vec() {
            Some(ints) => Data::Int(ints.into_iter().map(|v| v as i64).collect()),
            None => Data::Float(t.to_f64_vec()),
        };
        Array::new(t.dtype(), t.shape().to_vec(), data)
    }

    pub fn to_tensor(&self) -> Result<Tensor> {
        match self.data.as_ref() {
            Data::Float(v) => Tensor::from_f64(self.dtype, &self.shape, v),
            Data::Int(v) if self.dtype == DType::I64 => Tensor::from_slice(&self.shape, v),
            Data::Int(v) => {
                let wide: Vec<i128> = v.iter().map(|&v| i128::from(v)).collect();
                Tensor::from_i128(self.dtype, &self.shape, &wide)
            }
        }
    }

    pub fn scalar<T: Element>(value: T) -> Array {
        Array::from_tensor(&Tensor::scalar(value))
    }

    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn floats(&self) -> Eval<&[f64]> {
        match self.data.as_ref() {
            Data::Float(v) => Ok(v),
            Data::Int(_) => Err(format!("expected floats, found {}", self.dtype)),
        }
    }

    pub fn ints(&self) -> Eval<&[i64]> {
        match self.data.as_ref() {
            Data::Int(v) => Ok(v),
            Data::Float(_) => Err(format!("expected integers, found {}", self.dtype)),
        }
    }

    /// The single element of a rank-0 integer.
    pub fn int(&self) -> Eval<i64> {
        self.ints()?.first().copied().ok_or_else(|| "expected a scalar, found no element".to_owned())
    }

    /// The same elements under another shape.
    pub fn with_shape(&self, shape: Vec<usize>) -> Array {
        Array { dtype: self.dtype, shape, data: Rc::clone(&self.data) }
    }

    /// A strided view, made dense.
    pub fn view(&self, shape: Vec<usize>, strides: &[isize], offset: isize) -> Array {
        let data = with_data!(self.data.as_ref(), v => strided(v, &shape, strides, offset));
        Array::new(self.dtype, shape, data)
    }

    /// Axes in another order.
    pub fn permuted(&self, perm: &[usize]) -> Array {
        if perm.iter().enumerate().all(|(i, &p)| i == p) {
            return self.clone();
        }
        let own = strides(&self.shape);
        let moved: Vec<isize> = perm.iter().map(|&p| own[p]).collect();
        self.view(perm.iter().map(|&p| self.shape[p]).collect(), &moved, 0)
    }
}

/// The integer that the stored bits of `dtype` mean.
pub(crate) fn wide(dtype: DType, v: i64) -> i128 {
    if dtype == DType::U64 { i128::from(v as u64) } else { i128::from(v) }
}

/// The bits that an integer is stored as, wrapping.
pub(crate) fn store(dtype: DType, v: i128) -> i64 {
    wrap_int(dtype, v) as i64
}

/// Row-major strides.
pub(crate) fn strides(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i] as isize;
    }
    strides
}

/// Calls `f` with the offset of every index of `shape`, in row-major order.
pub(crate) fn odometer(shape: &[usize], strides: &[isize], offset: isize, mut f: impl FnMut(isize)) {
    if shape.contains(&0) {
        return;
    }
    let mut index = vec![0; shape.len()];
    let mut at = offset;
    loop {
        f(at);
        let mut axis = shape.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis] as isize;
            index[axis] = 0;
        }
    }
}

/// Reads a strided view in row-major order.
pub(crate) fn strided<T: Copy>(src: &[T], shape: &[usize], strides: &[isize], offset: isize) -> Vec<T> {
    let mut out = Vec::with_capacity(shape.iter().product());
    if shape.contains(&0) {
        return out;
    }
    let Some((&n, outer)) = shape.split_last() else {
        out.push(src[offset as usize]);
        return out;
    };
    let step = strides[outer.len()];
    odometer(outer, &strides[..outer.len()], offset, |at| match step {
        1 => out.extend_from_slice(&src[at as usize..][..n]),
        0 => out.extend(std::iter::repeat_n(src[at as usize], n)),
        _ => out.extend((0..n as isize).map(|i| src[(at + i * step) as usize])),
    });
    out
}

/// Writes `src` in row-major order to a strided view of `dst`.
pub(crate) fn write_strided<T: Copy>(dst: &mut [T], src: &[T], shape: &[usize], strides: &[isize], offset: isize) {
    let mut values = src.iter();
    odometer(shape, strides, offset, |at| {
        if let Some(&v) = values.next() {
            dst[at as usize] = v;
        }
    });
}
