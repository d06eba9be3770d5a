//! Shared memory: what lies where, and tiles from and to it.

use super::dot::{matrix_copy, packed};
use super::nest::{Digit, Nest};
use super::{Lower, convert, reduce};
use crate::dtype::DType;
use crate::error::{Result, TileError};
use crate::expr::Expr;
use crate::ir::{Block, Op, Program, SharedId, Slot, Stage, ValueId};
use crate::program::ReduceOp;
use crate::threads::{self as t, Atom, Binary, Instruction, Scalar, Stmt, Ty};
use kiln_layout::{RegisterLayout, SharedLayout};
use kiln_target::atoms::Space;

/// Bytes of an mbarrier.
const BARRIER: u32 = 8;
/// What scratch is aligned to.
const ALIGNMENT: u32 = 128;

/// What lies where in the shared memory of a CTA: the buffers as the program says, then mbarriers, then scratch for reductions and
/// conversions, of all threads together and of each role for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedPlan {
    /// Byte offset of each ring of mbarriers.
    pub barriers: Vec<u32>,
    /// Byte offset of the scratch: of all threads, then of each group of each role.
    pub scratch: Vec<u32>,
    /// Bytes in all.
    pub total: u32,
}

/// Places mbarriers and scratch after the buffers of a program.
///
/// # Errors
/// [`TileError::Invalid`] where a buffer or a tile has no layout.
pub fn shared_plan(program: &Program) -> Result<SharedPlan> {
    let mut end = 0;
    for buffer in &program.shared {
        let (Some(layout), Some(offset)) = (&buffer.layout, buffer.offset) else {
            return Err(missing(program, &buffer.name));
        };
        end = end.max(offset + layout.stage_bytes() * (buffer.stages - 1) + layout.bytes());
    }
    end = end.next_multiple_of(BARRIER);
    let mut barriers = vec![];
    for barrier in &program.barriers {
        barriers.push(end);
        end += BARRIER * barrier.stages;
    }
    let mut needs = vec![0];
    scratch_bytes(program, &program.body, 0, &mut needs)?;
    let mut scratch = vec![];
    for bytes in needs {
        if bytes > 0 {
            end = end.next_multiple_of(ALIGNMENT);
        }
        scratch.push(end);
        end += bytes;
    }
    Ok(SharedPlan { barriers, scratch, total: end })
}

fn missing(program: &Program, name: &str) -> TileError {
    TileError::Invalid {
        kernel: program.name.clone(),
        what: format!("`{name}` has no layout or no place"),
        place: "lowering to threads".to_owned(),
        help: "this is a bug of the tile compiler".to_owned(),
    }
}

/// Raises the scratch that a role needs to what a block needs; each group of a role has its own.
fn scratch_bytes(program: &Program, block: &Block, role: usize, needs: &mut Vec<u32>) -> Result<()> {
    let layout = |id: ValueId| {
        let value = program.value(id);
        value.layout.as_ref().map(|layout| (layout, value.dtype)).ok_or_else(|| missing(program, &value.name))
    };
    for stmt in block {
        let bytes = match (&stmt.op, stmt.results.first()) {
            (Op::Reduce { value, axis, .. }, Some(result)) => {
                let ((from, dtype), (to, _)) = (layout(*value)?, layout(*result)?);
                reduce::scratch(from, *axis, to, dtype)
            }
            (Op::Convert { value }, Some(result)) => {
                let ((from, dtype), (to, _)) = (layout(*value)?, layout(*result)?);
                convert::scratch(from, to, dtype)
            }
            _ => 0,
        };
        needs[role] = needs[role].max(bytes);
        if let Op::Roles(roles) = &stmt.op {
            for role in roles {
                let own = needs.len();
                needs.push(0);
                scratch_bytes(program, &role.body, own, needs)?;
                needs.resize(own + role.group_count() as usize, needs[own]);
            }
            continue;
        }
        for inside in stmt.op.blocks() {
            scratch_bytes(program, inside, role, needs)?;
        }
    }
    Ok(())
}

/// Where elements lie: a layout, and the byte that it starts from.
pub(super) struct Place<'a> {
    pub layout: &'a SharedLayout,
    pub start: t::Expr,
}

impl<'a> Lower<'a> {
    /// The layout of a shared buffer.
    pub(super) fn shared_layout(&self, id: SharedId) -> Result<&'a SharedLayout> {
        let buffer = self.program.shared(id);
        buffer.layout.as_ref().ok_or_else(|| missing(self.program, &buffer.name))
    }

    /// Byte of a slot's first element, from the start of shared memory.
    pub(super) fn slot(&mut self, slot: &Slot) -> Result<t::Expr> {
        let buffer = self.program.shared(slot.buffer);
        let layout = self.shared_layout(slot.buffer)?;
        let offset = buffer.offset.ok_or_else(|| missing(self.program, &buffer.name))?;
        let Stage::Index(stage) = &slot.stage else {
            return Err(self.internal("stages are numbers by now"));
        };
        let stage = self.expr(stage)?.cast(Scalar::I32);
        Ok(stage.times(t::Expr::int(layout.stage_bytes())).plus(t::Expr::int(offset)))
    }

    /// Byte of the scratch of the threads that run what is being written.
    pub(super) fn scratch(&mut self) -> Result<t::Expr> {
        let role = self.threads()?.role as usize;
        let start = *self.shared.scratch.get(role).ok_or_else(|| self.internal("a role has no scratch"))?;
        let next = self.shared.scratch.get(role + 1).map_or(0, |next| next - start);
        self.in_group(t::Expr::int(start), t::Binary::Add, next)
    }

    /// A tile from a slot.
    pub(super) fn shared_load(&mut self, result: ValueId, from: &Slot) -> Result<()> {
        let (layout, array) = (self.layout(result)?, self.array(result)?);
        let start = self.slot(from)?;
        let place = Place { layout: self.shared_layout(from.buffer)?, start };
        self.read_shared(layout, &array, &place)
    }

    /// What a slot holds in all CTAs of the cluster, combined in the order of the CTAs, so that each gets the same.
    pub(super) fn cluster_load(&mut self, result: ValueId, op: ReduceOp, from: &Slot) -> Result<()> {
        let (layout, array) = (self.layout(result)?, self.array(result)?);
        let dtype = self.program.value(result).dtype;
        let (start, shared) = (self.slot(from)?, self.shared_layout(from.buffer)?);
        let digits = self.digits(layout, &[])?;
        let nest = self.nest(layout, &digits, 0, None)?;
        let of = array.ty().element();
        let cluster = self.program.schedule.cluster;
        self.in_loops(&nest.loops, &mut |lower| {
            let bytes = lower.shared_bytes(&nest.at, shared)?;
            let address = t::Expr::SharedAddress(Box::new(start.clone().plus(bytes)));
            let part = |rank: u32| {
                let function = t::Function::ClusterLoad(of);
                t::Expr::call(function, [address.clone(), t::Expr::Int(rank.into(), Scalar::U32)])
            };
            let place = array.place(lower.expr(&nest.register)?);
            lower.push(Stmt::Assign(place.clone(), part(0)));
            for rank in 1..cluster {
                let other = lower.var("other", Ty::Scalar(of));
                lower.push(Stmt::constant(&other, part(rank)));
                let value = lower.combine(op, dtype, place.value(), t::Expr::from(&other));
                lower.push(Stmt::Assign(place.clone(), value));
            }
            Ok(())
        })
    }

    /// A tile to a slot.
    pub(super) fn shared_store(&mut self, to: &Slot, value: ValueId) -> Result<()> {
        let (layout, array) = (self.layout(value)?, self.array(value)?);
        let start = self.slot(to)?;
        let place = Place { layout: self.shared_layout(to.buffer)?, start };
        self.write_shared(layout, &array, &place)
    }

    /// Reads all registers of a tile.
    pub(super) fn read_shared(&mut self, layout: &RegisterLayout, array: &t::Var, from: &Place<'_>) -> Result<()> {
        let digits = self.digits(layout, &[])?;
        let nest = self.shared_nest(layout, &digits, from.layout)?;
        let of = array.ty().element();
        self.in_loops(&nest.loops, &mut |lower| {
            let pointer = lower.shared_pointer(&nest, from, of)?;
            let width = nest.width();
            let loaded = t::Expr::load_lanes(pointer, t::Expr::int(0), width);
            if width == 1 {
                return lower.spread(&nest, array, |_| loaded.clone());
            }
            let vector = lower.var(&format!("{}_v", array.name()), loaded.ty());
            lower.push(Stmt::constant(&vector, loaded));
            lower.spread(&nest, array, |lane| vector.at(lane))
        })
    }

    /// Writes a tile, by `stmatrix` where it can; of threads that hold the same element, the first does.
    pub(super) fn write_shared(&mut self, layout: &RegisterLayout, array: &t::Var, to: &Place<'_>) -> Result<()> {
        let owner = self.owner(layout)?;
        if owner.is_none() && self.write_matrices(layout, array, to)? {
            return Ok(());
        }
        let owner = owner.as_ref().map(|owner| self.expr(owner)).transpose()?;
        let mut digits = self.digits(layout, &[])?;
        digits.retain(|digit| digit.stride > 0);
        let nest = self.shared_nest(layout, &digits, to.layout)?;
        let of = array.ty().element();
        let block = self.nested(|lower| {
            lower.in_loops(&nest.loops, &mut |lower| {
                let pointer = lower.shared_pointer(&nest, to, of)?;
                let value = lower.gather(&nest, array, array.name())?;
                lower.push(Stmt::Store { pointer, index: t::Expr::int(0), value });
                Ok(())
            })
        })?;
        self.owned(owner, block);
        Ok(())
    }

    /// Writes a tile by `stmatrix` where there is one for it: fragments of 16-bit elements, whose rows of 16 bytes lie together. Says
    /// whether it did.
    fn write_matrices(&mut self, layout: &RegisterLayout, array: &t::Var, to: &Place<'_>) -> Result<bool> {
        let ways = [4, 2, 1].into_iter().filter_map(|count| to.layout.matrix_access(layout, count));
        let found = ways.filter_map(|way| Some((*self.atoms.copy(matrix_copy(&way), Space::Shared)?, way))).next();
        let Some((row, way)) = found else { return Ok(false) };
        let own = self.thread_bytes(to.layout, &way.rows, Some(&way))?;
        let word = 4 / to.layout.element_bytes();
        for instruction in 0..way.rows.registers() {
            let constant = to.layout.linear(&way.row(instruction, 0));
            let bytes = self.swizzled(array.name(), to.layout, &own, constant)?;
            let address = t::Expr::SharedAddress(Box::new(to.start.clone().plus(self.expr(&bytes)?)));
            let words = (0..way.count).map(|i| packed(array, (instruction * way.count + i) * word, word));
            self.push(Stmt::Instruction(Instruction {
                atom: Atom::Copy(row),
                accumulators: vec![],
                accumulate: false,
                results: vec![],
                operands: std::iter::once(address).chain(words).collect(),
            }));
        }
        Ok(true)
    }

    /// A nest whose lanes lie together in shared memory.
    fn shared_nest(&mut self, layout: &RegisterLayout, digits: &[Digit], shared: &SharedLayout) -> Result<Nest> {
        let Some(axis) = shared.fastest() else { return self.nest(layout, digits, 0, None) };
        let run = shared.contiguous(axis);
        let bytes = shared.element_bytes();
        self.widest(layout, digits, 0, |lower, nest| {
            let width = nest.width();
            let Some(at) = nest.at.get(axis) else { return Ok(0) };
            let along =
                lower.facts.lane_step(at, width) == Some(1) && lower.facts.multiple(at) % i128::from(width) == 0;
            let fits = width * bytes <= super::load::WIDEST && run.is_multiple_of(width) && along;
            Ok(if fits { width.into() } else { 0 })
        })
    }

    /// Pointer to the element of a nest's first lane.
    fn shared_pointer(&mut self, nest: &Nest, place: &Place<'_>, to: Scalar) -> Result<t::Expr> {
        let at: Vec<Expr> = nest.at.iter().map(|at| nest.first_lane(at)).collect();
        let bytes = self.shared_bytes(&at, place.layout)?;
        Ok(t::Expr::SharedPointer { to, bytes: Box::new(place.start.clone().plus(bytes)) })
    }

    /// Byte of an element in a stage.
    pub(super) fn shared_bytes(&mut self, at: &[Expr], layout: &SharedLayout) -> Result<t::Expr> {
        if at.len() != layout.axes().len() {
            return Err(self.internal("a buffer has other axes than its tile"));
        }
        let mut linear = Expr::index(0);
        for (at, steps) in at.iter().zip(layout.axes()) {
            let mut weight = 1i64;
            for (i, step) in steps.iter().enumerate() {
                let mut digit = at / weight;
                if i + 1 < steps.len() {
                    digit = digit % i64::from(step.extent);
                }
                linear = linear + digit * i64::from(step.stride * layout.element_bytes());
                weight *= i64::from(step.extent);
            }
        }
        let linear = self.expr(&linear)?;
        let swizzle = layout.swizzle();
        if swizzle.bits() == 0 {
            return Ok(linear);
        }
        let linear = match linear {
            simple @ (t::Expr::Var(_) | t::Expr::Int(..)) => simple,
            linear => {
                let named = self.var("byte", Ty::Scalar(Scalar::I32));
                self.push(Stmt::constant(&named, linear));
                t::Expr::from(&named)
            }
        };
        let above = linear.clone().op(Binary::Shr, t::Expr::int(swizzle.shift()));
        Ok(linear.op(Binary::Xor, above.op(Binary::And, t::Expr::int(swizzle.mask()))))
    }
}

/// The layout of scratch that a tile goes through.
pub(super) fn scratch_layout(layout: &RegisterLayout, dtype: DType) -> Option<SharedLayout> {
    let bytes = Scalar::of(dtype, false).bytes();
    // Neighbours in registers had better be neighbours in memory; 16 bytes more a row spread columns over banks.
    let fast =
        layout.register_modes().iter().find(|mode| mode.stride == 1).map_or(layout.rank().checked_sub(1)?, |m| m.axis);
    let order: Vec<usize> =
        std::iter::once(fast).chain((0..layout.rank()).rev().filter(|axis| *axis != fast)).collect();
    SharedLayout::padded(layout.shape(), &order, if layout.rank() > 1 { 16 / bytes.min(16) } else { 0 }, bytes).ok()
}
