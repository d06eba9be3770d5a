//! What somebody who comes from another framework tries first in `#[kiln::model]`: methods, options, generics, optional tensors, models that are
//! methods. Formulas are checked in `kiln-graph`; here, that the macro passes on what was written.

use kiln::graph::{DType, Dim, Graph, Op, Tensor, interpret};
use kiln::prelude::{Float, Int};

fn run(graph: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
    kiln::graph::verify(graph).unwrap();
    interpret(graph, inputs).unwrap()
}

fn random(shape: &[usize], seed: u64) -> Tensor {
    Tensor::random(DType::F32, shape, seed).unwrap()
}

/// Twenty-five and more methods and options, on images.
#[kiln::model]
#[rustfmt::skip]
fn images<B, H, W>(
    x: Tensor<f32, B, 4, H, W>,
    w: Tensor<f32, 6, 2, 3, 3>,
    up: Tensor<f32, 6, 2, 2, 2>,
    bias: Tensor<f32, 6>,
    shift: usize,
) -> (Tensor<f32, B, 6, { H + 1 }, { W + 2 }>, Tensor<f32, B, 2, { 2 * H + 3 }, { 2 * W + 5 }>, Tensor<f32, B, 4, 5, 7>) {
    let x = x.dropout(0.1).roll(-1, shift).roll(2, -1);
    let padded = x.pad([(1, 2), 1], mode = "reflect");
    let edge = x.pad([(0, 1)], mode = "edge").pad([(0, -1)]);
    let shown = padded.conv(w, strides = 1, pads = [0, (1, 1)], groups = 2, bias = bias);
    let larger = shown.conv_transpose(up, strides = 2, output_padding = 1);
    let larger = larger + 0.0 * larger.square().sqrt();
    let pooled = edge.avg_pool(3, strides = 2, pads = 1, ceil = true, count_include_pad = true);
    let most = edge.max_pool([3, 3], 2, 1, ceil = true);
    let small = (pooled + most).resize(sizes = [5, 7], mode = "cubic", coordinates = "align_corners");
    (shown, larger, small)
}

#[test]
fn image_methods_and_options_compile_and_run() {
    let graph = images::graph(2).unwrap();
    assert_eq!(graph.ty(graph.outputs[1].1).to_string(), "f32[B, 2, 2*H + 3, 2*W + 5]");
    let inputs = [random(&[2, 4, 5, 6], 1), random(&[6, 2, 3, 3], 2), random(&[6, 2, 2, 2], 3), random(&[6], 4)];
    let found = run(&graph, &inputs);
    assert_eq!(found[0].shape(), [2, 6, 6, 8]);
    // One element by hand: rolled, reflected, convolved.
    let pixel = |n: usize, c: usize, i: i64, j: i64| {
        let mirror = |i: i64, n: i64| if i < 0 { -i } else { i.min(2 * (n - 1) - i) };
        // A column of zeros on both sides comes after one of reflection.
        if !(-1..7).contains(&j) {
            return 0.0;
        }
        let (i, j) = (mirror(i, 5), mirror(j, 6));
        let (i, j) = ((i + 1).rem_euclid(5) as usize, (j - 2).rem_euclid(6) as usize);
        inputs[0].to_f64_vec()[((n * 4 + c) * 5 + i) * 6 + j]
    };
    let (w, bias) = (inputs[1].to_f64_vec(), inputs[3].to_f64_vec());
    for (n, o, i, j) in [(0, 0, 0, 0), (1, 5, 5, 7), (1, 2, 3, 4)] {
        let mut sum = bias[o];
        for t in 0..18 {
            let (c, a, b) = (t / 9, t / 3 % 3, t % 3);
            let (row, column) = (i as i64 + a as i64 - 1, j as i64 + b as i64 - 2);
            sum += w[(o * 2 + c) * 9 + a * 3 + b] * pixel(n, o / 3 * 2 + c, row, column);
        }
        let element = found[0].to_f64_vec()[((n * 6 + o) * 6 + i) * 8 + j];
        assert!((element - sum).abs() < 1e-5, "{n} {o} {i} {j}: expected {sum}, found {element}");
    }
    assert_eq!((found[1].shape(), found[2].shape()), (&[2, 2, 13, 17][..], &[2, 4, 5, 7][..]));
}

/// The same for sequences.
#[kiln::model]
#[rustfmt::skip]
fn sequences<B, S, T>(
    x: Tensor<f32, B, S, 12>,
    cos: Tensor<f32, S, 2>,
    sin: Tensor<f32, S, 2>,
    keys: Tensor<f32, B, 1, T, 4>,
    cache: Tensor<f32, B, 1, T, 4>,
    place: Tensor<i64>,
    first: usize,
) -> (Tensor<f32, B, S, 12>, Tensor<f32, B, S>, Tensor<f32, B, 1, T, 4>, Tensor<i8, B, S, 12>) {
    let (a, b, c) = x.split(-1, [2, 6, 4]);
    let (left, right) = b.split(-1, 2);
    let q = concat([a, left, c, right], -1).reshape([B, S, 3, 4]).transpose(1, 2);
    let q = q.rope(cos, sin, interleaved = true);
    let cache = cache.update(2, place, keys.slice(2, ..2)).update(2, first, keys.slice(2, 2..3));
    let y = q.attention(keys, cache, causal = true, offset = T - S, scale = 0.5);
    let y = y.permute([0, 2, 1, 3]).reshape([B, S, 12]);
    let spread = x.std(-1, correction = 1) + x.var(-1, keep = true).squeeze(-1) + x.amin(-1) - x.amax(-1).to_dtype(f32);
    let rows = full(f32, [12, 1], 0.5).expand([-1, 2]).repeat([1, 6]).scatter(iota(i64, [2], 0), full(f32, [2, 12], 1.0), 0);
    let small = x.matmul(rows).quantize(full(f32, [], 0.1), dtype = i8);
    (y, spread, cache, small)
}

#[test]
fn sequence_methods_and_options_compile_and_run() {
    let graph = sequences::graph(4).unwrap();
    let (x, keys, cache) = (random(&[2, 3, 12], 1), random(&[2, 1, 5, 4], 2), random(&[2, 1, 5, 4], 3));
    let (cos, sin) = (random(&[3, 2], 4), random(&[3, 2], 5));
    let inputs = [x.clone(), cos, sin, keys.clone(), cache.clone(), Tensor::scalar(1i64)];
    let found = run(&graph, &inputs);
    let (k, c) = (keys.to_f64_vec(), cache.to_f64_vec());
    let expected: Vec<f64> = (0..40)
        .map(|i| match i / 4 % 5 {
            1 | 2 => k[i - 4],
            4 => k[i - 8],
            _ => c[i],
        })
        .collect();
    assert_eq!(found[2].to_f64_vec(), expected);
    let data = x.to_f64_vec();
    for (row, spread) in data.chunks(12).zip(found[1].to_f64_vec()) {
        let mean = row.iter().sum::<f64>() / 12.0;
        let squares: f64 = row.iter().map(|v| (v - mean).powi(2)).sum();
        let (low, high) = row.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        let expected = (squares / 11.0).sqrt() + squares / 12.0 + low - high;
        assert!((spread - expected).abs() < 1e-5, "expected {expected}, found {spread}");
    }
    // Rows 0 and 1 of the weight are ones, the others halves.
    for (row, small) in data.chunks(12).zip(found[3].to_vec::<i8>().unwrap().chunks(12)) {
        let sum: f64 = row.iter().enumerate().map(|(i, v)| if i < 2 { *v } else { v / 2.0 }).sum();
        assert!(small.iter().all(|q| (f64::from(*q) * 0.1 - sum).abs() <= 0.0501), "{small:?} is not {sum}");
    }
    assert_eq!(found[0].shape(), [2, 3, 12]);
    // A cache that is too short for its place is refused when shapes are bound.
    let short = [
        x,
        inputs[1].clone(),
        inputs[2].clone(),
        random(&[2, 1, 4, 4], 2),
        random(&[2, 1, 4, 4], 3),
        inputs[5].clone(),
    ];
    let error = interpret(&graph, &short).unwrap_err().to_string();
    assert!(error.contains("written to axis 2"), "{error}");
}

/// A block for any float: its dtype is that of its arguments.
#[kiln::model]
fn block<T: Float, I: Int, B>(x: Tensor<T, B, 3>, ids: Tensor<I, B>) -> (Tensor<T, B, 3>, Tensor<I, B>) {
    let w = weight!("w", T, [3, 3]);
    let y = x.linear(w) * 0.5 + x.cast(f32).exp().cast(T);
    (y, ids + 1)
}

#[kiln::model]
fn in_half<B>(x: Tensor<f16, B, 3>, ids: Tensor<i32, B>) -> Tensor<f16, B, 3> {
    let (y, next) = block(x, ids);
    y + next.cast(f16).unsqueeze(1)
}

/// Generic itself: what it calls takes its dtype.
#[kiln::model]
fn outer<F: Float, B>(x: Tensor<F, B, 3>) -> Tensor<F, B, 3> {
    let (y, _) = block(x, iota(i64, [B], 0));
    y.relu()
}

#[test]
fn a_generic_model_takes_the_dtype_of_its_arguments_or_of_a_turbofish() {
    let types = |graph: &Graph| {
        let outputs = graph.outputs.iter().map(|(_, id)| graph.ty(*id).dtype);
        let weights = graph.nodes.iter().filter_map(|n| match &n.op {
            Op::Weight { ty, .. } => Some(ty.dtype),
            _ => None,
        });
        outputs.chain(weights).collect::<Vec<_>>()
    };
    assert_eq!(types(&block::graph::<half::bf16, i32>().unwrap()), [DType::BF16, DType::I32, DType::BF16]);
    assert_eq!(types(&block::graph::<f64, u8>().unwrap()), [DType::F64, DType::U8, DType::F64]);
    assert_eq!(types(&in_half::graph().unwrap()), [DType::F16, DType::F16]);
    assert_eq!(types(&outer::graph::<f32>().unwrap()), [DType::F32, DType::F32]);

    // From a program the dtype comes with the values, and must be of the class.
    let mut b = kiln::graph::Builder::new("b");
    let x = b.input("x", DType::I32, &[Dim::from(2), Dim::from(3)]).unwrap();
    let ids = b.input("ids", DType::I32, &[Dim::from(2)]).unwrap();
    let error = block::build(&mut b, x, ids).unwrap_err().to_string();
    assert!(
        error.contains("argument `x` of `block`") && error.contains("expected a float, found i32[2, 3]"),
        "{error}"
    );
}

/// Optional tensors: in methods, `if let`, `match`, and models that are called.
#[kiln::model]
fn projected<B, const N: usize>(
    x: Tensor<f32, B, 3>,
    w: Tensor<f32, N, 3>,
    bias: Option<Tensor<f32, N>>,
    mask: Option<Tensor<f32, B, N>>,
) -> Tensor<f32, B, N> {
    let mut y = x.linear(w, bias);
    if let Some(mask) = mask {
        y = y * mask;
    }
    if bias.is_some() && mask.is_none() {
        y = y + 100.0;
    }
    match bias {
        Some(b) => y - b,
        None => y,
    }
}

#[kiln::model]
fn twice<B>(x: Tensor<f32, B, 3>, gate: Tensor<f32, B, 3>, biased: bool) -> Tensor<f32, B, 3> {
    let w = weight!("w", f32, [3, 3]);
    let bias = if biased { Some(weight!("b", f32, [3])) } else { None };
    let h = projected::<3>(x, w, bias, Some(gate));
    projected::<3>(h, w, None, None)
}

#[test]
fn optional_tensors_are_there_or_not() {
    let (x, w) = (random(&[2, 3], 1), random(&[2, 3], 2));
    let (bias, mask) = (random(&[2], 3), random(&[2, 2], 4));
    let (xs, ws, ms) = (x.to_f64_vec(), w.to_f64_vec(), mask.to_f64_vec());
    for (biased, masked) in [(false, false), (false, true), (true, false), (true, true)] {
        let graph = projected::graph::<2>(biased, masked).unwrap();
        let mut inputs = vec![x.clone(), w.clone()];
        inputs.extend(biased.then(|| bias.clone()));
        inputs.extend(masked.then(|| mask.clone()));
        let found = run(&graph, &inputs).remove(0).to_f64_vec();
        for (i, f) in found.iter().enumerate() {
            let (r, c) = (i / 2, i % 2);
            let b = if biased { bias.to_f64_vec()[c] } else { 0.0 };
            let mut y = (0..3).map(|k| xs[r * 3 + k] * ws[c * 3 + k]).sum::<f64>() + b;
            y *= if masked { ms[i] } else { 1.0 };
            y += if biased && !masked { 100.0 } else { 0.0 };
            assert!((f - (y - b)).abs() < 1e-4, "{biased} {masked}: expected {}, found {f}", y - b);
        }
    }
    let weights =
        |biased| twice::graph(biased).unwrap().nodes.iter().filter(|n| matches!(n.op, Op::Weight { .. })).count();
    assert_eq!((weights(false), weights(true)), (1, 2));
}

/// Models that are methods of a config: its fields are dims and numbers.
struct Encoder {
    hidden: usize,
    heads: usize,
    layers: usize,
    scale: f32,
}

impl Encoder {
    /// One layer.
    #[kiln::model(self.hidden % self.heads == 0)]
    pub fn layer<B, S>(&self, x: Tensor<f32, B, S, { self.hidden }>, i: usize) -> Tensor<f32, B, S, { self.hidden }> {
        let w = weight!("layer.{i}", f32, [self.hidden, self.hidden]);
        let q = x.linear(w).reshape([B, S, self.heads, self.hidden / self.heads]).transpose(1, 2);
        let y = q.attention(q, q).transpose(1, 2).reshape([B, S, self.hidden]);
        activated(y) * self.scale
    }

    /// All of them.
    #[kiln::model]
    fn stack<B, S>(&self, x: Tensor<f32, B, S, { self.hidden }>) -> Tensor<f32, B, S, { self.hidden }> {
        let mut h = x;
        for i in 0..self.layers {
            let y: Tensor<f32, B, S, { self.hidden }> = self.layer(h, i);
            h = h + y;
        }
        h
    }
}

#[kiln::model]
fn activated<B, S, H>(x: Tensor<f32, B, S, H>) -> Tensor<f32, B, S, H> {
    x.silu()
}

/// A free model that calls a method of what it is given.
#[kiln::model]
fn pooled<B, S>(x: Tensor<f32, B, S, { model.hidden }>, model: &Encoder) -> Tensor<f32, B, { model.hidden }> {
    model.stack(x).mean(1)
}

#[test]
fn models_may_be_methods_of_a_config() {
    let model = Encoder { hidden: 6, heads: 2, layers: 3, scale: 0.25 };
    for graph in [model.stack_graph().unwrap(), pooled::graph(&model).unwrap()] {
        let weights = graph.nodes.iter().filter(|n| matches!(n.op, Op::Weight { .. })).count();
        assert_eq!(weights, 3);
        assert!(graph.nodes.iter().any(|n| n.name.ends_with("1.layer.attention")), "scopes name the calls");
    }
    let odd = Encoder { heads: 4, ..model };
    let error = odd.layer_graph(0).unwrap_err().to_string();
    assert!(
        error.contains("self.hidden % self.heads == 0") && error.contains("needs a multiple of 4, found 6"),
        "{error}"
    );
}

/// README.md has this.
struct Config {
    width: usize,
}

impl Config {
    #[kiln::model(S % 2 == 0)]
    #[rustfmt::skip]
    fn halved<T: Float, B, S>(&self, x: Tensor<T, B, S, { self.width }>, bias: Option<Tensor<T, { self.width }>>) -> Tensor<T, B, { S / 2 }, { self.width }> {
        let pairs = x.linear(weight!("w", T, [self.width, self.width]), bias).reshape([B, S / 2, 2, self.width]);
        pairs.mean(2).layer_norm(-1, eps = 1e-6)
    }
}

#[test]
fn all_of_it_goes_together() {
    let graph = Config { width: 5 }.halved_graph::<half::f16>(true).unwrap();
    assert_eq!(graph.inputs.len(), 2);
    assert_eq!(graph.ty(graph.outputs[0].1).to_string(), "f16[B, floor(S, 2), 5]");
}

/// `S / 4 * 4` is `S`: no constraint is left but the one that is written.
#[kiln::model(S % 4 == 0, S % 6 == 0)]
fn patches<B, S>(x: Tensor<f32, B, S, 2>) -> Tensor<f32, B, S, 2> {
    let y = x.reshape([B, S / 4, 4, 2]).sum(2, keep = true).broadcast_to([B, S / 4, 4, 2]);
    let (a, b, c) = y.reshape([B, S / 4 * 4, 2]).split(1, 3);
    concat([c, b, a], 1) + x
}

#[test]
fn extents_may_be_required_to_divide() {
    let graph = patches::graph().unwrap();
    assert_eq!(graph.constraints.len(), 2, "{:?}", graph.constraints);
    let x = random(&[1, 12, 2], 1);
    let data = x.to_f64_vec();
    let found = run(&graph, &[x]).remove(0).to_f64_vec();
    for (i, f) in found.iter().enumerate() {
        let (s, c) = (i / 2, i % 2);
        // Thirds are reversed, and four in a row are added.
        let from = (2 - s / 4) * 4;
        let sum: f64 = (from..from + 4).map(|p| data[p * 2 + c]).sum();
        assert!((f - (sum + data[i])).abs() < 1e-5);
    }
    let error = interpret(&graph, &[random(&[1, 10, 2], 1)]).unwrap_err().to_string();
    assert!(error.contains("S % 4 == 0") && error.contains("to be a multiple of 4, found 10"), "{error}");
}

mod imports {
    //! Imports that serve nothing but a model's signature are used.
    #![deny(warnings)]

    mod by_prelude {
        use kiln::prelude::*;

        #[kiln::model]
        pub fn m<B>(x: Tensor<f32, B, 2>) -> Tensor<f32, B, 2> {
            x.relu()
        }
    }

    mod by_name {
        use half::bf16;
        use kiln::graph::Tensor;

        #[kiln::model]
        pub fn m<B>(x: Tensor<bf16, B, 2>) -> Tensor<bf16, B, 2> {
            x.relu()
        }
    }

    mod not_at_all {
        #[kiln::model]
        pub fn m<B>(x: Tensor<bf16, B, 2>) -> Tensor<bf16, B, 2> {
            x.relu()
        }
    }

    #[test]
    fn a_model_alone_uses_its_imports() {
        for graph in [by_prelude::m::graph(), by_name::m::graph(), not_at_all::m::graph()] {
            assert_eq!(graph.unwrap().outputs.len(), 1);
        }
    }
}
