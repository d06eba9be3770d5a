//! Models and comparisons that the tests share.
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod known;
pub mod large;
pub mod nets;
pub mod stacks;

use kiln_fuse::{Fused, Numerics, Options, Step, fuse, interpret_plan};
use kiln_graph::{Builder, ConvSpec, DType, Dim, Graph, Result, Rng, Tensor, ValueId, interpret};

/// A weight with random data.
pub fn weight(b: &mut Builder, rng: &mut Rng, name: &str, shape: &[usize]) -> ValueId {
    let data = Tensor::random(DType::F32, shape, rng.next_u64()).unwrap();
    b.weight_data(name, data).unwrap()
}

/// A weight of positive values, for variances.
pub fn positive(b: &mut Builder, rng: &mut Rng, name: &str, shape: &[usize]) -> ValueId {
    let data = Tensor::generate(DType::F32, shape, |_| 0.2 + rng.unit()).unwrap();
    b.weight_data(name, data).unwrap()
}

pub fn dims(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|&d| Dim::from(d)).collect()
}

/// One post-norm encoder layer.
pub fn encoder_layer(
    b: &mut Builder,
    rng: &mut Rng,
    x: ValueId,
    mask: ValueId,
    h: usize,
    heads: usize,
) -> Result<ValueId> {
    let (n, s) = (b.shape(x)[0].clone(), b.shape(x)[1].clone());
    let d = h / heads;
    let split = |b: &mut Builder, rng: &mut Rng, name: &str, x: ValueId| -> Result<ValueId> {
        b.scoped(name, |b| {
            let scope = b.scope();
            let w = weight(b, rng, &format!("{scope}.w"), &[h, h]);
            let bias = weight(b, rng, &format!("{scope}.b"), &[h]);
            let y = b.linear(x, w, Some(bias), true)?;
            let y = b.reshape(y, &[n.clone(), s.clone(), heads.into(), d.into()])?;
            b.transpose(y, &[0, 2, 1, 3])
        })
    };
    let q = split(b, rng, "q", x)?;
    let k = split(b, rng, "k", x)?;
    let v = split(b, rng, "v", x)?;
    let a = b.attention(q, k, v, Some(mask), None, None)?;
    let a = b.transpose(a, &[0, 2, 1, 3])?;
    let a = b.reshape(a, &[n.clone(), s.clone(), h.into()])?;
    let dense = |b: &mut Builder, rng: &mut Rng, name: &str, x: ValueId, from: usize, to: usize| {
        b.scoped(name, |b| {
            let scope = b.scope();
            let w = weight(b, rng, &format!("{scope}.w"), &[to, from]);
            let bias = weight(b, rng, &format!("{scope}.b"), &[to]);
            b.linear(x, w, Some(bias), true)
        })
    };
    let norm = |b: &mut Builder, rng: &mut Rng, name: &str, x: ValueId| {
        b.scoped(name, |b| {
            let scope = b.scope();
            let g = weight(b, rng, &format!("{scope}.g"), &[h]);
            let beta = weight(b, rng, &format!("{scope}.beta"), &[h]);
            b.layer_norm(x, -1, Some(g), Some(beta), 1e-12)
        })
    };
    let o = dense(b, rng, "out", a, h, h)?;
    let r = b.plus(o, x)?;
    let x = norm(b, rng, "norm1", r)?;
    let f = dense(b, rng, "up", x, h, 4 * h)?;
    let f = b.gelu(f)?;
    let f = dense(b, rng, "down", f, 4 * h, h)?;
    let r = b.plus(f, x)?;
    norm(b, rng, "norm2", r)
}

/// An encoder over float inputs with an additive mask made from a 0/1 one, as exported models have it.
pub fn encoder(layers: usize, n: Dim, s: Dim, h: usize, heads: usize) -> Graph {
    let mut rng = Rng::new(7);
    let mut b = Builder::new("encoder");
    let x = b.input("x", DType::F32, &[n.clone(), s.clone(), h.into()]).unwrap();
    let mask = b.input("mask", DType::I64, &[n.clone(), s.clone()]).unwrap();
    let mask = b.cast(mask, DType::F32).unwrap();
    let mask = b.unsqueeze(mask, &[1, 2]).unwrap();
    let one = b.scalar(DType::F32, 1.0).unwrap();
    let mask = b.sub(one, mask).unwrap();
    let mask = b.mul_scalar(mask, -10000.0).unwrap();
    let mut y = x;
    for i in 0..layers {
        y = b.scoped(format!("layer.{i}"), |b| encoder_layer(b, &mut rng, y, mask, h, heads)).unwrap();
    }
    b.output("y", y);
    b.finish()
}

/// Convolution, batch norm, ReLU; a residual block; squeeze and excite; pooling and a classifier.
pub fn convnet(n: Dim, side: Dim, classes: usize) -> Graph {
    let mut rng = Rng::new(11);
    let mut b = Builder::new("convnet");
    let x = b.input("image", DType::F32, &[n, 3.into(), side.clone(), side]).unwrap();
    let spec = |stride: usize, k: usize, groups: usize| ConvSpec {
        strides: vec![stride; 2],
        pads: vec![(k / 2, k / 2); 2],
        dilations: vec![1; 2],
        groups,
    };
    let conv_bn =
        |b: &mut Builder, rng: &mut Rng, name: &str, x: ValueId, to: usize, k: usize, stride: usize, groups: usize| {
            b.scoped(name, |b| {
                let from = b.shape(x)[1].as_const().unwrap() as usize;
                let p = b.scope();
                let w = weight(b, rng, &format!("{p}.w"), &[to, from / groups, k, k]);
                let y = b.conv(x, w, None, spec(stride, k, groups))?;
                let [g, beta, mean] = ["g", "beta", "mean"].map(|n| weight(b, rng, &format!("{p}.{n}"), &[to]));
                let var = positive(b, rng, &format!("{p}.var"), &[to]);
                b.batch_norm(y, g, beta, mean, var, 1e-5)
            })
        };
    let y = conv_bn(&mut b, &mut rng, "stem", x, 8, 3, 2, 1).unwrap();
    let y = b.relu(y).unwrap();
    let r = conv_bn(&mut b, &mut rng, "block.expand", y, 16, 1, 1, 1).unwrap();
    let r = b.hard_swish(r).unwrap();
    let r = conv_bn(&mut b, &mut rng, "block.depthwise", r, 16, 3, 1, 16).unwrap();
    let r = b.hard_swish(r).unwrap();
    let r = b.scoped("block.se", |b| {
        let s = b.global_avg_pool(r)?;
        let w = weight(b, &mut rng, "se.w", &[16, 16, 1, 1]);
        let s = b.conv(s, w, None, spec(1, 1, 1))?;
        let s = b.hard_sigmoid(s, 1.0 / 6.0, 0.5)?;
        b.mul(r, s)
    });
    let r = conv_bn(&mut b, &mut rng, "block.project", r.unwrap(), 8, 1, 1, 1).unwrap();
    let y = b.plus(r, y).unwrap();
    let y = b.global_avg_pool(y).unwrap();
    let y = b.flatten(y, 1).unwrap();
    let w = weight(&mut b, &mut rng, "head.w", &[8, classes]);
    let y = b.matmul(y, w).unwrap();
    let y = b.softmax(y, -1).unwrap();
    b.output("scores", y);
    b.finish()
}

/// Residual blocks of three convolutions with batch norm over pictures of any size, halved every eighth block.
pub fn deep_convnet(blocks: usize) -> Graph {
    let mut rng = Rng::new(13);
    let mut b = Builder::new("deep");
    let (n, h, w) = (b.symbol("N", 1, 8), b.symbol("H", 32, 960), b.symbol("W", 32, 960));
    let x = b.input("image", DType::F32, &[n, 8.into(), h, w]).unwrap();
    let mut conv = |b: &mut Builder, name: &str, x: ValueId, k: usize, stride: usize, groups: usize| {
        let w = weight(b, &mut rng, &format!("{name}.w"), &[8, 8 / groups, k, k]);
        let pads = vec![(k / 2, k / 2); 2];
        let spec = ConvSpec { strides: vec![stride; 2], pads, dilations: vec![1; 2], groups };
        let y = b.conv(x, w, None, spec)?;
        let v = ["g", "beta", "mean"].map(|n| weight(b, &mut rng, &format!("{name}.{n}"), &[8]));
        let var = positive(b, &mut rng, &format!("{name}.var"), &[8]);
        b.batch_norm(y, v[0], v[1], v[2], var, 1e-5)
    };
    let mut y = x;
    for i in 0..blocks {
        let stride = 1 + usize::from(i % 8 == 7);
        let mut block = |b: &mut Builder| -> Result<ValueId> {
            let a = conv(b, &format!("{i}.expand"), y, 1, 1, 1)?;
            let a = b.hard_swish(a)?;
            let a = conv(b, &format!("{i}.depthwise"), a, 3, stride, 8)?;
            let a = b.hard_swish(a)?;
            let a = conv(b, &format!("{i}.project"), a, 1, 1, 1)?;
            if stride == 1 { b.plus(a, y) } else { Ok(a) }
        };
        y = b.scoped(format!("block.{i}"), &mut block).unwrap();
    }
    b.output("features", y);
    b.finish()
}

pub fn options(target: &str, numerics: Numerics) -> Options {
    Options { numerics, ..Options::new(target.parse().unwrap()) }
}

/// Worst error of two tensors, relative to the largest magnitude of the expected one; infinite where only one is NaN or infinities
/// differ. Integers must be equal.
pub fn worst(expected: &Tensor, found: &Tensor) -> f64 {
    assert_eq!(expected.dtype(), found.dtype());
    assert_eq!(expected.shape(), found.shape());
    let (e, f) = (expected.to_f64_vec(), found.to_f64_vec());
    let scale = e.iter().filter(|v| v.is_finite()).fold(1e-30f64, |m, v| m.max(v.abs()));
    let one = |(e, f): (&f64, &f64)| match (e.is_finite(), f.is_finite()) {
        (true, true) => (e - f).abs() / scale,
        _ if e.is_nan() && f.is_nan() || e == f => 0.0,
        _ => f64::INFINITY,
    };
    e.iter().zip(&f).map(one).fold(0.0, f64::max)
}

/// Fuses, runs both, and checks regions and results.
pub fn check(graph: &Graph, inputs: &[Tensor], options: &Options, tolerance: f64) -> Fused {
    let fused = fuse(graph, options).unwrap_or_else(|e| panic!("`{}`: {e}", graph.name));
    for region in &fused.plan.regions {
        region.verify().unwrap();
    }
    let expected = interpret(graph, inputs).unwrap();
    let found = interpret_plan(&fused.plan, inputs).unwrap_or_else(|e| panic!("`{}`: {e}", graph.name));
    assert_eq!(expected.len(), found.len());
    for ((name, _), (e, f)) in graph.outputs.iter().zip(expected.iter().zip(&found)) {
        let error = worst(e, f);
        assert!(error <= tolerance, "`{}` output `{name}`: error {error:e}", graph.name);
    }
    fused
}

/// Names of the kernels in order, for messages.
pub fn kernels(fused: &Fused) -> Vec<String> {
    let run = |s: &Step| match s {
        Step::Run { region, .. } => Some(fused.plan.regions[*region].summary.clone()),
        _ => None,
    };
    fused.plan.steps.iter().filter_map(run).collect()
}
