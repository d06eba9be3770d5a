//! What `docs/howto/add-a-rule.md` tells whoever writes a rule.

use super::super::{Match, rule};
use super::{apply, options};
use crate::Numerics::Exact;
use egg::Id;
use kiln_graph::{BinaryOp, Builder, DType, Dim, Graph, Op, Tensor, TensorType, UnaryOp, ValueId};
use std::sync::mpsc::channel;

fn graph(make: impl FnOnce(&mut Builder, ValueId) -> kiln_graph::Result<ValueId>) -> Graph {
    let mut b = Builder::new("manners");
    let shape = [b.symbol("S", 2, 64), Dim::from(3)];
    let x = b.input("x", DType::F32, &shape).unwrap();
    let y = make(&mut b, x).unwrap();
    b.output("y", y);
    b.finish()
}

/// How often a rule fires.
fn fired<const N: usize>(
    graph: &Graph,
    pattern: &str,
    right: impl Fn(&mut Match, [Id; N]) -> Option<Id> + Send + Sync + 'static,
) -> usize {
    apply(graph, &[rule("rule", "for a test", Exact, pattern, right).unwrap()], &options()).0
}

#[test]
fn attributes_come_first_and_variables_in_the_order_of_the_text() {
    let g = graph(|b, x| {
        let wide = b.broadcast_to(x, &[Dim::from(5), Dim::sym("S"), Dim::from(3)])?;
        b.cast(wide, DType::F16)
    });
    let (tell, told) = channel();
    fired(&g, "(cast ?z (broadcast ?b ?a))", move |m, [z, b, a]| {
        let names = [m.attr(z)?.name(), m.attr(b)?.name()];
        tell.send((names, m.attr(a).is_none(), m.ty(a)?.rank())).unwrap();
        None
    });
    assert_eq!(told.recv().unwrap(), (["cast", "broadcast"], true, 2));
}

#[test]
fn operands_that_may_be_exchanged_are_in_a_fixed_order() {
    let data = || Tensor::full(DType::F32, &[3], 7.0).unwrap();
    for flipped in [false, true] {
        let with = |op: BinaryOp, weight: bool| {
            graph(|b, x| {
                let c = if weight { b.weight_data("w", data())? } else { b.scalar(DType::F32, 7.0)? };
                if flipped { b.binary(op, c, x) } else { b.binary(op, x, c) }
            })
        };
        let weight = |m: &mut Match, [x, c]: [Id; 2]| m.weight_only(c) && !m.weight_only(x);
        let seen = |graph: &Graph, op: &str| {
            let (tell, told) = channel();
            fired(graph, &format!("({op} ?x ?c)"), move |m, ids| {
                tell.send((weight(m, ids), m.splat(ids[1]))).unwrap();
                None
            });
            told.recv().unwrap()
        };
        assert_eq!(seen(&with(BinaryOp::Mul, false), "mul"), (true, Some(7.0)), "flipped {flipped}");
        assert_eq!(seen(&with(BinaryOp::Max, true), "max"), (true, None), "flipped {flipped}");
        // These may not be exchanged.
        assert_eq!(seen(&with(BinaryOp::Sub, true), "sub").0, !flipped);
    }
}

#[test]
fn a_result_of_another_type_is_dropped() {
    let g = graph(|b, x| b.neg(x));
    assert_eq!(fired(&g, "(neg ?x)", |m, [x]| m.add(Op::Unary(UnaryOp::Abs), &[x])), 1);
    assert_eq!(fired(&g, "(neg ?x)", |m, [x]| m.add(Op::Cast { to: DType::F16, saturate: false }, &[x])), 0);
    // Equal for every S that the graph allows, and written in another form.
    let (s, other) = (Dim::sym("S"), Dim::sym("S").maximum(&Dim::from(1)));
    assert!((2..=64).all(|n| other.eval(&[("S".to_owned(), n)].into_iter().collect()).unwrap() == n));
    for (extent, times) in [(s, 1), (other, 0)] {
        let ty = TensorType { dtype: DType::F32, shape: vec![extent, Dim::from(3)] };
        let (tell, told) = channel();
        let count = fired(&g, "(neg ?x)", move |m, [_x]| {
            let id = m.add(Op::Iota { ty: ty.clone(), axis: 0 }, &[]);
            tell.send(id.is_some()).unwrap();
            id
        });
        assert_eq!((count, told.recv().unwrap()), (times, true));
    }
}

#[test]
fn nothing_is_added_that_the_graph_does_not_allow() {
    let mut b = Builder::new("manners");
    let (s, t) = (b.symbol("S", 2, 64), b.symbol("T", 2, 64));
    let x = b.input("x", DType::F32, std::slice::from_ref(&s)).unwrap();
    let y = b.input("y", DType::F32, std::slice::from_ref(&t)).unwrap();
    let z = b.concat(&[x, y], 0).unwrap();
    b.output("z", z);
    let apart = b.finish();
    let (tell, told) = channel();
    fired(&apart, "(concat ?a ?x ?y)", move |m, [_a, x, y]| {
        let mut typed = |op: Op, ids: &[Id]| m.add(op, ids).is_some();
        tell.send([
            typed(Op::Binary(BinaryOp::Add), &[x, x]),
            // Only if S = T, which nothing requires.
            typed(Op::Binary(BinaryOp::Add), &[x, y]),
            // Never.
            typed(Op::Unary(UnaryOp::Not), &[x]),
        ])
        .unwrap();
        None
    });
    assert_eq!(told.recv().unwrap(), [true, false, false]);
}

#[test]
fn a_pattern_that_cannot_be_is_an_error() {
    let made = |pattern: &str| {
        rule("r", "for a test", Exact, pattern, |_, [x]: [Id; 1]| Some(x)).map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(made("(neg ?x)"), Ok(()));
    assert!(made("(negate ?x)").unwrap_err().contains("no op is called `negate`"));
    assert!(made("(add ?x ?y)").unwrap_err().contains("takes 1 variables, pattern has 2"));
    assert!(made("(neg ?x").is_err());
}
