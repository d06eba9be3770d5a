//! Programs of tiles with layouts, lowered to threads: compiled by NVRTC, and their PTX run in the simulator against plain Rust. Layouts
//! are blocked ones, given by a small stand-in for their inference.

use crate::common::sim::compiler;
use kiln_cuda::CompileRequest;
use kiln_layout::RegisterLayout;
use kiln_sim::{Arg, Device, LaunchConfig, Mix, Module, Options};
use kiln_target::arch::Arch;
use kiln_tile::ir::{self, Builder, Op, Place, Program, Schedule, Stmt, Tile, ValueId, View};
use kiln_tile::lower::compile_threads;
use kiln_tile::program::{Access, ReduceOp};
use kiln_tile::{Array, DType, Expr, Scalar};

// ---- layouts ------------------------------------------------------------------------------------------------------------

/// Gives every tile a layout: a loaded tile is dealt in runs of 16 bytes along the axis that `fast` gives, others like `base` or a slice
/// of it; operands in other layouts are converted.
struct Layouts<'a> {
    program: Program,
    base: RegisterLayout,
    fast: &'a dyn Fn(&View) -> usize,
}

impl Layouts<'_> {
    fn assign(mut self) -> Program {
        let mut body = std::mem::take(&mut self.program.body);
        self.block(&mut body);
        self.program.body = body;
        self.program
    }

    /// The base layout, or the slice of it that has this shape, or else a blocked one.
    fn natural(&self, id: ValueId) -> RegisterLayout {
        let shape = &self.program.value(id).shape;
        let mut layout = self.base.clone();
        for (axis, extent) in shape.iter().enumerate().take(layout.rank()) {
            if *extent == 1 && layout.shape()[axis] != 1 {
                layout = layout.slice(axis).unwrap();
            }
        }
        if layout.shape() == shape { layout } else { self.blocked(id, shape.len().saturating_sub(1)) }
    }

    fn blocked(&self, id: ValueId, fast: usize) -> RegisterLayout {
        let value = self.program.value(id);
        let order: Vec<usize> = (0..value.shape.len())
            .rev()
            .filter(|axis| *axis == fast)
            .chain((0..value.shape.len()).rev().filter(|axis| *axis != fast))
            .collect();
        RegisterLayout::blocked(&value.shape, self.program.threads(), 128 / value.dtype.bits().max(8), &order).unwrap()
    }

    fn set(&mut self, id: ValueId, layout: RegisterLayout) {
        self.program.value_mut(id).layout = Some(layout);
    }

    fn layout(&self, id: ValueId) -> RegisterLayout {
        self.program.value(id).layout.clone().expect("tiles are made before they are used")
    }

    /// The value in that layout.
    fn converted(&mut self, id: ValueId, layout: &RegisterLayout, out: &mut Vec<Stmt>) -> ValueId {
        if self.layout(id) == *layout {
            return id;
        }
        let other = self.program.add_like(id);
        self.set(other, layout.clone());
        out.push(Stmt { results: vec![other], op: Op::Convert { value: id } });
        other
    }

    fn block(&mut self, block: &mut Vec<Stmt>) {
        let mut out = vec![];
        for mut stmt in std::mem::take(block) {
            let results = stmt.results.clone();
            match &mut stmt.op {
                Op::Load { from: Place::View(view), .. } => {
                    let fast = (self.fast)(view);
                    let layout = self.blocked(results[0], fast);
                    self.set(results[0], layout);
                }
                Op::Full { .. } | Op::Load { .. } | Op::Reduce { .. } => self.set(results[0], self.natural(results[0])),
                Op::Map { args, .. } => {
                    let layout = self.natural(results[0]);
                    for (_, value) in args {
                        let mut wanted = layout.clone();
                        let shape = self.program.value(*value).shape.clone();
                        for axis in (0..shape.len()).filter(|axis| shape[*axis] == 1) {
                            wanted = wanted.slice(axis).unwrap();
                        }
                        *value = self.converted(*value, &wanted, &mut out);
                    }
                    results.iter().for_each(|id| self.set(*id, layout.clone()));
                }
                Op::Transpose { value, perm } => {
                    let layout = self.layout(*value).transpose(perm).unwrap();
                    self.set(results[0], layout);
                }
                Op::For { carried, body, yields, .. } => {
                    for ((inside, first), result) in carried.iter_mut().zip(&results) {
                        let layout = self.natural(*inside);
                        self.set(*inside, layout.clone());
                        self.set(*result, layout.clone());
                        *first = self.converted(*first, &layout, &mut out);
                    }
                    self.block(body);
                    for (value, (inside, _)) in yields.iter_mut().zip(carried) {
                        let layout = self.layout(*inside);
                        *value = self.converted(*value, &layout, body);
                    }
                }
                Op::If { then, otherwise, .. } => {
                    for (block, yields) in [then, otherwise] {
                        self.block(block);
                        for (value, result) in yields.iter_mut().zip(&results) {
                            let layout = self.natural(*result);
                            self.set(*result, layout.clone());
                            *value = self.converted(*value, &layout, block);
                        }
                    }
                }
                _ => {}
            }
            out.push(stmt);
        }
        *block = out;
    }
}

fn last_axis(view: &View) -> usize {
    view.shape.len().saturating_sub(1)
}

/// A blocked layout for `warps`, in runs of `vector`.
fn base(shape: &[u32], warps: u32, vector: u32) -> RegisterLayout {
    let order: Vec<usize> = (0..shape.len()).rev().collect();
    RegisterLayout::blocked(shape, 32 * warps, vector, &order).unwrap()
}

// ---- running ------------------------------------------------------------------------------------------------------------

const ARCHES: [Arch; 3] = [Arch::Sm75, Arch::Sm80, Arch::Sm90a];

/// A number or an array for each parameter.
enum Value {
    Dim(i64),
    Array(Array),
}

/// Compiles for an architecture, runs with all checks, and gives the arrays as they are then.
fn run_on(program: &Program, arch: Arch, args: &[Value], seed: Option<u64>) -> (Vec<Array>, Mix, String) {
    let name = &program.name;
    let kernel = compile_threads(program, arch).unwrap_or_else(|e| panic!("{e}"));
    let request = CompileRequest {
        name: kernel.name.clone(),
        source: kernel.source.clone(),
        arch: arch.name().to_owned(),
        options: vec![],
        line_info: false,
    };
    let compiled = compiler().compile(&request).unwrap_or_else(|e| panic!("{e}\n{}", kernel.source));
    assert!(!compiled.log.spills(), "{name} spills on {arch}: {:?}\n{}", compiled.log, kernel.source);
    let module = Module::parse(&compiled.ptx).unwrap_or_else(|e| panic!("{name}: {e}"));
    let entry = module.kernel(&kernel.name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let device = Device::new(1 << 24);
    let scalars: Vec<Option<i64>> =
        args.iter().map(|arg| if let Value::Dim(n) = arg { Some(*n) } else { None }).collect();
    let mut addresses = vec![];
    let launch: Vec<Arg> = args
        .iter()
        .map(|arg| match arg {
            Value::Dim(n) => Arg::I32(i32::try_from(*n).unwrap()),
            Value::Array(array) => {
                let address = device.alloc(array.bytes().len().max(1) as u64).unwrap();
                device.upload(address, array.bytes()).unwrap();
                addresses.push((address, array));
                Arg::U64(address)
            }
        })
        .collect();
    let grid = kernel.grid(&scalars).unwrap();
    let config = LaunchConfig {
        grid: [grid, 1, 1],
        block: [kernel.threads, 1, 1],
        shared: kernel.dynamic_shared,
        cluster: None,
    };
    let options = Options { seed, counters: true, ..Options::default() };
    let report = device.launch(&entry, config, &launch, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(report.clean(), "{name} on {arch}: {:?}\n{}", report.findings, kernel.source);
    let download = |(address, array): (u64, &Array)| {
        let mut bytes = vec![0; array.bytes().len()];
        device.download(address, &mut bytes).unwrap();
        Array::from_bytes(array.dtype(), array.len(), bytes).unwrap()
    };
    (addresses.into_iter().map(download).collect(), report.counters.unwrap().total, kernel.source)
}

/// Runs on three architectures and compares the array number `which` with `expected`, to so many units of f32's precision.
fn check(program: &Program, args: &[Value], which: usize, expected: &[f64], units: f64) {
    for (i, arch) in ARCHES.into_iter().enumerate() {
        let (arrays, _, source) = run_on(program, arch, args, (i > 0).then_some(i as u64));
        compare(&program.name, &arrays[which], expected, units, &source);
    }
}

fn compare(name: &str, found: &Array, expected: &[f64], units: f64, source: &str) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (i, (found, &expected)) in found.to_f64().into_iter().zip(expected).enumerate() {
        let near = (found - expected).abs() <= units * epsilon(found, expected);
        let same = found == expected || found.is_nan() && expected.is_nan() || near;
        assert!(same, "{name}: element {i} is {found}, expected {expected}\n{source}");
    }
}

/// Precision of f32 at a value.
fn epsilon(found: f64, expected: f64) -> f64 {
    f64::from(f32::EPSILON) * found.abs().max(expected.abs()).max(1e-3)
}

/// Numbers in -2..2 that every float type holds, or small integers.
fn random(dtype: DType, len: usize, seed: u64) -> Array {
    let mut rng = fastrand::Rng::with_seed(seed);
    let values = (0..len).map(|_| match dtype.is_float() {
        true => Scalar::Float(f64::from(rng.i32(-16..16)) / 8.0),
        false => Scalar::Int(rng.i32(-9..9).into()),
    });
    Array::from_values(dtype, values.collect::<Vec<_>>())
}

fn poisoned(dtype: DType, len: usize) -> Array {
    Array::from_bytes(dtype, len, vec![0xa5; len * dtype.bits() as usize / 8]).unwrap()
}

fn rounded(dtype: DType, x: f64) -> f64 {
    Scalar::Float(x).cast(dtype).as_f64()
}

fn builder(name: &str, warps: u32) -> Builder {
    let mut k = Builder::new(name, "a program of the tests");
    k.schedule(Schedule { warps, ..Schedule::default() });
    k
}

fn laid_out(program: Program, shape: &[u32], vector: u32) -> Program {
    let base = base(shape, program.schedule.warps, vector);
    Layouts { program, base, fast: &last_axis }.assign()
}

// ---- maps -----------------------------------------------------------------------------------------------------------------

/// `y = x * 2 + i - j`, in boxes.
fn map_program(dtype: DType, tile: [u32; 2], warps: u32, multiple: i64) -> Program {
    let mut k = builder(&format!("map_{dtype}"), warps);
    let rows = k.dim("rows", 1..=1 << 16, 1);
    let cols = k.dim("cols", 1..=1 << 16, multiple);
    let x = k.input("x", dtype, &[rows.clone(), cols.clone()]);
    let y = k.output("y", dtype, &[rows.clone(), cols.clone()]);
    let [bm, bn] = tile.map(i64::from);
    let at = k.grid(&[("m", rows.ceil_div(bm)), ("n", cols.ceil_div(bn))]);
    let origin = [&at[0] * bm, &at[1] * bn];
    let view = k.view(&x, &origin, &tile);
    let loaded = k.load("x", view);
    let compute = if dtype.is_float() { DType::F32 } else { DType::I32 };
    let wide = k.map("wide", &tile, &[&loaded], |_, x, c| {
        let (i, j) = (&origin[0] + &c[0], &origin[1] + &c[1]);
        x[0].cast(compute) * Expr::int(compute, 2) + (i - j).cast(compute)
    });
    let view = k.view(&y, &origin, &tile);
    k.store(Place::View(view), &wide);
    laid_out(k.finish().unwrap(), &tile, 128 / dtype.bits())
}

fn map_args(dtype: DType, rows: usize, cols: usize) -> (Vec<Value>, Vec<f64>) {
    let x = random(dtype, rows * cols, 7);
    let expected = x
        .to_f64()
        .into_iter()
        .enumerate()
        .map(|(n, x)| {
            let value = x * 2.0 + (n / cols) as f64 - (n % cols) as f64;
            if dtype.is_float() { rounded(dtype, value) } else { Scalar::Int(value as i128).cast(dtype).as_f64() }
        })
        .collect();
    let dims = [Value::Dim(rows as i64), Value::Dim(cols as i64)];
    let arrays = [Value::Array(x), Value::Array(poisoned(dtype, rows * cols))];
    (dims.into_iter().chain(arrays).collect(), expected)
}

#[test]
fn maps_of_every_type_and_odd_sizes() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::I8, DType::F64, DType::F8E4M3] {
        for (tile, warps, multiple, sizes) in [
            ([16, 64], 4, 8, [(33, 72), (16, 64)]),
            ([8, 48], 2, 1, [(17, 53), (1, 1)]),
            ([1, 256], 1, 16, [(3, 512), (2, 16)]),
        ] {
            let program = map_program(dtype, tile, warps, multiple);
            for (rows, cols) in sizes {
                let (args, expected) = map_args(dtype, rows, cols);
                check(&program, &args, 1, &expected, 0.0);
            }
        }
    }
}

/// Global memory is accessed in requests of 16 bytes a thread where rows are aligned.
#[test]
fn aligned_rows_are_accessed_16_bytes_at_a_time() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::I8] {
        let lanes = 16 / (dtype.bits() / 8) as usize;
        let program = map_program(dtype, [8, 128], 2, lanes as i64);
        let (rows, cols) = (24, 256);
        let (args, expected) = map_args(dtype, rows, cols);
        let (arrays, counts, source) = run_on(&program, Arch::Sm80, &args, None);
        compare("map", &arrays[1], &expected, 0.0, &source);
        // Loads and stores, of whole warps: 32 threads of 16 bytes.
        let requests = 2 * rows * cols / (32 * lanes);
        assert_eq!(counts.global_requests, requests as u64, "{dtype}\n{source}");
        // Rows of another length are accessed one by one.
        let (args, expected) = map_args(dtype, rows, cols);
        let program = map_program(dtype, [8, 128], 2, 1);
        let (arrays, counts, source) = run_on(&program, Arch::Sm80, &args, None);
        compare("map", &arrays[1], &expected, 0.0, &source);
        assert_eq!(counts.global_requests, (requests * lanes) as u64, "{dtype}\n{source}");
    }
}

/// The text has no masks where a box cannot leave the tensor.
#[test]
fn boxes_that_stay_inside_have_no_masks() {
    let mut program = map_program(DType::F16, [8, 128], 2, 128);
    for stmt in &mut program.body {
        if let Op::Load { from: Place::View(view), .. } | Op::Store { to: Place::View(view), .. } = &mut stmt.op {
            view.masked = vec![false, false];
        }
    }
    let (args, expected) = map_args(DType::F16, 24, 256);
    let (arrays, _, source) = run_on(&program, Arch::Sm90a, &args, None);
    compare("map", &arrays[1], &expected, 0.0, &source);
    assert!(!source.contains("if ("), "{source}");
    assert!(source.contains("= pack_f16("), "{source}");
}

// ---- rows -----------------------------------------------------------------------------------------------------------------

/// Softmax along rows of up to `tile[1]` elements.
fn softmax_program(dtype: DType, tile: [u32; 2], warps: u32, vector: u32, multiple: i64) -> Program {
    let mut k = builder(&format!("softmax_{dtype}"), warps);
    let rows = k.dim("rows", 1..=1 << 16, 1);
    let cols = k.dim("cols", 1..=tile[1].into(), multiple);
    let x = k.input("x", dtype, &[rows.clone(), cols.clone()]);
    let y = k.output("y", dtype, &[rows.clone(), cols.clone()]);
    let at = k.grid(&[("m", rows.ceil_div(i64::from(tile[0])))]);
    let origin = [&at[0] * i64::from(tile[0]), Expr::index(0)];
    let view = k.view(&x, &origin, &tile);
    let loaded = k.load_or("x", Place::View(view), &tile, Expr::float(dtype, f64::NEG_INFINITY));
    let wide = k.cast(&loaded, DType::F32);
    let peak = k.reduce("peak", ReduceOp::Max, &wide, 1);
    let powers = k.map("powers", &tile, &[&wide, &peak], |_, x, _| (&x[0] - &x[1]).exp());
    let total = k.reduce("total", ReduceOp::Sum, &powers, 1);
    let result = k.map("result", &tile, &[&powers, &total], |_, x, _| &x[0] / &x[1]);
    let view = k.view(&y, &origin, &tile);
    k.store(Place::View(view), &result);
    laid_out(k.finish().unwrap(), &tile, vector)
}

fn softmax(x: &[f64], cols: usize) -> Vec<f64> {
    x.chunks(cols)
        .flat_map(|row| {
            let peak = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let powers: Vec<f64> = row.iter().map(|x| (x - peak).exp()).collect();
            let total: f64 = powers.iter().sum();
            powers.into_iter().map(move |x| x / total)
        })
        .collect()
}

/// A warp for each row, several rows a CTA, rows shared by lanes only, a CTA for one row, and a row in two warps.
#[test]
fn softmax_over_rows() {
    for (dtype, tile, warps, vector, multiple, rows, cols) in [
        (DType::F32, [4, 128], 4, 4, 4, 9, 100),
        (DType::F16, [16, 64], 4, 8, 8, 21, 64),
        (DType::BF16, [1, 1024], 4, 8, 8, 3, 1000),
        (DType::F32, [2, 256], 4, 4, 1, 5, 253),
        (DType::F32, [3, 40], 1, 4, 1, 7, 37),
        (DType::F16, [2, 96], 3, 2, 2, 5, 90),
    ] {
        let program = softmax_program(dtype, tile, warps, vector, multiple);
        let x = random(dtype, rows * cols, 3);
        let expected = softmax(&x.to_f64(), cols);
        let units = if dtype == DType::F32 { 16.0 } else { 2.0 * 2f64.powi(if dtype == DType::F16 { 13 } else { 16 }) };
        let args = [
            Value::Dim(rows as i64),
            Value::Dim(cols as i64),
            Value::Array(x),
            Value::Array(poisoned(dtype, rows * cols)),
        ];
        check(&program, &args, 1, &expected, units);
    }
}

/// Every way to combine, of rows and of columns, with a NaN and infinities among the values.
#[test]
fn reductions_of_every_kind() {
    let tile = [16u32, 32];
    for axis in [0, 1] {
        for (op, dtype) in [
            (ReduceOp::Sum, DType::F32),
            (ReduceOp::Prod, DType::F64),
            (ReduceOp::Min, DType::F32),
            (ReduceOp::Max, DType::F32),
            (ReduceOp::Max, DType::I32),
            (ReduceOp::Min, DType::U64),
            (ReduceOp::And, DType::I32),
            (ReduceOp::Or, DType::Bool),
            (ReduceOp::And, DType::Bool),
        ] {
            for (warps, vector) in [(1, 4), (4, 2), (8, 1)] {
                let mut k = builder(&format!("{op:?}_{dtype}_{axis}"), warps);
                let extents = tile.map(|n| Expr::index(n.into()));
                let x = k.input("x", dtype, &extents);
                let shape: Vec<u32> = (0..2).map(|a| if a == axis { 1 } else { tile[a] }).collect();
                let y = k.output("y", dtype, &shape.iter().map(|n| Expr::index((*n).into())).collect::<Vec<_>>());
                let zero = [Expr::index(0), Expr::index(0)];
                let view = k.view(&x, &zero, &tile);
                let loaded = k.load("x", view);
                let value = k.map("value", &tile, &[&loaded], |_, x, _| x[0].clone());
                let result = k.reduce("y", op, &value, axis);
                let view = k.view(&y, &zero, &shape);
                k.store(Place::View(view), &result);
                let program = laid_out(k.finish().unwrap(), &tile, vector);
                let mut x = random(dtype, 512, 11 + axis as u64);
                if dtype == DType::F32 {
                    [(5, f64::NAN), (70, f64::INFINITY), (300, f64::NEG_INFINITY)]
                        .into_iter()
                        .for_each(|(at, value)| x.set(at, Scalar::Float(value)));
                }
                let along = |n: usize, i: usize| if axis == 0 { i * 32 + n } else { n * 32 + i };
                let expected: Vec<f64> = (0..shape.iter().product::<u32>() as usize)
                    .map(|n| {
                        let all = (0..tile[axis] as usize).map(|i| x.get(along(n, i)));
                        all.reduce(|a, b| combine(op, dtype, a, b)).unwrap().as_f64()
                    })
                    .collect();
                let args = [Value::Array(x), Value::Array(poisoned(dtype, expected.len()))];
                let exact = op != ReduceOp::Prod;
                check(&program, &args, 1, &expected, if exact { 0.0 } else { 64.0 });
            }
        }
    }
}

fn combine(op: ReduceOp, dtype: DType, a: Scalar, b: Scalar) -> Scalar {
    match (a, b) {
        (Scalar::Float(a), Scalar::Float(b)) => Scalar::Float(match op {
            ReduceOp::Sum => a + b,
            ReduceOp::Prod => a * b,
            _ if a.is_nan() || b.is_nan() => f64::NAN,
            ReduceOp::Min => a.min(b),
            _ => a.max(b),
        }),
        (a, b) => {
            let (a, b) = (a.as_i128(), b.as_i128());
            let value = match op {
                ReduceOp::Sum => a + b,
                ReduceOp::Prod => a * b,
                ReduceOp::Min => a.min(b),
                ReduceOp::Max => a.max(b),
                ReduceOp::And => a & b,
                ReduceOp::Or => a | b,
            };
            Scalar::Int(value).cast(dtype)
        }
    }
}

/// Layer norm over rows that a CTA takes in pieces, with sums that the loop carries, and a second pass.
#[test]
fn layer_norm_in_pieces() {
    for (dtype, tile, warps, rows, cols) in
        [(DType::F32, [2u32, 128], 2, 5, 500), (DType::F16, [4, 64], 4, 9, 200), (DType::BF16, [1, 512], 4, 3, 1032)]
    {
        let mut k = builder(&format!("layer_norm_{dtype}"), warps);
        let m = k.dim("rows", 1..=1 << 16, 1);
        let n = k.dim("cols", 1..=1 << 16, 4);
        let x = k.input("x", dtype, &[m.clone(), n.clone()]);
        let scale = k.input("scale", dtype, std::slice::from_ref(&n));
        let y = k.output("y", dtype, &[m.clone(), n.clone()]);
        let at = k.grid(&[("m", m.ceil_div(i64::from(tile[0])))]);
        let row = k.bind("row", &at[0] * i64::from(tile[0]));
        let zero = |k: &mut Builder, name: &str| k.full(name, DType::F32, &[tile[0], 1], Expr::float(DType::F32, 0.0));
        let sums = [zero(&mut k, "sum"), zero(&mut k, "squares")];
        let step = i64::from(tile[1]);
        let load = |k: &mut Builder, j: &Expr| {
            let view = k.view(&x, &[row.clone(), j.clone()], &tile);
            let loaded = k.load("x", view);
            k.cast(&loaded, DType::F32)
        };
        let sums = k.for_range("j", (Expr::index(0), n.clone(), step), None, &sums, |k, j, carried| {
            let wide = load(k, j);
            let square = k.map("square", &tile, &[&wide], |_, x, _| &x[0] * &x[0]);
            let parts = [k.reduce("part", ReduceOp::Sum, &wide, 1), k.reduce("part", ReduceOp::Sum, &square, 1)];
            let add = |k: &mut Builder, a: &Tile, b: &Tile| k.map("sum", &a.shape, &[a, b], |_, x, _| &x[0] + &x[1]);
            (0..2).map(|i| add(k, &carried[i], &parts[i])).collect()
        });
        let count = n.cast(DType::F32);
        let [mean, rstd] = k.map_many(["mean", "rstd"], &[tile[0], 1], &[&sums[0], &sums[1]], |map, x, _| {
            let mean = map.bind("mean", &x[0] / &count);
            let variance = &x[1] / &count - &mean * &mean;
            [mean, (variance + 1e-5).rsqrt()]
        });
        k.for_range("j", (Expr::index(0), n.clone(), step), None, &[], |k, j, _| {
            let wide = load(k, j);
            let view = k.view(&scale, std::slice::from_ref(j), &[tile[1]]);
            let mut view = view;
            view.axes = vec![Some(1)];
            view.shape = vec![1, tile[1]];
            let scale = k.load("scale", view);
            let result = k.map("result", &tile, &[&wide, &mean, &rstd, &scale], |_, x, _| {
                (&x[0] - &x[1]) * &x[2] * x[3].cast(DType::F32)
            });
            let view = k.view(&y, &[row.clone(), j.clone()], &tile);
            k.store(Place::View(view), &result);
            vec![]
        });
        let program = laid_out(k.finish().unwrap(), &tile, 128 / dtype.bits());
        let (x, scale) = (random(dtype, rows * cols, 5), random(dtype, cols, 6));
        let by = scale.to_f64();
        let expected: Vec<f64> = x
            .to_f64()
            .chunks(cols)
            .flat_map(|row| {
                let mean = row.iter().sum::<f64>() / cols as f64;
                let variance = row.iter().map(|x| x * x).sum::<f64>() / cols as f64 - mean * mean;
                let by = &by;
                row.iter().zip(by).map(move |(x, s)| (x - mean) / (variance + 1e-5).sqrt() * s).collect::<Vec<_>>()
            })
            .collect();
        let units = if dtype == DType::F32 { 64.0 } else { 2.0 * 2f64.powi(if dtype == DType::F16 { 13 } else { 16 }) };
        let args = [
            Value::Dim(rows as i64),
            Value::Dim(cols as i64),
            Value::Array(x),
            Value::Array(scale),
            Value::Array(poisoned(dtype, rows * cols)),
        ];
        check(&program, &args, 2, &expected, units);
    }
}

// ---- other layouts ----------------------------------------------------------------------------------------------------------

/// A transposed copy: loaded along the columns of the result, converted through shared memory or by shuffles, stored along its rows.
#[test]
fn transposed_loads() {
    for (dtype, tile, warps, rows, cols) in [
        (DType::F16, [32u32, 64], 4, 40, 72),
        (DType::F32, [64, 32], 2, 100, 33),
        (DType::I8, [64, 64], 4, 64, 128),
        (DType::F32, [4, 8], 1, 9, 10),
    ] {
        let mut k = builder(&format!("transpose_{dtype}"), warps);
        let m = k.dim("rows", 1..=1 << 16, 1);
        let n = k.dim("cols", 1..=1 << 16, 1);
        let x = k.input("x", dtype, &[n.clone(), m.clone()]);
        let y = k.output("y", dtype, &[m.clone(), n.clone()]);
        let [bm, bn] = tile.map(i64::from);
        let at = k.grid(&[("m", m.ceil_div(bm)), ("n", n.ceil_div(bn))]);
        let view = k.view(&x, &[&at[1] * bn, &at[0] * bm], &[tile[1], tile[0]]);
        let loaded = k.load("x", view);
        let turned = k.transpose(&loaded, &[1, 0]);
        let compute = if dtype.is_float() { DType::F32 } else { DType::I32 };
        let result = k.map("result", &tile, &[&turned], |_, x, _| x[0].cast(compute) + Expr::int(compute, 1));
        let view = k.view(&y, &[&at[0] * bm, &at[1] * bn], &tile);
        k.store(Place::View(view), &result);
        let program = laid_out(k.finish().unwrap(), &tile, 128 / dtype.bits());
        assert!(program.body.iter().any(|stmt| matches!(stmt.op, Op::Convert { .. })));
        let x = random(dtype, rows * cols, 13);
        let from = x.to_f64();
        let expected: Vec<f64> = (0..rows * cols).map(|i| from[i % cols * rows + i / cols] + 1.0).collect();
        let args = [
            Value::Dim(rows as i64),
            Value::Dim(cols as i64),
            Value::Array(x),
            Value::Array(poisoned(dtype, rows * cols)),
        ];
        check(&program, &args, 1, &expected, 0.0);
    }
}

/// Every pair of some layouts of one tile: registers, shuffles and shared memory.
#[test]
fn conversions_between_layouts() {
    let shape = [16u32, 24];
    let layouts: Vec<RegisterLayout> = [(4, [1, 0]), (2, [0, 1]), (1, [1, 0]), (8, [0, 1]), (3, [1, 0])]
        .into_iter()
        .map(|(vector, order)| RegisterLayout::blocked(&shape, 64, vector, &order).unwrap())
        .collect();
    for (i, from) in layouts.iter().enumerate() {
        for (j, to) in layouts.iter().enumerate().filter(|(j, _)| *j != i) {
            for dtype in [DType::F32, DType::BF16] {
                let mut k = builder(&format!("convert_{i}_{j}_{dtype}"), 2);
                let extents = shape.map(|n| Expr::index(n.into()));
                let (x, y) = (k.input("x", dtype, &extents), k.output("y", dtype, &extents));
                let zero = [Expr::index(0), Expr::index(0)];
                let view = k.view(&x, &zero, &shape);
                let loaded = k.load("x", view);
                let view = k.view(&y, &zero, &shape);
                k.store(Place::View(view), &loaded);
                let mut program = k.finish().unwrap();
                program.value_mut(loaded.id).layout = Some(from.clone());
                let other = program.add_like(loaded.id);
                program.value_mut(other).layout = Some(to.clone());
                let stmt = Stmt { results: vec![other], op: Op::Convert { value: loaded.id } };
                program.body.insert(1, stmt);
                if let Op::Store { value, .. } = &mut program.body[2].op {
                    *value = other;
                }
                let x = random(dtype, 16 * 24, i as u64);
                let expected = x.to_f64();
                let args = [Value::Array(x), Value::Array(poisoned(dtype, 16 * 24))];
                let (arrays, _, source) = run_on(&program, Arch::Sm80, &args, Some(j as u64));
                compare(&program.name, &arrays[1], &expected, 0.0, &source);
            }
        }
    }
}

// ---- places, branches, registers --------------------------------------------------------------------------------------------

/// Rows gathered by an index in memory, zero where the index is negative: loads of a body, guarded, along aligned rows.
#[test]
fn gathered_rows_are_wide_under_their_guard() {
    let (tile, count, table_rows, cols) = ([8u32, 64], 21usize, 10usize, 64usize);
    let mut k = builder("gather", 2);
    let m = k.dim("rows", 1..=1 << 16, 1);
    let table_m = k.dim("table_rows", 1..=1 << 16, 1);
    let n = Expr::index(cols as i64);
    let ids = k.input("ids", DType::I32, std::slice::from_ref(&m));
    let table = k.input("table", DType::F16, &[table_m.clone(), n.clone()]);
    let y = k.output("y", DType::F16, &[m.clone(), n.clone()]);
    let at = k.grid(&[("m", m.ceil_div(i64::from(tile[0])))]);
    let row = &at[0] * i64::from(tile[0]);
    let result = k.map("result", &tile, &[], |map, _, c| {
        let i = (&row + &c[0]).min(&(&m - 1));
        let id = map.bind("id", ids.at([i]).cast(kiln_tile::Type::Index));
        let there = id.ge(0).and(id.lt(&table_m));
        let there = map.bind("there", there);
        there.select(&table.at([&id, &c[1]]), Expr::float(DType::F16, 0.0))
    });
    let view = k.view(&y, &[row.clone(), Expr::index(0)], &tile);
    k.store(Place::View(view), &result);
    let program = laid_out(k.finish().unwrap(), &tile, 8);
    let ids = Array::from_values(DType::I32, (0..count).map(|i| Scalar::Int(i as i128 * 7 % 12 - 1)));
    let table = random(DType::F16, table_rows * cols, 17);
    let from = table.to_f64();
    let expected: Vec<f64> = (0..count * cols)
        .map(|i| {
            let id = ids.get(i / cols).as_i128();
            if id < 0 || id >= table_rows as i128 { 0.0 } else { from[id as usize * cols + i % cols] }
        })
        .collect();
    let args = [
        Value::Dim(count as i64),
        Value::Dim(table_rows as i64),
        Value::Array(ids),
        Value::Array(table),
        Value::Array(poisoned(DType::F16, count * cols)),
    ];
    check(&program, &args, 2, &expected, 0.0);
    let (_, _, source) = run_on(&program, Arch::Sm80, &args, None);
    assert!(source.contains("load<8>") && source.contains("store("), "{source}");
}

/// A branch with results, and one without.
#[test]
fn branches_hand_over_tiles() {
    let tile = [4u32, 32];
    let mut k = builder("branch", 1);
    let m = k.dim("rows", 1..=1 << 16, 1);
    let n = Expr::index(32);
    let (x, y) =
        (k.input("x", DType::F32, &[m.clone(), n.clone()]), k.output("y", DType::F32, &[m.clone(), n.clone()]));
    let at = k.grid(&[("m", m.ceil_div(4))]);
    let origin = [&at[0] * 4, Expr::index(0)];
    let view = k.view(&x, &origin, &tile);
    let loaded = k.load("x", view);
    let base = k.map("base", &tile, &[&loaded], |_, x, _| &x[0] * 2.0);
    let odd = (&at[0] % 2).eq(1);
    let result = k.if_else(odd, |k| vec![k.map("up", &tile, &[&base], |_, x, _| &x[0] + 1.0)], |_| vec![base.clone()]);
    let view = k.view(&y, &origin, &tile);
    k.store(Place::View(view), &result[0]);
    let program = laid_out(k.finish().unwrap(), &tile, 4);
    let x = random(DType::F32, 11 * 32, 19);
    let expected: Vec<f64> =
        x.to_f64().into_iter().enumerate().map(|(i, x)| x * 2.0 + ((i / 128) % 2) as f64).collect();
    let args = [Value::Dim(11), Value::Array(x), Value::Array(poisoned(DType::F32, 11 * 32))];
    check(&program, &args, 1, &expected, 0.0);
}

/// Two tiles that change places in every iteration, and a Fibonacci number.
#[test]
fn carried_tiles_may_change_places() {
    let shape = [32u32];
    let mut k = builder("swap", 1);
    let n = k.dim("n", 0..=100, 1);
    let y = k.output("y", DType::I32, &[Expr::index(2), Expr::index(32)]);
    k.grid(&[("m", Expr::index(1))]);
    let one = k.full("one", DType::I32, &shape, Expr::int(DType::I32, 1));
    let two = k.full("two", DType::I32, &shape, Expr::int(DType::I32, 2));
    let sum = k.full("sum", DType::I32, &shape, Expr::int(DType::I32, 0));
    let last = k.for_range("i", (Expr::index(0), n, 1), None, &[one, two, sum], |k, i, t| {
        let i = i.clone();
        let sum = k.map("sum", &shape, &[&t[0], &t[2]], |_, x, c| &x[1] + &x[0] * (i.clone() + &c[0]).cast(DType::I32));
        vec![t[1].clone(), t[0].clone(), sum]
    });
    for (row, tile) in [&last[0], &last[2]].into_iter().enumerate() {
        let view = k.view(&y, &[Expr::index(row as i64), Expr::index(0)], &shape);
        k.store(Place::View(view), tile);
    }
    let program = laid_out(k.finish().unwrap(), &shape, 1);
    for n in [0, 1, 7] {
        let (mut pair, mut sums) = ((1i64, 2i64), vec![0i64; 32]);
        for i in 0..n {
            sums.iter_mut().enumerate().for_each(|(c, sum)| *sum += pair.0 * (i + c as i64));
            pair = (pair.1, pair.0);
        }
        let expected: Vec<f64> = vec![pair.0; 32].into_iter().chain(sums).map(|x| x as f64).collect();
        let args = [Value::Dim(n), Value::Array(poisoned(DType::I32, 64))];
        check(&program, &args, 0, &expected, 0.0);
    }
}

/// Tiles with results of several types, a check that notes a fault, and an atomic sum.
#[test]
fn several_results_checks_and_atomics() {
    let tile = [64u32];
    let mut k = builder("several", 1);
    let n = k.dim("n", 1..=1 << 16, 1);
    let x = k.input("x", DType::F32, std::slice::from_ref(&n));
    let small = k.output("small", DType::BF16, std::slice::from_ref(&n));
    let large = k.output("large", DType::Bool, std::slice::from_ref(&n));
    let total = k.tensor("total", DType::I32, &[Expr::index(4)], Access::ReadWrite);
    let fault = k.tensor("fault", DType::I32, &[Expr::index(1)], Access::ReadWrite);
    let at = k.grid(&[("m", n.ceil_div(64))]);
    let origin = [&at[0] * 64];
    let view = k.view(&x, &origin, &tile);
    let loaded = k.load("x", view);
    let [half, big, count] = k.map_many(["half", "big", "count"], &tile, &[&loaded], |map, x, c| {
        let twice = map.bind("twice", &x[0] * 2.0);
        map.check(twice.gt(3.5), &fault, Expr::int(DType::I32, 5));
        let inside = (&origin[0] + &c[0]).lt(&n);
        [(&x[0] * 0.5).cast(DType::BF16), twice.gt(1.0), inside.and(twice.gt(1.0)).cast(DType::I32)]
    });
    for (to, tile) in [(&small, &half), (&large, &big)] {
        let view = k.view(to, &origin, &[64]);
        k.store(Place::View(view), tile);
    }
    let axis = k.var("i", kiln_tile::Type::Index);
    let place = Place::Elements {
        tensor: total.clone(),
        axes: vec![axis.clone()],
        body: vec![],
        index: vec![Expr::var(&axis) % 4],
        mask: Expr::bool(true),
    };
    k.atomic(kiln_tile::AtomicOp::Add, place, &count);
    let program = laid_out(k.finish().unwrap(), &tile, 2);
    let x = random(DType::F32, 150, 23);
    let from = x.to_f64();
    let (mut totals, mut highest) = ([0f64; 4], 0);
    for (i, x) in from.iter().enumerate() {
        totals[i % 64 % 4] += f64::from(u8::from(x * 2.0 > 1.0));
        highest = highest.max(if x * 2.0 > 3.5 { 5 } else { 0 });
    }
    assert_eq!(highest, 5);
    let args = [
        Value::Dim(150),
        Value::Array(x),
        Value::Array(poisoned(DType::BF16, 150)),
        Value::Array(poisoned(DType::Bool, 150)),
        Value::Array(Array::zeros(DType::I32, 4)),
        Value::Array(Array::zeros(DType::I32, 1)),
    ];
    check(&program, &args, 1, &from.iter().map(|x| rounded(DType::BF16, x * 0.5)).collect::<Vec<_>>(), 0.0);
    check(&program, &args, 2, &from.iter().map(|x| f64::from(u8::from(x * 2.0 > 1.0))).collect::<Vec<_>>(), 0.0);
    check(&program, &args, 3, &totals, 0.0);
    check(&program, &args, 4, &[5.0], 0.0);
}

/// A tile that goes through a slot of shared memory, swizzled, from rows to columns.
#[test]
fn slots_of_shared_memory() {
    use kiln_layout::{SharedLayout, SwizzleMode};
    for dtype in [DType::F16, DType::F32] {
        let shape = [16u32, 64];
        let bytes = dtype.bits() / 8;
        for layout in [
            SharedLayout::row_major(&shape, bytes).unwrap(),
            SharedLayout::slabs(&shape, &[1, 0], SwizzleMode::B128, bytes).unwrap(),
            SharedLayout::padded(&shape, &[0, 1], 8, bytes).unwrap(),
        ] {
            let mut k = builder("slots", 2);
            let extents = shape.map(|n| Expr::index(n.into()));
            let (x, y) = (k.input("x", dtype, &extents), k.output("y", dtype, &extents));
            let zero = [Expr::index(0), Expr::index(0)];
            let view = k.view(&x, &zero, &shape);
            let loaded = k.load("x", view);
            let view = k.view(&y, &zero, &shape);
            k.store(Place::View(view), &loaded);
            let mut program = k.finish().unwrap();
            let order = [[1, 0], [0, 1]];
            let [rows, cols] = order.map(|order| RegisterLayout::blocked(&shape, 64, 4, &order).unwrap());
            program.value_mut(loaded.id).layout = Some(rows);
            let other = program.add_like(loaded.id);
            program.value_mut(other).layout = Some(cols);
            program.shared.push(ir::Shared {
                name: "slot".into(),
                dtype,
                shape: shape.to_vec(),
                stages: 2,
                layout: Some(layout),
                offset: Some(1024),
            });
            let slot = || ir::Slot { buffer: ir::SharedId(0), stage: ir::Stage::Index(Expr::index(1)) };
            let between = [
                Stmt::effect(Op::SharedStore { to: slot(), value: loaded.id }),
                Stmt::effect(Op::Sync),
                Stmt { results: vec![other], op: Op::SharedLoad { from: slot() } },
            ];
            program.body.splice(1..1, between);
            if let Some(Op::Store { value, .. }) = program.body.last_mut().map(|stmt| &mut stmt.op) {
                *value = other;
            }
            let x = random(dtype, 16 * 64, 29);
            let expected = x.to_f64();
            let args = [Value::Array(x), Value::Array(poisoned(dtype, 16 * 64))];
            check(&program, &args, 1, &expected, 0.0);
        }
    }
}

// ---- the prelude ------------------------------------------------------------------------------------------------------------

/// Every effect and function of the thread-level IR is CUDA C that NVRTC and its assembler take.
#[test]
fn every_effect_compiles() {
    use ir::{Fence, Group};
    use kiln_tile::AtomicOp;
    use kiln_tile::threads::{self as t, Effect, Function, Scalar as S, Space, Special, Ty};
    let mut next = 0;
    let mut var = |name: &str, ty: Ty| {
        next += 1;
        t::Var::new(next, name, ty)
    };
    let map = var("map", Ty::TensorMap);
    let pointer = |to| Ty::Pointer { to, space: Space::Global, constant: false };
    let [halves, wholes, words] = [S::F16, S::I64, S::U32].map(|of| var("memory", pointer(of)));
    let [x, h] = [S::F32, S::F16].map(|of| var("x", Ty::Scalar(of)));
    let pair = var("pair", Ty::Scalar(S::U32));
    let bytes = var("bytes", Ty::Vector(S::I8, 4));
    let address = |bytes: u32| t::Expr::SharedAddress(Box::new(t::Expr::int(bytes)));
    let origin = |rank: u32| (0..rank).map(t::Expr::int).collect::<Vec<_>>();
    let at = |pointer: &t::Var, index: u32| (t::Expr::from(pointer), t::Expr::int(index));
    let call = |function, args: &[t::Expr]| t::Expr::call(function, args.to_vec());
    let mut effects = vec![
        Effect::SyncThreads,
        Effect::SyncWarp,
        Effect::NamedBarrier { id: t::Expr::int(1), threads: 128, wait: true },
        Effect::NamedBarrier { id: t::Expr::int(2), threads: 128, wait: false },
        Effect::ClusterSync,
        Effect::ClusterArrive,
        Effect::ClusterWait,
        Effect::BarrierInit { address: address(0), count: 1 },
        Effect::BarrierExpect { address: address(0), bytes: 64 },
        Effect::BarrierArrive { address: address(0) },
        Effect::BarrierArriveRemote { address: address(0), rank: t::Expr::Special(Special::ClusterRank) },
        Effect::BarrierWait { address: address(0), parity: t::Expr::int(0) },
        Effect::BarrierWait { address: address(8), parity: t::Expr::int(1) },
        Effect::SetRegisters { count: 40, increase: false },
        Effect::SetRegisters { count: 232, increase: true },
    ];
    for bytes in [4, 8, 16] {
        let from = t::Expr::GlobalAddress(Box::new(t::Expr::from(&halves)), Box::new(t::Expr::int(8)));
        effects.push(Effect::CopyAsync { to: address(64), from, bytes, exists: t::Expr::bool(true) });
    }
    for rank in 1..=5 {
        for multicast in [None, Some(t::Expr::Int(3, S::U16))] {
            let (map, origin) = (map.clone(), origin(rank));
            effects.push(Effect::TmaLoad {
                to: address(128),
                map,
                origin,
                offsets: vec![],
                barrier: address(0),
                multicast,
            });
        }
        effects.push(Effect::TmaStore { from: address(128), map: map.clone(), origin: origin(rank) });
    }
    for group in [Group::CpAsync, Group::Wgmma, Group::BulkRead, Group::Bulk] {
        effects.extend([Effect::Commit(group), Effect::WaitGroup { group, pending: 1 }]);
    }
    effects.extend([Fence::ProxyAsync, Fence::Wgmma, Fence::BarrierInit].map(Effect::Fence));
    for (op, pointer, of) in
        [(AtomicOp::Add, &wholes, S::I64), (AtomicOp::Max, &wholes, S::I64), (AtomicOp::Min, &words, S::U32)]
    {
        let (pointer, index) = at(pointer, 3);
        effects.push(Effect::Atomic { op, pointer, index, value: t::Expr::Int(5, of) });
    }
    let half = |index| {
        let (pointer, index) = at(&halves, index);
        t::Expr::load(pointer, index)
    };
    let byte = |i| bytes.at(t::Expr::int(i as u32));
    let cluster_bits =
        |of| call(Function::Bits, &[call(Function::ClusterLoad(of), &[address(24), t::Expr::Int(1, S::U32)])]);
    let x_bits = call(Function::Bits, &[t::Expr::from(&x)]);
    let values = [
        call(Function::Pack, &[half(1), half(2)]),
        call(Function::Pack, &[byte(0), byte(1), byte(2), byte(3)]),
        call(Function::Bits, &[t::Expr::from(&bytes)]),
        t::Expr::from(&pair),
        call(Function::Bits, &[call(Function::FromBits(S::F32), std::slice::from_ref(&x_bits))]),
        call(Function::ShuffleXor(4), std::slice::from_ref(&x_bits)),
        call(Function::Shuffle, &[x_bits, t::Expr::Special(Special::Lane)]),
        call(Function::Bits, &[call(Function::ShuffleXor(1), &[t::Expr::from(&bytes)])]),
        call(Function::ClusterLoad(S::U32), &[address(16), t::Expr::Special(Special::ClusterRank)]),
        cluster_bits(S::F16),
        cluster_bits(S::I8),
        cluster_bits(S::F64),
        t::Expr::Special(Special::Blocks),
    ];
    let pair_of = call(Function::RoundPair(S::Bf16), &[t::Expr::from(&x), t::Expr::from(&x)]);
    let zero = |v: &t::Var, lane| t::Stmt::Assign(v.place(t::Expr::int(lane as u32)), t::Expr::zero(S::I8));
    let mut body = vec![
        t::Stmt::constant(&h, half(0)),
        t::Stmt::constant(&x, call(Function::ToF32, &[t::Expr::from(&h)])),
        t::Stmt::constant(&pair, pair_of),
        t::Stmt::declare(&bytes),
    ];
    body.extend((0..4).map(|lane| zero(&bytes, lane)));
    body.extend(effects.into_iter().map(t::Stmt::Effect));
    for (i, value) in values.into_iter().enumerate() {
        let (pointer, index) = at(&words, i as u32);
        body.push(t::Stmt::Store { pointer, index, value });
    }
    let mut kernel = t::Kernel {
        name: "effects".into(),
        comment: "Everything once".into(),
        params: vec![map, halves, wholes, words],
        threads: 256,
        min_ctas: Some(1),
        max_registers: None,
        cluster: 2,
        shared: 1024,
        body,
    };
    let compiles = |kernel: &t::Kernel| {
        let source = t::cuda::print(kernel, Arch::Sm90a).unwrap();
        let request = CompileRequest {
            name: source.entry,
            source: source.text.clone(),
            arch: "sm_90a".to_owned(),
            options: vec![],
            line_info: false,
        };
        let compiled = compiler().compile(&request).unwrap_or_else(|e| panic!("{e}\n{}", source.text));
        assert!(compiled.ptx.contains(".reqnctapercluster") || kernel.cluster == 1);
        compiled.ptx
    };
    assert!(compiles(&kernel).contains("setmaxnreg.inc"));
    kernel.max_registers = Some(96);
    kernel.cluster = 1;
    assert!(compiles(&kernel).contains(".maxnreg 96"));
}
