//! Values of symbols from the shapes of the inputs.

use crate::{Bindings, Dim, Error, Graph, Result};
use std::collections::BTreeMap;

/// Finds the symbols' values from the extents of the inputs, in the order of [`Graph::inputs`].
///
/// A dim that is linear in one unbound symbol gives its value. Every dim, range and constraint is then checked; the errors name the
/// input, what was expected and what was found.
pub fn bind_symbols(graph: &Graph, shapes: &[Vec<usize>]) -> Result<Bindings> {
    bind_within(graph, shapes, &Bindings::new())
}

/// [`bind_symbols`] for a subgraph: the symbols of the graph around it keep their values.
pub fn bind_within(graph: &Graph, shapes: &[Vec<usize>], outer: &Bindings) -> Result<Bindings> {
    if shapes.len() != graph.inputs.len() {
        let message = format!("expected {} inputs, found {}", graph.inputs.len(), shapes.len());
        return Err(Error::Binding { what: format!("graph `{}`", graph.name), message });
    }
    let mut dims: Vec<(String, usize, &Dim, i64)> = Vec::new();
    for (&id, shape) in graph.inputs.iter().zip(shapes) {
        let (name, ty) = (graph.input_name(id), graph.ty(id));
        if ty.rank() != shape.len() {
            let message = format!("expected {ty} of rank {}, found shape {shape:?}", ty.rank());
            return Err(Error::Binding { what: format!("input `{name}`"), message });
        }
        for (axis, (dim, &n)) in ty.shape.iter().zip(shape).enumerate() {
            dims.push((name.clone(), axis, dim, i64::try_from(n).unwrap_or(i64::MAX)));
        }
    }
    let mut bindings = outer.clone();
    let mut sources: BTreeMap<String, String> = BTreeMap::new();
    while let Some((name, axis, symbol, value)) = dims
        .iter()
        .find_map(|(name, axis, dim, n)| solve(dim, *n, &bindings).map(|(symbol, value)| (name, *axis, symbol, value)))
    {
        sources.insert(symbol.clone(), format!("axis {axis} of input `{name}`"));
        bindings.insert(symbol, value);
    }
    for (name, axis, dim, n) in dims {
        let expected = dim.eval(&bindings)?;
        if expected != n {
            let why = if dim.as_const().is_some() { String::new() } else { format!(" (`{dim}`)") };
            let message = format!("axis {axis}: expected {expected}{why}, found {n}");
            return Err(Error::Binding { what: format!("input `{name}`"), message });
        }
    }
    for (symbol, (low, high)) in graph.symbols.iter() {
        if let Some(&v) = bindings.get(symbol)
            && !(low..=high).contains(&v)
        {
            let source = sources.get(symbol).map_or("the graph around it", String::as_str);
            let message = format!("expected {low}..={high}, found {v} from {source}");
            return Err(Error::Binding { what: format!("symbol `{symbol}`"), message });
        }
    }
    for c in &graph.constraints {
        c.check(&bindings)?;
    }
    Ok(bindings)
}

/// The symbol and value that make `dim == n`, if the dim is linear in one unbound symbol and the value is whole.
fn solve(dim: &Dim, n: i64, bindings: &Bindings) -> Option<(String, i64)> {
    let known: BTreeMap<String, Dim> = bindings.iter().map(|(k, &v)| (k.clone(), Dim::from(v))).collect();
    let rest = dim.substitute(&known);
    let mut unknown = None;
    let mut constant = 0;
    for (factors, coefficient) in rest.terms() {
        match factors {
            [] => constant = coefficient,
            [crate::Atom::Sym(s)] if unknown.is_none() => unknown = Some((s.clone(), coefficient)),
            _ => return None,
        }
    }
    let (symbol, coefficient) = unknown?;
    let left = n.checked_sub(constant)?;
    // A remainder means that no value fits; the nearest one lets the later check report expected and found.
    Some((symbol, left.checked_div_euclid(coefficient)?))
}
