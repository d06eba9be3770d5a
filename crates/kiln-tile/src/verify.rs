//! Checks the rules of the language: types, scopes, ranks, who may do what.

use crate::dtype::{DType, Type};
use crate::error::Result;
use crate::expr::{Expr, ExprKind};
use crate::program::{Access, AtomicOp, Axis, Buffer, Param, Program, ReduceOp, Scope, Stmt, Worker};
use kiln_target::arch::has_mma;
use std::collections::{HashMap, HashSet};

mod scalars;

pub(crate) use scalars::Scalars;

/// Checks `program`; the first broken rule is the error.
pub fn verify(program: &Program) -> Result<()> {
    let mut verifier =
        Verifier { program, scope: HashSet::new(), mutable: HashMap::new(), access: HashMap::new(), cooperative: 0 };
    verifier.program()
}

struct Verifier<'a> {
    program: &'a Program,
    scope: HashSet<u32>,
    /// Declared variables, with the number of cooperative loops around the declaration.
    mutable: HashMap<u32, usize>,
    access: HashMap<u32, Access>,
    /// Cooperative loops (`parallel`, `reduce`, `copy`) around the statement.
    cooperative: usize,
}

impl Verifier<'_> {
    fn scalars(&self) -> Scalars<'_> {
        Scalars { kernel: &self.program.name, scope: &self.scope, access: &self.access }
    }

    fn invalid<T>(&self, what: String, place: &str, help: &str) -> Result<T> {
        self.scalars().invalid(what, place, help)
    }

    fn require(&self, e: &Expr, place: &str, expected: impl Into<Type>) -> Result<()> {
        self.scalars().require(e, place, expected)
    }

    fn types(&self, ok: bool, found: impl Into<Type>, place: &str, expected: &str) -> Result<()> {
        self.scalars().types(ok, found, place, expected)
    }

    fn index(&self, buffer: &Buffer, index: &[Expr]) -> Result<()> {
        self.scalars().index(buffer, index)
    }

    fn program(&mut self) -> Result<()> {
        let threads = self.program.threads;
        if threads == 0 || threads > 1024 || !threads.is_multiple_of(32) {
            let what = format!("{threads} threads a block");
            return self.invalid(what, "threads", "use a multiple of 32 up to 1024");
        }
        for param in &self.program.params {
            match param {
                Param::Scalar { var, range, multiple_of } => {
                    if range.0 > range.1 || *multiple_of < 1 {
                        let what = format!("range {range:?}, multiple of {multiple_of}");
                        return self.invalid(what, &var.name, "give a non-empty range");
                    }
                    self.types(var.ty.is_compute(), var.ty, &var.name, "a compute type")?;
                    self.scope.insert(var.id);
                }
                Param::Buffer { buffer, access } => {
                    self.access.insert(buffer.id, *access);
                }
            }
        }
        for param in &self.program.params {
            if let Param::Buffer { buffer, .. } = param {
                self.buffer(buffer, Scope::Global)?;
            }
        }
        for buffer in &self.program.buffers {
            self.buffer(buffer, buffer.scope)?;
            if buffer.const_len().is_none() {
                let what = "an extent is not a constant".to_owned();
                return self.invalid(what, &buffer.name, "shared tiles and fragments have fixed sizes");
            }
            if buffer.scope == Scope::Shared && self.program.domain.worker != Worker::Block {
                let what = "shared memory without a block".to_owned();
                return self.invalid(what, &buffer.name, "use Worker::Block");
            }
            if buffer.dtype.bits() < 8 {
                let what = format!("{} elements are packed", buffer.dtype);
                return self.invalid(what, &buffer.name, "use i8 or u8 on the chip");
            }
        }
        self.axes(&self.program.domain.axes)?;
        self.body(&self.program.body)
    }

    fn buffer(&self, buffer: &Buffer, scope: Scope) -> Result<()> {
        if buffer.scope != scope || buffer.shape.len() != buffer.strides.len() {
            let what = format!(
                "{:?} buffer of rank {} with {} strides",
                buffer.scope,
                buffer.shape.len(),
                buffer.strides.len()
            );
            return self.invalid(what, &buffer.name, "one stride a dimension, in the right scope");
        }
        for e in buffer.shape.iter().chain(&buffer.strides) {
            self.require(e, &format!("extent or stride of `{}`", buffer.name), Type::Index)?;
        }
        Ok(())
    }

    fn axes(&mut self, axes: &[Axis]) -> Result<()> {
        for axis in axes {
            self.require(&axis.extent, &format!("extent of `{}`", axis.var.name), Type::Index)?;
        }
        for axis in axes {
            self.types(axis.var.ty == Type::Index, axis.var.ty, &axis.var.name, "index")?;
            self.scope.insert(axis.var.id);
        }
        Ok(())
    }

    /// Checks a body; names bound in it end with it.
    fn body(&mut self, body: &[Stmt]) -> Result<()> {
        let outer = self.scope.clone();
        for stmt in body {
            self.stmt(stmt)?;
        }
        self.scope = outer;
        Ok(())
    }

    fn cooperative(&mut self, place: &str, axes: &[Axis]) -> Result<()> {
        if self.program.domain.worker == Worker::Thread {
            let what = format!("`{place}` under Worker::Thread");
            return self.invalid(what, place, "use a serial loop, or Worker::Warp or Worker::Block");
        }
        if self.cooperative > 0 {
            let what = format!("`{place}` inside a loop that is already spread over threads");
            return self.invalid(what, place, "merge the axes, or use a serial loop inside");
        }
        if axes.is_empty() {
            return self.invalid("no axes".to_owned(), place, "give at least one axis");
        }
        self.cooperative += 1;
        Ok(())
    }

    fn block_only(&self, place: &str) -> Result<()> {
        if self.program.domain.worker != Worker::Block || self.cooperative > 0 {
            let what = format!("`{place}` needs all threads of a block");
            return self.invalid(what, place, "put it at the top level of a Worker::Block body");
        }
        Ok(())
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<()> {
        match stmt {
            Stmt::Bind { var, value } | Stmt::Declare { var, value } => {
                self.require(value, &format!("value of `{}`", var.name), var.ty)?;
                if matches!(stmt, Stmt::Declare { .. }) {
                    self.mutable.insert(var.id, self.cooperative);
                }
                self.scope.insert(var.id);
                Ok(())
            }
            Stmt::Assign { var, value } => {
                self.require(value, &format!("value of `{}`", var.name), var.ty)?;
                match self.mutable.get(&var.id) {
                    Some(&depth) if depth == self.cooperative && self.scope.contains(&var.id) => Ok(()),
                    Some(&depth) if depth != self.cooperative => {
                        let what = "assigned by many threads at once".to_owned();
                        self.invalid(what, &var.name, "use `reduce` to combine values over threads")
                    }
                    _ => self.invalid("assigned but not declared".to_owned(), &var.name, "declare it first"),
                }
            }
            Stmt::Store { buffer, index, value } => self.store(buffer, index, value),
            Stmt::Atomic { op, buffer, index, value } => self.atomic(*op, buffer, index, value),
            Stmt::Check { violated, fault, code } => {
                self.require(violated, "condition of `check`", DType::Bool)?;
                self.require(code, "code of `check`", DType::I32)?;
                self.atomic(AtomicOp::Max, fault, &[Expr::index(0)], code)
            }
            Stmt::For { var, start, end, unroll, body } => {
                self.require(start, &format!("start of `{}`", var.name), Type::Index)?;
                self.require(end, &format!("end of `{}`", var.name), Type::Index)?;
                if *unroll && (start.as_const().is_none() || end.as_const().is_none()) {
                    let what = "unrolled loop without constant bounds".to_owned();
                    return self.invalid(what, &var.name, "use for_range");
                }
                self.scope.insert(var.id);
                self.body(body)
            }
            Stmt::If { cond, then, otherwise } => {
                self.require(cond, "condition of `if`", DType::Bool)?;
                self.body(then)?;
                self.body(otherwise)
            }
            Stmt::Parallel { axes, body } => {
                self.cooperative("parallel", axes)?;
                self.axes(axes)?;
                self.body(body)?;
                self.shared_race(stmt)?;
                self.cooperative -= 1;
                Ok(())
            }
            Stmt::Reduce { axes, body, results } => {
                self.cooperative("reduce", axes)?;
                self.axes(axes)?;
                let outer = self.scope.clone();
                self.names_only("reduce", body)?;
                for result in results {
                    let (name, ty) = (&result.var.name, result.var.ty);
                    self.require(&result.value, &format!("value of `{name}`"), ty)?;
                    self.scalars().reduces(result.op, ty, name)?;
                }
                self.scope = outer;
                self.scope.extend(results.iter().map(|result| result.var.id));
                self.cooperative -= 1;
                Ok(())
            }
            Stmt::ReduceRows { axes, body, op, value, into } => {
                self.block_only("reduce_rows")?;
                self.cooperative("reduce_rows", axes)?;
                self.axes(axes)?;
                let outer = self.scope.clone();
                self.names_only("reduce_rows", body)?;
                let reads = |e: &Expr| e.any(&mut |e| matches!(e.kind(), ExprKind::Load(b, _) if b.id == into.id));
                if reads(value) || body.iter().any(|s| s.exprs().into_iter().any(reads)) {
                    let what = "rows combined into what their values read".to_owned();
                    return self.invalid(what, &into.name, "combine into a fragment of its own, then combine both");
                }
                self.require(value, &format!("value of `{}`", into.name), into.dtype)?;
                self.scope = outer;
                let logical = matches!(op, ReduceOp::And | ReduceOp::Or);
                let numeric = Type::from(into.dtype).is_compute() && into.dtype != DType::Bool && !logical;
                self.types(numeric, into.dtype, &into.name, "a type the reduction is defined on")?;
                let rows = |extent: &Expr| extent.as_const() == axes[0].extent.as_const();
                if into.scope != Scope::Fragment || into.shape.len() != 1 || !into.shape.iter().all(rows) {
                    let what = format!("rows combined into a {:?} buffer of rank {}", into.scope, into.shape.len());
                    return self.invalid(what, &into.name, "give a fragment with an element a row");
                }
                self.cooperative -= 1;
                Ok(())
            }
            Stmt::Fill { buffer, value } => {
                if buffer.scope != Scope::Fragment || self.cooperative > 0 {
                    let what = format!("fill of a {:?} buffer", buffer.scope);
                    return self.invalid(what, &buffer.name, "fill fragments, outside of `parallel`");
                }
                self.require(value, &format!("value of fill `{}`", buffer.name), buffer.dtype)
            }
            Stmt::Copy { dst, axes, mask, body, value, fill } => {
                self.block_only("copy")?;
                let extents_match = axes.len() == dst.shape.len()
                    && axes.iter().zip(&dst.shape).all(|(axis, extent)| {
                        axis.extent.as_const().is_some() && axis.extent.as_const() == extent.as_const()
                    });
                if dst.scope != Scope::Shared || !extents_match {
                    let what = "copy into something else than a whole shared tile".to_owned();
                    return self.invalid(what, &dst.name, "one axis per dimension, with its extent");
                }
                self.axes(axes)?;
                self.require(mask, &format!("mask of `{}`", dst.name), DType::Bool)?;
                let outer = self.scope.clone();
                self.names_only("copy", body)?;
                self.require(value, &format!("element of `{}`", dst.name), dst.dtype)?;
                self.scope = outer;
                self.require(fill, &format!("fill of `{}`", dst.name), dst.dtype)
            }
            Stmt::Gemm { acc, a, b, transpose_a, transpose_b } => {
                self.block_only("gemm")?;
                self.gemm(acc, a, b, *transpose_a, *transpose_b)
            }
            Stmt::Pipelined { var, extent, stages, body } => {
                self.block_only("pipelined")?;
                self.require(extent, &format!("extent of `{}`", var.name), Type::Index)?;
                let copies = body.iter().take_while(|s| matches!(s, Stmt::Copy { .. })).count();
                let late = body[copies..].iter().any(|s| {
                    let mut found = false;
                    s.walk(&mut |s| found |= matches!(s, Stmt::Copy { .. } | Stmt::Pipelined { .. }));
                    found
                });
                if copies == 0 || late || *stages < 2 {
                    let what = format!("{stages} stages, {copies} leading copies");
                    let help = "copies come first and only first, with at least 2 stages";
                    return self.invalid(what, &var.name, help);
                }
                self.scope.insert(var.id);
                self.body(body)
            }
            Stmt::Barrier => self.block_only("barrier"),
        }
    }

    /// Checks a body that may only name values.
    fn names_only(&mut self, place: &str, body: &[Stmt]) -> Result<()> {
        body.iter().try_for_each(|stmt| match stmt {
            Stmt::Bind { .. } => self.stmt(stmt),
            _ => {
                let what = format!("only `bind` may stand in the body of a `{place}`");
                self.invalid(what, place, "move other statements to a `parallel`")
            }
        })
    }

    fn gemm(&self, acc: &Buffer, a: &Buffer, b: &Buffer, ta: bool, tb: bool) -> Result<()> {
        let dims = |buffer: &Buffer, scope: Scope, swap: bool| -> Result<(i128, i128)> {
            let extents: Vec<i128> = buffer.shape.iter().filter_map(Expr::as_const).collect();
            match extents[..] {
                [x, y] if buffer.scope == scope => Ok(if swap { (y, x) } else { (x, y) }),
                _ => self.invalid(
                    format!("gemm operand of rank {} in {:?} memory", buffer.shape.len(), buffer.scope),
                    &buffer.name,
                    "accumulate [M, N] in a fragment from [M, K] and [K, N] shared tiles",
                ),
            }
        };
        let (m, n) = dims(acc, Scope::Fragment, false)?;
        let held = a.scope == Scope::Fragment;
        let (am, ak) = dims(a, a.scope, ta)?;
        let (bk, bn) = dims(b, Scope::Shared, tb)?;
        if (am, bn, ak) != (m, n, bk) {
            let what = format!("gemm of [{am}, {ak}] by [{bk}, {bn}] into [{m}, {n}]");
            return self.invalid(what, &acc.name, "make the tiles agree on M, N and K");
        }
        if a.id == acc.id {
            let what = "a product accumulated in its own operand".to_owned();
            return self.invalid(what, &acc.name, "give the result a fragment of its own");
        }
        if held && (ta || !has_mma(b.dtype)) || a.scope == Scope::Global {
            let what = format!("{:?} left operand of a product of {} tiles", a.scope, b.dtype);
            return self.invalid(what, &a.name, "only products of f16 or bf16 take an accumulator, and as it stands");
        }
        let ok = a.dtype == if held { acc.dtype } else { b.dtype } && acc.dtype == b.dtype.compute();
        self.types(ok, acc.dtype, &acc.name, "the compute type of both operands")
    }

    fn store(&self, buffer: &Buffer, index: &[Expr], value: &Expr) -> Result<()> {
        self.index(buffer, index)?;
        self.require(value, &format!("value stored in `{}`", buffer.name), buffer.dtype)?;
        if self.access.get(&buffer.id) == Some(&Access::Read) {
            let what = "store into an input".to_owned();
            return self.invalid(what, &buffer.name, "declare it with output or in_out");
        }
        if buffer.dtype.bits() < 8 {
            let what = format!("{} elements share a byte", buffer.dtype);
            return self.invalid(what, &buffer.name, "store whole bytes (u8) that hold two of them");
        }
        if self.cooperative == 0 && self.program.domain.worker != Worker::Thread {
            let what = "store at warp or block level".to_owned();
            return self.invalid(what, &buffer.name, "put it in a `parallel`, over one point if need be");
        }
        Ok(())
    }

    fn atomic(&self, op: AtomicOp, buffer: &Buffer, index: &[Expr], value: &Expr) -> Result<()> {
        self.store(buffer, index, value)?;
        if buffer.scope != Scope::Global {
            return self.invalid("atomic on the chip".to_owned(), &buffer.name, "use `reduce`");
        }
        self.scalars().atomic(op, buffer)
    }

    /// A `parallel` that stores and loads one shared tile has threads that read what others may not have written yet.
    fn shared_race(&self, stmt: &Stmt) -> Result<()> {
        let mut stored = HashSet::new();
        let mut loaded = HashMap::new();
        stmt.walk(&mut |s| {
            if let Stmt::Store { buffer, .. } = s {
                stored.insert(buffer.id);
            }
            for e in s.exprs() {
                e.walk(&mut |e| {
                    if let ExprKind::Load(buffer, _) = e.kind()
                        && buffer.scope == Scope::Shared
                    {
                        loaded.insert(buffer.id, buffer.name.clone());
                    }
                });
            }
        });
        match loaded.into_iter().find(|(id, _)| stored.contains(id)) {
            Some((_, name)) => {
                let what = "one `parallel` both stores and loads this shared tile".to_owned();
                self.invalid(what, &name, "split it in two: the compiler puts a barrier between them")
            }
            None => Ok(()),
        }
    }
}
