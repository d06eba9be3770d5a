//! The kernels that dominate small transformers and convolutional networks, and the ceilings that bound them: peak fused multiply-adds for
//! products and convolutions, a copy in cache for the rest. On two threads unless `RAYON_NUM_THREADS` says otherwise.

mod common;

use common::Fail;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use kiln_cpu::Kernel;
use kiln_fuse::{Anchor, Region};
use kiln_graph::{BinaryOp, Bindings, Builder, ConvSpec, DType, Dim, Graph, Rng, ValueId};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Rounds of twelve independent chains of multiply-adds; what they take.
struct Peak(u64);

impl Peak {
    /// Multiplications and additions of a round.
    const FLOPS: usize = 2 * 12;
}

/// Elements of a vector.
struct Lanes;

impl pulp::WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

impl pulp::WithSimd for Peak {
    type Output = Duration;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) -> Duration {
        let (x, y) = (simd.splat_f32s(black_box(0.999)), simd.splat_f32s(black_box(1e-3)));
        let mut acc = [simd.splat_f32s(1.0); 12];
        let start = Instant::now();
        for _ in 0..self.0 {
            for a in &mut acc {
                *a = simd.mul_add_e_f32s(*a, x, y);
            }
        }
        black_box(acc);
        start.elapsed()
    }
}

/// What one thread can do at most.
fn ceilings(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ceiling of a thread");
    let arch = pulp::Arch::new();
    group.throughput(Throughput::Elements((Peak::FLOPS * arch.dispatch(Lanes)) as u64));
    group.bench_function("multiply-adds, f32 (elements are FLOP)", |b| b.iter_custom(|n| arch.dispatch(Peak(n))));
    let source = vec![1u8; 256 * 1024];
    let mut target = vec![0u8; 256 * 1024];
    group.throughput(Throughput::Bytes(2 * source.len() as u64));
    group.bench_function("copy in L2", |b| {
        b.iter(|| {
            target.copy_from_slice(black_box(&source));
            black_box(&mut target);
        });
    });
    group.finish();
}

struct Case {
    graph: Graph,
    /// Multiply-adds times two, for kernels bound by arithmetic.
    flops: Option<f64>,
}

struct Make {
    b: Builder,
}

impl Make {
    fn new(name: &str) -> Make {
        Make { b: Builder::new(name) }
    }

    fn input(&mut self, name: &str, shape: &[usize]) -> Result<ValueId, Fail> {
        let dims: Vec<Dim> = shape.iter().map(|&d| Dim::from(d)).collect();
        Ok(self.b.input(name, DType::F32, &dims)?)
    }

    fn done(mut self, y: ValueId, flops: Option<f64>) -> Case {
        self.b.output("y", y);
        Case { graph: self.b.finish(), flops }
    }
}

fn linear(m: usize, n: usize, k: usize, transposed: bool, gelu: bool) -> Result<Case, Fail> {
    let order = if transposed { "nk" } else { "kn" };
    let mut g = Make::new(&format!("linear {m}x{n}x{k} {order}{}", if gelu { " gelu" } else { "" }));
    let x = g.input("x", &[m, k])?;
    let w = g.input("w", &if transposed { [n, k] } else { [k, n] })?;
    let bias = g.input("bias", &[n])?;
    let y = g.b.linear(x, w, Some(bias), transposed)?;
    let y = if gelu { g.b.gelu(y)? } else { y };
    Ok(g.done(y, Some(2.0 * (m * n * k) as f64)))
}

fn attention_scores() -> Result<Case, Fail> {
    let mut g = Make::new("scores 12x128x128x32");
    let (q, k) = (g.input("q", &[1, 128, 12, 32])?, g.input("k", &[1, 128, 12, 32])?);
    let q = g.b.transpose(q, &[0, 2, 1, 3])?;
    let k = g.b.transpose(k, &[0, 2, 3, 1])?;
    let y = g.b.matmul(q, k)?;
    let y = g.b.mul_scalar(y, 0.17)?;
    Ok(g.done(y, Some(2.0 * (12 * 128 * 128 * 32) as f64)))
}

fn attention_values() -> Result<Case, Fail> {
    let mut g = Make::new("values 12x128x32x128");
    let (p, v) = (g.input("p", &[1, 12, 128, 128])?, g.input("v", &[1, 128, 12, 32])?);
    let v = g.b.transpose(v, &[0, 2, 1, 3])?;
    let y = g.b.matmul(p, v)?;
    let y = g.b.transpose(y, &[0, 2, 1, 3])?;
    Ok(g.done(y, Some(2.0 * (12 * 128 * 128 * 32) as f64)))
}

fn pointwise(
    name: &str,
    shape: &[usize],
    f: impl Fn(&mut Builder, ValueId) -> Result<ValueId, Fail>,
) -> Result<Case, Fail> {
    let mut g = Make::new(&format!("{name} {shape:?}"));
    let x = g.input("x", shape)?;
    let y = f(&mut g.b, x)?;
    Ok(g.done(y, None))
}

fn layer_norm(rows: usize, n: usize) -> Result<Case, Fail> {
    let mut g = Make::new(&format!("add, layer norm {rows}x{n}"));
    let (x, r) = (g.input("x", &[rows, n])?, g.input("r", &[rows, n])?);
    let (s, h) = (g.input("s", &[n])?, g.input("h", &[n])?);
    let y = g.b.binary(BinaryOp::Add, x, r)?;
    let y = g.b.layer_norm(y, -1, Some(s), Some(h), 1e-5)?;
    Ok(g.done(y, None))
}

#[allow(clippy::too_many_arguments, reason = "the geometry of a convolution")]
fn conv(c: usize, o: usize, h: usize, w: usize, taps: usize, stride: usize, groups: usize) -> Result<Case, Fail> {
    let mut g = Make::new(&format!("conv {c}->{o} {h}x{w} taps {taps} stride {stride} groups {groups}"));
    let x = g.input("x", &[1, c, h, w])?;
    let k = g.input("w", &[o, c / groups, taps, taps])?;
    let bias = g.input("bias", &[o])?;
    let pads = vec![(taps / 2, taps / 2); 2];
    let spec = ConvSpec { strides: vec![stride; 2], pads, dilations: vec![1; 2], groups };
    let y = g.b.conv(x, k, Some(bias), spec)?;
    let y = g.b.hard_swish(y)?;
    let out = (h / stride) * (w / stride);
    Ok(g.done(y, Some(2.0 * (o * out * (c / groups) * taps * taps) as f64)))
}

/// Times a kernel, and its binding to shapes.
fn time(group: &mut BenchmarkGroup<'_, WallTime>, case: &Case) -> Result<(), Fail> {
    let graph = &case.graph;
    let region = Region { name: graph.name.clone(), summary: String::new(), anchor: Anchor::Map, graph: graph.clone() };
    let kernel = Kernel::compile(&region)?;
    let none = Bindings::new();
    let bound = kernel.bind(&none)?;
    let mut rng = Rng::new(1);
    let bytes = |n: usize, rng: &mut Rng| (0..n).flat_map(|_| (rng.signed() as f32).to_le_bytes()).collect::<Vec<u8>>();
    let len = |v: ValueId| -> Result<usize, Fail> { Ok(graph.ty(v).concrete(&none)?.iter().product()) };
    let mut inputs = Vec::new();
    for &v in &graph.inputs {
        inputs.push(bytes(len(v)?, &mut rng));
    }
    let mut outputs = Vec::new();
    for (_, v) in &graph.outputs {
        outputs.push(vec![0u8; 4 * len(*v)?]);
    }
    let moved: usize = inputs.iter().chain(&outputs).map(Vec::len).sum();
    let views: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let mut scratch = vec![0u8; bound.scratch_bytes()];
    let mut run = || {
        let mut out: Vec<&mut [u8]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
        bound.run(&views, &mut out, &mut scratch)
    };
    run()?;
    group.throughput(match case.flops {
        Some(flops) => Throughput::Elements(flops as u64),
        None => Throughput::Bytes(moved as u64),
    });
    group.bench_function(format!("{} [{}]", graph.name, bound.implementation()), |b| b.iter(&mut run));
    Ok(())
}

fn main() -> Result<(), Fail> {
    let threads: usize = std::env::var("RAYON_NUM_THREADS").ok().and_then(|v| v.parse().ok()).unwrap_or(2);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    pool.install(|| {
        common::run(|criterion| {
            ceilings(criterion);
            let mut group = criterion.benchmark_group("kernel");
            for case in cases()? {
                time(&mut group, &case)?;
            }
            group.finish();
            Ok(())
        })
    })
}

fn cases() -> Result<[Case; 24], Fail> {
    Ok([
        linear(128, 384, 384, true, false)?,
        linear(128, 384, 384, false, false)?,
        linear(128, 1536, 384, true, true)?,
        linear(128, 384, 1536, true, false)?,
        linear(1, 1536, 384, true, false)?,
        linear(1, 1536, 384, false, false)?,
        linear(1024, 1024, 1024, false, false)?,
        attention_scores()?,
        attention_values()?,
        pointwise("softmax", &[12, 128, 128], |b, x| Ok(b.softmax(x, -1)?))?,
        pointwise("gelu", &[128, 1536], |b, x| Ok(b.gelu(x)?))?,
        pointwise("sigmoid", &[128, 1536], |b, x| Ok(b.sigmoid(x)?))?,
        pointwise("relu", &[128, 1536], |b, x| Ok(b.relu(x)?))?,
        pointwise("transpose", &[512, 512], |b, x| Ok(b.transpose(x, &[1, 0])?))?,
        pointwise("heads", &[128, 12, 32], |b, x| Ok(b.transpose(x, &[1, 0, 2])?))?,
        pointwise("mean over rows", &[1, 128, 384], |b, x| Ok(b.mean(x, &[1], false)?))?,
        pointwise("tiny add", &[16], |b, x| Ok(b.plus_scalar(x, 1.0)?))?,
        layer_norm(128, 384)?,
        conv(3, 32, 48, 320, 3, 2, 1)?,
        conv(64, 128, 24, 160, 1, 1, 1)?,
        conv(128, 128, 12, 160, 3, 1, 128)?,
        conv(256, 256, 12, 80, 5, 1, 256)?,
        conv(64, 64, 24, 160, 3, 2, 64)?,
        conv(64, 64, 24, 160, 3, 1, 1)?,
    ])
}
