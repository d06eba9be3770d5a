//! Identities of elementwise arithmetic.

use super::{Rule, rule};
use crate::Numerics::{Approx, Exact, Reassoc};
use crate::Result;
use kiln_graph::{BinaryOp, DType, Op, UnaryOp};

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
        rule("cast-cast", Exact, "(cast ?a (cast ?b ?x))", |m, [a, b, x]| {
            let (outer, Op::Cast { to: middle, .. }) = (m.attr(a)?, m.attr(b)?) else { return None };
            if holds(middle, m.ty(x)?.dtype) { m.add(outer, &[x]) } else { None }
        })?,
        rule("square", Reassoc, "(pow ?x ?two)", |m, [x, two]| match m.splat(two)? {
            2.0 => m.add(Op::Binary(BinaryOp::Mul), &[x, x]),
            _ => None,
        })?,
        rule("cube", Approx, "(pow ?x ?three)", |m, [x, three]| match m.splat(three)? {
            3.0 => {
                let square = m.add(Op::Binary(BinaryOp::Mul), &[x, x])?;
                m.add(Op::Binary(BinaryOp::Mul), &[square, x])
            }
            _ => None,
        })?,
        rule("pow-half", Approx, "(pow ?x ?half)", |m, [x, half]| match m.splat(half)? {
            0.5 => m.add(Op::Unary(UnaryOp::Sqrt), &[x]),
            _ => None,
        })?,
        rule("recip-sqrt", Reassoc, "(recip (sqrt ?x))", |m, [x]| m.add(Op::Unary(UnaryOp::Rsqrt), &[x]))?,
        rule("div-sqrt", Reassoc, "(div ?a (sqrt ?x))", |m, [a, x]| {
            let r = m.add(Op::Unary(UnaryOp::Rsqrt), &[x])?;
            m.add(Op::Binary(BinaryOp::Mul), &[a, r])
        })?,
        rule("div-sqrt-of-rows", Reassoc, "(div ?a (broadcast ?b (sqrt ?x)))", |m, [a, b, x]| {
            let r = m.add(Op::Unary(UnaryOp::Rsqrt), &[x])?;
            let rows = m.attr(b)?;
            let r = m.add(rows, &[r])?;
            m.add(Op::Binary(BinaryOp::Mul), &[a, r])
        })?,
    ])
}

/// Whether every value of `from` is a value of `to`.
fn holds(to: DType, from: DType) -> bool {
    let digits = |d: DType| match d {
        DType::F64 => 53,
        DType::F32 => 24,
        DType::F16 => 11,
        DType::BF16 => 8,
        _ => 0,
    };
    match (from.int_range(), to.int_range()) {
        (Some(f), Some(t)) => t.0 <= f.0 && f.1 <= t.1,
        (Some(f), None) => f.1 <= 1i128 << digits(to) && f.0 >= -(1i128 << digits(to)) && !to.is_f8(),
        (None, Some(_)) => false,
        (None, None) => {
            from == to
                || matches!(to, DType::F64)
                || matches!(to, DType::F32) && from != DType::F64
                || from.is_f8() && matches!(to, DType::F16 | DType::BF16)
        }
    }
}
