//! Lowers a verified, laid out, synchronised tile program to what one thread does.

mod cooperative;
mod expr;
mod gemm;
mod grid;
mod lanes;
mod memory;
pub(crate) mod names;
mod pipeline;
mod reduce;

use crate::dtype::{DType, Type};
use crate::error::{Result, TileError};
use crate::expr::{Expr, Var};
use crate::pass::dce::dce;
use crate::pass::facts::{Facts, Range, VarFacts};
use crate::pass::layout::Layouts;
use crate::pass::layout::tiled::Tiled;
use crate::print::prelude::Helper;
use crate::program::{AtomicOp, Buffer, Program, Stmt};
use crate::thread::{CExpr, CStmt, CType, Function};
use expr::Value;
use kiln_target::arch::Arch;
use lanes::Lanes;
use names::Names;
use std::collections::{BTreeSet, HashMap};

/// What lowering gives.
pub struct Lowered {
    /// The kernel.
    pub function: Function,
    /// The prelude pieces it calls.
    pub helpers: BTreeSet<Helper>,
    /// Dynamic shared memory it needs, in bytes.
    pub dynamic_shared: u32,
}

/// The name that `program` has in CUDA C: the first that is taken.
pub fn entry(program: &Program) -> String {
    Names::default().fresh(&program.name)
}

/// Lowers `program`, whose body is `body` after the earlier passes, for `arch`.
pub fn lower(program: &Program, body: &[Stmt], layouts: Layouts, arch: Arch) -> Result<Lowered> {
    let mut lower = Lower {
        program,
        arch,
        layouts,
        facts: Facts::of_params(program),
        names: Names::default(),
        vars: HashMap::new(),
        buffers: HashMap::new(),
        helpers: BTreeSet::new(),
        out: vec![vec![]],
        next_id: program.next_id,
        tiles: vec![],
        registers: None,
        row_registers: None,
        lane: None,
        lanes: None,
    };
    let name = lower.names.fresh(&program.name);
    let params = lower.params();
    let dynamic_shared = lower.locals()?;
    lower.domain(body)?;
    let body = dce(lower.out.pop().unwrap_or_default());
    let comment = program.comment.clone();
    let large = !lower.tiles.is_empty();
    let function = Function { comment, name, threads: program.threads, large, params, body };
    let mut helpers = lower.helpers;
    for helper in helpers.clone() {
        helpers.extend(helper.needs());
    }
    Ok(Lowered { function, helpers, dynamic_shared })
}

struct Lower<'a> {
    program: &'a Program,
    arch: Arch,
    layouts: Layouts,
    facts: Facts,
    names: Names,
    vars: HashMap<u32, Value>,
    buffers: HashMap<u32, String>,
    helpers: BTreeSet<Helper>,
    /// The bodies being written, innermost last.
    out: Vec<Vec<CStmt>>,
    /// The next id that no variable or buffer has.
    next_id: u32,
    /// First row and column of this thread in each tiled layout, by name.
    tiles: Vec<(Tiled, String, String)>,
    /// Index of the first register of this iteration of a loop over fragments.
    registers: Option<Vec<CExpr>>,
    /// Index of the register that stands for the row of this iteration.
    row_registers: Option<Vec<CExpr>>,
    /// Number of the lane in a loop over fragments whose lanes are handled one by one.
    lane: Option<CExpr>,
    /// The lanes of the vectorized loop being written.
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

    /// An id for a variable or buffer that lowering adds.
    fn id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id - 1
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
        CType::of(var.ty, wide && var.ty == Type::Index)
    }

    /// Writes `var = value;` as the declaration of a constant.
    fn declare(&mut self, var: &Var, value: CExpr, constant: bool) {
        let ty = self.index_type(var);
        let name = self.name(var, ty);
        let ty = ty.name().to_owned();
        self.push(CStmt::Declare { ty, name, value: Some(value), constant });
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
            Stmt::Check { violated, fault, code } => {
                let cond = self.expr(violated)?;
                let then = self.nested(|lower| lower.atomic(AtomicOp::Max, fault, &[Expr::index(0)], code))?;
                self.push(CStmt::If { cond, then, otherwise: vec![] });
                Ok(())
            }
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
                let fragment = lanes::touched_fragment(stmt, axes.len());
                self.scoped(|lower| {
                    lower.cooperative_loop(axes, fragment.as_ref(), |lower, axis, width| {
                        lower.lane_body(axes, axis, width, body)
                    })
                })
            }
            Stmt::Reduce { axes, body, results } => self.reduce(stmt, axes, body, results),
            Stmt::ReduceRows { axes, body, op, value, into } => self.reduce_rows(stmt, axes, body, (*op, value), into),
            Stmt::Fill { buffer, value } => self.scoped(|lower| lower.fill(buffer, value)),
            Stmt::Barrier => {
                self.push(CStmt::Expr(CExpr::call("__syncthreads", [])));
                Ok(())
            }
            Stmt::Copy { dst, axes, .. } => {
                let element = pipeline::element(stmt, dst);
                self.scoped(|lower| {
                    lower
                        .cooperative_loop(axes, None, |lower, axis, width| lower.lane_body(axes, axis, width, &element))
                })
            }
            Stmt::Gemm { acc, a, b, transpose_a, transpose_b } => {
                self.scoped(|lower| lower.gemm(acc, (a, *transpose_a), (b, *transpose_b)))
            }
            Stmt::Pipelined { var, extent, body, .. } => self.scoped(|lower| lower.pipelined(var, extent, body)),
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
        let value = self.expr(value)?;
        let mut element = CExpr::name(self.buffer_name(buffer));
        let mut loops = vec![];
        for extent in self.register_extents(buffer) {
            let name = self.names.fresh("i");
            element = element.at(CExpr::name(name.clone()));
            loops.push((name, extent));
        }
        let mut body = vec![CStmt::Assign(element, value)];
        for (name, extent) in loops.into_iter().rev() {
            body = vec![CStmt::unrolled(name, extent, body)];
        }
        body.into_iter().for_each(|stmt| self.push(stmt));
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
}
