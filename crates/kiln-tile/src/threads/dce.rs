//! Takes out what nobody reads: assignments to and declarations of variables whose values reach no effect, and what is empty then.

use super::{Block, Kernel, Place, Stmt, Var};
use std::collections::HashSet;

/// Removes dead code from a kernel.
pub fn dce(kernel: &mut Kernel) {
    let mut live = HashSet::new();
    // Every round finds what the values of the last one's variables are made of.
    loop {
        let known = live.len();
        mark(&kernel.body, &mut live);
        if live.len() == known {
            break;
        }
    }
    sweep(&mut kernel.body, &live);
}

/// The variable that the statement does nothing but give a value.
fn defines(stmt: &Stmt) -> Option<&Var> {
    match stmt {
        Stmt::Declare { var, .. } => Some(var),
        Stmt::Assign(place, _) => Some(place.var()),
        _ => None,
    }
}

/// Adds the variables that live statements read; tells whether any statement is live.
fn mark(block: &Block, live: &mut HashSet<Var>) -> bool {
    let mut any = false;
    for stmt in block.iter().rev() {
        let mut inside = false;
        for block in stmt.blocks() {
            inside |= mark(block, live);
        }
        let needed = match stmt {
            Stmt::Comment(_) => false,
            Stmt::For { .. } | Stmt::If { .. } => inside,
            _ => defines(stmt).is_none_or(|var| live.contains(var)),
        };
        if needed {
            any = true;
            stmt.exprs().into_iter().for_each(|e| e.vars(&mut |var| _ = live.insert(var.clone())));
            if let Stmt::Instruction(instruction) = stmt {
                let places = instruction.accumulators.iter().chain(&instruction.results);
                live.extend(places.map(Place::var).cloned());
            }
        }
    }
    any
}

fn sweep(block: &mut Block, live: &HashSet<Var>) {
    block.iter_mut().for_each(|stmt| stmt.blocks_mut().into_iter().for_each(|block| sweep(block, live)));
    block.retain(|stmt| match stmt {
        Stmt::For { .. } | Stmt::If { .. } => {
            stmt.blocks().into_iter().any(|block| block.iter().any(|stmt| !matches!(stmt, Stmt::Comment(_))))
        }
        stmt => defines(stmt).is_none_or(|var| live.contains(var)),
    });
}

#[cfg(test)]
mod tests {
    use super::super::{Effect, Expr, Scalar, Ty};
    use super::*;

    fn var(id: u32, ty: Ty) -> Var {
        Var::new(id, "x", ty)
    }

    fn kernel(body: Block) -> Kernel {
        Kernel {
            name: "k".into(),
            comment: String::new(),
            params: vec![],
            threads: 32,
            min_ctas: None,
            max_registers: None,
            cluster: 1,
            shared: 0,
            body,
        }
    }

    #[test]
    fn chains_and_arrays_that_reach_no_effect_go() {
        let int = Ty::Scalar(Scalar::I32);
        let [a, b, c, i, j] = [0, 1, 2, 3, 4].map(|id| var(id, int));
        let (kept, dead) = (var(5, Ty::Array(Scalar::I32, 4)), var(6, Ty::Array(Scalar::I32, 4)));
        let fill =
            |array: &Var, i: &Var, value: Expr| Stmt::unrolled(i, 4, vec![Stmt::Assign(array.place(i.into()), value)]);
        let barrier = Stmt::Effect(Effect::NamedBarrier { id: kept.at(Expr::int(1)), threads: 32, wait: true });
        let body = vec![
            Stmt::constant(&a, Expr::thread()),
            Stmt::constant(&b, Expr::from(&a).plus(Expr::int(1))),
            Stmt::constant(&c, Expr::from(&a).times(Expr::int(2))),
            Stmt::declare(&kept),
            Stmt::declare(&dead),
            fill(&kept, &i, Expr::from(&c)),
            fill(&dead, &j, Expr::from(&b)),
            barrier,
        ];
        let mut made = kernel(body.clone());
        dce(&mut made);
        assert_eq!(made.body, [0, 2, 3, 5, 7].map(|at: usize| body[at].clone()));
    }

    /// A value that goes round a loop is read by the next iteration.
    #[test]
    fn what_a_loop_carries_stays() {
        let int = Ty::Scalar(Scalar::I32);
        let [sum, next, i] = [0, 1, 2].map(|id| var(id, int));
        let body = vec![
            Stmt::Declare { var: sum.clone(), value: Some(Expr::int(0)), constant: false },
            Stmt::unrolled(
                &i,
                4,
                vec![
                    Stmt::constant(&next, Expr::from(&sum).plus(Expr::from(&i))),
                    Stmt::Assign(Place::Var(sum.clone()), Expr::from(&next)),
                ],
            ),
            Stmt::Effect(Effect::NamedBarrier { id: Expr::from(&sum), threads: 32, wait: true }),
        ];
        let mut made = kernel(body.clone());
        dce(&mut made);
        assert_eq!(made.body, body);
        made.body.pop();
        dce(&mut made);
        assert!(made.body.is_empty());
    }
}
