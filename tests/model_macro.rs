//! `#[kiln::model]` end to end: what a model builds computes what its source says.

use kiln::graph::{DType, Graph, Op, Tensor, interpret};

/// Config values of the models below.
#[derive(Clone)]
struct Config {
    hidden: usize,
    heads: usize,
    layers: usize,
    gated: bool,
    activation: Activation,
}

#[derive(Clone, Copy)]
enum Activation {
    Relu,
    Gelu,
}

fn config() -> Config {
    Config { hidden: 6, heads: 2, layers: 3, gated: false, activation: Activation::Relu }
}

#[kiln::model]
fn block<B>(x: Tensor<f32, B, { cfg.hidden }>, cfg: &Config, i: usize) -> Tensor<f32, B, { cfg.hidden }> {
    let w = weight!("block.{i}.weight", f32, [cfg.hidden, cfg.hidden]);
    let h = x.linear(w).relu();
    h
}

/// A residual MLP: config generics, a loop, a call.
#[kiln::model]
fn mlp<B>(x: Tensor<f32, B, 5>, cfg: &Config) -> Tensor<f32, B, 4> {
    let mut h = x.linear(weight!("in.weight", f32, [cfg.hidden, 5]), weight!("in.bias", f32, [cfg.hidden]));
    for i in 0..cfg.layers {
        h = h + block(h, cfg, i) * 0.5;
    }
    let logits = h.linear(weight!("out.weight", f32, [4, cfg.hidden]));
    logits
}

/// Gives every weight random data, in order of declaration.
fn filled(mut graph: Graph) -> Graph {
    for (i, node) in graph.nodes.clone().iter().enumerate() {
        if let Op::Weight { name, ty } = &node.op {
            let shape = ty.const_shape().unwrap();
            graph.weights.insert(name.clone(), Tensor::random(ty.dtype, &shape, 100 + i as u64).unwrap());
        }
    }
    graph
}

fn run(graph: &Graph, inputs: &[Tensor]) -> Vec<f64> {
    interpret(graph, inputs).unwrap().swap_remove(0).to_f64_vec()
}

fn close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= 1e-5 * e.abs().max(1.0), "element {i}: expected {e}, found {f}");
    }
}

/// `x[rows, k] w[n, k]^T`.
fn linear(x: &[f64], w: &Tensor) -> Vec<f64> {
    let (n, k, w) = (w.shape()[0], w.shape()[1], w.to_f64_vec());
    let row = |x: &[f64]| (0..n).map(|j| (0..k).map(|p| x[p] * w[j * k + p]).sum()).collect::<Vec<f64>>();
    x.chunks(k).flat_map(row).collect()
}

#[test]
fn a_model_has_its_signature_and_its_weights() {
    let graph = mlp::graph(&config()).unwrap();
    assert_eq!(graph.name, "mlp");
    assert_eq!(graph.ty(graph.inputs[0]).to_string(), "f32[B, 5]");
    let (name, output) = &graph.outputs[0];
    assert_eq!((name.as_str(), graph.ty(*output).to_string().as_str()), ("logits", "f32[B, 4]"));
    let weights = graph.nodes.iter().filter_map(|n| match &n.op {
        Op::Weight { name, ty } => Some(format!("{name}: {ty}")),
        _ => None,
    });
    assert_eq!(
        weights.collect::<Vec<_>>(),
        [
            "in.weight: f32[6, 5]",
            "in.bias: f32[6]",
            "block.0.weight: f32[6, 6]",
            "block.1.weight: f32[6, 6]",
            "block.2.weight: f32[6, 6]",
            "out.weight: f32[4, 6]"
        ]
    );
    assert!(graph.constraints.is_empty(), "{:?}", graph.constraints);
}

#[test]
fn a_model_computes_what_its_source_says() {
    let cfg = config();
    let graph = filled(mlp::graph(&cfg).unwrap());
    for rows in [1, 3] {
        let x = Tensor::random(DType::F32, &[rows, 5], 7).unwrap();
        let weight = |name: &str| &graph.weights[name];
        let bias = weight("in.bias").to_f64_vec();
        let mut h: Vec<f64> = linear(&x.to_f64_vec(), weight("in.weight"));
        h.iter_mut().enumerate().for_each(|(i, v)| *v += bias[i % cfg.hidden]);
        for i in 0..cfg.layers {
            let inner = linear(&h, weight(&format!("block.{i}.weight")));
            h.iter_mut().zip(inner).for_each(|(h, v)| *h += v.max(0.0) * 0.5);
        }
        close(&run(&graph, &[x]), &linear(&h, weight("out.weight")));
    }
}

/// Two undecided extents: equality is left to the build.
#[kiln::model]
fn sum<B>(x: Tensor<f32, B, { a }>, y: Tensor<f32, B, { b }>, a: usize, b: usize) -> Tensor<f32, B, { a }> {
    x + y
}

#[test]
fn what_config_values_decide_is_an_error_of_the_build_with_the_message_of_the_compiler() {
    assert!(sum::graph(8, 8).is_ok());
    let error = sum::graph(784, 10).unwrap_err().to_string();
    // macros/errors/ui/add_shapes.stderr has the same sentence.
    assert!(error.ends_with("broadcast: shapes [B, 784] and [B, 10] differ: 784 and 10"), "{error}");
    assert!(error.starts_with("sum (line ") && error.contains("`x + y`"), "{error}");
    let mut cfg = config();
    cfg.heads = 4;
    let error = split_heads::graph(&cfg).unwrap_err().to_string();
    assert!(error.contains("reshape") && error.contains("element counts"), "{error}");
}

#[kiln::model]
fn split_heads<B, S>(
    x: Tensor<f32, B, S, { cfg.hidden }>,
    cfg: &Config,
) -> Tensor<f32, B, { cfg.heads }, S, { cfg.hidden / cfg.heads }> {
    x.reshape([B, S, cfg.heads, cfg.hidden / cfg.heads]).transpose(1, 2)
}

#[test]
fn dims_are_expressions_over_config_values_and_symbols() {
    let graph = split_heads::graph(&config()).unwrap();
    assert_eq!(graph.ty(graph.outputs[0].1).to_string(), "f32[B, 2, S, 3]");
    let x = Tensor::random(DType::F32, &[2, 3, 6], 3).unwrap();
    let (found, data) = (run(&graph, std::slice::from_ref(&x)), x.to_f64_vec());
    let at = |b: usize, h: usize, s: usize, d: usize| data[(b * 3 + s) * 6 + h * 3 + d];
    let expected = (0..36).map(|i| at(i / 18, i / 9 % 2, i / 3 % 3, i % 3)).collect::<Vec<_>>();
    close(&found, &expected);
}

/// Branches on config values.
#[kiln::model]
fn activated<B>(x: Tensor<f32, B, 4>, cfg: &Config) -> Tensor<f32, B, 4> {
    let mut h = match cfg.activation {
        Activation::Relu => x.relu(),
        Activation::Gelu => x.gelu(),
    };
    if cfg.gated {
        h *= x.sigmoid();
    }
    if let Some(scale) = cfg.layers.checked_sub(2) { h * (scale as f32) } else { h }
}

#[test]
fn branches_follow_config_values() {
    let x = Tensor::random(DType::F32, &[3, 4], 11).unwrap();
    let data = x.to_f64_vec();
    let relu = |v: f64| v.max(0.0);
    let gelu = |v: f64| 0.5 * v * (1.0 + erf(v / 2f64.sqrt()));
    for gated in [false, true] {
        for (activation, f) in [(Activation::Relu, &relu as &dyn Fn(f64) -> f64), (Activation::Gelu, &gelu)] {
            for layers in [1, 5] {
                let graph = activated::graph(&Config { gated, activation, layers, ..config() }).unwrap();
                let gate = |v: f64| if gated { 1.0 / (1.0 + (-v).exp()) } else { 1.0 };
                let scale = if layers == 5 { 3.0 } else { 1.0 };
                let expected: Vec<f64> = data.iter().map(|&v| f(v) * gate(v) * scale).collect();
                close(&run(&graph, std::slice::from_ref(&x)), &expected);
            }
        }
    }
}

/// The error function by its Taylor series, for small arguments.
fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..40 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// Tuples, slices, selection, const generics, and numbers that are symbols.
#[kiln::model]
fn parts<B, S, const K: usize>(
    x: Tensor<f32, B, S>,
    ids: Tensor<i64, B, S>,
) -> (Tensor<f32, B, K>, Tensor<f32, B>, Tensor<i64, B, S>) {
    let kept = ids.ge(0).select(x, -1.0);
    let (best, _) = kept.topk(1, K);
    let mean = x.sum(1) / S;
    let (low, high) = concat([ids, ids + 1], 1).reshape([B, 2, S]).chunk(1, 2);
    let both = (low * 2 + high).reshape([B, S]);
    (best, mean, both)
}

#[test]
fn a_model_may_return_several_tensors() {
    let graph = parts::graph::<2>().unwrap();
    let names: Vec<&str> = graph.outputs.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["best", "mean", "both"]);
    let x = Tensor::from_slice(&[1, 4], &[0.5f32, 3.0, 2.0, -4.0]).unwrap();
    let ids = Tensor::from_slice(&[1, 4], &[1i64, -1, 0, 5]).unwrap();
    let outputs = interpret(&graph, &[x, ids]).unwrap();
    assert_eq!(outputs[0].to_vec::<f32>().unwrap(), [2.0, 0.5]);
    assert_eq!(outputs[1].to_vec::<f32>().unwrap(), [0.375]);
    assert_eq!(outputs[2].to_vec::<i64>().unwrap(), [4, -2, 1, 16]);
}

mod library {
    //! A model that others use by path.
    pub mod inner {
        /// The last of a sequence.
        #[kiln::model]
        pub fn last<N, T>(x: Tensor<f32, N, T, { width }>, width: usize) -> Tensor<f32, N, { width }> {
            x.index(1, -1)
        }
    }
}

#[test]
fn models_are_items_with_paths_and_scopes() {
    use library::inner;

    /// A model inside a function, which calls one in another module, whose symbols have other names.
    #[kiln::model]
    fn twice<B, S>(x: Tensor<f32, B, S, 3>) -> Tensor<f32, B, 3> {
        let y = x.slice(1, ..S - 1);
        inner::last(x, 3) + inner::last(y, 3)
    }
    let graph = twice::graph().unwrap();
    let x = Tensor::from_slice(&[1, 3, 3], &[1f32, 2., 3., 4., 5., 6., 7., 8., 9.]).unwrap();
    assert_eq!(run(&graph, &[x]), [11.0, 13.0, 15.0]);
}

/// Const generics of a called model, which is declared below.
#[kiln::model]
fn quadrupled<B>(x: Tensor<f32, B, 3>) -> Tensor<f32, B, 12> {
    let mut y = doubled::<3>(x);
    for turn in 0..5 {
        if turn != 2 {
            continue;
        }
        y = y * 1.0;
    }
    doubled::<6>(y)
}

#[kiln::model]
fn doubled<N, const K: usize>(x: Tensor<f32, N, K>) -> Tensor<f32, N, { K * 2 }> {
    let both = concat([x, x], 1);
    both
}

#[test]
fn values_are_named_by_the_calls_and_turns_that_lead_to_them() {
    let graph = quadrupled::graph().unwrap();
    let names: Vec<&str> = graph.nodes.iter().map(|n| n.name.as_str()).filter(|n| !n.is_empty()).collect();
    assert!(names.contains(&"doubled") && names.contains(&"2"), "{names:?}");
    let named = |name: &str| graph.values.iter().filter(|v| v.name == name).count();
    assert_eq!((named("doubled.both"), named("x")), (2, 1));
    let mlp = mlp::graph(&config()).unwrap();
    assert!(mlp.values.iter().any(|v| v.name == "2.block.h"));
    let x = Tensor::from_slice(&[1, 3], &[1f32, 2., 3.]).unwrap();
    assert_eq!(run(&graph, &[x]), [1., 2., 3.].repeat(4));
}

/// A small convolutional net.
#[kiln::model]
fn convolutional<B>(x: Tensor<f32, B, 3, 9, 7>, stride: usize) -> Tensor<f32, B, 2> {
    let h = x.conv(weight!("conv", f32, [4, 3, 3, 3]), [stride, stride], [1, 1]).relu();
    let h = h.max_pool([2, 2], [2, 2], [0, 0]).mean([2, 3]);
    h.linear(weight!("head", f32, [2, 4]))
}

#[test]
fn attributes_may_be_config_values() {
    // With the stride unknown at expansion the extents are too; the build knows them.
    for stride in [1, 2] {
        let graph = filled(convolutional::graph(stride).unwrap());
        let x = Tensor::random(DType::F32, &[2, 3, 9, 7], 5).unwrap();
        let (data, w) = (x.to_f64_vec(), graph.weights["conv"].to_f64_vec());
        let (rows, columns) = ((9 - 1) / stride + 1, (7 - 1) / stride + 1);
        let pixel = |n: usize, c: usize, i: usize, j: usize| match (i.checked_sub(1), j.checked_sub(1)) {
            (Some(i), Some(j)) if i < 9 && j < 7 => data[((n * 3 + c) * 9 + i) * 7 + j],
            _ => 0.0,
        };
        let conv = |n: usize, o: usize, i: usize, j: usize| -> f64 {
            let taps = (0..27).map(|t| (t / 9, t / 3 % 3, t % 3));
            let sum: f64 = taps
                .map(|(c, a, b)| w[((o * 3 + c) * 3 + a) * 3 + b] * pixel(n, c, i * stride + a, j * stride + b))
                .sum();
            sum.max(0.0)
        };
        let mut pooled = Vec::new();
        for (n, o) in (0..2).flat_map(|n| (0..4).map(move |o| (n, o))) {
            let (h, w) = (rows / 2, columns / 2);
            let max = |i: usize, j: usize| {
                (0..4).map(|t| conv(n, o, 2 * i + t / 2, 2 * j + t % 2)).fold(f64::NEG_INFINITY, f64::max)
            };
            pooled.push((0..h * w).map(|p| max(p / w, p % w)).sum::<f64>() / (h * w) as f64);
        }
        close(&run(&graph, &[x]), &linear(&pooled, &graph.weights["head"]));
    }
}

/// Repeats tokens ten times and hands them on.
macro_rules! ten {
    ($next:ident $($rest:ident)*; $($t:tt)*) => {
        $next! { $($rest)*; $($t)* $($t)* $($t)* $($t)* $($t)* $($t)* $($t)* $($t)* $($t)* $($t)* }
    };
}

macro_rules! chained {
    (; $($t:tt)*) => {
        #[kiln::model]
        fn a_thousand_calls<B>(x: Tensor<f32, B, 4>) -> Tensor<f32, B, 4> {
            x $($t)*
        }
    };
}

macro_rules! added {
    (; $($t:tt)*) => {
        #[kiln::model]
        fn a_thousand_sums<B>(x: Tensor<f32, B, 4>) -> Tensor<f32, B, 4> {
            1.0 + x $($t)*
        }
    };
}

ten! { ten ten chained; .neg() }
ten! { ten ten added; + 0.5 }

#[test]
fn chains_of_a_thousand_links_are_models() {
    let x = Tensor::from_slice(&[1, 4], &[1.0f32, -2.0, 3.5, 0.0]).unwrap();
    let graph = a_thousand_calls::graph().unwrap();
    assert_eq!(graph.nodes.iter().filter(|n| n.op.name() == "neg").count(), 1000);
    assert_eq!(interpret(&graph, std::slice::from_ref(&x)).unwrap()[0], x);
    let y = interpret(&a_thousand_sums::graph().unwrap(), &[x]).unwrap();
    assert_eq!(y[0].to_f64_vec(), [502.0, 499.0, 504.5, 501.0]);
}
