//! The interpreter on programs with roles and channels, written by hand: values, and what is wrong with a broken one.

use crate::tiles::f32;
use crate::tiles::random::{close, dims, poison, product, random};
use kiln_tile::interp::Arg;
use kiln_tile::ir::{
    Block, Builder, Channel, ChannelId, CopyKind, Grid, Level, Op, Operand, Place, Program, Role, Shared, SharedId,
    Slot, Stage, Stmt, ValueId, View, interp,
};
use kiln_tile::program::Axis;
use kiln_tile::{Array, DType, Expr, TileError, Type, Var};
use std::num::NonZeroU32;

const TILE: [u32; 3] = [8, 16, 4];

/// The channel of operands, and that of results.
const OPERANDS: ChannelId = ChannelId(0);
const RESULTS: ChannelId = ChannelId(1);

/// A product under construction: `y = a b`. Parameters: `m, n, k, a, b, y`.
struct Parts {
    program: Program,
    /// The boxes of `a`, `b` and `y`.
    views: [View; 3],
    /// Extent of K.
    depth: Expr,
}

/// Shared buffers `a`, `b` and `y` of [`TILE`], with a channel for `a` and `b` and one for `y`.
fn parts(stages: u32, at: impl FnOnce(&mut Builder, [&Expr; 2]) -> [Expr; 2]) -> (Parts, Var) {
    let mut k = Builder::new("roles", "y = a b");
    let [m, n, depth] = ["m", "n", "k"].map(|name| k.dim(name, 1..=1 << 16, 1));
    let a = k.input("a", DType::F16, &[m.clone(), depth.clone()]);
    let b = k.input("b", DType::F16, &[depth.clone(), n.clone()]);
    let y = k.output("y", DType::F32, &[m.clone(), n.clone()]);
    let p = k.var("p", Type::Index);
    let [bm, bn, bk] = TILE;
    let [i, j] = at(&mut k, [&m.ceil_div(i64::from(bm)), &n.ceil_div(i64::from(bn))]);
    let (m0, n0) = (i * i64::from(bm), j * i64::from(bn));
    let views = [
        k.view(&a, &[m0.clone(), Expr::var(&p)], &[bm, bk]),
        k.view(&b, &[Expr::var(&p), n0.clone()], &[bk, bn]),
        k.view(&y, &[m0, n0], &[bm, bn]),
    ];
    let mut program = k.finish().unwrap();
    program.level = Level::Selected;
    for (view, stages) in views.iter().zip([stages, stages, 1]) {
        let (name, dtype, shape) = (view.tensor.name.as_str().into(), view.tensor.dtype, view.shape.clone());
        program.shared.push(Shared { name, dtype, shape, stages, layout: None, offset: None });
    }
    for (name, buffers, stages) in [("operands", vec![0, 1], stages), ("results", vec![2], 1)] {
        let buffers = buffers.into_iter().map(SharedId).collect();
        program.channels.push(Channel { name: name.into(), buffers, stages, kind: CopyKind::Tma });
    }
    (Parts { program, views, depth }, p)
}

fn effect(op: Op) -> Stmt {
    Stmt::effect(op)
}

fn slot(buffer: u32, channel: ChannelId) -> Slot {
    Slot { buffer: SharedId(buffer), stage: Stage::Cursor(channel) }
}

impl Parts {
    fn copy(&self, which: usize) -> Stmt {
        let (from, to) = (self.views[which].clone(), slot(which as u32, OPERANDS));
        effect(Op::Copy { from, to, kind: CopyKind::Tma, barrier: None })
    }

    fn copies(&self) -> Block {
        vec![effect(Op::Acquire(OPERANDS)), self.copy(0), self.copy(1), effect(Op::Publish(OPERANDS))]
    }

    fn along(&self, p: &Var, carried: Vec<(ValueId, ValueId)>, body: Block, yields: Vec<ValueId>) -> Op {
        let (var, start, end, step) = (p.clone(), Expr::index(0), self.depth.clone(), Expr::index(TILE[2].into()));
        Op::For { var, start, end, step, carried, body, yields, stages: None }
    }

    /// The loop that multiplies what is received, and its result.
    fn products(&mut self, p: &Var) -> (Block, ValueId) {
        let shape = [TILE[0], TILE[1]];
        let [zero, inside, sum, last] =
            ["zero", "inside", "sum", "last"].map(|name| self.program.add_value(name, DType::F32, &shape));
        let [a, b] = [0, 1].map(|buffer| Operand::Shared(slot(buffer, OPERANDS)));
        let dot = Stmt { results: vec![sum], op: Op::Dot { a, b, acc: inside, tf32: None, atom: Some("fma".into()) } };
        let body = vec![effect(Op::Receive(OPERANDS)), dot, effect(Op::Release(OPERANDS))];
        let op = self.along(p, vec![(inside, zero)], body, vec![sum]);
        (vec![Stmt { results: vec![zero], op: Op::Full { value: f32(0.0) } }, Stmt { results: vec![last], op }], last)
    }

    fn store(&self, value: ValueId) -> Stmt {
        effect(Op::Store { to: Place::View(self.views[2].clone()), value })
    }
}

fn role(name: &str, body: Block) -> Role {
    Role { name: name.into(), warps: 4, groups: None, registers: None, body }
}

fn points(k: &mut Builder, [m, n]: [&Expr; 2]) -> [Expr; 2] {
    let at = k.grid(&[("i", m.clone()), ("j", n.clone())]);
    [at[0].clone(), at[1].clone()]
}

/// A producer and a consumer, whose result goes through shared memory.
fn specialised(stages: u32) -> Program {
    let (mut parts, p) = parts(stages, points);
    let producer = vec![effect(parts.along(&p, vec![], parts.copies(), vec![]))];
    let (mut consumer, sum) = parts.products(&p);
    let moved = parts.program.add_like(sum);
    consumer.extend([
        Stmt { results: vec![moved], op: Op::Convert { value: sum } },
        effect(Op::Acquire(RESULTS)),
        effect(Op::SharedStore { to: slot(2, RESULTS), value: moved }),
        effect(Op::Sync),
        effect(Op::CopyOut { from: slot(2, RESULTS), to: parts.views[2].clone() }),
        effect(Op::Publish(RESULTS)),
        effect(Op::Receive(RESULTS)),
        effect(Op::Release(RESULTS)),
    ]);
    parts.program.body = vec![effect(Op::Roles(vec![role("producer", producer), role("consumer", consumer)]))];
    parts.program
}

/// One role that copies `stages - 1` iterations ahead of its products.
fn ahead(stages: u32) -> Program {
    let (mut parts, p) = parts(stages, points);
    let fetch = |program: &mut Program, copies: &Block, at: Expr, end: &Expr| {
        let mut renaming = kiln_tile::ir::Renaming::default();
        renaming.vars.insert(p.id, at.clone());
        let then = program.copy_block(copies, &mut renaming);
        effect(Op::If { cond: at.lt(end), then: (then, vec![]), otherwise: (vec![], vec![]) })
    };
    let (copies, depth) = (parts.copies(), parts.depth.clone());
    let step = i64::from(TILE[2]);
    let first = i64::from(stages) - 1;
    let mut body: Block =
        (0..first).map(|i| fetch(&mut parts.program, &copies, Expr::index(i * step), &depth)).collect();
    let (mut products, sum) = parts.products(&p);
    let next = fetch(&mut parts.program, &copies, Expr::var(&p) + first * step, &depth);
    if let Op::For { body, .. } = &mut products[1].op {
        body.insert(0, next);
    }
    body.extend(products);
    body.push(parts.store(sum));
    parts.program.body = body;
    parts.program
}

/// A producer and two consumers of the same slots; each CTA takes point after point.
fn persistent() -> Program {
    let mut loops = None;
    let (mut parts, p) = parts(3, |k, [m, n]| {
        let [cta, count, point] = ["cta", "count", "point"].map(|name| k.var(name, Type::Index));
        let at = [Expr::var(&point) / n, Expr::var(&point) % n];
        loops = Some((cta, count, point, m * n));
        at
    });
    let (cta, count, point, points) = loops.unwrap();
    let each = |body: Block| {
        let (start, end, step) = (Expr::var(&cta), points.clone(), Expr::var(&count));
        effect(Op::For { var: point.clone(), start, end, step, carried: vec![], body, yields: vec![], stages: None })
    };
    let mut roles = vec![role("producer", vec![each(vec![effect(parts.along(&p, vec![], parts.copies(), vec![]))])])];
    for (name, rows) in [("upper", 0..5), ("lower", 5..8)] {
        let (mut body, sum) = parts.products(&p);
        let [i, j] = ["i", "j"].map(|name| parts.program.add_var(name, Type::Index));
        let mut view = parts.views[2].clone();
        view.masked = vec![true; 2];
        let at = [Expr::var(&i), Expr::var(&j)];
        let mine = at[0].ge(rows.start).and(at[0].lt(rows.end));
        let to = Place::Elements {
            tensor: view.tensor.clone(),
            axes: vec![i, j],
            body: vec![],
            index: view.index(&at),
            mask: mine.and(view.mask(&at)),
        };
        body.push(effect(Op::Store { to, value: sum }));
        roles.push(role(name, vec![each(body)]));
    }
    parts.program.body = vec![effect(Op::Roles(roles))];
    parts.program.domain = vec![Axis { var: cta, extent: Expr::var(&count) }];
    parts.program.grid = Grid::Persistent { per_sm: 1, count, points };
    parts.program
}

/// Arguments, and `y`.
fn case([m, n, k]: [usize; 3]) -> (Vec<Arg>, Vec<f64>) {
    let mut r = random();
    let (a, b) = (r.array(DType::F16, m * k), r.array(DType::F16, k * n));
    let expected = product(&a.to_f64(), &b.to_f64(), [m, n, k], [false; 2]).0;
    let mut args = dims([m, n, k]);
    args.extend([a, b].map(Arg::Array));
    args.push(poison(DType::F32, m * n));
    (args, expected)
}

fn result(args: &[Arg]) -> Vec<f64> {
    args.last().and_then(Arg::array).map(Array::to_f64).unwrap()
}

#[test]
fn a_producer_and_a_consumer_multiply() {
    for stages in [1, 2, 3] {
        for sizes in [[1, 1, 1], [8, 16, 12], [19, 37, 23]] {
            for program in [specialised(stages), ahead(stages)] {
                let (mut args, expected) = case(sizes);
                interp::run(&program, &mut args).unwrap();
                close(&result(&args), &expected, 1e-5);
            }
        }
    }
}

#[test]
fn two_consumers_and_any_number_of_ctas() {
    for ctas in [1, 2, 5, 100] {
        for sizes in [[1, 1, 1], [19, 37, 23]] {
            let (mut args, expected) = case(sizes);
            interp::run_on(&persistent(), NonZeroU32::new(ctas).unwrap(), &mut args).unwrap();
            close(&result(&args), &expected, 1e-5);
        }
    }
}

/// The error of a program in which `change` was done to every block.
fn broken(mut program: Program, change: &mut dyn FnMut(&mut Block)) -> TileError {
    let before = program.body.clone();
    crate::tiles::blocks_mut(&mut program.body, change);
    assert_ne!(before, program.body, "nothing was changed");
    let (mut args, _) = case([9, 5, 21]);
    interp::run(&program, &mut args).unwrap_err()
}

#[test]
fn a_deadlock_names_what_each_role_waits_for() {
    let error = broken(specialised(2), &mut |block| block.retain(|stmt| !matches!(stmt.op, Op::Release(OPERANDS))));
    let waits = vec![
        "`producer` waits for a free slot of channel `operands` to publish slot 2".to_owned(),
        "`consumer` waits for slot 2 of channel `operands` to be published".to_owned(),
    ];
    assert_eq!(error, TileError::Deadlock { kernel: "roles".into(), waits });

    // A producer that copies one tile less.
    let error = broken(specialised(2), &mut |block| {
        if let [Stmt { op: Op::For { start, carried, .. }, .. }] = &mut block[..]
            && carried.is_empty()
        {
            *start = Expr::index(TILE[2].into());
        }
    });
    let waits = vec![
        "`producer` has ended".to_owned(),
        "`consumer` waits for slot 5 of channel `operands` to be published".to_owned(),
    ];
    assert_eq!(error, TileError::Deadlock { kernel: "roles".into(), waits });

    // One role that waits for itself.
    let error = broken(ahead(2), &mut |block| block.retain(|stmt| !matches!(stmt.op, Op::Release(_))));
    let waits = vec!["`roles` waits for a free slot of channel `operands` to publish slot 2".to_owned()];
    assert_eq!(error, TileError::Deadlock { kernel: "roles".into(), waits });
}

#[test]
fn a_slot_that_was_not_written_is_reported() {
    let error = broken(specialised(2), &mut |block| {
        block.retain(|stmt| !matches!(&stmt.op, Op::Copy { to, .. } if to.buffer == SharedId(1)))
    });
    let what = "stage 0 of shared buffer `b` is read by `consumer` and was not written".to_owned();
    assert_eq!(error, TileError::Undefined { kernel: "roles".into(), what });
    // Written for the first round only: a released slot holds nothing.
    let error = broken(specialised(2), &mut |block| {
        for stmt in block {
            if let Op::Copy { from, to, .. } = &stmt.op
                && to.buffer == SharedId(1)
            {
                let cond = from.origin[0].lt(2 * i64::from(TILE[2]));
                let copy = stmt.clone();
                stmt.op = Op::If { cond, then: (vec![copy], vec![]), otherwise: (vec![], vec![]) };
                return;
            }
        }
    });
    assert!(matches!(&error, TileError::Undefined { what, .. } if what.contains("stage 0")), "{error}");
}

#[test]
fn slots_are_used_within_their_turn() {
    let swapped = |first: fn(&Op) -> bool| {
        broken(specialised(3), &mut move |block| {
            if let Some(at) = block.iter().position(|stmt| first(&stmt.op)) {
                block.swap(at, at + 1);
            }
        })
    };
    for (error, message) in [
        (swapped(|op| matches!(op, Op::Acquire(OPERANDS))), "no slot here"),
        (swapped(|op| matches!(op, Op::Receive(OPERANDS))), "no slot here"),
        (swapped(|op| matches!(op, Op::Publish(RESULTS))), "deadlock"),
    ] {
        assert!(error.to_string().contains(message), "{error}");
    }
    let twice = |of: fn(&Op) -> bool| {
        broken(specialised(3), &mut move |block| {
            if let Some(at) = block.iter().position(|stmt| of(&stmt.op)) {
                let again = block[at].clone();
                block.insert(at, again);
            }
        })
    };
    for (error, message) in [
        (twice(|op| matches!(op, Op::Acquire(OPERANDS))), "acquired twice"),
        (twice(|op| matches!(op, Op::Publish(OPERANDS))), "published twice"),
        (twice(|op| matches!(op, Op::Release(OPERANDS))), "released when"),
    ] {
        assert!(error.to_string().contains(message), "{error}");
    }
}
