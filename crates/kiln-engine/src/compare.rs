//! Comparing tensors, and finding the first kernel that departs from the reference.

use crate::session::Session;
use crate::values::{Number, numbers};
use crate::{Engine, Result};
use kiln_fuse::{BufferId, BufferKind, Step};
use kiln_graph::Tensor;
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;

/// Integers are compared exactly, whatever their size. Elements agree if `|found - expected| <= atol + rtol * |expected|`; NaN agrees with NaN, infinities with equal infinities.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Relative.
    pub rtol: f64,
    /// Absolute.
    pub atol: f64,
}

/// How two tensors differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Difference {
    /// Elements compared.
    pub elements: usize,
    /// Elements outside the tolerance.
    pub mismatches: usize,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Largest relative difference.
    pub max_rel: f64,
    /// Flat index of the worst element, measured in tolerances.
    pub worst_index: usize,
    /// Its values: expected and found.
    pub worst: (Number, Number),
    /// Set when dtypes or shapes differ, and nothing was compared.
    pub shape_error: Option<String>,
}

impl Difference {
    /// Whether everything is within tolerance.
    pub fn agrees(&self) -> bool {
        self.mismatches == 0 && self.shape_error.is_none()
    }

    /// A number to rank differences by.
    pub fn severity(&self) -> f64 {
        if self.shape_error.is_some() { f64::INFINITY } else { self.max_rel.min(f64::MAX) }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(e) = &self.shape_error {
            return f.write_str(e);
        }
        write!(
            f,
            "{} of {} elements outside the tolerance; max abs {:.3e}, max rel {:.3e}; at {}: expected {}, found {}",
            self.mismatches, self.elements, self.max_abs, self.max_rel, self.worst_index, self.worst.0, self.worst.1
        )
    }
}

impl Tolerance {
    /// Compares element by element.
    pub fn compare(&self, expected: &Tensor, found: &Tensor) -> Difference {
        let mut d = Difference::default();
        if expected.shape() != found.shape() || expected.dtype().is_float() != found.dtype().is_float() {
            d.shape_error = Some(format!(
                "expected {}{:?}, found {}{:?}",
                expected.dtype(),
                expected.shape(),
                found.dtype(),
                found.shape()
            ));
            return d;
        }
        let mut worst = -1.0;
        for (i, pair) in numbers(expected).zip(numbers(found)).enumerate() {
            d.elements += 1;
            let (e, x) = (pair.0.to_f64(), pair.1.to_f64());
            let abs = match pair {
                (Number::Int(e), Number::Int(x)) => (x - e).unsigned_abs() as f64,
                _ if e == x || (e.is_nan() && x.is_nan()) => 0.0,
                _ => (x - e).abs(),
            };
            let abs = if abs.is_nan() { f64::INFINITY } else { abs };
            let rel = if abs == 0.0 { 0.0 } else { abs / e.abs().max(f64::MIN_POSITIVE) };
            let allowed = self.atol + self.rtol * if e.is_finite() { e.abs() } else { 0.0 };
            d.mismatches += usize::from(abs > allowed);
            d.max_abs = d.max_abs.max(abs);
            d.max_rel = d.max_rel.max(rel);
            let measure = abs / allowed.max(f64::MIN_POSITIVE);
            if measure > worst {
                worst = measure;
                d.worst_index = i;
                d.worst = pair;
            }
        }
        d
    }
}

/// A kernel whose results are not those of the reference interpreter on the same inputs.
#[derive(Clone, Debug, Serialize)]
pub struct Departure {
    /// Index of the step.
    pub step: usize,
    /// Name of the region.
    pub region: String,
    /// What it computes.
    pub summary: String,
    /// The kernels that did.
    pub implementation: String,
    /// The model's nodes.
    pub nodes: Vec<String>,
    /// The model's name of the value.
    pub value: String,
    /// By how much.
    pub difference: Difference,
}

/// Runs the model once more, step by step, and checks each kernel against the reference interpreter on the inputs that it really had.
/// Steps inside control flow are checked as one.
pub fn first_departure(
    engine: &Engine,
    session: &mut Session,
    inputs: &[(&str, &Tensor)],
    tolerance: Tolerance,
) -> Result<Option<Departure>> {
    let plan = session.plan().clone();
    let bindings = session.symbols(inputs)?;
    let mut values: HashMap<BufferId, Tensor> = HashMap::new();
    for (i, buffer) in plan.buffers.iter().enumerate() {
        match &buffer.kind {
            BufferKind::Input(name) => {
                if let Some((_, tensor)) = inputs.iter().find(|(n, _)| n == name) {
                    values.insert(BufferId(i as u32), (*tensor).clone());
                }
            }
            BufferKind::Weight(name) => {
                if let Some(tensor) = engine.weights.get(name) {
                    values.insert(BufferId(i as u32), tensor.clone());
                }
            }
            BufferKind::Temp => {}
        }
    }
    let mut found: Option<Departure> = None;
    let mut failure = None;
    session.run_observed(inputs, &mut |seen| {
        if found.is_some() || failure.is_some() {
            return;
        }
        if let Step::Run { region, inputs, nodes, .. } = seen.step {
            let region = &plan.regions[*region];
            let operands = inputs.iter().map(|id| {
                let (tensor, shape) = resolve(&plan, &values, *id, &bindings)?;
                tensor.reshaped(shape)
            });
            let expected = operands.collect::<kiln_graph::Result<Vec<_>>>().and_then(|operands| {
                kiln_graph::interpret_within(&region.graph, &operands, &seen.step.bindings(&bindings))
            });
            match expected {
                Err(e) => failure = Some(e),
                Ok(expected) => {
                    for (expected, (id, tensor)) in expected.iter().zip(&seen.results) {
                        let difference = tolerance.compare(expected, tensor);
                        if !difference.agrees() && found.is_none() {
                            found = Some(Departure {
                                step: seen.index,
                                region: region.name.clone(),
                                summary: region.summary.clone(),
                                implementation: String::new(),
                                nodes: nodes.clone(),
                                value: plan.buffers[id.index()].name.clone(),
                                difference,
                            });
                        }
                    }
                }
            }
        }
        for (id, tensor) in seen.results {
            values.insert(plan.root(id), tensor);
        }
    })?;
    if let Some(found) = &mut found {
        let launches = plan.steps[..found.step].iter().filter(|step| matches!(step, Step::Run { .. })).count();
        found.implementation = session.implementations().into_iter().nth(launches).unwrap_or_default().1;
    }
    match failure {
        Some(e) => Err(e.into()),
        None => Ok(found),
    }
}

fn resolve<'v>(
    plan: &kiln_fuse::Plan,
    values: &'v HashMap<BufferId, Tensor>,
    id: BufferId,
    bindings: &kiln_graph::Bindings,
) -> kiln_graph::Result<(&'v Tensor, Vec<usize>)> {
    let tensor = values.get(&plan.root(id)).ok_or_else(|| {
        kiln_graph::Error::Verify(format!(
            "buffer {} (`{}`) is read before it is written",
            id.0,
            plan.buffers[id.index()].name
        ))
    })?;
    Ok((tensor, plan.buffers[id.index()].ty.concrete(bindings)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use kiln_graph::DType;

    fn tensor(values: &[f32]) -> Tensor {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor::new(DType::F32, vec![values.len()], Bytes::from(data)).unwrap()
    }

    #[test]
    fn special_values_agree_only_with_themselves() {
        let t = Tolerance { rtol: 1e-3, atol: 1e-5 };
        let inf = f32::INFINITY;
        assert!(t.compare(&tensor(&[f32::NAN, inf, -inf, 1.0]), &tensor(&[f32::NAN, inf, -inf, 1.0005])).agrees());
        for (a, b) in [(1.0, f32::NAN), (f32::NAN, 1.0), (inf, -inf), (inf, 3e38), (1.0, inf), (1.0, 1.002)] {
            let d = t.compare(&tensor(&[0.5, a]), &tensor(&[0.5, b]));
            assert_eq!((d.mismatches, d.worst_index), (1, 1), "{a} {b}");
        }
        assert!(!t.compare(&tensor(&[1.0]), &tensor(&[1.0, 2.0])).agrees());
    }
}
