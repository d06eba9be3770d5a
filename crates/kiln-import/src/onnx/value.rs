//! What the importer knows of one ONNX value.

use kiln_graph::{DType, Dim, Tensor, TensorType, ValueId};
use std::rc::Rc;

/// One ONNX value during import.
#[derive(Clone, Debug)]
pub(super) enum Val {
    /// Computed when the graph runs: a value of the graph at nesting `level`.
    Run {
        /// Which of the nested graphs defines it; 0 is the model's own.
        level: usize,
        /// Its id there.
        id: ValueId,
        /// Its type.
        ty: TensorType,
    },
    /// Known bytes.
    Const(Rc<Constant>),
    /// Small integers known as dimension expressions: the currency of shape computations.
    Dims(Rc<DimTensor>),
}

/// A constant with the name it has in the model (empty if folded).
#[derive(Debug)]
pub(super) struct Constant {
    pub(super) name: String,
    pub(super) tensor: Tensor,
}

/// An integer tensor of dimension expressions, row-major. Its dtype may be a float when an integer was cast to one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DimTensor {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) dims: Vec<Dim>,
}

/// Largest constant treated as a shape computation.
const MAX_DIMS: usize = 256;

impl Val {
    pub(super) fn constant(tensor: Tensor) -> Val {
        Val::Const(Rc::new(Constant { name: String::new(), tensor }))
    }

    /// Dimension expressions as a value: a plain constant when all are constant.
    pub(super) fn dims(t: DimTensor) -> Val {
        let ints: Option<Vec<i128>> = t.dims.iter().map(|d| d.as_const().map(i128::from)).collect();
        let constant = ints.and_then(|v| Tensor::from_i128(t.dtype, &t.shape, &v).ok());
        constant.map_or_else(|| Val::Dims(Rc::new(t)), Val::constant)
    }

    /// A rank-1 i64 vector of dimensions.
    pub(super) fn shape_vector(dims: Vec<Dim>) -> Val {
        Val::dims(DimTensor { dtype: DType::I64, shape: vec![dims.len()], dims })
    }

    pub(super) fn ty(&self) -> TensorType {
        match self {
            Val::Run { ty, .. } => ty.clone(),
            Val::Const(c) => TensorType::new(c.tensor.dtype(), c.tensor.shape().iter().copied()),
            Val::Dims(d) => TensorType::new(d.dtype, d.shape.iter().copied()),
        }
    }

    pub(super) fn dtype(&self) -> DType {
        match self {
            Val::Run { ty, .. } => ty.dtype,
            Val::Const(c) => c.tensor.dtype(),
            Val::Dims(d) => d.dtype,
        }
    }

    pub(super) fn as_const(&self) -> Option<&Tensor> {
        match self {
            Val::Const(c) => Some(&c.tensor),
            _ => None,
        }
    }

    /// This value as dimension expressions, if it is a small known integer tensor.
    pub(super) fn as_dims(&self) -> Option<DimTensor> {
        match self {
            Val::Dims(d) => Some((**d).clone()),
            Val::Const(c) if c.tensor.len() <= MAX_DIMS => {
                let (dtype, shape) = (c.tensor.dtype(), c.tensor.shape().to_vec());
                let ints: Vec<i64> = if dtype.is_float() {
                    let exact = |v: f64| (v.fract() == 0.0 && v.abs() < 2f64.powi(53)).then_some(v as i64);
                    c.tensor.to_f64_vec().into_iter().map(exact).collect::<Option<_>>()?
                } else {
                    c.tensor.to_i64_vec()?
                };
                Some(DimTensor { dtype, shape, dims: ints.into_iter().map(Dim::from).collect() })
            }
            _ => None,
        }
    }
}
