//! Where a kernel of one's own binds: its programs with a region's dims, and what they would cost there.

use super::{Candidate, Instance, Kernel, describe};
use crate::families::{Built, Offer, Subject, TileLaunch};
use crate::value::dims::multiple;
use crate::{Argument, Condition, Guard, Result};
use kiln_fuse::Bound;
use kiln_graph::{Atom, Bindings, Dim, Symbols};
use kiln_target::{Estimate, Gpu};
use kiln_tile::ir::{Block, Op, Operand, Program};
use kiln_tile::program::{Access, Param};
use kiln_tile::{DType, Expr};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Every way in which one's own kernels make the region, the cheapest of a kernel first; empty where none binds.
pub fn offers(kernels: &[Arc<Kernel>], subject: &Arc<Subject>, gpu: &Gpu) -> Vec<Offer> {
    let mut all = vec![];
    for kernel in kernels {
        for instance in &kernel.instances {
            if let Some(bound) = instance.pattern.bind(&subject.region, &subject.symbols) {
                all.extend(bound_offers(kernel, instance, &bound, subject, gpu));
                break;
            }
        }
    }
    all
}

/// What the family of a kernel of one's own is called.
pub fn family(kernel: &str) -> String {
    format!("kernel {kernel}")
}

/// Every way in which a kernel makes its own function, alone.
pub fn alone(kernel: &Kernel, instance: &Instance, subject: &Arc<Subject>, gpu: &Gpu) -> Vec<Offer> {
    let graph = &instance.function;
    let bound = Bound {
        dims: graph.symbols.iter().map(|(name, _)| (name.to_owned(), Dim::sym(name))).collect(),
        inputs: (0..graph.inputs.len()).collect(),
        outputs: (0..graph.outputs.len()).collect(),
    };
    bound_offers(kernel, instance, &bound, subject, gpu)
}

fn bound_offers(kernel: &Kernel, instance: &Instance, bound: &Bound, subject: &Arc<Subject>, gpu: &Gpu) -> Vec<Offer> {
    let mut ranked: Vec<(Estimate, usize, Built)> = vec![];
    for (i, candidate) in instance.candidates.iter().enumerate() {
        if let Some(built) = built(candidate, bound, &subject.symbols) {
            ranked.push((estimate(&built.launches[0], subject, gpu), i, built));
        }
    }
    ranked.sort_by(|(a, i, _), (b, j, _)| a.seconds.total_cmp(&b.seconds).then(i.cmp(j)));
    let offer = |(estimate, i, built): (Estimate, usize, Built)| {
        let config = instance.candidates[i].config.clone();
        let (modelled, subject) = (built.launches[0].clone(), subject.clone());
        Offer {
            family: family(&kernel.name).into(),
            text: describe(&config),
            config,
            estimate,
            model: Box::new(move |gpu| self::estimate(&modelled, &subject, gpu)),
            build: Box::new(move || Result::Ok(built.clone())),
        }
    };
    ranked.into_iter().map(offer).collect()
}

/// A program where its dims have other names: constants in their place, and parameters that know what is known of the region's. `None` where
/// a dim is one for which it is not made.
fn built(candidate: &Candidate, bound: &Bound, symbols: &Symbols) -> Option<Built> {
    let dims: BTreeMap<&str, &Dim> = bound.dims.iter().map(|(name, dim)| (name.as_str(), dim)).collect();
    let mut constants = HashMap::new();
    let mut guard = vec![];
    for param in &candidate.program.params {
        let Param::Scalar { var, range: (low, high), multiple_of } = param else { continue };
        let dim = *dims.get(&*var.name)?;
        if let Some(value) = dim.as_const() {
            if value < *low || value > *high || value % multiple_of != 0 {
                return None;
            }
            constants.insert(var.id, Expr::index(value));
            continue;
        }
        let (least, most) = dim.bounds(symbols);
        if most < *low || least > *high {
            return None;
        }
        // No element at all is nothing to do for every kernel.
        if least < *low && *low > 1 {
            guard.push(Condition::AtMost(Dim::from(0) - dim.clone(), -low));
        }
        if most > *high {
            guard.push(Condition::AtMost(dim.clone(), *high));
        }
        if multiple(dim) % multiple_of != 0 {
            guard.push(Condition::MultipleOf(dim.clone(), *multiple_of));
        }
    }
    let mut program = candidate.program.fixed(&constants);
    let mut arguments = vec![];
    let (mut inputs, mut outputs) = (bound.inputs.iter(), bound.outputs.iter());
    for param in &mut program.params {
        arguments.push(match param {
            Param::Scalar { var, range, multiple_of } => {
                let dim = *dims.get(&*var.name)?;
                let (least, mut most) = dim.bounds(symbols);
                let symbol = matches!(dim.terms().collect::<Vec<_>>()[..], [([Atom::Sym(_)], 1)]);
                if symbol && most == i64::MAX {
                    // An extent of unknown range is passed in 32 bits; the launch refuses a greater one.
                    most = i32::MAX.into();
                }
                *range = (least.max(0), most.min(range.1).max(least.max(0)));
                *multiple_of = lcm(*multiple_of, multiple(dim));
                Argument::Dim(dim.clone())
            }
            Param::Buffer { access: Access::Read, .. } => Argument::Input(*inputs.next()?),
            Param::Buffer { .. } => Argument::Output(*outputs.next()?),
        });
    }
    let launch = TileLaunch { program, arguments, checks: vec![] };
    Some(Built { guard: Guard(guard), ..Built::one(launch) })
}

fn lcm(a: i64, b: i64) -> i64 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a / x.max(1)).checked_mul(b).unwrap_or(a)
}

/// The roofline of what the program asks for: its products, and the bytes of its tiles, in the turns that SMs take.
fn estimate(launch: &TileLaunch, subject: &Subject, gpu: &Gpu) -> Estimate {
    let program = &launch.program;
    let sizes: HashMap<u32, f64> = launch.known(program).into_iter().map(|(id, dim)| (id, subject.size(dim))).collect();
    let points = program.domain.iter().map(|axis| value(&axis.extent, &sizes).max(1.0)).product::<f64>();
    let mut work = Work::default();
    work.block(program, &program.body, &sizes, 1.0);
    let sms = f64::from(gpu.sms);
    let turns = (points / sms).ceil();
    let matrix = gpu.peak_ops(work.operands.unwrap_or(DType::F32), work.operands.is_some());
    let clock = gpu.clock_ghz * 1e9;
    let seconds = |math: f64, other: f64, bytes: f64| {
        let arithmetic = math / (matrix / sms) + other / (gpu.peak_ops(DType::F32, false) / sms);
        arithmetic.max(bytes / (gpu.costs.l2_sm_bytes * clock))
    };
    let bytes = subject.bytes();
    let tile = seconds(work.products, work.elements, work.bytes) + gpu.costs.tile_seconds;
    let memory = bytes / (gpu.bandwidth_gbs * 1e9 * (points / sms).min(1.0));
    let busy = (turns * tile).max(memory) + gpu.costs.overlap_loss * (turns * tile).min(memory);
    let seconds = gpu.costs.launch_seconds + gpu.costs.latency_seconds + busy;
    Estimate { seconds, bytes, flops: points * (work.products + work.elements), launches: 1 }
}

/// What one point of the domain asks for.
#[derive(Default)]
struct Work {
    /// Operations of products, and of what type their operands are.
    products: f64,
    operands: Option<DType>,
    /// Operations on elements.
    elements: f64,
    /// Bytes of tiles that are loaded and stored.
    bytes: f64,
}

impl Work {
    fn block(&mut self, program: &Program, block: &Block, sizes: &HashMap<u32, f64>, times: f64) {
        for stmt in block {
            let size = |shape: &[u32]| shape.iter().map(|n| f64::from(*n)).product::<f64>() * times;
            let tile = |v: &kiln_tile::ir::ValueId| size(&program.value(*v).shape);
            match &stmt.op {
                Op::Load { from, .. } => {
                    let bits = f64::from(from.tensor().dtype.bits());
                    self.bytes += stmt.results.iter().map(tile).sum::<f64>() * bits / 8.0;
                }
                Op::Store { to, value } | Op::Atomic { to, value, .. } => {
                    self.bytes += tile(value) * f64::from(to.tensor().dtype.bits()) / 8.0;
                }
                Op::Map { .. } => self.elements += stmt.results.iter().map(tile).sum::<f64>(),
                Op::Reduce { value, .. } => self.elements += tile(value),
                Op::Dot { a: Operand::Tile(a), .. } => {
                    let depth = program.value(*a).shape.last().copied().unwrap_or(1);
                    self.operands = Some(program.value(*a).dtype);
                    self.products += 2.0 * stmt.results.iter().map(tile).sum::<f64>() * f64::from(depth);
                }
                Op::For { start, end, step, .. } => {
                    let trips = (value(end, sizes) - value(start, sizes)) / value(step, sizes).max(1.0);
                    for inner in stmt.op.blocks() {
                        self.block(program, inner, sizes, times * trips.ceil().max(1.0));
                    }
                }
                _ => stmt.op.blocks().into_iter().for_each(|inner| self.block(program, inner, sizes, times)),
            }
        }
    }
}

/// The typical value of an index expression; what is not known counts as 0.
fn value(e: &Expr, sizes: &HashMap<u32, f64>) -> f64 {
    // Sizes as dims of their own, so that index arithmetic is evaluated in one place.
    let names: HashMap<u32, Dim> = sizes.keys().map(|id| (*id, Dim::sym(format!("v{id}")))).collect();
    let known = names.iter().map(|(id, dim)| (*id, dim)).collect();
    let bindings: Bindings = sizes.iter().map(|(id, size)| (format!("v{id}"), *size as i64)).collect();
    crate::families::dim_of(e, &known).and_then(|dim| dim.eval(&bindings).ok()).map_or(0.0, |v| v.max(0) as f64)
}
