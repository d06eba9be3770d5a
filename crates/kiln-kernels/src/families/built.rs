//! What a family builds: tile programs, and what their parameters are bound to.

use crate::{Argument, Error, Grid, Guard, Packing, Result};
use kiln_graph::Dim;
use kiln_tile::expr::{BinaryOp, Expr, ExprKind};
use kiln_tile::ir;
use kiln_tile::program::{Param, product};
use std::collections::HashMap;

/// One way to make a region, before it is compiled.
#[derive(Clone, Debug)]
pub struct Built {
    /// The kernels, in launch order.
    pub launches: Vec<TileLaunch>,
    /// For which sizes it may run.
    pub guard: Guard,
    /// Bytes of memory that the kernels share, undefined at first: [`Argument::Scratch`].
    pub scratch_bytes: Dim,
    /// Bytes of memory that is zero at first and that they leave zero: [`Argument::Zeroed`].
    pub zeroed_bytes: Dim,
    /// Forms of constant inputs that are made when the engine is built: [`Argument::Packed`].
    pub packed: Vec<Packing>,
}

impl Built {
    /// One kernel that needs nothing but its operands and results, for all sizes.
    pub fn one(launch: TileLaunch) -> Built {
        let none = Dim::from(0);
        Built {
            launches: vec![launch],
            guard: Guard::always(),
            scratch_bytes: none.clone(),
            zeroed_bytes: none,
            packed: vec![],
        }
    }
}

/// One kernel of a [`Built`]: the level between the reference interpreter and CUDA C.
#[derive(Clone, Debug)]
pub struct TileLaunch {
    /// The kernel, at [`ir::Level::Tile`].
    pub program: ir::Program,
    /// One for each parameter of the program, in order.
    pub arguments: Vec<Argument>,
    /// What its checks are of, in the order of their codes.
    pub checks: Vec<String>,
}

impl TileLaunch {
    /// The blocks of `program`, which passes have made of this one's: its domain, over the dims that parameters are bound to.
    ///
    /// # Errors
    /// [`Error::Malformed`] where an extent is not made of parameters by index arithmetic.
    pub fn grid(&self, program: &ir::Program) -> Result<Grid> {
        let known = self.known(program);
        let dim = |e: &Expr| {
            let what = || format!("the grid of `{}` is not a function of its dims", program.name);
            dim_of(e, &known).ok_or_else(|| Error::Malformed { region: program.name.clone(), what: what() })
        };
        Ok(match &program.grid {
            ir::Grid::Points => Grid::Fixed([dim(&product(&program.domain))?, Dim::from(1), Dim::from(1)]),
            ir::Grid::Persistent { per_sm, points, .. } => Grid::Persistent { tiles: dim(points)?, per_sm: *per_sm },
        })
    }
}

impl TileLaunch {
    /// The dims that parameters are bound to, by their variables.
    pub(crate) fn known(&self, program: &ir::Program) -> HashMap<u32, &Dim> {
        let bound =
            program.params.iter().zip(&self.arguments).filter_map(|(param, argument)| match (param, argument) {
                (Param::Scalar { var, .. }, Argument::Dim(dim)) => Some((var.id, dim)),
                _ => None,
            });
        bound.collect()
    }
}

/// An index expression over parameters, as the dimension that it is; indices are not negative.
pub(crate) fn dim_of(e: &Expr, known: &HashMap<u32, &Dim>) -> Option<Dim> {
    let of = |e: &Expr| dim_of(e, known);
    Some(match e.kind() {
        ExprKind::Const(_) => Dim::from(i64::try_from(e.as_const()?).ok()?),
        ExprKind::Var(var) => (*known.get(&var.id)?).clone(),
        ExprKind::Binary(op, a, b) => {
            let (a, b) = (of(a)?, of(b)?);
            match op {
                BinaryOp::Add => a + b,
                BinaryOp::Sub => a - b,
                BinaryOp::Mul => a * b,
                BinaryOp::Div => a.floor_div(&b),
                BinaryOp::Min => a.minimum(&b),
                BinaryOp::Max => a.maximum(&b),
                _ => return None,
            }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_is_its_programs_domain_over_the_arguments_dims() {
        let mut k = ir::Builder::new("tiles", "a grid");
        let [m, n] = ["m", "n"].map(|name| k.dim(name, 0..=1 << 20, 1));
        k.grid(&[("i", m.ceil_div(64)), ("j", n.min(Expr::index(9)) - 1)]);
        let (m, n) = (Dim::from("B") * Dim::from(3), Dim::from("N"));
        let arguments = vec![Argument::Dim(m), Argument::Dim(n)];
        let launch = TileLaunch { program: k.finish().unwrap(), arguments, checks: vec![] };
        let Grid::Fixed([blocks, ..]) = launch.grid(&launch.program).unwrap() else { panic!("one block a point") };
        for (b, n) in [(0i64, 4i64), (1, 4), (22, 9), (64, 700)] {
            let bindings = [("B".to_owned(), b), ("N".to_owned(), n)].into();
            assert_eq!(blocks.eval(&bindings).unwrap(), (3 * b + 63) / 64 * (n.min(9) - 1));
        }
        // An extent that no dim gives.
        let unbound = TileLaunch { arguments: vec![Argument::Fault, Argument::Fault], ..launch };
        assert!(matches!(unbound.grid(&unbound.program), Err(Error::Malformed { .. })));
    }
}
