//! Lowers pipelined loops: copies run ahead of arithmetic, by `cp.async` or through registers.

use super::Lower;
use crate::error::Result;
use crate::expr::{Expr, ExprKind, Var};
use crate::pass::layout::Pipeline;
use crate::print::prelude::Helper;
use crate::program::{Buffer, Scope, Stmt};
use crate::thread::{CExpr, CStmt, CType};

/// What one element of a copy does: `target = mask ? value : fill`, as statements.
pub fn element(copy: &Stmt, target: &Buffer) -> Vec<Stmt> {
    let Stmt::Copy { axes, mask, body, value, fill, .. } = copy else { return vec![] };
    let store = |value: &Expr| Stmt::Store {
        buffer: target.clone(),
        index: axes.iter().map(|axis| Expr::var(&axis.var)).collect(),
        value: value.clone(),
    };
    let mut then = body.clone();
    then.push(store(value));
    if mask.as_const() == Some(1) {
        return then;
    }
    vec![Stmt::If { cond: mask.clone(), then, otherwise: vec![store(fill)] }]
}

impl Lower<'_> {
    /// Writes a [`Stmt::Pipelined`].
    pub fn pipelined(&mut self, var: &Var, extent: &Expr, body: &[Stmt]) -> Result<()> {
        let split = body.iter().take_while(|s| matches!(s, Stmt::Copy { .. })).count();
        let (copies, rest) = body.split_at(split);
        let range = self.facts.range(extent);
        self.facts.set_axis(var, extent);
        let ty = self.index_type(var);
        let mut end = self.expr(extent)?;
        if !matches!(end, CExpr::Int(..)) {
            let name = self.names.fresh(&format!("{}_count", var.name));
            let count =
                CStmt::Declare { ty: ty.name().to_owned(), name: name.clone(), value: Some(end), constant: true };
            self.push(count);
            end = CExpr::name(name);
        }
        let name = self.name(var, ty);
        let steps = Steps { name, ty, end, least: range.lo };
        match self.layouts.pipeline(var) {
            Pipeline::Async { stages } => self.async_loop(&steps, stages, copies, rest),
            Pipeline::Staged => self.staged_loop(&steps, copies, rest),
        }
    }

    fn async_loop(&mut self, steps: &Steps, stages: u32, copies: &[Stmt], rest: &[Stmt]) -> Result<()> {
        self.helpers.insert(Helper::CopyAsync);
        let fetch = self.names.fresh("fetch");
        let step = CExpr::name(steps.name.clone());
        let body = self.nested(|lower| {
            let bases = lower.enter_slots(copies, &step, stages);
            copies.iter().try_for_each(|copy| lower.scoped(|lower| lower.copy_async(copy)))?;
            lower.leave_slots(bases);
            Ok(())
        })?;
        let param = format!("{} {}", steps.ty.name(), steps.name);
        self.push(CStmt::Lambda { name: fetch.clone(), param, body });

        let commit = CStmt::Expr(CExpr::call("copy_async_commit", []));
        let call = |at: CExpr| CStmt::Expr(CExpr::call(fetch.clone(), [at]));
        let ahead = self.names.fresh("ahead");
        let first = CExpr::name(ahead.clone());
        let start = steps.guarded(first.clone(), i128::from(stages) - 2, vec![call(first)]);
        self.push(CStmt::unrolled(ahead, u64::from(stages - 1), vec![start, commit.clone()]));

        let next = step.clone().op("+", CExpr::int(i128::from(stages) - 1));
        let mut body = vec![
            CStmt::Expr(CExpr::call(format!("copy_async_wait<{}>", stages - 2), [])),
            CStmt::Expr(CExpr::call("__syncthreads", [])),
            CStmt::If { cond: steps.before_end(next.clone()), then: vec![call(next)], otherwise: vec![] },
            commit,
        ];
        body.extend(self.consume(copies, rest, &step, stages)?);
        self.push(steps.serial(body));
        Ok(())
    }

    fn staged_loop(&mut self, steps: &Steps, copies: &[Stmt], rest: &[Stmt]) -> Result<()> {
        let step = CExpr::name(steps.name.clone());
        let staging: Vec<Buffer> = copies.iter().filter_map(|copy| self.staging(copy)).collect();
        let fetch = self.names.fresh("fetch");
        let put = self.names.fresh("put");
        let param = format!("{} {}", steps.ty.name(), steps.name);
        let body = self.nested(|lower| {
            copies.iter().zip(&staging).try_for_each(|(copy, next)| {
                let Stmt::Copy { axes, .. } = copy else { return Ok(()) };
                let stmts = element(copy, next);
                lower.scoped(|lower| {
                    lower.unrolled_strided_loop(axes, |lower, axis, width| lower.lane_body(axes, axis, width, &stmts))
                })
            })
        })?;
        self.push(CStmt::Lambda { name: fetch.clone(), param: param.clone(), body });
        let body = self.nested(|lower| {
            let bases = lower.enter_slots(copies, &step, 2);
            copies.iter().zip(&staging).try_for_each(|(copy, next)| {
                let Stmt::Copy { dst, axes, .. } = copy else { return Ok(()) };
                let index: Vec<Expr> = axes.iter().map(|axis| Expr::var(&axis.var)).collect();
                let value = next.at(&index);
                let stmts = [Stmt::Store { buffer: dst.clone(), index, value }];
                lower.scoped(|lower| {
                    lower.unrolled_strided_loop(axes, |lower, axis, width| lower.lane_body(axes, axis, width, &stmts))
                })
            })?;
            lower.leave_slots(bases);
            Ok(())
        })?;
        self.push(CStmt::Lambda { name: put.clone(), param, body });

        let call = |function: &str, at: &CExpr| CStmt::Expr(CExpr::call(function, [at.clone()]));
        let barrier = CStmt::Expr(CExpr::call("__syncthreads", []));
        let zero = CExpr::int(0);
        self.push(steps.guarded(zero.clone(), 0, vec![call(&fetch, &zero), call(&put, &zero)]));
        self.push(barrier.clone());
        let next = step.clone().op("+", CExpr::int(1));
        let more = steps.before_end(next.clone());
        let when = |then: CStmt| CStmt::If { cond: more.clone(), then: vec![then], otherwise: vec![] };
        let mut body = vec![when(call(&fetch, &next))];
        body.extend(self.consume(copies, rest, &step, 2)?);
        body.push(when(call(&put, &next)));
        body.push(barrier);
        self.push(steps.serial(body));
        Ok(())
    }

    /// The arithmetic of one step, on the slots that hold its tiles.
    fn consume(&mut self, copies: &[Stmt], rest: &[Stmt], step: &CExpr, slots: u32) -> Result<Vec<CStmt>> {
        self.nested(|lower| {
            let bases = lower.enter_slots(copies, step, slots);
            lower.stmts(rest)?;
            lower.leave_slots(bases);
            Ok(())
        })
    }

    /// Declares the slot of each copied tile for `step` and makes the tile's name mean it; returns the former names.
    fn enter_slots(&mut self, copies: &[Stmt], step: &CExpr, slots: u32) -> Vec<(u32, String)> {
        let mut bases = vec![];
        for copy in copies {
            let Stmt::Copy { dst, .. } = copy else { continue };
            let base = self.buffer_name(dst);
            let slot = self.names.fresh(&format!("{base}_slot"));
            let number = step.clone().infix("%", CExpr::int(slots.into()));
            let offset = number.op("*", CExpr::int(self.slot_elements(dst).into()));
            let ty = format!("{}* const", self.element_type(dst.dtype));
            let value = CExpr::name(base.clone()).op("+", offset);
            self.push(CStmt::Declare { ty, name: slot.clone(), value: Some(value), constant: false });
            self.buffers.insert(dst.id, slot);
            bases.push((dst.id, base));
        }
        bases
    }

    fn leave_slots(&mut self, bases: Vec<(u32, String)>) {
        self.buffers.extend(bases);
    }

    fn copy_async(&mut self, copy: &Stmt) -> Result<()> {
        let Stmt::Copy { dst, axes, mask, body, value, .. } = copy else { return Ok(()) };
        let ExprKind::Load(from, at) = value.kind() else { return Ok(()) };
        self.unrolled_strided_loop(axes, |lower, _, width| {
            // Without loads among them, what the body names may be computed where the source does not exist.
            lower.stmts(body)?;
            let index: Vec<Expr> = axes.iter().map(|axis| Expr::var(&axis.var)).collect();
            let target = CExpr::name(lower.buffer_name(dst)).offset(lower.offset(dst, &index)?);
            let source = CExpr::name(lower.buffer_name(from)).offset(lower.offset(from, at)?);
            let exists = lower.expr(mask)?;
            let bytes = width * dst.dtype.bits() / 8;
            lower.push(CStmt::Expr(CExpr::call(format!("copy_async<{bytes}>"), [target, source, exists])));
            Ok(())
        })
    }

    /// Declares the registers that hold the next tile of a copy.
    fn staging(&mut self, copy: &Stmt) -> Option<Buffer> {
        let Stmt::Copy { dst, axes, .. } = copy else { return None };
        let id = self.id();
        let next = Buffer::new(id, &format!("{}_next", dst.name), dst.dtype, Scope::Fragment, dst.shape.clone());
        self.layouts.add_blocked(&next);
        let name = self.names.fresh(&next.name);
        self.buffers.insert(id, name.clone());
        let width = self.layouts.width(axes);
        let stride = u64::from(self.worker_threads() * width);
        let count = next.const_len().unwrap_or(0).div_ceil(stride) * u64::from(width);
        let ty = self.element_type(dst.dtype).to_owned();
        self.push(CStmt::Array { ty, name, dims: vec![count], shared: false });
        Some(next)
    }
}

/// The steps of a pipelined loop.
struct Steps {
    name: String,
    ty: CType,
    end: CExpr,
    /// Least possible number of them.
    least: i128,
}

impl Steps {
    fn before_end(&self, step: CExpr) -> CExpr {
        step.infix("<", self.end.clone())
    }

    /// `body` if there is a step `step`, which is at most `greatest`.
    fn guarded(&self, step: CExpr, greatest: i128, mut body: Vec<CStmt>) -> CStmt {
        match body.pop() {
            Some(only) if body.is_empty() && self.least > greatest => only,
            last => {
                body.extend(last);
                CStmt::If { cond: self.before_end(step), then: body, otherwise: vec![] }
            }
        }
    }

    fn serial(&self, body: Vec<CStmt>) -> CStmt {
        let (start, step) = (CExpr::int(0), CExpr::int(1));
        CStmt::For { ty: self.ty, var: self.name.clone(), start, end: self.end.clone(), step, unroll: false, body }
    }
}
