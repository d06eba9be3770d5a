//! Which CTA takes which point of the domain, in bands along the last two axes that share what they read in L2; a persistent grid takes point
//! after point. CTAs of a cluster have neighbouring points along an axis.
//!
//! Where loops are longer at some points than at others, families put the long ones first. If the CTAs of a persistent grid took them in one order
//! in every round, the first would have the longest each time: so every other round goes backwards, and the last, which may not be whole,
//! forwards.

use crate::dtype::Type;
use crate::expr::{Expr, ExprKind};
use crate::ir::{Block, Grid, Op, Program, Stmt};
use crate::program::{Axis, product};
use std::collections::HashSet;

/// Runs the pass: the domain becomes one axis of CTAs.
pub fn raster(program: &mut Program) {
    let axis = program.cluster_axis();
    let mut domain = std::mem::take(&mut program.domain);
    let mut body = std::mem::take(&mut program.body);
    let points = product(&domain);
    let cta = program.add_var("cta", Type::Index);
    let persistent = program.schedule.persistent;
    let ctas = i64::from(program.schedule.cluster);
    let mut out = vec![];
    // Clusters take points of a coarser domain, and CTAs their own of those.
    let mut rank = None;
    let mut first = Expr::var(&cta);
    if let Some(axis) = axis {
        let var = program.add_var("rank", Type::Index);
        rank = Some((axis, Expr::var(&var)));
        out.push(Stmt::effect(Op::Bind { var, value: &first % ctas, below: None }));
        first = &first / ctas;
        domain[axis].extent = &domain[axis].extent / ctas;
    }
    if !persistent {
        let point = if axis.is_some() { bind(program, "cluster", first, &mut out) } else { first };
        place(program, &domain, &point, rank, &mut out);
        out.append(&mut body);
        program.domain = vec![Axis { var: cta, extent: points }];
        program.body = out;
        return;
    }
    let point = program.add_var("point", Type::Index);
    let count = program.add_var("ctas", Type::Index);
    let each = |e: &Expr| if axis.is_some() { e / ctas } else { e.clone() };
    let (end, step) = (each(&points), each(&Expr::var(&count)));
    let mut inner = vec![];
    let mut taken = Expr::var(&point);
    if uneven(&domain, &body) {
        let round = bind(program, "round", &taken - &first, &mut inner);
        let backwards = ((&end - 1 - &round) / &step % 2).eq(1);
        let var = program.add_var("taken", Type::Index);
        let value = backwards.select(&(round + &step - 1 - &first), taken);
        taken = Expr::var(&var);
        inner.push(Stmt::effect(Op::Bind { var, value, below: Some(end.clone()) }));
    }
    place(program, &domain, &taken, rank, &mut inner);
    inner.append(&mut body);
    program.domain = vec![Axis { var: cta, extent: Expr::var(&count) }];
    program.grid = Grid::Persistent { per_sm: 1, count, points };
    let op =
        Op::For { var: point, start: first, end, step, carried: vec![], body: inner, yields: vec![], stages: None };
    out.push(Stmt::effect(op));
    program.body = out;
}

/// Whether how often a loop runs depends on the point. CTAs that wait for those before them take points in order.
fn uneven(domain: &[Axis], body: &Block) -> bool {
    let mut of_point: HashSet<u32> = domain.iter().map(|axis| axis.var.id).collect();
    let (mut found, mut ordered) = (false, false);
    for stmt in body {
        stmt.walk(&mut |stmt| {
            let depends =
                |e: &Expr| e.any(&mut |e| matches!(e.kind(), ExprKind::Var(var) if of_point.contains(&var.id)));
            match &stmt.op {
                Op::Bind { var, value, .. } if depends(value) => {
                    of_point.insert(var.id);
                }
                Op::For { start, end, .. } => found |= depends(start) || depends(end),
                Op::Await { .. } | Op::Signal { .. } => ordered = true,
                _ => {}
            }
        });
    }
    found && !ordered
}

fn bind(program: &mut Program, name: &str, value: Expr, out: &mut Block) -> Expr {
    let var = program.add_var(name, Type::Index);
    out.push(Stmt::effect(Op::Bind { var: var.clone(), value, below: None }));
    Expr::var(&var)
}

/// Names the coordinates of `point`: the axes before the last two vary slowest; of those two, `raster` tiles along the first are taken before the
/// second moves on. Of a cluster's point each CTA has its own, by its `rank` along an axis.
fn place(program: &mut Program, domain: &[Axis], point: &Expr, rank: Option<(usize, Expr)>, out: &mut Block) {
    let ctas = program.schedule.cluster;
    let mut bind = |program: &mut Program, name: &str, value: Expr| bind(program, name, value, out);
    let mut named = vec![];
    match domain {
        [.., rows, cols] if program.schedule.raster > 1 => {
            let rows_apart = rank.as_ref().is_some_and(|(axis, _)| axis + 2 == domain.len());
            let group = i64::from((program.schedule.raster / if rows_apart { ctas } else { 1 }).max(1));
            let (m, n) = (&rows.extent, &cols.extent);
            let mut rest = point.clone();
            if domain.len() > 2 {
                let plane = bind(program, "plane", m * n);
                let slow = point / &plane;
                rest = bind(program, "rest", point % &plane);
                named.extend(unravel(&domain[..domain.len() - 2], &slow));
            }
            let band = bind(program, "band", n * group);
            let first = bind(program, "first", &rest / &band * group);
            let high = bind(program, "high", (m - &first).min(group).max(1));
            let within = bind(program, "within", &rest % &band);
            named.push((rows, &first + &within % &high));
            named.push((cols, &within / &high));
        }
        _ => named.extend(unravel(domain, point)),
    }
    for (i, (axis, value)) in named.into_iter().enumerate() {
        let (value, below) = match &rank {
            Some((at, rank)) if *at == i => (value * i64::from(ctas) + rank, &axis.extent * i64::from(ctas)),
            _ => (value, axis.extent.clone()),
        };
        out.push(Stmt::effect(Op::Bind { var: axis.var.clone(), value, below: Some(below) }));
    }
}

/// The coordinates along `axes` of a row-major position.
fn unravel<'a>(axes: &'a [Axis], position: &Expr) -> Vec<(&'a Axis, Expr)> {
    let mut rest = position.clone();
    let mut out = vec![];
    for (i, axis) in axes.iter().enumerate().rev() {
        if i == 0 {
            out.push((axis, rest.clone()));
        } else {
            out.push((axis, &rest % &axis.extent));
            rest = &rest / &axis.extent;
        }
    }
    out.reverse();
    out
}
