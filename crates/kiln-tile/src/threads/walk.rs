//! What statements and expressions are made of.

use super::{Atom, Block, Effect, Expr, Place, Stmt, Var};
use kiln_target::atoms::MmaKind;

impl Expr {
    /// The direct operands.
    pub fn operands(&self) -> Vec<&Expr> {
        match self {
            Expr::Int(..) | Expr::Float(..) | Expr::Var(_) | Expr::Special(_) => vec![],
            Expr::Element(_, a)
            | Expr::Unary(_, a)
            | Expr::Cast(_, a)
            | Expr::SharedPointer { bytes: a, .. }
            | Expr::SharedAddress(a) => vec![a],
            Expr::Binary(_, a, b) | Expr::Compare(_, a, b) | Expr::GlobalAddress(a, b) => vec![a, b],
            Expr::Select(a, b, c) => vec![a, b, c],
            Expr::Call(_, args) => args.iter().collect(),
            Expr::Load { pointer, index, .. } | Expr::LoadInt4 { pointer, index, .. } => vec![pointer, index],
        }
    }

    /// Calls `visit` on this expression and all below it.
    pub fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        visit(self);
        self.operands().into_iter().for_each(|operand| operand.walk(visit));
    }

    /// Whether it reads a variable.
    pub fn reads(&self, var: &Var) -> bool {
        let mut found = false;
        self.vars(&mut |read| found |= read == var);
        found
    }

    /// Calls `visit` on every variable that is read.
    pub fn vars<'a>(&'a self, visit: &mut dyn FnMut(&'a Var)) {
        self.walk(&mut |e| {
            if let Expr::Var(var) | Expr::Element(var, _) = e {
                visit(var);
            }
        });
    }
}

impl Place {
    /// The variable that is changed.
    pub fn var(&self) -> &Var {
        match self {
            Place::Var(var) | Place::Element(var, _) => var,
        }
    }

    /// What it holds.
    pub fn value(&self) -> Expr {
        match self {
            Place::Var(var) => Expr::Var(var.clone()),
            Place::Element(var, index) => Expr::Element(var.clone(), Box::new(index.clone())),
        }
    }

    fn index(&self) -> Option<&Expr> {
        match self {
            Place::Var(_) => None,
            Place::Element(_, index) => Some(index),
        }
    }
}

impl Effect {
    /// What it reads.
    pub fn exprs(&self) -> Vec<&Expr> {
        match self {
            Effect::SyncThreads
            | Effect::SyncWarp
            | Effect::ClusterSync
            | Effect::ClusterArrive
            | Effect::ClusterWait
            | Effect::Commit(_)
            | Effect::WaitGroup { .. }
            | Effect::Fence(_)
            | Effect::SetRegisters { .. } => vec![],
            Effect::Pin(place) => place.index().into_iter().collect(),
            Effect::NamedBarrier { id, .. } => vec![id],
            Effect::BarrierInit { address, .. }
            | Effect::BarrierExpect { address, .. }
            | Effect::BarrierArrive { address } => vec![address],
            Effect::BarrierArriveRemote { address, rank } => vec![address, rank],
            Effect::BarrierWait { address, parity } => vec![address, parity],
            Effect::CopyAsync { to, from, exists, .. } => vec![to, from, exists],
            Effect::TmaLoad { to, origin, offsets, barrier, multicast, .. } => {
                [to, barrier].into_iter().chain(origin).chain(offsets).chain(multicast).collect()
            }
            Effect::TmaStore { from, origin, .. } => std::iter::once(from).chain(origin).collect(),
            Effect::Atomic { pointer, index, value, .. }
            | Effect::CounterWait { pointer, index, value }
            | Effect::CounterSet { pointer, index, value } => vec![pointer, index, value],
        }
    }
}

impl Stmt {
    /// What the statement itself reads, the index of what it assigns to included.
    pub fn exprs(&self) -> Vec<&Expr> {
        match self {
            Stmt::Comment(_) | Stmt::Return => vec![],
            Stmt::Declare { value, .. } => value.iter().collect(),
            Stmt::Assign(place, value) => place.index().into_iter().chain([value]).collect(),
            Stmt::Store { pointer, index, value } => vec![pointer, index, value],
            Stmt::For { start, end, step, .. } => vec![start, end, step],
            Stmt::If { cond, .. } => vec![cond],
            Stmt::Effect(effect) => effect.exprs(),
            Stmt::Instruction(instruction) => {
                let places = instruction.accumulators.iter().chain(&instruction.results);
                places.filter_map(Place::index).chain(&instruction.operands).collect()
            }
        }
    }

    /// Whether it is a loop that is not unrolled and whose trips are numbers.
    pub fn known_trips(&self) -> bool {
        matches!(self, Stmt::For { start, end, unroll: false, .. } if start.as_int().is_some() && end.as_int().is_some())
    }

    /// Whether products are begun in it that run on by themselves.
    pub fn multiplies_asynchronously(&self) -> bool {
        let wgmma = |atom: &Atom| matches!(atom, Atom::Mma { row, .. } if row.kind == MmaKind::Wgmma);
        matches!(self, Stmt::Instruction(instruction) if wgmma(&instruction.atom))
            || self.blocks().into_iter().flatten().any(Stmt::multiplies_asynchronously)
    }

    /// The blocks inside.
    pub fn blocks(&self) -> Vec<&Block> {
        match self {
            Stmt::For { body, .. } => vec![body],
            Stmt::If { then, otherwise, .. } => vec![then, otherwise],
            _ => vec![],
        }
    }

    /// The blocks inside, to be changed.
    pub fn blocks_mut(&mut self) -> Vec<&mut Block> {
        match self {
            Stmt::For { body, .. } => vec![body],
            Stmt::If { then, otherwise, .. } => vec![then, otherwise],
            _ => vec![],
        }
    }
}
