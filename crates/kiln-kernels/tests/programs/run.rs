//! Programs of the tile IR after all passes, compiled and run in the simulator.

use crate::common::sim::compiler;
use kiln_cuda::CompileRequest;
use kiln_sim::{Arg, Device, LaunchConfig, Module, Options, Swizzle, TensorType};
use kiln_target::atoms::AtomTable;
use kiln_tile::ir::{Grid, Program};
use kiln_tile::lower::{TensorMap, compile_threads};
use kiln_tile::passes::{Machine, PASSES};
use kiln_tile::program::{Param, product};
use kiln_tile::{Array, DType, Expr, Kernel, KernelParam};
use std::time::Duration;

/// What a parameter of a program is given.
pub enum Given {
    Tensor(Array),
    Dim(i64),
}

/// CTAs of a persistent grid: fewer than there are tiles.
const CTAS: u32 = 2;

/// The program after all passes.
pub fn scheduled(mut program: Program, atoms: &AtomTable) -> Program {
    for pass in &PASSES {
        pass.run(&mut program, &Machine::new(atoms.clone())).unwrap_or_else(|e| panic!("{}: {e}", pass.name));
    }
    program
}

/// A program and its kernel.
pub struct Ready {
    program: Program,
    pub kernel: Kernel,
    entry: kiln_sim::Kernel,
}

/// Compiles a scheduled program.
pub fn ready(program: Program, atoms: &AtomTable) -> Result<Ready, String> {
    let kernel = compile_threads(&program, atoms.clone()).map_err(|e| e.to_string())?;
    let request = CompileRequest {
        name: kernel.name.clone(),
        source: kernel.source.clone(),
        arch: atoms.arch().name().to_owned(),
        options: vec![],
        line_info: false,
    };
    let ptx = compiler().ptx(&request).map_err(|e| e.to_string())?;
    let module = Module::parse(&ptx).map_err(|e| e.to_string())?;
    let entry = module.kernel(&kernel.name).map_err(|e| e.to_string())?;
    Ok(Ready { program, kernel, entry })
}

impl Ready {
    /// The tensors after a run; an error says what was found wrong.
    pub fn run(&self, given: &[Given], seed: Option<u64>) -> Result<Vec<Array>, String> {
        let scalar = |e: &Expr| {
            let value = e.substitute(&|var| {
                let own = |p: &Param| matches!(p, Param::Scalar { var: own, .. } if own == var);
                let Given::Dim(value) = given[self.program.params.iter().position(own)?] else { return None };
                Some(Expr::index(value))
            });
            value.as_const().expect("a constant") as u64
        };
        let points = match &self.program.grid {
            Grid::Points => scalar(&product(&self.program.domain)) as u32,
            Grid::Persistent { points, .. } => {
                (scalar(points) as u32).min(CTAS.next_multiple_of(self.program.schedule.cluster))
            }
        };
        let device = Device::new(1 << 26);
        let upload = |given: &Given| match given {
            Given::Tensor(array) => {
                let address = device.alloc(array.bytes().len() as u64).unwrap();
                device.upload(address, array.bytes()).unwrap();
                address
            }
            Given::Dim(_) => 0,
        };
        let address: Vec<u64> = given.iter().map(upload).collect();
        let arg = |(i, param): (usize, &KernelParam)| match param {
            KernelParam::Buffer { .. } => Arg::U64(address[i]),
            KernelParam::Scalar { dtype, .. } => {
                let Given::Dim(value) = given[i] else { panic!("a dim") };
                if *dtype == DType::I32 { Arg::I32(value as i32) } else { Arg::I64(value) }
            }
            KernelParam::TensorMap(map) => tensor_map(map, &self.program, address[map.tensor], &scalar),
        };
        let args: Vec<Arg> = self.kernel.params.iter().enumerate().map(arg).collect();
        let config = LaunchConfig {
            grid: [points, 1, 1],
            block: [self.kernel.threads, 1, 1],
            shared: self.kernel.dynamic_shared,
            cluster: None,
        };
        let options = Options { seed, timeout: Some(Duration::from_secs(120)), ..Options::default() };
        let report = device.launch(&self.entry, config, &args, &options).map_err(|e| e.to_string())?;
        if !report.clean() {
            return Err(format!("seed {seed:?}: {:?}", report.findings));
        }
        let download = |(given, address): (&Given, &u64)| {
            let Given::Tensor(array) = given else { return None };
            let mut bytes = vec![0; array.bytes().len()];
            device.download(*address, &mut bytes).unwrap();
            Array::from_bytes(array.dtype(), array.len(), bytes)
        };
        Ok(given.iter().zip(&address).filter_map(download).collect())
    }
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

/// A problem of a program, and what it must give.
pub struct Problem {
    pub given: Vec<Given>,
    expected: Vec<f64>,
    tolerance: f64,
}

fn random(dtype: DType, len: usize, rng: &mut fastrand::Rng) -> Array {
    Array::from_f64(dtype, (0..len).map(|_| rng.f64() * 2.0 - 1.0))
}

fn poisoned(dtype: DType, len: usize) -> Given {
    Given::Tensor(Array::from_f64(dtype, (0..len).map(|_| f64::NAN)))
}

/// A problem of `programs::gemm`.
pub fn product_of(dtype: DType, [m, n, k]: [i64; 3], seed: u64) -> Problem {
    let mut rng = fastrand::Rng::with_seed(seed);
    let [x, w] = [m, n].map(|rows| random(dtype, (rows * k) as usize, &mut rng));
    let (a, b) = (x.to_f64(), w.to_f64());
    let sum = |i: i64| (0..k).map(|d| a[(i / n * k + d) as usize] * b[(i % n * k + d) as usize]).sum();
    let expected: Vec<f64> = (0..m * n).map(sum).collect();
    let dims = [m, n, k].map(Given::Dim);
    let tensors = [Given::Tensor(x), Given::Tensor(w), poisoned(dtype, (m * n) as usize)];
    let tolerance = if dtype == DType::F32 { 1e-5 } else { 4e-3 };
    Problem { given: dims.into_iter().chain(tensors).collect(), expected, tolerance }
}

/// A problem of `programs::shared_softmax`: rows and columns.
pub fn softmax_of(dtype: DType, [m, n]: [i64; 2], seed: u64) -> Problem {
    let x = random(dtype, (m * n) as usize, &mut fastrand::Rng::with_seed(seed));
    let row = |row: &[f64]| {
        let weights: Vec<f64> = row.iter().map(|x| x.exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(move |weight| weight / total).collect::<Vec<f64>>()
    };
    let expected = x.to_f64().chunks(n as usize).flat_map(row).collect();
    let given = vec![Given::Dim(m), Given::Dim(n), Given::Tensor(x), poisoned(dtype, (m * n) as usize)];
    Problem { given, expected, tolerance: 4e-3 }
}

/// A problem of `programs::attention`: heads, queries, keys, columns.
pub fn attention_of(dtype: DType, [heads, queries, keys, d]: [i64; 4], seed: u64) -> Problem {
    let mut rng = fastrand::Rng::with_seed(seed);
    let [q, k, v] = [queries, keys, keys].map(|n| random(dtype, (heads * n * d) as usize, &mut rng));
    let [a, b, c] = [&q, &k, &v].map(|x| x.to_f64());
    let mut expected = vec![];
    for h in 0..heads {
        for i in 0..queries {
            let product =
                |j: i64, x: i64| a[((h * queries + i) * d + x) as usize] * b[((h * keys + j) * d + x) as usize];
            let score = |j: i64| (0..d).map(|x| product(j, x)).sum::<f64>() * (d as f64).powf(-0.5);
            let scores: Vec<f64> = (0..keys).map(score).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
            let total: f64 = weights.iter().sum();
            let sum =
                |x: i64| (0..keys).map(|j| weights[j as usize] * c[((h * keys + j) * d + x) as usize]).sum::<f64>();
            expected.extend((0..d).map(|x| sum(x) / total));
        }
    }
    let dims = [heads, queries, keys].map(Given::Dim);
    let tensors = [q, k, v].map(Given::Tensor);
    let output = poisoned(dtype, (heads * queries * d) as usize);
    Problem { given: dims.into_iter().chain(tensors).chain([output]).collect(), expected, tolerance: 8e-3 }
}

impl Problem {
    /// Whether a run is clean and right, else what is wrong.
    pub fn holds(&self, ready: &Ready, seed: Option<u64>) -> Result<(), String> {
        let results = ready.run(&self.given, seed)?;
        let (found, expected) = (results[results.len() - 1].to_f64(), &self.expected);
        let size = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
        let error = found.iter().zip(expected).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt() / size.max(1e-30);
        let near = |(x, y): (&f64, &f64)| (x - y).abs() <= 0.1 * y.abs().max(0.5);
        match found.iter().zip(expected).position(|pair| !near(pair)) {
            None if error <= self.tolerance => Ok(()),
            first => Err(format!("seed {seed:?}: relative error {error:e}, first at {first:?}")),
        }
    }
}
