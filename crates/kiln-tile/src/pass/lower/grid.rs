//! Lowers the domain: from block and thread numbers to the variables of its axes.

use super::Lower;
use crate::dtype::Type;
use crate::error::Result;
use crate::expr::Expr;
use crate::pass::facts::{Range, VarFacts};
use crate::program::{Axis, Stmt, Worker, product};
use crate::thread::{CExpr, CStmt, CType};

/// A position in the domain's row-major order.
struct Point {
    /// What to call it if it has several axes.
    name: &'static str,
    value: CExpr,
    /// Points that one block covers, if some may lie beyond the last; 0 if the grid is exact.
    spare: u32,
    width: u32,
}

impl Lower<'_> {
    pub fn domain(&mut self, body: &[Stmt]) -> Result<()> {
        let program = self.program;
        let axes = &program.domain.axes;
        let points = program.points();
        let thread = CExpr::name("threadIdx.x");
        match program.domain.worker {
            Worker::Block => {
                let block = Point { name: "block", value: CExpr::name("blockIdx.x"), spare: 0, width: 1 };
                self.decode(axes, block)?;
                self.stmts(body)
            }
            Worker::Warp => {
                let warps = program.threads / 32;
                let value = self
                    .block_times(warps, &points)
                    .op("+", CExpr::Binary("/", Box::new(thread), Box::new(CExpr::int(32))));
                self.decode(axes, Point { name: "point", value, spare: warps, width: 1 })?;
                self.stmts(body)
            }
            Worker::Thread => {
                let width = self.layouts.width(axes);
                let sum = self.block_times(program.threads, &points).op("+", thread);
                let value = sum.op("*", CExpr::int(width.into()));
                let spare = program.threads * width;
                self.decode(axes, Point { name: "point", value, spare, width })?;
                match axes.last() {
                    Some(axis) if width > 1 => self.vectorized_body(axis, width, body),
                    _ => self.stmts(body),
                }
            }
        }
    }

    /// `blockIdx.x * size`, in 64 bits if the number of points asks for it.
    fn block_times(&self, size: u32, points: &Expr) -> CExpr {
        let block = CExpr::name("blockIdx.x");
        let limit = self.facts.range(points).hi + i128::from(size) * 16;
        let block = if limit > i128::from(i32::MAX) { CExpr::Cast(CType::Long, Box::new(block)) } else { block };
        block.op("*", CExpr::int(size.into()))
    }

    /// Declares the loop variables of a linear point, and leaves if the point lies beyond the last one.
    fn decode(&mut self, axes: &[Axis], point: Point) -> Result<()> {
        let program = self.program;
        let points = program.points();
        let guard = point.spare > 0 && self.facts.multiple(&points) % i128::from(point.spare) != 0;
        let range = self.facts.range(&points);
        let wide = range.hi + i128::from(point.spare) > i128::from(i32::MAX);
        if let [axis] = axes {
            self.set_axis(axis, point.width);
            let name = self.names.fresh(&axis.var.name);
            let ty = CType::of(Type::Index, wide);
            self.vars.insert(axis.var.id, (CExpr::name(name.clone()), ty));
            let ty = ty.name().to_owned();
            self.push(CStmt::Declare { ty, name: name.clone(), value: Some(point.value), constant: true });
            if guard {
                self.leave(CExpr::name(name), &points)?;
            }
            return Ok(());
        }
        let name = self.names.fresh(point.name);
        let linear = CExpr::name(name.clone());
        if !axes.is_empty() {
            let ty = CType::of(Type::Index, wide).name().to_owned();
            self.push(CStmt::Declare { ty, name, value: Some(point.value.clone()), constant: true });
        }
        if guard {
            let position = if axes.is_empty() { point.value } else { linear.clone() };
            self.leave(position, &points)?;
        }
        self.unravel(axes, linear, point.width)
    }

    fn leave(&mut self, point: CExpr, points: &Expr) -> Result<()> {
        let end = self.expr(points)?;
        let cond = CExpr::Binary(">=", Box::new(point), Box::new(end));
        self.push(CStmt::If { cond, then: vec![CStmt::Return], otherwise: vec![] });
        Ok(())
    }

    pub fn set_axis(&mut self, axis: &Axis, width: u32) {
        if width > 1 {
            self.facts.set_lane_axis(&axis.var, &axis.extent, width);
        } else {
            self.facts.set_axis(&axis.var, &axis.extent);
        }
    }

    /// Declares each variable of `axes` from a position in their row-major order.
    pub fn unravel(&mut self, axes: &[Axis], linear: CExpr, width: u32) -> Result<()> {
        for (i, axis) in axes.iter().enumerate() {
            self.set_axis(axis, if i + 1 == axes.len() { width } else { 1 });
            if axis.extent.as_const() == Some(1) {
                self.vars.insert(axis.var.id, (CExpr::int(0), CType::Int));
                let facts = VarFacts { range: Range::new(0, 0), multiple: 0, lane_step: Some(0) };
                self.facts.set(&axis.var, facts);
                continue;
            }
            let inner = self.expr(&product(&axes[i + 1..]))?;
            let mut value = linear.clone().op("/", inner);
            let outermost = axes[..i].iter().all(|axis| axis.extent.as_const() == Some(1));
            if !outermost {
                value = value.op("%", self.expr(&axis.extent)?);
            }
            self.declare(&axis.var, value, true);
        }
        Ok(())
    }
}
