//! Loads inside of maps become loads of tiles, under the conditions that guard them, where the coordinates alone say what they read: then they are
//! as wide as their places allow, and each element is read once however often a map names it. What only some axes tell apart is a tile of
//! those axes.
//!
//! A load whose value is a place of another stays where it is, and so does what it addresses.

use crate::dtype::DType;
use crate::expr::{BinaryOp, Expr, ExprKind, Var};
use crate::ir::{Block, Op, Place, Program, Renaming, Scalar, Stmt, ValueId};
use crate::program::Buffer;
use std::collections::{HashMap, HashSet};

/// Runs the pass.
pub fn loads(program: &mut Program) {
    let body = std::mem::take(&mut program.body);
    program.body = block(program, body);
}

fn block(program: &mut Program, from: Block) -> Block {
    let mut out = vec![];
    for mut stmt in from {
        for inner in stmt.op.blocks_mut() {
            *inner = block(program, std::mem::take(inner));
        }
        if matches!(stmt.op, Op::Map { .. }) {
            map(program, &mut stmt, &mut out);
        }
        out.push(stmt);
    }
    out
}

/// A load that can leave the map: what it reads, where it exists.
#[derive(PartialEq)]
struct Found {
    buffer: Buffer,
    index: Vec<Expr>,
    conditions: Vec<Expr>,
}

/// What is known about the names inside of a map.
struct Names<'m> {
    binds: HashMap<u32, &'m Expr>,
    /// Names whose value the coordinates do not tell: elements, and what is loaded or made of either.
    data: HashSet<u32>,
    /// Names that places are made of.
    places: HashSet<u32>,
}

fn map(program: &mut Program, stmt: &mut Stmt, out: &mut Block) {
    let shape = program.value(stmt.results[0]).shape.clone();
    let Op::Map { axes, args, body, results } = &mut stmt.op else { return };
    let (found, places) = {
        let names = Names::of(args, body, results);
        (names.loads(body, results), names.places)
    };
    if found.is_empty() {
        return;
    }
    let mut replaced: Vec<(Found, Var)> = vec![];
    for (load, needed) in found {
        let used = used_axes(axes, &needed, &load);
        let tile: Vec<u32> = shape.iter().zip(&used).map(|(extent, used)| if *used { *extent } else { 1 }).collect();
        let value = program.add_value(&load.buffer.name, load.buffer.dtype, &tile);
        let var = program.add_var(&load.buffer.name, load.buffer.dtype);
        out.push(Stmt { results: vec![value], op: load_tile(program, axes, &needed, &load) });
        args.push((var.clone(), value));
        replaced.push((load, var));
    }
    for scalar in body {
        if let Scalar::Bind { var, value } = scalar
            && !places.contains(&var.id)
        {
            *value = replace(value, &mut vec![], &replaced);
        }
    }
    results.iter_mut().for_each(|e| *e = replace(e, &mut vec![], &replaced));
}

impl<'m> Names<'m> {
    fn of(args: &[(Var, ValueId)], body: &'m [Scalar], results: &[Expr]) -> Names<'m> {
        let mut names =
            Names { binds: HashMap::new(), data: args.iter().map(|(var, _)| var.id).collect(), places: HashSet::new() };
        let mut roots = vec![];
        let mut indices = |e: &Expr| {
            e.walk(&mut |e| {
                if let ExprKind::Load(_, index) = e.kind() {
                    roots.extend(index.iter().cloned());
                }
            });
        };
        for scalar in body {
            if let Scalar::Bind { var, value } = scalar {
                indices(value);
                if !names.positional(value) {
                    names.data.insert(var.id);
                }
                names.binds.insert(var.id, value);
            }
        }
        results.iter().for_each(indices);
        while let Some(e) = roots.pop() {
            e.walk(&mut |e| {
                if let ExprKind::Var(var) = e.kind()
                    && let Some(value) = names.binds.get(&var.id)
                    && names.places.insert(var.id)
                {
                    roots.push((*value).clone());
                }
            });
        }
        names
    }

    /// Whether the coordinates tell the value.
    fn positional(&self, e: &Expr) -> bool {
        !e.any(&mut |e| match e.kind() {
            ExprKind::Load(..) => true,
            ExprKind::Var(var) => self.data.contains(&var.id),
            _ => false,
        })
    }

    /// The loads that can leave the map, each once, with the names that their places are made of.
    fn loads(&self, body: &[Scalar], results: &[Expr]) -> Vec<(Found, Vec<Scalar>)> {
        let mut found: Vec<Found> = vec![];
        let mut collect = |e: &Expr| {
            visit(e, &mut vec![], &mut |buffer, index, conditions| {
                let free = index.iter().chain(conditions).all(|e| self.positional(e));
                let load = Found { buffer: buffer.clone(), index: index.to_vec(), conditions: conditions.to_vec() };
                if free && buffer.dtype.bits() >= 8 && !found.contains(&load) {
                    found.push(load);
                }
            });
        };
        for scalar in body {
            if let Scalar::Bind { var, value } = scalar
                && !self.places.contains(&var.id)
            {
                collect(value);
            }
        }
        results.iter().for_each(collect);
        found.into_iter().map(|load| (self.needed(body, &load), load)).map(|(needed, load)| (load, needed)).collect()
    }

    /// The names that a load's place is made of, in order.
    fn needed(&self, body: &[Scalar], load: &Found) -> Vec<Scalar> {
        let mut wanted = HashSet::new();
        let mut open: Vec<&Expr> = load.index.iter().chain(&load.conditions).collect();
        while let Some(e) = open.pop() {
            e.walk(&mut |e| {
                if let ExprKind::Var(var) = e.kind()
                    && let Some(value) = self.binds.get(&var.id)
                    && wanted.insert(var.id)
                {
                    open.push(value);
                }
            });
        }
        let is = |scalar: &&Scalar| matches!(scalar, Scalar::Bind { var, .. } if wanted.contains(&var.id));
        body.iter().filter(is).cloned().collect()
    }
}

/// Is shown a load's buffer and index, and the conditions under which it is evaluated.
type Visit<'v> = dyn FnMut(&Buffer, &[Expr], &[Expr]) + 'v;

/// Calls `load` on every load of an expression that stands in no place of another, with the conditions under which it is evaluated.
fn visit(e: &Expr, conditions: &mut Vec<Expr>, load: &mut Visit<'_>) {
    match e.kind() {
        ExprKind::Load(buffer, index) => load(buffer, index, conditions),
        ExprKind::Select(condition, yes, no) => {
            visit(condition, conditions, load);
            for (side, condition) in [(yes, condition.clone()), (no, !condition.clone())] {
                conditions.push(condition);
                visit(side, conditions, load);
                conditions.pop();
            }
        }
        // These are lazy on truth values.
        ExprKind::Binary(op @ (BinaryOp::And | BinaryOp::Or), a, b) if e.ty() == DType::Bool => {
            visit(a, conditions, load);
            conditions.push(if *op == BinaryOp::And { a.clone() } else { !a.clone() });
            visit(b, conditions, load);
            conditions.pop();
        }
        _ => e.operands().into_iter().for_each(|operand| visit(operand, conditions, load)),
    }
}

/// The expression with elements of tiles in place of what they were loaded for.
fn replace(e: &Expr, conditions: &mut Vec<Expr>, by: &[(Found, Var)]) -> Expr {
    match e.kind() {
        ExprKind::Load(buffer, index) => {
            let of = |(found, _): &&(Found, Var)| {
                found.buffer == *buffer && found.index == *index && found.conditions == *conditions
            };
            by.iter().find(of).map_or_else(|| e.clone(), |(_, var)| Expr::var(var))
        }
        ExprKind::Select(condition, yes, no) => {
            let [yes, no] = [(yes, condition.clone()), (no, !condition.clone())].map(|(side, holds)| {
                conditions.push(holds);
                let side = replace(side, conditions, by);
                conditions.pop();
                side
            });
            replace(condition, conditions, by).select(&yes, no)
        }
        ExprKind::Binary(op @ (BinaryOp::And | BinaryOp::Or), a, b) if e.ty() == DType::Bool => {
            conditions.push(if *op == BinaryOp::And { a.clone() } else { !a.clone() });
            let b = replace(b, conditions, by);
            conditions.pop();
            replace(a, conditions, by).binary(*op, b)
        }
        _ => e.map_operands(&mut |operand| replace(operand, conditions, by)),
    }
}

/// Which axes a load's place depends on.
fn used_axes(axes: &[Var], needed: &[Scalar], load: &Found) -> Vec<bool> {
    let binds = needed.iter().filter_map(|scalar| match scalar {
        Scalar::Bind { value, .. } => Some(value),
        Scalar::Check { .. } => None,
    });
    let all: Vec<&Expr> = load.index.iter().chain(&load.conditions).chain(binds).collect();
    let uses = |axis: &Var| all.iter().any(|e| e.any(&mut |e| matches!(e.kind(), ExprKind::Var(var) if var == axis)));
    axes.iter().map(uses).collect()
}

/// The load, with names of its own.
fn load_tile(program: &mut Program, axes: &[Var], needed: &[Scalar], load: &Found) -> Op {
    let mut renaming = Renaming::default();
    let fresh = |program: &mut Program, renaming: &mut Renaming, var: &Var| {
        let new = program.add_var(&var.name, var.ty);
        renaming.vars.insert(var.id, Expr::var(&new));
        new
    };
    let axes = axes.iter().map(|axis| fresh(program, &mut renaming, axis)).collect();
    let mut body = vec![];
    for scalar in needed {
        if let Scalar::Bind { var, value } = scalar {
            let value = renaming.expr(value);
            body.push(Scalar::Bind { var: fresh(program, &mut renaming, var), value });
        }
    }
    let mask = load.conditions.iter().fold(Expr::bool(true), |mask, condition| mask.and(renaming.expr(condition)));
    let index = load.index.iter().map(|i| renaming.expr(i)).collect();
    let fill = Expr::int(load.buffer.dtype, 0);
    Op::Load { from: Place::Elements { tensor: load.buffer.clone(), axes, body, index, mask }, fill }
}
