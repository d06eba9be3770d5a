//! Regions with inputs, and the comparison of what runs them with the reference interpreter.
#![allow(dead_code)] // each test uses some of it

pub mod attention;
pub mod cases;
pub mod convs;
pub mod drawn;
pub mod missing;
pub mod products;
pub mod shapes;
pub mod sim;

use kiln_fuse::{Anchor, Region};
use kiln_graph::{Bindings, Builder, DType, Dim, EinsumSpec, Rng, Tensor, ValueId, bind_symbols, interpret};
use kiln_kernels::families::{self, Built, Offer, Subject};
use kiln_kernels::{Argument, Implementation, lower, tile_programs};
use kiln_target::Gpu;
use kiln_target::arch::{Arch, has_mma};
use kiln_tile::interp::{self, Arg};
use kiln_tile::ir::{self, Level};
use kiln_tile::passes::{Machine, PASSES};
use kiln_tile::program::Param;
use kiln_tile::{Array, Scalar, TileError};
use std::sync::Arc;

/// A region and inputs to run it on.
pub struct Case {
    pub region: Region,
    pub inputs: Vec<Tensor>,
    /// Roundings to the result's dtype, or f32 operations in a row, that may separate two right answers.
    pub roundings: f64,
    /// Whether products of f32 may round their operands to TF32.
    pub tf32: bool,
}

/// A region that `build` makes; `shapes` are those of its inputs, named `x0 x1 ..`, at run time.
pub fn case(
    name: &str,
    anchor: Anchor,
    roundings: f64,
    inputs: Vec<Tensor>,
    build: impl FnOnce(&mut Builder) -> kiln_graph::Result<Vec<ValueId>>,
) -> Case {
    let mut b = Builder::new(name);
    let results = build(&mut b).unwrap_or_else(|e| panic!("{name}: {e}"));
    for (i, v) in results.into_iter().enumerate() {
        b.output(format!("y{i}"), v);
    }
    let region = Region { name: name.to_owned(), summary: format!("{name} of the tests"), anchor, graph: b.finish() };
    region.verify().unwrap_or_else(|e| panic!("{e}"));
    Case { region, inputs, roundings, tf32: false }
}

impl Case {
    /// The same, whose products of f32 may round their operands to TF32.
    pub fn rounding_to_tf32(self) -> Case {
        Case { tf32: true, ..self }
    }

    /// Whether fusion makes such a region for an architecture: attention is for tensor cores that have the type.
    pub fn is_for(&self, arch: Arch) -> bool {
        let mut halves = self.inputs.iter().map(Tensor::dtype).filter(|dtype| has_mma(*dtype));
        self.region.anchor != Anchor::Attention || halves.all(|dtype| arch.mma(dtype).is_some())
    }

    pub fn bindings(&self) -> Bindings {
        let shapes: Vec<Vec<usize>> = self.inputs.iter().map(|t| t.shape().to_vec()).collect();
        bind_symbols(&self.region.graph, &shapes).unwrap_or_else(|e| panic!("{}: {e}", self.region.name))
    }

    /// The implementation that runs under these shapes.
    pub fn lower(&self, arch: Arch) -> kiln_kernels::Result<Implementation> {
        let (variants, bindings) =
            (lower(&Arc::new(Subject::of(&self.region)), &Gpu::typical(arch).unwrap())?, self.bindings());
        let chosen = variants.into_iter().find(|(guard, _)| guard.holds(&bindings).unwrap());
        Ok(chosen.expect("the last guard always holds").1)
    }

    pub fn expected(&self) -> Vec<Tensor> {
        interpret(&self.region.graph, &self.inputs).unwrap_or_else(|e| panic!("{}: {e}", self.region.name))
    }

    /// Types and shapes of the results, with memory full of something else than zeros, or of what they update.
    pub fn poisoned(&self) -> Vec<Tensor> {
        let (graph, bindings) = (&self.region.graph, self.bindings());
        let spoil = |(_, v): &(String, ValueId)| {
            let (dtype, shape) = (graph.ty(*v).dtype, graph.ty(*v).concrete(&bindings).unwrap());
            let bytes = dtype.bytes_for(shape.iter().product()).unwrap();
            Tensor::new(dtype, shape, vec![0xa5; bytes].into()).unwrap()
        };
        match self.region.updated() {
            Some(i) => vec![self.inputs[i].clone()],
            None => graph.outputs.iter().map(spoil).collect(),
        }
    }

    /// Runs the tile programs on the CPU. No check may fail.
    pub fn interpret_tiles(&self, arch: Arch) -> Vec<Tensor> {
        let (outputs, fault) = self.interpret_faulty(arch);
        assert_eq!(fault, 0, "{}: a check failed", self.region.name);
        outputs
    }

    /// Runs the tile programs on the CPU, and tells the greatest number of a check that failed, from 1; 0 if none did.
    pub fn interpret_faulty(&self, arch: Arch) -> (Vec<Tensor>, i128) {
        if let Some(offer) = self.offers(arch).first() {
            return self.interpret_built(&offer.build().unwrap(), arch, Level::LaidOut);
        }
        let programs = tile_programs(&self.region, &self.region.graph.symbols)
            .unwrap_or_else(|e| panic!("{}: {e}", self.region.name));
        let (mut outputs, mut fault) = (self.poisoned(), 0);
        for program in programs {
            let run = |args: &mut [Arg]| interp::run(&program.program, args);
            self.bound(
                &program.program.params,
                &program.arguments,
                (&mut outputs, &mut Default::default(), &mut fault),
                run,
            );
        }
        (outputs, fault)
    }

    /// Runs what a family built, in the interpreter of the tile IR, after the passes that leave a level up to `level`.
    pub fn interpret_built(&self, built: &Built, arch: Arch, level: Level) -> (Vec<Tensor>, i128) {
        let (mut outputs, mut fault) = (self.poisoned(), 0);
        let bytes = |of: &Dim| of.eval(&self.bindings()).unwrap() as usize;
        let mut memory = [vec![0xa5; bytes(&built.scratch_bytes)], vec![0; bytes(&built.zeroed_bytes)]];
        for launch in &built.launches {
            let mut program = launch.program.clone();
            for pass in PASSES.iter().take_while(|pass| pass.level <= level) {
                pass.run(&mut program, &Machine::new(arch)).unwrap_or_else(|e| panic!("{}: {e}", self.region.name));
            }
            let run = |args: &mut [Arg]| ir::interp::run(&program, args);
            self.bound(&program.params, &launch.arguments, (&mut outputs, &mut memory, &mut fault), run);
            assert!(memory[1].iter().all(|byte| *byte == 0), "{}: counters are not left zero", self.region.name);
        }
        (outputs, fault)
    }

    /// What families offer for the region on the typical GPU of an architecture.
    pub fn offers(&self, arch: Arch) -> Vec<Offer> {
        self.offers_on(&Gpu::typical(arch).unwrap())
    }

    /// What families offer for the region on a GPU.
    pub fn offers_on(&self, gpu: &Gpu) -> Vec<Offer> {
        let subject = Subject::new(&self.region, &self.region.graph.symbols, &[], &self.bindings());
        families::offers(&Arc::new(subject.with_tf32(self.tf32)), gpu)
            .unwrap_or_else(|e| panic!("{}: {e}", self.region.name))
    }

    /// Runs one kernel on what its parameters are bound to; memory is scratch and what is zero.
    fn bound(
        &self,
        params: &[Param],
        arguments: &[Argument],
        (outputs, [scratch, zeroed], fault): (&mut [Tensor], &mut [Vec<u8>; 2], &mut i128),
        run: impl FnOnce(&mut [Arg]) -> Result<(), TileError>,
    ) {
        let bindings = self.bindings();
        let bytes = |param: &Param, len: usize, data: Vec<u8>| {
            let Param::Buffer { buffer, .. } = param else { panic!("a tensor for a scalar parameter") };
            Arg::Array(Array::from_bytes(buffer.dtype, len, data).unwrap())
        };
        let array = |param: &Param, t: &Tensor| bytes(param, t.len(), t.data().to_vec());
        let width = |param: &Param| match param {
            Param::Buffer { buffer, .. } => buffer.dtype.bits() as usize / 8,
            Param::Scalar { .. } => 1,
        };
        assert_eq!(params.len(), arguments.len(), "{}", self.region.name);
        let bind = |(argument, param): (&Argument, &Param)| match argument {
            Argument::Input(i) => array(param, &self.inputs[*i]),
            Argument::Output(i) => array(param, &outputs[*i]),
            Argument::Scratch => bytes(param, scratch.len() / width(param), scratch.clone()),
            Argument::Zeroed => bytes(param, zeroed.len() / width(param), zeroed.clone()),
            Argument::Fault => Arg::Array(Array::from_values(kiln_tile::DType::I32, [Scalar::Int(*fault)])),
            Argument::FaultCode => Arg::Scalar(Scalar::Int(1)),
            Argument::Dim(dim) => Arg::dim(dim.eval(&bindings).unwrap()),
            other => panic!("{other:?} was not asked for"),
        };
        let mut args: Vec<Arg> = arguments.iter().zip(params).map(bind).collect();
        run(&mut args).unwrap_or_else(|e| panic!("{}: {e}", self.region.name));
        for (argument, arg) in arguments.iter().zip(&args) {
            if let (Argument::Fault, Some(word)) = (argument, arg.array()) {
                *fault = word.get(0).as_i128();
            }
            if let (Argument::Scratch, Some(array)) = (argument, arg.array()) {
                *scratch = array.bytes().to_vec();
            }
            if let (Argument::Zeroed, Some(array)) = (argument, arg.array()) {
                *zeroed = array.bytes().to_vec();
            }
            if let (Argument::Output(i), Some(array)) = (argument, arg.array()) {
                let old = &outputs[*i];
                let data = array.bytes().to_vec().into();
                outputs[*i] = Tensor::new(old.dtype(), old.shape().to_vec(), data).unwrap();
            }
        }
    }

    /// Compares results with the reference interpreter's.
    pub fn compare(&self, found: &[Tensor], slack: f64) {
        if let Some(said) = self.differs(found, slack) {
            panic!("{said}");
        }
    }

    /// The first element that is not the reference interpreter's.
    pub fn differs(&self, found: &[Tensor], slack: f64) -> Option<String> {
        self.differs_from(&self.expected(), found, slack)
    }

    /// What built programs give: the reference interpreter's results; where they may round to TF32, what the programs themselves say.
    pub fn meant(&self, built: &Built, arch: Arch) -> Vec<Tensor> {
        if self.tf32 { self.interpret_built(built, arch, Level::Tile).0 } else { self.expected() }
    }

    /// The first element that is not the one of `expected`.
    pub fn differs_from(&self, expected: &[Tensor], found: &[Tensor], slack: f64) -> Option<String> {
        let name = &self.region.name;
        assert_eq!(found.len(), expected.len());
        for (number, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert_eq!(found.dtype(), expected.dtype(), "{name}");
            assert_eq!(found.shape(), expected.shape(), "{name}");
            let bound = unit(expected.dtype()) * self.roundings.max(1.0) * slack;
            let (f, e) = (found.to_f64_vec(), expected.to_f64_vec());
            let finite = e.iter().filter(|x| x.is_finite()).map(|x| x.abs());
            // Sums cancel: their error is relative to what was summed, and inputs are of the order of 1.
            let scale = finite.fold(0.0, f64::max).clamp(1e-3, 1.0);
            for (i, (&f, &e)) in f.iter().zip(&e).enumerate() {
                let same = f == e || f.is_nan() && e.is_nan();
                let near = bound > 0.0 && f.is_finite() && (f - e).abs() <= bound * e.abs().max(scale);
                if !(same || near) {
                    return Some(format!("{name}: result {number}, element {i}: {f}, expected {e} within {bound:e}"));
                }
            }
        }
        None
    }

    /// A result that is further from float64 than the reference interpreter's is, by more than roundings explain, those of operands to TF32
    /// among them; as a relative error over all elements that are finite.
    pub fn strays(&self, found: &[Tensor]) -> Option<String> {
        let exact = kiln_graph::widen::reference(&self.region.graph, &self.inputs).unwrap();
        for (number, ((found, own), exact)) in found.iter().zip(&self.expected()).zip(&exact).enumerate() {
            if !exact.dtype().is_float() {
                continue;
            }
            let [found, own, values] = [found, own, exact].map(Tensor::to_f64_vec);
            let finite: Vec<usize> =
                (0..values.len()).filter(|&i| [&found, &own, &values].iter().all(|x| x[i].is_finite())).collect();
            let norm = |x: &dyn Fn(usize) -> f64| finite.iter().map(|&i| x(i) * x(i)).sum::<f64>().sqrt();
            let size = norm(&|i| values[i]).max(1e-30);
            let [found, own] = [&found, &own].map(|x| norm(&|i| x[i] - values[i]) / size);
            let (stored, summed) = (unit(exact.dtype()), unit(exact.dtype().accumulator()));
            let operands = if self.tf32 { 2.0 * TF32_UNIT } else { 0.0 };
            if found > 4.0 * own + 4.0 * stored + self.roundings * summed + operands {
                let name = &self.region.name;
                return Some(format!("{name}: result {number} is {found:e} from float64, the reference {own:e}"));
            }
        }
        None
    }
}

/// Half the distance between 1 and the next number of TF32, which has 10 bits of mantissa.
pub const TF32_UNIT: f64 = 1.0 / 2048.0;

/// Half the distance between 1 and the next number; 0 for exact types.
fn unit(dtype: DType) -> f64 {
    dtype.mantissa_bits().map_or(0.0, |bits| 0.5 * 2f64.powi(-(bits as i32)))
}

/// Random data, with zeros, infinities and NaN among floats and the ends of the range among integers.
pub fn wild(dtype: DType, shape: &[usize], seed: u64) -> Tensor {
    let mut rng = Rng::new(seed);
    if let Some((low, high)) = dtype.int_range() {
        let values: Vec<i128> = (0..shape.iter().product::<usize>())
            .map(|_| match rng.range(0, 7) {
                0 => low,
                1 => high,
                2 => 0,
                3 => low.max(-1),
                _ => i128::from(rng.range(-20, 20)).clamp(low, high),
            })
            .collect();
        return Tensor::from_i128(dtype, shape, &values).unwrap();
    }
    Tensor::generate(dtype, shape, |_| match rng.range(0, 15) {
        0 => f64::NAN,
        1 => f64::INFINITY,
        2 => f64::NEG_INFINITY,
        3 => 0.0,
        4 => -0.0,
        5 => rng.range(-3, 3) as f64 + 0.5,
        _ => rng.signed() * 4.0,
    })
    .unwrap()
}

/// A tensor whose elements beside a part of an axis are such as show wherever they are read: NaN, or the greatest there are.
pub fn spoilt(tensor: &Tensor, axis: usize, part: std::ops::Range<usize>) -> Tensor {
    let (dtype, shape) = (tensor.dtype(), tensor.shape());
    let inner: usize = shape[axis + 1..].iter().product();
    let outside = |i: usize| !part.contains(&(i / inner.max(1) % shape[axis].max(1)));
    if let Some((_, most)) = dtype.int_range() {
        let values = tensor.to_i128_vec().unwrap();
        let values: Vec<i128> =
            values.into_iter().enumerate().map(|(i, v)| if outside(i) { most } else { v }).collect();
        return Tensor::from_i128(dtype, shape, &values).unwrap();
    }
    let values = tensor.to_f64_vec();
    Tensor::generate(dtype, shape, |i| if outside(i) { f64::NAN } else { values[i] }).unwrap()
}

/// Tame random data.
pub fn random(dtype: DType, shape: &[usize], seed: u64) -> Tensor {
    Tensor::random(dtype, shape, seed).unwrap()
}

/// Random integers in `low..=high`.
pub fn ints(dtype: DType, shape: &[usize], low: i64, high: i64, seed: u64) -> Tensor {
    let mut rng = Rng::new(seed);
    let count = shape.iter().product::<usize>();
    let values: Vec<i128> = (0..count).map(|_| i128::from(rng.range(low, high))).collect();
    Tensor::from_i128(dtype, shape, &values).unwrap()
}

/// Dims from text: `d(&["B", "384"])`.
pub fn d(text: &[&str]) -> Vec<Dim> {
    text.iter().map(|s| s.parse().unwrap()).collect()
}

/// An einsum from text: `spec("mk,kn->mn")`.
pub fn spec(text: &str) -> EinsumSpec {
    let (left, out) = text.split_once("->").unwrap();
    let (lhs, rhs) = left.split_once(',').unwrap();
    EinsumSpec { lhs: lhs.chars().collect(), rhs: rhs.chars().collect(), out: out.chars().collect() }
}
