//! More ways to write a function that a kernel implements. They turn what models write in one of several ways into the others, and back: on something as small as a function that ends, on a
//! model it would not.

use super::{Match, Rule, rule};
use crate::Numerics::{Exact, Reassoc};
use crate::Result;
use egg::Id;
use kiln_graph::{BinaryOp, Op, UnaryOp};

/// Rules for functions and for the models in which they are looked for: where rows are put under other axes half-way, elementwise ops are had before that too. It makes no generated kernel better.
pub(super) fn rules_of_models() -> Result<Vec<Rule>> {
    let mut rules = vec![
        rule(
            "broadcast-of-leading-units",
            "a broadcast adds leading axes by itself",
            Exact,
            "(broadcast ?b ?x)",
            |m, [b, x]| {
                let shape = m.shape(x)?;
                let units = shape.iter().take_while(|d| d.is(1)).count();
                if units == 0 || m.facts(x).literal {
                    return None;
                }
                let (wide, x) = (m.attr(b)?, m.add(Op::Reshape { shape: shape[units..].to_vec() }, &[x])?);
                m.add(wide, &[x])
            },
        )?,
        rule(
            "reshape-last-cast",
            "an elementwise op may come before a reshape",
            Exact,
            "(cast ?c (reshape ?r ?x))",
            |m, [c, _r, x]| {
                let cast = m.attr(c)?;
                reshaped(m, cast, &[x])
            },
        )?,
    ];
    for op in UnaryOp::ALL.iter().copied() {
        let pattern = format!("({op} (reshape ?r ?x))");
        rules.push(rule(
            format!("reshape-last-{op}"),
            "an elementwise op may come before a reshape",
            Exact,
            &pattern,
            move |m, [_r, x]| reshaped(m, Op::Unary(op), &[x]),
        )?);
    }
    for op in BinaryOp::ALL.iter().copied() {
        let both = format!("({op} (reshape ?r ?x) (reshape ?s ?y))");
        rules.push(rule(
            format!("reshape-last-both-{op}"),
            "an elementwise op may come before a reshape",
            Exact,
            &both,
            move |m, [_r, x, _s, y]| {
                if m.shape(x)? == m.shape(y)? { reshaped(m, Op::Binary(op), &[x, y]) } else { None }
            },
        )?);
        let left = format!("({op} (reshape ?r ?x) (broadcast ?b ?y))");
        rules.push(rule(
            format!("reshape-last-left-{op}"),
            "an elementwise op may come before a reshape",
            Exact,
            &left,
            move |m, [_r, x, _b, y]| {
                let y = spread(m, x, y)?;
                reshaped(m, Op::Binary(op), &[x, y])
            },
        )?);
        let right = format!("({op} (broadcast ?b ?y) (reshape ?r ?x))");
        rules.push(rule(
            format!("reshape-last-right-{op}"),
            "an elementwise op may come before a reshape",
            Exact,
            &right,
            move |m, [_b, y, _r, x]| {
                let y = spread(m, x, y)?;
                reshaped(m, Op::Binary(op), &[y, x])
            },
        )?);
    }
    Ok(rules)
}

/// An op on operands of one shape, under the shape of the match.
fn reshaped(m: &mut Match, op: Op, operands: &[Id]) -> Option<Id> {
    let shape = m.root_ty()?.shape;
    let y = m.add(op, operands)?;
    m.add(Op::Reshape { shape }, &[y])
}

/// `y` broadcast to the shape of `x`, if that repeats it as the shape of the match does: over axes in front of those that both shapes end with.
fn spread(m: &mut Match, x: Id, y: Id) -> Option<Id> {
    let (shape, full) = (m.shape(x)?, m.root_ty()?.shape);
    let same = shape.iter().rev().zip(full.iter().rev()).take_while(|(a, b)| a == b).count();
    (m.ty(y)?.rank() <= same).then(|| m.add(Op::Broadcast { shape }, &[y])).flatten()
}

/// Rules for functions alone.
pub(super) fn rules() -> Result<Vec<Rule>> {
    let mut rules = vec![
        rule(
            "quotient-is-product",
            "a quotient is a product with the reciprocal",
            Reassoc,
            "(div ?x ?y)",
            |m, [x, y]| {
                if !m.ty(x)?.dtype.is_float() {
                    return None;
                }
                let r = m.add(Op::Unary(UnaryOp::Recip), &[y])?;
                m.add(Op::Binary(BinaryOp::Mul), &[x, r])
            },
        )?,
        rule(
            "recip-is-quotient",
            "a product with a reciprocal is a quotient",
            Reassoc,
            "(mul ?x (recip ?y))",
            |m, [x, y]| m.add(Op::Binary(BinaryOp::Div), &[x, y]),
        )?,
        rule(
            "recip-is-quotient-left",
            "a product with a reciprocal is a quotient",
            Reassoc,
            "(mul (recip ?y) ?x)",
            |m, [y, x]| m.add(Op::Binary(BinaryOp::Div), &[x, y]),
        )?,
        rule(
            "recip-of-rows-is-quotient",
            "a product with a reciprocal is a quotient",
            Reassoc,
            "(mul ?x (broadcast ?b (recip ?y)))",
            |m, [x, b, y]| {
                let rows = m.attr(b)?;
                let y = m.add(rows, &[y])?;
                m.add(Op::Binary(BinaryOp::Div), &[x, y])
            },
        )?,
        rule("rsqrt-is-recip", "it is the reciprocal of the square root", Reassoc, "(rsqrt ?x)", |m, [x]| {
            let root = m.add(Op::Unary(UnaryOp::Sqrt), &[x])?;
            m.add(Op::Unary(UnaryOp::Recip), &[root])
        })?,
    ];
    // (x y) z = x (y z) = y (x z), on whichever side the product is: operands that a run computes are in no order.
    for op in [BinaryOp::Add, BinaryOp::Mul] {
        for (name, pattern, [first, second, third]) in [
            ("left", format!("({op} ({op} ?x ?y) ?z)"), [0, 1, 2]),
            ("left-exchanged", format!("({op} ({op} ?y ?x) ?z)"), [1, 0, 2]),
            ("right", format!("({op} ?z ({op} ?x ?y))"), [1, 2, 0]),
            ("right-exchanged", format!("({op} ?z ({op} ?y ?x))"), [2, 1, 0]),
        ] {
            rules.push(rule(
                format!("{op}-associates-{name}"),
                "sums and products may be grouped otherwise",
                Reassoc,
                &pattern,
                move |m, vars: [Id; 3]| {
                    let [x, y, z] = [vars[first], vars[second], vars[third]];
                    // `x = x * 1` puts a class below itself; unrolling it would not end.
                    if vars.contains(&m.root) || !m.ty(x)?.dtype.is_float() {
                        return None;
                    }
                    let rest = m.add(Op::Binary(op), &[y, z])?;
                    m.add(Op::Binary(op), &[x, rest])
                },
            )?);
        }
    }
    Ok(rules)
}
