//! Functions that somebody has written kernels for are found in models that never heard of them.

mod common;

use common::{check, options};
use kiln_fuse::{Anchor, Bound, Fused, Numerics, Options, Pattern, Plan, Region, fuse};
use kiln_graph::{BinaryOp, Builder, DType, Dim, Graph, ReduceOp, Result, Symbols, Tensor, UnaryOp, ValueId};
use std::sync::Arc;

const F: DType = DType::F32;

fn dim(text: &str) -> Dim {
    text.parse().unwrap()
}

/// `gelu(x w' + b)` of `x[M, K]`, `w[N, K]`, `b[N]`.
fn linear_gelu() -> Graph {
    let mut b = Builder::new("linear_gelu");
    let [m, k, n] = ["M", "K", "N"].map(|s| b.symbol(s, 1, 1 << 20));
    let x = b.input("x", F, &[m, k.clone()]).unwrap();
    let w = b.input("w", F, &[n.clone(), k]).unwrap();
    let bias = b.input("b", F, &[n]).unwrap();
    let y = b.linear(x, w, Some(bias), true).unwrap();
    let y = b.gelu(y).unwrap();
    b.output("y", y);
    b.finish()
}

/// What the words of [`swiglu_quantized`] are.
struct Words {
    eps: f64,
    /// Of the gate.
    activation: fn(&mut Builder, ValueId) -> Result<ValueId>,
    norm_axis: i64,
}

const WORDS: Words = Words { eps: 1e-6, activation: Builder::silu, norm_axis: -1 };

/// RMS norm of rows, two projections of which one gates the other, and int8 with a scale a row: `(values, scales)`.
fn swiglu_quantized(b: &mut Builder, [x, g, gate, up]: [ValueId; 4], words: &Words) -> Result<[ValueId; 2]> {
    let h = b.rms_norm(x, words.norm_axis, None, words.eps)?;
    let h = b.mul(h, g)?;
    let (a, u) = (b.linear(h, gate, None, true)?, b.linear(h, up, None, true)?);
    let a = (words.activation)(b, a)?;
    let y = b.mul(a, u)?;
    let size = b.unary(UnaryOp::Abs, y)?;
    let top = b.reduce(ReduceOp::Max, size, &[-1], true)?;
    let scale = b.mul_scalar(top, 1.0 / 127.0)?;
    let scale = b.binary_scalar(BinaryOp::Max, scale, 1e-10)?;
    let q = b.div(y, scale)?;
    let q = b.unary(UnaryOp::Round, q)?;
    Ok([b.cast(q, DType::I8)?, scale])
}

/// [`swiglu_quantized`] as a kernel's function of `x[M, K]`, `g[K]`, `gate[N, K]`, `up[N, K]`.
fn function() -> Graph {
    let mut b = Builder::new("swiglu_quantized");
    let [m, k, n] = ["M", "K", "N"].map(|s| b.symbol(s, 1, 1 << 20));
    let x = b.input("x", F, &[m, k.clone()]).unwrap();
    let g = b.input("g", F, std::slice::from_ref(&k)).unwrap();
    let [gate, up] = ["gate", "up"].map(|name| b.input(name, F, &[n.clone(), k.clone()]).unwrap());
    let [q, s] = swiglu_quantized(&mut b, [x, g, gate, up], &WORDS).unwrap();
    b.output("q", q);
    b.output("s", s);
    b.finish()
}

fn with(patterns: &[&Arc<Pattern>]) -> Options {
    Options { patterns: patterns.iter().map(|p| Arc::clone(p)).collect(), ..options("sm_90a", Numerics::Reassoc) }
}

fn random(shape: &[usize], seed: u64) -> Tensor {
    Tensor::random(F, shape, seed).unwrap()
}

/// The regions of a plan that were chosen for a function, each with its bound.
fn chosen<'f>(fused: &'f Fused, pattern: &Pattern) -> Vec<(&'f Region, Bound)> {
    let launches = fused.report.launches.iter().filter(|l| l.function.as_deref() == Some(pattern.name()));
    let region = |l: &kiln_fuse::LaunchReport| {
        let region = &fused.plan.regions[l.region];
        let found = pattern.bind(region, &region.graph.symbols);
        (region, found.unwrap_or_else(|| panic!("{} does not bind\n{}", region.name, region.graph)))
    };
    launches.map(region).collect()
}

fn dims(bound: &Bound) -> Vec<String> {
    bound.dims.iter().map(|(s, d)| format!("{s} = {d}")).collect()
}

fn pattern(graph: &Graph) -> Pattern {
    Pattern::new(&graph.name, graph).unwrap()
}

/// The first region of a plan that is an instance of the pattern.
fn bound(plan: &Plan, pattern: &Pattern) -> Option<Bound> {
    plan.regions.iter().find_map(|r| pattern.bind(r, &r.graph.symbols))
}

fn model(name: &str, make: impl FnOnce(&mut Builder) -> Result<Vec<(&'static str, ValueId)>>) -> Graph {
    let mut b = Builder::new(name);
    for (name, v) in make(&mut b).unwrap() {
        b.output(name, v);
    }
    b.finish()
}

#[test]
fn a_region_that_is_the_function_binds_with_the_models_dims() {
    let pattern = pattern(&linear_gelu());
    let graph = model("at_sizes", |b| {
        let s = b.symbol("S", 1, 512);
        let w = b.input("kernel", F, &[40.into(), 24.into()])?;
        let x = b.input("hidden", F, &[s, 24.into()])?;
        let bias = b.input("bias", F, &[40.into()])?;
        let y = b.linear(x, w, Some(bias), true)?;
        Ok(vec![("y", b.gelu(y)?)])
    });
    let plan = fuse(&graph, &options("sm_90a", Numerics::Reassoc)).unwrap().plan;
    let found = bound(&plan, &pattern).expect("the only region is the function");
    let region = &plan.regions[0];
    let of = |i: usize| region.graph.ty(region.graph.inputs[found.inputs[i]]).to_string();
    assert_eq!([of(0), of(1), of(2)], ["f32[s0, 24]", "f32[40, 24]", "f32[40]"]);
    assert_eq!(found.outputs, [0]);
    let dims: Vec<(&str, Dim)> = found.dims.iter().map(|(s, d)| (s.as_str(), d.clone())).collect();
    assert_eq!(dims, [("K", dim("24")), ("M", dim("s0")), ("N", dim("40"))]);
    // The rows of the region may be more than the kernel takes.
    let mut wide = Symbols::default();
    wide.declare("s0", 1, 1 << 21);
    assert_eq!(pattern.bind(region, &wide), None);
}

#[test]
fn the_function_called_in_a_model_is_one_region_of_its_kernel() {
    let pattern = Arc::new(pattern(&function()));
    let graph = model("called", |b| {
        let rows = b.symbol("rows", 1, 512);
        let x = b.input("tokens", F, &[rows, 24.into()])?;
        let before = b.tanh(x)?;
        let g = b.weight_data("g", random(&[24], 1))?;
        let [gate, up] = [2, 3].map(|i| b.weight_data(&format!("w{i}"), random(&[40, 24], i)).unwrap());
        let [q, s] = swiglu_quantized(b, [before, g, gate, up], &WORDS)?;
        let wide = b.cast(q, F)?;
        let back = b.mul(wide, s)?;
        Ok(vec![("q", q), ("back", back)])
    });
    let fused = check(&graph, &[random(&[5, 24], 9)], &with(&[&pattern]), 0.01);
    let found = chosen(&fused, &pattern);
    let [(region, bound)] = &found[..] else { panic!("{}", fused.report) };
    assert_eq!(region.anchor, Anchor::Kernel);
    assert_eq!(dims(bound), ["K = 24", "M = s0", "N = 40"]);
    assert_eq!(fused.report.kernels, 3, "{}", fused.report);
    assert_eq!((fused.report.functions[0].places, fused.report.functions[0].launches), (1, 1));
    // Without the kernel, the same model is several regions, none of them its kernel's.
    let plain = check(&graph, &[random(&[5, 24], 9)], &with(&[]), 0.01);
    assert!(plain.plan.regions.iter().all(|r| r.anchor != Anchor::Kernel) && plain.report.kernels > 3);
}

/// The same in the words of an exporter: activations of three axes, weights as `[K, N]`, `Pow` for the square, a quotient by a root, keepdims everywhere.
fn exported(shape: [Dim; 3], k: usize, n: usize) -> Graph {
    model("exported", |b| {
        let x = b.input("hidden_states", F, &shape)?;
        let g = b.weight_data("norm.weight", random(&[1, 1, k], 1))?;
        let [gate, up] = [2, 3].map(|i| b.weight_data(&format!("MatMul_{i}"), random(&[k, n], i)).unwrap());
        let square = b.binary_scalar(BinaryOp::Pow, x, 2.0)?;
        let mean = b.mean(square, &[-1], true)?;
        let eps = b.constant(Tensor::full(F, &[1], 1e-6)?)?;
        let shifted = b.plus(eps, mean)?;
        let root = b.sqrt(shifted)?;
        let h = b.div(x, root)?;
        let h = b.mul(g, h)?;
        let (a, u) = (b.matmul(h, gate)?, b.matmul(h, up)?);
        let minus = b.neg(a)?;
        let e = b.exp(minus)?;
        let e = b.plus_scalar(e, 1.0)?;
        let a = b.div(a, e)?;
        let y = b.mul(u, a)?;
        let size = b.unary(UnaryOp::Abs, y)?;
        let top = b.reduce(ReduceOp::Max, size, &[2], true)?;
        let scale = b.binary_scalar(BinaryOp::Div, top, 127.0)?;
        let scale = b.binary_scalar(BinaryOp::Max, scale, 1e-10)?;
        let q = b.div(y, scale)?;
        let q = b.unary(UnaryOp::Round, q)?;
        Ok(vec![("scales", scale), ("values", b.cast(q, DType::I8)?)])
    })
}

#[test]
fn the_function_is_found_in_an_exporters_words() {
    let pattern = Arc::new(pattern(&function()));
    for (shape, rows) in [
        ([Dim::sym("batch"), Dim::sym("seq"), 16.into()], "M = s0*s1"),
        ([2.into(), Dim::sym("seq"), 16.into()], "M = 2*s0"),
        ([2.into(), 3.into(), 16.into()], "M = 6"),
    ] {
        let mut graph = exported(shape, 16, 12);
        for symbol in ["batch", "seq"] {
            graph.symbols.declare(symbol, 1, 512);
        }
        let fused = check(&graph, &[random(&[2, 3, 16], 9)], &with(&[&pattern]), 0.01);
        let found = chosen(&fused, &pattern);
        let [(region, bound)] = &found[..] else { panic!("{}", fused.report) };
        assert_eq!(dims(bound), ["K = 16", rows, "N = 12"]);
        assert_eq!(fused.report.kernels, 1, "{}", fused.report);
        let of = |i: usize| region.graph.ty(region.graph.inputs[bound.inputs[i]]).to_string();
        assert_eq!([of(1), of(2), of(3)], ["f32[16]", "f32[12, 16]", "f32[12, 16]"]);
        let given = |i: usize| region.graph.ty(region.graph.outputs[bound.outputs[i]].1).dtype;
        assert_eq!([given(0), given(1)], [DType::I8, F]);
    }
}
