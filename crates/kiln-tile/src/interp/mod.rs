//! Runs a tile program on the CPU, one worker after another: the oracle that generated code is compared with.
//!
//! Floats are computed in f64 and rounded to their type at every value; `reduce` and `gemm` round once, at the end.
//! Integers are exact. Every access is checked.

mod state;

pub(crate) use state::State;

use crate::dtype::{Array, DType, Scalar, Type};
use crate::error::Result;
use crate::expr::{Expr, Var};
use crate::program::{Axis, Buffer, Program, Stmt};

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
    let mut interp = Interp { state: State::new(&program.name) };
    interp.state.bind_args(&program.params, args)?;
    let body = &program.body;
    interp.each(&program.domain.axes, &mut |interp| {
        for buffer in &program.buffers {
            interp.allocate(buffer)?;
        }
        interp.body(body)
    })?;
    interp.state.give_back(&program.params, args);
    Ok(())
}

struct Interp {
    state: State,
}

impl Interp {
    fn allocate(&mut self, buffer: &Buffer) -> Result<()> {
        let len = buffer.const_len().unwrap_or(0) as usize;
        let poison = if buffer.dtype.is_float() { Scalar::Float(f64::NAN) } else { Scalar::Int(-1) };
        self.state.hold(buffer, Array::from_values(buffer.dtype, std::iter::repeat_n(poison, len)))
    }

    /// Runs `visit` at every point of `axes`, the last varying fastest.
    fn each(&mut self, axes: &[Axis], visit: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<()> {
        let Some((axis, rest)) = axes.split_first() else { return visit(self) };
        for i in 0..self.state.index(&axis.extent)? {
            self.state.set(&axis.var, Scalar::Int(i));
            self.each(rest, visit)?;
        }
        Ok(())
    }

    fn body(&mut self, body: &[Stmt]) -> Result<()> {
        body.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<()> {
        match stmt {
            Stmt::Bind { var, value } | Stmt::Declare { var, value } | Stmt::Assign { var, value } => {
                self.state.bind(var, value)
            }
            Stmt::Store { buffer, index, value } => {
                let value = self.state.eval(value)?;
                self.write(buffer, index, value)
            }
            Stmt::Atomic { op, buffer, index, value } => {
                let offset = self.state.offset(buffer, &self.state.indices(index)?)?;
                let value = self.state.eval(value)?;
                self.state.atomic(*op, buffer, offset, value)
            }
            Stmt::Check { violated, fault, code } => self.state.check(violated, fault, code),
            Stmt::For { var, start, end, body, .. } => {
                let (start, end) = (self.state.index(start)?, self.state.index(end)?);
                self.serial(var, start..end, body)
            }
            Stmt::Pipelined { var, extent, body, .. } => {
                let end = self.state.index(extent)?;
                self.serial(var, 0..end, body)
            }
            Stmt::If { cond, then, otherwise } => {
                let holds = self.state.holds(cond)?;
                self.body(if holds { then } else { otherwise })
            }
            Stmt::Parallel { axes, body } => self.each(axes, &mut |interp| interp.body(body)),
            Stmt::Reduce { axes, body, results } => {
                // f64 stands for "not yet rounded"; integers keep their own type.
                let wide = |ty: Type| if ty.is_float() { DType::F64.into() } else { ty };
                let mut totals = Vec::with_capacity(results.len());
                for result in results {
                    totals.push(self.state.eval(&result.op.identity(result.var.ty))?);
                }
                self.each(axes, &mut |interp| {
                    interp.body(body)?;
                    for (total, result) in totals.iter_mut().zip(results) {
                        let value = interp.state.eval(&result.value)?;
                        let ty = wide(result.var.ty);
                        *total = interp.state.binary(result.op.binary(), ty, *total, value)?;
                    }
                    Ok(())
                })?;
                for (total, result) in totals.into_iter().zip(results) {
                    self.state.set(&result.var, total.cast(result.var.ty));
                }
                Ok(())
            }
            Stmt::ReduceRows { axes: [row, col], body, op, value, into } => {
                let wide = if into.dtype.is_float() { DType::F64 } else { into.dtype };
                self.each(std::slice::from_ref(row), &mut |interp| {
                    let mut total = interp.state.eval(&op.identity(into.dtype))?;
                    interp.each(std::slice::from_ref(col), &mut |interp| {
                        interp.body(body)?;
                        let value = interp.state.eval(value)?;
                        total = interp.state.binary(op.binary(), wide, total, value)?;
                        Ok(())
                    })?;
                    interp.write(into, &[Expr::var(&row.var)], total)
                })
            }
            Stmt::Fill { buffer, value } => {
                let value = self.state.eval(value)?;
                let array = self.state.array_mut(buffer)?;
                (0..array.len()).for_each(|i| array.set(i, value));
                Ok(())
            }
            Stmt::Copy { dst, axes, mask, body, value, fill } => {
                let index: Vec<Expr> = axes.iter().map(|axis| Expr::var(&axis.var)).collect();
                self.each(axes, &mut |interp| {
                    let exists = interp.state.holds(mask)?;
                    if exists {
                        interp.body(body)?;
                    }
                    let value = interp.state.eval(if exists { value } else { fill })?;
                    interp.write(dst, &index, value)
                })
            }
            Stmt::Gemm { acc, a, b, transpose_a, transpose_b } => self.gemm(acc, (a, *transpose_a), (b, *transpose_b)),
            Stmt::Barrier => Ok(()),
        }
    }

    fn serial(&mut self, var: &Var, range: std::ops::Range<i128>, body: &[Stmt]) -> Result<()> {
        for i in range {
            self.state.set(var, Scalar::Int(i));
            self.body(body)?;
        }
        Ok(())
    }

    fn write(&mut self, buffer: &Buffer, index: &[Expr], value: Scalar) -> Result<()> {
        let index = self.state.indices(index)?;
        self.state.write(buffer, &index, value)
    }

    fn gemm(&mut self, acc: &Buffer, a: (&Buffer, bool), b: (&Buffer, bool)) -> Result<()> {
        let extent = |buffer: &Buffer, i: usize| buffer.shape[i].as_const().unwrap_or(0) as usize;
        let (m, n) = (extent(acc, 0), extent(acc, 1));
        let k = extent(a.0, usize::from(!a.1));
        let (x, y) = (&self.state.tensor(a.0)?.array, &self.state.tensor(b.0)?.array);
        let mut out = self.state.tensor(acc)?.array.clone();
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
        *self.state.array_mut(acc)? = out;
        Ok(())
    }
}
