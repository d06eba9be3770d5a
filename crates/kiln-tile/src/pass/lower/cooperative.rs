//! Lowers loops that the threads of a worker share.

use super::Lower;
use crate::dtype::Type;
use crate::error::Result;
use crate::pass::layout::FragmentLayout;
use crate::pass::layout::tiled::{Tiled, TiledSlice};
use crate::program::{Axis, Buffer, Worker, product};
use crate::thread::{CExpr, CStmt, CType};

impl Lower<'_> {
    /// Writes a loop over `axes` spread over the worker's threads; `fragment` is one that it accesses, if it accesses any.
    /// `write` gets the last axis and the width.
    pub fn cooperative_loop(
        &mut self,
        axes: &[Axis],
        fragment: Option<&Buffer>,
        write: impl FnOnce(&mut Self, &Axis, u32) -> Result<()>,
    ) -> Result<()> {
        match fragment.map(|buffer| self.layouts.fragment(buffer)) {
            None => self.strided(axes, write),
            Some(FragmentLayout::Tiled(tiled)) => self.tiled(axes, tiled, write),
            Some(FragmentLayout::Slice(rows)) => self.rows(axes, rows, write),
            Some(_) => self.unrolled_strided_loop(axes, write),
        }
    }

    fn thread(&self) -> CExpr {
        let thread = CExpr::name("threadIdx.x");
        if self.program.domain.worker == Worker::Block { thread } else { thread.infix("%", CExpr::int(32)) }
    }

    /// Type and name of the linear position in `axes`.
    fn position(&mut self, axes: &[Axis], stride: u32) -> (CType, String) {
        let range = self.facts.range(&product(axes));
        let wide = range.hi + i128::from(stride) > i128::from(i32::MAX);
        let name = if let [axis] = axes { axis.var.name.to_string() } else { "element".to_owned() };
        (CType::of(Type::Index, wide), self.names.fresh(&name))
    }

    /// Writes the body for a linear position.
    fn at_position(
        &mut self,
        axes: &[Axis],
        (ty, name): (CType, &str),
        width: u32,
        write: impl FnOnce(&mut Self, &Axis, u32) -> Result<()>,
    ) -> Result<()> {
        let linear = CExpr::name(name);
        if let [axis] = axes {
            self.set_axis(axis, width);
            self.vars.insert(axis.var.id, (linear, ty));
        } else {
            self.unravel(axes, linear, width)?;
        }
        axes.last().map_or(Ok(()), |axis| write(self, axis, width))
    }

    /// Each thread strides through the points.
    fn strided(&mut self, axes: &[Axis], write: impl FnOnce(&mut Self, &Axis, u32) -> Result<()>) -> Result<()> {
        let width = self.layouts.width(axes);
        let stride = self.worker_threads() * width;
        let (ty, var) = self.position(axes, stride);
        let end = self.expr(&product(axes))?;
        let start = self.thread().op("*", CExpr::int(width.into()));
        let body = self.nested(|lower| lower.at_position(axes, (ty, &var), width, write))?;
        let step = CExpr::int(stride.into());
        self.push(CStmt::For { ty, var, start, end, step, unroll: false, body });
        Ok(())
    }

    /// The same with counted, unrolled iterations, since registers need constant indices. The extents are constants.
    pub fn unrolled_strided_loop(
        &mut self,
        axes: &[Axis],
        write: impl FnOnce(&mut Self, &Axis, u32) -> Result<()>,
    ) -> Result<()> {
        let width = self.layouts.width(axes);
        let stride = self.worker_threads() * width;
        let (ty, name) = self.position(axes, stride);
        let points = product(axes);
        let end = self.expr(&points)?;
        let points = self.facts.range(&points).hi.max(0);
        let counter = self.names.fresh("turn");
        let count = CExpr::name(counter.clone());
        self.registers = Some(vec![count.clone().op("*", CExpr::int(width.into()))]);
        let body = self.nested(|lower| lower.at_position(axes, (ty, &name), width, write))?;
        self.registers = None;
        let first = count.op("*", CExpr::int(self.worker_threads().into())).op("+", self.thread());
        let mut inner = vec![CStmt::Declare {
            ty: ty.name().to_owned(),
            name: name.clone(),
            value: Some(first.op("*", CExpr::int(width.into()))),
            constant: true,
        }];
        if points % i128::from(stride) == 0 {
            inner.extend(body);
        } else {
            let cond = CExpr::name(name).infix("<", end);
            inner.push(CStmt::If { cond, then: body, otherwise: vec![] });
        }
        let count = u64::try_from(points).unwrap_or(0).div_ceil(stride.into());
        self.push(CStmt::unrolled(counter, count, inner));
        Ok(())
    }

    /// Each thread visits the points of a product's accumulator that it holds.
    fn tiled(
        &mut self,
        axes: &[Axis],
        tiled: Tiled,
        write: impl FnOnce(&mut Self, &Axis, u32) -> Result<()>,
    ) -> Result<()> {
        let [row, col] = axes else { return Err(self.internal("a tiled fragment has two axes".to_owned())) };
        let (first_row, first_col) = self.tile_start(tiled)?;
        let [mi_end, ni_end, _] = tiled.registers();
        let (mi_name, ni_name) = (self.names.fresh("mi"), self.names.fresh("ni"));
        let (mi, ni) = (CExpr::name(mi_name.clone()), CExpr::name(ni_name.clone()));
        let int = |x: u32| CExpr::int(x.into());
        let mut hi_name = None;
        let mut hi = int(0);
        let col_value = match tiled {
            Tiled::Mma { .. } => {
                let name = self.names.fresh("hi");
                hi = CExpr::name(name.clone());
                hi_name = Some(name);
                self.registers = Some(vec![mi.clone(), ni.clone(), hi.clone().op("*", int(2))]);
                let pair = CExpr::name("threadIdx.x").infix("%", int(4)).op("*", int(2));
                first_col.op("+", ni.op("*", int(8))).op("+", pair)
            }
            Tiled::Simt { threads_n, run, .. } => {
                self.registers = Some(vec![mi.clone(), ni.clone(), int(0)]);
                first_col.op("+", ni.op("*", int(threads_n * run)))
            }
        };
        let row_value = self.row(tiled, first_row, mi.clone(), hi.clone());
        self.row_registers = Some(vec![mi, hi]);
        let body = self.nested(|lower| {
            lower.set_axis(row, 1);
            lower.set_axis(col, tiled.lanes());
            lower.declare(&row.var, row_value, true);
            lower.declare(&col.var, col_value, true);
            write(lower, col, tiled.lanes())
        });
        self.registers = None;
        self.row_registers = None;
        let mut body = body?;
        if let Some(name) = hi_name {
            body = vec![CStmt::unrolled(name, 2, body)];
        }
        let inner = CStmt::unrolled(ni_name, ni_end, body);
        self.push(CStmt::unrolled(mi_name, mi_end, vec![inner]));
        Ok(())
    }

    /// Each thread visits the rows that it has a part of.
    fn rows(
        &mut self,
        axes: &[Axis],
        rows: TiledSlice,
        write: impl FnOnce(&mut Self, &Axis, u32) -> Result<()>,
    ) -> Result<()> {
        let (Some((tiled, first_row, _)), [axis]) =
            (self.tiles.iter().find(|t| t.0.rows() == Some(rows)).cloned(), axes)
        else {
            return Err(self.internal("rows of a tiled fragment that was not declared".to_owned()));
        };
        let [mi_name, hi_name] = ["mi", "hi"].map(|name| self.names.fresh(name));
        let (mi, hi) = (CExpr::name(mi_name.clone()), CExpr::name(hi_name.clone()));
        let row = self.row(tiled, CExpr::name(first_row), mi.clone(), hi.clone());
        self.row_registers = Some(vec![mi, hi]);
        let body = self.nested(|lower| {
            lower.set_axis(axis, 1);
            lower.declare(&axis.var, row, true);
            write(lower, axis, 1)
        });
        self.row_registers = None;
        let inner = CStmt::unrolled(hi_name, rows.halves.into(), body?);
        self.push(CStmt::unrolled(mi_name, rows.mi.into(), vec![inner]));
        Ok(())
    }

    /// Row `hi` of the m16 block, or interleaved row, `mi` of this thread.
    fn row(&self, tiled: Tiled, first: CExpr, mi: CExpr, hi: CExpr) -> CExpr {
        let int = |x: u32| CExpr::int(x.into());
        match tiled {
            Tiled::Mma { .. } => {
                let in_block = CExpr::name("threadIdx.x").infix("%", int(32)).infix("/", int(4));
                first.op("+", mi.op("*", int(16))).op("+", hi.op("*", int(8))).op("+", in_block)
            }
            Tiled::Simt { threads_n, .. } => first.op("+", mi.op("*", int(self.program.threads / threads_n))),
        }
    }

    /// First row and column of this thread in a tiled layout.
    pub fn tile_start(&self, tiled: Tiled) -> Result<(CExpr, CExpr)> {
        match self.tiles.iter().find(|(known, _, _)| *known == tiled) {
            Some((_, row, col)) => Ok((CExpr::name(row.clone()), CExpr::name(col.clone()))),
            None => Err(self.internal("a tiled fragment was not declared".to_owned())),
        }
    }
}
