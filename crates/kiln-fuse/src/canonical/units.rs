//! What of a graph its canonical form is made from: each distinct node that an output needs, once.

use crate::egraph::commutes;
use kiln_graph::{CompareOp, Dim, Encoder, Graph, Op, Relation, Requirement, TensorType, ValueId, infer};
use std::collections::{BTreeMap, BTreeSet};

/// A node.
pub(super) struct Unit<'g> {
    pub op: &'g Op,
    /// Unit and number of the result.
    pub operands: Vec<(usize, u32)>,
    pub types: Vec<&'g TensorType>,
    /// Whether the operands may be exchanged.
    pub commutes: bool,
    /// Longest way up to an input or literal.
    pub depth: usize,
    /// Its number among the graph's inputs.
    pub input: Option<usize>,
}

/// Units, operands first, and the symbols in them.
pub(super) struct Units<'g> {
    pub units: Vec<Unit<'g>>,
    /// Unit and number of the result.
    pub outputs: Vec<(usize, u32)>,
    pub symbols: Vec<String>,
    /// One a symbol.
    pub ranges: Vec<(i64, i64)>,
    /// What is known of the symbols, apart from their ranges.
    pub facts: Vec<Requirement>,
}

impl<'g> Units<'g> {
    pub fn of(graph: &'g Graph) -> Units<'g> {
        let mut live = vec![false; graph.nodes.len()];
        let mut stack: Vec<ValueId> = graph.outputs.iter().map(|(_, v)| *v).collect();
        while let Some(v) = stack.pop() {
            if !std::mem::replace(&mut live[graph.value(v).node.index()], true) {
                stack.extend(&graph.producer(v).inputs);
            }
        }
        let mut units: Vec<Unit> = Vec::new();
        let mut unit_of = vec![usize::MAX; graph.nodes.len()];
        let mut known: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        let place = |unit_of: &[usize], v: &ValueId| {
            let value = graph.value(*v);
            (unit_of[value.node.index()], value.result)
        };
        for (i, node) in graph.nodes.iter().enumerate().filter(|(i, _)| live[*i]) {
            let commutes = exchanges(&node.op);
            let operands: Vec<(usize, u32)> = node.inputs.iter().map(|v| place(&unit_of, v)).collect();
            let types: Vec<&TensorType> = node.outputs.iter().map(|v| graph.ty(*v)).collect();
            let input = matches!(node.op, Op::Input { .. })
                .then(|| graph.inputs.iter().position(|v| graph.value(*v).node.index() == i))
                .flatten();
            let depth = operands.iter().map(|(u, _)| units[*u].depth + 1).max().unwrap_or(0);
            let unit = Unit { op: &node.op, operands, types, commutes, depth, input };
            unit_of[i] = match input {
                Some(_) => units.len(),
                None => *known.entry(unit.key()).or_insert(units.len()),
            };
            if unit_of[i] == units.len() {
                units.push(unit);
            }
        }
        let outputs = graph.outputs.iter().map(|(_, v)| place(&unit_of, v)).collect();
        let mut used = BTreeSet::new();
        let mut meet = |d: &Dim| d.symbols(&mut used);
        for unit in &units {
            unit.op.dims(&mut meet);
            unit.types.iter().flat_map(|ty| &ty.shape).for_each(&mut meet);
        }
        let ranges = used.iter().map(|s| graph.symbols.range(s)).collect();
        let facts = facts(graph, &units, &used);
        Units { units, outputs, symbols: used.into_iter().collect(), ranges, facts }
    }

    /// The numbers of the symbols in a dim.
    pub fn symbols_of(&self, dim: &Dim) -> Vec<usize> {
        let mut used = BTreeSet::new();
        dim.symbols(&mut used);
        used.iter().filter_map(|s| self.symbols.binary_search(s).ok()).collect()
    }
}

impl Unit<'_> {
    /// Equal for nodes that are one.
    fn key(&self) -> Vec<u8> {
        let mut to = Encoder::new();
        self.encode(&mut to);
        let mut operands = self.operands.clone();
        if self.commutes {
            operands.sort_unstable();
        }
        for (unit, result) in operands {
            to.number(unit as u64);
            to.number(u64::from(result));
        }
        to.finish()
    }

    /// Its op and types.
    pub fn encode(&self, to: &mut Encoder) {
        to.op(self.op);
        to.number(self.types.len() as u64);
        self.types.iter().for_each(|ty| to.ty(ty));
    }
}

/// Whether the two operands of an op may be exchanged: the value is the same, up to what `docs/numerics.md` leaves open anyway.
fn exchanges(op: &Op) -> bool {
    match op {
        Op::Binary(op) => commutes(*op),
        Op::Compare(op) => matches!(op, CompareOp::Eq | CompareOp::Ne),
        _ => false,
    }
}

/// What kernels may rely on of the symbols: those that are multiples, and what the ops require that does not follow from it.
fn facts(graph: &Graph, units: &[Unit], used: &BTreeSet<String>) -> Vec<Requirement> {
    let own = |requirement: &Requirement| {
        let mut symbols = BTreeSet::new();
        requirement.left.symbols(&mut symbols);
        requirement.right.symbols(&mut symbols);
        symbols.is_subset(used)
    };
    let mut kept = Graph::new("");
    kept.symbols = graph.symbols.clone();
    let multiples =
        graph.constraints.iter().filter(|c| c.requirement.relation == Relation::Multiple && own(&c.requirement));
    kept.constraints = multiples.cloned().collect();
    for unit in units {
        let operands: Vec<&TensorType> =
            unit.operands.iter().map(|&(from, result)| units[from].types[result as usize]).collect();
        // What does not type is for the verifier to say.
        for requirement in infer(unit.op, &operands, &graph.symbols).map(|i| i.constraints).unwrap_or_default() {
            kept.require(requirement, String::new);
        }
    }
    kept.constraints.into_iter().map(|c| c.requirement).collect()
}
