//! What holds a kernel of one's own to the function that it implements: shapes, inputs, and what results may be.

use super::{Candidate, Instance};
use crate::{Error, Result};
use kiln_graph::{Bindings, DType, Relation, Tensor, interpret, widen};
use kiln_tile::dtype::{Array, Scalar};
use kiln_tile::interp::Arg;
use kiln_tile::ir::interp;
use kiln_tile::program::Param;
use std::fmt;

/// Most elements of a tensor of a check: the interpreters take about a microsecond for each.
const MOST_ELEMENTS: i64 = 1 << 15;
/// Share of integers that may differ by one, where roundings of floats decide them.
const ROUNDED_SHARE: f64 = 0.03;

/// One run of a check.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Which Config.
    pub candidate: usize,
    /// The dims.
    pub extents: Bindings,
    /// Of the inputs.
    pub seed: u64,
    /// Whether some inputs are infinite or NaN.
    pub special: bool,
}

impl Case {
    /// The case `number` of those that follow from `seed`: extents of 1, odd ones and around the edges of tiles, within what the function declares.
    ///
    /// # Errors
    /// Dims that nothing within their ranges satisfies.
    pub fn draw(instance: &Instance, seed: u64, number: u64) -> Result<Case> {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_mul(1 << 32).wrapping_add(number));
        let candidate = number as usize % instance.candidates.len();
        let edges: Vec<i64> = match instance.candidates[candidate].config.as_object() {
            Some(fields) => fields.values().filter_map(serde_json::Value::as_i64).filter(|n| *n >= 8).collect(),
            None => vec![],
        };
        for _ in 0..1000 {
            let mut extents = Bindings::new();
            for (name, (low, high)) in instance.function.symbols.iter() {
                let of = of_multiples(instance, name);
                let edge = edges.get(random.usize(..edges.len().max(1))).copied().unwrap_or(16);
                let wanted = match random.u32(..8) {
                    0 => 1,
                    1 => edge - 1,
                    2 => edge,
                    3 => edge + 1,
                    4 => 2 * edge + 3,
                    _ => random.i64(1..=70),
                };
                let wanted = wanted.clamp(low.max(1), high.max(1));
                extents.insert(name.to_owned(), (wanted + of - 1) / of * of);
            }
            if fits(instance, &extents) {
                return Ok(Case { candidate, extents, seed: random.u64(..), special: number % 4 == 3 });
            }
        }
        Err(Error::Own {
            kernel: instance.pattern.name().to_owned(),
            what: "no small shapes satisfy what the function requires of its dims".into(),
            help: "declare smaller ranges, or fewer requirements".into(),
        })
    }
}

/// What a symbol must be a multiple of.
fn of_multiples(instance: &Instance, name: &str) -> i64 {
    let of = instance.function.constraints.iter().filter_map(|c| {
        let requirement = &c.requirement;
        let own = requirement.relation == Relation::Multiple && requirement.left == kiln_graph::Dim::sym(name);
        own.then(|| requirement.right.as_const()).flatten()
    });
    of.max().unwrap_or(1).max(1)
}

fn fits(instance: &Instance, extents: &Bindings) -> bool {
    let graph = &instance.function;
    let ranged =
        graph.symbols.iter().all(|(name, (low, high))| extents.get(name).is_some_and(|n| (low..=high).contains(n)));
    let small = graph.values.iter().all(|value| value.ty.numel().eval(extents).is_ok_and(|n| n <= MOST_ELEMENTS));
    ranged && small && graph.constraints.iter().all(|constraint| constraint.check(extents).is_ok())
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extents: Vec<String> = self.extents.iter().map(|(name, n)| format!("{name}={n}")).collect();
        write!(f, "{}", extents.join(" "))
    }
}

/// Random inputs of a case; of a special one some elements are infinite or NaN.
///
/// # Errors
/// Extents without a value.
pub fn inputs(instance: &Instance, case: &Case) -> Result<Vec<Tensor>> {
    let graph = &instance.function;
    let mut random = fastrand::Rng::with_seed(case.seed);
    let one = |v: &kiln_graph::ValueId| {
        let ty = graph.ty(*v);
        let shape = ty.concrete(&case.extents)?;
        let tensor = Tensor::random(ty.dtype, &shape, random.u64(..))?;
        if !case.special || !ty.dtype.is_float() || tensor.is_empty() || random.bool() {
            return Ok(tensor);
        }
        let mut values = tensor.to_f64_vec();
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let at = random.usize(..values.len());
            values[at] = value;
        }
        Tensor::from_f64(ty.dtype, &shape, &values)
    };
    graph.inputs.iter().map(one).collect::<kiln_graph::Result<_>>().map_err(|e| failed(instance, &e))
}

/// What results should be: computed in f64, and op by op in the function's own types.
pub struct Reference {
    exact: Vec<Tensor>,
    own: Vec<Tensor>,
    /// Whether any input is of floats, whose roundings may decide integers.
    decided_by_floats: bool,
}

/// The function's results.
///
/// # Errors
/// What the reference interpreter refuses.
pub fn reference(instance: &Instance, inputs: &[Tensor]) -> Result<Reference> {
    let exact = widen::reference(&instance.function, inputs).map_err(|e| failed(instance, &e))?;
    let own = interpret(&instance.function, inputs).map_err(|e| failed(instance, &e))?;
    Ok(Reference { exact, own, decided_by_floats: inputs.iter().any(|tensor| tensor.dtype().is_float()) })
}

/// Runs a program on the tile interpreter over poisoned outputs.
///
/// # Errors
/// What the interpreter finds.
pub fn interpreted(instance: &Instance, candidate: &Candidate, case: &Case, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    let graph = &instance.function;
    let types = graph.outputs.iter().map(|(_, v)| graph.ty(*v));
    let shapes: Vec<(DType, Vec<usize>)> = types
        .map(|ty| Ok((ty.dtype, ty.concrete(&case.extents)?)))
        .collect::<kiln_graph::Result<_>>()
        .map_err(|e| failed(instance, &e))?;
    let held = inputs.iter().map(|tensor| Array::from_bytes(tensor.dtype(), tensor.len(), tensor.data().to_vec()));
    let poisoned = shapes.iter().map(|(dtype, shape)| {
        let poison = if dtype.is_float() { Scalar::Float(f64::NAN) } else { Scalar::Int(-53) };
        Some(Array::from_values(*dtype, std::iter::repeat_n(poison, shape.iter().product())))
    });
    let mut tensors = held.chain(poisoned);
    let mut args = vec![];
    for param in &candidate.program.params {
        let arg = match param {
            Param::Scalar { var, .. } => case.extents.get(&*var.name).copied().map(Arg::dim),
            Param::Buffer { .. } => tensors.next().flatten().map(Arg::Array),
        };
        args.push(arg.ok_or_else(|| failed(instance, &"a parameter of the program has no value"))?);
    }
    interp::run(&candidate.program, &mut args)
        .map_err(|source| Error::Tile { region: instance.pattern.name().to_owned(), source: source.into() })?;
    let outputs = args.iter().filter_map(Arg::array).skip(inputs.len()).zip(shapes);
    let tensors = outputs.map(|(array, (dtype, shape))| Tensor::new(dtype, shape, array.bytes().to_vec().into()));
    tensors.collect::<kiln_graph::Result<_>>().map_err(|e| failed(instance, &e))
}

fn failed(instance: &Instance, e: &dyn fmt::Display) -> Error {
    Error::Own {
        kernel: instance.pattern.name().to_owned(),
        what: format!("its function cannot be run: {e}"),
        help: "check the function alone first".into(),
    }
}

/// Where a result is not the function's.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Which output.
    pub output: usize,
    /// The first element that differs.
    pub index: Vec<usize>,
    /// What it is.
    pub found: f64,
    /// What f64 gives.
    pub expected: f64,
    /// How far from each other they may be.
    pub allowed: f64,
    /// How many elements of the output differ.
    pub count: usize,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { output, index, found, expected, allowed, count } = self;
        write!(f, "output {output} at {index:?} is {found}, expected {expected} within {allowed:.3e}")?;
        if *count > 1 { write!(f, " ({count} elements differ)") } else { Ok(()) }
    }
}

/// The first difference from the reference. Floats may be off by a few roundings of their type, and by twice what the function's own types
/// lose; integers that roundings of floats decide by one, a few of them; all others not at all. What is infinite or NaN must be so in one of
/// the references.
pub fn compare(found: &[Tensor], expected: &Reference) -> Option<Difference> {
    found.iter().zip(expected.exact.iter().zip(&expected.own)).enumerate().find_map(
        |(output, (found, (exact, own)))| {
            let dtype = exact.dtype();
            let [values, exact, own] = [found, exact, own].map(Tensor::to_f64_vec);
            let finite = || exact.iter().zip(&own).filter(|(e, o)| e.is_finite() && o.is_finite());
            let lost = finite().map(|(e, o)| (e - o).abs()).fold(0.0, f64::max);
            let rms = (finite().map(|(e, _)| e * e).sum::<f64>() / exact.len().max(1) as f64).sqrt();
            let rounding = dtype.mantissa_bits().map(|bits| 0.5 * 2f64.powi(-(bits as i32)));
            let allowed = |e: f64| match rounding {
                // Sums have as many roundings in f32 as in f16: of a wide type they are what there is.
                Some(r) => (if dtype.bits() < 32 { 4.0 } else { 64.0 }) * r * e.abs().max(rms) + 2.0 * lost,
                None => 0.0,
            };
            let differs = |i: usize| {
                let (f, e, o) = (values[i], exact[i], own[i]);
                let same = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan();
                // Overflow where one of the references does.
                !(same(f, e) || same(f, o) || (f - e).abs() <= allowed(e))
            };
            let mut wrong: Vec<usize> = (0..values.len()).filter(|i| differs(*i)).collect();
            if rounding.is_none() && wrong.iter().all(|i| (values[*i] - exact[*i]).abs() <= 1.0) {
                let most = ROUNDED_SHARE * values.len() as f64 + 1.0;
                if wrong.len() as f64 <= most && expected.decided_by_floats {
                    wrong.clear();
                }
            }
            let i = *wrong.first()?;
            let (mut rest, mut index) = (i, vec![0; found.shape().len()]);
            for (axis, extent) in found.shape().iter().enumerate().rev() {
                index[axis] = rest % extent.max(&1);
                rest /= extent.max(&1);
            }
            let allowed = allowed(exact[i]);
            Some(Difference { output, index, found: values[i], expected: exact[i], allowed, count: wrong.len() })
        },
    )
}
