//! Walking over statements: what they use, what they hold, and copies of them with other names.

use super::{Block, Op, Operand, Place, Program, Scalar, Slot, Stage, Stmt, ValueId, View};
use crate::expr::{Expr, ExprKind, Var};
use std::collections::{HashMap, HashSet};

impl Op {
    /// The tiles that the statement itself uses; what blocks inside use is theirs, what they yield is not.
    pub fn uses(&self) -> Vec<ValueId> {
        match self {
            Op::Map { args, .. } => args.iter().map(|(_, value)| *value).collect(),
            Op::ClusterReduce { of } => of.iter().map(|(_, value)| *value).collect(),
            Op::Reduce { value, .. }
            | Op::Transpose { value, .. }
            | Op::Store { value, .. }
            | Op::Atomic { value, .. }
            | Op::SharedStore { value, .. }
            | Op::Convert { value } => vec![*value],
            Op::Dot { a, b, acc, .. } => {
                let tile = |operand: &Operand| if let Operand::Tile(value) = operand { Some(*value) } else { None };
                [tile(a), tile(b), Some(*acc)].into_iter().flatten().collect()
            }
            Op::For { carried, .. } => carried.iter().map(|(_, first)| *first).collect(),
            _ => vec![],
        }
    }

    /// The tiles that blocks inside hand over: to the next iteration, or as results.
    pub fn yields(&self) -> Vec<ValueId> {
        match self {
            Op::For { yields, .. } => yields.clone(),
            Op::If { then, otherwise, .. } => [&then.1[..], &otherwise.1].concat(),
            _ => vec![],
        }
    }

    /// The blocks inside.
    pub fn blocks(&self) -> Vec<&Block> {
        match self {
            Op::For { body, .. } | Op::Elected(body) => vec![body],
            Op::If { then, otherwise, .. } => vec![&then.0, &otherwise.0],
            Op::Roles(roles) => roles.iter().map(|role| &role.body).collect(),
            _ => vec![],
        }
    }

    /// The blocks inside, to be changed.
    pub fn blocks_mut(&mut self) -> Vec<&mut Block> {
        match self {
            Op::For { body, .. } | Op::Elected(body) => vec![body],
            Op::If { then, otherwise, .. } => vec![&mut then.0, &mut otherwise.0],
            Op::Roles(roles) => roles.iter_mut().map(|role| &mut role.body).collect(),
            _ => vec![],
        }
    }

    /// Calls `visit` on every tile that the statement itself uses.
    pub fn uses_mut(&mut self, visit: &mut dyn FnMut(&mut ValueId)) {
        match self {
            Op::Map { args, .. } => args.iter_mut().for_each(|(_, value)| visit(value)),
            Op::ClusterReduce { of } => of.iter_mut().for_each(|(_, value)| visit(value)),
            Op::Reduce { value, .. }
            | Op::Transpose { value, .. }
            | Op::Store { value, .. }
            | Op::Atomic { value, .. }
            | Op::SharedStore { value, .. }
            | Op::Convert { value } => visit(value),
            Op::Dot { a, b, acc, .. } => {
                for operand in [a, b] {
                    if let Operand::Tile(value) = operand {
                        visit(value);
                    }
                }
                visit(acc);
            }
            Op::For { carried, .. } => carried.iter_mut().for_each(|(_, first)| visit(first)),
            _ => {}
        }
    }

    /// Calls `visit` on every tile name of the statement itself, also those that blocks inside start with and hand over.
    pub fn tiles_mut(&mut self, visit: &mut dyn FnMut(&mut ValueId)) {
        self.uses_mut(visit);
        match self {
            Op::For { carried, yields, .. } => {
                carried.iter_mut().for_each(|(inside, _)| visit(inside));
                yields.iter_mut().for_each(visit);
            }
            Op::If { then, otherwise, .. } => then.1.iter_mut().chain(&mut otherwise.1).for_each(visit),
            _ => {}
        }
    }

    /// Calls `visit` on every scalar expression of the statement itself, those inside of maps and places included.
    pub fn exprs_mut(&mut self, visit: &mut dyn FnMut(&mut Expr)) {
        let scalars = |body: &mut Vec<Scalar>, visit: &mut dyn FnMut(&mut Expr)| {
            for scalar in body {
                match scalar {
                    Scalar::Bind { value, .. } => visit(value),
                    Scalar::Check { violated, code, .. } => {
                        visit(violated);
                        visit(code);
                    }
                }
            }
        };
        let view = |view: &mut View, visit: &mut dyn FnMut(&mut Expr)| {
            view.origins_mut().for_each(&mut *visit);
            for walk in &mut view.walks {
                visit(&mut walk.end);
                walk.parts.iter_mut().for_each(|part| visit(&mut part.extent));
            }
        };
        let place = |place: &mut Place, visit: &mut dyn FnMut(&mut Expr)| match place {
            Place::View(of) => view(of, visit),
            Place::Elements { body, index, mask, .. } => {
                scalars(body, visit);
                index.iter_mut().for_each(&mut *visit);
                visit(mask);
            }
        };
        let slot = |slot: &mut Slot, visit: &mut dyn FnMut(&mut Expr)| {
            if let Stage::Index(index) = &mut slot.stage {
                visit(index);
            }
        };
        match self {
            Op::Bind { value, below, .. } => {
                visit(value);
                below.iter_mut().for_each(visit);
            }
            Op::Full { value } | Op::Assign { value, .. } => visit(value),
            Op::Load { from, fill } => {
                place(from, visit);
                visit(fill);
            }
            Op::Map { body, results, .. } => {
                scalars(body, visit);
                results.iter_mut().for_each(visit);
            }
            Op::Store { to, .. } | Op::Atomic { to, .. } => place(to, visit),
            Op::Await { index, value, .. } | Op::Signal { index, value, .. } => {
                index.iter_mut().for_each(&mut *visit);
                visit(value);
            }
            Op::Dot { a, b, .. } => {
                for operand in [a, b] {
                    if let Operand::Shared(of) = operand {
                        slot(of, visit);
                    }
                }
            }
            Op::For { start, end, step, .. } => [start, end, step].into_iter().for_each(visit),
            Op::If { cond, .. } => visit(cond),
            Op::Copy { from, to, barrier, .. } => {
                view(from, visit);
                slot(to, visit);
                barrier.iter_mut().for_each(|(_, index)| visit(index));
            }
            Op::CopyOut { from, to } => {
                slot(from, visit);
                view(to, visit);
            }
            Op::SharedLoad { from } | Op::ClusterLoad { from, .. } => slot(from, visit),
            Op::SharedStore { to, .. } => slot(to, visit),
            Op::Expect { index, .. } | Op::Arrive { index, .. } => visit(index),
            Op::Wait { index, parity, .. } => {
                visit(index);
                visit(parity);
            }
            Op::NamedBarrier { id, .. } => visit(id),
            Op::Skip { slots, .. } => visit(slots),
            _ => {}
        }
    }

    /// Calls `visit` on every variable that the statement itself declares.
    pub fn vars_mut(&mut self, visit: &mut dyn FnMut(&mut Var)) {
        let scalars = |body: &mut Vec<Scalar>, visit: &mut dyn FnMut(&mut Var)| {
            for scalar in body {
                if let Scalar::Bind { var, .. } = scalar {
                    visit(var);
                }
            }
        };
        match self {
            Op::Bind { var, .. } | Op::Assign { var, .. } | Op::For { var, .. } => visit(var),
            Op::Roles(roles) => {
                roles.iter_mut().filter_map(|role| role.groups.as_mut()).for_each(|(var, _)| visit(var))
            }
            Op::Map { axes, args, body, .. } => {
                axes.iter_mut().for_each(&mut *visit);
                args.iter_mut().for_each(|(var, _)| visit(var));
                scalars(body, visit);
            }
            Op::Load { from: Place::Elements { axes, body, .. }, .. }
            | Op::Store { to: Place::Elements { axes, body, .. }, .. }
            | Op::Atomic { to: Place::Elements { axes, body, .. }, .. } => {
                axes.iter_mut().for_each(&mut *visit);
                scalars(body, visit);
            }
            _ => {}
        }
    }
}

impl Stmt {
    /// Calls `visit` on this statement and on all inside of it.
    pub fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Stmt)) {
        visit(self);
        for block in self.op.blocks() {
            block.iter().for_each(|stmt| stmt.walk(visit));
        }
    }

    /// Every tile that it uses, in blocks inside too, and what those hand over.
    pub fn used(&self) -> HashSet<ValueId> {
        let mut used = HashSet::new();
        self.walk(&mut |stmt| {
            used.extend(stmt.op.uses());
            used.extend(stmt.op.yields());
        });
        used
    }

    /// Calls `visit` on this statement and on all inside of it.
    pub fn walk_mut(&mut self, visit: &mut dyn FnMut(&mut Stmt)) {
        visit(self);
        for block in self.op.blocks_mut() {
            block.iter_mut().for_each(|stmt| stmt.walk_mut(visit));
        }
    }
}

/// What names are replaced by.
#[derive(Clone, Debug, Default)]
pub struct Renaming {
    /// Tiles.
    pub tiles: HashMap<ValueId, ValueId>,
    /// Variables, by their number.
    pub vars: HashMap<u32, Expr>,
}

impl Renaming {
    /// Names in another iteration of a loop over `var`: the variable, and what the loop's own block binds.
    pub fn iteration(body: &[Stmt], var: &Var, at: Expr) -> Renaming {
        let mut renaming = Renaming { vars: HashMap::from([(var.id, at)]), ..Renaming::default() };
        for stmt in body {
            if let Op::Bind { var, value, .. } = &stmt.op {
                let value = renaming.expr(value);
                renaming.vars.insert(var.id, value);
            }
        }
        renaming
    }

    /// An expression with the new names.
    pub fn expr(&self, e: &Expr) -> Expr {
        if self.vars.is_empty() { e.clone() } else { e.substitute(&|var| self.vars.get(&var.id).cloned()) }
    }

    /// The new name of a tile.
    pub fn tile(&self, value: ValueId) -> ValueId {
        self.tiles.get(&value).copied().unwrap_or(value)
    }

    /// Replaces names in place; declarations stay as they are.
    pub fn apply(&self, block: &mut Block) {
        for stmt in block {
            stmt.walk_mut(&mut |stmt| {
                stmt.results.iter_mut().for_each(|value| *value = self.tile(*value));
                stmt.op.tiles_mut(&mut |value| *value = self.tile(*value));
                stmt.op.exprs_mut(&mut |e| *e = self.expr(e));
            });
        }
    }
}

impl Program {
    /// The tensors, by their number, that statements access.
    pub fn accessed(&self) -> HashSet<u32> {
        let mut found = HashSet::new();
        for stmt in &mut self.body.clone() {
            stmt.walk_mut(&mut |stmt| {
                stmt.op.exprs_mut(&mut |e| {
                    e.walk(&mut |e| {
                        if let ExprKind::Load(buffer, _) = e.kind() {
                            found.insert(buffer.id);
                        }
                    });
                });
                let (place, body) = match &stmt.op {
                    Op::Load { from: place, .. } | Op::Store { to: place, .. } | Op::Atomic { to: place, .. } => {
                        let body = if let Place::Elements { body, .. } = place { &body[..] } else { &[] };
                        (Some(place.tensor()), body)
                    }
                    Op::Copy { from: view, .. } | Op::CopyOut { to: view, .. } => (Some(&view.tensor), &[][..]),
                    Op::Map { body, .. } => (None, &body[..]),
                    Op::Await { counter, .. } | Op::Signal { counter, .. } => {
                        found.insert(counter.id);
                        return;
                    }
                    _ => return,
                };
                found.extend(place.map(|tensor| tensor.id));
                found.extend(body.iter().filter_map(|scalar| match scalar {
                    Scalar::Check { fault, .. } => Some(fault.id),
                    Scalar::Bind { .. } => None,
                }));
            });
        }
        found
    }

    /// A copy of `block` in which everything that it declares has a new name; `renaming` gets the new names and may hold some for what it
    /// uses from outside.
    pub fn copy_block(&mut self, block: &Block, renaming: &mut Renaming) -> Block {
        block.iter().map(|stmt| self.copy_stmt(stmt, renaming)).collect()
    }

    fn copy_stmt(&mut self, stmt: &Stmt, renaming: &mut Renaming) -> Stmt {
        let mut copy = stmt.clone();
        // Uses outside of blocks first: a loop's own variable does not reach them.
        copy.op.vars_mut(&mut |var| {
            // An assignment declares once.
            if let (Op::Assign { .. }, Some(known)) = (&stmt.op, renaming.vars.get(&var.id)) {
                if let crate::expr::ExprKind::Var(known) = known.kind() {
                    *var = known.clone();
                }
                return;
            }
            let fresh = self.add_var(&var.name, var.ty);
            renaming.vars.insert(var.id, Expr::var(&fresh));
            *var = fresh;
        });
        if let Op::For { carried, .. } = &mut copy.op {
            for (inside, _) in carried {
                let fresh = self.add_like(*inside);
                renaming.tiles.insert(*inside, fresh);
            }
        }
        let blocks: Vec<Block> = stmt.op.blocks().into_iter().map(|block| self.copy_block(block, renaming)).collect();
        copy.op.blocks_mut().into_iter().zip(blocks).for_each(|(place, block)| *place = block);
        copy.op.tiles_mut(&mut |value| *value = renaming.tile(*value));
        copy.op.exprs_mut(&mut |e| *e = renaming.expr(e));
        for value in &mut copy.results {
            let fresh = self.add_like(*value);
            renaming.tiles.insert(*value, fresh);
            *value = fresh;
        }
        copy
    }
}
