//! Lowers a verified, laid out, synchronised tile program to what one thread does.

mod expr;
mod lanes;
mod names;
mod reduce;

use crate::dtype::DType;
use crate::error::{Result, TileError};
use crate::expr::{Expr, Var};
use crate::pass::facts::{Facts, Range, VarFacts};
use crate::pass::layout::{FragmentLayout, Layouts};
use crate::print::prelude::Helper;
use crate::program::{Access, AtomicOp, Axis, Buffer, Param, Program, Scope, Stmt, Worker, product};
use crate::thread::{CExpr, CStmt, CType, Function};
use expr::{Value, small_float};
use kiln_target::arch::Arch;
use lanes::Lanes;
use names::Names;
use std::collections::{BTreeSet, HashMap};

/// Lowers `program`, whose body is `body` after the earlier passes, for `arch`. Returns the function and the prelude
/// pieces it calls.
pub fn lower(program: &Program, body: &[Stmt], layouts: &Layouts, arch: Arch) -> Result<(Function, BTreeSet<Helper>)> {
    let mut lower = Lower {
        program,
        arch,
        layouts,
        facts: Facts::of_params(program),
        names: Names::new(),
        vars: HashMap::new(),
        buffers: HashMap::new(),
        helpers: BTreeSet::new(),
        out: vec![vec![]],
        spread: None,
        lanes: None,
    };
    let name = lower.names.fresh(&program.name);
    let params = lower.params();
    lower.locals()?;
    lower.domain(body)?;
    let body = lower.out.pop().unwrap_or_default();
    let comment = program.comment.clone();
    let function = Function { comment, name, threads: program.threads, params, body };
    let mut helpers = lower.helpers;
    for helper in helpers.clone() {
        helpers.extend(helper.needs());
    }
    Ok((function, helpers))
}

struct Lower<'a> {
    program: &'a Program,
    arch: Arch,
    layouts: &'a Layouts,
    facts: Facts,
    names: Names,
    vars: HashMap<u32, Value>,
    buffers: HashMap<u32, String>,
    helpers: BTreeSet<Helper>,
    /// The bodies being written, innermost last.
    out: Vec<Vec<CStmt>>,
    /// First register of this turn of the loop over a spread fragment.
    spread: Option<CExpr>,
    /// The lanes of the wide loop being written.
    lanes: Option<Lanes>,
}

impl Lower<'_> {
    /// A broken promise between passes; the verifier lets no program reach it.
    fn internal(&self, what: String) -> TileError {
        TileError::Invalid {
            kernel: self.program.name.clone(),
            what,
            place: "lowering".to_owned(),
            help: "this is a bug of the tile compiler".to_owned(),
        }
    }

    fn push(&mut self, stmt: CStmt) {
        if let Some(body) = self.out.last_mut() {
            body.push(stmt);
        }
    }

    /// Collects what `write` emits.
    fn nested(&mut self, write: impl FnOnce(&mut Self) -> Result<()>) -> Result<Vec<CStmt>> {
        self.out.push(vec![]);
        let block = self.names.open();
        let result = write(self);
        self.names.close(block);
        let body = self.out.pop().unwrap_or_default();
        result.map(|()| body)
    }

    /// Runs `write`, which emits loops, and frees the names of their variables after it.
    fn scoped(&mut self, write: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let block = self.names.open();
        let result = write(self);
        self.names.close(block);
        result
    }

    /// Gives `var` a C name.
    fn name(&mut self, var: &Var, ty: CType) -> String {
        let name = self.names.fresh(&var.name);
        self.vars.insert(var.id, (CExpr::name(name.clone()), ty));
        name
    }

    fn index_type(&self, var: &Var) -> CType {
        let wide = !self.facts.range(&Expr::var(var)).fits_int();
        CType::of(var.dtype, wide && var.dtype == DType::Index)
    }

    fn buffer_name(&self, buffer: &Buffer) -> String {
        self.buffers.get(&buffer.id).cloned().unwrap_or_else(|| buffer.name.clone())
    }

    fn element_type(&mut self, dtype: DType) -> &'static str {
        self.helpers.extend(small_float(dtype));
        match dtype {
            // Packed elements are read through their bytes.
            DType::I4 | DType::U4 => "unsigned char",
            dtype => CType::of(dtype, false).name(),
        }
    }

    fn params(&mut self) -> Vec<String> {
        let program = self.program;
        let mut params = vec![];
        for param in &program.params {
            params.push(match param {
                Param::Scalar { var, .. } => {
                    let ty = self.index_type(var);
                    format!("{} {}", ty.name(), self.name(var, ty))
                }
                Param::Buffer { buffer, access } => {
                    let element = self.element_type(buffer.dtype);
                    let name = self.names.fresh(&buffer.name);
                    self.buffers.insert(buffer.id, name.clone());
                    let constant = if *access == Access::Read { "const " } else { "" };
                    format!("{constant}{element}* __restrict__ {name}")
                }
            });
        }
        params
    }

    fn locals(&mut self) -> Result<()> {
        for buffer in &self.program.buffers {
            let name = self.names.fresh(&buffer.name);
            self.buffers.insert(buffer.id, name.clone());
            let mut len = buffer.const_len().unwrap_or(0);
            if buffer.scope == Scope::Fragment && self.layouts.fragment(buffer) == FragmentLayout::Spread {
                len = u64::from(self.spread_registers(buffer));
            }
            let ty = self.element_type(buffer.dtype).to_owned();
            let shared = buffer.scope == Scope::Shared;
            self.push(CStmt::Array { ty, name, dims: vec![len], shared });
        }
        Ok(())
    }

    /// Threads that share the loops of one worker.
    fn crew(&self) -> u32 {
        if self.program.domain.worker == Worker::Block { self.program.threads } else { 32 }
    }

    /// Registers that each thread needs for its part of a spread fragment.
    fn spread_registers(&self, buffer: &Buffer) -> u32 {
        let len = buffer.const_len().unwrap_or(0);
        let mut width = 1;
        for stmt in &self.program.body {
            stmt.walk(&mut |s| {
                if let Stmt::Parallel { axes, .. } | Stmt::Reduce { axes, .. } = s
                    && lanes::touches(s, buffer)
                {
                    width = self.layouts.width(axes);
                }
            });
        }
        let turn = u64::from(self.crew() * width);
        len.div_ceil(turn) as u32 * width
    }

    /// Writes `var = value;` as the declaration of a constant.
    fn declare(&mut self, var: &Var, value: CExpr, constant: bool) {
        let ty = self.index_type(var);
        let name = self.name(var, ty);
        let ty = ty.name().to_owned();
        self.push(CStmt::Declare { ty, name, value: Some(value), constant });
    }

    // ---- the grid ---------------------------------------------------------------------------------------------------

    fn domain(&mut self, body: &[Stmt]) -> Result<()> {
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
                    Some(axis) if width > 1 => self.wide_body(axis, width, body),
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
            let ty = CType::of(DType::Index, wide);
            self.vars.insert(axis.var.id, (CExpr::name(name.clone()), ty));
            let ty = ty.name().to_owned();
            self.push(CStmt::Declare { ty, name: name.clone(), value: Some(point.value), constant: true });
            if guard {
                self.leave(CExpr::name(name), &points)?;
            }
            return Ok(());
        }
        let linear = CExpr::name(self.names.fresh(point.name));
        if !axes.is_empty() {
            let ty = CType::of(DType::Index, wide).name().to_owned();
            let name = crate::print::expr(&linear);
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

    fn set_axis(&mut self, axis: &Axis, width: u32) {
        if width > 1 {
            self.facts.set_lane_axis(&axis.var, &axis.extent, width);
        } else {
            self.facts.set_axis(&axis.var, &axis.extent);
        }
    }

    /// Declares each variable of `axes` from a position in their row-major order.
    fn unravel(&mut self, axes: &[Axis], linear: CExpr, width: u32) -> Result<()> {
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

    // ---- statements -------------------------------------------------------------------------------------------------

    fn stmts(&mut self, body: &[Stmt]) -> Result<()> {
        body.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<()> {
        match stmt {
            Stmt::Bind { var, value } => self.bind(var, value),
            Stmt::Declare { var, value } => {
                let value = self.expr(value)?;
                self.facts.set_unknown(var);
                self.declare(var, value, false);
                Ok(())
            }
            Stmt::Assign { var, value } => {
                let target = self.expr(&Expr::var(var))?;
                let value = self.expr(value)?;
                self.push(CStmt::Assign(target, value));
                Ok(())
            }
            Stmt::Store { buffer, index, value } => self.store(buffer, index, value),
            Stmt::Atomic { op, buffer, index, value } => self.atomic(*op, buffer, index, value),
            Stmt::For { var, start, end, unroll, body } => {
                self.scoped(|lower| lower.serial(var, (start, end), *unroll, body))
            }
            Stmt::If { cond, then, otherwise } => {
                let cond = self.expr(cond)?;
                let then = self.nested(|lower| lower.stmts(then))?;
                let otherwise = self.nested(|lower| lower.stmts(otherwise))?;
                self.push(CStmt::If { cond, then, otherwise });
                Ok(())
            }
            Stmt::Parallel { axes, body } => {
                let spread = lanes::touches_fragment(stmt);
                self.scoped(|lower| {
                    lower.crew_loop(axes, spread, |lower, axis, width| {
                        if width > 1 { lower.wide_body(axis, width, body) } else { lower.stmts(body) }
                    })
                })
            }
            Stmt::Reduce { axes, body, results } => self.reduce(stmt, axes, body, results),
            Stmt::Fill { buffer, value } => self.scoped(|lower| lower.fill(buffer, value)),
            Stmt::Barrier => {
                self.push(CStmt::Expr(CExpr::call("__syncthreads", [])));
                Ok(())
            }
            Stmt::Copy { .. } | Stmt::Gemm { .. } | Stmt::Pipelined { .. } => Err(TileError::Unsupported {
                kernel: self.program.name.clone(),
                arch: self.arch,
                what: "tiles in shared memory".to_owned(),
                help: "use parallel and reduce".to_owned(),
            }),
        }
    }

    fn serial(&mut self, var: &Var, (start, end): (&Expr, &Expr), unroll: bool, body: &[Stmt]) -> Result<()> {
        let (first, last) = (self.facts.range(start), self.facts.range(end));
        let (start, end) = (self.expr(start)?, self.expr(end)?);
        let range = Range::new(first.lo, (last.hi - 1).max(first.lo));
        self.facts.set(var, VarFacts { range, multiple: 1, lane_step: Some(0) });
        let ty = self.index_type(var);
        let name = self.name(var, ty);
        let body = self.nested(|lower| lower.stmts(body))?;
        let step = CExpr::int(1);
        self.push(CStmt::For { ty, var: name, start, end, step, unroll, body });
        Ok(())
    }

    fn bind(&mut self, var: &Var, value: &Expr) -> Result<()> {
        let width = self.lanes.as_ref().map_or(1, |lanes| lanes.width);
        self.facts.bind(var, value, width);
        let value = self.expr(value)?;
        self.declare(var, value, true);
        Ok(())
    }

    fn fill(&mut self, buffer: &Buffer, value: &Expr) -> Result<()> {
        let len = match self.layouts.fragment(buffer) {
            FragmentLayout::Private => buffer.const_len().unwrap_or(0),
            FragmentLayout::Spread => self.spread_registers(buffer).into(),
        };
        let name = self.names.fresh("i");
        let element = CExpr::name(self.buffer_name(buffer)).at(CExpr::name(name.clone()));
        let value = self.expr(value)?;
        self.push(CStmt::For {
            ty: CType::Int,
            var: name,
            start: CExpr::int(0),
            end: CExpr::int(len.into()),
            step: CExpr::int(1),
            unroll: true,
            body: vec![CStmt::Assign(element, value)],
        });
        Ok(())
    }

    fn store(&mut self, buffer: &Buffer, index: &[Expr], value: &Expr) -> Result<()> {
        let value = self.expr(value)?;
        let target = match self.deferred(buffer, index)? {
            Some(register) => register,
            None => self.place(buffer, index)?,
        };
        self.push(CStmt::Assign(target, value));
        Ok(())
    }

    fn atomic(&mut self, op: AtomicOp, buffer: &Buffer, index: &[Expr], value: &Expr) -> Result<()> {
        let offset = self.offset(buffer, index)?;
        let mut base = CExpr::name(self.buffer_name(buffer));
        let mut value = self.expr(value)?;
        if buffer.dtype == DType::I64 && op == AtomicOp::Add {
            // There is no signed overload; the bits are the same.
            base = CExpr::call("reinterpret_cast<unsigned long long*>", [base]);
            value = CExpr::Cast(CType::ULong, Box::new(value));
        }
        let name = match op {
            AtomicOp::Add => "atomicAdd",
            AtomicOp::Min => "atomicMin",
            AtomicOp::Max => "atomicMax",
        };
        self.push(CStmt::Expr(CExpr::call(name, [base.offset(offset), value])));
        Ok(())
    }

    /// Writes a loop over `axes` spread over the worker's threads. `write` gets the last axis and the width.
    fn crew_loop(
        &mut self,
        axes: &[Axis],
        over_fragment: bool,
        write: impl FnOnce(&mut Self, &Axis, u32) -> Result<()>,
    ) -> Result<()> {
        let Some(last) = axes.last() else { return Ok(()) };
        let width = self.layouts.width(axes);
        let points = product(axes);
        let (crew, thread) = match self.program.domain.worker {
            Worker::Block => (self.program.threads, CExpr::name("threadIdx.x")),
            _ => {
                let thread = CExpr::name("threadIdx.x");
                (32, CExpr::Binary("%", Box::new(thread), Box::new(CExpr::int(32))))
            }
        };
        let turn = crew * width;
        let range = self.facts.range(&points);
        let wide = range.hi + i128::from(turn) > i128::from(i32::MAX);
        let ty = CType::of(DType::Index, wide);
        let position = if let [axis] = axes { axis.var.name.to_string() } else { "element".to_owned() };
        let name = self.names.fresh(&position);
        let linear = CExpr::name(name.clone());
        let end = self.expr(&points)?;
        let write_body = |lower: &mut Self| {
            if let [axis] = axes {
                lower.set_axis(axis, width);
                lower.vars.insert(axis.var.id, (linear.clone(), ty));
            } else {
                lower.unravel(axes, linear.clone(), width)?;
            }
            write(lower, last, width)
        };
        let first = thread.clone().op("*", CExpr::int(width.into()));
        if !over_fragment {
            let body = self.nested(write_body)?;
            let step = CExpr::int(turn.into());
            self.push(CStmt::For { ty, var: name, start: first, end, step, unroll: false, body });
            return Ok(());
        }
        // Registers need constant indices, so the turns are counted and unrolled.
        let turns = range.hi.max(0) as u64;
        let turns = turns.div_ceil(turn.into());
        let counter = self.names.fresh("turn");
        let count = CExpr::name(counter.clone());
        self.spread = Some(count.clone().op("*", CExpr::int(width.into())));
        let body = self.nested(write_body)?;
        self.spread = None;
        let thread = count.op("*", CExpr::int(crew.into())).op("+", thread);
        let value = if width == 1 { thread } else { thread.op("*", CExpr::int(width.into())) };
        let mut turn_body =
            vec![CStmt::Declare { ty: ty.name().to_owned(), name: name.clone(), value: Some(value), constant: true }];
        if range.hi % i128::from(turn) == 0 {
            turn_body.extend(body);
        } else {
            let cond = CExpr::Binary("<", Box::new(CExpr::name(name)), Box::new(end));
            turn_body.push(CStmt::If { cond, then: body, otherwise: vec![] });
        }
        self.push(CStmt::For {
            ty: CType::Int,
            var: counter,
            start: CExpr::int(0),
            end: CExpr::int(turns.into()),
            step: CExpr::int(1),
            unroll: true,
            body: turn_body,
        });
        Ok(())
    }
}

/// A position in the domain's row-major order.
struct Point {
    /// What to call it if it has several axes.
    name: &'static str,
    value: CExpr,
    /// Points that one block covers, if some may lie beyond the last; 0 if the grid is exact.
    spare: u32,
    width: u32,
}
