//! Builds a [`Program`] statement by statement.

use crate::dtype::{DType, Type};
use crate::error::Result;
use crate::expr::{Expr, Operand, Var};
use crate::program::{
    Access, AtomicOp, Axis, Buffer, Domain, Param, Program, ReduceOp, Reduction, Scope, Stmt, Worker,
};
use crate::verify::verify;
use std::ops::RangeInclusive;

/// Builds one kernel. See the crate's documentation for a worked example.
pub struct Builder {
    program: Program,
    open: Vec<Vec<Stmt>>,
}

impl Builder {
    /// A kernel called `name` (any text; it is made an identifier) that computes what `comment` says in one line.
    pub fn new(name: &str, comment: &str) -> Builder {
        Builder {
            program: Program {
                name: identifier(name),
                comment: comment.lines().collect::<Vec<_>>().join(" "),
                params: vec![],
                buffers: vec![],
                threads: 256,
                max_vector: 16,
                domain: Domain { worker: Worker::Thread, axes: vec![] },
                body: vec![],
                next_id: 0,
            },
            open: vec![vec![]],
        }
    }

    /// Sets the threads of one block (256 unless set).
    pub fn threads(&mut self, threads: u32) -> &mut Self {
        self.program.threads = threads;
        self
    }

    /// Limits how many neighbouring elements one thread handles at a time (16 unless set; 1: no wide accesses).
    pub fn max_vector(&mut self, elements: u32) -> &mut Self {
        self.program.max_vector = elements;
        self
    }

    fn id(&mut self) -> u32 {
        self.program.next_id += 1;
        self.program.next_id - 1
    }

    fn var(&mut self, name: &str, ty: impl Into<Type>) -> Var {
        Var { id: self.id(), name: name.into(), ty: ty.into() }
    }

    fn push(&mut self, stmt: Stmt) {
        if let Some(body) = self.open.last_mut() {
            body.push(stmt);
        }
    }

    fn nested(&mut self, build: impl FnOnce(&mut Builder)) -> Vec<Stmt> {
        self.open.push(vec![]);
        build(self);
        self.open.pop().unwrap_or_default()
    }

    // ---- parameters -------------------------------------------------------------------------------------------------

    /// A runtime index parameter (a dimension) within `range`. A range that ends below 2^31 makes it an `int`.
    pub fn dim(&mut self, name: &str, range: RangeInclusive<i64>) -> Expr {
        self.dim_multiple_of(name, range, 1)
    }

    /// A runtime index parameter known to be a multiple of `multiple_of`.
    pub fn dim_multiple_of(&mut self, name: &str, range: RangeInclusive<i64>, multiple_of: i64) -> Expr {
        let var = self.var(name, Type::Index);
        let range = (*range.start(), *range.end());
        self.program.params.push(Param::Scalar { var: var.clone(), range, multiple_of });
        Expr::var(&var)
    }

    /// A runtime scalar parameter of a compute type.
    pub fn scalar(&mut self, name: &str, dtype: DType) -> Expr {
        let var = self.var(name, dtype);
        let range = (i64::MIN, i64::MAX);
        self.program.params.push(Param::Scalar { var: var.clone(), range, multiple_of: 1 });
        Expr::var(&var)
    }

    fn param(&mut self, buffer: Buffer, access: Access) -> Buffer {
        self.program.params.push(Param::Buffer { buffer: buffer.clone(), access });
        buffer
    }

    /// A row-major array that is only read.
    pub fn input(&mut self, name: &str, dtype: DType, shape: &[Expr]) -> Buffer {
        let buffer = Buffer::new(self.id(), name, dtype, Scope::Global, shape.to_vec());
        self.param(buffer, Access::Read)
    }

    /// An array that is only read, with given strides in elements.
    pub fn input_strided(&mut self, name: &str, dtype: DType, shape: &[Expr], strides: &[Expr]) -> Buffer {
        let (shape, strides) = (shape.to_vec(), strides.to_vec());
        let buffer = Buffer::strided(self.id(), name, dtype, Scope::Global, shape, strides);
        self.param(buffer, Access::Read)
    }

    /// A row-major array that is only written.
    pub fn output(&mut self, name: &str, dtype: DType, shape: &[Expr]) -> Buffer {
        let buffer = Buffer::new(self.id(), name, dtype, Scope::Global, shape.to_vec());
        self.param(buffer, Access::Write)
    }

    /// An array that is only written, with given strides in elements.
    pub fn output_strided(&mut self, name: &str, dtype: DType, shape: &[Expr], strides: &[Expr]) -> Buffer {
        let (shape, strides) = (shape.to_vec(), strides.to_vec());
        let buffer = Buffer::strided(self.id(), name, dtype, Scope::Global, shape, strides);
        self.param(buffer, Access::Write)
    }

    /// A row-major array that is read and written, or updated atomically.
    pub fn in_out(&mut self, name: &str, dtype: DType, shape: &[Expr]) -> Buffer {
        let buffer = Buffer::new(self.id(), name, dtype, Scope::Global, shape.to_vec());
        self.param(buffer, Access::ReadWrite)
    }

    // ---- buffers on the chip ----------------------------------------------------------------------------------------

    fn local(&mut self, name: &str, dtype: DType, scope: Scope, shape: &[u32]) -> Buffer {
        let shape = shape.iter().map(|&extent| Expr::index(extent.into())).collect();
        let buffer = Buffer::new(self.id(), name, dtype, scope, shape);
        self.program.buffers.push(buffer.clone());
        buffer
    }

    /// A tile in shared memory. The compiler chooses its layout, copies and barriers.
    pub fn shared(&mut self, name: &str, dtype: DType, shape: &[u32]) -> Buffer {
        self.local(name, dtype, Scope::Shared, shape)
    }

    /// A tile in registers, spread over the worker's threads; a thread-local array under [`Worker::Thread`].
    pub fn fragment(&mut self, name: &str, dtype: DType, shape: &[u32]) -> Buffer {
        self.local(name, dtype, Scope::Fragment, shape)
    }

    // ---- statements -------------------------------------------------------------------------------------------------

    fn axes(&mut self, axes: &[(&str, Expr)]) -> (Vec<Axis>, Vec<Expr>) {
        let axes: Vec<Axis> = axes
            .iter()
            .map(|(name, extent)| Axis { var: self.var(name, Type::Index), extent: extent.clone() })
            .collect();
        let vars = axes.iter().map(|axis| Expr::var(&axis.var)).collect();
        (axes, vars)
    }

    /// Sets the grid and the kernel's body: every point of `axes` is executed once, by one `worker`. The closure gets one
    /// index per axis.
    pub fn for_each(&mut self, worker: Worker, axes: &[(&str, Expr)], build: impl FnOnce(&mut Builder, &[Expr])) {
        let (axes, vars) = self.axes(axes);
        self.program.domain = Domain { worker, axes };
        self.program.body = self.nested(|k| build(k, &vars));
    }

    /// Names a value: a `const` in the generated code, computed once.
    pub fn bind(&mut self, name: &str, value: Expr) -> Expr {
        let var = self.var(name, value.ty());
        self.push(Stmt::Bind { var: var.clone(), value });
        Expr::var(&var)
    }

    /// Declares a variable that [`Builder::assign`] may change.
    pub fn declare(&mut self, name: &str, value: Expr) -> Var {
        let var = self.var(name, value.ty());
        self.push(Stmt::Declare { var: var.clone(), value });
        var
    }

    /// Changes a declared variable.
    pub fn assign(&mut self, var: &Var, value: Expr) {
        self.push(Stmt::Assign { var: var.clone(), value });
    }

    /// Stores `value`, cast to the buffer's type.
    pub fn store(&mut self, buffer: &Buffer, index: impl IntoIterator<Item = impl Into<Expr>>, value: Expr) {
        let index = index.into_iter().map(Into::into).collect();
        let value = value.cast(buffer.dtype);
        self.push(Stmt::Store { buffer: buffer.clone(), index, value });
    }

    /// Updates one element of global memory atomically.
    pub fn atomic(
        &mut self,
        op: AtomicOp,
        buffer: &Buffer,
        index: impl IntoIterator<Item = impl Into<Expr>>,
        value: Expr,
    ) {
        let index = index.into_iter().map(Into::into).collect();
        self.push(Stmt::Atomic { op, buffer: buffer.clone(), index, value });
    }

    /// A serial loop over `start..end`.
    pub fn for_range(
        &mut self,
        name: &str,
        start: impl Operand,
        end: impl Operand,
        build: impl FnOnce(&mut Builder, &Expr),
    ) {
        self.serial(name, start, end, false, build);
    }

    /// A serial loop over constant bounds, unrolled fully.
    pub fn for_unrolled(
        &mut self,
        name: &str,
        start: impl Operand,
        end: impl Operand,
        build: impl FnOnce(&mut Builder, &Expr),
    ) {
        self.serial(name, start, end, true, build);
    }

    fn serial(
        &mut self,
        name: &str,
        start: impl Operand,
        end: impl Operand,
        unroll: bool,
        build: impl FnOnce(&mut Builder, &Expr),
    ) {
        let var = self.var(name, Type::Index);
        let (start, end) = (start.into_expr(Type::Index), end.into_expr(Type::Index));
        let body = self.nested(|k| build(k, &Expr::var(&var)));
        self.push(Stmt::For { var, start, end, unroll, body });
    }

    /// Raises `code` in `fault`, the greatest of those raised, where `violated` holds.
    pub fn check(&mut self, violated: Expr, fault: &Buffer, code: Expr) {
        self.push(Stmt::Check { violated, fault: fault.clone(), code });
    }

    /// Runs a body where a condition holds. A body that no condition lets run is not built.
    pub fn if_(&mut self, cond: Expr, build: impl FnOnce(&mut Builder)) {
        if cond.as_const() == Some(0) {
            return;
        }
        let then = self.nested(build);
        self.push(Stmt::If { cond, then, otherwise: vec![] });
    }

    /// Runs one of two bodies.
    pub fn if_else(&mut self, cond: Expr, then: impl FnOnce(&mut Builder), otherwise: impl FnOnce(&mut Builder)) {
        let then = self.nested(then);
        let otherwise = self.nested(otherwise);
        self.push(Stmt::If { cond, then, otherwise });
    }

    /// Runs a body for every point of `axes`, spread over the threads of a warp or block.
    pub fn parallel(&mut self, axes: &[(&str, Expr)], build: impl FnOnce(&mut Builder, &[Expr])) {
        let (axes, vars) = self.axes(axes);
        let body = self.nested(|k| build(k, &vars));
        self.push(Stmt::Parallel { axes, body });
    }

    /// Combines one value over every point of `axes`, over the threads of a warp or block; all of them get the result.
    pub fn reduce(
        &mut self,
        name: &str,
        op: ReduceOp,
        axes: &[(&str, Expr)],
        value: impl FnOnce(&mut Builder, &[Expr]) -> Expr,
    ) -> Expr {
        let mut results = self.reduce_many(axes, |k, ix| vec![(name.to_owned(), op, value(k, ix))]);
        results.remove(0)
    }

    /// Combines several values in one pass over `axes`; returns one result for each that `values` returns.
    pub fn reduce_many(
        &mut self,
        axes: &[(&str, Expr)],
        values: impl FnOnce(&mut Builder, &[Expr]) -> Vec<(String, ReduceOp, Expr)>,
    ) -> Vec<Expr> {
        let (axes, vars) = self.axes(axes);
        let mut returned = vec![];
        let body = self.nested(|k| returned = values(k, &vars));
        let results: Vec<Reduction> = returned
            .into_iter()
            .map(|(name, op, value)| Reduction { var: self.var(&name, value.ty()), op, value })
            .collect();
        let exprs = results.iter().map(|result| Expr::var(&result.var)).collect();
        self.push(Stmt::Reduce { axes, body, results });
        exprs
    }

    /// Combines the elements of each row of an accumulator into one of `into`, which has an element a row.
    pub fn reduce_rows(
        &mut self,
        into: &Buffer,
        op: ReduceOp,
        axes: [(&str, Expr); 2],
        value: impl FnOnce(&mut Builder, &[Expr]) -> Expr,
    ) {
        let axes = axes.map(|(name, extent)| Axis { var: self.var(name, Type::Index), extent });
        let vars = axes.each_ref().map(|axis| Expr::var(&axis.var));
        let mut returned = None;
        let body = self.nested(|k| returned = Some(value(k, &vars)));
        if let Some(value) = returned {
            self.push(Stmt::ReduceRows { axes, body, op, value, into: into.clone() });
        }
    }

    /// Sets every element of a fragment.
    pub fn fill(&mut self, buffer: &Buffer, value: impl Operand) {
        let value = value.into_expr(buffer.dtype.into());
        self.push(Stmt::Fill { buffer: buffer.clone(), value });
    }

    /// Fills a shared tile: `mask` gets one index per dimension of `dst` and returns where the element exists, `element` what
    /// it is there, cast to the tile's type; elsewhere it is zero.
    pub fn copy(
        &mut self,
        dst: &Buffer,
        names: &[&str],
        mask: impl FnOnce(&[Expr]) -> Expr,
        element: impl FnOnce(&mut Builder, &[Expr]) -> Expr,
    ) {
        let axes: Vec<(&str, Expr)> =
            names.iter().zip(&dst.shape).map(|(&name, extent)| (name, extent.clone())).collect();
        let (axes, vars) = self.axes(&axes);
        let mask = mask(&vars);
        let mut value = None;
        let body = self.nested(|k| value = Some(element(k, &vars).cast(dst.dtype)));
        let fill = Expr::int(dst.dtype, 0);
        let value = value.unwrap_or_else(|| fill.clone());
        self.push(Stmt::Copy { dst: dst.clone(), axes, mask, body, value, fill });
    }

    /// `acc[m, n] += sum over k of a[m, k] * b[k, n]`; `transpose_a` if `a` is `[K, M]`, `transpose_b` if `b` is `[N, K]`. Where `a` is an
    /// accumulator, it is rounded to the type of `b`.
    pub fn gemm(&mut self, acc: &Buffer, a: &Buffer, b: &Buffer, transpose_a: bool, transpose_b: bool) {
        let (acc, a, b) = (acc.clone(), a.clone(), b.clone());
        self.push(Stmt::Gemm { acc, a, b, transpose_a, transpose_b });
    }

    /// A serial loop over `0..extent` whose copies run up to `stages - 1` iterations ahead of its arithmetic.
    pub fn pipelined(&mut self, name: &str, extent: Expr, stages: u32, build: impl FnOnce(&mut Builder, &Expr)) {
        let var = self.var(name, Type::Index);
        let body = self.nested(|k| build(k, &Expr::var(&var)));
        self.push(Stmt::Pipelined { var, extent, stages, body });
    }

    /// The finished, verified program.
    pub fn finish(self) -> Result<Program> {
        verify(&self.program)?;
        Ok(self.program)
    }
}

/// Makes any text a C identifier: other characters become `_`, a leading digit gets one in front.
pub fn identifier(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let c = if c.is_ascii_alphanumeric() { c } else { '_' };
        // One underscore in a row: two are reserved in C++.
        if c != '_' || !out.ends_with('_') {
            out.push(c);
        }
    }
    let out = out.trim_end_matches('_');
    match out.chars().next() {
        None => "kernel".to_owned(),
        Some(c) if c.is_ascii_digit() => format!("_{out}"),
        Some(_) => out.to_owned(),
    }
}
