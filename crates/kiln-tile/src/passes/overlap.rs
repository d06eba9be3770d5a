//! Software pipelining of a loop with two dots: the last is delayed by an iteration, so that the first of the next runs before it and what stands
//! between them is computed under products.
//!
//! ```text
//! for i { s = dot(q, k[i]); (p, acc') = f(s, acc); acc = dot(p, v[i], acc') }
//! ```
//! becomes
//! ```text
//! s = dot(q, k[0]); (p, acc') = f(s, acc)
//! for i from 1 { s = dot(q, k[i]); acc = dot(p, v[i - 1], acc'); (p, acc') = f(s, acc) }
//! acc = dot(p, v[last], acc')
//! ```

use super::feeds::operands;
use crate::expr::Expr;
use crate::ir::{Block, Op, Operand, Program, Renaming, Stmt, ValueId};
use crate::pass::facts::Facts;
use std::collections::HashMap;

/// Runs the pass if the schedule asks for it.
pub fn overlap(program: &mut Program) {
    if program.schedule.overlap {
        let body = std::mem::take(&mut program.body);
        let mut facts = Facts::of(&program.params);
        for axis in &program.domain {
            facts.set_axis(&axis.var, &axis.extent);
        }
        program.body = block(program, &mut facts, body);
    }
}

fn block(program: &mut Program, facts: &mut Facts, from: Block) -> Block {
    let mut out = vec![];
    for mut stmt in from {
        match &stmt.op {
            Op::Bind { var, value, .. } => facts.bind(var, value, 1),
            Op::For { var, start, end, step, .. } => facts.set_loop(var, start, end, step),
            _ => {}
        }
        match delay(program, &stmt) {
            Some(Delayed { block, results, runs }) => {
                let least = facts.range(&runs.1).lo - facts.range(&runs.0).hi;
                if least > 0 {
                    let renamed = stmt.results.iter().copied().zip(results.iter().copied());
                    // The loop's results keep their names.
                    let renaming =
                        Renaming { tiles: renamed.map(|(old, new)| (new, old)).collect(), ..Renaming::default() };
                    let mut block = block;
                    renaming.apply(&mut block);
                    out.extend(block);
                } else {
                    let Op::For { carried, .. } = &stmt.op else { continue };
                    let none = carried.iter().map(|(_, first)| *first).collect();
                    let cond = runs.0.lt(&runs.1);
                    let op = Op::If { cond, then: (block, results), otherwise: (vec![], none) };
                    out.push(Stmt { results: stmt.results.clone(), op });
                }
            }
            None => {
                for inner in stmt.op.blocks_mut() {
                    *inner = self::block(program, facts, std::mem::take(inner));
                }
                out.push(stmt);
            }
        }
    }
    out
}

struct Delayed {
    block: Block,
    /// What the loop's results are.
    results: Vec<ValueId>,
    /// From where to where the loop runs.
    runs: (Expr, Expr),
}

/// The loop with its last dot an iteration later, if it has two and nothing else waits for the last.
fn delay(program: &mut Program, stmt: &Stmt) -> Option<Delayed> {
    let Op::For { var, start, end, step, carried, body, yields, stages } = &stmt.op else { return None };
    let dots: Vec<usize> = (0..body.len()).filter(|&i| matches!(body[i].op, Op::Dot { .. })).collect();
    let (&first, &last) = (dots.first()?, dots.last()?);
    let Op::Dot { a: Operand::Tile(left), b, acc, tf32, atom } = &body[last].op else { return None };
    let sum = body[last].results[0];
    let position = yields.iter().position(|value| *value == sum)?;
    let total = carried[position].0;
    let once = yields.iter().filter(|value| **value == sum).count() == 1;
    if first == last || !once || body.iter().any(|stmt| stmt.used().contains(&sum)) {
        return None;
    }
    // The sum is not known before the first dot any more.
    if body[..=first].iter().any(|stmt| stmt.used().contains(&total)) {
        return None;
    }
    // What only the last dot multiplies moves with it: loads, which need nothing but where they are.
    let only = |value: &ValueId| body.iter().enumerate().all(|(i, s)| i == last || !s.used().contains(value));
    let others = operands(&body[last].op).into_iter().filter(|value| value != left);
    let moved: Vec<ValueId> = others.filter(|v| body.iter().any(|s| s.results.contains(v))).collect();
    let loads = |value: &ValueId| body.iter().any(|s| matches!(s.op, Op::Load { .. }) && s.results.contains(value));
    if !moved.iter().all(|value| loads(value) && only(value) && !yields.contains(value)) {
        return None;
    }
    let late = |s: &Stmt| s.results.iter().any(|value| *value == sum || moved.contains(value));
    let (head, tail): (Block, Block) = {
        let stay = |range: &[Stmt]| range.iter().filter(|s| !late(s)).cloned().collect();
        (stay(&body[..=first]), stay(&body[first + 1..]))
    };
    let brings: Block = body[..last].iter().filter(|s| late(s)).cloned().collect();
    let delayed = |program: &mut Program, at: Expr, left: ValueId, acc: ValueId| {
        let mut renaming = Renaming::iteration(body, var, at);
        let mut out = program.copy_block(&brings, &mut renaming);
        let b = match b {
            Operand::Tile(value) => Operand::Tile(renaming.tile(*value)),
            other => other.clone(),
        };
        let result = program.add_like(sum);
        let op = Op::Dot { a: Operand::Tile(left), b, acc, tf32: *tf32, atom: atom.clone() };
        out.push(Stmt { results: vec![result], op });
        (out, result)
    };

    // The first iteration without its last dot.
    let mut renaming = Renaming { vars: HashMap::from([(var.id, start.clone())]), ..Renaming::default() };
    renaming.tiles.extend(carried.iter().copied());
    let mut out = program.copy_block(&head, &mut renaming);
    out.extend(program.copy_block(&tail, &mut renaming));
    let others = |value: &ValueId| *value != sum;
    let mut firsts: Vec<ValueId> = yields.iter().filter(|v| others(v)).map(|value| renaming.tile(*value)).collect();
    firsts.extend([renaming.tile(*left), renaming.tile(*acc)]);

    // The loop over the rest.
    let (held_left, held_acc) = (program.add_like(*left), program.add_like(*acc));
    let (dot, result) = delayed(program, Expr::var(var) - step, held_left, held_acc);
    let mut inner = head;
    inner.extend(dot);
    inner.extend(tail);
    let renaming = Renaming { tiles: HashMap::from([(total, result)]), ..Renaming::default() };
    renaming.apply(&mut inner);
    let mut inside: Vec<ValueId> =
        carried.iter().enumerate().filter(|(i, _)| *i != position).map(|(_, (inside, _))| *inside).collect();
    inside.extend([held_left, held_acc]);
    let mut next: Vec<ValueId> = yields.iter().copied().filter(others).collect();
    next.extend([*left, *acc]);
    next.iter_mut().for_each(|value| *value = renaming.tile(*value));
    let results: Vec<ValueId> = inside.iter().map(|value| program.add_like(*value)).collect();
    let op = Op::For {
        var: var.clone(),
        start: start + step,
        end: end.clone(),
        step: step.clone(),
        carried: inside.into_iter().zip(firsts).collect(),
        body: inner,
        yields: next,
        stages: *stages,
    };
    out.push(Stmt { results: results.clone(), op });

    // The last dot of the last iteration.
    let (rest, tail) = results.split_at(results.len() - 2);
    let at = start + &((end - start - 1) / step * step);
    let (dot, result) = delayed(program, at, tail[0], tail[1]);
    out.extend(dot);
    let mut results = rest.to_vec();
    results.insert(position, result);
    Some(Delayed { block: out, results, runs: (start.clone(), end.clone()) })
}
