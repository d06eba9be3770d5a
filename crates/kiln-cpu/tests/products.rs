//! Contractions, convolutions, windows and indexed moves against the interpreter.

use crate::support::{bind, check, dims, execute, random};
use kiln_fuse::{Anchor, Region};
use kiln_graph::{
    BinaryOp, Builder, ConvSpec, DType, Dim, EinsumSpec, Op, ReduceOp, Rng, ScatterOp, Tensor, WindowSpec,
};

fn einsum(lhs: &str, rhs: &str, out: &str) -> EinsumSpec {
    let labels = |s: &str| s.chars().collect();
    EinsumSpec { lhs: labels(lhs), rhs: labels(rhs), out: labels(out) }
}

/// Extents of labels.
fn shape(labels: &[char], extents: &[(char, usize)]) -> Vec<usize> {
    labels.iter().map(|l| extents.iter().find(|e| e.0 == *l).unwrap().1).collect()
}

const SPECS: [(&str, &str, &str); 15] = [
    ("mk", "kn", "mn"),
    ("mk", "nk", "mn"),
    ("km", "kn", "mn"),
    ("mk", "kn", "nm"),
    ("bmk", "bkn", "bmn"),
    ("bmk", "kn", "bmn"),
    ("mbk", "bkn", "mbn"),
    ("bmck", "bnck", "bcmn"),
    ("bcmn", "bnck", "bmck"),
    ("mk", "k", "m"),
    ("k", "kn", "n"),
    ("k", "k", ""),
    ("m", "n", "mn"),
    ("mkb", "nbk", "bnm"),
    ("kmb", "knc", "nmcb"),
];

#[test]
fn every_arrangement_of_labels() {
    let mut rng = Rng::new(21);
    for (l, r, o) in SPECS {
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16, DType::I32, DType::I64, DType::I8] {
            for round in 0..3 {
                let extents: Vec<(char, usize)> = "bcmnk"
                    .chars()
                    .map(|c| (c, if round == 0 { 1 + rng.range(0, 1) as usize } else { rng.range(1, 40) as usize }))
                    .collect();
                let spec = einsum(l, r, o);
                let (ls, rs) = (shape(&spec.lhs, &extents), shape(&spec.rhs, &extents));
                let mut b = Builder::new(format!("{l},{r}->{o} {dtype} {extents:?}"));
                let x = b.input("x", dtype, &dims(&ls)).unwrap();
                let y = b.input("y", dtype, &dims(&rs)).unwrap();
                let acc = dtype.accumulator();
                let z = b.add1(Op::Contract { spec, acc, out: dtype }, &[x, y]).unwrap();
                b.output("z", z);
                let inputs = [random(dtype, &ls, &mut rng, false), random(dtype, &rs, &mut rng, false)];
                // Sums of at most 1600 products below 1: the f32 error is below k units of the largest partial sum.
                let k: f64 = if l.contains('b') && !o.contains('b') { 1600.0 } else { 40.0 };
                assert!(!check(&b.finish(), &inputs, 2.0 * k.sqrt(), k.sqrt()).is_reference());
            }
        }
    }
}

/// Parts of longer rows, turned and split into heads, by parts of other axes that repeat.
#[test]
fn products_of_views_in_place() {
    let mut rng = Rng::new(29);
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16, DType::I32, DType::I8] {
        for _ in 0..6 {
            let [n, s, heads, depth] = [3, 30, 4, 20].map(|most| rng.range(1, most) as usize);
            let before = rng.range(0, 2) as usize;
            let longer = [n, s, (before + 2) * heads * depth + rng.range(0, 9) as usize];
            let keys = rng.range(1, 30) as usize;
            let mut b = Builder::new(format!("views {dtype} {n} {s} {heads} {depth} {before} {keys}"));
            let x = b.input("x", dtype, &dims(&longer)).unwrap();
            let y = b.input("y", dtype, &dims(&[n, keys + 3, 1, depth])).unwrap();
            let width = Dim::from(heads * depth);
            let part = b.slice_axis(x, 2, &(width.clone() * Dim::from(before)), &width, 1).unwrap();
            let part = b.reshape(part, &dims(&[n, s, heads, depth])).unwrap();
            let part = b.transpose(part, &[0, 2, 1, 3]).unwrap();
            let shared = b.slice_axis(y, 1, &Dim::from(2), &Dim::from(keys), 1).unwrap();
            let shared = b.broadcast_to(shared, &dims(&[n, keys, heads, depth])).unwrap();
            let spec = einsum("nhsd", "nkhd", "nhsk");
            let z = b.add1(Op::Contract { spec, acc: dtype.accumulator(), out: dtype }, &[part, shared]).unwrap();
            b.output("z", z);
            let graph = b.finish();
            let region = Region { anchor: Anchor::Contract, ..crate::support::region(graph.clone()) };
            region.verify().unwrap();
            let inputs =
                [random(dtype, &longer, &mut rng, false), random(dtype, &[n, keys + 3, 1, depth], &mut rng, false)];
            assert!(!check(&graph, &inputs, 30.0, 5.0).is_reference());
        }
    }
}

#[test]
fn large_products_with_prologue_and_epilogue() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let mut rng = Rng::new(22);
    pool.install(|| {
        for (m, n, k) in [(128, 384, 384), (1, 1000, 700), (700, 1, 513), (257, 129, 65), (13, 600, 1500)] {
            let mut b = Builder::new(format!("linear {m}x{n}x{k}"));
            let x = b.input("x", DType::F32, &dims(&[m, k])).unwrap();
            let w = b.input("w", DType::F32, &dims(&[n, k])).unwrap();
            let bias = b.input("bias", DType::F32, &dims(&[n])).unwrap();
            let half = b.mul_scalar(x, 0.5).unwrap();
            let y = b.linear(half, w, Some(bias), true).unwrap();
            let y = b.gelu(y).unwrap();
            b.output("y", y);
            let inputs = [
                random(DType::F32, &[m, k], &mut rng, false),
                random(DType::F32, &[n, k], &mut rng, false),
                random(DType::F32, &[n], &mut rng, false),
            ];
            let root = (k as f64).sqrt();
            check(&b.finish(), &inputs, 2.0 * root, root);
        }
    });
}

#[test]
fn epilogues_run_on_blocks_and_threads_change_nothing() {
    let mut rng = Rng::new(31);
    for (batch, m, n, k) in
        [(1, 100, 64, 70), (1, 1, 1500, 300), (3, 52, 64, 90), (1, 700, 500, 40), (2, 5, 1, 9), (1, 300, 52, 0)]
    {
        let mut b = Builder::new(format!("{batch}x{m}x{n}x{k}"));
        let x = b.input("x", DType::F32, &dims(&[batch, m, k])).unwrap();
        let w = b.input("w", DType::F32, &dims(&[n, k])).unwrap();
        let row = b.input("row", DType::F32, &dims(&[m, 1])).unwrap();
        let bias = b.input("bias", DType::F32, &dims(&[n])).unwrap();
        let y = b.linear(x, w, Some(bias), true).unwrap();
        let row = b.broadcast_to(row, &dims(&[batch, m, n])).unwrap();
        let y = b.binary(BinaryOp::Mul, y, row).unwrap();
        b.output("y", y);
        let relu = b.relu(y).unwrap();
        let turned = b.transpose(relu, &[1, 0, 2]).unwrap();
        b.output("turned", turned);
        let image = b.input("image", DType::F32, &dims(&[batch, 3, 13, 40])).unwrap();
        let filters = b.input("filters", DType::F32, &dims(&[20, 3, 3, 3])).unwrap();
        let spec = ConvSpec { strides: vec![2, 1], pads: vec![(1, 1); 2], dilations: vec![1; 2], groups: 1 };
        let shift = b.input("shift", DType::F32, &dims(&[20])).unwrap();
        let z = b.conv(image, filters, Some(shift), spec).unwrap();
        let z = b.hard_swish(z).unwrap();
        b.output("z", z);
        let graph = b.finish();
        let shapes: [&[usize]; 7] =
            [&[batch, m, k], &[n, k], &[m, 1], &[n], &[batch, 3, 13, 40], &[20, 3, 3, 3], &[20]];
        let inputs = shapes.map(|s| random(DType::F32, s, &mut rng, false));
        let root = (k as f64).sqrt().max(6.0);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| execute(&check(&graph, &inputs, 2.0 * root, root), &graph, &inputs, 0).unwrap())
        };
        let one = run(1);
        assert!([2, 3, 7].into_iter().all(|threads| run(threads) == one), "`{}`", graph.name);
        assert!(bind(&graph, &inputs).implementation().contains("conv with epilogue"));
    }
}

#[test]
fn products_carry_infinities_and_nan() {
    let mut rng = Rng::new(23);
    let mut b = Builder::new("special");
    let x = b.input("x", DType::F32, &dims(&[9, 50])).unwrap();
    let w = b.input("w", DType::F32, &dims(&[50, 33])).unwrap();
    let y = b.matmul(x, w).unwrap();
    b.output("y", y);
    let inputs = [random(DType::F32, &[9, 50], &mut rng, true), random(DType::F32, &[50, 33], &mut rng, false)];
    check(&b.finish(), &inputs, 20.0, 200.0);
}

#[test]
fn eight_bit_products_are_exact() {
    let mut rng = Rng::new(24);
    for (x_type, w_type) in [(DType::U8, DType::I8), (DType::I8, DType::I8), (DType::U8, DType::U8)] {
        let (m, n, k) = (17, 35, 700);
        let mut b = Builder::new(format!("{x_type} x {w_type}"));
        let x = b.input("x", x_type, &dims(&[m, k])).unwrap();
        let w = b.input("w", w_type, &dims(&[k, n])).unwrap();
        let spec = einsum("mk", "kn", "mn");
        let y = b.add1(Op::Contract { spec, acc: DType::I32, out: DType::I32 }, &[x, w]).unwrap();
        b.output("y", y);
        let full = |dtype: DType, shape: &[usize], rng: &mut Rng| {
            let (low, high) = dtype.int_range().unwrap();
            let n = shape.iter().product();
            let v: Vec<i128> = (0..n).map(|_| i128::from(rng.range(low as i64, high as i64))).collect();
            Tensor::from_i128(dtype, shape, &v).unwrap()
        };
        let inputs = [full(x_type, &[m, k], &mut rng), full(w_type, &[k, n], &mut rng)];
        check(&b.finish(), &inputs, 0.0, 1.0);
    }
}

#[test]
fn convolutions_of_every_geometry() {
    let mut rng = Rng::new(25);
    for round in 0..160 {
        let dtype = [DType::F32, DType::F32, DType::F64, DType::F16, DType::I32][round % 5];
        let rank = rng.range(1, 3) as usize;
        let groups = [1, 1, 2, 3, 6][rng.range(0, 4) as usize];
        let per_group = if groups == 6 { 1 } else { rng.range(1, 5) as usize };
        let outputs = groups * rng.range(1, 5) as usize;
        let pick = |rng: &mut Rng, low, high| (0..rank).map(|_| rng.range(low, high) as usize).collect::<Vec<_>>();
        let taps = if round % 4 == 0 { vec![1; rank] } else { pick(&mut rng, 1, 3) };
        let dilations = pick(&mut rng, 1, 2);
        let strides = if round % 4 == 0 { vec![1; rank] } else { pick(&mut rng, 1, 3) };
        let mut extents = pick(&mut rng, 5, 11);
        if rank == 1 {
            extents[0] += 60;
        }
        let pads: Vec<(usize, usize)> = (0..rank)
            .map(|_| if round % 4 == 0 { (0, 0) } else { (rng.range(0, 2) as usize, rng.range(0, 2) as usize) })
            .collect();
        let x_shape = [vec![2, groups * per_group], extents].concat();
        let w_shape = [vec![outputs, per_group], taps].concat();
        let spec = ConvSpec { strides, pads, dilations, groups };
        let mut b = Builder::new(format!("conv {round} {x_shape:?} {w_shape:?} {spec:?}"));
        let x = b.input("x", dtype, &dims(&x_shape)).unwrap();
        let w = b.input("w", dtype, &dims(&w_shape)).unwrap();
        let y = b.conv_as(x, w, spec, dtype.accumulator(), dtype).unwrap();
        b.output("y", y);
        let relu = if dtype.is_float() { b.relu(y).unwrap() } else { y };
        b.output("relu", relu);
        let inputs = [random(dtype, &x_shape, &mut rng, false), random(dtype, &w_shape, &mut rng, false)];
        check(&b.finish(), &inputs, 8.0, 6.0);
    }
}

#[test]
fn windows_of_every_geometry() {
    let mut rng = Rng::new(26);
    for round in 0..80 {
        let dtype = [DType::F32, DType::F64, DType::BF16, DType::I8, DType::I64, DType::U64][round % 6];
        let rank = rng.range(1, 3) as usize;
        let pick = |rng: &mut Rng, low, high| (0..rank).map(|_| rng.range(low, high) as usize).collect::<Vec<_>>();
        let x_shape = [vec![2, 3], pick(&mut rng, 4, 9)].concat();
        let spec = WindowSpec {
            window: pick(&mut rng, 1, 3),
            strides: pick(&mut rng, 1, 3),
            pads: (0..rank).map(|_| (rng.range(0, 2) as usize, rng.range(0, 2) as usize)).collect(),
            dilations: pick(&mut rng, 1, 2),
        };
        let mut b = Builder::new(format!("window {round} {x_shape:?} {spec:?}"));
        let x = b.input("x", dtype, &dims(&x_shape)).unwrap();
        for op in [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min] {
            // A window with nothing but padding under it is infinite; sums stay finite.
            let y = b.window(op, x, spec.clone()).unwrap();
            b.output(format!("{op:?}"), y);
        }
        check(&b.finish(), &[random(dtype, &x_shape, &mut rng, true)], 30.0, 1.0);
    }
}

fn indices(dtype: DType, shape: &[usize], extent: usize, rng: &mut Rng) -> Tensor {
    let n = extent as i64;
    let v: Vec<i128> = (0..shape.iter().product()).map(|_| i128::from(rng.range(-n, n - 1))).collect();
    Tensor::from_i128(dtype, shape, &v).unwrap()
}

#[test]
fn gathers_and_scatters_of_every_dtype() {
    let mut rng = Rng::new(27);
    for dtype in DType::ALL {
        for axis in 0..3 {
            let x_shape = [4, 5, 6];
            let index_type = if axis == 1 { DType::I32 } else { DType::I64 };
            let mut b = Builder::new(format!("gather {dtype} {axis}"));
            let x = b.input("x", dtype, &dims(&x_shape)).unwrap();
            let i = b.input("i", index_type, &dims(&[2, 3])).unwrap();
            let y = b.gather(x, i, axis).unwrap();
            b.output("y", y);
            let e = b.input("e", index_type, &dims(&[3, 5, 2])).unwrap();
            let mut fit = [3, 5, 2];
            fit[axis as usize] = [3, 5, 2][axis as usize];
            let z = b.gather_elements(x, e, axis).unwrap();
            b.output("z", z);
            let extent = x_shape[axis as usize];
            let inputs = [
                random(dtype, &x_shape, &mut rng, false),
                indices(index_type, &[2, 3], extent, &mut rng),
                indices(index_type, &fit, extent, &mut rng),
            ];
            check(&b.finish(), &inputs, 0.0, 1.0);
        }
        for op in [ScatterOp::Set, ScatterOp::Add, ScatterOp::Mul, ScatterOp::Max, ScatterOp::Min] {
            if dtype == DType::Bool && op != ScatterOp::Set {
                continue;
            }
            let mut b = Builder::new(format!("scatter {dtype} {op:?}"));
            let x = b.input("x", dtype, &dims(&[7, 5])).unwrap();
            let i = b.input("i", DType::I64, &dims(&[4, 5])).unwrap();
            let u = b.input("u", dtype, &dims(&[4, 5])).unwrap();
            let y = b.scatter_elements(x, i, u, 0, op).unwrap();
            b.output("y", y);
            let n = b.input("n", DType::I64, &dims(&[6, 1])).unwrap();
            let v = b.input("v", dtype, &dims(&[6, 5])).unwrap();
            let z = b.scatter_nd(x, n, v, op).unwrap();
            b.output("z", z);
            let g = b.gather_nd(x, n, 0).unwrap();
            b.output("g", g);
            let inputs = [
                random(dtype, &[7, 5], &mut rng, false),
                indices(DType::I64, &[4, 5], 7, &mut rng),
                random(dtype, &[4, 5], &mut rng, false),
                indices(DType::I64, &[6, 1], 7, &mut rng),
                random(dtype, &[6, 5], &mut rng, false),
            ];
            // Repeated updates of a 4-byte float round at each step.
            check(&b.finish(), &inputs, 8.0, 1.0);
        }
    }
}

#[test]
fn gathers_of_a_computed_table_read_only_its_rows() {
    let mut rng = Rng::new(33);
    let table = Tensor::random(DType::I8, &[300, 24], 1).unwrap();
    for (axis, other) in [(0, vec![300, 1]), (0, vec![24]), (1, vec![300, 1]), (1, vec![1, 24])] {
        let mut b = Builder::new(format!("axis {axis} scale {other:?}"));
        let x = b.input("x", DType::I8, &dims(&[300, 24])).unwrap();
        let i = b.input("i", DType::I64, &dims(&[2, 3])).unwrap();
        let s = b.input("s", DType::F32, &dims(&other)).unwrap();
        let y = b.cast(x, DType::F32).unwrap();
        let s = b.broadcast_to(s, &dims(&[300, 24])).unwrap();
        let y = b.binary(BinaryOp::Mul, y, s).unwrap();
        let y = b.binary(BinaryOp::Add, y, s).unwrap();
        let y = b.add1(Op::Gather { axis }, &[y, i]).unwrap();
        let y = b.relu(y).unwrap();
        b.output("y", y);
        let scale = random(DType::F32, &other, &mut rng, false);
        let inputs = [table.clone(), indices(DType::I64, &[2, 3], [300, 24][axis], &mut rng), scale];
        assert!(!check(&b.finish(), &inputs, 0.0, 0.0).is_reference());
    }
}

#[test]
fn an_index_outside_its_axis_is_an_error() {
    let mut b = Builder::new("embedding");
    let x = b.input("table", DType::F32, &dims(&[10, 4])).unwrap();
    let i = b.input("ids", DType::I64, &dims(&[3])).unwrap();
    let y = b.gather(x, i, 0).unwrap();
    let y = b.binary(BinaryOp::Add, y, y).unwrap();
    b.output("y", y);
    let graph = b.finish();
    for bad in [10, -11, i64::MAX, i64::MIN] {
        let inputs =
            [Tensor::random(DType::F32, &[10, 4], 1).unwrap(), Tensor::from_slice(&[3], &[0i64, bad, 1]).unwrap()];
        let error = execute(&bind(&graph, &inputs), &graph, &inputs, 0).unwrap_err().to_string();
        assert!(error.contains("embedding") && error.contains(&bad.to_string()) && error.contains("10"), "{error}");
    }
}

#[test]
fn rows_in_groups() {
    let mut rng = Rng::new(29);
    for dtype in [DType::F32, DType::F64, DType::F16, DType::I32, DType::I64, DType::I8] {
        for round in 0..6 {
            let [rows, k, n] =
                if round == 0 { [1, 1, 1] } else { [70, 40, 90].map(|most| rng.range(1, most) as usize) };
            let groups = rng.range(1, 6) as usize;
            let mut ends: Vec<i64> = (0..groups).map(|_| rng.range(0, rows as i64)).collect();
            ends.sort_unstable();
            if round == 1 {
                ends = vec![0, rows as i64, rows as i64];
            }
            let (transposed, groups) = (round % 2 == 0, ends.len());
            let mut b = Builder::new(format!("{dtype} {rows}x{k}x{n} {ends:?}"));
            let right = if transposed { [groups, n, k] } else { [groups, k, n] };
            let x = b.input("x", dtype, &dims(&[rows, k])).unwrap();
            let w = b.input("w", dtype, &dims(&right)).unwrap();
            let at = b.input("ends", DType::I64, &dims(&[groups])).unwrap();
            let acc = dtype.accumulator();
            let op = Op::GroupedMatmul { transposed, acc, out: dtype };
            let y = b.add1(op, &[x, w, at]).unwrap();
            // What comes behind sees the rows of no group too.
            let one = b.scalar(dtype, 1.0).unwrap();
            let z = b.plus(y, one).unwrap();
            b.output("z", z);
            let graph = b.finish();
            let mut tensors = vec![random(dtype, &[rows, k], &mut rng, false), random(dtype, &right, &mut rng, false)];
            tensors.push(Tensor::from_slice(&[groups], &ends).unwrap());
            assert!(!check(&graph, &tensors, 20.0, 7.0).is_reference());
            ends[0] = rows as i64 + 1;
            tensors[2] = Tensor::from_slice(&[groups], &ends).unwrap();
            let error = execute(&bind(&graph, &tensors), &graph, &tensors, 0).unwrap_err().to_string();
            assert!(error.contains(&format!("group 0 ends at {}, expected 0..={rows}", rows + 1)), "{error}");
        }
    }
}

/// GPUs make one kernel of two products that share an operand; here they run one after the other, as what such kernels are compared with.
#[test]
fn products_that_share_an_operand_run_one_after_the_other() {
    let mut rng = Rng::new(27);
    for (m, n, k) in [(1, 70, 33), (9, 130, 64), (65, 31, 17)] {
        for dtype in [DType::F32, DType::F16] {
            let mut b = Builder::new(format!("twins {dtype} {m}x{n}x{k}"));
            let x = b.input("x", dtype, &dims(&[m, k])).unwrap();
            let [gate, up] = ["gate", "up"].map(|name| {
                let w = b.input(name, dtype, &dims(&[n, k])).unwrap();
                b.linear(x, w, None, true).unwrap()
            });
            let gate = b.silu(gate).unwrap();
            let y = b.mul(gate, up).unwrap();
            b.output("y", y);
            let inputs = [[m, k], [n, k], [n, k]].map(|shape| random(dtype, &shape, &mut rng, false));
            assert!(!check(&b.finish(), &inputs, 32.0, 16.0).is_reference());
        }
    }
}
