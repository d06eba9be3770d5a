//! Random graphs: the plan computes what the graph does, at every level of numerics and on every kind of target.

use crate::common::{check, options};
use kiln_fuse::Numerics;
use kiln_graph::{
    ArgOp, BinaryOp, Builder, CompareOp, ConvSpec, DType, Dim, Graph, Op, QuantAxes, ReduceOp, Rng, ScanOp, ScatterOp,
    Tensor, UnaryOp, ValueId,
};

/// Grows a graph op by op from values of `dtype`.
struct Grower {
    b: Builder,
    rng: Rng,
    dtype: DType,
    values: Vec<ValueId>,
    batch: Dim,
    weights: usize,
}

const BATCH: usize = 3;

impl Grower {
    fn pick(&mut self) -> ValueId {
        // Newer values more often, or graphs stay shallow.
        let n = self.values.len() as i64;
        let low = if self.rng.range(0, 2) > 0 { (n - 4).max(0) } else { 0 };
        let i = self.rng.range(low, n - 1);
        self.values[i as usize]
    }

    fn elements(&self, v: ValueId) -> i64 {
        let n = kiln_graph::Bindings::from([("N".to_owned(), BATCH as i64)]);
        self.b.ty(v).numel().eval(&n).unwrap()
    }

    fn pick_rank(&mut self, low: usize) -> Option<ValueId> {
        let v = self.pick();
        (self.b.rank(v) >= low).then_some(v)
    }

    fn weight(&mut self, shape: &[usize]) -> ValueId {
        let mut rng = Rng::new(self.rng.next_u64());
        let data = Tensor::generate(self.dtype, shape, |_| rng.signed()).unwrap();
        self.weights += 1;
        self.b.weight_data(&format!("w{}", self.weights), data).unwrap()
    }

    fn axis(&mut self, v: ValueId) -> i64 {
        let rank = self.b.rank(v) as i64;
        self.rng.range(0, rank - 1)
    }

    /// The last extent, where it is constant.
    fn last(&self, v: ValueId) -> Option<usize> {
        self.b.shape(v).last()?.as_const().map(|d| d as usize)
    }

    fn grow(&mut self) -> Option<ValueId> {
        let kind = self.rng.range(0, 25);
        let x = self.pick();
        let y = match kind {
            0..=3 => {
                use UnaryOp::{Abs, Cos, Erf, Neg, Round, Sign, Sin, Tanh};
                let op = [Abs, Cos, Erf, Neg, Round, Sign, Sin, Tanh][self.rng.range(0, 7) as usize];
                self.b.unary(op, x)
            }
            4..=7 => {
                use BinaryOp::{Add, Max, Min, Mul, Sub};
                let op = [Add, Max, Min, Mul, Sub][self.rng.range(0, 4) as usize];
                let other = self.pick();
                if self.b.shape(x) == self.b.shape(other) {
                    self.b.binary(op, x, other)
                } else if let Some(n) = self.last(x) {
                    let w = self.weight(&[n]);
                    self.b.binary(op, x, w)
                } else {
                    self.b.binary_scalar(op, x, 1.5)
                }
            }
            8 => self.b.binary_scalar(
                [BinaryOp::Mul, BinaryOp::Div, BinaryOp::Add][self.rng.range(0, 2) as usize],
                x,
                1.0,
            ),
            9 => {
                let c = self.b.compare_scalar(CompareOp::Gt, x, 0.1).ok()?;
                let z = self.b.scalar(self.dtype, -1.0).ok()?;
                self.b.select(c, x, z)
            }
            10 | 11 => {
                let x = self.pick_rank(1)?;
                let axis = self.axis(x);
                let op = [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min][self.rng.range(0, 2) as usize];
                let keep = self.rng.range(0, 1) == 0;
                self.b.reduce(op, x, &[axis], keep)
            }
            12 => {
                let x = self.pick_rank(1)?;
                let axis = self.axis(x);
                self.b.softmax(x, axis)
            }
            13 => {
                let x = self.pick_rank(2)?;
                self.b.layer_norm(x, -1, None, None, 1e-3)
            }
            14 => {
                let x = self.pick_rank(1)?;
                let n = self.last(x)?;
                let to = self.rng.range(1, 5) as usize;
                let w = self.weight(&[n, to]);
                self.b.matmul(x, w)
            }
            15 | 16 => {
                let x = self.pick_rank(2)?;
                let (a, c) = (self.axis(x), self.axis(x));
                self.b.swap_axes(x, a, c)
            }
            17 => {
                let x = self.pick_rank(2)?;
                let mut shape = self.b.shape(x).to_vec();
                let tail = shape.pop()?;
                let tail = shape.pop()? * tail;
                shape.push(tail);
                self.b.reshape(x, &shape)
            }
            18 => {
                let x = self.pick_rank(1)?;
                let n = self.last(x).filter(|n| *n > 1)?;
                let start = self.rng.range(0, n as i64 - 1);
                self.b.slice_axis(x, -1, &Dim::from(start), &Dim::from(n as i64 - start), 1)
            }
            19 => {
                let x = self.pick_rank(1)?;
                let e = self.b.exp(x).ok()?;
                let e = self.b.unary(UnaryOp::Tanh, e).ok()?;
                self.b.concat(&[x, e], -1)
            }
            20 => {
                let x = self.pick_rank(1)?;
                let n = self.last(x)?;
                let idx: Vec<i64> = (0..3).map(|_| self.rng.range(-(n as i64), n as i64 - 1)).collect();
                let idx = self.b.constant(Tensor::from_slice(&[3], &idx).unwrap()).ok()?;
                self.b.gather(x, idx, -1)
            }
            21 => {
                let x = self.pick_rank(1)?;
                let op = [ScanOp::Sum, ScanOp::Max][self.rng.range(0, 1) as usize];
                let exclusive = op == ScanOp::Sum && self.rng.range(0, 1) == 0;
                self.b.scan(op, x, -1, exclusive, self.rng.range(0, 1) == 0)
            }
            22 => {
                let x = self.pick_rank(1)?;
                let n = self.last(x)?;
                let k = Dim::from(self.rng.range(1, n as i64));
                let (top, at) = self.b.topk(x, -1, &k, self.rng.range(0, 1) == 0).ok()?;
                let at = self.b.cast(at, self.dtype).ok()?;
                self.b.plus(top, at)
            }
            23 => {
                let x = self.pick_rank(1)?;
                let axis = self.axis(x);
                let at = self.b.arg_reduce(ArgOp::Max, x, axis, false, true).ok()?;
                self.b.cast(at, self.dtype)
            }
            24 => {
                let scale = self.b.scalar(self.dtype, 0.125).ok()?;
                let zero = self.b.scalar(DType::I8, 3.0).ok()?;
                let q = self.b.quantize(x, scale, zero, QuantAxes::Tensor).ok()?;
                self.b.dequantize(q, scale, zero, QuantAxes::Tensor)
            }
            _ => {
                let x = self.pick_rank(2)?;
                let n = self.last(x).filter(|n| *n > 1)?;
                if self.b.shape(x)[0] != self.batch || self.b.rank(x) != 2 {
                    return None;
                }
                let shape = [self.batch.clone(), Dim::from(1)];
                let idx = self.b.iota(DType::I64, &shape, 0).ok()?;
                let idx = self.b.binary_scalar(BinaryOp::Mod, idx, n as f64).ok()?;
                let updates = self.b.slice_axis(x, -1, &Dim::from(0), &Dim::from(1), 1).ok()?;
                self.b.scatter_elements(x, idx, updates, 1, ScatterOp::Add)
            }
        };
        y.ok()
    }
}

fn random_graph(seed: u64, dtype: DType, symbolic: bool) -> (Graph, Vec<Tensor>) {
    let mut b = Builder::new(format!("random_{seed}"));
    let batch = if symbolic { b.symbol("N", 1, 9) } else { Dim::from(BATCH) };
    let mut rng = Rng::new(seed);
    let mut inputs = Vec::new();
    let mut values = Vec::new();
    for (i, tail) in [vec![4], vec![2, 5], vec![4]].into_iter().enumerate() {
        let mut shape = vec![batch.clone()];
        shape.extend(tail.iter().map(|&d: &usize| Dim::from(d)));
        values.push(b.input(&format!("x{i}"), dtype, &shape).unwrap());
        let concrete: Vec<usize> = std::iter::once(BATCH).chain(tail).collect();
        inputs.push(Tensor::generate(dtype, &concrete, |_| 2.0 * rng.signed()).unwrap());
    }
    let mut g = Grower { b, rng, dtype, values, batch, weights: 0 };
    while g.values.len() < 24 {
        if let Some(v) = g.grow()
            && g.b.rank(v) <= 5
            && g.elements(v) <= 2000
        {
            g.values.push(v);
        }
    }
    // Some values in the middle too: they must be in memory whatever fusion likes.
    let n = g.values.len();
    for (i, v) in g.values.clone().into_iter().enumerate() {
        if i + 3 > n || g.rng.range(0, 9) == 0 {
            g.b.output(format!("y{i}"), v);
        }
    }
    (g.b.finish(), inputs)
}

#[test]
fn exact_plans_are_exact() {
    for seed in 0..150 {
        let (graph, inputs) = random_graph(seed, DType::F32, seed % 2 == 0);
        let target = ["sm_90a", "cpu", "t4"][seed as usize % 3];
        check(&graph, &inputs, &options(target, Numerics::Exact), 0.0);
    }
}

#[test]
fn regrouped_plans_are_close() {
    for seed in 1000..1100 {
        let (graph, inputs) = random_graph(seed, DType::F64, seed % 2 == 0);
        check(&graph, &inputs, &options("sm_90a", Numerics::Approx), 1e-9);
    }
}

#[test]
fn narrow_floats_keep_their_roundings() {
    for seed in 2000..2040 {
        let (graph, inputs) = random_graph(seed, DType::F16, false);
        check(&graph, &inputs, &options("sm_80", Numerics::Exact), 0.0);
    }
}

#[test]
fn convolutions_and_pools() {
    let mut rng = Rng::new(5);
    for seed in 0..12 {
        let mut b = Builder::new("conv");
        let groups = rng.range(1, 2) as usize;
        let x = b.input("x", DType::F64, &[2, 4, 7, 5].map(Dim::from)).unwrap();
        let w = Tensor::random(DType::F64, &[6, 4 / groups, 3, 2], seed).unwrap();
        let w = b.weight_data("w", w).unwrap();
        let spec = ConvSpec { strides: vec![2, 1], pads: vec![(1, 0), (0, 1)], dilations: vec![1, 2], groups };
        let bias = b.weight_data("b", Tensor::random(DType::F64, &[6], seed + 50).unwrap()).unwrap();
        let y = b.conv(x, w, Some(bias), spec).unwrap();
        let y = b.silu(y).unwrap();
        let pool = kiln_graph::WindowSpec {
            window: vec![2, 2],
            strides: vec![1, 2],
            pads: vec![(1, 1), (0, 0)],
            dilations: vec![1, 1],
        };
        let p = b.add1(Op::WindowReduce { op: ReduceOp::Max, spec: pool }, &[y]).unwrap();
        let p = b.relu(p).unwrap();
        b.output("y", p);
        if seed % 2 == 0 {
            b.output("conv", y);
        }
        let inputs = [Tensor::random(DType::F64, &[2, 4, 7, 5], seed + 9).unwrap()];
        let fused = check(&b.finish(), &inputs, &options("sm_90a", Numerics::Reassoc), 1e-12);
        assert_eq!(fused.report.kernels, 2, "{}", fused.report);
    }
}
