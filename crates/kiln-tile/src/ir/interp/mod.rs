//! Runs a tile program of any level up to [`Level::LaidOut`] on the CPU, one cluster after another (usually a CTA): the oracle that every pass and all
//! generated code are compared with. Schedules, roles, channels, instructions and layouts change no value.
//!
//! * Scalars are those of [`crate::interp`]: floats are computed in f64 and rounded to their type at every value.
//! * A reduction and a dot sum in f64 and round once, at the end of the statement; integers are exact and wrap.
//! * An element outside of a tensor loads as the fill and is not stored where its axis is masked. Where the axis is not, the access is
//!   [`TileError::OutOfBounds`]: what was proved is wrong.
//! * Roles are coroutines: one runs until its channel has no slot for it. A copy has arrived when it has started. When no role can go on, that is
//!   [`TileError::Deadlock`]. So are the CTAs of a cluster: each runs until it meets the others.
//! * Nothing has a value before it is written: tiles, variables, and slots of shared memory, which lose theirs when they are released. What reads
//!   such a thing, or an accumulator that a dot took, is [`TileError::Undefined`].

mod fiber;
mod tile;

use super::{ChannelId, Grid, Level, Op, Operand, Place, Program, Role, Slot, Stage, Stmt, ValueId};
use crate::dtype::{DType, Scalar};
use crate::error::{Result, TileError};
use crate::expr::{Expr, Var};
use crate::interp::{Arg, State};
use crate::ir;
use fiber::{Fiber, Frame, Held, Then, Wait, progress};
use std::num::NonZeroU32;
use std::rc::Rc;
use tile::{Argument, Elements};

/// Runs `program` on `args`, one for each parameter in order; a persistent grid is 3 CTAs. It must have passed
/// [`verify`](super::verify).
///
/// # Errors
/// Arguments that do not fit, and what the program does wrong: see the module.
pub fn run(program: &Program, args: &mut [Arg]) -> Result<()> {
    run_on(program, NonZeroU32::MIN.saturating_add(2), args)
}

/// [`run`] with at most so many CTAs, or whole clusters of them, in a persistent grid.
///
/// # Errors
/// Those of [`run`].
pub fn run_on(program: &Program, ctas: NonZeroU32, args: &mut [Arg]) -> Result<()> {
    let mut state = State::new(&program.name);
    state.bind_args(&program.params, args)?;
    if let Grid::Persistent { count, points, .. } = &program.grid {
        let points = state.index(points)?;
        let ctas = ctas.get().next_multiple_of(program.schedule.cluster);
        state.set(count, Scalar::Int(points.min(ctas.into())));
    }
    let extents: Vec<i128> = program.domain.iter().map(|axis| state.index(&axis.extent)).collect::<Result<_>>()?;
    let launched = state.vars.clone();
    let mut machine = Machine { program, state, slots: vec![] };
    let points: i128 = extents.iter().product();
    let cluster = program.schedule.cluster.max(1);
    for first in (0..points).step_by(cluster as usize) {
        let points = first..points.min(first + i128::from(cluster));
        let ctas = points.map(|point| machine.cta(&launched, &extents, point)).collect();
        machine.cluster(ctas)?;
    }
    machine.state.give_back(&program.params, args);
    Ok(())
}

/// A CTA: all that it runs, and its shared memory while another one runs.
struct Cta<'p> {
    fiber: Fiber<'p>,
    slots: Vec<Vec<Option<Elements>>>,
}

/// One CTA at a time: the variables of the role that is running, global and shared memory.
struct Machine<'p> {
    program: &'p Program,
    state: State,
    /// By shared buffer and stage; `None`: not written since it was last released.
    slots: Vec<Vec<Option<Elements>>>,
}

impl<'p> Machine<'p> {
    /// The CTA of a point of the domain, of these extents.
    fn cta(&mut self, launched: &[Option<Scalar>], extents: &[i128], mut point: i128) -> Cta<'p> {
        let program = self.program;
        self.state.vars = launched.to_vec();
        for (axis, extent) in program.domain.iter().zip(extents).rev() {
            self.state.set(&axis.var, Scalar::Int(point % extent));
            point /= extent;
        }
        let slots = program.shared.iter().map(|shared| vec![None; shared.stages as usize]).collect();
        Cta { fiber: Fiber::new(program, &program.name, &program.body, self.state.vars.clone()), slots }
    }

    /// Runs the CTAs of a cluster, each until it has to wait for the others, until all have ended.
    fn cluster(&mut self, mut ctas: Vec<Cta<'p>>) -> Result<()> {
        loop {
            for cta in &mut ctas {
                std::mem::swap(&mut self.slots, &mut cta.slots);
                self.resume(std::slice::from_mut(&mut cta.fiber), 0)?;
                std::mem::swap(&mut self.slots, &mut cta.slots);
            }
            if ctas.iter().all(|cta| cta.fiber.frames.is_empty()) {
                return Ok(());
            }
            self.meet(&mut ctas)?;
        }
    }

    /// Combines what the CTAs of a cluster have, which have all come to the same statement.
    fn meet(&mut self, ctas: &mut [Cta<'p>]) -> Result<()> {
        let mut stand = ctas.iter().map(|cta| cta.fiber.stands());
        let first = stand.next().flatten();
        let together = stand.all(|stmt| stmt.map(std::ptr::from_ref) == first.map(std::ptr::from_ref));
        let (Some(stmt @ Stmt { op: Op::ClusterReduce { of }, .. }), true) = (first, together) else {
            let waits = ctas.iter().map(|cta| cta.fiber.describe(self.program)).collect();
            return Err(TileError::Deadlock { kernel: self.program.name.clone(), waits });
        };
        for ((op, value), result) in of.iter().zip(&stmt.results) {
            let (dtype, count) = (self.program.value(*value).dtype, tile::count(self.shape(*value)) as u32);
            let mut all = vec![];
            for cta in ctas.iter() {
                all.extend_from_slice(&self.tile(&cta.fiber, *value)?);
            }
            let shapes = (&[ctas.len() as u32, count][..], &[1, count][..]);
            let combined: Elements = tile::reduce(&self.state, *op, dtype, &all, shapes, 0)?.into();
            ctas.iter_mut().for_each(|cta| cta.fiber.define(*result, combined.clone()));
        }
        ctas.iter_mut().filter_map(|cta| cta.fiber.frames.last_mut()).for_each(|frame| frame.next += 1);
        Ok(())
    }

    /// Runs fibers, each until it has to wait, until all have ended.
    fn until_done(&mut self, fibers: &mut [Fiber<'p>]) -> Result<()> {
        while fibers.iter().any(|fiber| !fiber.frames.is_empty()) {
            let mut moved = false;
            for who in 0..fibers.len() {
                moved |= self.resume(fibers, who)?;
            }
            if !moved {
                let waits = fibers.iter().map(|fiber| fiber.describe(self.program)).collect();
                return Err(TileError::Deadlock { kernel: self.program.name.clone(), waits });
            }
        }
        Ok(())
    }

    /// Runs one fiber until it has to wait; whether it came any further.
    fn resume(&mut self, fibers: &mut [Fiber<'p>], who: usize) -> Result<bool> {
        let mut moved = false;
        std::mem::swap(&mut self.state.vars, &mut fibers[who].vars);
        while let Some(frame) = fibers[who].frames.last_mut() {
            let block = frame.block;
            if let Some(stmt) = block.get(frame.next) {
                if let Some(wait) = self.wait(fibers, who, &stmt.op) {
                    fibers[who].waits = Some(wait);
                    break;
                }
                if let Some(frame) = fibers[who].frames.last_mut() {
                    frame.next += 1;
                }
                self.stmt(fibers, who, stmt)?;
            } else {
                self.leave(&mut fibers[who])?;
            }
            moved = true;
        }
        std::mem::swap(&mut self.state.vars, &mut fibers[who].vars);
        Ok(moved)
    }

    /// What a statement has to wait for.
    fn wait(&self, fibers: &[Fiber<'p>], who: usize, op: &Op) -> Option<Wait> {
        match op {
            Op::Acquire(channel) => {
                let stages = u64::from(self.program.channel(*channel).stages);
                let taken = fibers[who].cursor(*channel).published >= progress(fibers, *channel).released + stages;
                taken.then_some(Wait::Free(*channel))
            }
            Op::Receive(channel) => {
                let empty = fibers[who].cursor(*channel).received >= progress(fibers, *channel).published;
                empty.then_some(Wait::Full(*channel))
            }
            Op::ClusterReduce { .. } => Some(Wait::Cluster),
            _ => None,
        }
    }

    /// Ends the block of the innermost frame.
    fn leave(&mut self, fiber: &mut Fiber<'p>) -> Result<()> {
        let Some(mut frame) = fiber.frames.pop() else { return Ok(()) };
        match &mut frame.then {
            Then::End => Ok(()),
            Then::Yield { yields, results } => self.rename(fiber, yields, results),
            Then::Again { stmt, next, end, step } => {
                let Op::For { var, carried, yields, .. } = &stmt.op else { return Ok(()) };
                if *next >= *end {
                    return self.rename(fiber, yields, &stmt.results);
                }
                let inside: Vec<ValueId> = carried.iter().map(|(inside, _)| *inside).collect();
                self.rename(fiber, yields, &inside)?;
                self.state.set(var, Scalar::Int(*next));
                *next += *step;
                frame.next = 0;
                fiber.frames.push(frame);
                Ok(())
            }
        }
    }

    fn invalid<T>(&self, what: String, place: &str, help: &str) -> Result<T> {
        let (kernel, place, help) = (self.program.name.clone(), place.to_owned(), help.to_owned());
        Err(TileError::Invalid { kernel, what, place, help })
    }

    fn undefined<T>(&self, what: String) -> Result<T> {
        Err(TileError::Undefined { kernel: self.program.name.clone(), what })
    }

    fn shape(&self, value: ValueId) -> &'p [u32] {
        &self.program.value(value).shape
    }

    fn tile(&self, fiber: &Fiber<'p>, value: ValueId) -> Result<Elements> {
        let name = &self.program.value(value).name;
        match &fiber.tiles[value.0 as usize] {
            Held::Tile(elements) => Ok(elements.clone()),
            Held::Nothing => self.undefined(format!("tile `{name}` (%{}) has no value here", value.0)),
            Held::Taken => {
                self.undefined(format!("tile `{name}` (%{}) was accumulated into by a dot and is used again", value.0))
            }
        }
    }

    /// Gives `to` the values of `from`, at once.
    fn rename(&self, fiber: &mut Fiber<'p>, from: &[ValueId], to: &[ValueId]) -> Result<()> {
        let tiles: Vec<Elements> = from.iter().map(|value| self.tile(fiber, *value)).collect::<Result<_>>()?;
        to.iter().zip(tiles).for_each(|(value, tile)| fiber.define(*value, tile));
        Ok(())
    }

    /// Buffer and stage of a slot.
    fn slot(&self, fiber: &Fiber<'p>, slot: &Slot) -> Result<(usize, usize)> {
        let shared = self.program.shared(slot.buffer);
        let place = || format!("role `{}`, shared buffer `{}`", fiber.name, shared.name);
        let stage = match &slot.stage {
            Stage::Index(stage) => self.state.index(stage)?,
            Stage::Cursor(channel) => {
                let declared = self.program.channel(*channel);
                let Some(number) = fiber.cursor(*channel).slot() else {
                    let what = format!("channel `{}` has no slot here", declared.name);
                    let help = "use it between Acquire and Publish, or between Receive and Release";
                    return self.invalid(what, &place(), help);
                };
                (number % u64::from(declared.stages)).into()
            }
        };
        let stages = self.slots[slot.buffer.0 as usize].len();
        match usize::try_from(stage) {
            Ok(stage) if stage < stages => Ok((slot.buffer.0 as usize, stage)),
            _ => self.invalid(format!("stage {stage} of {stages}"), &place(), "give the buffer as many as are used"),
        }
    }

    fn read_slot(&self, fiber: &Fiber<'p>, slot: &Slot) -> Result<Elements> {
        let (buffer, stage) = self.slot(fiber, slot)?;
        match &self.slots[buffer][stage] {
            Some(elements) => Ok(elements.clone()),
            None => {
                let (name, role) = (&self.program.shared(slot.buffer).name, &fiber.name);
                self.undefined(format!(
                    "stage {stage} of shared buffer `{name}` is read by `{role}` and was not written"
                ))
            }
        }
    }

    fn write_slot(&mut self, fiber: &Fiber<'p>, slot: &Slot, elements: Elements) -> Result<()> {
        let (buffer, stage) = self.slot(fiber, slot)?;
        self.slots[buffer][stage] = Some(elements);
        Ok(())
    }

    fn operand(&self, fiber: &Fiber<'p>, operand: &Operand) -> Result<(Elements, &'p [u32])> {
        match operand {
            Operand::Tile(value) => Ok((self.tile(fiber, *value)?, self.shape(*value))),
            Operand::Shared(slot) => Ok((self.read_slot(fiber, slot)?, &self.program.shared(slot.buffer).shape)),
        }
    }

    fn asynchronous<T>(&self, what: &str) -> Result<T> {
        let what = format!("{what} is of level {:?}, which is not interpreted", Level::Async);
        self.invalid(what, "interpreter", "interpret the program before the async pass, or simulate its PTX")
    }

    fn stmt(&mut self, fibers: &mut [Fiber<'p>], who: usize, stmt: &'p Stmt) -> Result<()> {
        let fiber = &mut fibers[who];
        match &stmt.op {
            Op::Bind { var, value, .. } => self.state.bind(var, value),
            Op::Full { value } => {
                let element = self.state.eval(value)?;
                self.define(fiber, stmt, |_, dtype, shape| Ok(vec![element.cast(dtype); tile::count(shape)]))
            }
            Op::Load { from, fill } => self.define(fiber, stmt, |state, _, shape| tile::load(state, from, shape, fill)),
            Op::Map { axes, args, body, results } => self.map(fiber, stmt, axes, args, (body, results)),
            Op::Reduce { op, value, axis } => {
                let (elements, from) = (self.tile(fiber, *value)?, self.shape(*value));
                self.define(fiber, stmt, |state, dtype, to| {
                    tile::reduce(state, *op, dtype, &elements, (from, to), *axis)
                })
            }
            // What the cluster does together.
            Op::ClusterReduce { .. } => Ok(()),
            Op::Transpose { value, perm } => {
                let (elements, from) = (self.tile(fiber, *value)?, self.shape(*value));
                self.define(fiber, stmt, |_, _, _| tile::transpose(&elements, from, perm))
            }
            Op::Dot { a, b, acc, tf32, .. } => {
                let ((a, [m, k]), (b, [_, n])) = (self.operand(fiber, a)?, self.operand(fiber, b)?) else {
                    return self.invalid("operands of a dot have two axes".into(), "dot", "give it matrices");
                };
                let extents = [*m, *n, *k].map(|extent| extent as usize);
                let mut sums = self.tile(fiber, *acc)?;
                fiber.tiles[acc.0 as usize] = Held::Taken;
                let dtype = self.program.value(*acc).dtype;
                tile::dot(Rc::make_mut(&mut sums).as_mut_slice(), dtype, [&a, &b], extents, *tf32);
                stmt.results.iter().for_each(|result| fiber.define(*result, sums.clone()));
                Ok(())
            }
            Op::Store { to, value } => {
                let (elements, shape) = (self.tile(fiber, *value)?, self.shape(*value));
                tile::store(&mut self.state, to, shape, &elements)
            }
            Op::Atomic { op, to, value } => {
                let (elements, shape) = (self.tile(fiber, *value)?, self.shape(*value));
                tile::atomic(&mut self.state, *op, to, shape, &elements)
            }
            Op::Await { counter, index, value } => {
                let (at, wanted) = (self.state.indices(index)?, self.state.index(value)?);
                let found = self.state.read(counter, &at)?.as_i128();
                if found == wanted {
                    return Ok(());
                }
                // CTAs run one after another: nobody else will change it.
                let name = &counter.name;
                let waits = vec![format!("`{}` waits for `{name}`{at:?} to be {wanted}; it is {found}", fiber.name)];
                Err(TileError::Deadlock { kernel: self.program.name.clone(), waits })
            }
            Op::Signal { counter, index, value } => {
                let (at, value) = (self.state.indices(index)?, self.state.eval(value)?);
                self.state.write(counter, &at, value)
            }
            Op::For { start, end, step, .. } => {
                let bounds = [self.state.index(start)?, self.state.index(end)?, self.state.index(step)?];
                self.enter_loop(fiber, stmt, bounds)
            }
            Op::If { cond, then, otherwise } => {
                let (block, yields) = if self.state.holds(cond)? { then } else { otherwise };
                fiber.frames.push(Frame::new(block, Then::Yield { yields, results: &stmt.results }));
                Ok(())
            }
            Op::Roles(roles) => self.roles(fiber, roles),
            Op::Acquire(channel) => self.acquire(fiber, *channel, true),
            Op::Publish(channel) => self.acquire(fiber, *channel, false),
            Op::Receive(channel) => {
                fiber.cursor_mut(*channel).received += 1;
                Ok(())
            }
            Op::Release(channel) => self.release(fibers, who, *channel),
            Op::Skip { channel, slots } => {
                let slots = self.state.index(slots)?.max(0) as u64;
                let cursor = fibers[who].cursor_mut(*channel);
                cursor.received += slots;
                cursor.released += slots;
                Ok(())
            }
            Op::Copy { from, to, .. } => {
                let fill = Expr::int(from.tensor.dtype, 0);
                let elements = tile::load(&mut self.state, &Place::View(from.clone()), &from.shape, &fill)?;
                self.write_slot(fiber, to, elements.into())
            }
            Op::SharedLoad { from } => {
                let elements = self.read_slot(fiber, from)?;
                stmt.results.iter().for_each(|result| fiber.define(*result, elements.clone()));
                Ok(())
            }
            Op::SharedStore { to, value } => self.write_slot(fiber, to, self.tile(fiber, *value)?),
            Op::CopyOut { from, to } => {
                let elements = self.read_slot(fiber, from)?;
                tile::store(&mut self.state, &Place::View(to.clone()), &to.shape, &elements)
            }
            // A fiber is all threads of its role; roles wait for each other at channels.
            Op::Sync | Op::NamedBarrier { .. } => Ok(()),
            Op::Convert { value } => self.rename(fiber, &[*value], &stmt.results),
            Op::Assign { .. } => self.asynchronous("an assignment"),
            Op::Elected(_) => self.asynchronous("an elected thread"),
            Op::Expect { .. } | Op::Arrive { .. } | Op::Wait { .. } => self.asynchronous("an mbarrier"),
            Op::Commit(_) | Op::WaitGroup { .. } => self.asynchronous("a group"),
            Op::Fence(_) => self.asynchronous("a fence"),
            Op::Turn(_) => self.asynchronous("a barrier"),
            Op::ClusterSync | Op::ClusterArrive | Op::ClusterWait => self.asynchronous("a cluster's barrier"),
            Op::ClusterLoad { .. } => self.asynchronous("another CTA's memory"),
            Op::SetRegisters { .. } => self.asynchronous("a register count"),
        }
    }

    /// Computes the only result of a statement from its type and extents.
    fn define(
        &mut self,
        fiber: &mut Fiber<'p>,
        stmt: &Stmt,
        compute: impl FnOnce(&mut State, DType, &[u32]) -> Result<Vec<Scalar>>,
    ) -> Result<()> {
        let [result] = stmt.results[..] else {
            return self.invalid(format!("{} results of one", stmt.results.len()), "statement", "name one tile");
        };
        let value = self.program.value(result);
        let elements = compute(&mut self.state, value.dtype, &value.shape)?;
        fiber.define(result, elements.into());
        Ok(())
    }

    fn map(
        &mut self,
        fiber: &mut Fiber<'p>,
        stmt: &Stmt,
        axes: &[Var],
        args: &'p [(Var, ValueId)],
        (body, results): (&[ir::Scalar], &[Expr]),
    ) -> Result<()> {
        let argument = |(var, value): &'p (Var, ValueId)| {
            Ok(Argument { var, elements: self.tile(fiber, *value)?, shape: self.shape(*value) })
        };
        let args: Vec<Argument<'p>> = args.iter().map(argument).collect::<Result<_>>()?;
        let shape = stmt.results.first().map_or(&[][..], |result| self.shape(*result));
        let tiles = tile::map(&mut self.state, shape, axes, &args, body, results)?;
        stmt.results.iter().zip(tiles).for_each(|(result, tile)| fiber.define(*result, tile.into()));
        Ok(())
    }

    fn enter_loop(&mut self, fiber: &mut Fiber<'p>, stmt: &'p Stmt, [start, end, step]: [i128; 3]) -> Result<()> {
        let Op::For { var, carried, body, .. } = &stmt.op else { return Ok(()) };
        if step < 1 {
            return self.invalid(format!("a step of {step}"), &format!("loop over `{}`", var.name), "count upwards");
        }
        let (inside, first): (Vec<ValueId>, Vec<ValueId>) = carried.iter().copied().unzip();
        if start >= end {
            return self.rename(fiber, &first, &stmt.results);
        }
        self.rename(fiber, &first, &inside)?;
        self.state.set(var, Scalar::Int(start));
        fiber.frames.push(Frame::new(body, Then::Again { stmt, next: start + step, end, step }));
        Ok(())
    }

    fn roles(&mut self, fiber: &mut Fiber<'p>, roles: &'p [Role]) -> Result<()> {
        let mut fibers: Vec<Fiber<'p>> = vec![];
        for role in roles {
            for group in 0..role.group_count() {
                if let Some((var, _)) = &role.groups {
                    self.state.set(var, Scalar::Int(group.into()));
                }
                fibers.push(fiber.role(&role.name, &role.body, &self.state.vars));
            }
        }
        self.until_done(&mut fibers)?;
        fiber.join(&fibers);
        Ok(())
    }

    fn acquire(&self, fiber: &mut Fiber<'p>, channel: ChannelId, acquire: bool) -> Result<()> {
        let cursor = fiber.cursor_mut(channel);
        if cursor.acquired == acquire {
            let (what, name) = (if acquire { "acquired" } else { "published" }, &self.program.channel(channel).name);
            let what = format!("a slot of channel `{name}` is {what} twice");
            return self.invalid(what, &format!("role `{}`", fiber.name), "acquire and publish in turn");
        }
        cursor.acquired = acquire;
        cursor.published += u64::from(!acquire);
        Ok(())
    }

    fn release(&mut self, fibers: &mut [Fiber<'p>], who: usize, channel: ChannelId) -> Result<()> {
        let declared = self.program.channel(channel);
        let cursor = fibers[who].cursor_mut(channel);
        let number = cursor.released;
        if cursor.received != number + 1 {
            let what = format!(
                "channel `{}`: released when {} slots were received and {number} released",
                declared.name, cursor.received
            );
            let place = format!("role `{}`", fibers[who].name);
            return self.invalid(what, &place, "release each slot once, in order");
        }
        cursor.released += 1;
        if progress(fibers, channel).released > number {
            let stage = (number % u64::from(declared.stages)) as usize;
            for buffer in &declared.buffers {
                self.slots[buffer.0 as usize][stage] = None;
            }
        }
        Ok(())
    }
}
