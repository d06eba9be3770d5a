//! What the code that `#[kiln::model]` generates calls. Not for use by hand.

pub use kiln_graph::{
    BinaryOp, Builder, CompareOp, DType, Dim, Element, Error, Graph, Result, TensorType, UnaryOp, ValueId, method,
};

/// A config value in the place of a dim.
pub trait ToDim {
    /// The dim.
    fn to_dim(&self) -> Dim;
}

macro_rules! to_dim {
    ($($int:ty),*) => {$(
        impl ToDim for $int {
            fn to_dim(&self) -> Dim {
                Dim::from(i64::try_from(*self).unwrap_or(i64::MAX))
            }
        }
    )*};
}

to_dim!(i8, i16, i32, i64, isize, u8, u16, u32, u64, usize);

impl ToDim for Dim {
    fn to_dim(&self) -> Dim {
        self.clone()
    }
}

impl<T: ToDim + ?Sized> ToDim for &T {
    fn to_dim(&self) -> Dim {
        (**self).to_dim()
    }
}

/// A config value as a dim.
pub fn dim(value: &impl ToDim) -> Dim {
    value.to_dim()
}

/// Adds the place in the model to an error of a build. The closure is made here: one in each statement of a long model would be left open
/// by type inference until the end of the function, and be looked at again for every statement.
pub fn at(place: &'static str) -> impl FnOnce(Error) -> Error {
    move |error| match error {
        Error::Infer { op, message } => Error::Infer { op: format!("{place}: {op}"), message },
        other => Error::Infer { op: place.to_owned(), message: other.to_string() },
    }
}

/// The extent of an axis.
pub fn axis(builder: &Builder, value: ValueId, axis: i64) -> Result<Dim> {
    Ok(builder.shape(value)[builder.axis(value, axis)?].clone())
}

/// A number in the dtype of the tensor beside it.
pub fn number(builder: &mut Builder, like: ValueId, value: f64) -> Result<ValueId> {
    let dtype = builder.dtype(like);
    if dtype == DType::Bool || dtype.is_int() && value.fract() != 0.0 {
        let message = format!("`{value}` is no {dtype} and cannot meet {}; insert a cast", builder.ty(like));
        return Err(Error::Infer { op: "scalar".into(), message });
    }
    builder.scalar(dtype, value)
}

/// A dim's value in the dtype of the tensor beside it.
pub fn symbolic(builder: &mut Builder, like: ValueId, dim: &Dim) -> Result<ValueId> {
    let dtype = builder.dtype(like);
    builder.dim_value(dim, dtype)
}

/// A graph input.
pub fn input(builder: &mut Builder, name: &str, ty: TensorType) -> Result<ValueId> {
    builder.input(name, ty.dtype, &ty.shape)
}

/// A weight whose shape came from config values.
pub fn weight(builder: &mut Builder, name: &str, dtype: DType, shape: Vec<Dim>) -> Result<ValueId> {
    let ty = TensorType { dtype, shape };
    match ty.const_shape() {
        Some(shape) => builder.weight(name, dtype, &shape),
        None => {
            let message = format!("weight `{name}` needs a constant shape, found {ty}");
            Err(Error::Infer { op: "weight".into(), message })
        }
    }
}

/// A tensor of one number.
pub fn full(builder: &mut Builder, dtype: DType, shape: &[Dim], value: f64) -> Result<ValueId> {
    let scalar = builder.scalar(dtype, value)?;
    builder.broadcast_to(scalar, shape)
}

/// Names a value after the scope and its variable, unless it already has a name.
pub fn name(builder: &mut Builder, value: ValueId, name: &str) {
    if builder.graph().value(value).name.is_empty() {
        let scope = builder.scope();
        let path = if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") };
        builder.set_name(value, path);
    }
}

/// The dtype that an argument gives to a dtype parameter: an integer's if `int`, else a float's.
pub fn dtype(builder: &Builder, value: ValueId, int: bool, what: &str) -> Result<DType> {
    let dtype = builder.dtype(value);
    if if int { dtype.is_int() } else { dtype.is_float() } {
        return Ok(dtype);
    }
    let message = format!("expected {}, found {}", if int { "an integer" } else { "a float" }, builder.ty(value));
    Err(Error::Infer { op: what.to_owned(), message })
}

/// What the code that `#[kiln::kernel]` and `#[derive(kiln::Config)]` generate calls.
pub mod kernel {
    pub use half::{bf16, f16};
    pub use kiln_kernels::own::write::{
        At, Number, ReduceOp, UnaryOp, Value, gelu, gelu_tanh, index, program, recip, sigmoid, silu,
    };
    pub use kiln_kernels::own::{Config, Kernel, NoConfig, candidates};
    pub use kiln_kernels::{Error, Result};
    pub use kiln_tile::Expr;
    pub use kiln_tile::expr::{BinaryOp, CompareOp};
    pub use kiln_tile::ir::{Program, Schedule};
    pub use serde;

    use kiln_graph::{Builder, Graph};
    use std::sync::Arc;

    /// The graph of the function that a kernel implements.
    ///
    /// # Errors
    /// Why it cannot be built.
    pub fn function(kernel: &str, graph: kiln_graph::Result<Graph>) -> Result<Graph> {
        graph.map_err(|e| Error::Own {
            kernel: kernel.to_owned(),
            what: format!("the function that it implements: {e}"),
            help: "check it as a model first".into(),
        })
    }

    /// Lets a graph carry a kernel.
    ///
    /// # Errors
    /// What is wrong with the kernel.
    pub fn attach(builder: &mut Builder, kernel: Result<Arc<Kernel>>) -> kiln_graph::Result<()> {
        let failed = |e: Error| kiln_graph::Error::Infer { op: "kernel".into(), message: e.to_string() };
        builder.graph_mut().attached.add(kernel.map_err(failed)?);
        Ok(())
    }
}
