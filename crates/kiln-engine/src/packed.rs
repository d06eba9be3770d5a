//! Packed forms of weights: what kernels read in the place of constants, made when an engine is built.

use crate::device::Place;
use crate::engine::{Compiled, Engine};
use crate::schedule::WeightPlaces;
use crate::validate::weight_names;
use crate::{Error, Result};
use kiln_fuse::{BufferId, BufferKind, Plan, RegionId, Step};
use kiln_graph::Tensor;
use kiln_kernels::{Packing, Pointer, Transform};
use std::collections::{BTreeMap, BTreeSet};

type Words<T> = std::result::Result<T, String>;
type Kernels = BTreeMap<RegionId, Compiled>;

/// What the packed form of a weight is called: by the weight and the steps, so that all who want one share it.
fn name(weight: &str, packing: &Packing) -> String {
    let step = |step: &Transform| match step {
        Transform::Transpose(axes) => format!("transpose{axes:?}"),
        Transform::PadLast(multiple) => format!("pad[{multiple}]"),
    };
    let steps: Vec<String> = packing.steps.iter().map(step).collect();
    format!("{weight}@{}", steps.join("."))
}

/// The weight that is packed.
fn weight<'p>(plan: &'p Plan, inputs: &[BufferId], packing: &Packing) -> Words<&'p str> {
    let id =
        inputs.get(packing.input).ok_or_else(|| format!("input {} is packed, of {}", packing.input, inputs.len()))?;
    match &plan.buffers[plan.root(*id).index()].kind {
        BufferKind::Weight(name) => Ok(name),
        kind => Err(format!("input {} is packed; expected a weight, found {kind:?}", packing.input)),
    }
}

/// All packed forms that a plan's kernels read: by name the weight and the steps.
pub fn uses<'p>(plan: &'p Plan, kernels: &'p Kernels) -> Words<BTreeMap<String, (&'p str, &'p Packing)>> {
    let mut all = BTreeMap::new();
    for (plan, step, compiled) in steps(plan, kernels) {
        let (Step::Run { region, inputs, .. }, Some(compiled)) = (step, compiled) else { continue };
        for packing in compiled.variants.iter().flat_map(|v| &v.implementation.packed) {
            let weight =
                weight(plan, inputs, packing).map_err(|e| format!("region `{}`: {e}", plan.regions[*region].name))?;
            all.insert(name(weight, packing), (weight, packing));
        }
    }
    Ok(all)
}

/// Weights that a plan reads as they are. The others need not be on the device.
pub fn plain<'p>(plan: &'p Plan, kernels: &'p Kernels) -> BTreeSet<&'p str> {
    let mut all: BTreeSet<&str> = handed_out(plan).collect();
    for (plan, step, compiled) in steps(plan, kernels) {
        all.extend(operands(plan, step, compiled));
    }
    all
}

/// The step of a plan that alone reads a weight or a packed form of one, by name, if there is such a step and it launches a region.
pub fn only_readers(plan: &Plan, kernels: &Kernels) -> Words<BTreeMap<String, usize>> {
    let mut readers: BTreeMap<String, BTreeSet<Option<usize>>> = BTreeMap::new();
    handed_out(plan).for_each(|name| {
        readers.entry(name.to_owned()).or_default().insert(None);
    });
    // The steps of the plan itself come first.
    for (at, (inner, step, compiled)) in steps(plan, kernels).into_iter().enumerate() {
        let launch = (at < plan.steps.len() && matches!(step, Step::Run { .. })).then_some(at);
        let mut read = |name: String| readers.entry(name).or_default().insert(launch);
        operands(inner, step, compiled).for_each(|name| {
            read(name.to_owned());
        });
        let (Step::Run { inputs, .. }, Some(compiled)) = (step, compiled) else { continue };
        for packing in compiled.variants.iter().flat_map(|v| &v.implementation.packed) {
            read(name(weight(inner, inputs, packing)?, packing));
        }
    }
    let alone = readers.into_iter().filter(|(_, steps)| steps.len() == 1);
    Ok(alone.filter_map(|(name, steps)| Some((name, steps.into_iter().next()??))).collect())
}

/// Weights that are outputs of a plan.
fn handed_out(plan: &Plan) -> impl Iterator<Item = &str> {
    plan.outputs.iter().filter_map(|(_, id)| weight_of(plan, *id))
}

/// Weights that a step reads as they are, or its nested plans hand out.
fn operands<'p>(plan: &'p Plan, step: &'p Step, compiled: Option<&'p Compiled>) -> impl Iterator<Item = &'p str> {
    let reads = |compiled: &Compiled, i| {
        let mut params = compiled.kernels().flat_map(|(_, kernel, _)| &kernel.launch.params);
        params.any(|param| param.pointer() == Some(Pointer::Input(i)))
    };
    let read = step.operands().into_iter().enumerate();
    let read = read.filter(move |(i, _)| compiled.is_none_or(|compiled| reads(compiled, *i)));
    let own = read.filter_map(|(_, id)| weight_of(plan, id));
    own.chain(step.nested().into_iter().flat_map(|(_, inner)| handed_out(inner)))
}

fn weight_of(plan: &Plan, id: BufferId) -> Option<&str> {
    match &plan.buffers[plan.root(id).index()].kind {
        BufferKind::Weight(name) => Some(name),
        _ => None,
    }
}

/// The steps of a plan and its nested plans, with the kernels of those that launch a region: none on the CPU.
fn steps<'p>(plan: &'p Plan, kernels: &'p Kernels) -> Vec<(&'p Plan, &'p Step, Option<&'p Compiled>)> {
    let own: Vec<_> = plan.regions.iter().map(|region| kernels.get(&region.identity())).collect();
    let compiled = |step: &Step| match step {
        Step::Run { region, .. } => own[*region],
        _ => None,
    };
    let mut all: Vec<_> = plan.steps.iter().map(|step| (plan, step, compiled(step))).collect();
    for (_, inner) in plan.steps.iter().flat_map(Step::nested) {
        all.extend(steps(inner, kernels));
    }
    all
}

/// Where the packed constants of a step lie.
pub fn places(plan: &Plan, inputs: &[BufferId], packed: &[Packing], weights: &WeightPlaces) -> Words<Vec<Place>> {
    let place = |packing: &Packing| {
        let name = name(weight(plan, inputs, packing)?, packing);
        let place = weights.get(&name).and_then(Option::as_deref);
        place.copied().ok_or_else(|| format!("weight `{name}` is not loaded"))
    };
    packed.iter().map(place).collect()
}

/// Checks that every packed form is there, with the shape that its weight and the steps give it.
pub fn check(plan: &Plan, kernels: &Kernels, weights: &BTreeMap<String, Tensor>) -> Words<()> {
    for (name, (weight, packing)) in uses(plan, kernels)? {
        let (from, found) = (weights.get(weight), weights.get(&name));
        let (Some(from), Some(found)) = (from, found) else { return Err(format!("weight `{name}` is missing")) };
        let shape = packing.steps.iter().try_fold(from.shape().to_vec(), |shape, step| step.shape(&shape));
        let shape = shape.map_err(|e| format!("weight `{name}`: it {e}"))?;
        if (from.dtype(), shape.as_slice()) != (found.dtype(), found.shape()) {
            let (expected, dtype) = (from.dtype(), found.dtype());
            return Err(format!("weight `{name}`: expected {expected}{shape:?}, found {dtype}{:?}", found.shape()));
        }
    }
    Ok(())
}

impl Engine {
    /// Makes the packed forms of weights that kernels read, from the weights as they are, and lets go of what nobody reads: part of a build, and due
    /// again when weights or kernels were replaced. An engine without weights has them made when it is given some.
    ///
    /// # Errors
    /// A kernel that wants what cannot be packed: no weight, or one of another rank than its steps are for.
    pub fn pack_weights(&mut self) -> Result<()> {
        if self.stripped {
            return Ok(());
        }
        let mut read = BTreeSet::new();
        for target in &self.targets {
            read.extend(weight_names(&target.plan).into_iter().map(str::to_owned));
            read.extend(uses(&target.plan, &target.kernels).map_err(failed)?.into_keys());
        }
        self.weights.retain(|name, _| read.contains(name));
        for target in &self.targets {
            let uses = uses(&target.plan, &target.kernels);
            for (name, (weight, packing)) in uses.map_err(failed)? {
                let from = self.weights.get(weight).ok_or_else(|| failed(format!("weight `{weight}` is missing")))?;
                let packed = packing.apply(from).map_err(|e| failed(format!("weight `{name}`: it {e}")))?;
                self.weights.insert(name, packed);
            }
        }
        Ok(())
    }
}

fn failed(message: String) -> Error {
    Error::Internal { place: "packing weights".into(), message }
}
