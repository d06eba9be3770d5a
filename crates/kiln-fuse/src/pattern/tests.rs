//! A function in random words of its own: one e-node of each class of what rules make of it.

use super::{Pattern, rows};
use crate::egraph::{ClassIx, Dag, build, extract};
use crate::{Numerics, Options, fuse, interpret_plan, rules};
use kiln_graph::{
    BinaryOp, Builder, DType, Dim, EinsumSpec, Graph, Op, QuantAxes, ReduceOp, Result, Rng, Tensor, UnaryOp, ValueId,
    interpret,
};
use kiln_target::Target;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

const F: DType = DType::F32;

/// RMS norm of rows `x[M, 2*H]` times `g[2*H]`, its first half gating the second, and int8 with a scale a row.
fn gate() -> Graph {
    let mut b = Builder::new("gate");
    let [m, h] = ["M", "H"].map(|s| b.symbol(s, 1, 4096));
    let wide = h.clone() * Dim::from(2);
    let x = b.input("x", F, &[m.clone(), wide.clone()]).unwrap();
    let g = b.input("g", F, std::slice::from_ref(&wide)).unwrap();
    let y = b.rms_norm(x, -1, Some(g), 1e-5).unwrap();
    let mut half = |at: Dim| {
        b.add1(Op::Slice { starts: vec![0.into(), at], sizes: vec![m.clone(), h.clone()], steps: vec![1, 1] }, &[y])
            .unwrap()
    };
    let (a, u) = (half(0.into()), half(h.clone()));
    let a = b.silu(a).unwrap();
    let y = b.mul(a, u).unwrap();
    let size = b.unary(UnaryOp::Abs, y).unwrap();
    let top = b.reduce(ReduceOp::Max, size, &[-1], true).unwrap();
    let scale = b.binary_scalar(BinaryOp::Div, top, 127.0).unwrap();
    let scale = b.binary_scalar(BinaryOp::Max, scale, 1e-10).unwrap();
    let q = b.div(y, scale).unwrap();
    let q = b.unary(UnaryOp::Round, q).unwrap();
    let q = b.cast(q, DType::I8).unwrap();
    b.output("q", q);
    b.output("s", scale);
    b.finish()
}

/// `gelu(x w' + b)`, and the mean of each row before the bias.
fn linear() -> Graph {
    let mut b = Builder::new("linear");
    let [m, k, n] = ["M", "K", "N"].map(|s| b.symbol(s, 1, 4096));
    let x = b.input("x", F, &[m, k.clone()]).unwrap();
    let w = b.input("w", F, &[n.clone(), k]).unwrap();
    let bias = b.input("b", F, &[n]).unwrap();
    let y = b.linear(x, w, None, true).unwrap();
    let mean = b.mean(y, &[-1], false).unwrap();
    let y = b.plus(y, bias).unwrap();
    let y = b.gelu(y).unwrap();
    b.output("y", y);
    b.output("mean", mean);
    b.finish()
}

/// The graph with numbers for some symbols.
fn at(graph: &Graph, sizes: &BTreeMap<String, Dim>) -> Graph {
    let mut graph = graph.clone();
    graph.values.iter_mut().flat_map(|v| &mut v.ty.shape).for_each(|d| *d = d.substitute(sizes));
    graph.nodes.iter_mut().for_each(|n| n.op.dims_mut(&mut |d| *d = d.substitute(sizes)));
    graph.constraints.clear();
    graph
}

#[test]
fn random_extractions_of_a_function_are_the_function() {
    let mut rng = Rng::new(41);
    for (function, least) in [(gate(), 16), (linear(), 8)] {
        let pattern = Arc::new(Pattern::new(&function.name, &function).unwrap());
        let options = Options { patterns: vec![pattern.clone()], ..Options::new("sm_90a".parse().unwrap()) };
        let built = build(&function).unwrap();
        let saturated = Options { numerics: Numerics::Reassoc, ..Options::new(Target::cpu()) };
        let (egraph, _) = rules::saturate(built.egraph, rules::of_functions().unwrap(), &saturated).unwrap();
        let roots: Vec<_> = function.outputs.iter().map(|(_, v)| built.class_of[v.index()].unwrap()).collect();
        let dag = Dag::new(&egraph, &roots);
        let roots: Vec<ClassIx> = roots.iter().map(|r| dag.find(&egraph, *r).unwrap()).collect();
        let sizes: BTreeMap<String, Dim> =
            [("H", 6), ("K", 12), ("N", 10)].map(|(s, n)| (s.to_owned(), n.into())).into();
        let inputs: Vec<Tensor> = function
            .inputs
            .iter()
            .zip(7..)
            .map(|(v, seed)| {
                let of = |d: &Dim| d.substitute(&sizes).as_const().map_or(5, |n| n as usize);
                let shape: Vec<usize> = function.ty(*v).shape.iter().map(of).collect();
                Tensor::random(F, &shape, seed).unwrap()
            })
            .collect();
        let expected = interpret(&function, &inputs).unwrap();
        let mut forms: HashMap<Vec<u8>, usize> = HashMap::new();
        for round in 0..20 {
            let other = extract(&dag, &roots, &function, |_, n| rng.range(0, n as i64 - 1) as usize);
            *forms.entry(other.structural_bytes()).or_default() += 1;
            // Every other one at sizes that are known.
            let other = if round % 2 == 0 { other } else { at(&other, &sizes) };
            let fused = fuse(&other, &options).unwrap();
            let what = format!("`{}`, round {round}: {}\n{other}", function.name, fused.report);
            assert_eq!((fused.report.functions[0].places, fused.report.kernels), (1, 1), "{what}");
            let region = &fused.plan.regions[0];
            region.verify().unwrap();
            let bound = pattern.bind(region, &region.graph.symbols).unwrap_or_else(|| panic!("{what}"));
            let rows = &region.graph.ty(region.graph.inputs[bound.inputs[0]]).shape[0];
            assert!(bound.dims.contains(&("M".to_owned(), rows.clone())), "{what}");
            let found = interpret_plan(&fused.plan, &inputs).unwrap();
            for (e, f) in expected.iter().zip(&found) {
                let off = if e.dtype().is_float() { 1e-4 } else { 1.0 };
                let near = |(e, f): (&f64, &f64)| (e - f).abs() <= off * e.abs().max(1.0);
                assert!(e.to_f64_vec().iter().zip(&f.to_f64_vec()).all(near), "{what}");
            }
        }
        assert!(forms.len() >= least, "`{}`: {} of 20 forms differ", function.name, forms.len());
    }
}

/// A graph of `x[M, 4, 6]`.
fn of_rows(make: impl FnOnce(&mut Builder, ValueId) -> Result<Vec<ValueId>>) -> Graph {
    let mut b = Builder::new("rows");
    let m = b.symbol("M", 1, 4096);
    let x = b.input("x", F, &[m, 4.into(), 6.into()]).unwrap();
    for (i, v) in make(&mut b, x).unwrap().into_iter().enumerate() {
        b.output(format!("y{i}"), v);
    }
    b.finish()
}

#[test]
fn rows_of_several_axes_are_the_same_rows() {
    let graph = of_rows(|b, x| {
        let m = b.shape(x)[0].clone();
        let w = b.input("w", F, &[5.into(), 6.into()])?;
        let turned = b.add1(Op::Permute { perm: vec![0, 2, 1] }, &[x])?;
        let spec = |lhs: &str, rhs: &str, out: &str| {
            let labels = |text: &str| text.chars().collect();
            Op::Contract { spec: EinsumSpec { lhs: labels(lhs), rhs: labels(rhs), out: labels(out) }, acc: F, out: F }
        };
        let free = b.add1(spec("max", "nx", "man"), &[x, w])?;
        let shared = b.add1(spec("max", "mxa", "mx"), &[x, turned])?;
        let flat = b.reshape(x, &[m.clone(), 24.into()])?;
        let slice = Op::Slice { starts: vec![0.into(), 3.into()], sizes: vec![m.clone(), 7.into()], steps: vec![1, 2] };
        let slice = b.add1(slice, &[flat])?;
        let [zero, one] = [0, 1].map(Dim::from);
        let pad = Op::Pad { low: vec![zero.clone(), one], high: vec![zero.clone(), zero], interior: vec![0, 1] };
        let value = b.scalar(F, 0.5)?;
        let pad = b.add1(pad, &[slice, value])?;
        let both = b.concat(&[pad, flat], 1)?;
        let index = b.argmax(flat, 1)?;
        let position = b.iota(F, &[m.clone(), 24.into()], 1)?;
        let count = b.dim_value(&m, F)?;
        let count = b.mul(position, count)?;
        let mean = b.mean(x, &[1, 2], true)?;
        let centred = b.sub(x, mean)?;
        let places = b.constant(Tensor::from_slice(&[2], &[3i64, 1])?)?;
        let taken = b.add1(Op::Gather { axis: 2 }, &[centred, places])?;
        let scales = b.constant(Tensor::from_slice(&[4], &[0.1f32, 0.2, 0.3, 0.4])?)?;
        let zeros = b.constant(Tensor::from_slice(&[4], &[0i8, 1, 2, 3])?)?;
        let quantized = b.add1(Op::Quantize { to: DType::I8, axes: QuantAxes::Axis(1) }, &[x, scales, zeros])?;
        Ok(vec![free, shared, both, index, count, taken, quantized])
    });
    let (x, w) = (Tensor::random(F, &[12, 4, 6], 1).unwrap(), Tensor::random(F, &[5, 6], 2).unwrap());
    let expected = interpret(&graph, &[x.clone(), w.clone()]).unwrap();
    for shape in [&[3, 4][..], &[2, 3, 2]] {
        let (split, meaning) = rows::split(&graph, shape.len()).unwrap();
        let parts = meaning["M"].terms().map(|(atoms, _)| atoms.len()).collect::<Vec<_>>();
        assert_eq!(parts, [shape.len()]);
        let x = Tensor::new(F, [shape, &[4, 6]].concat(), x.data().clone()).unwrap();
        let found = interpret(&split, &[x, w.clone()]).unwrap();
        for (e, f) in expected.iter().zip(&found) {
            assert_eq!(f.shape(), [shape, &e.shape()[1..]].concat());
            assert_eq!(e.data(), f.data());
        }
    }
}

#[test]
fn what_does_more_with_rows_than_carry_them_is_not_split() {
    let splits = |make: &dyn Fn(&mut Builder, ValueId) -> Result<ValueId>| {
        rows::split(&of_rows(|b, x| Ok(vec![make(b, x)?])), 2).is_some()
    };
    assert!(splits(&|b, x| b.exp(x)));
    let across = |b: &mut Builder, x| {
        let top = b.reduce(ReduceOp::Max, x, &[0], true)?;
        b.sub(x, top)
    };
    assert!(!splits(&across));
    assert!(!splits(&|b, x| b.cumsum(x, 0, false, false)));
    assert!(!splits(&|b, x| {
        let back = b.add1(Op::Permute { perm: vec![1, 0, 2] }, &[x])?;
        let back = b.exp(back)?;
        b.add1(Op::Permute { perm: vec![1, 0, 2] }, &[back])
    }));
    assert!(!splits(&|b, x| {
        let shape = b.shape(x).to_vec();
        let row = b.iota(F, &shape, 0)?;
        b.mul(x, row)
    }));
    assert!(!splits(&|b, x| {
        let m = b.shape(x)[0].clone();
        let flat = b.reshape(x, &[m * Dim::from(24)])?;
        let flat = b.exp(flat)?;
        let shape = b.shape(x).to_vec();
        b.reshape(flat, &shape)
    }));
}
