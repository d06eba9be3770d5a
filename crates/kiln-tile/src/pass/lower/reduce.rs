//! Lowers reductions: each thread combines its points, then the threads of the worker combine theirs.

use super::{Lower, lanes};
use crate::error::Result;
use crate::expr::{Expr, Var};
use crate::print::prelude::Helper;
use crate::program::{Axis, ReduceOp, Reduction, Stmt, Worker};
use crate::thread::CExpr;

impl Lower<'_> {
    /// Writes `stmt`, a [`Stmt::Reduce`].
    pub fn reduce(&mut self, stmt: &Stmt, axes: &[Axis], body: &[Stmt], results: &[Reduction]) -> Result<()> {
        // Partial results are ordinary variables that the loop assigns; their ids come after all others.
        let mut steps = body.to_vec();
        let mut partials = vec![];
        for result in results {
            let name = format!("{}_partial", result.var.name);
            let partial = Var { id: u32::MAX - result.var.id, name: name.into(), dtype: result.var.dtype };
            let identity = self.expr(&result.op.identity(partial.dtype))?;
            self.declare(&partial, identity, false);
            let value = Expr::var(&partial).binary(result.op.binary(), &result.value);
            steps.push(Stmt::Assign { var: partial.clone(), value });
            partials.push(partial);
        }
        let fragment = lanes::touched_fragment(stmt);
        self.scoped(|lower| {
            lower.crew_loop(axes, fragment.as_ref(), |lower, axis, width| lower.lane_body(axes, axis, width, &steps))
        })?;
        for (result, partial) in results.iter().zip(&partials) {
            let (helper, functor) = match result.op {
                ReduceOp::Sum => (Helper::ReduceSum, "Sum"),
                ReduceOp::Prod => (Helper::ReduceProd, "Prod"),
                ReduceOp::Min => (Helper::ReduceMin, "Min"),
                ReduceOp::Max => (Helper::ReduceMax, "Max"),
                ReduceOp::And => (Helper::ReduceAnd, "And"),
                ReduceOp::Or => (Helper::ReduceOr, "Or"),
            };
            let block = self.program.domain.worker == Worker::Block;
            self.helpers.extend([helper, if block { Helper::BlockReduce } else { Helper::WarpReduce }]);
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
}
