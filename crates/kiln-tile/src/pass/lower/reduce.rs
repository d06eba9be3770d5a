//! Lowers reductions: each thread combines its points, then the threads of the worker combine theirs.

use super::{Lower, lanes};
use crate::error::Result;
use crate::expr::{Expr, Var};
use crate::pass::layout::FragmentLayout;
use crate::print::prelude::Helper;
use crate::program::{Axis, Buffer, ReduceOp, Reduction, Stmt, Worker};
use crate::thread::{CExpr, CStmt};

impl Lower<'_> {
    /// Writes `stmt`, a [`Stmt::Reduce`].
    pub fn reduce(&mut self, stmt: &Stmt, axes: &[Axis], body: &[Stmt], results: &[Reduction]) -> Result<()> {
        // Partial results are ordinary variables that the loop assigns.
        let mut steps = body.to_vec();
        let mut partials = vec![];
        for result in results {
            let name = format!("{}_partial", result.var.name);
            let partial = Var { id: self.id(), name: name.into(), ty: result.var.ty };
            let identity = self.expr(&result.op.identity(partial.ty))?;
            self.declare(&partial, identity, false);
            let value = Expr::var(&partial).binary(result.op.binary(), &result.value);
            steps.push(Stmt::Assign { var: partial.clone(), value });
            partials.push(partial);
        }
        let fragment = lanes::touched_fragment(stmt, axes.len());
        self.scoped(|lower| {
            lower.cooperative_loop(axes, fragment.as_ref(), |lower, axis, width| {
                lower.lane_body(axes, axis, width, &steps)
            })
        })?;
        for (result, partial) in results.iter().zip(&partials) {
            let functor = self.functor(result.op);
            let block = self.program.domain.worker == Worker::Block;
            self.helpers.insert(if block { Helper::BlockReduce } else { Helper::WarpReduce });
            let function = if block {
                format!("block_reduce<{functor}, {}>", self.program.threads)
            } else {
                format!("warp_reduce<{functor}>")
            };
            let partial = self.expr(&Expr::var(partial))?;
            self.facts.set_unknown(&result.var);
            self.declare(&result.var, CExpr::call(function, [partial]), true);
        }
        Ok(())
    }

    /// Writes a [`Stmt::ReduceRows`]: each thread combines its part of its rows, then the threads that share a row combine theirs.
    pub fn reduce_rows(
        &mut self,
        stmt: &Stmt,
        axes: &[Axis; 2],
        body: &[Stmt],
        (op, value): (ReduceOp, &Expr),
        into: &Buffer,
    ) -> Result<()> {
        let FragmentLayout::Slice(rows) = self.layouts.fragment(into) else {
            return Err(self.internal(format!("`{}` has no layout of rows", into.name)));
        };
        self.scoped(|lower| lower.fill(into, &op.identity(into.dtype)))?;
        let index = [Expr::var(&axes[0].var)];
        let value = into.at(&index).binary(op.binary(), value);
        let store = Stmt::Store { buffer: into.clone(), index: index.to_vec(), value };
        let steps = [body, &[store]].concat();
        let accumulator = lanes::touched_fragment(stmt, 2);
        self.scoped(|lower| {
            lower.cooperative_loop(axes, accumulator.as_ref(), |lower, axis, width| {
                lower.lane_body(axes, axis, width, &steps)
            })
        })?;
        let function = format!("warp_reduce<{}, {}>", self.functor(op), rows.lanes);
        self.helpers.insert(Helper::WarpReduce);
        self.scoped(|lower| {
            lower.cooperative_loop(&axes[..1], Some(into), |lower, _, _| {
                let place = lower.place(into, &index)?;
                lower.push(CStmt::Assign(place.clone(), CExpr::call(function, [place])));
                Ok(())
            })
        })
    }

    /// The prelude's name for the two-operand function.
    fn functor(&mut self, op: ReduceOp) -> &'static str {
        let (helper, name) = match op {
            ReduceOp::Sum => (Helper::ReduceSum, "Sum"),
            ReduceOp::Prod => (Helper::ReduceProd, "Prod"),
            ReduceOp::Min => (Helper::ReduceMin, "Min"),
            ReduceOp::Max => (Helper::ReduceMax, "Max"),
            ReduceOp::And => (Helper::ReduceAnd, "And"),
            ReduceOp::Or => (Helper::ReduceOr, "Or"),
        };
        self.helpers.insert(helper);
        name
    }
}
