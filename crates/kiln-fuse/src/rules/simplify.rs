//! Identities of elementwise arithmetic.

use super::{Rule, rule};
use crate::Numerics::{Approx, Exact, Reassoc};
use crate::Result;
use kiln_graph::{BinaryOp, DType, Op, UnaryOp};

pub(super) fn rules() -> Result<Vec<Rule>> {
    Ok(vec![
        rule("mul-one", "a factor of one changes nothing", Exact, "(mul ?x ?one)", |m, [x, one]| {
            (m.splat(one)? == 1.0).then_some(x)
        })?,
        rule("div-one", "a divisor of one changes nothing", Exact, "(div ?x ?one)", |m, [x, one]| {
            (m.splat(one)? == 1.0).then_some(x)
        })?,
        rule("add-zero", "adding zero changes nothing", Exact, "(add ?x ?zero)", |m, [x, zero]| {
            (m.splat(zero)? == 0.0).then_some(x)
        })?,
        rule("sub-zero", "taking away zero changes nothing", Exact, "(sub ?x ?zero)", |m, [x, zero]| {
            (m.splat(zero)? == 0.0).then_some(x)
        })?,
        rule("pow-one", "the first power is the value itself", Exact, "(pow ?x ?one)", |m, [x, one]| {
            (m.splat(one)? == 1.0).then_some(x)
        })?,
        rule("neg-neg", "negating twice changes nothing", Exact, "(neg (neg ?x))", |_, [x]| Some(x))?,
        rule("not-not", "negating twice changes nothing", Exact, "(not (not ?x))", |_, [x]| Some(x))?,
        rule("abs-neg", "a magnitude has no sign", Exact, "(abs (neg ?x))", |m, [x]| {
            m.add(Op::Unary(UnaryOp::Abs), &[x])
        })?,
        rule("max-self", "the larger of equal values is either", Exact, "(max ?x ?x)", |_, [x]| Some(x))?,
        rule("min-self", "the smaller of equal values is either", Exact, "(min ?x ?x)", |_, [x]| Some(x))?,
        rule("select-same", "both choices are the same value", Exact, "(select ?c ?x ?x)", |_, [_c, x]| Some(x))?,
        rule(
            "select-known",
            "the condition is known when the plan is made",
            Exact,
            "(select ?c ?x ?y)",
            |m, [c, x, y]| Some(if m.splat(c)? != 0.0 { x } else { y }),
        )?,
        rule("add-neg", "adding a negated value is subtracting it", Exact, "(add ?x (neg ?y))", |m, [x, y]| {
            m.add(Op::Binary(BinaryOp::Sub), &[x, y])
        })?,
        rule("cast-same", "the value has this type already", Exact, "(cast ?a ?x)", |m, [a, x]| match m.attr(a)? {
            Op::Cast { to, .. } => (m.ty(x)?.dtype == to).then_some(x),
            _ => None,
        })?,
        rule(
            "cast-cast",
            "the type between holds every value, so that one cast does",
            Exact,
            "(cast ?a (cast ?b ?x))",
            |m, [a, b, x]| {
                let (outer, Op::Cast { to: middle, .. }) = (m.attr(a)?, m.attr(b)?) else { return None };
                if holds(middle, m.ty(x)?.dtype) { m.add(outer, &[x]) } else { None }
            },
        )?,
        rule("square", "a square is one product", Reassoc, "(pow ?x ?two)", |m, [x, two]| match m.splat(two)? {
            2.0 => m.add(Op::Binary(BinaryOp::Mul), &[x, x]),
            _ => None,
        })?,
        rule("cube", "a cube is two products", Approx, "(pow ?x ?three)", |m, [x, three]| match m.splat(three)? {
            3.0 => {
                let square = m.add(Op::Binary(BinaryOp::Mul), &[x, x])?;
                m.add(Op::Binary(BinaryOp::Mul), &[square, x])
            }
            _ => None,
        })?,
        rule("pow-half", "the power of one half is a square root", Approx, "(pow ?x ?half)", |m, [x, half]| {
            match m.splat(half)? {
                0.5 => m.add(Op::Unary(UnaryOp::Sqrt), &[x]),
                _ => None,
            }
        })?,
        rule(
            "recip-sqrt",
            "one instruction has the reciprocal of a square root",
            Reassoc,
            "(recip (sqrt ?x))",
            |m, [x]| m.add(Op::Unary(UnaryOp::Rsqrt), &[x]),
        )?,
        rule(
            "div-sqrt",
            "one instruction has the reciprocal of a square root, and a product is cheaper than a quotient",
            Reassoc,
            "(div ?a (sqrt ?x))",
            |m, [a, x]| {
                let r = m.add(Op::Unary(UnaryOp::Rsqrt), &[x])?;
                m.add(Op::Binary(BinaryOp::Mul), &[a, r])
            },
        )?,
        rule(
            "div-sqrt-of-rows",
            "the reciprocal of a square root is taken once a row, and a product is cheaper than a quotient",
            Reassoc,
            "(div ?a (broadcast ?b (sqrt ?x)))",
            |m, [a, b, x]| {
                let r = m.add(Op::Unary(UnaryOp::Rsqrt), &[x])?;
                let rows = m.attr(b)?;
                let r = m.add(rows, &[r])?;
                m.add(Op::Binary(BinaryOp::Mul), &[a, r])
            },
        )?,
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
