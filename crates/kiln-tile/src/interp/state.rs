//! What both interpreters stand on: variables, tensors, and the value of an expression. Every access is checked.

use super::Arg;
use crate::dtype::{Array, DType, Scalar, Type};
use crate::error::{Result, TileError};
use crate::expr::{BinaryOp, Expr, ExprKind, Var};
use crate::math;
use crate::program::{AtomicOp, Buffer, Param};

/// The elements of a buffer, and its extents and strides in this run.
pub(crate) struct Tensor {
    pub(crate) array: Array,
    pub(crate) shape: Vec<i128>,
    strides: Vec<i128>,
}

/// Names and what they stand for. Both are looked up by their number in the program.
pub(crate) struct State {
    kernel: String,
    pub(crate) vars: Vec<Option<Scalar>>,
    tensors: Vec<Option<Tensor>>,
}

/// Puts `value` at `id`, past the end too.
fn put<T>(table: &mut Vec<Option<T>>, id: u32, value: T) {
    let id = id as usize;
    if id >= table.len() {
        table.resize_with(id + 1, || None);
    }
    table[id] = Some(value);
}

fn unknown(kernel: &str, buffer: &Buffer) -> TileError {
    let what = format!("`{}` is neither a parameter nor declared", buffer.name);
    TileError::Undefined { kernel: kernel.to_owned(), what }
}

impl State {
    pub(crate) fn new(kernel: &str) -> State {
        State { kernel: kernel.to_owned(), vars: vec![], tensors: vec![] }
    }

    fn argument<T>(&self, position: usize, name: &str, what: String) -> Result<T> {
        let (kernel, name) = (self.kernel.clone(), name.to_owned());
        Err(TileError::Argument { kernel, position, name, what })
    }

    /// Takes the launch arguments, one for each parameter in order.
    pub(crate) fn bind_args(&mut self, params: &[Param], args: &[Arg]) -> Result<()> {
        if params.len() != args.len() {
            let what = format!("{} arguments for {} parameters", args.len(), params.len());
            return self.argument(args.len().min(params.len()), "", what);
        }
        for (position, (param, arg)) in params.iter().zip(args).enumerate() {
            if let (Param::Scalar { var, range, multiple_of }, Arg::Scalar(value)) = (param, arg) {
                let value = value.cast(var.ty);
                if let Scalar::Int(x) = value
                    && (x < range.0.into() || x > range.1.into() || x % i128::from(*multiple_of) != 0)
                    && var.ty == Type::Index
                {
                    let what = format!("{x} is not a multiple of {multiple_of} within {range:?}");
                    return self.argument(position, &var.name, what);
                }
                self.set(var, value);
            }
        }
        for (position, (param, arg)) in params.iter().zip(args).enumerate() {
            match (param, arg) {
                (Param::Scalar { .. }, Arg::Scalar(_)) => {}
                (Param::Buffer { buffer, .. }, Arg::Array(array)) => {
                    if array.dtype() != buffer.dtype {
                        let what = format!("{} elements, expected {}", array.dtype(), buffer.dtype);
                        return self.argument(position, &buffer.name, what);
                    }
                    self.hold(buffer, array.clone())?;
                }
                (Param::Scalar { var, .. }, _) => {
                    return self.argument(position, &var.name, "expected a scalar".to_owned());
                }
                (Param::Buffer { buffer, .. }, _) => {
                    return self.argument(position, &buffer.name, "expected an array".to_owned());
                }
            }
        }
        Ok(())
    }

    /// Gives the arrays back to the arguments that they came from.
    pub(crate) fn give_back(mut self, params: &[Param], args: &mut [Arg]) {
        for (param, arg) in params.iter().zip(args) {
            if let (Param::Buffer { buffer, .. }, Arg::Array(array)) = (param, arg)
                && let Some(tensor) = self.tensors.get_mut(buffer.id as usize).and_then(Option::take)
            {
                *array = tensor.array;
            }
        }
    }

    /// Gives `buffer` its elements; its extents and strides are evaluated now.
    pub(crate) fn hold(&mut self, buffer: &Buffer, array: Array) -> Result<()> {
        let (shape, strides) = (self.indices(&buffer.shape)?, self.indices(&buffer.strides)?);
        put(&mut self.tensors, buffer.id, Tensor { array, shape, strides });
        Ok(())
    }

    /// What `buffer` holds.
    pub(crate) fn tensor(&self, buffer: &Buffer) -> Result<&Tensor> {
        let tensor = self.tensors.get(buffer.id as usize).and_then(Option::as_ref);
        tensor.ok_or_else(|| unknown(&self.kernel, buffer))
    }

    /// The elements of `buffer`, to be changed.
    pub(crate) fn array_mut(&mut self, buffer: &Buffer) -> Result<&mut Array> {
        let tensor = self.tensors.get_mut(buffer.id as usize).and_then(Option::as_mut);
        tensor.map(|tensor| &mut tensor.array).ok_or_else(|| unknown(&self.kernel, buffer))
    }

    pub(crate) fn set(&mut self, var: &Var, value: Scalar) {
        put(&mut self.vars, var.id, value);
    }

    pub(crate) fn bind(&mut self, var: &Var, value: &Expr) -> Result<()> {
        let value = self.eval(value)?;
        self.set(var, value);
        Ok(())
    }

    pub(crate) fn indices(&self, exprs: &[Expr]) -> Result<Vec<i128>> {
        exprs.iter().map(|e| self.index(e)).collect()
    }

    pub(crate) fn index(&self, e: &Expr) -> Result<i128> {
        Ok(self.eval(e)?.as_i128())
    }

    /// Whether a condition holds.
    pub(crate) fn holds(&self, e: &Expr) -> Result<bool> {
        Ok(self.eval(e)? != Scalar::Int(0))
    }

    /// Position of an element in its array, after checking every index against its extent.
    pub(crate) fn offset(&self, buffer: &Buffer, index: &[i128]) -> Result<usize> {
        let Tensor { array, shape, strides } = self.tensor(buffer)?;
        let inside = index.len() == shape.len() && index.iter().zip(shape).all(|(i, extent)| (0..*extent).contains(i));
        let offset: i128 = index.iter().zip(strides).map(|(i, stride)| i * stride).sum();
        match usize::try_from(offset) {
            Ok(offset) if inside && offset < array.len() => Ok(offset),
            _ => Err(TileError::OutOfBounds {
                kernel: self.kernel.clone(),
                buffer: buffer.name.clone(),
                index: index.to_vec(),
                shape: shape.clone(),
            }),
        }
    }

    pub(crate) fn read(&self, buffer: &Buffer, index: &[i128]) -> Result<Scalar> {
        let offset = self.offset(buffer, index)?;
        Ok(self.tensor(buffer)?.array.get(offset))
    }

    pub(crate) fn write(&mut self, buffer: &Buffer, index: &[i128], value: Scalar) -> Result<()> {
        let offset = self.offset(buffer, index)?;
        self.array_mut(buffer)?.set(offset, value);
        Ok(())
    }

    /// Updates the element at a position of its array.
    pub(crate) fn atomic(&mut self, op: AtomicOp, buffer: &Buffer, offset: usize, value: Scalar) -> Result<()> {
        let op = match op {
            AtomicOp::Add => BinaryOp::Add,
            AtomicOp::Min => BinaryOp::Min,
            AtomicOp::Max => BinaryOp::Max,
        };
        let old = self.tensor(buffer)?.array.get(offset);
        let new = self.binary(op, buffer.dtype, old, value)?;
        self.array_mut(buffer)?.set(offset, new);
        Ok(())
    }

    /// Notes `code` in the first element of `fault` if `violated` holds.
    pub(crate) fn check(&mut self, violated: &Expr, fault: &Buffer, code: &Expr) -> Result<()> {
        if !self.holds(violated)? {
            return Ok(());
        }
        let (old, code) = (self.read(fault, &[0])?.as_i128(), self.index(code)?);
        self.write(fault, &[0], Scalar::Int(old.max(code)))
    }

    fn arithmetic<T>(&self, what: String) -> Result<T> {
        Err(TileError::Arithmetic { kernel: self.kernel.clone(), what })
    }

    pub(crate) fn binary(&self, op: BinaryOp, ty: impl Into<Type>, x: Scalar, y: Scalar) -> Result<Scalar> {
        let ty = ty.into();
        match math::binary(op, ty, x, y) {
            Some(value) => Ok(value),
            None => self.arithmetic(format!("{op:?} of {x:?} and {y:?} has no result in {ty}")),
        }
    }

    pub(crate) fn eval(&self, e: &Expr) -> Result<Scalar> {
        match e.kind() {
            ExprKind::Const(value) => Ok(*value),
            ExprKind::Var(var) => match self.vars.get(var.id as usize) {
                Some(Some(value)) => Ok(*value),
                _ => Err(TileError::Undefined {
                    kernel: self.kernel.clone(),
                    what: format!("`{}` has no value here", var.name),
                }),
            },
            ExprKind::Unary(op, a) => Ok(math::unary(*op, a.ty(), self.eval(a)?)),
            ExprKind::Binary(op, a, b) => {
                let x = self.eval(a)?;
                // Lazy, like C's && and ||.
                match (op, x) {
                    (BinaryOp::And, Scalar::Int(0)) | (BinaryOp::Or, Scalar::Int(1)) if e.ty() == DType::Bool => Ok(x),
                    _ => self.binary(*op, e.ty(), x, self.eval(b)?),
                }
            }
            ExprKind::Compare(op, a, b) => {
                let holds = math::compare(*op, self.eval(a)?, self.eval(b)?);
                Ok(Scalar::Int(holds.into()))
            }
            ExprKind::Select(c, a, b) => self.eval(if self.holds(c)? { a } else { b }),
            ExprKind::Fma(a, b, c) => {
                let (a, b, c) = (self.eval(a)?, self.eval(b)?, self.eval(c)?);
                Ok(Scalar::Float(a.as_f64().mul_add(b.as_f64(), c.as_f64())).cast(e.ty()))
            }
            ExprKind::Cast(a) => Ok(self.eval(a)?.cast(e.ty())),
            ExprKind::Load(buffer, index) => match self.vars.get(buffer.id as usize) {
                // Without data, what all elements are taken for.
                Some(Some(value)) => Ok(*value),
                _ => self.read(buffer, &self.indices(index)?),
            },
        }
    }
}
