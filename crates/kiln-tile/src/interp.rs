//! Runs a tile program on the CPU, one worker after another: the oracle that generated code is compared with.
//!
//! Floats are computed in f64 and rounded to their type at every value; `reduce` and `gemm` round once, at the end.
//! Integers are exact. Every access is checked.

use crate::dtype::{Array, DType, Scalar, Type};
use crate::error::{Result, TileError};
use crate::expr::{BinaryOp, Expr, ExprKind, Var};
use crate::math;
use crate::program::{AtomicOp, Axis, Buffer, Param, Program, Stmt};
use std::collections::HashMap;

/// One launch argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// For a buffer parameter: its elements, updated in place.
    Array(Array),
    /// For a scalar parameter.
    Scalar(Scalar),
}

impl Arg {
    /// A dimension.
    pub fn dim(value: i64) -> Arg {
        Arg::Scalar(Scalar::Int(value.into()))
    }

    /// The elements of a buffer argument.
    pub fn array(&self) -> Option<&Array> {
        match self {
            Arg::Array(array) => Some(array),
            Arg::Scalar(_) => None,
        }
    }
}

/// Runs `program` on `args`, one for each parameter in order.
pub fn run(program: &Program, args: &mut [Arg]) -> Result<()> {
    let mut interp = Interp { program, vars: HashMap::new(), arrays: HashMap::new(), shapes: HashMap::new() };
    interp.bind_args(args)?;
    let body = &program.body;
    interp.each(&program.domain.axes, &mut |interp| {
        for buffer in &program.buffers {
            interp.allocate(buffer);
        }
        interp.body(body)
    })?;
    for (param, arg) in program.params.iter().zip(args) {
        if let (Param::Buffer { buffer, .. }, Arg::Array(array)) = (param, arg)
            && let Some(result) = interp.arrays.remove(&buffer.id)
        {
            *array = result;
        }
    }
    Ok(())
}

struct Interp<'a> {
    program: &'a Program,
    vars: HashMap<u32, Scalar>,
    arrays: HashMap<u32, Array>,
    /// Extents and strides of each buffer in this run.
    shapes: HashMap<u32, (Vec<i128>, Vec<i128>)>,
}

impl<'a> Interp<'a> {
    fn argument<T>(&self, position: usize, name: &str, what: String) -> Result<T> {
        let (kernel, name) = (self.program.name.clone(), name.to_owned());
        Err(TileError::Argument { kernel, position, name, what })
    }

    fn bind_args(&mut self, args: &mut [Arg]) -> Result<()> {
        let params = &self.program.params;
        if params.len() != args.len() {
            let what = format!("{} arguments for {} parameters", args.len(), params.len());
            return self.argument(args.len().min(params.len()), "", what);
        }
        for (position, (param, arg)) in params.iter().zip(args.iter()).enumerate() {
            if let (Param::Scalar { var, range, multiple_of }, Arg::Scalar(value)) = (param, arg) {
                let value = value.cast(var.ty);
                if let Scalar::Int(x) = value
                    && (x < range.0.into() || x > range.1.into() || x % i128::from(*multiple_of) != 0)
                    && var.ty == Type::Index
                {
                    let what = format!("{x} is not a multiple of {multiple_of} within {range:?}");
                    return self.argument(position, &var.name, what);
                }
                self.vars.insert(var.id, value);
            }
        }
        for (position, (param, arg)) in params.iter().zip(args.iter_mut()).enumerate() {
            match (param, arg) {
                (Param::Scalar { .. }, Arg::Scalar(_)) => {}
                (Param::Buffer { buffer, .. }, Arg::Array(array)) => {
                    if array.dtype() != buffer.dtype {
                        let what = format!("{} elements, expected {}", array.dtype(), buffer.dtype);
                        return self.argument(position, &buffer.name, what);
                    }
                    self.shape(buffer)?;
                    self.arrays.insert(buffer.id, array.clone());
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

    fn shape(&mut self, buffer: &Buffer) -> Result<()> {
        let eval = |interp: &Self, exprs: &[Expr]| -> Result<Vec<i128>> {
            exprs.iter().map(|e| Ok(interp.eval(e)?.as_i128())).collect()
        };
        let extents = (eval(self, &buffer.shape)?, eval(self, &buffer.strides)?);
        self.shapes.insert(buffer.id, extents);
        Ok(())
    }

    fn allocate(&mut self, buffer: &Buffer) {
        let constants = |exprs: &[Expr]| exprs.iter().filter_map(Expr::as_const).collect();
        let shape: (Vec<i128>, Vec<i128>) = (constants(&buffer.shape), constants(&buffer.strides));
        let len = buffer.const_len().unwrap_or(0) as usize;
        let poison = if buffer.dtype.is_float() { Scalar::Float(f64::NAN) } else { Scalar::Int(-1) };
        let array = Array::from_values(buffer.dtype, std::iter::repeat_n(poison, len));
        self.shapes.insert(buffer.id, shape);
        self.arrays.insert(buffer.id, array);
    }

    /// Runs `visit` at every point of `axes`, the last varying fastest.
    fn each(&mut self, axes: &[Axis], visit: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<()> {
        let Some((axis, rest)) = axes.split_first() else { return visit(self) };
        for i in 0..self.eval(&axis.extent)?.as_i128() {
            self.vars.insert(axis.var.id, Scalar::Int(i));
            self.each(rest, visit)?;
        }
        Ok(())
    }

    fn body(&mut self, body: &[Stmt]) -> Result<()> {
        body.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    fn bind(&mut self, var: &Var, value: &Expr) -> Result<()> {
        let value = self.eval(value)?;
        self.vars.insert(var.id, value);
        Ok(())
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<()> {
        match stmt {
            Stmt::Bind { var, value } | Stmt::Declare { var, value } | Stmt::Assign { var, value } => {
                self.bind(var, value)
            }
            Stmt::Store { buffer, index, value } => {
                let value = self.eval(value)?;
                self.write(buffer, index, value)
            }
            Stmt::Atomic { op, buffer, index, value } => {
                let op = match op {
                    AtomicOp::Add => BinaryOp::Add,
                    AtomicOp::Min => BinaryOp::Min,
                    AtomicOp::Max => BinaryOp::Max,
                };
                let old = self.read(buffer, index)?;
                let value = self.eval(value)?;
                let new = self.binary(op, buffer.dtype, old, value)?;
                self.write(buffer, index, new)
            }
            Stmt::Check { violated, fault, code } => {
                if self.eval(violated)? == Scalar::Int(0) {
                    return Ok(());
                }
                let (index, code) = ([Expr::index(0)], self.eval(code)?.as_i128());
                let old = self.read(fault, &index)?.as_i128();
                self.write(fault, &index, Scalar::Int(old.max(code)))
            }
            Stmt::For { var, start, end, body, .. } => {
                let (start, end) = (self.eval(start)?.as_i128(), self.eval(end)?.as_i128());
                self.serial(var, start..end, body)
            }
            Stmt::Pipelined { var, extent, body, .. } => {
                let end = self.eval(extent)?.as_i128();
                self.serial(var, 0..end, body)
            }
            Stmt::If { cond, then, otherwise } => {
                let holds = self.eval(cond)? != Scalar::Int(0);
                self.body(if holds { then } else { otherwise })
            }
            Stmt::Parallel { axes, body } => self.each(axes, &mut |interp| interp.body(body)),
            Stmt::Reduce { axes, body, results } => {
                // f64 stands for "not yet rounded"; integers keep their own type.
                let wide = |ty: Type| if ty.is_float() { DType::F64.into() } else { ty };
                let mut totals = Vec::with_capacity(results.len());
                for result in results {
                    totals.push(self.eval(&result.op.identity(result.var.ty))?);
                }
                self.each(axes, &mut |interp| {
                    interp.body(body)?;
                    for (total, result) in totals.iter_mut().zip(results) {
                        let value = interp.eval(&result.value)?;
                        let ty = wide(result.var.ty);
                        *total = interp.binary(result.op.binary(), ty, *total, value)?;
                    }
                    Ok(())
                })?;
                for (total, result) in totals.into_iter().zip(results) {
                    self.vars.insert(result.var.id, total.cast(result.var.ty));
                }
                Ok(())
            }
            Stmt::ReduceRows { axes: [row, col], body, op, value, into } => {
                let wide = if into.dtype.is_float() { DType::F64 } else { into.dtype };
                self.each(std::slice::from_ref(row), &mut |interp| {
                    let mut total = interp.eval(&op.identity(into.dtype))?;
                    interp.each(std::slice::from_ref(col), &mut |interp| {
                        interp.body(body)?;
                        let value = interp.eval(value)?;
                        total = interp.binary(op.binary(), wide, total, value)?;
                        Ok(())
                    })?;
                    interp.write(into, &[Expr::var(&row.var)], total)
                })
            }
            Stmt::Fill { buffer, value } => {
                let value = self.eval(value)?;
                if let Some(array) = self.arrays.get_mut(&buffer.id) {
                    for i in 0..array.len() {
                        array.set(i, value);
                    }
                }
                Ok(())
            }
            Stmt::Copy { dst, axes, mask, body, value, fill } => {
                let index: Vec<Expr> = axes.iter().map(|axis| Expr::var(&axis.var)).collect();
                self.each(axes, &mut |interp| {
                    let exists = interp.eval(mask)? != Scalar::Int(0);
                    if exists {
                        interp.body(body)?;
                    }
                    let value = interp.eval(if exists { value } else { fill })?;
                    interp.write(dst, &index, value)
                })
            }
            Stmt::Gemm { acc, a, b, transpose_a, transpose_b } => self.gemm(acc, (a, *transpose_a), (b, *transpose_b)),
            Stmt::Barrier => Ok(()),
        }
    }

    fn serial(&mut self, var: &Var, range: std::ops::Range<i128>, body: &[Stmt]) -> Result<()> {
        for i in range {
            self.vars.insert(var.id, Scalar::Int(i));
            self.body(body)?;
        }
        Ok(())
    }

    fn gemm(&mut self, acc: &Buffer, a: (&Buffer, bool), b: (&Buffer, bool)) -> Result<()> {
        let extent = |buffer: &Buffer, i: usize| buffer.shape[i].as_const().unwrap_or(0) as usize;
        let (m, n) = (extent(acc, 0), extent(acc, 1));
        let k = extent(a.0, usize::from(!a.1));
        let (Some(x), Some(y)) = (self.arrays.get(&a.0.id), self.arrays.get(&b.0.id)) else {
            return Ok(());
        };
        let Some(mut out) = self.arrays.get(&acc.id).cloned() else { return Ok(()) };
        for i in 0..m {
            for j in 0..n {
                let at = |p: usize| (if a.1 { p * m + i } else { i * k + p }, if b.1 { j * k + p } else { p * n + j });
                let old = out.get(i * n + j);
                let new = if acc.dtype.is_float() {
                    let dot: f64 =
                        (0..k).map(|p| x.get(at(p).0).cast(b.0.dtype).as_f64() * y.get(at(p).1).as_f64()).sum();
                    Scalar::Float(old.as_f64() + dot)
                } else {
                    let products = (0..k).map(|p| x.get(at(p).0).as_i128().wrapping_mul(y.get(at(p).1).as_i128()));
                    Scalar::Int(products.fold(old.as_i128(), i128::wrapping_add))
                };
                out.set(i * n + j, new);
            }
        }
        self.arrays.insert(acc.id, out);
        Ok(())
    }

    /// Position of an element in its array, after checking every index against its extent.
    fn offset(&self, buffer: &Buffer, index: &[Expr]) -> Result<usize> {
        let index: Vec<i128> = index.iter().map(|i| Ok(self.eval(i)?.as_i128())).collect::<Result<_>>()?;
        let none = (vec![], vec![]);
        let (shape, strides) = self.shapes.get(&buffer.id).unwrap_or(&none);
        let inside = index.len() == shape.len() && index.iter().zip(shape).all(|(i, extent)| (0..*extent).contains(i));
        let offset: i128 = index.iter().zip(strides).map(|(i, stride)| i * stride).sum();
        let len = self.arrays.get(&buffer.id).map_or(0, Array::len);
        match usize::try_from(offset) {
            Ok(offset) if inside && offset < len => Ok(offset),
            _ => Err(TileError::OutOfBounds {
                kernel: self.program.name.clone(),
                buffer: buffer.name.clone(),
                index,
                shape: shape.clone(),
            }),
        }
    }

    fn read(&self, buffer: &Buffer, index: &[Expr]) -> Result<Scalar> {
        let offset = self.offset(buffer, index)?;
        Ok(self.arrays.get(&buffer.id).map_or(Scalar::Int(0), |array| array.get(offset)))
    }

    fn write(&mut self, buffer: &Buffer, index: &[Expr], value: Scalar) -> Result<()> {
        let offset = self.offset(buffer, index)?;
        if let Some(array) = self.arrays.get_mut(&buffer.id) {
            array.set(offset, value);
        }
        Ok(())
    }

    fn arithmetic<T>(&self, what: String) -> Result<T> {
        Err(TileError::Arithmetic { kernel: self.program.name.clone(), what })
    }

    fn binary(&self, op: BinaryOp, ty: impl Into<Type>, x: Scalar, y: Scalar) -> Result<Scalar> {
        let ty = ty.into();
        match math::binary(op, ty, x, y) {
            Some(value) => Ok(value),
            None => self.arithmetic(format!("{op:?} of {x:?} and {y:?} has no result in {ty}")),
        }
    }

    fn eval(&self, e: &Expr) -> Result<Scalar> {
        match e.kind() {
            ExprKind::Const(value) => Ok(*value),
            ExprKind::Var(var) => match self.vars.get(&var.id) {
                Some(value) => Ok(*value),
                None => self.arithmetic(format!("`{}` has no value here", var.name)),
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
            ExprKind::Select(c, a, b) => self.eval(if self.eval(c)? == Scalar::Int(0) { b } else { a }),
            ExprKind::Fma(a, b, c) => {
                let (a, b, c) = (self.eval(a)?, self.eval(b)?, self.eval(c)?);
                Ok(Scalar::Float(a.as_f64().mul_add(b.as_f64(), c.as_f64())).cast(e.ty()))
            }
            ExprKind::Cast(a) => Ok(self.eval(a)?.cast(e.ty())),
            ExprKind::Load(buffer, index) => self.read(buffer, index),
        }
    }
}
