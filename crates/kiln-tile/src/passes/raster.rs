//! Which CTA takes which point of the domain, in bands along the last two axes that share what they read in L2; a persistent grid takes point
//! after point.

use crate::dtype::Type;
use crate::expr::Expr;
use crate::ir::{Grid, Op, Program, Stmt};
use crate::program::{Axis, product};

/// Runs the pass: the domain becomes one axis of CTAs.
pub fn raster(program: &mut Program) {
    let domain = std::mem::take(&mut program.domain);
    let mut body = std::mem::take(&mut program.body);
    let points = product(&domain);
    let cta = program.add_var("cta", Type::Index);
    let persistent = program.schedule.persistent;
    let point = if persistent { program.add_var("point", Type::Index) } else { cta.clone() };
    let mut binds = place(program, &domain, &Expr::var(&point));
    binds.append(&mut body);
    if !persistent {
        program.domain = vec![Axis { var: cta, extent: points }];
        program.body = binds;
        return;
    }
    let count = program.add_var("ctas", Type::Index);
    let (start, end, step) = (Expr::var(&cta), points.clone(), Expr::var(&count));
    program.domain = vec![Axis { var: cta, extent: Expr::var(&count) }];
    program.grid = Grid::Persistent { per_sm: 1, count, points };
    let op = Op::For { var: point, start, end, step, carried: vec![], body: binds, yields: vec![], stages: None };
    program.body = vec![Stmt::effect(op)];
}

/// Names the coordinates of `point`: the axes before the last two vary slowest; of those two, `raster` tiles along the first are taken before the
/// second moves on.
fn place(program: &mut Program, domain: &[Axis], point: &Expr) -> Vec<Stmt> {
    let mut out = vec![];
    let mut bind = |program: &mut Program, name: &str, value: Expr| {
        let var = program.add_var(name, Type::Index);
        out.push(Stmt::effect(Op::Bind { var: var.clone(), value, below: None }));
        Expr::var(&var)
    };
    let mut named = vec![];
    match domain {
        [.., rows, cols] if program.schedule.raster > 1 => {
            let group = i64::from(program.schedule.raster);
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
    out.extend(named.into_iter().map(|(axis, value)| {
        Stmt::effect(Op::Bind { var: axis.var.clone(), value, below: Some(axis.extent.clone()) })
    }));
    out
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
