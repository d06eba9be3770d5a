//! Programs of the tile IR, written by hand: through all passes and NVRTC, and run in the simulator with all checks against plain arithmetic.

mod programs;

use kiln_cuda::{CompileRequest, Compiler, CubinCache, Home, Nvrtc, setup};
use kiln_sim::{Arg, Device, LaunchConfig, Module, Options, Swizzle, TensorType};
use kiln_target::arch::Arch;
use kiln_tile::ir::{Grid, Program};
use kiln_tile::lower::{TensorMap, compile_threads};
use kiln_tile::passes::{Machine, PASSES};
use kiln_tile::program::{Param, product};
use kiln_tile::{Array, DType, Expr, KernelParam};
use programs::{attention, gemm, hopper};
use std::sync::OnceLock;

fn compiler() -> &'static Compiler {
    static COMPILER: OnceLock<Compiler> = OnceLock::new();
    COMPILER.get_or_init(|| {
        let home = Home::from_env().expect("a home folder");
        let nvrtc = Nvrtc::discover(&home).unwrap_or_else(|_| {
            setup::setup(&home, |_| {}).expect("kiln setup");
            Nvrtc::discover(&home).expect("NVRTC")
        });
        Compiler::new(&nvrtc).with_cache(CubinCache::in_home(&home))
    })
}

/// What a parameter of a program is given.
enum Given {
    Tensor(Array),
    Dim(i64),
}

/// CTAs of a persistent grid: fewer than there are tiles.
const CTAS: u32 = 2;

/// Runs a program once for each schedule; gives the tensors after the last run.
fn run(mut program: Program, arch: Arch, given: &[Given], seeds: &[Option<u64>]) -> Vec<Array> {
    let machine = Machine::new(arch);
    for pass in &PASSES {
        pass.run(&mut program, &machine).unwrap_or_else(|e| panic!("{}: {e}", pass.name));
    }
    let kernel = compile_threads(&program, arch).unwrap_or_else(|e| panic!("{e}"));
    if let Ok(folder) = std::env::var("KILN_SHOW") {
        std::fs::write(format!("{folder}/{}_{arch}.cu", kernel.name), &kernel.source).unwrap();
        std::fs::write(format!("{folder}/{}_{arch}.tile", kernel.name), program.to_string()).unwrap();
    }
    let request = CompileRequest {
        name: kernel.name.clone(),
        source: kernel.source.clone(),
        arch: arch.name().to_owned(),
        options: vec![],
        line_info: false,
    };
    let compiled = compiler().compile(&request).unwrap_or_else(|e| panic!("{e}"));
    let spills = compiled.log.spills();
    assert!(!spills, "{arch}: {:?}", compiled.log.entry(&kernel.name));
    let module = Module::parse(&compiled.ptx).unwrap_or_else(|e| panic!("{e}"));
    let entry = module.kernel(&kernel.name).unwrap_or_else(|e| panic!("{e}"));
    let scalar = |e: &Expr| {
        let value = e.substitute(&|var| {
            let position =
                program.params.iter().position(|p| matches!(p, Param::Scalar { var: own, .. } if own == var))?;
            let Given::Dim(value) = given[position] else { return None };
            Some(Expr::index(value))
        });
        value.as_const().expect("a constant") as u64
    };
    let points = match &program.grid {
        Grid::Points => scalar(&product(&program.domain)) as u32,
        Grid::Persistent { points, .. } => (scalar(points) as u32).min(CTAS),
    };
    let mut results = vec![];
    for seed in seeds {
        let device = Device::new(1 << 26);
        let address: Vec<u64> = given
            .iter()
            .map(|given| match given {
                Given::Tensor(array) => {
                    let address = device.alloc(array.bytes().len() as u64).unwrap();
                    device.upload(address, array.bytes()).unwrap();
                    address
                }
                Given::Dim(_) => 0,
            })
            .collect();
        let args: Vec<Arg> = kernel
            .params
            .iter()
            .enumerate()
            .map(|(i, param)| match param {
                KernelParam::Buffer { .. } => Arg::U64(address[i]),
                KernelParam::Scalar { dtype, .. } => {
                    let Given::Dim(value) = given[i] else { panic!("a dim") };
                    if *dtype == DType::I32 { Arg::I32(value as i32) } else { Arg::I64(value) }
                }
                KernelParam::TensorMap(map) => tensor_map(map, &program, address[map.tensor], &scalar),
            })
            .collect();
        let config = LaunchConfig {
            grid: [points, 1, 1],
            block: [kernel.threads, 1, 1],
            shared: kernel.dynamic_shared,
            cluster: None,
        };
        let report = device.launch(&entry, config, &args, &Options { seed: *seed, ..Options::default() });
        let report = report.unwrap_or_else(|e| panic!("{arch} seed {seed:?}: {e}"));
        assert!(report.clean(), "{arch} seed {seed:?}: {:?}", report.findings);
        results = given
            .iter()
            .zip(&address)
            .filter_map(|(given, address)| {
                let Given::Tensor(array) = given else { return None };
                let mut bytes = vec![0; array.bytes().len()];
                device.download(*address, &mut bytes).unwrap();
                Array::from_bytes(array.dtype(), array.len(), bytes)
            })
            .collect();
    }
    results
}

fn tensor_map(map: &TensorMap, program: &Program, address: u64, scalar: &dyn Fn(&Expr) -> u64) -> Arg {
    let Param::Buffer { buffer, .. } = &program.params[map.tensor] else { panic!("a tensor") };
    let bytes = u64::from(buffer.dtype.bits() / 8);
    let strides: Vec<u64> = buffer.strides.iter().rev().skip(1).map(|stride| scalar(stride) * bytes).collect();
    let made = kiln_sim::TensorMap {
        dtype: match buffer.dtype {
            DType::F16 => TensorType::F16,
            DType::BF16 => TensorType::Bf16,
            DType::F32 => TensorType::F32,
            _ => TensorType::U8,
        },
        address,
        dims: buffer.shape.iter().rev().map(scalar).collect(),
        strides,
        box_dims: map.extents.clone(),
        element_strides: vec![1; map.extents.len()],
        swizzle: match map.swizzle {
            32 => Swizzle::B32,
            64 => Swizzle::B64,
            128 => Swizzle::B128,
            _ => Swizzle::None,
        },
        nan_fill: false,
    };
    Arg::Bytes(made.encode().unwrap().to_vec())
}

fn random(dtype: DType, len: usize) -> Array {
    Array::from_f64(dtype, (0..len).map(|_| fastrand::f64() * 2.0 - 1.0))
}

fn poisoned(dtype: DType, len: usize) -> Array {
    Array::from_f64(dtype, (0..len).map(|_| f64::NAN))
}

fn close(found: &Array, expected: &[f64], tolerance: f64) {
    let found = found.to_f64();
    let scale = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
    let error = found.iter().zip(expected).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt() / scale.max(1e-30);
    let first = found
        .iter()
        .zip(expected)
        .position(|(x, y)| (x - y).abs().partial_cmp(&(0.1 * y.abs().max(0.5))).is_none_or(|order| order.is_gt()));
    assert!(error <= tolerance, "relative error {error:e}, first at {first:?}");
}

fn product_case(
    arch: Arch,
    dtype: DType,
    [m, n, k]: [i64; 3],
    tile: [u32; 3],
    stages: u32,
    schedule: kiln_tile::ir::Schedule,
    seeds: &[Option<u64>],
) {
    let [x, w] = [random(dtype, (m * k) as usize), random(dtype, (n * k) as usize)];
    let (a, b) = (x.to_f64(), w.to_f64());
    let expected: Vec<f64> =
        (0..m * n).map(|i| (0..k).map(|d| a[(i / n * k + d) as usize] * b[(i % n * k + d) as usize]).sum()).collect();
    let program = gemm(dtype, tile, stages, schedule);
    let y = poisoned(dtype, (m * n) as usize);
    let given = [Given::Dim(m), Given::Dim(n), Given::Dim(k), Given::Tensor(x), Given::Tensor(w), Given::Tensor(y)];
    let results = run(program, arch, &given, seeds);
    let tolerance = if dtype == DType::F32 { 1e-5 } else { 4e-3 };
    close(&results[2], &expected, tolerance);
}

#[test]
fn products_by_every_instruction() {
    let seeds = [None, Some(1)];
    product_case(Arch::Sm90a, DType::BF16, [200, 136, 200], [128, 128, 64], 3, hopper(8), &seeds);
    product_case(Arch::Sm90a, DType::F16, [128, 192, 64], [64, 96, 64], 2, hopper(4), &seeds);
    let plain = kiln_tile::ir::Schedule { warps: 4, ..Default::default() };
    product_case(Arch::Sm80, DType::BF16, [100, 136, 200], [64, 64, 32], 3, plain.clone(), &seeds);
    product_case(Arch::Sm75, DType::F16, [100, 136, 200], [64, 64, 32], 2, plain.clone(), &seeds);
    product_case(Arch::Sm80, DType::F32, [33, 40, 24], [32, 32, 16], 3, plain, &seeds);
}

#[test]
fn attention_by_every_instruction() {
    let plain = kiln_tile::ir::Schedule { warps: 4, ..Default::default() };
    let overlapped = kiln_tile::ir::Schedule { overlap: true, ping_pong: true, raster: 0, ..hopper(8) };
    for (arch, dtype, tile, schedule) in [
        (Arch::Sm90a, DType::BF16, [128, 128, 64], overlapped),
        (Arch::Sm80, DType::BF16, [64, 32, 64], plain.clone()),
        (Arch::Sm75, DType::F16, [64, 32, 64], plain),
    ] {
        let (heads, queries, keys, d) = (2i64, 150i64, 300i64, 64i64);
        let [q, k, v] = [queries, keys, keys].map(|n| random(dtype, (heads * n * d) as usize));
        let [a, b, c] = [&q, &k, &v].map(|x| x.to_f64());
        let mut expected = vec![];
        for h in 0..heads {
            for i in 0..queries {
                let score = |j: i64| -> f64 {
                    (0..d)
                        .map(|x| a[((h * queries + i) * d + x) as usize] * b[((h * keys + j) * d + x) as usize])
                        .sum::<f64>()
                        * (d as f64).powf(-0.5)
                };
                let scores: Vec<f64> = (0..keys).map(score).collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
                let total: f64 = weights.iter().sum();
                for x in 0..d {
                    let sum: f64 = (0..keys).map(|j| weights[j as usize] * c[((h * keys + j) * d + x) as usize]).sum();
                    expected.push(sum / total);
                }
            }
        }
        let program = attention(dtype, d as u32, tile, 2, schedule);
        let o = poisoned(dtype, (heads * queries * d) as usize);
        let given = [
            Given::Dim(heads),
            Given::Dim(queries),
            Given::Dim(keys),
            Given::Tensor(q),
            Given::Tensor(k),
            Given::Tensor(v),
            Given::Tensor(o),
        ];
        let results = run(program, arch, &given, &[None, Some(1)]);
        close(&results[3], &expected, 8e-3);
    }
}
