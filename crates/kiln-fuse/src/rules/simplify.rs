//! Identities of elementwise arithmetic.

use super::{Rule, rule};
use crate::Numerics::Exact;
use crate::Result;
use kiln_graph::{BinaryOp, Op, UnaryOp};

pub(super) fn rules() -> Result<Vec<Rule>> {
    Ok(vec![
        rule("mul-one", Exact, "(mul ?x ?one)", |m, [x, one]| (m.splat(one)? == 1.0).then_some(x))?,
        rule("div-one", Exact, "(div ?x ?one)", |m, [x, one]| (m.splat(one)? == 1.0).then_some(x))?,
        rule("add-zero", Exact, "(add ?x ?zero)", |m, [x, zero]| (m.splat(zero)? == 0.0).then_some(x))?,
        rule("sub-zero", Exact, "(sub ?x ?zero)", |m, [x, zero]| (m.splat(zero)? == 0.0).then_some(x))?,
        rule("pow-one", Exact, "(pow ?x ?one)", |m, [x, one]| (m.splat(one)? == 1.0).then_some(x))?,
        rule("neg-neg", Exact, "(neg (neg ?x))", |_, [x]| Some(x))?,
        rule("not-not", Exact, "(not (not ?x))", |_, [x]| Some(x))?,
        rule("abs-neg", Exact, "(abs (neg ?x))", |m, [x]| m.add(Op::Unary(UnaryOp::Abs), &[x]))?,
        rule("max-self", Exact, "(max ?x ?x)", |_, [x]| Some(x))?,
        rule("min-self", Exact, "(min ?x ?x)", |_, [x]| Some(x))?,
        rule("select-same", Exact, "(select ?c ?x ?x)", |_, [_c, x]| Some(x))?,
        rule("select-known", Exact, "(select ?c ?x ?y)", |m, [c, x, y]| Some(if m.splat(c)? != 0.0 { x } else { y }))?,
        rule("add-neg", Exact, "(add ?x (neg ?y))", |m, [x, y]| m.add(Op::Binary(BinaryOp::Sub), &[x, y]))?,
        rule("cast-same", Exact, "(cast ?a ?x)", |m, [a, x]| match m.attr(a)? {
            Op::Cast { to, .. } => (m.ty(x)?.dtype == to).then_some(x),
            _ => None,
        })?,
    ])
}
