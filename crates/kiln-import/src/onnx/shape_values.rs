//! Shape computations: operators on small integer tensors whose elements are dimension expressions.
//!
//! What models write as `Shape -> Gather -> Mul -> Concat -> Reshape` becomes plain symbolic shapes, and none of it is left in the graph.

use super::fold;
use super::lower::{Lower, OpResult};
use super::node::Node;
use super::ops;
use super::tensor::dtype;
use super::value::{DimTensor, Val};
use kiln_graph::{Atom, DType, Dim, Symbols, Tensor};

/// Evaluates a node on dimension expressions; `None` if it is not a shape computation, or not one that stays symbolic.
pub(super) fn fold<'m>(lower: &mut Lower<'m>, node: &Node<'m>) -> OpResult<Option<Vec<Val>>> {
    if !node.inputs.iter().flatten().any(|v| matches!(v, Val::Dims(_)))
        || !matches!(node.proto.domain(), "" | "ai.onnx")
    {
        return Ok(None);
    }
    if let Some(moved) = moved_inputs(node.op()) {
        return structural(lower, node, moved);
    }
    let Some(inputs) = node.inputs.iter().map(|v| v.as_ref()?.as_dims()).collect::<Option<Vec<DimTensor>>>() else {
        return Ok(None);
    };
    let symbols = &lower.graph().symbols;
    let result = match (node.op(), inputs.as_slice()) {
        ("Cast", [x]) => dtype(node.int("to", 0)? as i32).ok().and_then(|to| cast(x, to)),
        ("CastLike", [x, like]) => cast(x, like.dtype),
        ("Floor" | "Ceil" | "Round", [x]) => Some(x.clone()),
        ("Neg", [x]) => unary(x, |d| Some(-d.clone())),
        ("Abs", [x]) => unary(x, |d| (d.bounds(symbols).0 >= 0).then(|| d.clone())),
        ("Relu", [x]) => unary(x, |d| Some(larger(d, &Dim::from(0), symbols))),
        ("Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual", [a, b]) => {
            return Ok(compare(node.op(), a, b, symbols).map(|t| vec![Val::constant(t)]));
        }
        ("Add" | "Sub" | "Mul" | "Div" | "Mod", [a, b]) => {
            binary(a, b, |x, y| arithmetic(node.op(), a.dtype, x, y, symbols))
        }
        ("Min" | "Max", [first, rest @ ..]) => rest.iter().try_fold(first.clone(), |a, b| {
            let min = node.op() == "Min";
            binary(&a, b, |x, y| Some(if min { smaller(x, y, symbols) } else { larger(x, y, symbols) }))
        }),
        ("ReduceProd" | "ReduceSum" | "ReduceMax" | "ReduceMin", [x, ..]) if x.shape.len() == 1 => {
            let keep = node.flag("keepdims", true)?;
            reduce(node.op(), x, keep, symbols)
        }
        _ => None,
    };
    Ok(result.filter(|t| t.dims.iter().all(|d| weight(d) <= MAX_WEIGHT)).map(|t| vec![Val::dims(t)]))
}

/// Largest expression, in atoms: products of sums grow exponentially, and no real model comes near.
const MAX_WEIGHT: usize = 512;

fn weight(dim: &Dim) -> usize {
    let atom = |a: &Atom| match a {
        Atom::Sym(_) => 1,
        Atom::FloorDiv(a, b) | Atom::Min(a, b) | Atom::Max(a, b) | Atom::Broadcast(a, b) => 1 + weight(a) + weight(b),
    };
    dim.terms().map(|(atoms, _)| 1 + atoms.iter().map(atom).sum::<usize>()).sum()
}

/// Inputs whose elements an operator moves without looking at them.
fn moved_inputs(op: &str) -> Option<std::ops::Range<usize>> {
    Some(match op {
        "Identity" | "Squeeze" | "Unsqueeze" | "Reshape" | "Flatten" | "Transpose" | "Gather" | "GatherElements"
        | "GatherND" | "Slice" | "Split" | "Expand" | "Tile" => 0..1,
        "Where" => 1..3,
        "Concat" => 0..usize::MAX,
        _ => return None,
    })
}

/// Runs an operator that only moves elements on the numbers of the elements, and picks the expressions they name.
fn structural<'m>(lower: &mut Lower<'m>, node: &Node<'m>, moved: std::ops::Range<usize>) -> OpResult<Option<Vec<Val>>> {
    let Some(handler) = ops::lookup("", node.op()) else { return Ok(None) };
    let mut pool = Vec::new();
    let mut dtype = DType::I64;
    let mut inputs = node.inputs.clone();
    for (i, input) in inputs.iter_mut().enumerate() {
        let Some(val) = input else { continue };
        if !moved.contains(&i) {
            if val.as_const().is_none() {
                return Ok(None);
            }
            continue;
        }
        let Some(d) = val.as_dims() else { return Ok(None) };
        let numbers: Vec<i64> = (pool.len() as i64..).take(d.dims.len()).collect();
        dtype = d.dtype;
        pool.extend(d.dims);
        *val = Val::constant(Tensor::from_slice(&d.shape, &numbers)?);
    }
    let numbered = Node { proto: node.proto, attributes: node.attributes.clone(), inputs, version: node.version };
    let Some(vals) = fold::constants(lower, &numbered, handler)? else { return Ok(None) };
    let pick = |val: &Val| {
        let numbers = val.as_const()?;
        let dims = numbers.to_i64_vec()?.into_iter().map(|n| pool.get(usize::try_from(n).ok()?).cloned());
        Some(Val::dims(DimTensor { dtype, shape: numbers.shape().to_vec(), dims: dims.collect::<Option<_>>()? }))
    };
    Ok(vals.iter().map(pick).collect())
}

fn cast(x: &DimTensor, to: DType) -> Option<DimTensor> {
    (to != DType::Bool).then(|| DimTensor { dtype: to, ..x.clone() })
}

fn unary(x: &DimTensor, f: impl Fn(&Dim) -> Option<Dim>) -> Option<DimTensor> {
    Some(DimTensor { dims: x.dims.iter().map(f).collect::<Option<_>>()?, ..x.clone() })
}

/// Elementwise with broadcast of equal shapes or of one element.
fn zip<T>(a: &DimTensor, b: &DimTensor, f: impl Fn(&Dim, &Dim) -> Option<T>) -> Option<(Vec<usize>, Vec<T>)> {
    let shape = if a.shape == b.shape || b.dims.len() == 1 && b.shape.len() <= a.shape.len() {
        a.shape.clone()
    } else if a.dims.len() == 1 && a.shape.len() <= b.shape.len() {
        b.shape.clone()
    } else {
        return None;
    };
    let n = shape.iter().product();
    let at = |t: &'_ DimTensor, i: usize| if t.dims.len() == 1 { 0 } else { i };
    let values = (0..n).map(|i| f(&a.dims[at(a, i)], &b.dims[at(b, i)])).collect::<Option<_>>()?;
    Some((shape, values))
}

fn binary(a: &DimTensor, b: &DimTensor, f: impl Fn(&Dim, &Dim) -> Option<Dim>) -> Option<DimTensor> {
    let (shape, dims) = zip(a, b, f)?;
    Some(DimTensor { dtype: a.dtype, shape, dims })
}

fn arithmetic(op: &str, dtype: DType, a: &Dim, b: &Dim, symbols: &Symbols) -> Option<Dim> {
    if weight(a).saturating_mul(weight(b)) > MAX_WEIGHT * MAX_WEIGHT {
        return None;
    }
    Some(match op {
        "Add" => a.clone() + b.clone(),
        "Sub" => a.clone() - b.clone(),
        "Mul" => a.clone() * b.clone(),
        // Truncating, flooring and Python's division agree where nothing is negative; floats must divide exactly.
        _ if a.bounds(symbols).0 < 0 || b.bounds(symbols).0 < 1 => return None,
        "Div" if dtype.is_float() => a.exact_div(b)?,
        "Div" => a.floor_div(b),
        _ => a.clone() - a.floor_div(b) * b.clone(),
    })
}

/// The larger of two, decided by the ranges of the symbols where possible.
pub(super) fn larger(a: &Dim, b: &Dim, symbols: &Symbols) -> Dim {
    match (a.clone() - b.clone()).bounds(symbols) {
        (0.., _) => a.clone(),
        (_, ..=0) => b.clone(),
        _ => a.maximum(b),
    }
}

/// The smaller of two, decided by the ranges of the symbols where possible.
pub(super) fn smaller(a: &Dim, b: &Dim, symbols: &Symbols) -> Dim {
    match (a.clone() - b.clone()).bounds(symbols) {
        (0.., _) => b.clone(),
        (_, ..=0) => a.clone(),
        _ => a.minimum(b),
    }
}

/// A comparison whose outcome is the same for every value of the symbols.
fn compare(op: &str, a: &DimTensor, b: &DimTensor, symbols: &Symbols) -> Option<Tensor> {
    let decide = |x: &Dim, y: &Dim| {
        let (low, high) = (x.clone() - y.clone()).bounds(symbols);
        let certain = |yes: bool, no: bool| (yes || no).then_some(yes);
        match op {
            "Equal" => certain(low == 0 && high == 0, low > 0 || high < 0),
            "Less" => certain(high < 0, low >= 0),
            "LessOrEqual" => certain(high <= 0, low > 0),
            "Greater" => certain(low > 0, high <= 0),
            _ => certain(low >= 0, high < 0),
        }
    };
    let (shape, values) = zip(a, b, decide)?;
    Tensor::from_slice(&shape, &values).ok()
}

fn reduce(op: &str, x: &DimTensor, keep: bool, symbols: &Symbols) -> Option<DimTensor> {
    let (first, rest) = x.dims.split_first()?;
    let dim = rest.iter().try_fold(first.clone(), |a, b| match op {
        "ReduceProd" => arithmetic("Mul", x.dtype, &a, b, symbols),
        "ReduceSum" => arithmetic("Add", x.dtype, &a, b, symbols),
        "ReduceMax" => Some(larger(&a, b, symbols)),
        _ => Some(smaller(&a, b, symbols)),
    })?;
    Some(DimTensor { dtype: x.dtype, shape: if keep { vec![1] } else { Vec::new() }, dims: vec![dim] })
}
