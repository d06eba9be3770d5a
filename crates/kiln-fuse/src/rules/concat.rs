//! Elementwise ops before a concat instead of after it, where its parts are made of the halves of a value: `y cos + [-y2 y1] sin`, as exported models have a rotary embedding, is
//! `[y1 cos1 - y2 sin1, y2 cos2 + y1 sin2]`, of which each half is made of both halves of `y`.

use super::{Match, Rule, rule};
use crate::Numerics::Exact;
use crate::Result;
use egg::Id;
use kiln_graph::{BinaryOp, Dim, Op};

const REASON: &str = "each half of the result is made of halves";
/// Elementwise ops between a part and a half of a value, at most, and through which what stands beside is taken apart.
const STEPS: usize = 4;

pub(super) fn rules() -> Result<Vec<Rule>> {
    let mut rules = vec![rule("concat-last-cast", REASON, Exact, "(cast ?c (concat ?a ?x ?y))", |m, [c, a, x, y]| {
        let cast = m.attr(c)?;
        joined(m, a, [x, y], |m, part, _| m.add(cast.clone(), &[part]))
    })?];
    for op in [BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul] {
        let pattern = format!("({op} (concat ?a ?x ?y) ?z)");
        rules.push(rule(format!("concat-last-{op}"), REASON, Exact, &pattern, move |m, [a, x, y, z]| {
            joined(m, a, [x, y], |m, part, place| {
                let beside = half(m, z, place, STEPS)?;
                m.add(Op::Binary(op), &[part, beside])
            })
        })?);
        let pattern = format!("({op} ?z (concat ?a ?x ?y))");
        rules.push(rule(format!("concat-last-{op}-right"), REASON, Exact, &pattern, move |m, [z, a, x, y]| {
            joined(m, a, [x, y], |m, part, place| {
                let beside = half(m, z, place, STEPS)?;
                m.add(Op::Binary(op), &[beside, part])
            })
        })?);
    }
    Ok(rules)
}

/// A half of an axis.
#[derive(Clone, Copy)]
struct Half {
    axis: usize,
    extent: i64,
    /// 0 or 1.
    which: i64,
}

/// A concat of what `each` makes of two parts of one shape that are made of halves.
fn joined(
    m: &mut Match,
    a: Id,
    parts: [Id; 2],
    mut each: impl FnMut(&mut Match, Id, Half) -> Option<Id>,
) -> Option<Id> {
    let Op::Concat { axis } = m.attr(a)? else { return None };
    let shape = m.shape(parts[0])?;
    let extent = shape[axis].as_const()?;
    if m.shape(parts[1])? != shape || !parts.iter().all(|part| is_made_of_half(m, *part, axis, extent, STEPS)) {
        return None;
    }
    let mut found = vec![];
    for (which, part) in (0..).zip(parts) {
        found.push(each(m, part, Half { axis, extent, which })?);
    }
    m.add(Op::Concat { axis }, &found)
}

/// Whether elementwise ops make a value of half of another, so many from an end of `axis`.
fn is_made_of_half(m: &Match, id: Id, axis: usize, extent: i64, steps: usize) -> bool {
    m.ways(id).iter().any(|(op, on)| match op {
        Op::Slice { starts, sizes, steps } => {
            let all = |axis: usize| m.shape(on[0]).is_some_and(|from| from[axis] == sizes[axis]);
            let half = m.shape(on[0]).is_some_and(|from| from[axis].is(2 * extent)) && sizes[axis].is(extent);
            let end = starts[axis].is(0) || starts[axis].is(extent);
            half && end && steps.iter().all(|step| *step == 1) && (0..sizes.len()).all(|a| a == axis || all(a))
        }
        Op::Unary(_) | Op::Binary(_) | Op::Cast { .. } if steps > 0 => {
            on.iter().any(|id| is_made_of_half(m, *id, axis, extent, steps - 1))
        }
        _ => false,
    })
}

/// Half of a value: of what it repeats or is put together of, or of what elementwise ops make it of.
fn half(m: &mut Match, id: Id, place: Half, steps: usize) -> Option<Id> {
    let Half { axis, extent, which } = place;
    let mut sizes = m.shape(id)?;
    sizes[axis] = Dim::from(extent);
    let mut starts = vec![Dim::from(0); sizes.len()];
    starts[axis] = Dim::from(extent * which);
    let slice = Op::Slice { starts, sizes: sizes.clone(), steps: vec![1; sizes.len()] };
    // What the model has already meets others of its kind.
    if let Some(found) = m.find(&slice, &[id]) {
        return Some(found);
    }
    let mut ways = m.ways(id);
    ways.sort_by_key(|(op, _)| match op {
        Op::Broadcast { .. } => 0,
        Op::Concat { .. } => 1,
        _ => 2,
    });
    for (op, on) in ways {
        match &op {
            Op::Broadcast { .. } => {
                let from = m.shape(on[0])?;
                let own = (axis + from.len()).checked_sub(sizes.len()).filter(|own| !from[*own].is(1));
                let narrow = match own {
                    Some(own) => half(m, on[0], Half { axis: own, ..place }, steps)?,
                    None => on[0],
                };
                return m.add(Op::Broadcast { shape: sizes }, &[narrow]);
            }
            Op::Concat { axis: own } if *own == axis && on.len() == 2 && m.shape(on[0]).as_ref() == Some(&sizes) => {
                return Some(on[which as usize]);
            }
            Op::Unary(_) | Op::Binary(_) | Op::Cast { .. } if steps > 0 => {
                let halves: Option<Vec<Id>> = on.iter().map(|id| half(m, *id, place, steps - 1)).collect();
                return m.add(op, &halves?);
            }
            _ => {}
        }
    }
    m.add(slice, &[id])
}
