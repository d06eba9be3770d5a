//! What the threads of a role do in one launch, in order: control is followed, scalars are computed.

use super::launches::Launch;
use super::{Finding, Scene};
use crate::dtype::Scalar;
use crate::error::Result;
use crate::expr::{Expr, Var};
use crate::interp::State;
use crate::ir::{
    Arriver, BarrierId, Block, CopyKind, Fence, Group, Op, Operand, Program, Role, Slot, Stage, Stmt, Turn, ValueId,
};
use crate::lower::{LAST_BARRIER, Storage, overwritten};
use std::collections::HashSet;

/// One thing that the threads of a role do.
pub(super) struct Event<'a> {
    pub stmt: &'a Stmt,
    /// Whether one thread does it.
    pub elected: bool,
    pub act: Act,
}

/// What is done. Slots, barriers and registers are numbered through the program.
pub(super) enum Act {
    Wait {
        barrier: usize,
        parity: i128,
    },
    Expect {
        barrier: usize,
        bytes: i64,
    },
    Arrive {
        barrier: usize,
        by: Arriver,
        everywhere: bool,
    },
    /// A copy by the tensor memory accelerator.
    Bring {
        slot: usize,
        barrier: usize,
        bytes: i64,
        /// Of a part, for every CTA of the cluster: where the box is, as far as that does not depend on data.
        multicast: Option<Vec<Option<i128>>>,
    },
    /// A copy by `cp.async`.
    Copy {
        slot: usize,
    },
    Load {
        slot: usize,
    },
    /// A read of the slot in every CTA of the cluster.
    Gather {
        slot: usize,
    },
    Store {
        slot: usize,
    },
    /// A bulk store.
    Out {
        slot: usize,
    },
    /// An asynchronous product: the slots that it reads, registers of its left operand and of its sum.
    Product {
        slots: Vec<usize>,
        left: Option<usize>,
        sum: usize,
    },
    /// Ordinary use of registers.
    Use(Vec<usize>),
    Commit(Group),
    WaitGroup {
        group: Group,
        pending: u32,
    },
    Fence(Fence),
    Meet {
        id: usize,
        threads: u32,
        wait: bool,
    },
    /// Arrives at the cluster's barrier, or waits for the round that it has arrived in.
    ClusterArrive {
        threads: u32,
    },
    ClusterWait,
    Turn(Turn),
    SetRegisters {
        count: u32,
        increase: bool,
    },
}

/// The threads of a CTA, or of one of its roles, in one launch.
pub(super) struct Trace<'a> {
    /// The CTA's place in its cluster.
    pub cta: usize,
    pub name: &'a str,
    pub warps: u32,
    pub events: Vec<Event<'a>>,
}

/// What is the same in all launches.
pub(super) struct Plan {
    storage: Storage,
    overwritten: HashSet<ValueId>,
    /// Number of the first slot of each buffer, of the first barrier of each ring; then how many there are.
    slots: Vec<usize>,
    barriers: Vec<usize>,
    /// Whether there are asynchronous products.
    pub products: bool,
    /// Whether warpgroups have to be told apart.
    pub warpgroups: bool,
}

/// Named barriers of a CTA.
pub(super) const NAMED: usize = 16;

impl Plan {
    pub fn of(program: &Program) -> Result<Plan> {
        let numbers = |stages: Vec<u32>| {
            let mut firsts = vec![0];
            stages.iter().for_each(|stages| firsts.push(firsts[firsts.len() - 1] + *stages as usize));
            firsts
        };
        let mut products = false;
        let mut turns = false;
        for stmt in &program.body {
            stmt.walk(&mut |stmt| {
                products |= is_product(&stmt.op);
                turns |= matches!(stmt.op, Op::Turn(_));
            });
        }
        let by_group = program.barriers.iter().any(|barrier| barrier.by == Arriver::Warpgroup);
        Ok(Plan {
            storage: Storage::of(program)?,
            overwritten: overwritten(program),
            slots: numbers(program.shared.iter().map(|shared| shared.stages).collect()),
            barriers: numbers(program.barriers.iter().map(|barrier| barrier.stages).collect()),
            products,
            warpgroups: products || turns || by_group,
        })
    }

    pub fn slot_count(&self) -> usize {
        self.slots.last().copied().unwrap_or(0)
    }

    pub fn barrier_count(&self) -> usize {
        self.barriers.last().copied().unwrap_or(0)
    }

    /// What a slot is called.
    pub fn slot_name(&self, program: &Program, slot: usize) -> String {
        let (which, stage) = place(&self.slots, slot);
        program.shared.get(which).map_or(String::new(), |shared| format!("`{}[{stage}]`", shared.name))
    }

    pub fn barrier_name(&self, program: &Program, barrier: usize) -> String {
        let (which, stage) = place(&self.barriers, barrier);
        program.barriers.get(which).map_or(String::new(), |ring| format!("`{}[{stage}]`", ring.name))
    }

    /// The arrivals that each barrier counts.
    pub fn counts(&self, program: &Program) -> Vec<u32> {
        program.barriers.iter().flat_map(|ring| (0..ring.stages).map(|_| ring.count)).collect()
    }
}

fn place(firsts: &[usize], number: usize) -> (usize, usize) {
    let which = firsts.iter().rposition(|first| *first <= number).unwrap_or(0);
    (which, number - firsts[which])
}

/// Whether a statement is a product that runs on its own.
fn is_product(op: &Op) -> bool {
    matches!(op, Op::Dot { atom: Some(atom), .. } if atom.starts_with("wgmma"))
}

/// Whether a block does nothing that has to be ordered: it touches neither shared memory nor barriers, and its threads keep to themselves.
pub(super) fn is_inert(block: &Block) -> bool {
    block.iter().all(|stmt| match &stmt.op {
        Op::Bind { .. }
        | Op::Full { .. }
        | Op::Load { .. }
        | Op::Map { .. }
        | Op::Reduce { .. }
        | Op::Transpose { .. }
        | Op::Convert { .. }
        | Op::Store { .. }
        | Op::Atomic { .. } => true,
        Op::Dot { a, b, .. } => !is_product(&stmt.op) && matches!((a, b), (Operand::Tile(_), Operand::Tile(_))),
        Op::For { .. } | Op::If { .. } => stmt.op.blocks().into_iter().all(is_inert),
        _ => false,
    })
}

/// The roles of a program, or all of it as one, of each CTA of a cluster in a launch.
pub(super) fn roles<'a>(scene: Scene<'a>, plan: &'a Plan, launch: &Launch) -> Result<Vec<Trace<'a>>> {
    let program = scene.program;
    let roles = program.body.iter().find_map(|stmt| if let Op::Roles(roles) = &stmt.op { Some(roles) } else { None });
    let of = |rank: u32, role: Option<(usize, &'a Role)>, group: u32| {
        let mut state = launch.cta(scene, rank)?;
        if let Some((var, _)) = role.and_then(|(_, role)| role.groups.as_ref()) {
            state.set(var, Scalar::Int(group.into()));
        }
        let name = role.map_or("", |(_, role)| &*role.name);
        let mut tracer = Tracer { scene, plan, state, role, within: false, elected: false, events: vec![], name };
        tracer.block(&program.body)?;
        let warps = role.map_or(program.schedule.warps, |(_, role)| role.warps);
        Ok(Trace { name, cta: rank as usize, warps, events: tracer.events })
    };
    // Every group of a role is a role of its own here.
    let groups = |role: &'a Role| (0..role.group_count()).map(move |group| (role, group));
    let ctas = (0..program.schedule.cluster).map(|rank| match roles {
        Some(roles) => {
            let all = roles.iter().flat_map(groups).enumerate();
            all.map(|(number, (role, group))| of(rank, Some((number, role)), group)).collect()
        }
        None => Ok(vec![of(rank, None, 0)?]),
    });
    Ok(ctas.collect::<Result<Vec<Vec<Trace<'a>>>>>()?.into_iter().flatten().collect())
}

struct Tracer<'a> {
    scene: Scene<'a>,
    plan: &'a Plan,
    state: State,
    role: Option<(usize, &'a Role)>,
    /// Whether the role's own block is being followed.
    within: bool,
    elected: bool,
    events: Vec<Event<'a>>,
    name: &'a str,
}

impl<'a> Tracer<'a> {
    fn fail<T>(&self, finding: Finding, stmt: &Stmt, what: String) -> Result<T> {
        self.scene.fail(finding, self.name, Some(stmt), what)
    }

    fn push(&mut self, stmt: &'a Stmt, act: Act) {
        // What one thread of all does, one of the first role does.
        if self.elected && !self.within && self.role.is_some_and(|(number, _)| number > 0) {
            return;
        }
        self.events.push(Event { stmt, elected: self.elected, act });
    }

    /// A scalar that decides what is done.
    fn scalar(&self, stmt: &Stmt, e: &Expr) -> Result<i128> {
        match self.state.index(e) {
            Ok(value) => Ok(value),
            Err(e) => self.fail(Finding::Control, stmt, format!("it depends on data: {e}")),
        }
    }

    /// A variable gets a value, or none if that is data.
    fn set(&mut self, var: &Var, value: &Expr) {
        match self.state.eval(value) {
            Ok(value) => self.state.set(var, value),
            Err(_) => self.unset(var),
        }
    }

    fn unset(&mut self, var: &Var) {
        if let Some(value) = self.state.vars.get_mut(var.id as usize) {
            *value = None;
        }
    }

    fn block(&mut self, block: &'a Block) -> Result<()> {
        block.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    fn registers(&self, value: ValueId) -> usize {
        self.plan.storage.class(value)
    }

    fn uses(&mut self, stmt: &'a Stmt, values: impl IntoIterator<Item = ValueId>) {
        if self.plan.products {
            let registers: Vec<usize> = values.into_iter().map(|value| self.registers(value)).collect();
            if !registers.is_empty() {
                self.push(stmt, Act::Use(registers));
            }
        }
    }

    /// Tiles get other names, and are moved where those have other registers.
    fn hand_over(&mut self, stmt: &'a Stmt, from: &[ValueId], to: &[ValueId]) {
        let moved = from.iter().zip(to).filter(|(from, to)| self.registers(**from) != self.registers(**to));
        let moved: Vec<ValueId> = moved.flat_map(|(from, to)| [*from, *to]).collect();
        self.uses(stmt, moved);
    }

    fn slot(&self, stmt: &Stmt, slot: &Slot) -> Result<usize> {
        let Stage::Index(stage) = &slot.stage else {
            return self.fail(Finding::Place, stmt, "a channel's cursor, expected a stage".to_owned());
        };
        let shared = self.scene.program.shared(slot.buffer);
        let stage = self.scalar(stmt, stage)?;
        match usize::try_from(stage) {
            Ok(at) if at < shared.stages as usize => Ok(self.plan.slots[slot.buffer.0 as usize] + at),
            _ => {
                self.fail(Finding::Place, stmt, format!("stage {stage} of the {} of `{}`", shared.stages, shared.name))
            }
        }
    }

    fn barrier(&self, stmt: &Stmt, barrier: BarrierId, index: &Expr) -> Result<usize> {
        let ring = self.scene.program.barrier(barrier);
        let index = self.scalar(stmt, index)?;
        match usize::try_from(index) {
            Ok(at) if at < ring.stages as usize => Ok(self.plan.barriers[barrier.0 as usize] + at),
            _ => self.fail(Finding::Place, stmt, format!("barrier {index} of the {} of `{}`", ring.stages, ring.name)),
        }
    }

    fn stmt(&mut self, stmt: &'a Stmt) -> Result<()> {
        match &stmt.op {
            Op::Bind { var, value, .. } | Op::Assign { var, value, .. } => self.set(var, value),
            Op::For { .. } => return self.for_loop(stmt),
            Op::If { cond, then, otherwise } => {
                let known = self.state.holds(cond);
                let blocks = match known {
                    Ok(true) => vec![then],
                    Ok(false) => vec![otherwise],
                    Err(_) if is_inert(&then.0) && is_inert(&otherwise.0) => vec![then, otherwise],
                    Err(e) => return self.fail(Finding::Control, stmt, format!("it depends on data: {e}")),
                };
                for (block, yields) in blocks {
                    self.block(block)?;
                    self.hand_over(stmt, yields, &stmt.results);
                }
            }
            Op::Elected(body) => {
                let before = std::mem::replace(&mut self.elected, true);
                self.block(body)?;
                self.elected = before;
            }
            Op::Roles(_) => {
                if let (Some((_, role)), false) = (self.role, self.within) {
                    self.within = true;
                    self.block(&role.body)?;
                    self.within = false;
                } else {
                    return self.fail(Finding::Control, stmt, "roles inside of other statements".to_owned());
                }
            }
            Op::Copy { from, to, kind, barrier } => {
                let slot = self.slot(stmt, to)?;
                let shared = self.scene.program.shared(to.buffer);
                let bits = i64::from(shared.shape.iter().product::<u32>()) * i64::from(shared.dtype.bits());
                let act = match (kind, barrier) {
                    (CopyKind::Tma | CopyKind::Multicast, Some((barrier, index))) => {
                        let barrier = self.barrier(stmt, *barrier, index)?;
                        let origin = || from.origin.iter().map(|e| self.state.index(e).ok()).collect();
                        let multicast = (*kind == CopyKind::Multicast).then(origin);
                        Act::Bring { slot, barrier, bytes: bits / 8, multicast }
                    }
                    (CopyKind::Tma | CopyKind::Multicast, None) => {
                        return self.fail(Finding::Unfinished, stmt, "a copy that completes on no barrier".to_owned());
                    }
                    (CopyKind::CpAsync(_), _) => Act::Copy { slot },
                    (CopyKind::Registers, _) => Act::Store { slot },
                };
                self.push(stmt, act);
            }
            Op::SharedLoad { from } => {
                let slot = self.slot(stmt, from)?;
                self.push(stmt, Act::Load { slot });
                self.uses(stmt, stmt.results.iter().copied());
            }
            Op::ClusterLoad { from, .. } => {
                let slot = self.slot(stmt, from)?;
                self.push(stmt, Act::Gather { slot });
                self.uses(stmt, stmt.results.iter().copied());
            }
            Op::SharedStore { to, value } => {
                let slot = self.slot(stmt, to)?;
                self.uses(stmt, [*value]);
                self.push(stmt, Act::Store { slot });
            }
            Op::CopyOut { from, .. } => {
                let slot = self.slot(stmt, from)?;
                self.push(stmt, Act::Out { slot });
            }
            Op::Dot { a, b, acc, .. } => self.dot(stmt, [a, b], *acc)?,
            Op::Expect { barrier, index, bytes } => {
                let barrier = self.barrier(stmt, *barrier, index)?;
                self.push(stmt, Act::Expect { barrier, bytes: i64::from(*bytes) });
            }
            Op::Arrive { barrier, index, everywhere } => {
                let by = self.scene.program.barrier(*barrier).by;
                let barrier = self.barrier(stmt, *barrier, index)?;
                self.push(stmt, Act::Arrive { barrier, by, everywhere: *everywhere });
            }
            Op::Wait { barrier, index, parity } => {
                let (barrier, parity) = (self.barrier(stmt, *barrier, index)?, self.scalar(stmt, parity)?);
                if !(0..2).contains(&parity) {
                    return self.fail(Finding::Phase, stmt, format!("parity {parity}, expected 0 or 1"));
                }
                self.push(stmt, Act::Wait { barrier, parity });
            }
            Op::Commit(group) => self.push(stmt, Act::Commit(*group)),
            Op::WaitGroup { group, pending } => {
                self.push(stmt, Act::WaitGroup { group: *group, pending: *pending });
            }
            Op::Fence(fence) => self.push(stmt, Act::Fence(*fence)),
            Op::Sync => {
                let all = self.scene.program.threads();
                let (id, threads) = match self.role {
                    Some((number, role)) if self.within && role.warps * 32 != all => {
                        (LAST_BARRIER as usize - number, role.warps * 32)
                    }
                    _ => (0, all),
                };
                self.push(stmt, Act::Meet { id, threads, wait: true });
            }
            Op::NamedBarrier { id, threads, wait } => {
                let number = self.scalar(stmt, id)?;
                let Some(id) = usize::try_from(number).ok().filter(|id| *id < NAMED) else {
                    return self.fail(
                        Finding::NamedBarrier,
                        stmt,
                        format!("barrier {number}, expected one of 0 to 15"),
                    );
                };
                self.push(stmt, Act::Meet { id, threads: *threads, wait: *wait });
            }
            Op::ClusterSync | Op::ClusterArrive => {
                let threads = self.scene.program.threads() * self.scene.program.schedule.cluster;
                self.push(stmt, Act::ClusterArrive { threads });
                if matches!(stmt.op, Op::ClusterSync) {
                    self.push(stmt, Act::ClusterWait);
                }
            }
            Op::ClusterWait => self.push(stmt, Act::ClusterWait),
            Op::Turn(turn) => self.push(stmt, Act::Turn(*turn)),
            Op::SetRegisters { count, increase } => {
                self.push(stmt, Act::SetRegisters { count: *count, increase: *increase });
            }
            // Zeros that the first product overwrites are never written.
            Op::Full { .. } if stmt.results.iter().all(|value| self.plan.overwritten.contains(value)) => {}
            Op::Convert { value } | Op::Transpose { value, .. } => {
                self.hand_over(stmt, &[*value], &stmt.results);
            }
            op => self.uses(stmt, op.uses().into_iter().chain(stmt.results.iter().copied())),
        }
        Ok(())
    }

    fn dot(&mut self, stmt: &'a Stmt, operands: [&Operand; 2], acc: ValueId) -> Result<()> {
        let mut slots = vec![];
        let mut left = None;
        for operand in operands {
            match operand {
                Operand::Shared(slot) => slots.push(self.slot(stmt, slot)?),
                Operand::Tile(value) => left = Some(*value),
            }
        }
        if is_product(&stmt.op) {
            let (left, sum) = (left.map(|left| self.registers(left)), self.registers(acc));
            self.push(stmt, Act::Product { slots, left, sum });
            return Ok(());
        }
        slots.into_iter().for_each(|slot| self.push(stmt, Act::Load { slot }));
        self.uses(stmt, stmt.op.uses().into_iter().chain(stmt.results.iter().copied()));
        Ok(())
    }

    fn for_loop(&mut self, stmt: &'a Stmt) -> Result<()> {
        let Op::For { var, start, end, step, carried, body, yields, .. } = &stmt.op else { return Ok(()) };
        let inert = is_inert(body);
        let bounds = [start, end, step].map(|e| self.state.index(e));
        let [start, end, step] = match bounds {
            [Ok(start), Ok(end), Ok(step)] if step > 0 => [start, end, step],
            // Nobody can tell how often from outside.
            _ if inert => {
                self.unset(var);
                return self.block(body);
            }
            [Err(e), ..] | [_, Err(e), _] | [_, _, Err(e)] => {
                return self.fail(Finding::Control, stmt, format!("it depends on data: {e}"));
            }
            [.., Ok(step)] => {
                return self.fail(Finding::Control, stmt, format!("a step of {step}, expected 1 or more"));
            }
        };
        let (inside, firsts): (Vec<ValueId>, Vec<ValueId>) = carried.iter().copied().unzip();
        self.hand_over(stmt, &firsts, &inside);
        // What keeps to itself does the same in every iteration.
        let end = if inert { end.min(start.saturating_add(step.saturating_mul(2))) } else { end };
        let mut at = start;
        while at < end {
            self.state.set(var, crate::dtype::Scalar::Int(at));
            self.block(body)?;
            self.hand_over(stmt, yields, &inside);
            at += step;
        }
        Ok(())
    }
}
