//! Functions that somebody has written kernels for are found in models that never heard of them.

use crate::common::{check, encoder, options};
use kiln_fuse::{Anchor, Bound, Fused, Numerics, Options, Pattern, Plan, Region, fuse};
use kiln_graph::{BinaryOp, Builder, DType, Dim, Graph, Op, ReduceOp, Result, Symbols, Tensor, UnaryOp, ValueId};
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
    // Without the kernel, the same model is several regions, none of them its kernel's: a norm, two products in one, the quotients.
    let plain = check(&graph, &[random(&[5, 24], 9)], &with(&[]), 0.01);
    assert!(plain.plan.regions.iter().all(|r| r.anchor != Anchor::Kernel));
    assert_eq!(plain.report.kernels, 3, "{}", plain.report);
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
        // As ONNX's Cast is, where it makes no difference.
        Ok(vec![("scales", scale), ("values", b.cast_saturating(q, DType::I8)?)])
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

/// `gelu(x w + b)` as an exporter has it.
fn exported_linear(b: &mut Builder, x: ValueId, n: usize) -> Result<(ValueId, ValueId)> {
    let k = b.shape(x).last().and_then(Dim::as_const).unwrap() as usize;
    let w = b.weight_data("W", random(&[k, n], 3))?;
    let bias = b.weight_data("B", random(&[n], 4))?;
    let y = b.matmul(x, w)?;
    let y = b.plus(bias, y)?;
    Ok((y, exported_gelu(b, y)?))
}

fn exported_gelu(b: &mut Builder, y: ValueId) -> Result<ValueId> {
    let z = b.binary_scalar(BinaryOp::Div, y, 2f64.sqrt())?;
    let e = b.erf(z)?;
    let e = b.plus_scalar(e, 1.0)?;
    let z = b.mul(y, e)?;
    b.mul_scalar(z, 0.5)
}

#[test]
fn a_product_over_a_transposed_weight_is_found_wherever_its_rows_have_axes() {
    let pattern = Arc::new(pattern(&linear_gelu()));
    for shape in [&[7, 16][..], &[3, 5, 16], &[2, 3, 2, 16]] {
        let graph = model("erf", |b| {
            let dims: Vec<Dim> = shape.iter().map(|&d| Dim::from(d)).collect();
            let x = b.input("x", F, &dims)?;
            Ok(vec![("y", exported_linear(b, x, 8)?.1)])
        });
        let fused = check(&graph, &[random(shape, 9)], &with(&[&pattern]), 1e-5);
        let found = chosen(&fused, &pattern);
        let [(region, bound)] = &found[..] else { panic!("{}", fused.report) };
        // A region that others may make too: what it is called does not depend on who does.
        assert_eq!((region.anchor, fused.report.kernels), (Anchor::Contract, 1));
        let rows: usize = shape[..shape.len() - 1].iter().product();
        assert_eq!(dims(bound), ["K = 16".to_owned(), format!("M = {rows}"), "N = 8".to_owned()]);
    }
}

#[test]
fn rows_that_are_put_under_other_axes_half_way_are_rows() {
    let pattern = Arc::new(pattern(&linear_gelu()));
    for bias_first in [true, false] {
        let graph = model("flattened", |b| {
            let s = b.symbol("S", 1, 64);
            let x = b.input("x", F, &[2.into(), s.clone(), 16.into()])?;
            let flat = b.reshape(x, &[s.clone() * Dim::from(2), 16.into()])?;
            let w = b.weight_data("W", random(&[16, 8], 3))?;
            let bias = b.weight_data("B", random(&[8], 4))?;
            let y = b.matmul(flat, w)?;
            let y = if bias_first { b.plus(y, bias)? } else { y };
            let y = b.reshape(y, &[2.into(), s, 8.into()])?;
            let y = if bias_first { y } else { b.plus(y, bias)? };
            Ok(vec![("y", exported_gelu(b, y)?)])
        });
        let fused = check(&graph, &[random(&[2, 3, 16], 9)], &with(&[&pattern]), 1e-5);
        let found = chosen(&fused, &pattern);
        let [(_, bound)] = &found[..] else { panic!("{}", fused.report) };
        assert_eq!((dims(bound)[1].as_str(), fused.report.kernels), ("M = 2*s0", 1), "{}", fused.report);
    }
}

#[test]
fn scalars_of_a_function_may_be_literals_of_the_model() {
    let mut b = Builder::new("scaled");
    let [m, n] = ["M", "N"].map(|s| b.symbol(s, 1, 4096));
    let x = b.input("x", F, &[m.clone(), n.clone()]).unwrap();
    let s = b.input("s", F, &[]).unwrap();
    let top = b.reduce(ReduceOp::Max, x, &[-1], true).unwrap();
    let y = b.div(x, top).unwrap();
    let y = b.exp(y).unwrap();
    let y = b.mul(y, s).unwrap();
    b.output("y", y);
    let pattern = Arc::new(pattern(&b.finish()));
    let graph = model("by_half", |b| {
        let x = b.input("x", F, &[4.into(), 6.into()])?;
        let top = b.reduce(ReduceOp::Max, x, &[-1], true)?;
        let y = b.div(x, top)?;
        let y = b.exp(y)?;
        Ok(vec![("y", b.mul_scalar(y, 0.5)?)])
    });
    let fused = check(&graph, &[random(&[4, 6], 9)], &with(&[&pattern]), 1e-5);
    let found = chosen(&fused, &pattern);
    let [(region, bound)] = &found[..] else { panic!("{}", fused.report) };
    assert!(region.graph.ty(region.graph.inputs[bound.inputs[1]]).shape.is_empty());
    assert_eq!(fused.plan.weights.values().map(|t| t.to_f64_vec()).collect::<Vec<_>>(), [[0.5]]);
}

/// How often a function is chosen in a model, whose results must be right all the same.
fn launches(pattern: &Arc<Pattern>, graph: &Graph, inputs: &[Tensor]) -> (usize, usize) {
    let fused = check(graph, inputs, &with(&[pattern]), 0.01);
    (fused.report.functions[0].places, fused.report.functions[0].launches)
}

/// A call of [`swiglu_quantized`] with other words.
fn call(words: &Words, change: impl Fn(&mut Builder, &mut [ValueId; 4]) -> Result<()>) -> Graph {
    model("call", |b| {
        let x = b.input("x", F, &[12.into(), 12.into()])?;
        let g = b.weight_data("g", random(&[12], 1))?;
        let [gate, up] = [2, 3].map(|i| b.weight_data(&format!("w{i}"), random(&[8, 12], i)).unwrap());
        let mut values = [x, g, gate, up];
        change(b, &mut values)?;
        let [q, s] = swiglu_quantized(b, values, words)?;
        Ok(vec![("q", q), ("s", s)])
    })
}

#[test]
fn near_misses_are_not_the_function() {
    let pattern = Arc::new(pattern(&function()));
    let x = random(&[12, 12], 9);
    let places = |words: &Words| launches(&pattern, &call(words, |_, _| Ok(())), std::slice::from_ref(&x));
    assert_eq!(places(&WORDS), (1, 1));
    assert_eq!(places(&Words { eps: 1e-5, ..WORDS }), (0, 0), "another epsilon");
    assert_eq!(places(&Words { eps: 1.000_001e-6, ..WORDS }), (0, 0), "an epsilon that is off by some last places");
    assert_eq!(places(&Words { activation: Builder::gelu, ..WORDS }), (0, 0), "another activation");
    assert_eq!(places(&Words { activation: Builder::sigmoid, ..WORDS }), (0, 0), "another activation");
    // Both axes of `x` have one extent, so that only the axis tells.
    assert_eq!(places(&Words { norm_axis: 0, ..WORDS }), (0, 0), "the mean over other axes");
    let turned = call(&WORDS, |b, values| {
        values[0] = b.transpose(values[0], &[1, 0])?;
        Ok(())
    });
    assert_eq!(launches(&pattern, &turned, std::slice::from_ref(&x)), (1, 1), "the transpose is not part of it");
    let half = call(&WORDS, |b, values| {
        for v in values {
            *v = b.cast(*v, DType::F16)?;
        }
        Ok(())
    });
    assert_eq!(launches(&pattern, &half, std::slice::from_ref(&x)).0, 0, "another dtype");
}

#[test]
fn what_a_kernel_does_not_give_is_not_taken_from_it() {
    let linear = Arc::new(pattern(&linear_gelu()));
    let escaping = |before: bool| {
        let graph = model("escapes", |b| {
            let x = b.input("x", F, &[256.into(), 512.into()])?;
            let (before_gelu, y) = exported_linear(b, x, 384)?;
            let mut all = vec![("y", y)];
            all.extend(before.then_some(("before", before_gelu)));
            Ok(all)
        });
        let fused = fuse(&graph, &with(&[&linear])).unwrap();
        let bind = |r: &Region| linear.bind(r, &r.graph.symbols).is_some();
        (fused.report.functions[0].launches, fused.plan.regions.iter().filter(|r| bind(r)).count())
    };
    assert_eq!(escaping(false), (1, 1));
    // It would be multiplied twice. Whoever fuses both results has a region that is not the function.
    assert_eq!(escaping(true), (0, 0));

    // A cheap value inside may be computed once more.
    let both = Arc::new(pattern(&function()));
    let graph = model("norm_used", |b| {
        let x = b.input("x", F, &[12.into(), 12.into()])?;
        let g = b.weight_data("g", random(&[12], 1))?;
        let [gate, up] = [2, 3].map(|i| b.weight_data(&format!("w{i}"), random(&[8, 12], i)).unwrap());
        let [q, s] = swiglu_quantized(b, [x, g, gate, up], &WORDS)?;
        let norm = b.rms_norm(x, -1, Some(g), 1e-6)?;
        Ok(vec![("q", q), ("s", s), ("norm", norm)])
    });
    let fused = check(&graph, &[random(&[12, 12], 9)], &with(&[&both]), 0.01);
    assert_eq!((chosen(&fused, &both).len(), fused.report.kernels), (1, 2), "{}", fused.report);
}

#[test]
fn dims_must_agree_and_requirements_be_provable() {
    // M twice: rows and columns of one square, and the rows of another operand.
    let square = |m: &str, n: &str, multiple: i64, low: i64| {
        let mut b = Builder::new("square");
        let [m, n] = [m, n].map(|s| s.parse::<i64>().map_or_else(|_| b.symbol(s, low, 4096), Dim::from));
        if m.as_const().is_none() {
            b.multiple(&m, &multiple.into(), "rows").unwrap();
        }
        let x = b.input("x", F, &[m.clone(), n]).unwrap();
        let scale = b.input("scale", F, &[m]).unwrap();
        let scale = b.unsqueeze(scale, &[1]).unwrap();
        let top = b.reduce(ReduceOp::Max, x, &[0], true).unwrap();
        let y = b.sub(x, top).unwrap();
        let y = b.mul(y, scale).unwrap();
        b.output("y", y);
        b.finish()
    };
    let places = |pattern: &Graph, model: &Graph| {
        let pattern = Arc::new(Pattern::new(&pattern.name, pattern).unwrap());
        fuse(model, &with(&[&pattern])).unwrap().report.functions[0].places
    };
    let own = square("M", "M", 1, 1);
    assert_eq!(places(&own, &square("8", "8", 1, 1)), 1);
    assert_eq!(places(&own, &square("S", "S", 1, 1)), 1);
    assert_eq!(places(&own, &square("8", "9", 1, 1)), 0, "M is 8 and 9");
    assert_eq!(places(&own, &square("S", "T", 1, 1)), 0, "S and T need not be equal");
    assert_eq!(places(&own, &square("S", "S", 1, 0)), 0, "S may be 0");
    let eights = square("M", "N", 8, 1);
    assert_eq!(places(&eights, &square("16", "5", 1, 1)), 1);
    assert_eq!(places(&eights, &square("S", "5", 16, 1)), 1);
    assert_eq!(places(&eights, &square("12", "5", 1, 1)), 0, "12 is no multiple of 8");
    assert_eq!(places(&eights, &square("S", "5", 1, 1)), 0, "nothing is known of S");
    assert_eq!(places(&eights, &square("S", "5", 4, 1)), 0, "multiples of 4 need not be of 8");
}

/// Layer norm of a sum of `x[M, K]` and `y[M, K]`.
fn add_norm() -> Graph {
    let mut b = Builder::new("add_norm");
    let [m, k] = ["M", "K"].map(|s| b.symbol(s, 1, 1 << 20));
    let [x, y] = ["x", "y"].map(|name| b.input(name, F, &[m.clone(), k.clone()]).unwrap());
    let [g, beta] = ["g", "beta"].map(|name| b.input(name, F, std::slice::from_ref(&k)).unwrap());
    let sum = b.plus(x, y).unwrap();
    let sum = b.layer_norm(sum, -1, Some(g), Some(beta), 1e-12).unwrap();
    b.output("y", sum);
    b.finish()
}

#[test]
fn a_norm_by_parts_is_found_over_rows_of_any_axes() {
    let pattern = Arc::new(pattern(&add_norm()));
    for symbolic in [false, true] {
        let graph = model("parts", |b| {
            let [rows, k] = [b.symbol("rows", 1, 64), b.symbol("width", 1, 64)];
            let k = if symbolic { k } else { 12.into() };
            let [x, y] = ["x", "y"].map(|name| b.input(name, F, &[2.into(), rows.clone(), k.clone()]).unwrap());
            let [g, beta] = ["g", "beta"].map(|name| b.input(name, F, std::slice::from_ref(&k)).unwrap());
            let sum = b.plus(y, x)?;
            let mean = b.mean(sum, &[-1], true)?;
            let centred = b.sub(sum, mean)?;
            let square = b.binary_scalar(BinaryOp::Pow, centred, 2.0)?;
            let variance = b.mean(square, &[-1], true)?;
            let shifted = b.plus_scalar(variance, 1e-12)?;
            let root = b.sqrt(shifted)?;
            let y = b.div(centred, root)?;
            let y = b.mul(y, g)?;
            Ok(vec![("y", b.plus(y, beta)?)])
        });
        let inputs = [random(&[2, 3, 12], 1), random(&[2, 3, 12], 2), random(&[12], 3), random(&[12], 4)];
        let fused = check(&graph, &inputs, &with(&[&pattern]), 1e-5);
        let found = chosen(&fused, &pattern);
        let [(region, bound)] = &found[..] else { panic!("{}", fused.report) };
        assert_eq!((region.anchor, fused.report.kernels), (Anchor::Reduce, 1));
        let k = if symbolic { "K = s1" } else { "K = 12" };
        assert_eq!(dims(bound), [k, "M = 2*s0"], "{}", region.graph);
        // Both terms are alike, so either may be the first.
        assert_ne!(bound.inputs[0], bound.inputs[1]);
    }
}

#[test]
fn a_search_without_end_is_given_up_and_said() {
    // Any order of ten terms is a way, and none ends well: nothing is known of the model's rows.
    let sum = |multiple: i64| {
        model("sum", |b| {
            let m = b.symbol("M", 1, 4096);
            b.multiple(&m, &multiple.into(), "rows")?;
            let terms = (0..10).map(|i| b.input(&format!("x{i}"), F, std::slice::from_ref(&m)));
            let terms: Vec<ValueId> = terms.collect::<Result<_>>()?;
            let sum = terms[1..].iter().try_fold(terms[0], |a, x| b.plus(a, *x))?;
            Ok(vec![("y", b.exp(sum)?)])
        })
    };
    let found = |multiple: i64| {
        let fused = fuse(&sum(multiple), &with(&[&Arc::new(pattern(&sum(8)))])).unwrap();
        assert_eq!(fused.report.to_string().contains("the search was given up"), fused.report.functions[0].exhausted);
        (fused.report.functions[0].places, fused.report.functions[0].exhausted)
    };
    assert_eq!(found(8), (1, false));
    assert_eq!(found(1), (0, true));
}

#[test]
fn looking_for_functions_takes_a_few_steps_a_node() {
    let functions = [add_norm(), linear_gelu(), function()].map(|f| Arc::new(pattern(&f)));
    let graph = encoder(12, Dim::from(2), Dim::from(8), 32, 2);
    let fused = fuse(&graph, &with(&functions.each_ref())).unwrap();
    let [norm, gelu, other] = &fused.report.functions[..] else { panic!("{}", fused.report) };
    assert_eq!([norm, gelu, other].map(|f| (f.places, f.launches)), [(24, 24), (12, 12), (0, 0)], "{}", fused.report);
    for function in [norm, gelu, other] {
        assert!(
            !function.exhausted && function.steps < 4 * graph.nodes.len(),
            "{} nodes: {function:?}",
            graph.nodes.len()
        );
    }
    // One region each, as for everything that is equal.
    let kernels = fused.report.launches.iter().filter(|l| l.function.is_some());
    assert_eq!(kernels.map(|l| l.region).collect::<std::collections::BTreeSet<_>>().len(), 2);
}

#[test]
fn exact_numerics_take_only_the_same_arithmetic() {
    let pattern = Arc::new(pattern(&function()));
    let exact = Options { numerics: Numerics::Exact, ..with(&[&pattern]) };
    let same = call(&WORDS, |_, _| Ok(()));
    assert_eq!(fuse(&same, &exact).unwrap().report.functions[0].places, 1);
    let other = exported([2.into(), 3.into(), 16.into()], 16, 12);
    assert_eq!(fuse(&other, &exact).unwrap().report.functions[0].places, 0);
}

#[test]
fn what_no_pattern_can_hold_is_refused() {
    let refused = |make: &dyn Fn(&mut Builder, ValueId) -> Result<ValueId>| {
        let mut b = Builder::new("f");
        let x = b.input("x", F, &[Dim::sym("M"), 4.into()]).unwrap();
        let y = make(&mut b, x).unwrap();
        b.output("y", y);
        Pattern::new("f", &b.finish()).unwrap_err().to_string()
    };
    let weight = refused(&|b, x| {
        let w = b.weight_data("w", random(&[4], 1))?;
        b.mul(x, w)
    });
    assert_eq!(weight, "`f` cannot be a kernel's function: it has the weight `w`; make it an input");
    let table = refused(&|b, x| {
        let w = b.constant(random(&[4], 1))?;
        b.mul(x, w)
    });
    assert!(table.contains("a constant of 4 elements"), "{table}");
    let unused = refused(&|b, x| {
        b.input("z", F, &[])?;
        b.exp(x)
    });
    assert!(unused.ends_with("no output needs its input `z`"), "{unused}");
    assert!(refused(&|_, x| Ok(x)).ends_with("its output `y` is an input"));
    let sorted = refused(&|b, x| Ok(b.add(Op::TopK { axis: 1, k: 2.into(), largest: true }, &[x])?[0]));
    assert!(sorted.contains("`topk` can stand in no kernel"), "{sorted}");
}
