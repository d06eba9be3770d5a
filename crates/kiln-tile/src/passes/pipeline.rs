//! Brings operands of dots into shared memory ahead of their use, by the threads that compute: in stages by `cp.async` where every operand of a
//! loop can travel so, else through registers that are loaded an iteration ahead. What a map makes of loads is made on the way from there.

use super::Machine;
use super::feeds::{Feed, feeds, operands};
use crate::dtype::Type;
use crate::expr::Expr;
use crate::ir::{
    Block, Channel, ChannelId, CopyKind, Op, Operand, Place, Program, Renaming, Shared, SharedId, Slot, Stage, Stmt,
    ValueId,
};
use std::collections::HashMap;

/// Runs the pass on what no role copies.
pub fn pipeline(program: &mut Program, machine: &Machine) {
    let feeds = feeds(program, machine);
    let body = std::mem::take(&mut program.body);
    let mut pass = Pass { program, feeds, slots: HashMap::new() };
    let body = pass.block(body);
    program.body = body;
}

struct Pass<'a> {
    program: &'a mut Program,
    feeds: HashMap<ValueId, Feed>,
    slots: HashMap<ValueId, Slot>,
}

/// An operand that a loop brings.
struct Brought {
    operand: ValueId,
    /// The loads that it is made of; only itself where no map makes it.
    loads: Vec<ValueId>,
}

impl Pass<'_> {
    fn block(&mut self, block: Block) -> Block {
        let mut out = vec![];
        let mut held = vec![];
        for mut stmt in block {
            match &stmt.op {
                // An operand outside of a pipelined loop is brought when it is needed.
                Op::Load { .. } if self.feeds.contains_key(&stmt.results[0]) => {
                    let load = stmt.results[0];
                    match self.feeds[&load].kind {
                        CopyKind::Registers => {
                            let buffer = self.buffer(load, 1);
                            let to = Slot { buffer, stage: Stage::Index(Expr::index(0)) };
                            self.slots.insert(load, to.clone());
                            out.extend([
                                stmt,
                                Stmt::effect(Op::Sync),
                                Stmt::effect(Op::SharedStore { to, value: load }),
                            ]);
                            out.push(Stmt::effect(Op::Sync));
                        }
                        CopyKind::CpAsync(_) | CopyKind::Tma | CopyKind::Multicast => {
                            let channel = self.channel(&[load], 1);
                            out.extend(self.copies(channel, &[load], &Renaming::default()));
                            out.push(Stmt::effect(Op::Receive(channel)));
                            held.push(channel);
                        }
                    }
                }
                Op::For { stages, .. } => {
                    let (loads, made) =
                        if stages.is_some() { (self.loads(&stmt), made(&stmt)) } else { (vec![], vec![]) };
                    let stages = stages.unwrap_or(1);
                    let travels = |load: &ValueId| self.feeds[load].kind != CopyKind::Registers;
                    if loads.is_empty() && made.is_empty() {
                        self.inside(&mut stmt);
                        out.push(stmt);
                    } else if stages > 1 && made.is_empty() && loads.iter().all(travels) {
                        out.extend(self.staged(stmt, &loads, stages));
                    } else {
                        let plain = loads.into_iter().map(|load| Brought { operand: load, loads: vec![load] });
                        let brought: Vec<Brought> = plain.chain(made).collect();
                        out.extend(self.ahead(stmt, &brought));
                    }
                }
                _ => {
                    self.operands(&mut stmt);
                    self.inside(&mut stmt);
                    out.push(stmt);
                }
            }
        }
        out.extend(held.into_iter().map(|channel| Stmt::effect(Op::Release(channel))));
        out
    }

    fn inside(&mut self, stmt: &mut Stmt) {
        for block in stmt.op.blocks_mut() {
            *block = self.block(std::mem::take(block));
        }
    }

    /// The feeds that a loop's own block loads.
    fn loads(&self, stmt: &Stmt) -> Vec<ValueId> {
        let Op::For { body, .. } = &stmt.op else { return vec![] };
        let dots: Vec<ValueId> = body.iter().flat_map(|stmt| operands(&stmt.op)).collect();
        let here = body.iter().flat_map(|stmt| &stmt.results).copied();
        here.filter(|v| self.feeds.contains_key(v) && dots.contains(v)).collect()
    }

    /// Replaces a dot's loaded operands by their slots.
    fn operands(&self, stmt: &mut Stmt) {
        if let Op::Dot { a, b, .. } = &mut stmt.op {
            for operand in [a, b] {
                if let Operand::Tile(value) = operand
                    && let Some(slot) = self.slots.get(value)
                {
                    *operand = Operand::Shared(slot.clone());
                }
            }
        }
    }

    fn buffer(&mut self, operand: ValueId, stages: u32) -> SharedId {
        let value = self.program.value(operand).clone();
        let (name, dtype, shape) = (value.name, value.dtype, value.shape);
        self.program.shared.push(Shared { name, dtype, shape, stages, layout: None, offset: None });
        SharedId(self.program.shared.len() as u32 - 1)
    }

    /// A channel for loads that travel together.
    fn channel(&mut self, loads: &[ValueId], stages: u32) -> ChannelId {
        let channel = ChannelId(self.program.channels.len() as u32);
        let buffers: Vec<SharedId> = loads.iter().map(|load| self.buffer(*load, stages)).collect();
        for (load, buffer) in loads.iter().zip(&buffers) {
            self.slots.insert(*load, Slot { buffer: *buffer, stage: Stage::Cursor(channel) });
        }
        let name = self.program.shared(buffers[0]).name.clone();
        let kind = self.kind(loads[0]);
        self.program.channels.push(Channel { name, buffers, stages, kind });
        channel
    }

    /// How a load travels when the threads that compute start it.
    fn kind(&self, load: ValueId) -> CopyKind {
        match self.feeds[&load].kind {
            CopyKind::Tma => CopyKind::CpAsync(16),
            kind => kind,
        }
    }

    fn copies(&self, channel: ChannelId, loads: &[ValueId], renaming: &Renaming) -> Block {
        let mut out = vec![Stmt::effect(Op::Acquire(channel))];
        out.extend(self.copy_all(loads, renaming));
        out.push(Stmt::effect(Op::Publish(channel)));
        out
    }

    fn copy_all(&self, loads: &[ValueId], renaming: &Renaming) -> Block {
        let copy = |load: &ValueId| {
            let mut from = self.feeds[load].view.clone();
            from.origins_mut().for_each(|e| *e = renaming.expr(e));
            Stmt::effect(Op::Copy { from, to: self.slots[load].clone(), kind: self.kind(*load), barrier: None })
        };
        loads.iter().map(copy).collect()
    }

    /// A loop whose loads are `stages - 1` iterations ahead.
    fn staged(&mut self, mut stmt: Stmt, loads: &[ValueId], stages: u32) -> Block {
        let channel = self.channel(loads, stages);
        let Op::For { var, start, end, step, body, stages: pipelined, .. } = &mut stmt.op else { return vec![stmt] };
        *pipelined = None;
        let ahead = |pass: &Self, at: Expr| {
            let renaming = Renaming::iteration(body, var, at.clone());
            let cond = at.lt(&*end);
            let copies = pass.copy_all(loads, &renaming);
            vec![
                Stmt::effect(Op::Acquire(channel)),
                Stmt::effect(Op::If { cond, then: (copies, vec![]), otherwise: (vec![], vec![]) }),
                Stmt::effect(Op::Publish(channel)),
            ]
        };
        let mut out: Block = (0..stages - 1).flat_map(|i| ahead(self, &*start + &*step * i64::from(i))).collect();
        let mut inner = vec![Stmt::effect(Op::Receive(channel))];
        inner.extend(ahead(self, Expr::var(var) + &*step * i64::from(stages - 1)));
        let rest: Block =
            std::mem::take(body).into_iter().filter(|s| !s.results.iter().any(|v| loads.contains(v))).collect();
        inner.extend(self.block(rest));
        inner.push(Stmt::effect(Op::Release(channel)));
        *body = inner;
        out.push(stmt);
        // What was started for iterations that never came.
        out.extend(
            (0..stages - 1).flat_map(|_| [Stmt::effect(Op::Receive(channel)), Stmt::effect(Op::Release(channel))]),
        );
        out.push(Stmt::effect(Op::Sync));
        out
    }

    /// A loop whose loads go to registers an iteration ahead, and from there, or what maps make of them, to the other of two slots.
    fn ahead(&mut self, mut stmt: Stmt, brought: &[Brought]) -> Block {
        let Op::For { var, start, end, step, carried, body, yields, stages } = &mut stmt.op else {
            return vec![stmt];
        };
        *stages = None;
        let mut out = vec![];
        let mut inner = vec![];
        let turn = self.program.add_var("turn", Type::Index);
        let value = (Expr::var(var) - &*start) / &*step % 2;
        inner.push(Stmt::effect(Op::Bind { var: turn.clone(), value, below: Some(Expr::index(2)) }));
        let mut next = vec![];
        let given = |body: &Block, value: ValueId| body.iter().find(|stmt| stmt.results.contains(&value)).cloned();
        for Brought { operand, loads } in brought {
            let buffer = self.buffer(*operand, 2);
            let to = Slot { buffer, stage: Stage::Index(Expr::var(&turn)) };
            self.slots.insert(*operand, to.clone());
            // Before what the loop's block binds.
            let mut here = Renaming::iteration(body, var, Expr::var(var));
            for load in loads {
                let Some(source) = given(body, *load) else { continue };
                let fetch = |program: &mut Program, at: Expr| {
                    let exists = at.lt(&*end);
                    let mut renaming = Renaming::iteration(body, var, at);
                    let mut copy = program.copy_block(&vec![source.clone()], &mut renaming);
                    copy.iter_mut().for_each(|copy| mask(copy, &source, &exists));
                    (renaming.tile(*load), copy)
                };
                let (first, stmts) = fetch(self.program, start.clone());
                out.extend(stmts);
                let (later, stmts) = fetch(self.program, Expr::var(var) + &*step);
                next.extend(stmts);
                let held = self.program.add_like(*load);
                carried.push((held, first));
                yields.push(later);
                here.tiles.insert(*load, held);
            }
            let made = given(body, *operand).filter(|stmt| matches!(stmt.op, Op::Map { .. }));
            if let Some(mut map) = made {
                map.op.tiles_mut(&mut |value| *value = here.tile(*value));
                map.op.exprs_mut(&mut |e| *e = here.expr(e));
                inner.push(map);
            }
            inner.push(Stmt::effect(Op::SharedStore { to, value: here.tile(*operand) }));
        }
        inner.push(Stmt::effect(Op::Sync));
        inner.append(&mut next);
        let moved = |value: &ValueId| brought.iter().any(|b| b.operand == *value || b.loads.contains(value));
        let rest: Block = std::mem::take(body).into_iter().filter(|s| !s.results.iter().any(moved)).collect();
        inner.extend(self.block(rest));
        *body = inner;
        for load in brought.iter().flat_map(|brought| &brought.loads) {
            let last = self.program.add_like(*load);
            stmt.results.push(last);
        }
        out.push(stmt);
        out.push(Stmt::effect(Op::Sync));
        out
    }
}

/// The operands of a loop's dots that its own block makes of loads, at least one of them of a box, and uses for nothing else.
fn made(stmt: &Stmt) -> Vec<Brought> {
    let Op::For { body, yields, .. } = &stmt.op else { return vec![] };
    let users = |value: ValueId| body.iter().filter(move |stmt| stmt.used().contains(&value));
    let place = |value: &ValueId| {
        let load = body.iter().find(|stmt| stmt.results == [*value])?;
        if let Op::Load { from, .. } = &load.op { Some(from) } else { None }
    };
    let of = |stmt: &Stmt| {
        let (Op::Map { args, .. }, &[operand]) = (&stmt.op, &stmt.results[..]) else { return None };
        let mut loads: Vec<ValueId> = args.iter().map(|(_, value)| *value).collect();
        loads.sort();
        loads.dedup();
        let once = |load: &ValueId| place(load).is_some() && users(*load).count() == 1 && !yields.contains(load);
        let boxed = loads.iter().any(|load| matches!(place(load), Some(Place::View(_))));
        let mut dots = users(operand).map(|user| operands(&user.op).contains(&operand)).peekable();
        let multiplied = dots.peek().is_some() && dots.all(|is| is) && !yields.contains(&operand);
        (boxed && multiplied && loads.iter().all(once)).then_some(Brought { operand, loads })
    };
    body.iter().filter_map(of).collect()
}

/// Masks a copy of a load `source`, which may be of an iteration that does not exist, where it moved.
fn mask(copy: &mut Stmt, source: &Stmt, exists: &Expr) {
    match (&mut copy.op, &source.op) {
        (Op::Load { from: Place::View(view), .. }, Op::Load { from: Place::View(from), .. }) => {
            for (axis, origin) in from.origin.iter().enumerate() {
                view.masked[axis] |= view.origin[axis] != *origin;
            }
        }
        (Op::Load { from: Place::Elements { mask, .. }, .. }, _) => *mask = mask.and(exists),
        _ => {}
    }
}
