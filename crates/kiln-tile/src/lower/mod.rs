//! The last stage of the tile compiler: from a program whose every tile has a layout to what one thread does.
//!
//! A tile is an array of registers (`storage` says which tiles share one). A statement on tiles becomes a loop over registers (`nest`),
//! whose coordinates are the thread's part, named once, plus the registers' part, which is known once loops are unrolled; what an address
//! owes to the thread alone is added before the loop (`access`).

mod access;
mod control;
mod convert;
mod copy;
mod dot;
mod expr;
mod load;
mod map;
mod nest;
mod reduce;
mod shared;
mod storage;
mod store;
mod sync;
mod words;

use crate::compile::{Kernel, KernelParam};
use crate::dtype::Type;
use crate::error::{Result, TileError};
use crate::expr::{Expr, ExprKind, Var};
use crate::ir::{self, Op, Operand, Program, SharedId, ValueId};
use crate::pass::facts::{Facts, Range, VarFacts};
use crate::program::{Access, Param, product};
use crate::threads::{self as t, Effect, Scalar, Space, Stmt, Ty};
pub use copy::{TensorMap, Windows};
use kiln_layout::RegisterLayout;
use kiln_target::arch::Arch;
use kiln_target::atoms::AtomTable;
pub use shared::{SharedPlan, shared_plan};
use std::collections::{HashMap, HashSet};
pub(crate) use storage::Storage;
pub(crate) use sync::{FIRST_TURN, LAST_BARRIER};

/// Compiles a program whose tiles have layouts, and whose shared buffers have places, for an architecture, or what is left of its instructions.
pub fn compile_threads(program: &Program, atoms: impl Into<AtomTable>) -> Result<Kernel> {
    let atoms = atoms.into();
    let arch = atoms.arch();
    let (mut kernel, maps) = lower(program, atoms)?;
    t::dce::dce(&mut kernel);
    let source = t::cuda::print(&kernel, arch)?;
    let points = product(&program.domain);
    let shape = (kernel.threads, kernel.shared);
    let mut compiled = Kernel::new(source.entry, source.text, arch, shape, &program.params, (points, 1));
    compiled.params.extend(maps.into_iter().map(KernelParam::TensorMap));
    Ok(compiled)
}

/// What one thread of `program` does by those instructions, and the tensor maps that the kernel takes after its other parameters.
///
/// # Errors
/// [`TileError::Invalid`] where a tile lacks a layout or a layout does not fit its use, [`TileError::Unsupported`] for what the
/// architecture or this compiler cannot express.
pub fn lower(program: &Program, atoms: impl Into<AtomTable>) -> Result<(t::Kernel, Vec<TensorMap>)> {
    let atoms = atoms.into();
    let arch = atoms.arch();
    let plan = shared_plan(program)?;
    if plan.total > arch.max_shared_per_block() {
        return Err(TileError::Unsupported {
            kernel: program.name.clone(),
            arch,
            what: format!(
                "it needs {} bytes of shared memory a CTA, {} exist",
                plan.total,
                arch.max_shared_per_block()
            ),
            help: "use fewer stages or smaller tiles".to_owned(),
        });
    }
    if program.schedule.cluster > 1 && !arch.has_clusters() {
        return Err(TileError::Unsupported {
            kernel: program.name.clone(),
            arch,
            what: format!("its CTAs run in clusters of {}", program.schedule.cluster),
            help: "clusters need sm_90 or newer: choose a Config without".to_owned(),
        });
    }
    let storage = Storage::of(program)?;
    let words = if arch.has_bf16() { words::words(program, &storage) } else { HashSet::new() };
    let mut lower = Lower {
        program,
        arch,
        atoms,
        facts: Facts::default(),
        vars: HashMap::new(),
        buffers: HashMap::new(),
        storage,
        words,
        arrays: HashMap::new(),
        position: 0,
        shared: plan,
        out: vec![vec![]],
        frames: vec![],
        prepared: HashMap::new(),
        next_id: program.next_id,
        next_var: 0,
        maps: vec![],
        overwritten: overwritten(program),
        rounded: rounded(program),
    };
    let mut params: Vec<t::Var> = program.params.iter().map(|param| lower.param(param)).collect();
    let body =
        lower.frame(Threads { first: 0, count: program.threads(), role: 0, groups: 1 }, |lower| lower.domain())?;
    let persistent = match &program.grid {
        ir::Grid::Points => None,
        ir::Grid::Persistent { per_sm, .. } => Some(*per_sm),
    };
    let multiplies = holds(&program.body, |op| matches!(op, Op::Dot { .. }));
    let long = |value: &ValueId| program.value(*value).shape.iter().filter(|extent| **extent > 1).count() < 2;
    let reduces = holds(&program.body, |op| matches!(op, Op::Reduce { value, .. } if long(value)));
    let (maps, vars): (Vec<TensorMap>, Vec<t::Var>) = lower.maps.into_iter().unzip();
    params.extend(vars);
    let kernel = t::Kernel {
        name: program.name.clone(),
        comment: program.comment.clone(),
        params,
        threads: program.threads(),
        // One CTA an SM is enough: for more the compiler would spill. Reductions of one long row live on many.
        min_ctas: persistent.or((multiplies || !reduces).then_some(1)),
        max_registers: None,
        cluster: program.schedule.cluster,
        shared: lower.shared.total,
        body,
    };
    Ok((kernel, maps))
}

/// Tiles of zeros whose only use is as the accumulator of a product that can ignore it.
pub(crate) fn overwritten(program: &Program) -> HashSet<ValueId> {
    let mut zeros = HashSet::new();
    let mut uses: HashMap<ValueId, u32> = HashMap::new();
    let mut sums = HashSet::new();
    for stmt in &program.body {
        stmt.walk(&mut |stmt| {
            stmt.op.uses().into_iter().chain(stmt.op.yields()).for_each(|value| *uses.entry(value).or_default() += 1);
            match &stmt.op {
                Op::Full { value } if is_zero(value) => zeros.extend(&stmt.results),
                Op::Dot { acc, atom: Some(atom), .. } if atom.starts_with("wgmma") => {
                    sums.insert(*acc);
                }
                _ => {}
            }
        });
    }
    zeros.retain(|value| sums.contains(value) && uses.get(value) == Some(&1));
    zeros
}

/// Shared buffers whose numbers an instruction reads that does not round them to TF32, but must be given such: the copies to them round.
fn rounded(program: &Program) -> HashSet<SharedId> {
    let mut found = HashSet::new();
    for stmt in &program.body {
        stmt.walk(&mut |stmt| {
            let Op::Dot { a, b, tf32: Some(_), atom: Some(atom), .. } = &stmt.op else { return };
            let slot = |operand: &Operand| if let Operand::Shared(slot) = operand { Some(slot.buffer) } else { None };
            if atom.starts_with("wgmma") {
                found.extend([a, b].into_iter().filter_map(slot));
            }
        });
    }
    found
}

/// Whether all bits are zero.
fn is_zero(e: &Expr) -> bool {
    matches!(e.kind(), ExprKind::Const(value) if value.as_f64().to_bits() == 0)
}

fn holds(body: &[ir::Stmt], what: impl Fn(&Op) -> bool) -> bool {
    let mut found = false;
    body.iter().for_each(|stmt| stmt.walk(&mut |stmt| found |= what(&stmt.op)));
    found
}

/// The threads that run a block: those of the CTA or of a role.
#[derive(Clone, Copy)]
pub struct Threads {
    /// The first one's number in the CTA.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// The role's place among the roles, from 1; 0: all. Each group of a role counts.
    pub role: u32,
    /// How many groups of as many threads run the same, and are of the roles that follow.
    pub groups: u32,
}

/// What the threads of a role have in common.
struct Frame {
    threads: Threads,
    /// Number of the thread in its group of the role.
    thread: Var,
    /// The number of the group, where there are several.
    group: Option<Var>,
    /// What stands before the block: names of what threads are.
    prologue: t::Block,
    /// Names of the parts that threads add to coordinates, by what they are.
    parts: HashMap<Expr, Expr>,
}

/// A load that has been got ready before the loop it is in.
#[derive(Clone)]
struct Prepared {
    pointer: t::Expr,
    /// Elements after it.
    inner: Expr,
    /// The vector that has been loaded, and which lane of it is meant.
    vector: Option<(t::Var, Expr)>,
}

pub(crate) struct Lower<'a> {
    program: &'a Program,
    arch: Arch,
    atoms: AtomTable,
    facts: Facts,
    /// What scalars are, by the number of their variable.
    vars: HashMap<u32, t::Expr>,
    /// Pointers to tensors, by their number.
    buffers: HashMap<u32, t::Var>,
    storage: Storage,
    /// Those of its classes whose arrays hold words of two elements.
    words: HashSet<usize>,
    /// Arrays of registers, by their number in the storage.
    arrays: HashMap<usize, t::Var>,
    /// Number of the next statement, in order.
    position: usize,
    shared: SharedPlan,
    /// The blocks being written, innermost last.
    out: Vec<t::Block>,
    frames: Vec<Frame>,
    prepared: HashMap<(u32, Vec<Expr>), Prepared>,
    next_id: u32,
    next_var: u32,
    /// Tensor maps, and the parameters that they are.
    maps: Vec<(TensorMap, t::Var)>,
    /// Accumulators of zeros, which the first product overwrites.
    overwritten: HashSet<ValueId>,
    /// Shared buffers that copies bring rounded to TF32.
    rounded: HashSet<SharedId>,
}

impl<'a> Lower<'a> {
    /// A broken promise between passes.
    fn internal(&self, what: impl Into<String>) -> TileError {
        TileError::Invalid {
            kernel: self.program.name.clone(),
            what: what.into(),
            place: "lowering to threads".to_owned(),
            help: "this is a bug of the tile compiler".to_owned(),
        }
    }

    // ---- names ------------------------------------------------------------------------------------------------------

    /// A new variable of the thread.
    fn var(&mut self, name: &str, ty: Ty) -> t::Var {
        self.next_var += 1;
        t::Var::new(self.next_var, name, ty)
    }

    /// A new scalar of the program; it gets a value by [`Lower::define`].
    fn scalar(&mut self, name: &str, ty: impl Into<Type>) -> Var {
        self.next_id += 1;
        Var { id: self.next_id - 1, name: name.into(), ty: ty.into() }
    }

    /// The register type of a scalar: of an index as its range needs.
    fn scalar_type(&self, var: &Var) -> Scalar {
        let wide = var.ty == Type::Index && !self.facts.range(&Expr::var(var)).fits_int();
        Scalar::of(var.ty, wide)
    }

    /// Declares a variable of the thread for a scalar about which facts are known.
    fn declare(&mut self, var: &Var) -> t::Var {
        let named = self.var(&var.name, Ty::Scalar(self.scalar_type(var)));
        self.vars.insert(var.id, t::Expr::from(&named));
        named
    }

    /// Names a value in the block being written.
    fn bind(&mut self, var: &Var, value: &Expr) -> Result<()> {
        self.bind_lanes(var, value, 1)
    }

    /// [`Lower::bind`] in code that handles so many lanes.
    fn bind_lanes(&mut self, var: &Var, value: &Expr, width: u32) -> Result<()> {
        self.facts.bind(var, value, width);
        let value = self.expr(value)?;
        let named = self.declare(var);
        let value = value.cast_index(named.ty().element());
        self.push(Stmt::constant(&named, value));
        Ok(())
    }

    /// A name for a scalar, which is computed here; literals and names stay what they are.
    fn name(&mut self, name: &str, value: &Expr) -> Result<Expr> {
        if matches!(value.kind(), ExprKind::Const(_) | ExprKind::Var(_)) {
            return Ok(value.clone());
        }
        let var = self.scalar(name, value.ty());
        self.bind(&var, value)?;
        Ok(Expr::var(&var))
    }

    /// A variable that counts from 0 to `extent`.
    fn counter(&mut self, name: &str, extent: u32, lanes: bool) -> Var {
        let var = self.scalar(name, Type::Index);
        let range = Range::new(0, i128::from(extent) - 1);
        let (multiple, step) = if lanes { (0, 1) } else { (1, 0) };
        self.facts.set(&var, VarFacts { range, multiple, lane_step: Some(step) });
        var
    }

    // ---- blocks -----------------------------------------------------------------------------------------------------

    fn push(&mut self, stmt: Stmt) {
        if let Some(block) = self.out.last_mut() {
            block.push(stmt);
        }
    }

    /// Collects what `write` emits.
    fn nested(&mut self, write: impl FnOnce(&mut Self) -> Result<()>) -> Result<t::Block> {
        self.out.push(vec![]);
        let result = write(self);
        let block = self.out.pop().unwrap_or_default();
        result.map(|()| block)
    }

    /// Writes an unrolled loop; no loop around one iteration.
    fn unrolled(&mut self, var: &Var, extent: u32, write: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if extent == 1 {
            self.vars.insert(var.id, t::Expr::int(0));
            return write(self);
        }
        let counter = self.declare(var);
        let body = self.nested(write)?;
        self.push(Stmt::unrolled(&counter, extent, body));
        Ok(())
    }

    /// Writes statements under a condition.
    fn when(&mut self, cond: t::Expr, write: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let then = self.nested(write)?;
        Stmt::when(cond, then).into_iter().for_each(|stmt| self.push(stmt));
        Ok(())
    }

    /// A block that these threads run, with what they are named before it.
    fn frame(&mut self, threads: Threads, write: impl FnOnce(&mut Self) -> Result<()>) -> Result<t::Block> {
        let thread = self.scalar("thread", Type::Index);
        let range = Range::new(0, i128::from(threads.count) - 1);
        self.facts.set(&thread, VarFacts { range, multiple: 1, lane_step: Some(0) });
        let named = self.declare(&thread);
        let mut number = t::Expr::thread().op(t::Binary::Sub, t::Expr::int(threads.first));
        if threads.groups > 1 {
            number = number.op(t::Binary::Rem, t::Expr::int(threads.count));
        }
        let prologue = vec![Stmt::constant(&named, number)];
        self.frames.push(Frame { threads, thread, group: None, prologue, parts: HashMap::new() });
        let body = self.nested(write);
        let frame = self.frames.pop().ok_or_else(|| self.internal("no frame"))?;
        let mut block = frame.prologue;
        block.extend(body?);
        Ok(block)
    }

    fn top(&self) -> Result<&Frame> {
        self.frames.last().ok_or_else(|| self.internal("a statement outside of a frame"))
    }

    /// The threads that run what is being written.
    fn threads(&self) -> Result<Threads> {
        Ok(self.top()?.threads)
    }

    /// Number of the thread in its role.
    fn thread(&self) -> Result<Expr> {
        Ok(Expr::var(&self.top()?.thread))
    }

    /// A name, before everything that the role does, for what depends on the number of the thread alone.
    fn of_thread(&mut self, name: &str, value: Expr) -> Result<Expr> {
        if matches!(value.kind(), ExprKind::Const(_) | ExprKind::Var(_)) {
            return Ok(value);
        }
        if let Some(known) = self.top()?.parts.get(&value) {
            return Ok(known.clone());
        }
        let var = self.scalar(name, value.ty());
        let before = self.nested(|lower| lower.bind(&var, &value))?;
        let named = Expr::var(&var);
        if let Some(frame) = self.frames.last_mut() {
            frame.prologue.extend(before);
            frame.parts.insert(value, named.clone());
        }
        Ok(named)
    }

    // ---- parameters and tiles -----------------------------------------------------------------------------------------

    fn param(&mut self, param: &Param) -> t::Var {
        match param {
            Param::Scalar { var, range, multiple_of } => {
                let range = Range::new(range.0.into(), range.1.into());
                self.facts.set(var, VarFacts { range, multiple: (*multiple_of).into(), lane_step: Some(0) });
                self.declare(var)
            }
            Param::Buffer { buffer, access } => {
                // Packed elements are read through their bytes.
                let to = if buffer.dtype.bits() < 8 { Scalar::U8 } else { Scalar::of(buffer.dtype, false) };
                let constant = *access == Access::Read;
                let space = if *access == Access::ReadWrite { Space::Exchange } else { Space::Global };
                let named = self.var(&buffer.name, Ty::Pointer { to, space, constant });
                self.buffers.insert(buffer.id, named.clone());
                named
            }
        }
    }

    fn layout(&self, id: ValueId) -> Result<&'a RegisterLayout> {
        let value = self.program.value(id);
        value.layout.as_ref().ok_or_else(|| self.internal(format!("the tile `{}` has no layout", value.name)))
    }

    /// The registers of a tile.
    fn array(&self, id: ValueId) -> Result<t::Var> {
        let known = self.arrays.get(&self.storage.class(id)).cloned();
        known.ok_or_else(|| {
            self.internal(format!("the tile `{}` is used before it is made", self.program.value(id).name))
        })
    }

    /// A new array of registers for a layout.
    fn registers(&mut self, name: &str, dtype: crate::dtype::DType, layout: &RegisterLayout) -> t::Var {
        let array = self.var(name, Ty::Array(Scalar::of(dtype, false), layout.registers()));
        self.push(Stmt::declare(&array));
        array
    }

    // ---- statements -------------------------------------------------------------------------------------------------

    fn block(&mut self, block: &ir::Block) -> Result<()> {
        block.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    fn stmt(&mut self, stmt: &ir::Stmt) -> Result<()> {
        let position = self.position;
        self.position += 1;
        for class in self.storage.declared_at(position) {
            let id = self.storage.first(class);
            let layout = self.layout(id)?;
            let value = self.program.value(id);
            let array = match self.words.contains(&class) {
                true => self.var(&value.name, Ty::Array(Scalar::U32, layout.registers() / 2)),
                false => self.var(&value.name, Ty::Array(Scalar::of(value.dtype, false), layout.registers())),
            };
            self.push(Stmt::declare(&array));
            self.arrays.insert(class, array);
        }
        let result = |i: usize| stmt.results.get(i).copied().ok_or_else(|| self.internal("a statement lacks a result"));
        match &stmt.op {
            Op::Bind { var, value, below } => {
                self.bind(var, value)?;
                if let Some(below) = below {
                    self.facts.bound(var, below);
                }
                Ok(())
            }
            Op::Full { .. } if self.overwritten.contains(&result(0)?) => Ok(()),
            Op::Full { value } => self.full(result(0)?, value),
            Op::Load { from, fill } => self.load(result(0)?, from, fill),
            Op::Map { axes, args, body, results } => self.map(&stmt.results, axes, args, body, results),
            Op::Reduce { op, value, axis } => self.reduce(result(0)?, *op, *value, *axis),
            Op::Transpose { value, perm } => self.transpose(result(0)?, *value, perm),
            Op::Convert { value } => self.convert(result(0)?, *value),
            Op::Store { to, value } => self.store(to, *value),
            Op::Atomic { op, to, value } => self.atomic(*op, to, *value),
            Op::Await { counter, index, value } => self.counter_effect(counter, index, value, true),
            Op::Signal { counter, index, value } => self.counter_effect(counter, index, value, false),
            Op::For { .. } => self.for_loop(stmt),
            Op::If { cond, then, otherwise } => self.if_else(&stmt.results, cond, then, otherwise),
            Op::Sync => self.sync(),
            Op::SharedLoad { from } => self.shared_load(result(0)?, from),
            Op::SharedStore { to, value } => self.shared_store(to, *value),
            Op::Assign { var, value, below } => self.assign(var, value, *below),
            Op::Dot { a, b, acc, tf32, atom } => self.dot([a, b], *acc, *tf32, atom.as_deref()),
            Op::Copy { from, to, kind, barrier } => self.copy(from, to, *kind, barrier.as_ref()),
            Op::CopyOut { from, to } => self.copy_out(from, to),
            Op::Roles(roles) => self.roles(roles),
            Op::Acquire(_) | Op::Publish(_) | Op::Receive(_) | Op::Release(_) | Op::Skip { .. } => {
                Err(self.internal("channels are barriers by now"))
            }
            Op::Elected(body) => self.elected(body),
            Op::Expect { barrier, index, bytes } => self.expect(*barrier, index, *bytes),
            Op::Arrive { barrier, index, everywhere } => self.arrive(*barrier, index, *everywhere),
            Op::Wait { barrier, index, parity } => self.wait(*barrier, index, parity),
            Op::Commit(group) => self.commit(*group),
            Op::WaitGroup { group, pending } => self.wait_group(*group, *pending),
            Op::Fence(fence) => self.fence(*fence),
            Op::NamedBarrier { id, threads, wait } => self.named_barrier(id, *threads, *wait),
            Op::Turn(turn) => self.turn(*turn),
            Op::SetRegisters { count, increase } => self.set_registers(*count, *increase),
            Op::ClusterSync => self.effect(Effect::ClusterSync),
            Op::ClusterArrive => self.effect(Effect::ClusterArrive),
            Op::ClusterWait => self.effect(Effect::ClusterWait),
            Op::ClusterLoad { op, from } => self.cluster_load(result(0)?, *op, from),
            Op::ClusterReduce { .. } => Err(self.internal("clusters exchange through shared memory by now")),
        }
    }
}
