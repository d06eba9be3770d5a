//! Invariants of a plan that was read from a file: what the scheduler and the devices take for granted.

mod kernels;

use crate::engine::{Compiled, Port};
use kiln_fuse::{BufferId, BufferKind, Plan, Region, RegionId, Step};
use kiln_graph::{Constraint, Dim, Requirement, Symbols, Tensor, TensorType};
use std::collections::{BTreeMap, BTreeSet};

type Check = Result<(), String>;

/// Checks indices, arities and types of a plan, and that GPU targets have the code of every region, and no other.
pub fn plan(plan: &Plan, target: &str, kernels: &BTreeMap<RegionId, Compiled>) -> Check {
    check(plan)?;
    if target == "cpu" {
        return Ok(());
    }
    let regions = regions(plan);
    if let Some(other) = kernels.keys().find(|id| regions.iter().all(|(region, _)| region != *id)) {
        return Err(format!("target {target} has kernels of a region {other}, which the plan lacks"));
    }
    regions.into_iter().try_for_each(|(id, region)| match kernels.get(&id) {
        Some(compiled) => kernels::region(region, compiled, target),
        None => Err(format!("target {target} lacks the kernels of region `{}`, {id}", region.name)),
    })
}

/// Checks that a plan takes and gives what the engine says.
pub fn signature(plan: &Plan, inputs: &[Port], outputs: &[Port]) -> Check {
    same("inputs", inputs.len(), plan.inputs.len())?;
    same("outputs", outputs.len(), plan.outputs.len())?;
    let buffer = |id: BufferId| &plan.buffers[id.index()];
    let input = |&id: &BufferId| match &buffer(id).kind {
        BufferKind::Input(name) => Ok((name, &buffer(id).ty)),
        kind => Err(format!("buffer {} is an input, and is made as {kind:?}", id.0)),
    };
    let ins = plan.inputs.iter().map(input).collect::<Result<Vec<_>, _>>()?;
    let outs = plan.outputs.iter().map(|(name, id)| (name, &buffer(*id).ty));
    for (port, (name, ty)) in inputs.iter().zip(ins).chain(outputs.iter().zip(outs)) {
        if port.name != *name || !alike(&port.ty, ty) {
            return Err(format!("the header has `{}` {}, the plan `{name}` {ty}", port.name, port.ty));
        }
    }
    Ok(())
}

/// Equal dtypes and ranks. Equal extents may be written differently; whether they are equal is seen when shapes are bound.
fn alike(a: &TensorType, b: &TensorType) -> bool {
    a.dtype == b.dtype && a.rank() == b.rank()
}

/// Checks that every symbol has a range that holds an extent.
pub fn symbols(symbols: &Symbols) -> Check {
    match symbols.iter().find(|(_, (min, max))| *min < 0 || min > max) {
        Some((name, (min, max))) => Err(format!("symbol `{name}` has the range {min}..={max}, which holds no extent")),
        None => Ok(()),
    }
}

/// The distinct regions of a plan, then those of its nested plans in step order.
pub fn regions(plan: &Plan) -> Vec<(RegionId, &Region)> {
    let mut found = plan.regions.iter().map(|region| (region.identity(), region)).collect::<Vec<_>>();
    found.extend(plan.steps.iter().flat_map(Step::nested).flat_map(|(_, inner)| regions(inner)));
    let mut seen = BTreeSet::new();
    found.retain(|(id, _)| seen.insert(*id));
    found
}

/// Names of the weights that a plan and its nested plans use.
pub fn weight_names(plan: &Plan) -> BTreeSet<&str> {
    let own = plan.buffers.iter().filter_map(|b| match &b.kind {
        BufferKind::Weight(name) => Some(name.as_str()),
        _ => None,
    });
    own.chain(plan.steps.iter().flat_map(Step::nested).flat_map(|(_, inner)| weight_names(inner))).collect()
}

/// Checks that every weight buffer has data of its type.
pub fn weights(plan: &Plan, weights: &BTreeMap<String, Tensor>) -> Check {
    for buffer in &plan.buffers {
        // An alias of a weight is the same bytes under another shape.
        if let (BufferKind::Weight(name), None) = (&buffer.kind, buffer.alias_of) {
            let tensor = weights.get(name).ok_or_else(|| format!("weight `{name}` is missing"))?;
            if tensor.dtype() != buffer.ty.dtype || buffer.ty.const_shape().as_deref() != Some(tensor.shape()) {
                return Err(format!(
                    "weight `{name}`: expected {}, found {}{:?}",
                    buffer.ty,
                    tensor.dtype(),
                    tensor.shape()
                ));
            }
        }
    }
    plan.steps.iter().flat_map(Step::nested).try_for_each(|(_, p)| self::weights(p, weights))
}

fn check(plan: &Plan) -> Check {
    symbols(&plan.symbols)?;
    let buffers = plan.buffers.len();
    let known = |id: BufferId| match id.index() < buffers {
        true => Ok(()),
        false => Err(format!("buffer {} of {buffers} is used", id.0)),
    };
    for (i, buffer) in plan.buffers.iter().enumerate() {
        // Pointing to earlier buffers only keeps chains finite.
        if let Some(target) = buffer.alias_of
            && target.index() >= i
        {
            return Err(format!("buffer {i} is an alias of the later buffer {}", target.0));
        }
    }
    plan.inputs.iter().try_for_each(|&id| known(id))?;
    plan.outputs.iter().try_for_each(|(_, id)| known(*id))?;
    for region in &plan.regions {
        kiln_graph::verify(&region.graph).map_err(|e| format!("region `{}`: {e}", region.name))?;
    }
    for step in &plan.steps {
        step.operands().into_iter().chain(step.results().iter().copied()).try_for_each(known)?;
        match step {
            Step::Run { region, inputs, outputs, symbols, .. } => {
                let region = plan.regions.get(*region).ok_or_else(|| format!("region {region} is used"))?;
                symbols_fit(region, plan, symbols).map_err(|e| format!("region `{}`: {e}", region.name))?;
                operands_fit(&region.name, plan, inputs, outputs, &region.graph)?;
            }
            Step::If { then_plan, else_plan, captures, outputs, .. } => {
                for inner in [then_plan, else_plan] {
                    same("an If's captures", captures.len(), inner.inputs.len())?;
                    same("an If's outputs", outputs.len(), inner.outputs.len())?;
                    check(inner)?;
                }
            }
            Step::Loop { body, carried, captures, outputs, .. } => {
                same("a Loop's inputs", 2 + carried.len() + captures.len(), body.inputs.len())?;
                same("a Loop's outputs", 1 + outputs.len(), body.outputs.len())?;
                if outputs.len() < carried.len() {
                    return Err("a Loop has fewer outputs than carried values".into());
                }
                check(body)?;
            }
        }
    }
    Ok(())
}

/// Checks that what a region takes for granted of its symbols holds for those of the plan that stand for them: what binding the plan checks.
fn symbols_fit(region: &Region, plan: &Plan, symbols: &BTreeMap<String, String>) -> Check {
    for (own, (low, high)) in region.graph.symbols.iter() {
        let outer = symbols.get(own).ok_or_else(|| format!("no symbol of the plan stands for `{own}`"))?;
        let found = plan.symbols.range(outer);
        if found.0 < low || found.1 > high {
            return Err(format!(
                "`{own}` is {low}..={high}, and `{outer}`, which stands for it, {}..={}",
                found.0, found.1
            ));
        }
    }
    let by: BTreeMap<String, Dim> = symbols.iter().map(|(own, outer)| (own.clone(), Dim::sym(outer.clone()))).collect();
    for Constraint { requirement: Requirement { left, relation, right }, .. } in &region.graph.constraints {
        let here = Requirement { left: left.substitute(&by), relation: *relation, right: right.substitute(&by) };
        if !here.follows_from_all(&plan.constraints, &plan.symbols) {
            return Err(format!("relies on {here}, which the plan does not check"));
        }
    }
    Ok(())
}

fn operands_fit(
    name: &str,
    plan: &Plan,
    inputs: &[BufferId],
    outputs: &[BufferId],
    graph: &kiln_graph::Graph,
) -> Check {
    same(&format!("inputs of `{name}`"), graph.inputs.len(), inputs.len())?;
    same(&format!("outputs of `{name}`"), graph.outputs.len(), outputs.len())?;
    let values = graph.inputs.iter().chain(graph.outputs.iter().map(|(_, id)| id));
    for (&value, id) in values.zip(inputs.iter().chain(outputs)) {
        let (expected, found) = (graph.ty(value), &plan.buffers[id.index()].ty);
        if !alike(expected, found) {
            return Err(format!("`{name}` works on {expected}, and buffer {} is {found}", id.0));
        }
    }
    Ok(())
}

fn same(what: &str, expected: usize, found: usize) -> Check {
    if expected == found { Ok(()) } else { Err(format!("{what}: expected {expected}, found {found}")) }
}
