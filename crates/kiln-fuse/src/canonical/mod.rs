//! The canonical form of a region: one graph for all that compute the same in the same way.
//!
//! It does not depend on the order of nodes, operands of commutative ops, inputs and outputs, on nodes that occur twice or that nothing needs, or on names: those of values, of
//! inputs and outputs, of symbols, and of a contraction's labels. What stays: ops with their attributes, literals, types, wiring, and what is known of the symbols that occur:
//! their ranges, which of them are multiples, and the requirements that the ops themselves make. Other constraints of the model do not count.
//!
//! Nodes are written in post-order from the outputs, inputs first in the order in which that meets them, symbols as `s0, s1, ..` likewise. Where structure leaves a choice,
//! [`order`] makes one that any graph of the same structure makes too.

mod order;
mod units;

use crate::plan::{Anchor, Region};
use kiln_graph::{Constraint, Dim, EinsumSpec, Graph, Op, Relation, TensorType, ValueId};
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use units::Units;

/// A region in canonical form, and where its parts were before.
#[derive(Clone, Debug)]
pub struct Canonical {
    /// The region, with its name and summary.
    pub region: Region,
    /// For each of its inputs, which input of the graph that was.
    pub inputs: Vec<usize>,
    /// For each of its outputs, which output of the graph that was.
    pub outputs: Vec<usize>,
    /// For each of its symbols, which symbol of the graph that was.
    pub symbols: BTreeMap<String, String>,
}

impl Region {
    /// The region of a graph with this anchor, in canonical form. Inputs that no result needs are left out. The graph's constraints may say more than concerns it.
    pub fn canonical(graph: &Graph, anchor: Anchor) -> Canonical {
        let form = form(graph);
        let id = RegionId::of(&form.graph);
        let (name, summary) = crate::emit::describe(anchor, form.graph.nodes.iter().map(|n| &n.op));
        let region = Region { name: format!("{name}_{}", id.prefix()), summary, anchor, graph: form.graph };
        Canonical { region, inputs: form.inputs, outputs: form.outputs, symbols: form.symbols }
    }

    /// What this computes, as a key. The same for all regions that are equal in canonical form, which those of plans are in; of another region it is that of the graph
    /// as it stands, order of inputs and outputs included. Name, summary and order of nodes do not count.
    ///
    /// It covers what [`Region::canonical`] keeps, and not: the target, numerics and compiler, the sizes that symbols are bound to, data of operands (not even within
    /// what range indices lie), or where operands are in memory. Whoever keeps something by this key adds what else it depends on.
    pub fn identity(&self) -> RegionId {
        RegionId::of(&self.graph)
    }
}

/// See [`Region::identity`]. In hexadecimal as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RegionId([u8; 32]);

impl RegionId {
    /// BLAKE3 of the structure of a graph: the form of its bytes has a version.
    fn of(graph: &Graph) -> RegionId {
        let mut hasher = blake3::Hasher::new_derive_key("kiln region");
        hasher.update(&graph.structural_bytes());
        RegionId(hasher.finalize().into())
    }

    /// Its first 48 bits: enough to tell the kernels of a program apart by name.
    pub fn prefix(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl Display for RegionId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RegionId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl From<RegionId> for String {
    fn from(id: RegionId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for RegionId {
    type Error = String;

    fn try_from(text: String) -> Result<RegionId, String> {
        match blake3::Hash::from_hex(&text) {
            Ok(hash) => Ok(RegionId(hash.into())),
            Err(e) => Err(format!("`{text}` is no region's identity, 64 hexadecimal digits: {e}")),
        }
    }
}

/// A graph in canonical form, without names.
struct Form {
    graph: Graph,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
    symbols: BTreeMap<String, String>,
}

fn form(graph: &Graph) -> Form {
    let units = Units::of(graph);
    order::least(&units)
}

/// A place in a total order of the units and symbols.
type Rank = u64;

/// The form of `units`, whose ranks decide where structure does not. The ranks of inputs and symbols in the order of the form are those of the second result.
fn write(units: &Units, ranks: &[Rank]) -> (Form, Vec<Rank>) {
    let mut outputs: Vec<usize> = (0..units.outputs.len()).collect();
    outputs.sort_by_key(|&o| {
        let (unit, result) = units.outputs[o];
        (units.units[unit].depth, ranks[unit], result, o)
    });
    let order = post_order(units, ranks, outputs.iter().map(|&o| units.outputs[o].0));
    let is_input = |u: &usize| units.units[*u].input.is_some();
    let (inputs, computed): (Vec<usize>, Vec<usize>) = order.into_iter().partition(is_input);
    let by = first_uses(units, ranks, inputs.iter().chain(&computed));
    let rename: BTreeMap<String, Dim> =
        by.iter().map(|(name, s)| (units.symbols[*s].clone(), Dim::sym(name))).collect();
    let renamed = |ty: &TensorType| {
        let shape = ty.shape.iter().map(|d| d.substitute(&rename)).collect();
        TensorType { dtype: ty.dtype, shape }
    };

    let mut graph = Graph::new("");
    let mut values: Vec<Vec<ValueId>> = vec![Vec::new(); units.units.len()];
    for (i, &u) in inputs.iter().enumerate() {
        let ty = renamed(units.units[u].types[0]);
        let op = Op::Input { name: format!("x{i}"), ty: ty.clone() };
        values[u] = graph.push_node(op, &[], vec![ty], "");
    }
    for &u in &computed {
        let unit = &units.units[u];
        let mut op = unit.op.clone();
        op.dims_mut(&mut |dim| *dim = dim.substitute(&rename));
        if let Op::Contract { spec, .. } = &mut op {
            relabel(spec);
        }
        let operands: Vec<ValueId> =
            operands(units, ranks, u).iter().map(|&(from, result)| values[from][result as usize]).collect();
        let types = unit.types.iter().map(|ty| renamed(ty)).collect();
        values[u] = graph.push_node(op, &operands, types, "");
    }
    for (i, &o) in outputs.iter().enumerate() {
        let (unit, result) = units.outputs[o];
        graph.outputs.push((format!("y{i}"), values[unit][result as usize]));
    }
    for (name, s) in &by {
        let (low, high) = units.ranges[*s];
        graph.symbols.declare(name, low, high);
    }
    graph.constraints = units
        .facts
        .iter()
        .map(|fact| {
            let mut fact = fact.clone();
            fact.left = fact.left.substitute(&rename);
            fact.right = fact.right.substitute(&rename);
            if fact.relation == Relation::Equal && fact.right < fact.left {
                std::mem::swap(&mut fact.left, &mut fact.right);
            }
            Constraint { requirement: fact, why: "the model around this region".to_owned() }
        })
        .collect();
    graph.constraints.sort_by(|a, b| a.requirement.cmp(&b.requirement));
    let vertices = inputs.iter().copied().chain(by.iter().map(|(_, s)| units.units.len() + s));
    let picked = vertices.map(|v| ranks[v]).collect();
    let inputs = inputs.iter().filter_map(|&u| units.units[u].input).collect();
    let symbols = by.into_iter().map(|(name, s)| (name, units.symbols[s].clone())).collect();
    (Form { graph, inputs, outputs, symbols }, picked)
}

/// The operands of a unit in the order of the form: those that may be exchanged are put longest computation first, literals last.
fn operands(units: &Units, ranks: &[Rank], u: usize) -> Vec<(usize, u32)> {
    let unit = &units.units[u];
    let mut operands = unit.operands.clone();
    if unit.commutes {
        operands.sort_by_key(|&(from, result)| {
            let from_unit = &units.units[from];
            let literal = matches!(from_unit.op, Op::Const { .. });
            (literal, std::cmp::Reverse(from_unit.depth), ranks[from], result)
        });
    }
    operands
}

/// Units in post-order from `roots`, operands in their order.
fn post_order(units: &Units, ranks: &[Rank], roots: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut seen = vec![false; units.units.len()];
    let mut order = Vec::with_capacity(units.units.len());
    for root in roots {
        let mut stack = vec![(root, false)];
        while let Some((u, done)) = stack.pop() {
            if done {
                order.push(u);
            } else if !std::mem::replace(&mut seen[u], true) {
                stack.push((u, true));
                stack.extend(operands(units, ranks, u).iter().rev().map(|&(from, _)| (from, false)));
            }
        }
    }
    order
}

/// Names for the symbols in the order in which `units` use them, with their numbers.
fn first_uses<'a>(units: &Units, ranks: &[Rank], order: impl Iterator<Item = &'a usize>) -> Vec<(String, usize)> {
    let mut found: Vec<usize> = Vec::new();
    let mut meet = |dim: &Dim| {
        let mut new: Vec<usize> = units.symbols_of(dim).into_iter().filter(|s| !found.contains(s)).collect();
        new.sort_by_key(|&s| ranks[units.units.len() + s]);
        found.extend(new);
    };
    for &u in order {
        let unit = &units.units[u];
        unit.op.dims(&mut meet);
        unit.types.iter().flat_map(|ty| &ty.shape).for_each(&mut meet);
    }
    found.into_iter().enumerate().map(|(i, s)| (format!("s{i}"), s)).collect()
}

/// Labels in the order in which they first occur.
pub(crate) fn relabel(spec: &mut EinsumSpec) {
    let mut seen: Vec<char> = Vec::new();
    let EinsumSpec { lhs, rhs, out } = spec;
    for label in [lhs, rhs, out].into_iter().flatten() {
        let at = seen.iter().position(|s| s == label).unwrap_or_else(|| {
            seen.push(*label);
            seen.len() - 1
        });
        // Past `z` any letters do.
        let code = if at < 26 { u32::from(b'a') } else { 0x100 } + at as u32;
        *label = char::from_u32(code).unwrap_or(*label);
    }
}
