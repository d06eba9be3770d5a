//! Statement by statement.

use super::super::{
    CopyKind, Level, Op, Operand, Place, Role, Scalar, Schedule, Slot, Stage, Stmt, Value, ValueId, View,
};
use super::Verifier;
use crate::dtype::{DType, Type};
use crate::error::Result;
use crate::expr::{Expr, Var};
use crate::pass::facts::Facts;
use crate::program::{Access, Buffer, ReduceOp};
use kiln_num::Round;
use std::collections::HashSet;

impl<'a> Verifier<'a> {
    /// The single result of a statement.
    fn result(&self, stmt: &Stmt) -> Result<&'a Value> {
        self.results(stmt, 1)?;
        self.value(stmt.results[0])
    }

    fn results(&self, stmt: &Stmt, count: usize) -> Result<()> {
        let found = stmt.results.len();
        self.rule(found == count, || format!("it defines {found} tiles"), &format!("it has {count} results"))
    }

    pub(super) fn op(&mut self, stmt: &'a Stmt) -> Result<()> {
        match &stmt.op {
            Op::Full { value } => {
                let result = self.result(stmt)?;
                let fits = value.ty() == result.dtype || value.ty() == result.dtype.compute();
                self.any_scalar(value, "the element")?;
                self.types(fits, value.ty(), "the element", result.dtype.name())
            }
            Op::Load { from, fill } => {
                let result = self.result(stmt)?;
                let tensor = from.tensor();
                self.place_of(from, &result.shape, Access::Read)?;
                self.types(result.dtype == tensor.dtype, result.dtype, "the tile", tensor.dtype.name())?;
                self.scalar(fill, "the fill value", tensor.dtype)
            }
            Op::Map { axes, args, body, results } => self.map(stmt, axes, args, body, results),
            Op::Reduce { op, value, axis } => {
                let (result, value) = (self.result(stmt)?, self.value(*value)?);
                self.reduce(result, *op, value, *axis)
            }
            Op::ClusterReduce { of } => self.cluster_reduce(stmt, of),
            Op::ClusterLoad { op, from } => {
                let result = self.result(stmt)?;
                let slot = self.slot(from)?;
                self.scalars().reduces(*op, slot.dtype.into(), &format!("`{}` ({})", slot.name, self.place))?;
                self.alike(result, &slot, "the result")
            }
            Op::Transpose { value, perm } => {
                let (result, value) = (self.result(stmt)?, self.value(*value)?);
                let mut sorted = perm.clone();
                sorted.sort_unstable();
                self.rule(
                    sorted.into_iter().eq(0..value.shape.len()),
                    || format!("{perm:?} of a tile of rank {}", value.shape.len()),
                    "name every axis once",
                )?;
                let shape = perm.iter().map(|axis| value.shape[*axis]).collect();
                self.alike(result, &Value { shape, ..value.clone() }, "the result")
            }
            Op::Dot { a, b, acc, tf32, atom } => {
                self.dot(stmt, a, b, *acc)?;
                if let Some(round) = tf32 {
                    let f32s = [self.operand(a)?.dtype, self.operand(b)?.dtype] == [DType::F32; 2];
                    self.rule(
                        f32s && matches!(round, Round::Nearest | Round::NearestAway),
                        || "rounded to TF32 are f32, to nearest".to_owned(),
                        "leave `tf32` out, or cast the operands to f32",
                    )?;
                }
                let level = self.program.level;
                self.rule(
                    atom.is_some() == (level >= Level::Selected),
                    || format!("{} instruction at level {}", if atom.is_some() { "an" } else { "no" }, level.name()),
                    "the select pass names one for every dot",
                )
            }
            Op::Store { to, value } => {
                self.results(stmt, 0)?;
                self.stored(to, *value)
            }
            Op::Atomic { op, to, value } => {
                self.results(stmt, 0)?;
                self.stored(to, *value)?;
                self.scalars().atomic(*op, to.tensor())
            }
            Op::Await { counter, index, value } | Op::Signal { counter, index, value } => {
                self.results(stmt, 0)?;
                self.counter(counter, index, value)
            }
            Op::For { .. } => self.loop_(stmt),
            Op::If { cond, then, otherwise } => {
                self.scalar(cond, "the condition", DType::Bool)?;
                // What one branch spends the other does not see; what follows does.
                let before = self.spent.clone();
                let mut after = HashSet::new();
                for (block, yields) in [then, otherwise] {
                    self.results(stmt, yields.len())?;
                    let pairs: Vec<_> = yields.iter().copied().zip(stmt.results.iter().copied()).collect();
                    self.block(block, &pairs)?;
                    after.extend(std::mem::replace(&mut self.spent, before.clone()));
                }
                self.spent = after;
                Ok(())
            }
            Op::Bind { var, value, below } => {
                self.results(stmt, 0)?;
                self.scalar(value, &format!("the value of `{}`", var.name), var.ty)?;
                if let Some(below) = below {
                    self.scalar(below, "the bound", Type::Index)?;
                }
                self.variable(var)
            }
            Op::Roles(roles) => {
                self.results(stmt, 0)?;
                self.roles(roles)
            }
            Op::SharedLoad { from } => {
                let result = self.result(stmt)?;
                let slot = self.slot(from)?;
                self.alike(result, &slot, "the result")
            }
            Op::SharedStore { to, value } => {
                self.results(stmt, 0)?;
                let slot = self.slot(to)?;
                self.alike(self.value(*value)?, &slot, "the tile")
            }
            Op::Convert { value } => {
                let (result, value) = (self.result(stmt)?, self.value(*value)?);
                self.alike(result, value, "the result")
            }
            Op::Copy { from, to, kind, barrier } => {
                self.results(stmt, 0)?;
                let slot = self.slot(to)?;
                self.view(from, &slot.shape, Access::Read)?;
                self.types(slot.dtype == from.tensor.dtype, slot.dtype, "the buffer", from.tensor.dtype.name())?;
                self.copy_kind(*kind)?;
                let boxed = matches!(kind, CopyKind::Tma | CopyKind::Multicast);
                let asks = boxed && self.program.level == Level::Async;
                self.rule(
                    *kind != CopyKind::Multicast || self.program.schedule.cluster > 1,
                    || "a copy for a cluster of one CTA".to_owned(),
                    "let the schedule say how many CTAs a cluster has",
                )?;
                self.rule(
                    barrier.is_some() == asks,
                    || format!("{} barrier", if barrier.is_some() { "a" } else { "no" }),
                    "at level async copies by tma complete on a barrier, and no others do",
                )?;
                barrier.as_ref().map_or(Ok(()), |(barrier, index)| self.phase(*barrier, index))
            }
            Op::CopyOut { from, to } => {
                self.results(stmt, 0)?;
                let slot = self.slot(from)?;
                self.view(to, &slot.shape, Access::Write)?;
                self.rule(
                    self.access.get(&to.tensor.id) != Some(&Access::ReadWrite),
                    || format!("a box of `{}`, which is read too", to.tensor.name),
                    "let threads store it: no counter waits for boxes",
                )?;
                self.types(slot.dtype == to.tensor.dtype, slot.dtype, "the buffer", to.tensor.dtype.name())
            }
            Op::Assign { var, value, .. } => {
                self.results(stmt, 0)?;
                self.scalar(value, &format!("the value of `{}`", var.name), var.ty)?;
                if !self.declared.contains(&var.id) {
                    self.mutable.insert(var.id);
                    return self.variable(var);
                }
                self.rule(
                    self.mutable.contains(&var.id) && self.scope.contains(&var.id),
                    || format!("`{}` is set where it is not declared, or is no variable that changes", var.name),
                    "declare it by an assignment in this block or in one around it",
                )
            }
            Op::Elected(block) => {
                self.results(stmt, 0)?;
                self.elected = true;
                self.block(block, &[])?;
                self.elected = false;
                Ok(())
            }
            op => {
                self.results(stmt, 0)?;
                self.effect(op)
            }
        }
    }

    fn map(
        &mut self,
        stmt: &Stmt,
        axes: &[Var],
        args: &[(Var, ValueId)],
        body: &[Scalar],
        results: &[Expr],
    ) -> Result<()> {
        self.rule(!results.is_empty(), || "no results".to_owned(), "give at least one")?;
        self.results(stmt, results.len())?;
        let outer = self.scope.clone();
        axes.iter().try_for_each(|axis| self.index_variable(axis))?;
        let shape = &self.value(stmt.results[0])?.shape;
        self.rule(
            axes.len() == shape.len(),
            || format!("{} coordinates for a tile of rank {}", axes.len(), shape.len()),
            "give one for each axis of the result",
        )?;
        for (var, id) in args {
            let arg = self.value(*id)?;
            let fits = arg.shape.len() == shape.len() && arg.shape.iter().zip(shape).all(|(a, r)| *a == 1 || a == r);
            self.rule(
                fits,
                || format!("`%{}` of extents {:?} in a map of extents {shape:?}", arg.name, arg.shape),
                "operands have the result's rank, and its extents or 1",
            )?;
            self.types(var.ty == arg.dtype, var.ty, &format!("`{}`", var.name), arg.dtype.name())?;
            self.variable(var)?;
        }
        self.body(body)?;
        for (e, id) in results.iter().zip(&stmt.results) {
            let result = self.value(*id)?;
            self.scalar(e, &format!("the element of `%{}`", result.name), result.dtype)?;
            self.rule(
                result.shape == *shape,
                || format!("results of extents {shape:?} and {:?}", result.shape),
                "all results of a map have the same extents",
            )?;
        }
        self.scope = outer;
        Ok(())
    }

    /// Scalar statements of a map or a place.
    fn body(&mut self, body: &[Scalar]) -> Result<()> {
        for scalar in body {
            match scalar {
                Scalar::Bind { var, value } => {
                    self.scalar(value, &format!("the value of `{}`", var.name), var.ty)?;
                    self.variable(var)?;
                }
                Scalar::Check { violated, fault, code } => {
                    self.scalar(violated, "the condition of `check`", DType::Bool)?;
                    self.scalar(code, "the code of `check`", DType::I32)?;
                    self.access(fault, Access::Write)?;
                    self.rule(
                        fault.dtype == DType::I32 && fault.shape.len() == 1,
                        || format!("faults are noted in {}[rank {}]", fault.dtype, fault.shape.len()),
                        "note them in an i32 tensor of one axis",
                    )?;
                }
            }
        }
        Ok(())
    }

    fn reduce(&self, result: &Value, op: ReduceOp, value: &Value, axis: usize) -> Result<()> {
        let mut shape = value.shape.clone();
        match shape.get_mut(axis) {
            Some(extent) => {
                // What is left divides the extent.
                let left = result.shape.get(axis).copied().filter(|left| *left > 0 && extent.is_multiple_of(*left));
                *extent = left.unwrap_or(1);
            }
            None => return self.fail(format!("axis {axis} of a tile of rank {}", shape.len()), "name an axis it has"),
        }
        self.scalars().reduces(op, value.dtype.into(), &format!("`%{}` ({})", value.name, self.place))?;
        self.alike(result, &Value { shape, ..value.clone() }, "the result")
    }

    fn cluster_reduce(&self, stmt: &Stmt, of: &[(ReduceOp, ValueId)]) -> Result<()> {
        self.results(stmt, of.len())?;
        self.rule(!of.is_empty(), || "nothing is combined".to_owned(), "name a tile")?;
        for ((op, value), result) in of.iter().zip(&stmt.results) {
            let (value, result) = (self.value(*value)?, self.value(*result)?);
            self.scalars().reduces(*op, value.dtype.into(), &format!("`%{}` ({})", value.name, self.place))?;
            self.alike(result, value, "the result")?;
        }
        self.rule(
            self.nested == 1,
            || "it stands inside of a statement".to_owned(),
            "let it stand in no loop, branch or role, so that every CTA of the cluster comes to it",
        )?;
        let Schedule { cluster, across, persistent, raster, .. } = self.program.schedule;
        let last = cluster == 1 || across || self.program.domain.len() <= 1;
        let extent = self.program.domain.last().map_or(Expr::index(1), |axis| axis.extent.clone());
        let whole = Facts::of(&self.program.params).multiple(&extent) % i128::from(cluster) == 0;
        self.rule(
            whole && last && !persistent && raster <= 1,
            || format!("CTAs that do not follow each other in whole clusters of {cluster} along the last axis"),
            "give that axis a multiple of the cluster's CTAs, which are neighbours `across`, without raster or persistence",
        )
    }

    fn operand(&self, operand: &Operand) -> Result<Value> {
        match operand {
            Operand::Tile(id) => self.value(*id).cloned(),
            Operand::Shared(slot) => {
                let level = self.program.level;
                let help = "the schedule puts operands into shared memory";
                self.rule(level >= Level::Scheduled, || "a shared operand at level tile".to_owned(), help)?;
                self.slot(slot)
            }
        }
    }

    fn dot(&mut self, stmt: &Stmt, a: &Operand, b: &Operand, acc: ValueId) -> Result<()> {
        let result = self.result(stmt)?;
        let sum = self.value(acc)?;
        let (a, b) = (self.operand(a)?, self.operand(b)?);
        let agree = matches!((&a.shape[..], &b.shape[..], &sum.shape[..]),
            ([m, k], [depth, n], [rows, cols]) if (m, n, k) == (rows, cols, depth));
        self.rule(
            agree,
            || format!("dot of {:?} by {:?} into {:?}", a.shape, b.shape, sum.shape),
            "multiply [M, K] by [K, N] into [M, N]",
        )?;
        // Bytes are multiplied whatever their signs, 8-bit floats whatever their exponents.
        let byte = |dtype: DType| (dtype.bits() == 8 && dtype.is_int(), dtype.is_f8());
        let alike = a.dtype == b.dtype || byte(a.dtype) == byte(b.dtype) && byte(a.dtype) != (false, false);
        self.types(alike, b.dtype, "the right operand", a.dtype.name())?;
        let fits = a.dtype != DType::Bool && sum.dtype == a.dtype.compute();
        self.types(fits, sum.dtype, "the accumulator", "the compute type of the operands")?;
        self.alike(result, sum, "the result")?;
        self.rule(
            !self.around.contains(&acc),
            || format!("`%{}` from outside of the loop is accumulated in every iteration", sum.name),
            "carry it through the loop",
        )?;
        self.spent.insert(acc);
        Ok(())
    }

    fn stored(&mut self, to: &Place, value: ValueId) -> Result<()> {
        let value = self.value(value)?;
        let tensor = to.tensor();
        self.place_of(to, &value.shape, Access::Write)?;
        self.types(value.dtype == tensor.dtype, value.dtype, "the tile", tensor.dtype.name())?;
        self.rule(
            tensor.dtype.bits() >= 8,
            || format!("{} elements share a byte", tensor.dtype),
            "store whole bytes (u8) that hold two of them",
        )
    }

    /// Checks what CTAs hold in turn.
    fn counter(&self, counter: &Buffer, index: &[Expr], value: &Expr) -> Result<()> {
        self.access(counter, Access::Read)?;
        self.access(counter, Access::Write)?;
        self.types(counter.dtype == DType::I32, counter.dtype, "the counter", "i32")?;
        let (found, rank) = (index.len(), counter.shape.len());
        let what = || format!("{found} indices of `{}` of rank {rank}", counter.name);
        self.rule(found == rank, what, "give one for each axis")?;
        index.iter().try_for_each(|i| self.scalar(i, "the index", Type::Index))?;
        self.scalar(value, "the counter's value", Type::Index)
    }

    /// Checks that a tensor is a parameter that may be read, or written.
    fn access(&self, tensor: &Buffer, how: Access) -> Result<()> {
        let name = &tensor.name;
        let forbidden = if how == Access::Read { Access::Write } else { Access::Read };
        match self.access.get(&tensor.id) {
            None => self.fail(format!("`{name}` is no parameter"), "declare it as one"),
            Some(access) if *access == forbidden => {
                let what = if how == Access::Read { "read, but an output" } else { "written, but an input" };
                self.fail(format!("`{name}` is {what}"), "declare its access as read_write")
            }
            Some(_) => Ok(()),
        }
    }

    fn place_of(&mut self, place: &Place, shape: &[u32], how: Access) -> Result<()> {
        let Place::Elements { tensor, axes, body, index, mask } = place else {
            let Place::View(view) = place else { return Ok(()) };
            return self.view(view, shape, how);
        };
        self.access(tensor, how)?;
        self.rule(
            axes.len() == shape.len() && index.len() == tensor.shape.len(),
            || {
                let (axes, rank, tensor) = (axes.len(), index.len(), tensor.shape.len());
                format!("{axes} coordinates of a tile of rank {}, {rank} indices of rank {tensor}", shape.len())
            },
            "give a coordinate for each axis of the tile, an index for each of the tensor",
        )?;
        let outer = self.scope.clone();
        axes.iter().try_for_each(|axis| self.index_variable(axis))?;
        self.body(body)?;
        index.iter().try_for_each(|i| self.scalar(i, "the index", Type::Index))?;
        self.scalar(mask, "the mask", DType::Bool)?;
        self.scope = outer;
        Ok(())
    }

    /// Checks a box that a tile of extents `shape` is read from or written to.
    fn view(&self, view: &View, shape: &[u32], how: Access) -> Result<()> {
        self.access(&view.tensor, how)?;
        let rank = view.tensor.shape.len();
        self.rule(
            [view.origin.len(), view.axes.len(), view.masked.len()] == [rank; 3],
            || {
                let found = [view.origin.len(), view.axes.len(), view.masked.len()];
                format!("a box with {found:?} origins, axes and masks in `{}` of rank {rank}", view.tensor.name)
            },
            "give one of each for every axis of the tensor",
        )?;
        self.rule(
            view.shape == shape,
            || format!("a box of extents {:?} for a tile of {shape:?}", view.shape),
            "make the extents equal",
        )?;
        let mut walked = HashSet::new();
        for axis in view.axes.iter().flatten() {
            self.rule(
                *axis < shape.len() && walked.insert(*axis),
                || format!("axis {axis} of a tile of rank {} walks along an axis of the tensor, or two", shape.len()),
                "let every axis of the tile walk along one axis of the tensor",
            )?;
        }
        for walk in &view.walks {
            self.rule(
                how == Access::Read && walk.axis < shape.len() && walked.insert(walk.axis),
                || {
                    format!(
                        "axis {} of a tile of rank {} walks along several axes of the tensor",
                        walk.axis,
                        shape.len()
                    )
                },
                "let every axis of a tile that is read walk along one axis of the tensor, or along parts of its own",
            )?;
            self.rule(
                walk.parts.iter().all(|part| part.axis < rank && part.step > 0),
                || format!("parts along {:?} in `{}` of rank {rank}", walk.parts, view.tensor.name),
                "let every part move forward along an axis of the tensor",
            )?;
            let scalars = walk.parts.iter().map(|part| &part.extent).chain([&walk.first, &walk.end]);
            scalars.into_iter().try_for_each(|e| self.scalar(e, "the index of a walk", Type::Index))?;
        }
        let still = (0..shape.len()).find(|axis| shape[*axis] != 1 && !walked.contains(axis));
        self.rule(
            how == Access::Read || still.is_none(),
            || format!("axis {still:?} of the tile walks along no axis of the tensor: elements are written many times"),
            "store a tile of extent 1 along that axis",
        )?;
        view.origin.iter().try_for_each(|origin| self.scalar(origin, "the origin", Type::Index))
    }

    /// Checks a slot; gives what a tile of it is.
    fn slot(&self, slot: &Slot) -> Result<Value> {
        let Some(shared) = self.program.shared.get(slot.buffer.0 as usize) else {
            return self.fail(format!("shared buffer {} is not declared", slot.buffer.0), "declare it");
        };
        match &slot.stage {
            Stage::Index(index) => {
                self.scalar(index, "the stage", Type::Index)?;
                let inside = index.as_const().is_none_or(|index| (0..shared.stages.into()).contains(&index));
                let what = || format!("stage {index} of the {} of `{}`", shared.stages, shared.name);
                self.rule(inside, what, "use a stage that it has")?;
            }
            Stage::Cursor(channel) => {
                let level = self.program.level;
                self.rule(
                    level < Level::Async,
                    || "a cursor of a channel at level async".to_owned(),
                    "the async pass gives stages numbers",
                )?;
                let declared = self.program.channels.get(channel.0 as usize);
                self.rule(
                    declared.is_some_and(|channel| channel.buffers.contains(&slot.buffer)),
                    || format!("`{}` at the cursor of a channel that does not have it", shared.name),
                    "use the channel of the buffer",
                )?;
            }
        }
        Ok(Value { name: shared.name.clone(), dtype: shared.dtype, shape: shared.shape.clone(), layout: None })
    }

    fn loop_(&mut self, stmt: &'a Stmt) -> Result<()> {
        let Op::For { var, start, end, step, carried, body, yields, stages } = &stmt.op else { return Ok(()) };
        for (what, e) in [("the start", start), ("the end", end), ("the step", step)] {
            self.scalar(e, what, Type::Index)?;
        }
        let forward = step.as_const().is_none_or(|step| step >= 1);
        self.rule(forward, || format!("a step of {step}"), "count up")?;
        let stages = stages.unwrap_or(1);
        self.rule((1..=32).contains(&stages), || format!("{stages} stages"), "use 1 to 32")?;
        self.results(stmt, carried.len())?;
        self.rule(
            yields.len() == carried.len(),
            || format!("{} tiles are carried, {} are yielded", carried.len(), yields.len()),
            "yield one for each that is carried",
        )?;
        let around = std::mem::replace(&mut self.around, self.tiles.clone());
        let (scope, tiles) = (self.scope.clone(), self.tiles.clone());
        self.index_variable(var)?;
        for ((inside, first), result) in carried.iter().zip(&stmt.results) {
            let first = self.value(*first)?;
            self.alike(self.value(*inside)?, first, "what is carried")?;
            self.alike(self.value(*result)?, first, "the result")?;
            self.define(*inside)?;
        }
        let pairs: Vec<_> = yields.iter().copied().zip(stmt.results.iter().copied()).collect();
        self.block(body, &pairs)?;
        (self.around, self.scope, self.tiles) = (around, scope, tiles);
        Ok(())
    }

    fn roles(&mut self, roles: &'a [Role]) -> Result<()> {
        let several = self.program.body.iter().filter(|stmt| matches!(stmt.op, Op::Roles(_))).count() > 1;
        self.rule(
            self.nested == 1 && !several,
            || "roles inside of a statement, or twice".to_owned(),
            "a program is split into roles once, at its top",
        )?;
        let all = self.threads;
        let mut names = HashSet::new();
        let mut registers = 0;
        for role in roles {
            self.place = format!("role `{}`", role.name);
            self.rule(names.insert(&role.name), || "two roles of one name".to_owned(), "give each its own")?;
            self.rule(
                role.warps > 0 && role.warps.is_multiple_of(4),
                || format!("{} warps", role.warps),
                "a role is made of warpgroups of 4",
            )?;
            if let Some(count) = role.registers {
                self.registers(count)?;
                registers += count * role.all_warps() * 32;
            }
            self.threads = 32 * role.warps;
            let scope = self.scope.clone();
            if let Some((var, count)) = &role.groups {
                self.rule(*count > 0, || "no group runs it".to_owned(), "let one or more")?;
                self.index_variable(var)?;
            }
            self.block(&role.body, &[])?;
            self.scope = scope;
        }
        self.threads = all;
        self.place = "`roles`".to_owned();
        self.rule(registers <= 1 << 16, || format!("{registers} registers of all roles together"), "an SM has 65536")
    }
}
